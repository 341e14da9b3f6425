"""Files of uWSGI as an `instar.toml`, with comments on what could not be carried over."""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from instar.config import toml
from instar.config.loading import checked
from instar.config.model import Config
from instar.config.table import Table
from instar.errors import ConfigError
from instar.uwsgi import loading, settings
from instar.uwsgi.explain import Explanation, explain
from instar.uwsgi.loading import MODULE
from instar.uwsgi.model import Application, Mule
from instar.uwsgi.translate import Translation

_HEAD = """\
# Configuration of instar, made by `instar convert` from {files}.
# Start it with `instar run -c FILE`, and bring in new code with `instar restart -c FILE`: handlers keep their names.
# The application's environment needs the server ([web] engine): `pip install granian` in it.
# The module `uwsgi` is there for applications under `instar uwsgi` only, not under `instar run`.
"""
#: Modules that `instar uwsgi` gives to an application.
UWSGI_MODULES = ("uwsgi", "uwsgidecorators")
#: Keys that are written even if instar would do the same without them.
_ALWAYS = ("name", "target", "bind")
#: Options that have no place in a file of instar because it does the same without them.
_NEEDLESS = {
    "zerg": "not needed: the listening sockets stay with the supervisor",
    "zerg-pool": "not needed: the listening sockets stay with the supervisor",
    "zergpool": "not needed: the listening sockets stay with the supervisor",
    "zerg-server": "not needed: the listening sockets stay with the supervisor",
    "zerg-fallback": "not needed: the listening sockets stay with the supervisor",
    "http-to": "not needed: the workers answer HTTP themselves",
    "master-fifo": "use `instar restart`, `instar stop` and the other verbs",
    "die-on-term": "SIGTERM always stops",
    "exit-on-reload": "SIGTERM always stops",
    "need-app": "not needed: a release that does not load never replaces one that works",
    "pidfile": "ask `instar status --json`",
    "pidfile2": "ask `instar status --json`",
    "safe-pidfile": "ask `instar status --json`",
    "safe-pidfile2": "ask `instar status --json`",
    "mount": "let the proxy, or a module of your own, tell the applications apart",
    "manage-script-name": "see [web] root_path",
    "import": "import it in the application",
    "pyimport": "import it in the application",
    "py-import": "import it in the application",
    "python-import": "import it in the application",
}
_FAMILIES = {
    "hook-": "see [restart] before and after for commands",
    "exec-": "see [restart] before and after for commands",
    "touch-": "run `instar restart`",
    "fs-": "run `instar restart`",
    "emperor": "`instar run FOLDER` runs every file of a folder",
}


@dataclasses.dataclass(frozen=True)
class Converted:
    """The text, and what is not in it."""

    text: str
    left_out: tuple[str, ...]


def convert(translations: Sequence[Translation], *, name: str = "") -> Converted:
    """One file for one application and the pools that it has its sockets from. Raises ConfigError."""
    main = _application(translations)
    assert main.application is not None  # noqa: S101
    raw, left_out = _table(main, main.application, translations, name)
    checked(raw, base=main.base, name="the converted configuration")
    left_out += [text for item in translations for text in _left_out(item, main)]
    text = toml.document(_without_defaults(raw, Config), _notes(translations))
    head = _HEAD.format(files=", ".join(item.label for item in translations))
    if left_out:
        head += "#\n# Not carried over:\n" + "".join(f"# - {item}\n" for item in left_out)
    return Converted(f"{head}\n{text}", tuple(left_out))


def _application(translations: Sequence[Translation]) -> Translation:
    found = [item for item in translations if item.application is not None]
    mains = [item for item in found if not _is_restarter(item, found)]
    if not mains:
        raise ConfigError("cannot convert: no file names an application; name the file with module in it as well")
    if len(mains) > 1:
        names = " and ".join(item.label for item in mains)
        raise ConfigError(f"cannot convert: {names} are applications of their own; convert one at a time")
    return mains[0]


