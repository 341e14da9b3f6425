from __future__ import annotations

import ipaddress
import shutil
from collections.abc import Callable
from pathlib import Path

import pydantic
import pytest

from instar.config import Config, load, state_dir
from instar.errors import ConfigError

Read = Callable[..., Config]
APP = "[app]\ntarget = 'm:a'\n"


def test_a_target_is_enough(project: Path) -> None:
    config = load(None, target="m:a")
    assert config.app.target == "m:a"
    assert config.app.chdir == project
    assert config.web.bind == ("127.0.0.1:8000",)
    assert config.source is None


def test_nothing_at_all_points_to_init(project: Path) -> None:
    with pytest.raises(ConfigError, match="instar init") as raised:
        load(None)
    assert str(project) in str(raised.value)


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_unreadable_files(project: Path, kind: str) -> None:
    path = project / "x.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"^cannot read .*x\.toml: "):
        load(path)


def test_a_target_on_the_command_line_wins_over_the_file(read: Read) -> None:
    config = read("[app]\ntarget = 'm:a'\nname = 'site'\n", target="n:b")
    assert (config.app.target, config.app.name) == ("n:b", "site")


def test_paths_start_from_the_folder_of_the_file(project: Path) -> None:
    (project / "etc").mkdir()
    file = project / "etc/site.toml"
    file.write_text(
        APP + "chdir = 'site'\npythonpath = ['lib', '/opt/lib']\nenv_file = '.env'\npython = 'venv/bin/python'\n"
        "[web]\nbind = ['unix:run/x.sock', 'localhost:1']\nstatic = {'/static/' = 'pub'}\n"
        "tls_cert = 'c'\ntls_key = 'k'\n"
        "[log]\nfile = 'x.log'\n[services.a]\ncommand = ['x']\nchdir = 'svc'\n"
    )
    config, base = load(Path("etc/site.toml")), project / "etc"
    assert config.source == file
    assert config.app.chdir == base / "site"
    assert config.app.pythonpath == (base / "lib", Path("/opt/lib"))
    assert config.app.env_file == base / ".env"
    assert config.app.python == base / "venv/bin/python"
    assert config.web.bind == (f"unix:{base}/run/x.sock", "localhost:1")
    assert config.web.static == {"/static": base / "pub"}
    assert (config.web.tls_cert, config.web.tls_key) == (base / "c", base / "k")
    assert config.log.file == base / "x.log"
    assert config.services["a"].chdir == base / "svc"
    (base / "site.toml").write_text(APP)
    assert load(file).app.chdir == base


def test_paths_of_options_start_from_the_current_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "site.toml").write_text(APP)
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    options = {"app.chdir": "x", "web.bind": ["unix:a.sock"], "state_dir": "s", "web.workers": None}
    config = load(Path("../site.toml"), overrides=options)
    assert config.app.chdir == elsewhere / "x"
    assert config.web.bind == (f"unix:{elsewhere}/a.sock",)
    assert config.state_dir() == elsewhere / "s"
    assert config.web.workers == 0


def test_units_become_numbers(read: Read) -> None:
    config = read(
        APP + "[web]\nmax_memory = '300M'\nkeep_alive = '1m'\nhttp = 2\n[log]\nmax_size = 5\n"
        "[restart]\nkeep_old = '10m'\n[restart.canary]\nshare = '10%'\nnetworks = '10.0.0.0/8'\n"
    )
    assert config.web.max_memory == 300 << 20
    assert (config.web.keep_alive, config.web.http) == (60.0, "2")
    assert config.log.max_size == 5
    assert config.restart.keep_old == 600.0
    assert config.restart.canary.share == pytest.approx(0.1)
    assert config.restart.canary.networks == (ipaddress.ip_network("10.0.0.0/8"),)
    assert config.restart.canary.active


def test_default_sizes_become_numbers(read: Read) -> None:
    config = read(APP)
    assert config.log.max_size == 10 << 20
    assert 399 in config.health.status
    assert not config.restart.canary.active


def test_hooks_in_all_their_forms(read: Read) -> None:
    config = read(
        APP + "[restart]\nhook_timeout = '2m'\nbefore = ['a', 'b']\n"
        "after = [['a', 'b c'], {command = ['d'], timeout = 3, env = {X = 1}}]\n"
    )
    (single,) = config.restart.before
    first, second = config.restart.after
    assert (single.command, single.timeout) == (("a", "b"), 120.0)
    assert (first.command, first.timeout) == (("a", "b c"), 120.0)
    assert (second.command, second.timeout, second.env) == (("d",), 3.0, {"X": "1"})
    assert read(APP + "[restart]\nbefore = [['a']]").restart.before[0].timeout == 60.0


def test_nothing_can_be_changed(read: Read) -> None:
    config = read(APP)
    with pytest.raises(pydantic.ValidationError):
        config.web.workers = 3  # type: ignore[misc]


def test_pinned_follows_the_link_once(project: Path, read: Read) -> None:
    for name in ("r1", "r2"):
        (project / name).mkdir()
    (project / "current").symlink_to("r1")
    config = read(
        APP + "chdir = 'current'\npythonpath = ['current/lib', 'shared']\npython = 'current/.venv/bin/python'\n"
        "[web]\nstatic = {'/s' = 'current/pub', '/m' = 'media'}\n[services.a]\ncommand = ['x']\nchdir = 'current/svc'\n"
        "[services.b]\ncommand = ['x']\n"
    )
    pinned = config.pinned()
    (project / "current").unlink()
    (project / "current").symlink_to("r2")
    assert pinned.app.chdir == project / "r1"
    assert pinned.app.pythonpath == (project / "r1/lib", project / "shared")
    assert pinned.app.python == project / "r1/.venv/bin/python"
    assert pinned.web.static == {"/s": project / "r1/pub", "/m": project / "media"}
    assert pinned.services["a"].chdir == project / "r1/svc"
    assert pinned.services["b"].chdir is None
    assert pinned.source == config.source
    assert config.pinned().app.chdir == project / "r2"


def test_a_swapped_link_is_followed_although_we_stand_in_the_old_release(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("r1", "r2"):
        (project / name).mkdir()
        (project / name / "instar.toml").write_text(f"[app]\ntarget = 'm:{name}'\n")
    link = project / "current"
    link.symlink_to("r1")
    monkeypatch.chdir(link)
    monkeypatch.setenv("PWD", str(link))
    first = load(None)
    assert (first.app.target, first.app.chdir, first.source) == ("m:r1", link, link / "instar.toml")
    link.unlink()
    link.symlink_to("r2")
    second = load(None)
    assert (second.app.target, second.app.chdir) == ("m:r2", link)
    shutil.rmtree(project / "r1")
    assert load(Path("instar.toml")).app.target == "m:r2"


def test_a_wrong_pwd_is_not_believed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/")
    assert load(None, target="m:a").app.chdir == project


def test_state_directory(project: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    config = read("[app]\ntarget = 'm:a'\nname = 'site'\n")
    assert config.state_dir() == project.parent / "state"
    monkeypatch.delenv("INSTAR_STATE_DIR")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config.state_dir() == Path("/run/instar/site")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert config.state_dir() == Path("/run/user/1000/instar/site")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("HOME", "/home/u")
    assert state_dir("site") == Path("/home/u/.local/state/instar/site")
