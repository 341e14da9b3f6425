"""What the Emperor has to know of a vassal before it starts it: which program runs it, and what it waits for."""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from instar.config.formats.uwsgi import Surroundings, UwsgiConfig, read
from instar.errors import ConfigError
from instar.uwsgi.emperor.scan import Found
from instar.uwsgi.emperor.settings import EXTENSIONS, NATIVE, EmperorSettings

#: `# instar: uwsgi=/srv/old/bin/uwsgi probe=/healthz`, in whatever the format's comments look like.
_REMARK = re.compile(r"^\s*(?:#|;|<!--)\s*instar:\s*(.+?)\s*(?:-->)?\s*$", re.MULTILINE)
#: By the end of the name, as uWSGI's Emperor passes it on.
_FLAGS = {".xml": "--xml", ".ini": "--ini", ".yml": "--yaml", ".yaml": "--yaml", ".js": "--json", ".json": "--json"}
#: Options that load an application.
_APPLICATION = ("module", "wsgi", "wsgi-file", "file", "mount", "pump", "paste", "ini-paste", "mule", "mules", "eval")


class Kind(enum.StrEnum):
    """Who runs a vassal."""

    #: `instar run -c FILE`.
    NATIVE = "native"
    #: `instar uwsgi --yaml FILE`.
    INSTAR = "instar"
    #: The real uWSGI.
    UWSGI = "uwsgi"


@dataclasses.dataclass(frozen=True)
class VassalFile:
    """A file as it was when the vassal was started."""

    found: Found
    kind: Kind
    argv: tuple[str, ...]
    #: Name of the application, by which its supervisor is found.
    app: str
    #: Sockets of the pools that it hands out, and of those that it needs.
    pools: tuple[Path, ...] = ()
    zerg: tuple[Path, ...] = ()
    #: What `# instar: KEY=VALUE` lines say.
    remarks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    options: UwsgiConfig | None = None
    #: Why it couldn't be read; it is started all the same, and says it better.
    problem: str = ""


def understand(found: Found, settings: EmperorSettings, *, wrapper_is_uwsgi: bool) -> VassalFile:
    """Read a vassal's file as far as the Emperor needs it; never fails."""
    if found.name.endswith(NATIVE):
        return _native(found)
    remarks = _remarks(found.path)
    options, problem = None, ""
    try:
        options = read(found.name, kind=_format(found.name), surroundings=Surroundings(cwd=settings.directory))
    except (ConfigError, OSError) as error:
        problem = str(error)
    kind, program = _program(options, remarks, settings, wrapper_is_uwsgi)
    return VassalFile(
        found,
        kind,
        (*program, *settings.before, _flag(found.name), found.name, *settings.after),
        app=Path(found.name).stem,
        pools=_pools(options, settings.directory),
        zerg=_paths(options, "zerg", settings.directory),
        remarks=remarks,
        options=options,
        problem=problem,
    )


def _native(found: Found) -> VassalFile:
    problem, name = "", "main"
    try:
        app = tomllib.loads(found.path.read_text()).get("app", {})
        name = str(app.get("name", name)) if isinstance(app, dict) else name
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problem = f"cannot read {found.name}: {error}"
    return VassalFile(found, Kind.NATIVE, (*_instar(), "run", "-c", found.name), app=name, problem=problem)


def _instar() -> tuple[str, ...]:
    # Not from the vassals' folder, which is the current one (-P).
    return (sys.executable, "-P", "-m", "instar")


def _program(
    options: UwsgiConfig | None, remarks: Mapping[str, str], settings: EmperorSettings, wrapper_is_uwsgi: bool
) -> tuple[Kind, tuple[str, ...]]:
    told = remarks.get("uwsgi", "")
    if told and told != "instar":
        return Kind.UWSGI, (told,)
    if wrapper_is_uwsgi and not told and not _only_pool(options):
        return Kind.UWSGI, (settings.wrapper,)
    if settings.wrapper and not wrapper_is_uwsgi:
        return Kind.INSTAR, (settings.wrapper,)
    return Kind.INSTAR, (*_instar(), "uwsgi")


def _only_pool(options: UwsgiConfig | None) -> bool:
    """A pool's listeners outlive it only under instar, so it doesn't stay on uWSGI just because its zerglings do."""
    return options is not None and options.has("zerg-pool") and not options.has(*_APPLICATION)


def _remarks(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return {}
    pairs = (item.partition("=") for line in _REMARK.findall(text) for item in line.split())
    return {key: value for key, _, value in pairs}


def _flag(name: str) -> str:
    return _FLAGS.get(Path(name).suffix, "--config") if name.endswith(EXTENSIONS) else "--config"


def _format(name: str) -> str | None:
    return _FLAGS[Path(name).suffix].removeprefix("--") if name.endswith(EXTENSIONS) else None


def _paths(options: UwsgiConfig | None, key: str, directory: Path) -> tuple[Path, ...]:
    if options is None:
        return ()
    return tuple(_from(options, directory) / item.value for item in options.all(key))


def _pools(options: UwsgiConfig | None, directory: Path) -> tuple[Path, ...]:
    if options is None:
        return ()
    sockets = [item.value.partition(":")[0] for item in options.all("zerg-pool")]
    sockets += [item.value for item in options.all("zerg-server")]
    return tuple(_from(options, directory) / socket for socket in sockets)


def _from(options: UwsgiConfig, directory: Path) -> Path:
    """Where relative names of sockets begin: uWSGI opens them after `chdir`."""
    chdir = options.last("chdir")
    return directory / chdir.value if chdir else directory
