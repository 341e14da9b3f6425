"""uWSGI's command line: options as getopt_long(3) reads them, and names of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from instar.config.formats.uwsgi.known import Known, known_options, nearest_name
from instar.config.formats.uwsgi.option import Place, UwsgiConfig
from instar.config.formats.uwsgi.reader import Reader
from instar.config.formats.uwsgi.surroundings import Surroundings
from instar.errors import ConfigError

#: Variables that begin with UWSGI_ and are no options: an Emperor, and a reload, speak through them.
_NO_OPTIONS = (
    "UWSGI_RELOADS",
    "UWSGI_VASSALS_DIR",
    "UWSGI_EMPEROR_FD",
    "UWSGI_EMPEROR_FD_CONFIG",
    "UWSGI_EMPEROR_PROXY",
    "UWSGI_BROODLORD_NUM",
    "UWSGI_JAIL_PID",
    "UWSGI_ORIGINAL_PROC_NAME",
)


def read_command_line(arguments: Sequence[str], *, surroundings: Surroundings | None = None) -> UwsgiConfig:
    """The list of options that these arguments (without the program's name), and the variables `UWSGI_…`, make.

    `UWSGI_PROCESSES=4` stands before all arguments, files that are named without an option stand after them. Nothing
    is executed. Raises ConfigError.
    """
    around = surroundings or Surroundings()
    reader = Reader(around)
    for name, value in around.environ.items():
        if name.startswith("UWSGI_") and name not in _NO_OPTIONS:
            reader.add(name.removeprefix("UWSGI_").lower().replace("_", "-"), value, Place(f"${name}"))
    files: list[str] = []
    for key, argument in _split(arguments):
        if key:
            reader.add(key, argument or "", bare=argument is None)
        else:
            files.append(argument or "")
    for name in files:
        # "[…" is what uWSGI leaves for ps(1) to show.
        if not name.startswith("["):
            reader.load(name, outermost=False)
    return reader.finish()


def _split(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Options with their arguments (None: without one), and the rest as ("", word)."""
    words = iter(arguments)
    for word in words:
        if word == "--":
            yield from (("", rest) for rest in words)
        elif word.startswith("--"):
            yield _long(word, words)
        elif word.startswith("-") and len(word) > 1:
            yield from _short(word[1:], words)
        else:
            yield "", word


def _long(word: str, words: Iterator[str]) -> tuple[str, str | None]:
    name, equals, value = word[2:].partition("=")
    option = _find(name)
    if option.argument == "none" and equals:
        raise _error(f"--{option.name} takes no argument, and has {value}")
    if option.argument == "required" and not equals:
        return option.name, _next(f"--{option.name}", words)
    return option.name, value if equals else None


def _short(letters: str, words: Iterator[str]) -> Iterator[tuple[str, str | None]]:
    """`-Mp4` is `-M -p 4`."""
    by_letter = {option.letter: option for option in known_options().values() if option.letter}
    while letters:
        letter, letters = letters[0], letters[1:]
        option = by_letter.get(letter)
        if option is None:
            raise _error(f"there is no option -{letter}; see uWSGI's list of options")
        if option.argument == "none":
            yield option.name, None
            continue
        if option.argument == "required" and not letters:
            yield option.name, _next(f"-{letter}", words)
        else:
            yield option.name, letters or None
        return


def _next(option: str, words: Iterator[str]) -> str:
    value = next(words, None)
    if value is None:
        raise _error(f"{option} needs an argument")
    return value


def _find(name: str) -> Known:
    """The option of this name, or the only one that begins with it."""
    known = known_options()
    if name in known:
        return known[name]
    matches = [option for key, option in known.items() if key.startswith(name)] if name else []
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise _error(f"--{name} may be {', '.join(f'--{option.name}' for option in matches[:5])}; write it out")
    near = nearest_name(name)
    raise _error(f"there is no option --{name}{f'; did you mean --{near}?' if near else ''}")


def _error(text: str) -> ConfigError:
    return ConfigError(f"cannot read the command line: {text}")
