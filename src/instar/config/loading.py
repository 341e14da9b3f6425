"""Reads a configuration: file, target and options of the command line."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from instar.config.address import absolute, parse_address
from instar.config.checks import problems
from instar.config.here import current_folder
from instar.config.messages import sentence
from instar.config.model import Config
from instar.errors import ConfigError

#: Looked for in the current folder.
DEFAULT_FILE = Path("instar.toml")


def load(
    path: Path | None,
    *,
    target: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Config:
    """The checked configuration.

    `path` None: `./instar.toml` when there is one, else the defaults for `target`. `target` replaces `[app] target`.
    `overrides` has dotted keys (`{"web.workers": 4, "app.chdir": "x", "state_dir": "y"}`); those that are None or
    empty lists are left out; relative paths in them start from the current folder, as a shell's user expects.
    Raises ConfigError with one sentence a line for everything that is wrong.
    """
    file = _find(path, target)
    raw = _read(file) if file else {}
    given = _overrides(overrides or {}, target)
    state = given.pop("state_dir", None)
    for key, value in given.items():
        put(raw, key.split("."), value)
    config = _validate(raw, file, set(given))
    if state is not None:
        config._state_dir = current_folder() / state
    return config


def checked(raw: dict[str, Any], *, base: Path, name: str) -> Config:
    """The configuration that `raw`, in the layout of `instar.toml`, describes: for readers of other formats.

    Relative paths start from `base`; `name` is what the messages call it. Raises ConfigError.
    """
    try:
        config = Config.model_validate(raw, context={"base": base})
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise ConfigError("\n".join(f"cannot use {name}: {sentence(detail, Config)}" for detail in details)) from None
    if found := problems(config):
        raise ConfigError("\n".join(f"cannot use {name}: {problem}" for problem in found))
    return config


def _find(path: Path | None, target: str | None) -> Path | None:
    if path is not None:
        return path
    if (current_folder() / DEFAULT_FILE).exists():
        return DEFAULT_FILE
    if target:
        return None
    raise ConfigError(
        f"cannot read {DEFAULT_FILE}: there is none in {current_folder()}; write one with `instar init`, name one with "
        "-c FILE, or name the application, as in `instar run module:app`"
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        with (current_folder() / file).open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        raise ConfigError(f"cannot read {file}: no such file; write one with `instar init`") from None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"cannot read {file}: it is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        text = str(error)
        raise ConfigError(f"cannot read {file}: {text[:1].lower()}{text[1:]}") from None


def _overrides(overrides: Mapping[str, Any], target: str | None) -> dict[str, Any]:
    given = {key: value for key, value in overrides.items() if value is not None and value not in ([], ())}
    if target:
        given["app.target"] = target
    if "app.chdir" in given:
        given["app.chdir"] = str(current_folder() / given["app.chdir"])
    if "web.bind" in given:
        binds = given["web.bind"]
        given["web.bind"] = [str(_from_cwd(bind)) for bind in ([binds] if isinstance(binds, str) else binds)]
    return given


def _from_cwd(bind: str) -> str:
    return str(absolute(parse_address(bind), current_folder()))


def put(raw: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set one key in nested tables."""
    *tables, last = keys
    for name in tables:
        inner = raw.setdefault(name, {})
        if not isinstance(inner, dict):
            return  # a malformed table; the validation will say so
        raw = inner
    raw[last] = copy.deepcopy(value)


def _validate(raw: dict[str, Any], file: Path | None, given: set[str]) -> Config:
    source = current_folder() / file if file else None
    context = {"base": source.parent if source else current_folder()}
    notes = _take_in_job_conf(raw, context["base"])
    try:
        config = Config.model_validate(raw, context=context)
    except ValidationError as error:
        # A message's `from` would print the input, which may hold secrets.
        details = error.errors(include_url=False)
        lines = [f"{_origin(detail['loc'], file, given)}: {sentence(detail, Config)}" for detail in details]
        raise ConfigError("\n".join(lines)) from None
    config._source, config._notes = source, notes
    if found := problems(config):
        name = file or "the command line"
        raise ConfigError("\n".join(f"cannot use {name}: {problem}" for problem in found))
    return config


def _take_in_job_conf(raw: dict[str, Any], base: Path) -> tuple[str, ...]:
    """Put what `[jobs] config` names below what stands in the table itself; returns what is to be told of the file."""
    jobs = raw.get("jobs")
    path = jobs.get("config") if isinstance(jobs, dict) else None
    if not isinstance(path, str) or not path:
        return ()
    from instar.config.formats.job_conf import read_job_conf

    found = read_job_conf(base / Path(path).expanduser())
    raw["jobs"] = _over(found.table, jobs)
    return found.warnings


def _over(below: Any, above: Any) -> Any:
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {key: _over(below[key], value) if key in below else value for key, value in above.items()}


def _origin(location: tuple[int | str, ...], file: Path | None, given: set[str]) -> str:
    key = ".".join(str(part) for part in location[:2])
    if key in given or file is None:
        return "cannot use the command line"
    return f"cannot read {file}"