def _is_restarter(item: Translation, others: Iterable[Translation]) -> bool:
    """Whether it only stands in for one of the others, which has the mules."""
    return item.config.has("zerg") and any(
        other is not item
        and not item.background[0]
        and other.background[0]
        and other.config.text(*MODULE) == item.config.text(*MODULE)
        for other in others
    )


def _table(
    main: Translation, application: Application, translations: Sequence[Translation], name: str
) -> tuple[dict[str, Any], list[str]]:
    raw = main.table(application)
    left_out: list[str] = []
    raw["app"] = {"name": name or _name(main), "target": "", "factory": False} | _but(raw["app"], "name")
    _set_target(raw["app"], main, application, left_out)
    _set_environment(raw["app"], main, left_out)
    raw["web"]["bind"] = _binds(main, translations, left_out)
    if not any(bind.startswith("uwsgi:") for bind in raw["web"]["bind"]):
        del raw["web"]["uwsgi"]
    else:
        raw["web"]["uwsgi"] = settings.uwsgi_server(main.config, raw["web"]["bind"])
    raw["handlers"] = dict(_handlers(main, left_out))
    if raw["app"]["name"] == main.server_name or not raw["handlers"]:
        del raw["app"]["handler_name"]
    return raw, left_out


def _but(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: item for name, item in table.items() if name != key}


def _name(main: Translation) -> str:
    """After the file that names the application: `galaxy` for galaxy.yml, however it was included."""
    option = main.config.last(*MODULE, "wsgi-file", "file", "mount")
    file = option.place.file if option else ""
    return settings.name_of(Path(file)) if file else settings.name_of(main.config.source)


def _set_target(app: dict[str, Any], main: Translation, application: Application, left_out: list[str]) -> None:
    if application.native:
        return
    attribute = application.callable or "application"
    if application.module:
        module, colon, own = application.module.partition(":")
        target = f"{module}:{own if colon else attribute}"
    elif application.file:
        path = main.base / application.file
        if path.parent != main.base:
            app["pythonpath"] = [str(path.parent), *app["pythonpath"]]
        target = f"{path.stem}:{attribute}"
        if path.stem in sys.stdlib_module_names or not path.stem.isidentifier():
            left_out.append(f"[app] target: {path} can't be imported by its name {path.stem}; give it another one")
    else:
        target = f"{application.mounts[0][1].partition(':')[0]}:{attribute}"
        left_out.append(f"[app] target: several applications can't be named; only {target} is")
    app["factory"] = target.endswith("()")
    app["target"] = target.removesuffix("()")


def _set_environment(app: dict[str, Any], main: Translation, left_out: list[str]) -> None:
    """A value that came from the environment may be secret, and does not belong into a file."""
    for option in main.config.all("env"):
        name = option.value.partition("=")[0]
        if option.shown != option.value:
            app["env"].pop(name, None)
            left_out.append(f"{option.place}: env = {option.shown}: it may be secret; put it into an env_file")


def _binds(main: Translation, translations: Sequence[Translation], left_out: list[str]) -> list[str]:
    binds = list(main.sockets.binds)
    pools = [item for item in translations if any(pool.path in main.zerg for pool in item.sockets.pools)]
    for item in pools:
        binds += [router.address for router in item.sockets.routers]
        binds += [f"uwsgi:{address}" for pool in item.sockets.pools for address in pool.addresses]
    if not binds:
        left_out.append("[web] bind: the pool's file was not given, so its addresses are not known")
    return list(dict.fromkeys(binds)) or ["127.0.0.1:8000"]


