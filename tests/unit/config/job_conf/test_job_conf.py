"""Galaxy's job configurations, in both forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instar.config import load
from instar.config.formats.job_conf import JobConf, read_job_conf
from instar.config.jobs import Jobs
from instar.errors import ConfigError

XML = """<?xml version="1.0"?>
<job_conf>
    <plugins workers="4">
        <plugin id="local" type="runner" load="galaxy.jobs.runners.local:LocalJobRunner"/>
        <plugin id="slurm" type="runner" load="galaxy.jobs.runners.slurm:SlurmJobRunner" workers="2">
            <param id="drmaa_library_path">/usr/lib/libdrmaa.so</param>
        </plugin>
    </plugins>
    <handlers assign_with="db-skip-locked" max_grab="8" ready_window_size="100">
        <handler id="main.job-handlers.1"/>
        <handler id="main.job-handlers.2" max_grab="2"><plugin id="slurm"/></handler>
        <handler id="special" tags="big,slow"/>
    </handlers>
    <destinations default="here">
        <destination id="here" runner="local"/>
        <destination id="cluster" runner="slurm" tags="cluster, batch">
            <param id="nativeSpecification">--mem=4G --time=${HOURS:-2}:00:00</param>
            <env id="OMP_NUM_THREADS">2</env>
        </destination>
    </destinations>
    <tools>
        <tool id="bwa" handler="big" destination="cluster"/>
        <tool id="upload1" destination="batch"/>
    </tools>
    <limits>
        <limit type="registered_user_concurrent_jobs">5</limit>
        <limit type="destination_user_concurrent_jobs" id="cluster">3</limit>
        <limit type="destination_total_concurrent_jobs" tag="cluster">16</limit>
        <limit type="walltime">24:00:00</limit>
    </limits>
</job_conf>
"""

YAML = """
runners:
  local: {load: "galaxy.jobs.runners.local:LocalJobRunner", workers: 4}
  slurm: {load: "galaxy.jobs.runners.slurm:SlurmJobRunner", workers: 2, drmaa_library_path: /usr/lib/libdrmaa.so}
handling:
  assign: ["db-skip-locked"]
  max_grab: 8
  ready_window_size: 100
  processes:
    main.job-handlers.1: {}
    main.job-handlers.2: {plugins: [slurm], max_grab: 2}
    special: {tags: [big, slow]}
execution:
  default: here
  environments:
    here: {runner: local}
    cluster:
      runner: slurm
      tags: [cluster, batch]
      nativeSpecification: "--mem=4G --time=${HOURS:-2}:00:00"
      env: [{name: OMP_NUM_THREADS, value: 2}]
tools:
  - {id: bwa, handler: big, environment: cluster}
  - {id: upload1, environment: batch}
limits:
  - {type: registered_user_concurrent_jobs, value: 5}
  - {type: environment_user_concurrent_jobs, id: cluster, value: 3}
  - {type: environment_total_concurrent_jobs, tag: cluster, value: 16}
  - {type: walltime, value: "24:00:00"}
"""

#: The file of the restarter in the recipe "uWSGI Zerg Mode + Mules".
RESTARTER = """<?xml version="1.0"?>
<job_conf>
    <plugins>
        <plugin id="local" type="runner" load="galaxy.jobs.runners.local:LocalJobRunner" workers="4"/>
    </plugins>
    <handlers>
        <!-- this prevents the restarter from handling jobs itself in web workers -->
        <handler id=""/>
    </handlers>
    <destinations>
        <destination id="null" runner="local"/>
    </destinations>
