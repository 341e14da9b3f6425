"""Galaxy's runners, and which of ours does the same."""

from __future__ import annotations

from instar.config.formats.job_conf.raw import Entry

#: By the module of the class that Galaxy loads.
_SAME = {"local": "local", "slurm": "slurm"}
#: The kinds that need nothing else installed.
OURS = frozenset(_SAME.values())
_HINT = (
    "install a package with a runner of that name (entry point of instar.runners), or set [jobs.runners.{}] kind; jobs "
    "for it wait until then"
)


def kind_of(name: str, load: str, entry: Entry) -> tuple[str, str]:
    """The kind of runner for a plugin, and what people should know. "": it is left out.

    `entry` are its parameters; what only the choice needed is taken out.
    """
    if name == "dynamic" or not load:
        return "", "" if name == "dynamic" else "it has no `load`, so nobody can tell what it is; it is left out"
    module = load.partition(":")[0].rpartition(".")[2]
    if module in _SAME:
        return _SAME[module], ""
    if module == "cli":
        # Its destinations say which commands: `job_plugin: Slurm` is the only one that is understood.
        return (
            "slurm",
            "jobs are submitted with Slurm's commands on this host (shell_plugin and job_plugin are ignored)",
        )
    if module == "drmaa":
        return "slurm", "DRMAA is replaced by Slurm's own commands; this is wrong for another cluster"
    if module == "tasks":
        return "", "tasks that split a job have no meaning here; it is left out"
    return module, f"there is no runner {module} in instar itself; " + _HINT.format(name)
