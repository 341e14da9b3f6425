"""`instar jobs wait`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instar.cli._format import console, escaped, print_json
from instar.cli._options import ConfigFile, Json, Name, StateDir
from instar.cli.jobs._app import Id, command
from instar.cli.jobs._show import fraction, job_object, progress_text, state_text
from instar.cli.jobs._site import StoreUrl, open_site
from instar.errors import ExitCode, InstarError

if TYPE_CHECKING:
    from instar.jobs.model import Job


@command("wait")
def wait(
    job: Id,
    timeout: Annotated[
        float | None, typer.Option(min=0.0, metavar="SECONDS", help="Wait no longer.", show_default="no limit")
    ] = None,
    json: Json = False,
    store: StoreUrl = None,
    config: ConfigFile = None,
    name: Name = None,
    state_dir: StateDir = None,
) -> None:
    """Wait until a job has ended. Exit code 7: it did not end well.

    On a terminal a bar shows what the job says of its progress. Interrupting the wait leaves the job alone.

    \b
    Examples:
      instar jobs wait 42
      instar jobs wait $(instar jobs submit -- make -C /srv/site report) && echo done
    """
    site = open_site(config, name, state_dir, store)
    try:
        if json or not sys.stderr.isatty():
            found = site.store.wait(job, timeout)
        else:
            found = _with_bar(lambda watch: site.store.wait(job, timeout, watch=watch))
    except KeyboardInterrupt:
        raise InstarError(f"cannot wait any longer: interrupted; the job {job} goes on without you") from None
    if json:
        print_json(job_object(found))
    else:
        console().print(f"job {job}: {state_text(found)}" + (f": {escaped(found.error)}" if found.error else ""))
    raise typer.Exit(ExitCode.DONE if found.state == "ok" else ExitCode.JOB_FAILED)


def _with_bar(wait: Callable[[Callable[[Job], object]], Job]) -> Job:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, said="")

        def watch(job: Job) -> None:
            done = fraction(job.progress)
            shown: dict[str, Any] = {"total": None} if done is None else {"total": 1.0, "completed": done}
            bar.update(
                task, description=f"job {job.id} {job.state}", said=escaped(progress_text(job.progress)), **shown
            )

        return wait(watch)
