"""How long a vassal that fails again and again has to wait."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Throttle:
    """uWSGI's blacklist for one vassal: only failures before it was loyal count, each makes the pause longer.

    uWSGI halves the pause when it reaches the limit; here it stays there.
    """

    step: float
    limit: float
    attempts: int = 0
    #: Not to be started before this moment (the caller's clock).
    until: float = 0.0

    def failed(self, now: float) -> float:
        """Count a failure; the pause in seconds. The first one costs nothing, as in uWSGI."""
        pause = min(self.attempts * self.step, self.limit)
        self.attempts += 1
        self.until = now + pause
        return pause

    def forget(self) -> None:
        """It is loyal, its file was touched, or somebody asked for a try at once."""
        self.attempts = 0
        self.until = 0.0

    def remaining(self, now: float) -> float:
        """Seconds still to wait."""
        return max(0.0, self.until - now)
