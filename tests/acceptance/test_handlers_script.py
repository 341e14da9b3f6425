"""Scripts that know nothing of instar and still hand their names over without a boot: `handover = "warm"`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.handlers import act, all_active, pool, restart, row
from harness.instance import INSTAR, Instance
from harness.project import TESTS, Project
from harness.waiting import wait_for
from ledger import Ledger, breaches, gaps

#: Seconds that an import of the application takes.
LONG = 1.5
NAMES = ("test.work.1", "test.work.2")
#: Like a mule's script: it uses the application, and ends when it is told to by a signal.
WORK = """
import os, sys, time
import apps.slow_import

fd = os.open(os.environ["TEST_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
who = f"{os.environ['INSTAR_HANDLER']} {os.environ['INSTAR_EPOCH']} {os.getpid()}"

def write(what):
    os.write(fd, f"{time.monotonic():.6f} {who} {what}\\n".encode())

if __name__ == "__main__":
    write("enter")
    write("WORD")
    while True:
        write("beat")
        time.sleep(0.002)
"""


@pytest.fixture
def ledger(project: Project) -> Iterator[Ledger]:
    """A project whose handlers run the script `work.py` of the release and write to an empty ledger."""
    found = Ledger(project.root)
    project.config["app"] |= {"target": "apps.slow_import:app", "interface": "wsgi"}
    project.config["app"]["env"].update(found.environment, TEST_LONG=str(LONG))
    project.config["web"]["workers"] = 1
    project.config["web"].pop("static", None)
    project.config["restart"].update(grace=0.2, drain_timeout=5.0)
    script = str(project.root / "current/work.py")
    pool(project, "work", script=script, handover="warm", count=2)
    deploy(project, "first")
    yield found
    found.close()


def deploy(project: Project, word: str, source: str = WORK) -> Path:
    """A release with a script that writes this word."""
    release = project.deploy(word)
    (release / "work.py").write_text(source.replace("WORD", word))
    return release


def words(ledger: Ledger, name: str) -> list[str]:
    """What the scripts under a name have written, one word for each run."""
    return [line.what for line in ledger.lines() if line.name == name and line.what not in ("enter", "beat")]


def test_a_name_moves_without_a_boot(instance: Instance, ledger: Ledger) -> None:
    instance.start()
    all_active(instance, NAMES)
    for word in ("second", "third"):
        deploy(instance.project, word)
        assert restart(instance).get("outcome") == "done"
        all_active(instance, NAMES)
        wait_for("all work", lambda word=word: {words(ledger, name)[-1] for name in NAMES} == {word})
    # Less than one import of the application, of which there was one for each generation.
    assert breaches(ledger.lines(), LONG) == []
    found = gaps(ledger.lines())
    assert len(found) == 2 * len(NAMES)
    assert len(Path(f"{ledger.path}.imports").read_text().split()) == 3
    seconds = sorted(gap.seconds for gap in found)
    print("unheld:", [f"{1000 * each:.1f} ms" for each in seconds])
    for name in NAMES:
        assert words(ledger, name) == ["first", "second", "third"]


def test_the_script_is_that_of_its_generation(instance: Instance, ledger: Ledger) -> None:
    """Changed in place, it is taken by the next generation, not by a handler that is replaced."""
    instance.start()
    before = all_active(instance, NAMES)
    script = instance.project.root / "current/work.py"
    script.write_text(WORK.replace("WORD", "changed"))
    os.kill(before[NAMES[0]]["pid"], signal.SIGKILL)
    wait_for("it is replaced", lambda: len(words(ledger, NAMES[0])) == 2)
    assert act(instance, NAMES[1], "restart").get("outcome") == "done"
    wait_for("it is renewed", lambda: len(words(ledger, NAMES[1])) == 2)
    assert restart(instance).get("outcome") == "done"
    for name in NAMES:
        wait_for(f"{name} of the next", lambda name=name: len(words(ledger, name)) == 3)
        assert words(ledger, name) == ["first", "first", "changed"]
    assert breaches(ledger.lines(), LONG) == []


@pytest.mark.long
@pytest.mark.parametrize("source", ["def broken(:\n", None], ids=["no Python", "no file"])
def test_what_does_not_compile_replaces_nothing(instance: Instance, ledger: Ledger, source: str | None) -> None:
    instance.start()
    before = all_active(instance, NAMES)
    release = deploy(instance.project, "broken", source or "")
    if source is None:
        (release / "work.py").unlink()
    result = restart(instance)
    assert result.get("outcome") == "rolled-back", result
    assert ("SyntaxError" if source else "cannot read") in result["error"]
    after = all_active(instance, NAMES)
    assert [after[name]["pid"] for name in NAMES] == [before[name]["pid"] for name in NAMES]


@pytest.mark.long
def test_one_that_crashes_takes_the_release_back(instance: Instance, ledger: Ledger) -> None:
    instance.start()
    before = all_active(instance, NAMES)
    deploy(instance.project, "crash", WORK.replace("while True:", "raise SystemExit('no more work')\n    while True:"))
    result = restart(instance)
    assert result.get("outcome") == "rolled-back", result
    assert "status 1" in result["error"], result
    after = all_active(instance, NAMES)
    assert {after[name]["generation"] for name in NAMES} == {before[name]["generation"] for name in NAMES}
    wait_for("the old code works", lambda: {words(ledger, name)[-1] for name in NAMES} == {"first"})
    assert "no more work" in instance.command("logs", "-r", "test.work").out


@pytest.mark.long
def test_one_that_ends_is_started_again_after_a_pause(instance: Instance, ledger: Ledger) -> None:
    deploy(instance.project, "short", WORK.replace("while True:", "while False:"))
    pool(
        instance.project, "work", script=str(instance.project.root / "current/work.py"), handover="warm",
        backoff=0.2, backoff_limit=0.4,
    )  # fmt: skip
    instance.project.config["restart"]["grace"] = 0.0
    instance.start()
    wait_for("five lives", lambda: len(words(ledger, "test.work.1")) >= 5)
    pauses = [gap.seconds for gap in gaps(ledger.lines())][:4]
    for pause, least in zip(pauses, [0.0, 0.2, 0.4, 0.4], strict=True):
        assert least <= pause < least + 1.5, pauses
    assert row(instance, "test.work.1")["restarts"] >= 4


@pytest.mark.long
def test_a_lazy_application_is_loaded_before_the_name_is_free(instance: Instance, ledger: Ledger) -> None:
    instance.project.config["app"]["lazy"] = True
    instance.start()
    all_active(instance, NAMES)
    deploy(instance.project, "second")
    assert restart(instance).get("outcome") == "done"
    for name in NAMES:
        wait_for("it works", lambda name=name: words(ledger, name) == ["first", "second"])
    assert breaches(ledger.lines(), LONG) == []


MULE = "[uwsgi]\nmodule = apps.slow_import:app\nhttp = 127.0.0.1:{port}\nprocesses = 1\nmule = work.py\nfarm = work:1\n"


def test_a_converted_mule_moves_as_quickly_as_under_uwsgi(instance: Instance, ledger: Ledger, folder: Path) -> None:
    """`instar convert` of a file with a mule, run as it is."""
    project = instance.project
    (folder / "work.py").write_text(WORK.replace("WORD", "first"))
    (folder / "site.ini").write_text(
        MULE.format(port=project.port)
        + f"pythonpath = {TESTS}\nserver-name = test\n"
        + "".join(f"env = {key}={value}\n" for key, value in {**ledger.environment, "TEST_LONG": LONG}.items())
    )
    converted = folder / "converted.toml"
    done = subprocess.run(
        [INSTAR, "convert", "site.ini", "-o", converted], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    project.write = lambda: project.config_file  # type: ignore[method-assign]
    project.config_file.write_text(converted.read_text())
    instance.start()
    all_active(instance, NAMES[:1])
    (folder / "work.py").write_text(WORK.replace("WORD", "second"))
    assert restart(instance).get("outcome") == "done"
    wait_for("the new one works", lambda: words(ledger, NAMES[0]) == ["first", "second"])
    assert breaches(ledger.lines(), LONG) == []
    assert len(Path(f"{ledger.path}.imports").read_text().split()) == 2
