"""What a supervisor that died was doing, as its journal tells, and the rule for each case.

Pure: `read_story` makes facts of the journal's entries, `decide` a decision of the facts and of who still lives.
docs/adoption-rules.md is made from the table here.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Container, Iterable, Mapping
from typing import Any


class Stage(enum.StrEnum):
    """How far an operation had come: its last entry in the journal."""

    #: Nothing had been started yet: a wait, or the hook `before`.
    BEGUN = "begun"
    BOOT = "boot"
    CANARY = "canary"
    #: The web was (about to be) switched; names may have moved, the grace period may run.
    SWITCH = "switch"
    #: The same for a generation of handlers only.
    COMMIT = "commit"
    #: It has succeeded; the old generation's clients were being finished with.
    DRAIN = "drain"
    #: On the way back after the switch.
    ROLLBACK = "rollback"
    #: On the way back before it.
    GIVE_UP = "give-up"


class Rule(enum.StrEnum):
    """What to do about an operation."""

    #: The old generation serves, the new one is ended.
    BACK = "back"
    #: The new generation serves, and what is left to do is done.
    FORWARD = "forward"
    #: Nobody can be adopted who serves: what is left is ended, and a fresh generation is booted.
    CLEAN = "clean"


#: (stage, the new generation lives, the old one lives) → what to do. A new one that has not begun counts as dead.
RULES: dict[tuple[Stage, bool, bool], Rule] = {
    (Stage.BEGUN, False, True): Rule.BACK,
    (Stage.BEGUN, False, False): Rule.CLEAN,
    (Stage.BOOT, True, True): Rule.BACK,
    (Stage.BOOT, False, True): Rule.BACK,
    (Stage.BOOT, True, False): Rule.CLEAN,
    (Stage.BOOT, False, False): Rule.CLEAN,
    (Stage.CANARY, True, True): Rule.BACK,
    (Stage.CANARY, False, True): Rule.BACK,
    # It has passed the probe and has served: better than nobody.
    (Stage.CANARY, True, False): Rule.FORWARD,
    (Stage.CANARY, False, False): Rule.CLEAN,
    (Stage.SWITCH, True, True): Rule.FORWARD,
    (Stage.SWITCH, True, False): Rule.FORWARD,
    (Stage.SWITCH, False, True): Rule.BACK,
    (Stage.SWITCH, False, False): Rule.CLEAN,
    (Stage.COMMIT, True, True): Rule.FORWARD,
    (Stage.COMMIT, False, True): Rule.BACK,
    (Stage.COMMIT, True, False): Rule.CLEAN,
    (Stage.COMMIT, False, False): Rule.CLEAN,
    (Stage.DRAIN, True, True): Rule.FORWARD,
    (Stage.DRAIN, True, False): Rule.FORWARD,
    (Stage.DRAIN, False, True): Rule.BACK,
    (Stage.DRAIN, False, False): Rule.CLEAN,
    (Stage.ROLLBACK, True, True): Rule.BACK,
    (Stage.ROLLBACK, False, True): Rule.BACK,
    # Broken as it is, it is all there is.
    (Stage.ROLLBACK, True, False): Rule.FORWARD,
    (Stage.ROLLBACK, False, False): Rule.CLEAN,
    (Stage.GIVE_UP, True, True): Rule.BACK,
    (Stage.GIVE_UP, False, True): Rule.BACK,
    (Stage.GIVE_UP, True, False): Rule.CLEAN,
    (Stage.GIVE_UP, False, False): Rule.CLEAN,
}


@dataclasses.dataclass
class Operation:
    """A handover that has no result in the journal."""

    #: Number of the entry that began it.
    seq: int
    kind: str
    web: bool = True
    handlers: bool = True
    pools: tuple[str, ...] = ()
    keep_old: float | None = None
    #: Back to a generation that was still warm: there is no new one that could go wrong.
    swap: bool = False
    stage: Stage = Stage.BEGUN
    new: int | None = None
    old: int | None = None
    error: str = ""
    #: The hook `after` was begun.
    after: bool = False
    #: When it switched (seconds since the epoch).
    switched: float = 0.0


@dataclasses.dataclass
class Story:
    """The facts."""

    live: int | None = None
    lineage: list[int] = dataclasses.field(default_factory=list)
    #: Without a result, the oldest first: one that drains at most, and one behind it.
    operations: list[Operation] = dataclasses.field(default_factory=list)
    #: Kept warm, until when.
    kept: dict[int, float] = dataclasses.field(default_factory=dict)
    paused: set[str] = dataclasses.field(default_factory=set)
    #: Generations that go on for their handlers only: they can't serve the web again.
    nameonly: set[int] = dataclasses.field(default_factory=set)
    #: The last supervisor ended in order.
    stopped: bool = True

    @property
    def draining(self) -> Operation | None:
        """The operation whose old generation was draining."""
        return next((item for item in self.operations if item.stage is Stage.DRAIN), None)

    @property
    def active(self) -> Operation | None:
        """The operation that had not succeeded yet."""
        return next((item for item in reversed(self.operations) if item.stage is not Stage.DRAIN), None)


#: What the entry that begins an operation says of it.
_BEGUN = ("kind", "web", "handlers", "pools", "keep_old", "swap", "old")


def read_story(entries: Iterable[Mapping[str, Any]]) -> Story:
    """The facts that the journal's entries tell. Unknown entries are those of another release, and say nothing."""
    story = Story()
    for entry in entries:
        _follow(story, entry)
    return story