def _handlers(main: Translation, left_out: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A pool for each farm and kind of work; the names stay."""
    pools: dict[tuple[str, str], list[Mule]] = {}
    for mule in main.background[0]:
        work = str(mule.script or mule.target)
        if mule.target and not loading.is_target(mule.target):
            left_out.append(f"mule {mule.number} ({mule.name}): {mule.target} is no function that could be called")
        elif work:
            pools.setdefault((mule.pool, work), []).append(mule)
        else:
            left_out.append(f"mule {mule.number} ({mule.name}) only waits for signals and messages; give it work")
    table = settings.handlers(main.config, main.background[0])
    used: dict[str, int] = {}
    for (pool, work), mules in pools.items():
        used[pool] = used.get(pool, 0) + 1
        kind = "script" if mules[0].script else "target"
        if mules[0].script:
            left_out += _missed(mules)
        # Forked from the loaded application, as under uWSGI, and called when the name is free: a script by itself, a
        # function that doesn't wait for its name because it is called cold.
        handover = "warm" if mules[0].script else "cold"
        rows = {kind: work, "handover": handover, "stop_timeout": table[pool]["stop_timeout"]}
        name = pool if used[pool] == 1 else f"{pool}-{used[pool]}"
        yield name, {**settings.named([mule.name for mule in mules], name), **rows}


def _missed(mules: Sequence[Mule]) -> Iterator[str]:
    """What the script of these mules would not find."""
    script = mules[0].script
    assert script is not None  # noqa: S101
    which = f"mule {mules[0].number} ({mules[0].name})"
    try:
        needed = uwsgi_imports(script.read_bytes())
    except OSError as error:
        yield f"{which}: cannot read {script}: {(error.strerror or str(error)).lower()}"
        return
    except (SyntaxError, ValueError):
        yield f"{which}: {script} is no Python that instar's own interpreter understands; `instar check` tries yours"
        return
    for name, line in needed:
        yield (
            f"{which}: {script}:{line} imports {name}, which is not there; use instar.current_handler(), or stay with "
            "`instar uwsgi`"
        )


def uwsgi_imports(source: bytes) -> list[tuple[str, int]]:
    """The modules of uWSGI that a script can't do without, and the lines; not those that it tries to import."""
    tried: set[ast.AST] = set()
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Try):
            tried.update(inner for statement in node.body for inner in ast.walk(statement))
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if node not in tried:
            found += [(name, node.lineno) for name in names if name in UWSGI_MODULES]  # type: ignore[attr-defined]
    return found


def _left_out(item: Translation, main: Translation) -> Iterator[str]:
    """One text for each option, with all its places."""
    if item.application is not None and item is not main:
        yield f"{item.label} as a whole: `instar restart` needs nobody to stand in for {main.label}"
        return
    places: dict[tuple[str, str], list[str]] = {}
    for line in explain(item):
        if text := _missing(line):
            places.setdefault((line.key, text), []).append(str(line.place))
    for (key, text), where in places.items():
        yield f"{key} ({', '.join(dict.fromkeys(where))}): {text}"


def _missing(line: Explanation) -> str:
    if line.effect in ("unsupported", "refused", "unknown"):
        return line.text
    if line.effect != "kept":
        return ""
    return _NEEDLESS.get(line.key) or next(
        (text for prefix, text in _FAMILIES.items() if line.key.startswith(prefix)), ""
    )


def _notes(translations: Sequence[Translation]) -> dict[str, str]:
    """Where each key comes from."""
    notes: dict[str, list[str]] = {}
    for item in translations:
        for line in explain(item):
            if line.effect == "kept" and line.setting and "POOL" not in line.setting and line.key != "instar":
                notes.setdefault(line.setting, []).append(f"{line.key} ({line.place})")
    return {setting: ", ".join(dict.fromkeys(texts)) for setting, texts in notes.items()}


def _without_defaults(raw: dict[str, Any], table: type[Table]) -> dict[str, Any]:
    """The same without keys that say what instar does anyway."""
    result: dict[str, Any] = {}
    for name, item in raw.items():
        field = table.model_fields.get(name)
        inner = field.annotation if field is not None else None
        if isinstance(item, dict) and isinstance(inner, type) and issubclass(inner, Table):
            result[name] = _without_defaults(item, inner)
        elif name in _ALWAYS or field is None or not _is_default(field.default, item):
            result[name] = item
    return result


def _is_default(default: object, item: object) -> bool:
    plain = tuple(item) if isinstance(item, list) else item
    return default == plain and isinstance(default, bool) == isinstance(plain, bool)
