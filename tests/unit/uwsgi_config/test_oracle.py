"""The reader beside uWSGI's own: both must find the same ordered list.

The list comes out of the real program through a small plugin (built here) that is loaded after everything else on the
command line has been read, and prints it before anything is bound or started.
"""

# ruff: noqa: E501 - one configuration a line
from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instar.config.formats.uwsgi import Surroundings, read, read_command_line
from instar.errors import ConfigError

FIXTURES = Path(__file__).parent / "fixtures"
ENVIRON = {"PATH": "/usr/bin:/bin", "HOME": "/root", "NAME": "value", "TWICE": "$(NAME)", "LOOK": "x $(NAME)"}

PLUGIN = r"""
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>
extern void uwsgi_apply_config_pass(char, char *(*)(char *));
extern char *uwsgi_open_and_read(char *, size_t *, int, char **);
extern char *uwsgi_manage_placeholder(char *);
extern void show_config(void);
static char *content(char *name) {
    size_t size = 0;
    char *text = uwsgi_open_and_read(name, &size, 1, NULL);
    if (size > 1 && (text[size - 2] == '\n' || text[size - 2] == '\r')) text[size - 2] = 0;
    return text;
}
__attribute__((constructor)) static void print(void) {
    uwsgi_apply_config_pass('$', (char *(*)(char *)) getenv);
    uwsgi_apply_config_pass('@', content);
    uwsgi_apply_config_pass('%', uwsgi_manage_placeholder);
    show_config();
    _exit(0);
}
"""


def program() -> str | None:
    beside = Path(sys.executable).with_name("uwsgi")
    return str(beside) if beside.exists() else shutil.which("uwsgi")


@functools.cache
def plugin() -> Path | None:
    """The plugin; None without a compiler. It stays for the next run."""
    path = Path(tempfile.gettempdir()) / f"instar-uwsgi-oracle-{os.getuid()}" / f"list-{os.getpid()}_plugin.so"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    source = path.with_suffix(".c")
    source.write_text(PLUGIN)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    done = subprocess.run([compiler, "-shared", "-fPIC", "-o", path, source], capture_output=True)
    return path if done.returncode == 0 else None


pytestmark = [
    pytest.mark.skipif(program() is None, reason="needs uWSGI: pip install uwsgi"),
    pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("cc")), reason="needs a C compiler for the plugin"),
]


def theirs(folder: Path, name: str, kind: str) -> list[tuple[str, str]] | None:
    """What uWSGI reads from a file; None when it refuses."""
    pairs = their_command_line(folder, [f"--{kind}", name], ENVIRON)
    # The first is the file itself.
    return None if pairs is None else pairs[1:]


def their_command_line(folder: Path, arguments: list[str], environ: dict[str, str]) -> list[tuple[str, str]] | None:
    """What uWSGI reads; None when it refuses."""
    command = [program() or "", *arguments, "--plugin", str(plugin())]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, errors="replace", timeout=10
    )
    if done.returncode:
        return None
    text = (done.stdout + done.stderr).split("[uwsgi]\n", 1)[1].split(";end of configuration")[0]
    pairs = [tuple(line.split(" = ", 1)) for line in text.splitlines() if line]
    # The last is the plugin.
    return [(pair[0], pair[1]) for pair in pairs[:-1]]  # type: ignore[misc]


def ours(folder: Path, name: str, kind: str) -> list[tuple[str, str]] | None:
    try:
        config = read(name, kind=kind, surroundings=Surroundings(environ=ENVIRON, cwd=folder))
    except ConfigError:
        return None
    return [(option.key, option.value) for option in config]


def check(folder: Path, kind: str, text: str, section: str = "") -> list[tuple[str, str]] | None:
    suffix = "yml" if kind == "yaml" else kind
    (folder / f"site.{suffix}").write_text(text)
    name = f"site.{suffix}{section}"
    expected = theirs(folder, name, kind)
    assert ours(folder, name, kind) == expected
    return expected


