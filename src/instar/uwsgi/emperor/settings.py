"""What the command line says about the Emperor itself."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from instar.config.formats.uwsgi import Option, UwsgiConfig
from instar.errors import ConfigError

#: Files that uWSGI's Emperor takes as vassals, and instar's own.
EXTENSIONS = (".xml", ".ini", ".yml", ".yaml", ".js", ".json")
NATIVE = ".toml"

#: Options that change which vassals run, as whom, or how: they can't be passed over in silence.
_REFUSED = {
    "emperor-tyrant": "run one Emperor for each user, or set uid and gid in the vassals",
    "emperor-broodlord": "give the vassal more workers",
    "emperor-on-demand-extension": "start the vassal at once",
    "emperor-on-demand-ext": "start the vassal at once",
    "emperor-on-demand-directory": "start the vassal at once",
    "emperor-on-demand-dir": "start the vassal at once",
    "emperor-on-demand-exec": "start the vassal at once",
    "emperor-magic-exec": "write the vassal's configuration to its file",
    "emperor-use-clone": "start the Emperor in the namespaces that it needs",
    "emperor-cap": "set the capabilities in the service that starts the Emperor",
    "vassals-cap": "set the capabilities in the service that starts the Emperor",
    "vassal-cap": "set the capabilities in the service that starts the Emperor",
}


@dataclasses.dataclass(frozen=True)
class EmperorSettings:
    """Times in seconds. The defaults are uWSGI's."""

    directory: Path
    #: Program that stands in for uWSGI; empty: instar itself.
    wrapper: str = ""
    #: Scan the directory this often.
    freq: float = 3.0
    #: A vassal that fails before it is loyal waits so much longer each time, up to `max_throttle`.
    throttle: float = 1.0
    max_throttle: float = 180.0
    #: SIGKILL for a vassal that sent heartbeats and has stopped doing so for this long.
    heartbeat: float = 30.0
    #: SIGKILL for a vassal that was told to stop, or closed its side, and lives on.
    curse_tolerance: float = 30.0
    #: The same at the end of the Emperor.
    mercy: float = 30.0
    graceful_shutdown: bool = False
    no_blacklist: bool = False
    nofollow: bool = False
    extra_extensions: tuple[str, ...] = ()
    pidfile: Path | None = None
    #: Address of the stats server.
    stats: str = ""
    start_hook: str = ""
    stop_hook: str = ""
    #: Arguments before and after `--yaml NAME`.
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: UwsgiConfig, cwd: Path | None = None) -> EmperorSettings:
        """Read the option list. Raises ConfigError."""
        _refuse(options)
        pidfile = _text(options, "emperor-pidfile")
        return cls(
            directory=_directory(options, cwd or Path.cwd()),
            wrapper=_wrapper(options),
            freq=max(0.1, _number(options, "emperor-freq", 3.0)),
            throttle=_number(options, "emperor-throttle", 1000.0) / 1000,
            max_throttle=_number(options, "emperor-max-throttle", 180_000.0) / 1000,
            heartbeat=_number(options, "emperor-required-heartbeat", 30.0),
            curse_tolerance=_number(options, "emperor-curse-tolerance", 30.0),
            mercy=_number(options, "reload-mercy", 30.0),
            graceful_shutdown=options.flag("emperor-graceful-shutdown"),
            no_blacklist=options.flag("emperor-no-blacklist"),
            nofollow=options.flag("emperor-nofollow"),
            extra_extensions=tuple(item.value for item in options.all("emperor-extra-extension", "emperor-extra-ext")),
            pidfile=Path(pidfile) if pidfile else None,
            stats=_text(options, "emperor-stats", "emperor-stats-server"),
            start_hook=_text(options, "vassals-start-hook"),
            stop_hook=_text(options, "vassals-stop-hook"),
            before=_arguments(options, {"vassals-inherit-before": "--inherit", "vassals-include-before": "--include"})
            + _arguments(options, {"vassals-set": "--set", "vassal-set": "--set"}),
            after=_arguments(options, {"vassals-inherit": "--inherit", "vassals-include": "--include"}),
        )


def _directory(options: UwsgiConfig, cwd: Path) -> Path:
    found = options.all("emperor")
    if len(found) != 1:
        raise ConfigError(f"cannot run the Emperor with {len(found)} directories: name exactly one with --emperor DIR")
    value = found[0].value
    text = value.removeprefix("dir://")
    if "://" in text or any(sign in text for sign in "*?["):
        raise ConfigError(f"cannot run the Emperor on {value}: only a directory is supported; put links into one")
    directory = (cwd / text).resolve()
    if not directory.is_dir():
        raise ConfigError(f"cannot run the Emperor on {value}: there is no such directory")
    return directory


def _refuse(options: UwsgiConfig) -> None:
    for key, instead in _REFUSED.items():
        if options.flag(key) if key == "emperor-tyrant" else options.has(key):
            raise ConfigError(f"cannot run the Emperor with {key}: instar doesn't have it; {instead}")


def _text(options: UwsgiConfig, *keys: str) -> str:
    option = options.last(*keys)
    return option.value if option else ""


def _wrapper(options: UwsgiConfig) -> str:
    """The first program that is there of `-override`, the wrapper itself, and `-fallback`."""
    override = [item.value for item in options.all("emperor-wrapper-override")]
    fallback = [item.value for item in options.all("emperor-wrapper-fallback")]
    wrapper = _text(options, "emperor-wrapper")
    if not wrapper and not override:
        return ""
    candidates = [*override, *([wrapper] if wrapper else []), *fallback]
    return next((item for item in candidates if shutil.which(item)), wrapper or override[0])


def _number(options: UwsgiConfig, key: str, default: float) -> float:
    option = options.last(key)
    if option is None:
        return default
    if not option.value.isascii() or not option.value.isdigit():
        raise ConfigError(f"cannot use {key} {option.shown} of {option.place}: it must be a number")
    return float(option.value)


def _arguments(options: UwsgiConfig, names: dict[str, str]) -> tuple[str, ...]:
    found: list[Option] = options.all(*names)
    return tuple(text for option in found for text in (names[option.key], option.value))
