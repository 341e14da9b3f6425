"""Which application the options name, and whether instar's own loader can load it."""

from __future__ import annotations

import dataclasses
import re

from instar.config.formats.uwsgi import UwsgiConfig
from instar.config.formats.uwsgi.values import is_true
from instar.uwsgi.model import Application

#: Loads what `[app] target` can't express.
BUILDER = "instar.uwsgi.inside.application:build"

MODULE = ("module", "wsgi")
FILE = ("wsgi-file", "file")
IMPORT = ("import", "pyimport", "py-import", "python-import")
LAZY = ("lazy-apps", "lazy")
#: Other ways to name an application, which only uWSGI has.
FOREIGN = ("paste", "ini-paste", "ini-paste-logged", "pecan", "eval", "web3", "pump", "wsgi-lite", "python-raw", "psgi")

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_TARGET = re.compile(rf"({_NAME}):({_NAME})(\(\))?")


def application_of(config: UwsgiConfig) -> Application | None:
    """The application; None when no option names one."""
    module, file, mounts = config.text(*MODULE), config.text(*FILE), _mounts(config)
    if not (module or file or mounts):
        return None
    application = Application(
        module=module,
        file=file,
        callable=config.text("callable"),
        mounts=mounts,
        manage_script_name=config.flag("manage-script-name"),
        imports=config.texts(*IMPORT),
        need_app=needs_app(config),
        lazy=config.flag(*LAZY),
    )
    return _with_native(application)


def needs_app(config: UwsgiConfig) -> bool:
    """On unless a line switches it off: a release that doesn't load must never replace one that works."""
    return is_true(config.text("need-app"))


def target_of(application: Application) -> tuple[str, bool]:
    """`[app] target` and `factory`."""
    if application.native and (match := _match(application)):
        return f"{match[1]}:{match[2]}", bool(match[3])
    return BUILDER, True


def is_target(text: str) -> bool:
    """Whether it is `module:attribute`, and nothing that has to be called first."""
    match = _TARGET.fullmatch(text)
    return match is not None and not match[3]


def _with_native(application: Application) -> Application:
    plain = not (application.file or application.mounts or application.imports) and application.need_app
    return dataclasses.replace(application, native=plain and _match(application) is not None)


def _match(application: Application) -> re.Match[str] | None:
    module = application.module
    whole = module if ":" in module else f"{module}:{application.callable or 'application'}"
    return _TARGET.fullmatch(whole)


def _mounts(config: UwsgiConfig) -> tuple[tuple[str, str], ...]:
    pairs = (value.partition("=") for value in config.texts("mount"))
    return tuple((point, target) for point, _, target in pairs if target)
