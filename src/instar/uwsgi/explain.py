"""What each line of a configuration does under instar."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

from instar.config.formats.uwsgi import Option, Place
from instar.config.formats.uwsgi.known import known_options
from instar.config.formats.uwsgi.values import is_true
from instar.uwsgi.addresses import is_dummy
from instar.uwsgi.loading import needs_app
from instar.uwsgi.model import Mule, Phase
from instar.uwsgi.options import Meaning, meaning, synonyms
from instar.uwsgi.remarks import is_used
from instar.uwsgi.sockets import OWN
from instar.uwsgi.translate import Translation


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One line. `effect` is that of the table, or `overridden` by a later line of the same option, or `skipped`."""

    place: Place
    key: str
    value: str
    effect: str
    text: str
    #: Key of `instar.toml`.
    setting: str = ""

    def to_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "file": self.place.file,
            "line": self.place.line,
            "option": self.key,
            "value": self.value,
            "effect": self.effect,
            "text": self.text,
            "setting": self.setting,
        }


def explain(translation: Translation) -> list[Explanation]:
    """Every line in order. Raises ConfigError for a line that can't be understood."""
    lines = [_line(translation, index, option) for index, option in enumerate(translation.config.options)]
    for item in reversed(translation.config.skipped):
        loop = item.block.startswith("for")
        why = f"{item.block} has no turns" if loop else f"not now: {item.block} does not hold"
        lines.insert(item.index, _of(item.option, "skipped", f"{why}; decided anew at each start and restart"))
    return lines


def by_table(translation: Translation) -> list[Explanation]:
    """The same from the table alone, for a configuration with values that can't be understood."""
    return [_plain(translation, option) for option in translation.config.options]


def _line(translation: Translation, index: int, option: Option) -> Explanation:
    row = meaning(option.key)
    if later := _later(translation, index, option):
        return _of(option, "overridden", f"{later.place} counts")
    if special := _SPECIAL.get(option.key):
        text = special(translation, option)
        if text:
            effect, _, rest = text.partition(": ")
            return _of(option, effect, rest, row.key if effect == "kept" else "")
    return _plain(translation, option)


def _plain(translation: Translation, option: Option) -> Explanation:
    row = meaning(option.key)
    if row.effect == "unknown" and is_used(translation.config, option.key):
        return _of(option, "language", "a variable of this file")
    return _of(option, row.effect, row.text, row.key if row.effect == "kept" else _hint(row))


def _hint(row: Meaning) -> str:
    return row.key if row.effect == "unsupported" else ""


def _of(option: Option, effect: str, text: str, setting: str = "") -> Explanation:
    return Explanation(option.place, option.key, option.shown, effect, text, setting)


def _later(translation: Translation, index: int, option: Option) -> Option | None:
    """The line that counts instead of this one."""
    known = known_options().get(option.key)
    if known is None or known.kind == "list" or option.immediate:
        return None
    names = synonyms(option.key)
    rest = translation.config.options[index + 1 :]
    return next((other for other in reversed(rest) if other.key in names), None)


# Each of these returns `EFFECT: TEXT`, or nothing where the table says enough.


def _socket(translation: Translation, option: Option) -> str:
    if translation.config.has("zerg") and is_dummy(option.value):
        return "ignored: a dummy that uWSGI wants beside zerg; the sockets come from the pool"
    return ""


def _need_app(translation: Translation, _option: Option) -> str:
    if needs_app(translation.config):
        return "built-in: a release that does not load never replaces one that works, also without this line"
    return "kept: the instance starts without a working application and answers 500; better take the line out"


def _mule(translation: Translation, option: Option) -> str:
    number = [item for item in translation.config if item.key == option.key].index(option) + 1
    mules = translation.background[0]
    if option.key == "mules" or translation.config.has("mules") or number > len(mules):
        return ""
    mule = mules[number - 1]
    return f"kept: handler {mule.name}: {work(mule)}"


def work(mule: Mule) -> str:
    """What a mule does, in words."""
    if mule.script:
        return f"runs {mule.script}"
    return f"calls {mule.target}" if mule.target else "waits for signals and messages"


def _farm(translation: Translation, option: Option) -> str:
    mules, farms = translation.background
    name = option.value.partition(":")[0]
    farm = next(farm for farm in farms if farm.name == name)
    return f"kept: the pool {name}: {', '.join(mules[number - 1].name for number in farm.mules)}"


def _user(translation: Translation, _option: Option) -> str:
    if translation.surroundings.uid:
        return "ignored: only root can change the user; uWSGI leaves it out as well"
    return ""


def _die_on_term(translation: Translation, option: Option) -> str:
    caught = any(text.startswith("unix_signal:15 ") for text in translation.config.texts("hook-master-start"))
    if caught and is_true(option.value):
        return "kept: SIGQUIT reloads; SIGTERM does what the hook of hook-master-start says"
    return "" if is_true(option.value) else "kept: SIGTERM reloads, SIGQUIT stops"


def _moment(_translation: Translation, option: Option) -> str:
    what, _, phase = option.key.partition("-")
    command = " (as a shell command)" if what == "exec" else ""
    return f"kept: {MOMENTS[cast(Phase, phase)]}{command}"


def _disable_logging(_translation: Translation, option: Option) -> str:
    return "" if is_true(option.value) else "kept: a line for each request"


#: When the hooks of a phase run.
MOMENTS: dict[Phase, str] = {
    "asap": "as soon as the options are read",
    "pre-jail": "before anything is bound",
    "post-jail": "before anything is bound",
    "in-jail": "before anything is bound",
    "as-root": "before the application's user is taken",
    "as-user": "as the application's user, before it is loaded",
    "as-user-atexit": "as the application's user, at the end",
    "pre-app": "before the application is loaded",
    "post-app": "when the application has been loaded",
    "post-fork": "in each worker when it starts",
    "accepting": "when a worker begins to accept",
    "accepting-once": "when a worker first begins to accept",
    "accepting1": "when the first worker begins to accept",
    "accepting1-once": "when the first worker begins to accept; once for each supervisor, so not at a handover",
    "master-start": "when the supervisor is up",
    "touch": "when the file is touched",
}

_SPECIAL: dict[str, Callable[[Translation, Option], str]] = {
    **dict.fromkeys(OWN, _socket),
    **{f"{what}-{phase}": _moment for phase in MOMENTS for what in ("hook", "exec") if phase != "touch"},
    "need-app": _need_app,
    "mule": _mule,
    "farm": _farm,
    **dict.fromkeys(("uid", "gid", "immediate-uid", "immediate-gid"), _user),
    "die-on-term": _die_on_term,
    "disable-logging": _disable_logging,
}
