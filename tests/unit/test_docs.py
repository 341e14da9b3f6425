"""The generated pages are current, and links between the pages lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from instar.cli import VERBS
from instar.config.formats.uwsgi.known import known_options

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_command_line_reference_is_current() -> None:
    spec = importlib.util.spec_from_file_location("cli_reference", ROOT / "scripts/cli_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/cli.md").read_text() == module.reference(), "run `make reference`"


def test_every_verb_is_in_the_reference() -> None:
    text = (ROOT / "docs/cli.md").read_text()
    assert [verb for verb in VERBS if f"\n## instar {verb}\n" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_and_keys_in_examples_exist(page: Path) -> None:
    """`instar VERB --option` in a page is an option of that verb."""
    reference = (ROOT / "docs/cli.md").read_text()
    sections = dict(re.findall(r"^## instar (\w+)\n(.*?)(?=^## |\Z)", reference, re.MULTILINE | re.DOTALL))
    for verb, rest in re.findall(r"(?:^|[ `/])instar (\w+)([^`\n#|]*)", page.read_text()):
        for option in re.findall(r"(?<=\s)--?[a-z][\w-]*", rest):
            if verb == "uwsgi":
                # Its options are uWSGI's.
                assert option.lstrip("-") in known_options(), f"instar uwsgi {option}"
            elif verb in sections:
                assert re.search(rf"`{option}[ `]", sections[verb]), f"instar {verb} {option}"