INI = {
    "magic": "[uwsgi]\na = %d|%p|%s|%n|%e|%c|%x|%v|%0|%1|%9\nb = %D%P%S%N%E%C%X\nc = 100%%\nd = 100%\ne = 5%q6\nf=%j\ng=%h%k%u%U%V",
    "environment": "[uwsgi]\na = $(NAME)\nb = $(ABSENT)\nc = $(TWICE)\nd = $(LOOK)\ne = $()$(NAME)$((x))\nf = $$(NAME)\ng=$(a$b)$(NAME)",
    "references": "[uwsgi]\na = 4\nb = %(a)\nc = %(a + 3)\nd = %(a * -3)\ne = %(a / 0)\nf = %(a / 3)\ng = %(a ++)\nh = %(a a)\n"
    "i = %(absent)\nj = %(absent + 1)\nk = %(a 1 - 2 +)\nl = %(b)\nm = %(n)\nn = %(a)\n",
    "first-value": "[uwsgi]\nx = 1\nx = 2\ny = %(x)\n",
    "set": "[uwsgi]\nset = a=b\nset-ph = c=d=e\nf = %(a)%(c)\ng = %(set)\n",
    "loops": "[uwsgi]\nfor = 1 2  3\nmule = m%(_).py\nset = a%(_)=x\nendfor =\nfor-times = 3\nfarm = f%(_):%(_)\nend-for\nz = 1\n",
    "glob": "[uwsgi]\nfor-glob = *.py\nmule = %(_)\nendfor\nfor-glob = none*\nmule = %(_)\nend\nfor-readline = lines\na = %(_)\nend\n",
    "exists": "[uwsgi]\nif-exists = one.py\na = %(_)\nendif\nif-exists = no\nb = 1\nendif\nif-not-exists = no\nc = %(_)\nend\n"
    "if-dir = .\nd = 1\nend\nif-not-dir = one.py\ne = 1\nend-if\nif-file = one.py\nf = 1\nend\nif-not-file = .\ng = 1\nendif\n",
    "environment-conditions": "[uwsgi]\nif-env = NAME\na = %(_)\nend\nif-env = NAME=value\nb = %(_)\nend\nif-env = NAME=no\nc = 1\nend\n"
    "if-not-env = NAME\nd = 1\nend\nif-not-env = NAME=no\ne = %(_)\nend\nif-not-env = NONE\nf = %(_)\nend\n",
    "option-conditions": "[uwsgi]\no = 1\nif-opt = o\na = %(_)\nend\nif-opt = o=1\nb = 1\nend\nif-opt = o=2\nc = 1\nend\nif-not-opt = q\nd = 1\nend\n",
    "reload": "[uwsgi]\nif-reload = true\na = 1\nendif\nif-not-reload = true\nb = 1\nendif\n",
    "else": "[uwsgi]\nif-exists = no\na = 1\nelse = true\nb = 1\nendif\nc = 1\n",
    "nested": "[uwsgi]\nif-exists = one.py\nif-exists = two.py\na = 1\nendif\nendif\n",
    "nested-in-false": "[uwsgi]\nif-exists = no\nif-exists = one.py\na = 1\nendif\nb = 1\nendif\n",
    "include": "[uwsgi]\na = %n\nini = other.ini\nb = %n %N\nini = :more\ninclude = other.ini\nyaml = other.yml\n[more]\nx = %x\n",
    "own-section": "[uwsgi]\na = 1\nini = site.ini:more\n[more]\nb = %x\n",
    "include-in-if": "[uwsgi]\nif-exists = one.py\nini = other.ini\nendif =\nb = 1\n",
    "include-in-loop": "[uwsgi]\nfor = 1 2\nini = other.ini\nendfor =\nb = 1\n",
    "include-in-false": "[uwsgi]\nif-exists = no\nini = absent.ini\nendif =\nb = 1\n",
    "absent": "[uwsgi]\nini = absent.ini\n",
    "file": "[uwsgi]\na = @(line)\nb = [@(secret)]\n",
    "absent-file": "[uwsgi]\na = @(absent)\n",
    "not-in-immediate": "[uwsgi]\nfile = one.py\nif-exists = %(file)\na = 1\nendif\nif-exists = $(NAME)\nb = 1\nendif\n",
    "bad-set": "[uwsgi]\nset = nothing\n",
    "taken-placeholder": "[uwsgi]\nset-ph = processes=4\n",
    "format": '; c\n# c\n[other]\nx = 1\n[uwsgi]\n  a  =  b = c \nbare\n[other]\ny = 1\n[uwsgi]\nz = "q" ; no comment\n\n',
    "plugin": "[uwsgi]\nif-plugin = python\na = 1\nend\nif-plugin = nosuch\nb = 1\nend\nif-not-plugin = nosuch\nc = 1\nend\n",
    "hostname": "[uwsgi]\nif-hostname = nosuch\na = 1\nend\nif-not-hostname = nosuch\nb = %(_)\nend\n",
    "empty": "",
}

