"""Finds the supervisor that a verb speaks to.

Only the name is read from the configuration file, without checking the rest: a file that somebody is just editing
must not keep `instar stop` from stopping.
"""

from __future__ import annotations

import contextlib
import glob
import os
import tomllib
from pathlib import Path

from instar.control.client import Client
from instar.errors import ConfigError

DEFAULT_FILE = Path("instar.toml")
DEFAULT_NAME = "main"
#: State directories of supervisors that root has started.
_SYSTEM = Path("/run/instar")


def find_client(config: Path | None, name: str | None, state_dir: Path | None) -> Client:
    """A client for the supervisor; it connects at the first request, which raises NoSupervisorError."""
    return Client(find_state(config, name, state_dir))


def find_state(config: Path | None, name: str | None, state_dir: Path | None) -> Path:
    """The state directory: as told, else as the name says."""
    if state_dir is not None:
        return state_dir.absolute()
    name = name or name_in(config)
    state = _occupied(state_of(name))
    # A member of `[app] deploy_group` speaks to a supervisor that root has started.
    system = _SYSTEM / name
    return system if not _has_socket(state) and not _told() and _has_socket(system) else state


def _occupied(root: Path) -> Path:
    """The directory, or the one beside it (`NAME.2` …) where a supervisor of that name is: zerglings of one file."""
    if not _has_socket(root) and root.parent.is_dir():
        beside = [path for path in root.parent.glob(f"{glob.escape(root.name)}.[0-9]*") if _has_socket(path)]
        return min(beside, default=root)
    return root


def _has_socket(root: Path) -> bool:
    for name in ("control", "deploy"):
        with contextlib.suppress(PermissionError):
            if (root / name / "control.sock").exists():
                return True
    return False


def _told() -> bool:
    return bool(os.environ.get("INSTAR_STATE_DIR"))


def state_of(name: str) -> Path:
    """The state directory of the application with this name."""
    if told := os.environ.get("INSTAR_STATE_DIR"):
        return Path(told).absolute()
    if os.geteuid() == 0:
        return _SYSTEM / name
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "instar" / name
    return Path.home() / ".local/state/instar" / name


def name_in(config: Path | None) -> str:
    """`app.name` of the file. Without `-c`, a missing ./instar.toml means the default name."""
    path = config or DEFAULT_FILE
    try:
        app = tomllib.loads(path.read_text()).get("app", {})
    except FileNotFoundError:
        if config is None:
            return DEFAULT_NAME
        raise ConfigError(f"cannot read {path}: there is no such file; name another with -c, or use --name") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot find the application's name in {path}: {error}; repair it or use --name") from error
    name = app.get("name", DEFAULT_NAME) if isinstance(app, dict) else DEFAULT_NAME
    if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
        raise ConfigError(f"cannot use app.name of {path}: it must be a string without '/'; repair it or use --name")
    return name
