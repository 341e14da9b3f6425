"""Inside the real uWSGI that a worker has become: the application with the middleware, and the watch thread."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import Any

from instar.engines.uwsgi_protocol.environ import FileWrapper
from instar.errors import InstarError
from instar.runtime import current, middleware
from instar.runtime.attach import attach
from instar.runtime.loader import load, prepare_path
from instar.runtime.spec import GenerationSpec
from instar.runtime.survey import Survey
from instar.runtime.watch import MEMORY_EVERY, MEMORY_RARELY, Watch


def application(document: str) -> Any:
    """The WSGI application. The environment names the scoreboard and the sockets; raises what the load raises."""
    spec = GenerationSpec.from_json(document)
    found = attach()
    if found is None:
        raise InstarError("cannot serve: the environment names no scoreboard; this file is for engine 'uwsgi' only")
    state = found.state
    sockets = [int(fd) for fd in os.environ.pop("INSTAR_LISTEN_FDS").split(",")]
    prepare_path(spec.chdir, spec.pythonpath)
    current.run_post_fork_hooks()
    app = load(spec.target, factory=spec.factory, interface="wsgi")
    wrapped = middleware.wrap(app.callable, "wsgi", spec, state.board, state.row, state)
    Watch(
        state.board,
        state.row,
        oldest=state.oldest,
        drain=state.poll,
        survey=functools.partial(Survey(sockets).look, state.http2_peers),
        memory_every=MEMORY_EVERY if spec.max_memory else MEMORY_RARELY,
    ).start()

    def served(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # uWSGI's own wrapper is recognised by identity, which the middleware's wrappers would hide.
        environ["wsgi.file_wrapper"] = FileWrapper
        body: Iterable[bytes] = wrapped.single(environ, start_response)
        return body

    return served
