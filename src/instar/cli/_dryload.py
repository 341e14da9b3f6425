"""Run by path under the application's interpreter: imports its engine and, if asked, the application.

`PYTHONSAFEPATH=1 PYTHON _dryload.py REQUEST_FD RESULT_FD`. Both documents are JSON.
Only the standard library at import, and only syntax of old Pythons, so that a too old one can be told so.
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.util
import json
import os
import sys
import time
import traceback
from typing import Any

OLDEST = (3, 11)


def main() -> None:
    """Read the request, try, write the result."""
    os.environ.pop("PYTHONSAFEPATH", None)
    with os.fdopen(int(sys.argv[1]), encoding="utf-8") as file:
        request = json.load(file)
    result_fd = int(sys.argv[2])
    result = run(request)
    os.write(result_fd, json.dumps(result).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that the application started must not keep us; neither must its exit handlers run.
    os._exit(0)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """The result: `stage` reached, and `error` with `traceback` unless all went well."""
    result: dict[str, Any] = {"python": "%d.%d.%d" % sys.version_info[:3], "stage": "python"}  # noqa: UP031
    if sys.version_info[:2] < OLDEST:
        return dict(result, error="Python %d.%d or newer is needed" % OLDEST)  # noqa: UP031
    _find_packages(request)
    try:
        _try(request, result)
    except BaseException as problem:
        _fail(result, problem, request)
    else:
        result["handlers"] = [_try_handler(item, request) for item in request["handlers"]]
    faulthandler.cancel_dump_traceback_later()
    return result


def _fail(result: dict[str, Any], problem: BaseException, request: dict[str, Any]) -> None:
    result["error"] = _describe(problem)
    result["traceback"] = _own_frames(problem, request)
    result["clear"] = type(problem).__module__.startswith("instar.")


def _try_handler(item: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Find a handler's target, and load it when the application was loaded: `text`, or `error` as for that.

    A script is only compiled: `error`, or nothing.
    """
    if "script" in item:
        return _compile(item)
    result = {"subject": item["subject"], "stage": "find"}
    try:
        module, _, attribute = item["target"].partition(":")
        _find_module(module, request)
        result["text"] = item["target"]
        if request["load"]:
            result["stage"] = "load"
            _resolve(module, attribute)
            result["text"] += " loads"
    except BaseException as problem:
        _fail(result, problem, request)
    return result


def _compile(item: dict[str, Any]) -> dict[str, Any]:
    result = {"subject": item["subject"], "stage": "compile"}
    try:
        with open(item["script"], "rb") as file:
            compile(file.read(), item["script"], "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as problem:
        result["error"] = "it is no Python that this interpreter understands: %s" % problem  # noqa: UP031
    return result


def _resolve(module: str, attribute: str) -> None:
    """Import a handler's callable. Raises LoadError, or what its own code raises."""
    from instar.runtime.loader import LoadError

    value = importlib.import_module(module)
    for name in attribute.split("."):
        if not hasattr(value, name):
            raise LoadError("cannot load it: %s has no %s" % (module, attribute))  # noqa: UP031
        value = getattr(value, name)
    if not callable(value):
        raise LoadError("cannot run %s:%s: it can't be called (%s)" % (module, attribute, type(value).__name__))  # noqa: UP031


def _try(request: dict[str, Any], result: dict[str, Any]) -> None:
    from instar import engines
    from instar.engines.base import EngineOptions
    from instar.runtime.loader import ForkHazards, load, prepare_path

    result["stage"] = "folder"
    prepare_path(request["chdir"], tuple(request["pythonpath"]))
    result["stage"] = "engine"
    options = EngineOptions(
        http=request["http"], worker_class=request["worker_class"], command=tuple(request["command"])
    )
    engines.for_sockets(request["engine"], request["protocols"]).preload(options)
    result["stage"] = "find"
    _find_module(request["module"], request)
    if request["load"]:
        result["stage"] = "load"
        # When application or handlers hang, show where, on standard error, and leave (status 1).
        faulthandler.dump_traceback_later(request["timeout"], exit=True)
    if request["target"]:
        hazards, began = ForkHazards(), time.monotonic()
        app = load(request["target"], factory=request["factory"], interface=request["interface"])
        result.update(seconds=time.monotonic() - began, interface=app.interface, notes=hazards.found())
    result["stage"] = "done"


def _find_module(name: str, request: dict[str, Any]) -> None:
    """Raise ModuleNotFoundError when there is no such module or package. Nothing is imported."""
    module = name.partition(".")[0]
    if module and importlib.util.find_spec(module) is None:
        places = ", ".join([request["chdir"], *request["pythonpath"]])
        raise ModuleNotFoundError(f"there is no module {module} in {places} or among the installed packages")


def _find_packages(request: dict[str, Any]) -> None:
    """Make `instar` importable in the way that a generation does it."""
    path = os.path.join(request["package"], "runtime", "bootstrap.py")  # noqa: PTH118
    spec = importlib.util.spec_from_file_location("_instar_bootstrap", path)
    assert spec is not None and spec.loader is not None  # noqa: S101
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    sys.meta_path.insert(0, bootstrap.PackageFinder({"instar": request["package"]}))
    sys.meta_path.append(bootstrap.fallback_finder(request))


def _describe(problem: BaseException) -> str:
    if isinstance(problem, SystemExit):
        return "the application left with exit status %s" % problem.code  # noqa: UP031
    return "".join(traceback.format_exception_only(type(problem), problem)).strip()


def _own_frames(problem: BaseException, request: dict[str, Any]) -> str:
    """The traceback without our own frames and those of importlib: the application's part."""
    package = request["package"] + os.sep
    report = traceback.TracebackException.from_exception(problem)
    seen: Any = report
    while seen is not None:
        frames = [
            frame
            for frame in seen.stack
            if not frame.filename.startswith((package, "<frozen importlib"))
            and os.sep + "importlib" + os.sep not in frame.filename
        ]
        seen.stack = traceback.StackSummary.from_list(frames)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "".join(report.format())


if __name__ == "__main__":
    main()
