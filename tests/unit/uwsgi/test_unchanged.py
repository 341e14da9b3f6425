"""What a reload can't take up is named; what it can is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.config.formats.uwsgi import Surroundings, read
from instar.uwsgi.model import Instance
from instar.uwsgi.translate import translate
from instar.uwsgi.unchanged import left_as_they_were, sentence

ZERGLING = "zerg = /run/pool.sock\nmodule = x:app\nmaster-fifo = /run/fifo\n"
POOL = "zerg-pool = /run/pool.sock:127.0.0.1:4001\nmaster-fifo = /run/fifo\n"


def instance(folder: Path, text: str) -> Instance:
    (folder / "site.ini").write_text(f"[uwsgi]\n{text}")
    around = Surroundings(environ={}, cwd=folder, uid=1000)
    return translate(read("site.ini", surroundings=around), surroundings=around)


@pytest.mark.parametrize(
    ("before", "after", "names"),
    [
        (ZERGLING, ZERGLING, []),
        (ZERGLING, ZERGLING + "processes = 3\nhook-accepting1 = print:x\nmule = x:f\n", []),
        (ZERGLING, ZERGLING + "zerg = /run/other.sock\n", ["zerg"]),
        (ZERGLING, ZERGLING.replace("/run/pool", "/run/other"), ["zerg"]),
        (ZERGLING, ZERGLING + "zerg-pool = /run/b.sock:127.0.0.1:4002\n", ["zerg-pool"]),
        (ZERGLING, ZERGLING + "master-fifo = /run/second\n", ["master-fifo"]),
        (ZERGLING, ZERGLING + "touch-reload = /run/touched\npidfile = /run/pid\n", ["touch-…", "pidfile"]),
        (ZERGLING, ZERGLING + "die-on-term = true\n", ["die-on-term"]),
        (
            ZERGLING,
            ZERGLING + "hook-master-start = unix_signal:15 gracefully_kill_them_all\n",
            ["unix_signal"],
        ),
        # A pool of its own does this at each reload.
        (POOL, POOL.replace("4001", "4001,127.0.0.1:4002"), []),
        (POOL, POOL + "pidfile = /run/pid\n", ["pidfile"]),
    ],
)
def test_what_stays(tmp_path: Path, before: str, after: str, names: list[str]) -> None:
    assert left_as_they_were(instance(tmp_path, before), instance(tmp_path, after)) == names


def test_the_sentence_says_what_to_do() -> None:
    text = sentence(["zerg", "master-fifo"])
    assert text.startswith("zerg, master-fifo changed")
    assert text.endswith("stop the instance and start it again")
