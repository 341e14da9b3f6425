"""The states of a job, and the diagram that is made from them."""

from __future__ import annotations

from pathlib import Path

from instar.jobs.model import JobState
from instar.jobs.states import MOVES, diagram

PAGE = Path(__file__).parents[3] / "docs/jobs.md"


def test_every_state_is_reached_and_only_ends_are_ends() -> None:
    assert {after for _, after in MOVES} == set(JobState)
    assert {before for before, _ in MOVES} == set(JobState) - {JobState.OK}


def test_the_diagram_in_the_documentation_is_this_table() -> None:
    assert f"```mermaid\n{diagram()}\n```" in PAGE.read_text(), f"put this into docs/jobs.md:\n{diagram()}"
