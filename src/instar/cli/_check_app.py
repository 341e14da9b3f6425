"""Tries the engine and the application in a process of the application's own interpreter."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import instar
from instar.cli._findings import Finding, error, ok, warning
from instar.config import Redactor
from instar.config.env_file import read_env_file
from instar.supervisor.plan import Plan, _fallbacks

#: Lines of a traceback or of output that are shown.
TAIL = 12
#: Seconds that importing an engine may take.
ENGINE_TIMEOUT = 60.0
_PACKAGE = Path(instar.__file__).resolve().parent
_STAGES = {"python": "[app] python", "folder": "[app] chdir", "engine": "[web] engine", "load": "[app] target"}


def check_app(plan: Plan, *, load: bool, timeout: float) -> Iterator[Finding]:
    """Findings about interpreter and engine and, with `load`, about the application. Secrets are taken out."""
    hide = Redactor(_secrets(plan))
    limit = ENGINE_TIMEOUT + (timeout if load else 0)
    with (
        tempfile.TemporaryFile("w+b") as request,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as result,
    ):
        request.write(json.dumps(_request(plan, load=load, timeout=timeout)).encode())
        request.seek(0)
        try:
            status = _run(plan, request, output, result, limit)
        except OSError as problem:
            yield error("[app] python", f"cannot run {plan.python}: {(problem.strerror or str(problem)).lower()}")
            return
        result.seek(0)
        text = result.read()
        answer: dict[str, Any] = json.loads(text) if text else {}
        lines = _tail(output, hide)
    if not answer:
        yield _no_answer(plan, status, load=load, timeout=timeout, lines=lines)
        return
    yield from _findings(plan, answer, hide, load=load)


def _secrets(plan: Plan) -> list[str]:
    path, name = plan.config.app.env_file, plan.config.web.tls_key_password_env
    found = list(read_env_file(path).values()) if path else []
    return [*found, os.environ.get(name, "")] if name else found


def _request(plan: Plan, *, load: bool, timeout: float) -> dict[str, Any]:
    app, web = plan.config.app, plan.config.web
    return {
        "package": str(_PACKAGE),
        "fallbacks": _fallbacks(),
        "chdir": str(app.chdir),
        "pythonpath": [str(path) for path in app.pythonpath],
        "engine": web.engine,
        "http": web.http,
        "worker_class": web.worker_class or None,
        "command": list(web.command),
        "target": app.target if load and web.engine != "command" else "",
        "factory": app.factory,
        "interface": app.interface,
        "timeout": timeout,
    }


def _run(plan: Plan, request: IO[bytes], output: IO[bytes], result: IO[bytes], limit: float) -> int | None:
    """The exit status; None when it took too long. Nothing of its process group is left behind."""
    script = Path(__file__).with_name("_dryload.py")
    who = plan.credentials
    process = subprocess.Popen(
        [str(plan.python), str(script), str(request.fileno()), str(result.fileno())],
        # As -P, which a Python that is too old (and has to be told so) would not understand.
        env={**plan.environment(), "PYTHONSAFEPATH": "1"},
        cwd=plan.release,
        stdin=subprocess.DEVNULL,
        # Files, not pipes: a child that the application leaves behind would keep a pipe open.
        stdout=output,
        stderr=subprocess.STDOUT,
        pass_fds=(request.fileno(), result.fileno()),
        start_new_session=True,
        user=who.uid,
        group=who.gid,
        extra_groups=who.groups,
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Before it is reaped or after: the group lives as long as a child of the application does.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(output: IO[bytes], hide: Redactor) -> tuple[str, ...]:
    output.seek(0)
    return tuple(hide(output.read().decode(errors="replace")).splitlines()[-TAIL:])


def _no_answer(plan: Plan, status: int | None, *, load: bool, timeout: float, lines: tuple[str, ...]) -> Finding:
    what = "[app] target" if load else "[web] engine"
    if status is None:
        return error(what, f"did not load within {timeout:g} s; see [restart] boot_timeout", lines)
    ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    return error(what, f"{plan.python} ended with {ended} while it loaded", lines)


def _findings(plan: Plan, answer: dict[str, Any], hide: Redactor, *, load: bool) -> Iterator[Finding]:
    stage = answer["stage"]
    if stage != "python":
        yield ok("[app] python", f"{plan.python} (Python {answer['python']})")
    if stage in ("load", "done"):
        yield ok("[web] engine", plan.config.web.engine)
    if "error" in answer:
        yield _failure(stage, answer, hide)
    elif load and "interface" in answer:
        yield ok("[app] target", f"loads in {answer['seconds']:.2f} s, {answer['interface'].upper()}")
        for note in answer["notes"]:
            yield warning("[app] target", hide(note))


def _failure(stage: str, answer: dict[str, Any], hide: Redactor) -> Finding:
    subject = _STAGES.get(stage, stage)
    text = hide(answer["error"])
    if stage == "load" and not answer.get("clear"):
        trace = hide(answer.get("traceback", "")).splitlines()[-TAIL:]
        return error(subject, f"cannot load the application: {text.splitlines()[-1]}", trace)
    # Our own errors are sentences; only the class name that Python puts before them is in the way.
    return error(subject, text.partition(": ")[2] if answer.get("clear") else text)