YAML = {
    "depths": "uwsgi:\n  a: 1\n    b: 2\n\n  # c\n   c: 3 # d\n\td: 4\nother:\n  e: 5\n",
    "later-section": "x:\n  uwsgi: 1\n  a: 2\nuwsgi:\n  a: 1\n",
    "colons": "uwsgi:\n  a: b: c\n  d:e: f\n  g:\th\n  i : j\n  k: \n  l: %d%n\n",
    "hash": "uwsgi:\n  a: b#c\n  d: e # f\n# g\n  h: i\n",
    "duplicates": "uwsgi:\n  a: 1\n  a: 2\n  if-exists: one.py\n  a: 3\n  endif: null\n  b: 1\n",
    "document": "---\nuwsgi:\n  a: 1\n---\nuwsgi:\n  b: 2\n",
    "with-text": "uwsgi: yes\n  a: 1\n",
}

XML = {
    "root": "<uwsgi><a>1</a><b/><a>2</a><c> x </c><d>$(NAME) %n</d></uwsgi>",
    "inside": '<x><y/><uwsgi id="one"><a>1</a></uwsgi><uwsgi id="two"><a>2</a></uwsgi></x>',
    "app": '<uwsgi><app mountpoint="/x"> <script>y</script> </app><app domain="h">z</app></uwsgi>',
    "no-root": "<x><a>1</a></x>",
    "broken": "<uwsgi><a></uwsgi>",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.py").touch()
    (tmp_path / "two.py").touch()
    (tmp_path / "lines").write_text("first\nsecond\n")
    (tmp_path / "line").write_text("one\n")
    (tmp_path / "secret").write_text("word")
    (tmp_path / "other.ini").write_text("[uwsgi]\no = %n %N\nendif =\np = %(_)\n[more]\nfrom-other = 1\n")
    (tmp_path / "other.yml").write_text("uwsgi:\n  y: %n %N %s\n")
    return tmp_path


@pytest.mark.parametrize("name", INI)
def test_ini(folder: Path, name: str) -> None:
    check(folder, "ini", INI[name])


@pytest.mark.parametrize("name", YAML)
def test_yaml(folder: Path, name: str) -> None:
    check(folder, "yaml", YAML[name])


@pytest.mark.parametrize("name", XML)
def test_xml(folder: Path, name: str) -> None:
    check(folder, "xml", XML[name])


@pytest.mark.parametrize(("kind", "section"), [("ini", ":more"), ("yaml", ":more"), ("xml", ":two")])
def test_sections(folder: Path, kind: str, section: str) -> None:
    texts = {"ini": INI["own-section"], "yaml": "uwsgi:\n  a: 1\nmore:\n  b: %x\n", "xml": XML["inside"]}
    assert check(folder, kind, texts[kind], section)


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.glob("*.yml")))
def test_the_recipe(folder: Path, name: str) -> None:
    text = (FIXTURES / name).read_text().replace("/srv/galaxy", str(folder))
    (folder / "config").mkdir()
    (folder / "config/galaxy.yml").write_text((FIXTURES / "galaxy.yml").read_text())
    (folder / "var/zerg").mkdir(parents=True)
    assert check(folder, "yaml", text)
    (folder / "var/zerg/zergling-running.fifo").touch()
    assert check(folder, "yaml", text)