</job_conf>
"""


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def read(text: str, environ: dict[str, str] | None = None) -> JobConf:
        path = tmp_path / ("job_conf.xml" if text.lstrip().startswith("<") else "job_conf.yml")
        path.write_text(text)
        found = read_job_conf(path, environ or {})
        # Whatever is read must be a valid table.
        Jobs.model_validate(found.table, context={"base": tmp_path})
        return found

    return read


@pytest.mark.parametrize("text", [XML, YAML], ids=["xml", "yml"])
def test_both_forms_say_the_same(read: Any, text: str) -> None:
    found = read(text)
    assert Jobs.model_validate(found.table, context={"base": Path("/")}) == Jobs.model_validate(
        {
            "runners": {
                "local": {"kind": "local", "workers": 4},
                "slurm": {"kind": "slurm", "workers": 2, "options": {"drmaa_library_path": "/usr/lib/libdrmaa.so"}},
            },
            "max_grab": 8,
            "ready_window": 100,
            "default_handler": "_default_",
            "handlers": {
                "main.job-handlers.1": {"tags": ["_default_"]},
                "main.job-handlers.2": {"tags": ["_default_"], "runners": ["slurm"], "max_grab": 2},
                "special": {"tags": ["big", "slow"]},
            },
            "default_destination": "here",
            "destinations": {
                "here": {"runner": "local", "timeout": 86400},
                "cluster": {
                    "runner": "slurm",
                    "tags": ["cluster", "batch"],
                    "env": {"OMP_NUM_THREADS": "2"},
                    "params": {"nativeSpecification": "--mem=4G --time=2:00:00"},
                    "user_limit": 3,
                    "limit": 16,
                    "timeout": 86400,
                },
            },
            "rules": {"bwa": {"handler": "big", "destination": "cluster"}, "upload1": {"destination": "batch"}},
            "user_limit": 5,
        },
        context={"base": Path("/")},
    )
    assert found.warnings == ()


def test_variables_of_the_environment(read: Any) -> None:
    found = read(YAML, {"HOURS": "48"})
    assert found.table["destinations"]["cluster"]["params"] == {"nativeSpecification": "--mem=4G --time=48:00:00"}


def test_the_recipes_restarter_strands_nothing(read: Any) -> None:
    found = read(RESTARTER)
    assert "handlers" not in found.table or found.table["handlers"] == {}
    assert found.table.get("default_handler", "") == ""
    assert found.table["default_destination"] == "null"
    assert found.table["destinations"] == {"null": {"runner": "local"}}
    (warning,) = found.warnings
    assert 'the handler id "" stands for no handler' in warning
    assert "stranded" in warning


@pytest.mark.parametrize("default", ["", "_null_"])
def test_nobody_is_anyone(read: Any, default: str) -> None:
    found = read(f"handling: {{processes: {{a: {{}}, _null_: {{}}}}, default: '{default}'}}")
    assert found.table["handlers"] == {"a": {"tags": ["_default_"]}}
    assert "default_handler" not in found.table


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (
            "runners: {c: {load: 'galaxy.jobs.runners.condor:CondorJobRunner'}}",
            "runner c: there is no runner condor in instar itself; install a package with a runner of that name",
        ),
        ("runners: {t: {load: 'galaxy.jobs.runners.tasks:TaskedJobRunner'}}", "runner t: tasks that split a job"),
        ("runners: {t: {}}", "runner t: it has no `load`"),
        ("runners: {'a b': {load: 'x.local:L'}}", 'the runner "a b" is left out: a name has'),
        ("runners: {a: {load: 'x.local:L', workers: many}}", 'runner a: workers must be a whole number, not "many"'),
        ("handling: {assign: [db-preassign]}", "handling: assign db-preassign is done in another way"),
        ("handling: {assign: dance}", "handling: assign dance is not known"),
        ("handling: {max_grabs: 3}", "handling: max_grabs has no meaning here and is left out"),
        ("handling: {processes: {a: {environment: {A: b}}}}", "handler a: environment has no meaning here"),
        ("execution: {environments: {d: {runner: dynamic, function: f}}}", "destination d: rules in Python"),
        ("execution: {environments: {d: {runner: nope}}}", "destination d: its runner nope is not there"),
        ("execution: {environments: {d: {runner: local, docker_enabled: true}}}", "destination d: docker_enabled has"),
        (
            "execution: {environments: {d: {runner: local, env: [{file: /etc/profile}]}}}",
            "destination d: env file is a shell script and is not run",
        ),
        (
            "execution: {default: x, environments: {d: {runner: local}}}",
            "execution: the default x is no destination that can be used",
        ),
        ("tools: [{class: local, environment: local}]", "tools: class local has no meaning here"),
        ("tools: [{id: a, environment: x}]", "tool a: x is no destination that can be used"),
        ("tools: [{id: a, resources: r}]", "tool a: resources has no meaning here"),
        ("tools: [{id: a}, {id: a}]", "tool a: it stands in the file more than once; the first counts"),
        ("limits: [{type: output_size, value: 9}]", "limit output_size has no meaning here"),
        ("limits: [{type: walltime, value: 9}]", 'limit walltime must be "hours:minutes:seconds", not "9"'),
        (
            "limits: [{type: destination_total_concurrent_jobs, id: x, value: 9}]",
            "limit destination_total_concurrent_jobs: x is no destination that can be used",
        ),
        ("resources: {default: r}", "resources has no meaning here and is left out"),
        ("<job_conf><macros/></job_conf>", "<macros> has no meaning here and is left out"),
        ("<job_conf><plugins><plug/></plugins></job_conf>", "<plug> in <plugins> has no meaning here"),
    ],
)
def test_what_is_not_supported_is_told(read: Any, text: str, warning: str) -> None:
    found = read(text)
    assert any(item.partition(": ")[2].startswith(warning) for item in found.warnings), found.warnings


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("job_conf.xml", "<job_conf>", "no element found: line 1, column 10"),
        ("job_conf.xml", "<jobs/>", "it begins with <jobs>, a job configuration with <job_conf>"),
        (
            "job_conf.xml",
            '<!DOCTYPE x [<!ENTITY a "b">]><job_conf/>',
            "it declares entities or a document type; remove them",
        ),
        ("job_conf.yml", "a: [", "expected the node content"),
        ("job_conf.yml", "- a", "the file must be a mapping, not list"),
        ("job_conf.yml", "runners: 3", "runners must be a mapping, not int"),
        ("job_conf.yml", "tools: {}", "tools must be a list, not dict"),
        ("job_conf.yml", "execution: {environments: {a: 3}}", "execution: environments: a must be a mapping, not int"),
    ],
)
def test_what_can_not_be_read_is_told(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_job_conf(tmp_path / name)
    assert str(raised.value).startswith(f"cannot read {tmp_path / name}")
    assert sentence in str(raised.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file or directory; check \[jobs\] config"):
        read_job_conf(tmp_path / "job_conf.xml")


def test_the_table_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "job_conf.yml").write_text(YAML + "resources: {}\n")
    (tmp_path / "instar.toml").write_text(
        "[app]\ntarget = 'a:b'\n[handlers.h]\n[jobs]\npool = 'h'\nconfig = 'job_conf.yml'\nmax_grab = 1\n"
        "[jobs.runners.slurm]\nworkers = 9\n[jobs.destinations.more]\nrunner = 'slurm'\n"
    )
    monkeypatch.setenv("INSTAR_STATE_DIR", str(tmp_path / "state"))
    config = load(tmp_path / "instar.toml")
    jobs = config.jobs
    assert (jobs.max_grab, jobs.ready_window) == (1, 100)
    assert jobs.runners["slurm"].workers == 9
    assert jobs.runners["slurm"].kind == "slurm"
    assert set(jobs.destinations) == {"here", "cluster", "more"}
    assert "job_conf.yml: resources has no meaning here and is left out" in config.warnings()
