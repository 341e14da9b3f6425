"""Reads uWSGI's configuration into one ordered list, as uWSGI does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from instar.config.formats.uwsgi import ini, json, logic, passes, xml, yaml
from instar.config.formats.uwsgi.known import is_immediate, is_known, nearest_name
from instar.config.formats.uwsgi.magic import Magic
from instar.config.formats.uwsgi.option import Note, Option, Place, Skipped, UwsgiConfig
from instar.config.formats.uwsgi.parsed import Pair, Source
from instar.config.formats.uwsgi.surroundings import Surroundings
from instar.config.formats.uwsgi.values import is_true
from instar.errors import ConfigError

Parser = Callable[[Source], Iterator[Pair]]

#: Options that load a file of one format.
LOADERS: dict[str, Parser] = {
    "ini": ini.parse,
    "yaml": yaml.parse,
    "yml": yaml.parse,
    "json": json.parse,
    "js": json.parse,
    "xml": xml.parse,
    "xmlconfig": xml.parse,
}
#: By the end of a file's name.
SUFFIXES: dict[str, Parser] = {f".{key}": LOADERS[key] for key in ("ini", "yaml", "yml", "json", "js", "xml")}

_INCLUDES = ("include", "config")
_PLACEHOLDERS = ("set-placeholder", "set-ph")
_PLUGINS = ("plugin", "plugins", "need-plugin", "need-plugins")
_SECTION = "uwsgi"
_MOST_OPTIONS = 100_000
_MOST_INHERITED = 100
_LARGEST_FILE = 1 << 22


def is_uwsgi_file(name: str) -> bool:
    """Whether a name, which may end in `:section`, looks like a configuration file of uWSGI."""
    path, _ = split_section(name)
    return Path(path).suffix in SUFFIXES


def split_section(name: str) -> tuple[str, str | None]:
    """`file.ini:section` → file and section; None without one."""
    path, colon, section = name.rpartition(":")
    return (path, section or None) if colon else (name, None)


def read(name: str, *, kind: str | None = None, surroundings: Surroundings | None = None) -> UwsgiConfig:
    """The configuration in a file, named with or without `:section`, and in all files that it includes.

    `kind` is the option that would load it (`ini`, `yaml` …); without it the name decides. Nothing is executed and
    no address is asked. Raises ConfigError with file and line.
    """
    reader = Reader(surroundings)
    reader.load(name, kind=kind)
    return reader.finish()


class Reader:
    """Collects options in the order in which uWSGI would see them: of a command line, of files, of both."""

    def __init__(self, surroundings: Surroundings | None = None) -> None:
        self._surroundings = surroundings or Surroundings()
        self._world = logic.World(self._surroundings)
        self._magic = Magic(self._surroundings)
        self._options: list[Option] = []
        self._notes: list[Note] = []
        self._skipped: list[Skipped] = []
        self._active: list[tuple[str, str]] = []
        self._last_ini = ""
        self._source: Path | None = None
        #: The open `if-…` or `for…`, its argument and its place.
        self._block: tuple[str, str, Place] | None = None
        self._in_block = False
        self._inherited = 0

    def load(self, name: str, *, kind: str | None = None, place: Place | None = None, outermost: bool = True) -> None:
        """Add all options of a file."""
        where = place or Place()
        if "://" in name or name == "-":
            raise _error(where, f"{name} is not a file: instar reads its configuration from files only")
        path, section = split_section(name)
        parser = LOADERS[kind] if kind else self._parser(path, where)
        if not path and parser is ini.parse:
            self._magic.enter(name, "", section, outermost=outermost)
            path = self._last_ini
        else:
            self._magic.enter(name, path, section, outermost=outermost)
        self._last_ini = path if parser is ini.parse else self._last_ini
        self._source = self._source or self._surroundings.cwd / path
        self._enter(path, section or _SECTION, where)
        text = self._magic.substitute(self._text(path, where))
        self._parse(parser, Source(text, section or _SECTION, section is not None, functools.partial(self.note, path)))
        self._active.pop()

    def add(self, key: str, value: str, place: Place | None = None, *, bare: bool = False) -> None:
        """Add one option; conditions, loops and includes act at once. `bare`: there is no value at all."""
        where = place or Place()
        if self._in_block:
            self._append(key, value, where, bare=bare)
            return
        if key in logic.ENDS:
            if self._block is None:
                self._note(where, f"{key}: nothing is open here")
            self._block = None
        if self._block is None:
            self._append(key, value, where, bare=bare)
        else:
            self._repeat(self._block, key, value, where)

    def finish(self) -> UwsgiConfig:
        """The list, with `$(…)`, `@(…)` and `%(…)` replaced. Raises ConfigError."""
        if self._block is not None:
            key, argument, place = self._block
            self._note(place, f"{key} = {argument} is never closed by endif or endfor: all that follows is part of it")
        self._replace("$", self._surroundings.environ.get)
        self._replace("@", lambda name: passes.file_content(name, self._surroundings.cwd))
        self._replace("%", lambda name: passes.reference(name, self._world.options))
        # The list grows meanwhile: what is inherited may inherit as well.
        for option in self._options:
            if option.key == "inherit":
                self._settle_inherit(option)
        self._check_strict()
        notes = tuple(dict.fromkeys(self._notes))
        return UwsgiConfig(tuple(self._options), notes, self._source, tuple(self._skipped))

    def note(self, file: str, line: int, text: str) -> None:
        """Remember something about a line."""
        self._note(Place(file, line), text)

    # --- files -------------------------------------------------------------------------------------------------

    def _parser(self, path: str, place: Place) -> Parser:
        suffix = Path(path).suffix
        if suffix not in SUFFIXES:
            raise _error(place, f"{path} does not end in {', '.join(SUFFIXES)}, so its format is not known")
        return SUFFIXES[suffix]

    def _enter(self, path: str, section: str, place: Place) -> None:
        if (path, section) in self._active:
            raise _error(place, f"{path} includes itself")
        self._active.append((path, section))

    def _text(self, path: str, place: Place) -> str:
        file = self._surroundings.cwd / path
        # Without the place where it is named the sentence begins with the file itself.
        prefix = f"cannot read {place}: {path}" if place.file else f"cannot read {path or 'the configuration'}"
        try:
            if not file.exists():
                raise ConfigError(f"{prefix}: no such file{'' if file == Path(path) else f' in {file.parent}'}")
            if not file.is_file():
                raise ConfigError(f"{prefix}: it is not a file")
            if file.stat().st_size > _LARGEST_FILE:
                raise ConfigError(f"{prefix}: it is larger than 4 MB")
            text = file.read_bytes().decode()
        except OSError as error:
            raise ConfigError(f"{prefix}: {(error.strerror or str(error)).lower()}") from error
        except UnicodeDecodeError:
            raise ConfigError(f"{prefix}: it is not UTF-8 text") from None
        if "\0" in text:
            raise ConfigError(f"{prefix}: it has a zero byte, so it is not text")
        return text.removeprefix("\ufeff")

    def _parse(self, parser: Parser, source: Source) -> None:
        path = self._active[-1][0]
        try:
            pairs = list(parser(source))
        except ConfigError as error:
            raise ConfigError(f"cannot read {path}: {error}") from None
        for pair in pairs:
            self.add(pair.key, pair.value, Place(path, pair.line))

    # --- one option --------------------------------------------------------------------------------------------

    def _repeat(self, block: tuple[str, str, Place], key: str, value: str, place: Place) -> None:
        opener, argument, _ = block
        try:
            values = logic.turns(self._world, opener, argument, value)
        except ConfigError as error:
            raise _error(place, str(error)) from None
        if not values:
            self._skipped.append(Skipped(Option(key, value, place, value), opener, len(self._options)))
        self._in_block = True
        for item in values:
            self._append(key, item, place)
        self._in_block = False

    def _append(self, key: str, value: str, place: Place, *, placeholder: bool = False, bare: bool = False) -> None:
        if len(self._options) >= _MOST_OPTIONS:
            raise _error(place, f"there are more than {_MOST_OPTIONS} options")
        index = len(self._options)
        self._options.append(Option(key, value, place, value, bare=bare))
        self._world.options.setdefault(key, value)
        self._look_at(key, value, place)
        if placeholder or self._act(key, value, place):
            self._options[index] = dataclasses.replace(self._options[index], immediate=True)

    def _act(self, key: str, value: str, place: Place) -> bool:
        """Do what an immediate option does; whether it was one."""
        if logic.is_logic(key):
            self._open(key, value, place)
        elif key in LOADERS:
            self.load(value, kind=key, place=place)
        elif key in _INCLUDES:
            # `include` leaves the outermost file's upper-case placeholders alone, `config` does not.
            self.load(value, place=place, outermost=key != "include")
        elif key == "set" or key in _PLACEHOLDERS:
            self._set(key, value, place)
        elif key in _PLUGINS:
            self._world.plugins |= {name.strip() for name in value.split(",")}
        return is_immediate(key) or key in logic.ENDS or logic.is_logic(key)

    def _open(self, key: str, value: str, place: Place) -> None:
        if self._block is not None:
            raise _error(
                place, f"{key} stands inside {self._block[0]} of {self._block[2]}: uWSGI has no blocks in blocks"
            )
        self._block = (key, value, place)

    def _set(self, key: str, value: str, place: Place) -> None:
        name, equals, content = value.partition("=")
        if not equals:
            raise _error(place, f"{key} = {value} needs the form {key} = name=value")
        placeholder = key in _PLACEHOLDERS
        if placeholder and is_known(name):
            raise _error(place, f"{name} can't be a placeholder: it is an option of uWSGI; use set instead of {key}")
        inside, self._in_block = self._in_block, True
        self._append(name, content, place, placeholder=placeholder)
        self._in_block = inside

    def _look_at(self, key: str, value: str, place: Place) -> None:
        """What people trip over."""
        if key == "else":
            self._note(place, "uWSGI has no else: this line does nothing, and the condition goes on; use if-not-…")
        if not (logic.is_logic(key) or key in LOADERS or key in _INCLUDES):
            return
        symbols = [symbol for symbol in ("$(", "@(", "%(") if symbol in value.replace("%(_)", "")]
        if symbols:
            self._note(place, f"{key}: {symbols[0]}…) is not replaced here, only %d and its like are")
        if self._in_block and self._block and not logic.is_logic(key) and self._block[0].startswith("if"):
            text = f"{key}: what is in that file is not subject to conditions of its own, and an endif in it is ignored"
            self._note(place, text)

    # --- at the end --------------------------------------------------------------------------------------------

    def _replace(self, symbol: str, lookup: Callable[[str], str | None]) -> None:
        for index, option in enumerate(self._options):
            if option.immediate or symbol not in option.value:
                continue
            try:
                value = passes.replace(option.value, symbol, lookup)
            except ConfigError as error:
                raise _error(option.place, f"{option.key}: {error}") from None
            self._options[index] = dataclasses.replace(option, value=value)
            # The first of its name is what %(name) stands for.
            if self._world.options.get(option.key) == option.value and self._first(option.key) == index:
                self._world.options[option.key] = value

    def _first(self, key: str) -> int:
        return next(index for index, option in enumerate(self._options) if option.key == key)

    def _settle_inherit(self, option: Option) -> None:
        # uWSGI loads these when it applies the list: their options come last, with nothing replaced in them but %d.
        self._in_block = self._block is not None
        self._inherited += 1
        if self._inherited > _MOST_INHERITED:
            raise _error(option.place, f"{option.value} inherits itself")
        self.load(option.value, place=option.place, outermost=False)

    def _check_strict(self) -> None:
        strict = [option for option in self._options if option.key == "strict"]
        if not strict or not is_true(strict[-1].value):
            return
        unknown = [
            option
            for option in self._options
            if not option.immediate and not is_known(option.key) and option.key not in logic.ENDS
        ]
        if unknown:
            raise ConfigError("\n".join(_unknown(option) for option in unknown))

    def _note(self, place: Place, text: str) -> None:
        self._notes.append(Note(place, text))


def _unknown(option: Option) -> str:
    near = nearest_name(option.key)
    hint = f"did you mean {near}?" if near else "take it out, or take out strict"
    return f"cannot read {option.place}: uWSGI has no option {option.key}, which strict refuses; {hint}"


def _error(place: Place, text: str) -> ConfigError:
    return ConfigError(f"cannot read {place}: {text}")