KEYS = st.sampled_from(["a", "b", "mule", "processes", "endif", "endfor", "else", "master"])
WORDS = st.sampled_from(
    [
        "1",
        "x y",
        "%(a)",
        "%(b + 2)",
        "%(a b)",
        "$(NAME)",
        "$(LOOK)",
        "$(NONE)",
        "%n",
        "%%",
        "%(_)",
        "=",
        ":",
        "(",
        ")",
        "$",
        " ",
    ]
)
VALUES = st.lists(WORDS, max_size=4).map("".join)
BLOCKS = st.sampled_from(
    [
        "if-exists = one.py",
        "if-exists = no",
        "for = 1 2",
        "if-env = NAME",
        "if-opt = a",
        "if-not-opt = a",
        "set = b=%(a)",
    ]
)
LINES = st.lists(st.one_of(BLOCKS, st.tuples(KEYS, VALUES).map(" = ".join)), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LINES)
def test_any_ini(folder: Path, lines: list[str]) -> None:
    # First values without references: uWSGI hangs where an option refers to itself. The end: else the plugin that
    # follows on the command line would belong to an open block.
    check(folder, "ini", "[uwsgi]\na = 3\nb = x\n" + "\n".join(lines) + "\nend =\n")


COMMAND_LINES = {
    "recipe": "--emperor vassals --emperor-wrapper /usr/bin/uwsgi",
    "file": "--yaml other.yml --master",
    "section": "--ini other.ini:more --processes=4",
    "short": "-s :3031 -p4 -M -H venv -w a.b:c -t 30 -b 8192 -l100 -z 4 -d log -R 5 -L -T -i -m -S a=b",
    "cluster": "-LMp4",
    "optional": "-C -C660 --chmod-socket --chmod-socket=600 --mule --mule=x.py",
    "abbreviated": "--harakiri-v --emperor-thr 3",
    "ambiguous": "--emp 1",
    "unknown": "--no-such-option",
    "unknown-letter": "-%",
    "missing": "--master --socket",
    "unwanted": "--master=1",
    "set": "--set server-name=blue --set-ph x=y --env A=%(x) --threads %(server-name)",
    "blocks": "--if-exists one.py --threads 3 --endif --if-exists no --threads 4 --end-if",
    "twice": "--socket a --socket b --static-map /a=b",
}


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_command_line(folder: Path, name: str) -> None:
    arguments = COMMAND_LINES[name].split()
    environ = {**ENVIRON, "UWSGI_HARAKIRI": "3", "UWSGI_MAX_REQUESTS": "a=b", "UWSGI_RELOADS": "0"}
    expected = their_command_line(folder, arguments, environ)
    try:
        config = read_command_line(arguments, surroundings=Surroundings(environ=environ, cwd=folder))
    except ConfigError:
        assert expected is None
        return
    assert [(item.key, "true" if item.bare else item.value) for item in config] == expected


def test_files_without_an_option_come_last(folder: Path) -> None:
    # uWSGI reads them after the plugin that prints the list, so this is not compared.
    around = Surroundings(environ={}, cwd=folder)
    config = read_command_line(["other.ini", "--master", "[as ps shows it]"], surroundings=around)
    assert [item.key for item in config] == ["master", "o", "endif", "p"]
    assert config.source == folder / "other.ini"
    assert [str(item.place) for item in config] == ["the command line", "other.ini:2", "other.ini:3", "other.ini:4"]
