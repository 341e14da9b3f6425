"""Faults at random under load: what may break, and the proof of what must not.

- `killing`: SIGKILL that knows which connections die with the process
- `flow`: jobs that are submitted all the time
- `season`: the faults and restarts, and the state that each must lead back to
- `proof`: what clients, handlers and jobs have written down, judged
"""

from __future__ import annotations
