"""The batch script: what a node does for an attempt, in plain sh, with what every node has."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from instar.jobs.folder import Folder

#: Exit statuses of a job that was not to begin: no place for its ticket; somebody has decided before.
NO_TICKET: Final = 121
TURNED_AWAY: Final = 122

_SCRIPT: Final = """\
#!/bin/sh
# An attempt of a job of instar.
dir={folder}
cwd={cwd}
mine="$dir/.ticket.$SLURM_JOB_ID.$$"
# Slurm signals the program itself, too. A shell with a handler goes on waiting for it, and then has its status.
trap : TERM

# link(2) decides who begins, also when Slurm has got this twice, or somebody has declared it void meanwhile.
# (A signal may end date as well.)
began=$(date +%s.%N)
began=${{began:-0}}
printf '{{"slurm": "%s", "host": "%s", "at": %s}}' "$SLURM_JOB_ID" "$(uname -n)" "$began" >"$mine" || exit {no_ticket}
ln "$mine" "$dir/ticket" 2>/dev/null
[ "$(cat "$dir/ticket" 2>/dev/null)" = "$(cat "$mine")" ] || {{ rm -f "$mine"; exit {turned_away}; }}
rm -f "$mine"

if cd "$cwd"; then
    # Not as words of the shell: it would take NAME=VALUE for its own, and run what is built in.
    set -- {argv}
    (exec "$@") </dev/null
    code=$?
else
    code=127
fi

# Too late to ask for the end.
trap '' TERM
end="$dir/.exit.$SLURM_JOB_ID.$$"
printf '{{"code": %d, "started_at": %s, "finished_at": %s}}' "$code" "$began" "$(date +%s.%N)" >"$end"
sync "$end" 2>/dev/null
mv "$end" "$dir/exit"
exit "$code"
"""


def script(folder: Folder, argv: Sequence[str], cwd: str) -> str:
    """The script for one attempt. The program's environment is that of sbatch."""
    return _SCRIPT.format(
        folder=shlex.quote(str(folder.path)),
        cwd=shlex.quote(cwd),
        argv=shlex.join(argv),
        no_ticket=NO_TICKET,
        turned_away=TURNED_AWAY,
    )
