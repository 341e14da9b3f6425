"""What the comparison with the real program can't show: formats that its build lacks, messages, places, limits."""

# ruff: noqa: E501 - one configuration a line
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from instar.config.formats.uwsgi import Surroundings, UwsgiConfig, is_uwsgi_file, read, split_section
from instar.errors import ConfigError

Load = Callable[..., UwsgiConfig]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Read a text as a file of that name."""

    def load(text: str, name: str = "site.ini", *, as_: str = "", **environ: str) -> UwsgiConfig:
        (tmp_path / name).write_text(text)
        return read(as_ or name, surroundings=Surroundings(environ=environ, cwd=tmp_path))

    return load


def pairs(config: UwsgiConfig) -> list[tuple[str, str]]:
    return [(option.key, option.value) for option in config]


def notes(config: UwsgiConfig) -> list[str]:
    return [f"{note.place}: {note.text}" for note in config.notes]


def refused(load: Load, text: str, name: str = "site.ini", **more: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(text, name, **more)
    assert str(error.value).startswith("cannot read ")
    return str(error.value)


class TestJson:
    def test_values(self, load: Load) -> None:
        text = '{"other": {"x": 1}, "uwsgi": {"a": "b", "n": 4, "yes": true, "no": false, "none": null, "list": ["x", 2, true]}}'
        assert pairs(load(text, "site.json")) == [
            ("a", "b"),
            ("n", "4"),
            ("yes", "1"),
            ("no", "0"),
            ("none", "0"),
            ("list", "x"),
            ("list", "2"),
            ("list", "1"),
        ]

    def test_section_and_placeholders(self, load: Load) -> None:
        text = '{"uwsgi": {"a": 1}, "more": {"b": "%n %x"}}'
        assert pairs(load(text, "site.js", as_="site.js:more")) == [("b", "site more")]

    def test_lines(self, load: Load) -> None:
        config = load('{\n "uwsgi": {\n  "a": 1,\n  "b": 2\n }\n}', "site.json")
        assert [str(option.place) for option in config] == ["site.json:3", "site.json:4"]

    def test_what_has_no_meaning(self, load: Load) -> None:
        config = load('{"uwsgi": {"a": 1.5, "b": {"c": 1}, "d": 1}}', "site.json")
        assert pairs(config) == [("d", "1")]
        assert [text for text in notes(config) if "leaves out" in text] == notes(config)
        assert len(notes(config)) == 2

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"uwsgi": {', "it is not JSON: "),
            ("[1]", 'no object "uwsgi"'),
            ('{"other": {}}', 'no object "uwsgi"'),
            ("[" * 100_000, "not JSON"),
        ],
    )
    def test_refused(self, load: Load, text: str, words: str) -> None:
        assert words in refused(load, text, "site.json")


class TestYaml:
    def test_quotes_and_lists_as_libyaml_reads_them(self, load: Load) -> None:
        config = load(
            'uwsgi:\n  a: "b # c"\n  env:\n    - A=1\n    - B=2\n  more: [x, y]\n  deep:\n    c: d\nother:\n  e: f\n',
            "s.yml",
        )
        assert pairs(config) == [
            ("a", "b # c"),
            ("env", "A=1"),
            ("env", "B=2"),
            ("more", "x"),
            ("more", "y"),
            ("c", "d"),
        ]
        assert "read as a uWSGI with libyaml does" in notes(config)[0]

    def test_line_by_line_unless_there_is_a_reason(self, load: Load) -> None:
        config = load("uwsgi:\n  a: b#c\n  d: x # y\n  e: it's\n", "s.yaml")
        assert pairs(config) == [("a", "b"), ("d", "x"), ("e", "it's")]
        assert notes(config) == ["s.yaml:2: a # is a comment even in the middle of a value: what follows it is lost"]

    def test_lost_indentation(self, load: Load) -> None:
        config = load("uwsgi:\nmaster: true\nprocesses: 2\n---\nuwsgi:\nmaster: false\n", "s.yml")
        assert pairs(config) == [("master", "true"), ("processes", "2")]
        assert "have lost their indentation" in notes(config)[0]

    def test_another_section(self, load: Load) -> None:
        config = load("galaxy:\n  x: 1\n", "s.yml")
        assert pairs(config) == []
        assert notes(config) == ["s.yml: it has no section uwsgi:, so nothing was read"]

    def test_the_rest_is_lost(self, load: Load) -> None:
        config = load("uwsgi:\n  a: 1\n  word\n  b: 2\n", "s.yml")
        assert pairs(config) == [("a", "1")]
        assert "uWSGI stops reading here" in " ".join(notes(config))

    def test_aliases_and_tags_do_nothing(self, load: Load) -> None:
        config = load(
            'uwsgi:\n  a: &x "1"\n  b: *x\n  c: !!python/object/apply:os.system ["true"]\n  d: "e"\n', "s.yml"
        )
        assert pairs(config) == [("a", "1"), ("c", "true"), ("d", "e")]

    def test_neither_dialect(self, load: Load) -> None:
        config = load('uwsgi:\n  a: "1"\n  b: [x\n', "s.yml")
        assert ("a", '"1"') in pairs(config)
        assert "it looks like YAML for a uWSGI with libyaml, but it is not YAML" in " ".join(notes(config))


class TestXml:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("<uwsgi><a>", "it is not XML"),
            ("", "it is not XML"),
            ("<x/>", "no element <uwsgi>"),
            ('<!DOCTYPE x [<!ENTITY a "b">]><uwsgi><a>&a;</a></uwsgi>', "document type or entities"),
            ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><uwsgi/>', "document type or entities"),
        ],
    )
    def test_refused(self, load: Load, text: str, words: str) -> None:
        assert words in refused(load, text, "site.xml")

    def test_id_that_is_not_there(self, load: Load) -> None:
        text = '<x><uwsgi id="one"/></x>'
        assert "with the id two" in refused(load, text, "site.xml", as_="site.xml:two")

    def test_lines(self, load: Load) -> None:
        config = load("<uwsgi>\n <a>1</a>\n\n <b/>\n</uwsgi>", "site.xml")
        assert [option.place.line for option in config] == [2, 4]


class TestInherit:
    def test_comes_last(self, tmp_path: Path, load: Load) -> None:
        (tmp_path / "base.ini").write_text("[uwsgi]\nprocesses = 8\nname = %n %(a)\ninherit = more.ini\n")
        (tmp_path / "more.ini").write_text("[uwsgi]\nthreads = 3\n")
        config = load("[uwsgi]\ninherit = base.ini\na = 1\nprocesses = 2\n")
        assert pairs(config)[-4:] == [
            ("processes", "8"),
            ("name", "base %(a)"),
            ("inherit", "more.ini"),
            ("threads", "3"),
        ]
        assert config.number("processes") == 8

    def test_itself(self, load: Load) -> None:
        assert "inherits itself" in refused(load, "[uwsgi]\ninherit = site.ini\n")

    def test_absent(self, load: Load) -> None:
        assert "absent.ini: no such file" in refused(load, "[uwsgi]\ninherit = absent.ini\n")


class TestStrict:
    def test_all_unknown_options_at_once(self, load: Load) -> None:
        text = refused(load, "[uwsgi]\nstrict = true\nproceses = 2\nmine = 1\nmaster = 1\nendif =\n")
        assert text.splitlines() == [
            "cannot read site.ini:3: uWSGI has no option proceses, which strict refuses; did you mean processes?",
            "cannot read site.ini:4: uWSGI has no option mine, which strict refuses; take it out, or take out strict",
        ]

    @pytest.mark.parametrize(
        "text", ["strict = false\nmine = 1\n", "mine = 1\n", "strict = 1\nset-ph = mine=1\nprocesses = %(mine)\n"]
    )
    def test_allowed(self, load: Load, text: str) -> None:
        load(f"[uwsgi]\n{text}")


class TestNotes:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("if-exists = x\na = 1\n", "site.ini:2: if-exists = x is never closed by endif or endfor"),
            ("endif =\n", "site.ini:2: endif: nothing is open here"),
            ("if-exists = $(HOME)/x\nendif =\n", "site.ini:2: if-exists: $(…) is not replaced here"),
            ("if-exists = site.ini\nelse = 1\nendif =\n", "site.ini:3: uWSGI has no else"),
            ('a = "b"\n', "site.ini:2: the quotes are part of the value"),
            ("a = b # c\n", "site.ini:2: a comment can't follow a value"),
            (
                "if-exists = site.ini\nini = other.ini\nendif =\n",
                "site.ini:3: ini: what is in that file is not subject",
            ),
        ],
    )
    def test_note(self, tmp_path: Path, load: Load, text: str, words: str) -> None:
        (tmp_path / "other.ini").write_text("[uwsgi]\nb = 1\n")
        assert [note for note in notes(load(f"[uwsgi]\n{text}")) if note.startswith(words)]

    def test_none_for_the_recipe(self) -> None:
        for file in (Path(__file__).parent / "fixtures").glob("*.yml"):
            if file.name != "vassal-zergling.yml":
                assert read(str(file)).notes == ()


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("ini = absent.ini", "site.ini:2: absent.ini: no such file in "),
            ("ini = .", "site.ini:2: .: it is not a file"),
            ("ini = site.ini", "site.ini includes itself"),
            ("include = site.txt", "site.txt does not end in .ini"),
            ("ini = http://host/x.ini", "reads its configuration from files only"),
            ("ini = -", "reads its configuration from files only"),
            ("set = x", "needs the form set = name=value"),
            ("set-ph = processes=1", "it is an option of uWSGI; use set"),
            ("a = x%(a)", "refers to itself through %(…)"),
            ("a = @(absent)", "a: there is no file "),
            ("a = @(http://x)", "only files are"),
            ("if-exists = site.ini\nif-exists = site.ini", "uWSGI has no blocks in blocks"),
            ("for-times = 99999999\na = 1\nendfor =", "has more than 10000 turns"),
            ("if-hostname-match = (\na = 1\nendif =", "has the pattern '('"),
        ],
    )
    def test_sentence(self, load: Load, text: str, words: str) -> None:
        assert words in refused(load, f"[uwsgi]\n{text}\n")

    @pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe", "not UTF-8"), (b"[uwsgi]\na=\0", "zero byte")])
    def test_no_text(self, tmp_path: Path, content: bytes, words: str) -> None:
        (tmp_path / "site.ini").write_bytes(content)
        with pytest.raises(ConfigError, match=words):
            read("site.ini", surroundings=Surroundings(cwd=tmp_path))

    def test_too_large(self, tmp_path: Path) -> None:
        (tmp_path / "site.ini").write_bytes(b"#" * ((1 << 22) + 1))
        with pytest.raises(ConfigError, match="larger than 4 MB"):
            read("site.ini", surroundings=Surroundings(cwd=tmp_path))

    def test_includes_without_end(self, tmp_path: Path, load: Load) -> None:
        (tmp_path / "a.ini").write_text("[uwsgi]\nini = b.ini\n")
        (tmp_path / "b.ini").write_text("[uwsgi]\nini = a.ini\n")
        with pytest.raises(ConfigError, match=r"a\.ini includes itself"):
            read("a.ini", surroundings=Surroundings(cwd=tmp_path))


def test_values_of_the_environment_are_kept_apart(load: Load) -> None:
    config = load("[uwsgi]\nenv = A=$(SECRET)\nb = %(c)\nc = 1\n", SECRET="word")
    (env, b, _) = config.options
    assert (env.value, env.shown) == ("A=word", "A=$(SECRET)")
    assert (b.value, b.shown) == ("1", "1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.yml", True), ("a.ini:x", True), ("x/a.json", True), ("a.toml", False), ("module:app", False), ("ini", False)],
)
def test_is_uwsgi_file(name: str, expected: bool) -> None:
    assert is_uwsgi_file(name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.ini", ("a.ini", None)), ("a.ini:b", ("a.ini", "b")), ("a.ini:", ("a.ini", None)), (":b", ("", "b"))],
)
def test_split_section(name: str, expected: tuple[str, str | None]) -> None:
    assert split_section(name) == expected
