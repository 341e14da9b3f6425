"""What the Emperor reads: its command line, its directory, its vassals' files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from instar.config.formats.uwsgi import Option, UwsgiConfig
from instar.errors import ConfigError
from instar.uwsgi.emperor.scan import Found, scan
from instar.uwsgi.emperor.settings import EmperorSettings
from instar.uwsgi.emperor.vassal_file import Kind, VassalFile, understand


def options(*pairs: tuple[str, str]) -> UwsgiConfig:
    return UwsgiConfig(tuple(Option(key, value, raw=value) for key, value in pairs))


def write(folder: Path, name: str, text: str) -> Found:
    (folder / name).write_text(text)
    return scan(EmperorSettings(folder))[name]


def understood(folder: Path, name: str, text: str, *, real: bool = False) -> VassalFile:
    settings = EmperorSettings(folder, wrapper="/opt/uwsgi" if real else "")
    return understand(write(folder, name, text), settings, wrapper_is_uwsgi=real)


def test_command_line(tmp_path: Path) -> None:
    given = options(
        ("emperor", str(tmp_path)),
        ("emperor-wrapper", "/opt/uwsgi"),
        ("emperor-freq", "5"),
        ("emperor-throttle", "250"),
        ("emperor-max-throttle", "9000"),
        ("emperor-graceful-shutdown", "true"),
        ("emperor-extra-extension", ".conf"),
        ("vassals-set", "a=b"),
        ("vassals-include", "/etc/all.ini"),
    )
    settings = EmperorSettings.of(given)
    assert (settings.directory, settings.wrapper, settings.freq) == (tmp_path.resolve(), "/opt/uwsgi", 5.0)
    assert (settings.throttle, settings.max_throttle, settings.graceful_shutdown) == (0.25, 9.0, True)
    assert (settings.before, settings.after) == (("--set", "a=b"), ("--include", "/etc/all.ini"))
    assert settings.extra_extensions == (".conf",)


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ((("emperor", "{dir}"), ("emperor", "{dir}")), "with 2 directories"),
        ((("emperor", "{dir}/nowhere"),), "no such directory"),
        ((("emperor", "/etc/*/vassals"),), "only a directory is supported"),
        ((("emperor", "{dir}"), ("emperor-tyrant", "true")), "with emperor-tyrant"),
        ((("emperor", "{dir}"), ("emperor-freq", "soon")), "must be a number"),
    ],
)
def test_command_line_that_is_refused(tmp_path: Path, pairs: tuple[tuple[str, str], ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        EmperorSettings.of(options(*((key, value.format(dir=tmp_path)) for key, value in pairs)))


def test_scan_takes_what_uwsgi_takes_and_toml(tmp_path: Path) -> None:
    names = ["a.ini", "b.yml", "c.yaml", "d.xml", "e.json", "f.js", "g.toml", "h.conf", "i.txt", ".j.ini", "k.ini~"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder.ini").mkdir()
    (tmp_path / "nowhere.ini").symlink_to("missing")
    found = scan(EmperorSettings(tmp_path, extra_extensions=(".conf",)))
    assert list(found) == ["a.ini", "b.yml", "c.yaml", "d.xml", "e.json", "f.js", "g.toml", "h.conf"]


def test_stamp_changes_with_every_way_to_write_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.ini"
    stamps = [write(tmp_path, "a.ini", "one").stamp]
    os.utime(path, ns=(1, 1))  # an older file, restored from a backup
    stamps.append(scan(EmperorSettings(tmp_path))["a.ini"].stamp)
    (tmp_path / "new").write_text("two")
    os.utime(tmp_path / "new", ns=(1, 1))
    (tmp_path / "new").replace(path)
    stamps.append(scan(EmperorSettings(tmp_path))["a.ini"].stamp)
    assert len(set(stamps)) == 3


def test_a_zergling_needs_its_pool(tmp_path: Path) -> None:
    pool = understood(tmp_path, "pool.yml", "uwsgi:\n  zerg-pool: /run/p.sock:127.0.0.1:4001,127.0.0.1:4002\n")
    app = understood(tmp_path, "app.yml", "uwsgi:\n  zerg: /run/p.sock\n  module: x\n")
    relative = understood(tmp_path, "rel.yml", "uwsgi:\n  chdir: /run\n  zerg: p.sock\n  module: x\n")
    assert set(pool.pools) == set(app.zerg) == set(relative.zerg) == {Path("/run/p.sock")}


@pytest.mark.parametrize(
    ("name", "text", "real", "kind"),
    [
        ("a.toml", '[app]\nname = "shop"\n', True, Kind.NATIVE),
        ("a.ini", "[uwsgi]\nmodule = x\n", False, Kind.INSTAR),
        ("a.ini", "[uwsgi]\nmodule = x\n", True, Kind.UWSGI),
        # A pool without an application is better off here.
        ("a.ini", "[uwsgi]\nzerg-pool = /p:127.0.0.1:1\n", True, Kind.INSTAR),
        ("a.ini", "; instar: uwsgi=/old/uwsgi\n[uwsgi]\nzerg-pool = /p:127.0.0.1:1\n", False, Kind.UWSGI),
        ("a.yml", "# instar: uwsgi=instar\nuwsgi:\n  module: x\n", True, Kind.INSTAR),
        ("a.xml", "<uwsgi>\n<!-- instar: uwsgi=instar -->\n<module>x</module></uwsgi>", True, Kind.INSTAR),
        # One that can't be read is the wrapper's to complain about.
        ("a.ini", "[other]\n", True, Kind.UWSGI),
    ],
)
def test_who_runs_a_vassal(tmp_path: Path, name: str, text: str, real: bool, kind: Kind) -> None:
    assert understood(tmp_path, name, text, real=real).kind is kind


def test_command_line_of_a_vassal(tmp_path: Path) -> None:
    settings = EmperorSettings(tmp_path, wrapper="/opt/uwsgi", before=("--set", "a=b"), extra_extensions=(".conf",))
    for name, flag in (("a.yml", "--yaml"), ("a.ini", "--ini"), ("a.js", "--json"), ("a.conf", "--config")):
        (tmp_path / name).write_text("x\n")
        file = understand(scan(settings)[name], settings, wrapper_is_uwsgi=True)
        assert file.argv == ("/opt/uwsgi", "--set", "a=b", flag, name)
    assert understood(tmp_path, "b.toml", '[app]\nname = "shop"\n').app == "shop"
    assert understood(tmp_path, "b.toml", "[app").problem.startswith("cannot read b.toml")


def test_remarks(tmp_path: Path) -> None:
    text = "uwsgi:\n  # instar: uwsgi=/old/uwsgi probe=/api/version?x=1\n  # instar: mercy=5\n  module: x\n"
    file = understood(tmp_path, "a.yml", text)
    assert file.remarks == {"uwsgi": "/old/uwsgi", "probe": "/api/version?x=1", "mercy": "5"}
