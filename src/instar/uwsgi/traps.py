"""What goes wrong with such files under uWSGI, and what of it is left under instar."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml.ElementTree
from defusedxml.common import DefusedXmlException

from instar.config.formats.uwsgi import Option, Place, UwsgiConfig, is_uwsgi_file, read
from instar.config.formats.uwsgi.known import known_options
from instar.config.formats.uwsgi.logic import ENDS, is_logic
from instar.config.formats.uwsgi.reader import LOADERS
from instar.config.formats.uwsgi.values import is_true
from instar.errors import ConfigError
from instar.uwsgi.loading import MODULE
from instar.uwsgi.othersections import other_section
from instar.uwsgi.settings import reaches_out
from instar.uwsgi.sockets import OWN, ROUTER
from instar.uwsgi.translate import Translation


@dataclasses.dataclass(frozen=True)
class Trap:
    """One of them. `solved`: instar takes it away, without a change to the file."""

    name: str
    text: str
    solved: bool
    place: Place = dataclasses.field(default_factory=Place)

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        where = {"file": self.place.file, "line": self.place.line}
        return {"name": self.name, "text": self.text, "solved": self.solved, **where}


def traps(translation: Translation) -> list[Trap]:
    """Those that are in these files."""
    return [
        *_gate(translation),
        *_reload(translation),
        *_two_at_once(translation),
        *_stranded_jobs(translation),
        *_drift(translation),
        *_first_start(translation),
        *_open_socket(translation),
        *_static_order(translation),
        *_port_alone(translation),
    ]


def _gate(translation: Translation) -> Iterator[Trap]:
    option = translation.config.last("need-app")
    if translation.application is None:
        return
    if option is None:
        yield Trap(
            "no-gate",
            "without need-app, uWSGI lets a release that does not load take over, and every request is answered with "
            "500; instar leaves the old one alone until the new one has loaded and answered a probe",
            solved=True,
        )
    elif not is_true(option.value):
        text = "need-app is off: a release that does not load takes over, and answers every request with 500"
        yield Trap("no-gate", text, solved=False, place=option.place)


def _reload(translation: Translation) -> Iterator[Trap]:
    zerg, pool = translation.config.last("zerg"), translation.config.last("zerg-pool", "zergpool")
    if zerg is not None:
        yield Trap(
            "zergling-reload",
            "a zergling of uWSGI that is reloaded in place (its file touched, r in its FIFO, SIGHUP) loses the pool's "
            "sockets and serves nothing; here each of these is a handover",
            solved=True,
            place=zerg.place,
        )
    if pool is not None:
        yield Trap(
            "pool-reload",
            "a pool of uWSGI can't be reloaded while a zergling lives: the address is in use; the listening sockets of "
            "instar's pool outlive it",
            solved=True,
            place=pool.place,
        )


def _two_at_once(translation: Translation) -> Iterator[Trap]:
    hook = next((item for item in translation.config if "spinningfifo:" in item.value), None)
    if hook is not None:
        text = (
            "two restarts at once wedge under uWSGI, which takes one's FIFO away; here the second waits for the first"
        )
        yield Trap("two-at-once", text, solved=True, place=hook.place)


def _stranded_jobs(translation: Translation) -> Iterator[Trap]:
    name = other_section(translation.config, "galaxy", translation.surroundings).get("job_config_file", "")
    source = translation.config.source
    if not name or source is None:
        return
    path = source.parent / name
    if (root := _xml(path)) is None:
        return
    handlers = root.find("handlers")
    if handlers is not None and any(item.get("id") == "" for item in handlers.iter("handler")):
        yield Trap(
            "stranded-jobs",
            'a handler has the id "": jobs that are submitted while this instance serves belong to it, '
            "and no handler ever takes them; `instar restart` moves the handlers without such an instance",
            solved=False,
            place=Place(str(path)),
        )


def _xml(path: Path) -> Element | None:
    try:
        root: Element = defusedxml.ElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except (OSError, ParseError, DefusedXmlException, ValueError):
        return None
    return root


#: What a restarter has, or lacks, on purpose.
_OWN = frozenset({"master-fifo", "zerg", "mule", "mules", "farm", "job_config_file"})


def _drift(translation: Translation) -> Iterator[Trap]:
    """A restarter repeats the main file's options, and people forget it when they change that."""
    config, source = translation.config, translation.config.source
    if source is None or not config.has("zerg") or config.has("mule", "mules") or not config.has("master-fifo"):
        return
    for path in sorted(source.parent.iterdir()):
        if path == source or not is_uwsgi_file(path.name) or not path.is_file():
            continue
        try:
            other = read(str(path), surroundings=translation.surroundings)
        except ConfigError:
            continue
        if other.has("mule", "mules") and other.text(*MODULE) == config.text(*MODULE):
            yield from _differences(config, other, path)


