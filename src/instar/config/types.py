"""Types of fields: how a value is written, what it becomes, and what the JSON Schema says of it."""

from __future__ import annotations

import ipaddress
import re
import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo, WithJsonSchema

from instar.config.address import absolute, parse_address
from instar.config.status import StatusSet, parse_status
from instar.config.table import base_folder
from instar.config.units import parse_duration, parse_share, parse_size
from instar.errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_STRINGS = {"type": "array", "items": {"type": "string"}}
_STRING_OR_STRINGS = {"anyOf": [{"type": "string"}, _STRINGS]}
_DURATION_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}]}

Text = Annotated[str, Field(strict=True)]
Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
AtLeastOne = Annotated[int, Field(strict=True, ge=1)]

#: Seconds; 0 is allowed.
Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0), WithJsonSchema(_DURATION_SCHEMA)]
#: Seconds; more than 0.
Period = Annotated[float, BeforeValidator(parse_duration), Field(gt=0), WithJsonSchema(_DURATION_SCHEMA)]
#: Bytes.
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(ge=0),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}),
]
#: From 0 up to, but not including, 1.
Share = Annotated[
    float,
    BeforeValidator(parse_share),
    Field(ge=0, lt=1),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "exclusiveMaximum": 1}, {"type": "string"}]}),
]


def _path(value: object, info: ValidationInfo) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("must be a path")
    if "\0" in str(value):
        raise ValueError("must be a path without a zero byte")
    # Not resolved: a symbolic link (`current`) must stay one, it names another release at the next restart.
    return base_folder(info) / Path(value).expanduser()


def _optional_path(value: object, info: ValidationInfo) -> Path | None:
    return None if value in ("", None) else _path(value, info)


def _interpreter(value: object, info: ValidationInfo) -> Path | None:
    if isinstance(value, str) and value and "/" not in value:
        return Path(value)  # a command, looked up in PATH
    return _optional_path(value, info)


_AS_TEXT = PlainSerializer(lambda value: "" if value is None else str(value), return_type=str)
_PATH_SCHEMA = WithJsonSchema({"type": "string"})

#: Absolute after validation.
AnyPath = Annotated[Path, BeforeValidator(_path), _AS_TEXT, _PATH_SCHEMA]
#: The same, or None when empty.
OptionalPath = Annotated[Path | None, BeforeValidator(_optional_path), _AS_TEXT, _PATH_SCHEMA]
#: A path, or a command name without `/`.
Interpreter = Annotated[Path | None, BeforeValidator(_interpreter), _AS_TEXT, _PATH_SCHEMA]


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _bind(text: str, info: ValidationInfo) -> str:
    try:
        return str(absolute(parse_address(text), base_folder(info)))
    except ConfigError as error:
        raise ValueError(f"is wrong: {error}") from error


_BindAddress = Annotated[Text, AfterValidator(_bind)]
#: Bind addresses; one may stand alone.
Binds = Annotated[
    tuple[_BindAddress, ...],
    BeforeValidator(_one_or_more),
    Field(min_length=1),
    WithJsonSchema(_STRING_OR_STRINGS),
]


def parse_network(value: object) -> Network:
    """A network in CIDR notation. Raises ValueError that reads "must be …"."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError('must be a network such as "10.0.0.0/8"')
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError as error:
        raise ValueError(f'must be a network such as "10.0.0.0/8" or "2001:db8::/32", not "{value}"') from error
    if "/" not in value:
        raise ValueError(f'must have a prefix length; for one client write "{network}"')
    if ipaddress.ip_interface(value).ip != network.network_address:
        raise ValueError(f'must not have bits set behind its prefix; write "{network}"')
    return network


#: Networks in CIDR notation; one may stand alone.
Networks = Annotated[
    tuple[Annotated[Network, BeforeValidator(parse_network), PlainSerializer(str, return_type=str)], ...],
    BeforeValidator(_one_or_more),
    WithJsonSchema(_STRING_OR_STRINGS),
]


def _proxy(text: str) -> str:
    if text in ("*", "unix"):
        return text
    try:
        return str(ipaddress.ip_network(text)) if "/" in text else str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError(f'must be an address, a network such as "10.0.0.0/8", "unix" or "*", not "{text}"') from error


#: Peers whose forwarded headers are believed.
Proxies = Annotated[
    tuple[Annotated[Text, AfterValidator(_proxy)], ...],
    BeforeValidator(_one_or_more),
    WithJsonSchema(_STRING_OR_STRINGS),
]

#: Healthy status codes.
Status = Annotated[
    StatusSet,
    BeforeValidator(parse_status),
    PlainSerializer(str, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "integer"},
                {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}},
            ]
        }
    ),
]


def check_argv(value: object) -> object:
    """Refuse a shell line, saying how to write it as a list of words."""
    if isinstance(value, str):
        raise ValueError(f"must be a list of words, no shell runs it; write {_argv_text(value)}")
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], str) and " " in value[0].strip():
        raise ValueError(f"must be a list of words, no shell runs it; write {_argv_text(value[0])}")
    return value


def _argv_text(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


#: A program and its arguments.
Argv = Annotated[tuple[Text, ...], BeforeValidator(check_argv), WithJsonSchema(_STRINGS)]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _variables(value: object) -> object:
    if not isinstance(value, dict):
        raise ValueError("must be a table of variables")
    result: dict[str, Any] = {}
    for name, item in value.items():
        if not _VARIABLE.fullmatch(str(name)):
            raise ValueError(f'has a variable name that no program can read: "{name}"')
        # The value never goes into a message: it may be a secret.
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise ValueError(f"needs a text for {name}")
        if "\0" in str(item):
            raise ValueError(f"has a zero byte in {name}")
        result[name] = str(item)
    return result


#: Environment variables.
Variables = Annotated[
    dict[str, str],
    BeforeValidator(_variables),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number"]}}),
]


def _pattern(pattern: str, wrong: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"{wrong}, not {quoted(text)}")
        return text

    return AfterValidator(check)


def quoted(text: str) -> str:
    """`text` in double quotes, shortened for a message."""
    return f'"{text if len(text) <= 60 else text[:57] + "..."}"'


NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
#: Goes into file names, process names and handler names.
Name = Annotated[
    Text, _pattern(NAME_PATTERN, 'must be 1 to 64 letters, digits, "-", "_" or ".", the first a letter or digit')
]
#: Octal digits; empty: not set.
Umask = Annotated[Text, _pattern(r"|0?[0-7]{1,3}", 'must be octal digits, as in "027"')]
UrlPath = Annotated[Text, _pattern(r"/[^\s#]*", 'must be a path that begins with "/"')]


def _target(text: str) -> str:
    if not text:
        return text
    if text.endswith("()"):
        raise ValueError(f'must not end with "()"; write target = "{text[:-2]}" and factory = true')
    module, colon, attribute = text.partition(":")
    if module.endswith(".py") or "/" in module:
        guess = module.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
        raise ValueError(f'must name a module, not a file; write "{guess}:{attribute or "app"}"')
    dotted = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    if not colon and re.fullmatch(dotted, module):
        raise ValueError(f'must be "module:attribute"; did you mean "{_split_target(module)}"?')
    if not re.fullmatch(dotted, module) or not re.fullmatch(dotted, attribute):
        raise ValueError(f'must be "module:attribute", as in "mysite.wsgi:application", not {quoted(text)}')
    return text


def _split_target(module: str) -> str:
    head, dot, tail = module.rpartition(".")
    return f"{head}:{tail}" if dot and tail in ("app", "application", "api") else f"{module}:app"


Target = Annotated[Text, AfterValidator(_target)]