def _follow(story: Story, entry: Mapping[str, Any]) -> None:
    operation, number = story.active, entry.get("generation")
    match entry["op"]:
        case "start":
            story.stopped = False
        case "stop":
            story.stopped, story.live = True, None
            story.operations.clear()
            story.kept.clear()
            story.lineage.clear()
        case "begin":
            given = {key: entry[key] for key in _BEGUN if key in entry}
            story.operations.append(Operation(entry["seq"], **given))
        case "boot" if operation:
            operation.stage, operation.new = Stage.BOOT, number
        case "canary" if operation:
            operation.stage = Stage.CANARY
        case "switch" | "commit" if operation:
            operation.stage = Stage(entry["op"])
            operation.new, operation.switched = number, entry["time"]
            story.live = number if entry["op"] == "switch" else story.live
        case "rollback" if operation:
            operation.stage, operation.error = Stage.ROLLBACK, entry.get("error") or ""
            story.live = operation.old
        case "give-up" if operation:
            operation.stage, operation.error = Stage.GIVE_UP, entry.get("error") or ""
        case "after" if operation:
            operation.after = True
        case "settled" if operation:
            operation.stage = Stage.DRAIN
        case "result" if entry.get("began"):
            story.operations = [item for item in story.operations if item.seq != entry["began"]]
        case "lineage":
            story.lineage = list(entry["generations"])
            story.live = number
            # One that was kept serves again.
            story.kept.pop(number or 0, None)
        case "keep":
            story.kept[number or 0] = entry["time"] + entry["seconds"]
        case "web-ended":
            story.nameonly.add(number or 0)
        case "end":
            story.kept.pop(number or 0, None)
        case "pause":
            story.paused.add(entry["name"])
        case "resume":
            story.paused.discard(entry["name"])
        case _:
            pass


@dataclasses.dataclass(frozen=True)
class Decision:
    """What becomes of everybody. Generations that live and are named nowhere here are retired."""

    #: Who serves; None: nobody can, a fresh generation is booted.
    live: int | None
    #: The operations with what to do about each.
    operations: tuple[tuple[Operation, Rule], ...] = ()
    #: Why it is not simply the one that served.
    why: str = ""


def decide(story: Story, living: Container[int]) -> Decision:
    """The decision. `living`: the generations with web workers that can be adopted, or of handlers only."""
    live, done, why = story.live, [], ""

    def lives(number: int | None, web: bool) -> bool:
        return number is not None and number in living and not (web and number in story.nameonly)

    for operation in story.operations:
        new, old = lives(operation.new, operation.web), lives(operation.old, operation.web)
        rule = RULES[operation.stage, new, old]
        done.append((operation, rule))
        if not operation.web:
            continue
        live = {Rule.BACK: operation.old, Rule.FORWARD: operation.new, Rule.CLEAN: None}[rule]
        if rule is Rule.CLEAN or (rule is Rule.BACK and operation.stage in (Stage.SWITCH, Stage.DRAIN)):
            why = f"generation {operation.new or operation.old} has died as well"
    if live is not None and not lives(live, web=True):
        live, why = None, f"generation {live} has died as well"
    if live is None:
        done = [(operation, Rule.CLEAN) for operation, _ in done]
    return Decision(live, tuple(done), why)


def page() -> str:
    """The page of the documentation."""
    rows = []
    words = {Rule.BACK: "the old generation serves, the new one is ended", Rule.CLEAN: "a fresh generation is booted"}
    words[Rule.FORWARD] = "the new generation serves; what is left to do is done"
    for (stage, new, old), rule in RULES.items():
        rows.append(f"| {stage} | {_alive(new)} | {_alive(old)} | {rule}: {words[rule]} |")
    table = "\n".join(rows)
    return f"""# What becomes of an interrupted handover

Made from the table in `src/instar/supervisor/interrupted.py`; a test compares the two. The stage is the last that the
journal knows of. What is left to do after going forward: the names, the rest of the grace period with its rollback, the
drain. `settled` handovers are in the stage `drain`. See [ADR 0023](adr/0023-adoption.md).

| the supervisor was killed in | the new generation | the old generation | what the next supervisor does |
|---|---|---|---|
{table}
"""


def _alive(lives: bool) -> str:
    return "lives" if lives else "is dead, or never was"


if __name__ == "__main__":
    print(page(), end="")
