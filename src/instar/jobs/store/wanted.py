"""What a handler can take, and what waits for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from instar.jobs.model import Submission
from instar.jobs.store.backend import Transaction


@dataclasses.dataclass(frozen=True)
class Place:
    """What a handler has to know of a destination to fill it."""

    #: The runner behind it.
    runner: str = ""
    #: Live attempts in it, of all handlers together; 0: no limit.
    limit: int = 0
    #: Live attempts of one user in it; 0: no limit.
    user_limit: int = 0
    #: Taking a job is starting it: it is `running` at once.
    immediate: bool = False


@dataclasses.dataclass(frozen=True)
class Waiting:
    """What waits that one may take."""

    #: Destinations that have such jobs.
    places: frozenset[str] = frozenset()
    #: There are some without a destination.
    unrouted: bool = False
    #: Jobs of several users wait.
    several: bool = False


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a handler can take."""

    #: Destinations, those first that are to be filled first.
    places: Mapping[str, Place]
    #: Attempts that each runner has room for.
    rooms: Mapping[str, int]
    pool: str | None = None
    tags: tuple[str, ...] = ()
    #: So many at a time; 0: as many as there is room for.
    grab: int = 0
    #: So many of one user are considered at a time if others wait as well; 0: all.
    window: int = 0
    #: Live jobs of one user, wherever they run; 0: no limit.
    user_limit: int = 0
    #: Gives a job without a destination one, as the submission that it is then; None: there are no such jobs.
    route: Callable[[Submission], Submission] | None = None
    #: What was seen a moment ago; None: it is looked for once more.
    waiting: Waiting | None = None

    def promises(self, waiting: Waiting) -> bool:
        """Whether some of it could be taken."""
        room = {name for name, place in self.places.items() if self.rooms.get(place.runner, 0) > 0}
        return bool(room & waiting.places) or bool(room and self.route and waiting.unrouted)


def waiting(do: Transaction, name: str, wanted: Wanted) -> Waiting:
    """What waits for a handler, whether it has room or not."""
    first = "(SELECT user_name FROM instar_job WHERE state = 'new' ORDER BY user_name{} LIMIT 1)"
    names = {f"place_{_letters(index)}": place for index, place in enumerate(wanted.places)}
    where, values = eligible(name, wanted, "destination IS NULL")
    parts = [f"{first.format('')} <> {first.format(' DESC')}", f"EXISTS (SELECT 1 FROM instar_job WHERE {where})"]
    for key in names:
        where, _ = eligible(name, wanted, f"destination = :{key}")
        parts.append(f"EXISTS (SELECT 1 FROM instar_job WHERE {where})")
    row = do.one(f"SELECT {', '.join(parts)}", **values, **names) or ()
    several, unrouted, *there = map(bool, row)
    return Waiting(
        frozenset(place for place, is_there in zip(names.values(), there, strict=True) if is_there), unrouted, several
    )


def _letters(index: int) -> str:
    """Names of values have letters only."""
    return f"{chr(97 + index // 26)}{chr(97 + index % 26)}"


def eligible(name: str, wanted: Wanted, destination: str) -> tuple[str, dict[str, object]]:
    """The condition for jobs that a handler may take, and its values."""
    tags = {f"tag_{_letters(index)}": tag for index, tag in enumerate(wanted.tags)}
    any_tag = f" OR tag IN ({', '.join(f':{key}' for key in tags)})" if tags else ""
    where = (
        f"state = 'new' AND {destination} AND run_at <= {{now}} AND (handler IS NULL OR handler IN (:holder, '_null_'))"
        f" AND (pool IS NULL OR pool = :pool) AND (tag IS NULL{any_tag})"
    )
    return where, {"holder": name, "pool": wanted.pool, **tags}