def _differences(config: UwsgiConfig, main: UwsgiConfig, path: Path) -> Iterator[Trap]:
    here, there = _comparable(config), _comparable(main)
    # The main file is often included by one that has the folder.
    here.setdefault("chdir", ())
    there.setdefault("chdir", here["chdir"])
    for key in sorted(here.keys() | there.keys()):
        ours, theirs = here.get(key, ()), there.get(key, ())
        if ours != theirs:
            text = (
                f"{key} is {_listed(ours)} here and {_listed(theirs)} in {path.name}, which this instance stands in for"
            )
            option = config.last(key)
            yield Trap("drift", text, solved=False, place=option.place if option else Place(str(config.source)))


def _comparable(config: UwsgiConfig) -> dict[str, tuple[str, ...]]:
    keys = dict.fromkeys(option.key for option in config if _is_comparable(option))
    lists = {key: known_options()[key].kind == "list" if key in known_options() else False for key in keys}
    return {key: config.texts(key) if lists[key] else (config.text(key),) for key in keys}


def _is_comparable(option: Option) -> bool:
    language = is_logic(option.key) or option.key in ENDS or option.key in LOADERS
    return not (language or option.key in _OWN or option.key.startswith("hook-accepting"))


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(values) if values else "not set"


def _first_start(translation: Translation) -> Iterator[Trap]:
    inside = False
    for option in translation.config:
        if is_logic(option.key):
            inside = True
        elif option.key in ENDS:
            inside = False
        elif option.value.startswith("writefifo:") and not inside:
            text = "at the first start there is no such FIFO, and the hook fails; put if-exists and endif around it"
            yield Trap("first-start", f"{option.key}: {text}", solved=False, place=option.place)


def _open_socket(translation: Translation) -> Iterator[Trap]:
    native = [key for key in translation.native if key.startswith("web.uwsgi.allow")]
    for bind in translation.sockets.binds:
        if reaches_out(bind) and not native:
            yield Trap(
                "open-socket",
                f"every host that can reach {bind.removeprefix('uwsgi:')} is believed what it says of a client; listen "
                "on 127.0.0.1, or name the proxies with --set instar.web.uwsgi.allow=ADDRESS",
                solved=False,
            )


def _static_order(translation: Translation) -> Iterator[Trap]:
    options = translation.config.all("static-map")
    for index, first in enumerate(options):
        prefix = first.value.partition("=")[0].rstrip("/")
        for second in options[index + 1 :]:
            longer = second.value.partition("=")[0].rstrip("/")
            if longer == prefix:
                text = f"only the first folder for {prefix} is looked at; uWSGI looks at both"
                yield Trap("static-order", text, solved=False, place=second.place)
            elif longer.startswith(f"{prefix}/"):
                text = f"uWSGI looks below {prefix} first, instar below the longer {longer}"
                yield Trap("static-order", text, solved=False, place=second.place)


def _port_alone(translation: Translation) -> Iterator[Trap]:
    for option in translation.config.all(*OWN, *ROUTER):
        if option.value.isdigit():
            text = f"{option.value} has no colon, so it is the name of a UNIX socket; a port is :{option.value}"
            yield Trap("port-alone", f"{option.key}: {text}", solved=False, place=option.place)
