"""The page of the example application, in a real browser, while the application is restarted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness.browser import PROGRAM, browse
from harness.instance import Instance
from harness.project import Project

EXAMPLE = Path(__file__).parents[2] / "examples/notes"

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium: apt-get install chromium")


class ExampleProject(Project):
    """The example in a folder of its own."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        ignored = shutil.ignore_patterns("*.sqlite3*", "__pycache__")
        self._folder = shutil.copytree(EXAMPLE, root / "notes", ignore=ignored)

    @property
    def config_file(self) -> Path:
        return self._folder / "instar.toml"

    def write(self) -> Path:
        text = self.config_file.read_text()
        self.config_file.write_text(text.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}"))
        return self.config_file


@pytest.fixture
def project(folder: Path) -> ExampleProject:
    return ExampleProject(folder)


def test_jobs_and_requests_go_on_over_a_restart(instance: Instance, project: ExampleProject) -> None:
    instance.start()
    with browse(f"http://127.0.0.1:{project.port}/", project.root) as page:
        page.wait("the page is live", "document.querySelector('#socket').classList.contains('open')")
        for number in range(4):
            page.do(f"fetch('/notes', {{method: 'POST', body: new URLSearchParams({{text: 'note {number}'}})}})")
        page.wait("the notes are shown", "document.querySelectorAll('#notes li:not(.empty)').length === 4")
        page.do("document.querySelector('#print').click()")
        page.wait("the job runs", "document.querySelector('#jobs .running progress')?.value >= 1")
        before = page.do(
            "document.querySelector('#jobs progress').value / document.querySelector('#jobs progress').max"
        )
        assert before < 1
        assert instance.command("restart").code == 0
        page.wait("the new generation answers", "document.querySelector('.number').innerText === '2'")
        page.wait("the job has ended", "document.querySelector('#jobs .ok') !== null")
        assert page.text("#jobs .ok span") == "4 pages, 8 lines"
        page.wait("more requests were answered", "Number(document.querySelector('#answered').innerText) > 20")
        assert page.text("#lost") == "0"
    (job,) = instance.command("jobs", "list", "--json").json["jobs"]
    assert (job["state"], job["attempt"], job["result"]) == ("ok", 1, {"pages": 4, "lines": 8})
