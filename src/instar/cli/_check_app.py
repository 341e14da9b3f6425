"""Tries the engine and the application in a process of the application's own interpreter."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import instar
from instar.cli._findings import Finding, error, ok, warning
from instar.config import Redactor
from instar.config.env_file import read_env_file
from instar.supervisor.plan import ABI, Plan, compiled_packages, fallback_packages
from instar.system import System

#: Lines of a traceback or of output that are shown.
TAIL = 12
#: Seconds that importing an engine may take.
ENGINE_TIMEOUT = 60.0
_PACKAGE = Path(instar.__file__).resolve().parent
_STAGES = {
    "python": "[app] python",
    "folder": "[app] chdir",
    "engine": "[web] engine",
    "find": "[app] target",
    "load": "[app] target",
}


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """How the process ended. `status` None: it took too long; `answer` is empty when it gave none."""

    answer: dict[str, Any]
    status: int | None
    lines: tuple[str, ...]


def check_app(plan: Plan, *, load: bool, timeout: float) -> Iterator[Finding]:
    """Findings about interpreter and engine and, with `load`, about the application. Secrets are taken out."""
    hide = Redactor(_secrets(plan))
    try:
        outcome = _try(plan, hide, load=load, timeout=timeout)
    except OSError as problem:
        whom = f" as {plan.config.app.user}" if plan.credentials.uid is not None else ""
        yield error("[app] python", f"cannot run {plan.python}{whom}: {(problem.strerror or str(problem)).lower()}")
        return
    if outcome.answer:
        yield from _findings(plan, outcome.answer, hide, load=load)
    else:
        yield _no_answer(plan, outcome, load=load, timeout=timeout)


def _try(plan: Plan, hide: Redactor, *, load: bool, timeout: float) -> _Outcome:
    with (
        tempfile.TemporaryFile() as request,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as result,
    ):
        request.write(json.dumps(_request(plan, load=load, timeout=timeout)).encode())
        request.seek(0)
        began = time.monotonic()
        status = _run(plan, request, output, result, ENGINE_TIMEOUT + (timeout if load else 0))
        result.seek(0)
        answer = result.read()
        # The process ends itself, with status 1, when the application has not loaded in time.
        if status is None or (load and not answer and status == 1 and time.monotonic() - began >= timeout):
            return _Outcome({}, None, _hang(output, hide))
        return _Outcome(json.loads(answer) if answer else {}, status, _tail(output, hide))


def _secrets(plan: Plan) -> list[str]:
    path, name = plan.config.app.env_file, plan.config.web.tls_key_password_env
    found = list(read_env_file(path).values()) if path else []
    return [*found, os.environ.get(name, "")] if name else found


def _request(plan: Plan, *, load: bool, timeout: float) -> dict[str, Any]:
    app, web = plan.config.app, plan.config.web
    target = app.target if web.engine != "command" else ""
    return {
        "package": str(_PACKAGE),
        "fallbacks": fallback_packages(),
        "compiled": compiled_packages(plan.config),
        "abi": ABI,
        "chdir": str(app.chdir),
        "pythonpath": [str(path) for path in app.pythonpath],
        "engine": web.engine,
        "protocols": [address.protocol for address in web.addresses],
        "http": web.http,
        "worker_class": web.worker_class or None,
        "command": list(web.command),
        "module": target.partition(":")[0],
        "target": target if load else "",
        "factory": app.factory,
        "interface": app.interface,
        "load": load,
        "timeout": timeout,
        "handlers": [
            {"subject": f"[handlers.{name}] target", "target": item.target}
            for name, item in plan.config.handlers.items()
            if item.target
        ]
        + [
            {"subject": f"[handlers.{name}] script", "script": str(item.script)}
            for name, item in plan.config.handlers.items()
            if item.script and item.script.is_file()
        ],
    }


def _run(plan: Plan, request: IO[bytes], output: IO[bytes], result: IO[bytes], limit: float) -> int | None:
    """The exit status; None when it took too long. Nothing of its process group is left behind."""
    script = Path(__file__).with_name("_dryload.py")
    process = System().spawn(
        [str(plan.python), str(script), str(request.fileno()), str(result.fileno())],
        # As -P, which a Python that is too old (and has to be told so) would not understand.
        env={**plan.environment(), "PYTHONSAFEPATH": "1"},
        cwd=plan.release,
        # A file, not a pipe: a child that the application leaves behind would keep a pipe open.
        output=output.fileno(),
        pass_fds=(request.fileno(), result.fileno()),
        rights=plan.credentials,
    )
    pidfd = os.pidfd_open(process.pid)
    try:
        in_time = bool(select.select([pidfd], [], [], limit)[0])
    finally:
        os.close(pidfd)
        # Not reaped yet, so that its number can't be that of somebody else's group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
    return status if in_time else None


def _tail(output: IO[bytes], hide: Redactor) -> tuple[str, ...]:
    output.seek(0)
    return tuple(hide(output.read().decode(errors="replace")).splitlines()[-TAIL:])


def _hang(output: IO[bytes], hide: Redactor) -> tuple[str, ...]:
    """Where it hung (the innermost call comes first), without our own frames and those of the import system."""
    output.seek(0)
    text = hide(output.read().decode(errors="replace"))
    dump = text[text.rfind("Timeout (") :].splitlines()[1:]
    ours = ("<frozen importlib", f'"{_PACKAGE}', f"importlib{os.sep}__init__.py")
    return tuple(line for line in dump if not any(mark in line for mark in ours))[:TAIL]


def _no_answer(plan: Plan, outcome: _Outcome, *, load: bool, timeout: float) -> Finding:
    what = "[web] engine" if not load else "[app] target" if plan.config.app.target else "[handlers]"
    status, lines = outcome.status, outcome.lines
    if status is None:
        return error(what, f"did not load within {timeout:g} s; see [restart] boot_timeout", lines)
    ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
    return error(what, f"{plan.python} ended with {ended} while it loaded", lines)


def _findings(plan: Plan, answer: dict[str, Any], hide: Redactor, *, load: bool) -> Iterator[Finding]:
    stage = answer["stage"]
    if stage != "python":
        yield ok("[app] python", f"{plan.python} (Python {answer['python']})")
    if stage in ("find", "load", "done"):
        yield ok("[web] engine", plan.config.web.servers)
    if load and "interface" in answer:
        yield ok("[app] target", f"loads in {answer['seconds']:.2f} s, {answer['interface'].upper()}")
        for note in answer["notes"]:
            yield warning("[app] target", hide(note))
    for item in answer.get("handlers", ()):
        if "error" in item:
            yield _failure(item, hide)
        elif "text" in item:
            yield ok(item["subject"], item["text"])
    if "error" in answer:
        yield _failure(answer, hide)


def _failure(answer: dict[str, Any], hide: Redactor) -> Finding:
    """The error of the application or of a handler."""
    stage = answer["stage"]
    subject = answer.get("subject") or _STAGES.get(stage, stage)
    text = hide(answer["error"])
    if stage == "load" and not answer.get("clear"):
        trace = hide(answer.get("traceback", "")).splitlines()[-TAIL:]
        what = "it" if "subject" in answer else "the application"
        return error(subject, f"cannot load {what}: {text.splitlines()[-1]}", trace)
    # A sentence already; only the class name that Python puts before it is in the way.
    return error(subject, text.partition(": ")[2] if answer.get("clear") or stage == "find" else text)
