"""Everything that stands between the server and the application."""

from __future__ import annotations

from typing import Any

from instar.engines.base import Interface
from instar.runtime.access_log import AccessLog, AccessLogAsgi, AccessLogWsgi
from instar.runtime.drain import DrainState
from instar.runtime.drain_asgi import DrainAsgi
from instar.runtime.drain_wsgi import DrainWsgi
from instar.runtime.forwarded import ForwardedAsgi, ForwardedWsgi, TrustedProxies
from instar.runtime.probe import Probe
from instar.runtime.root_path import RootPathAsgi, RootPathWsgi
from instar.runtime.scoreboard import Scoreboard
from instar.runtime.spec import GenerationSpec
from instar.runtime.static import StaticAsgi, StaticFiles, StaticWsgi


def wrap(app: Any, interface: Interface, spec: GenerationSpec, board: Scoreboard, row: int, drain: DrainState) -> Any:
    """The application as the engine gets it: draining outermost, then proxies, access log, root path, static files.

    Call it in the worker, after the fork. Raises InstarError when a part can't work (static files without
    `servestatic`, an unusable proxy network).
    """
    probe = Probe(spec.nonce, spec.generation, row % spec.workers)
    wsgi = interface == "wsgi"
    if spec.static:
        files = StaticFiles(spec.static)
        app = StaticWsgi(app, files) if wsgi else StaticAsgi(app, files)
    if spec.options.root_path.strip("/"):
        app = (RootPathWsgi if wsgi else RootPathAsgi)(app, spec.options.root_path)
    if spec.access_log:
        log = AccessLog(spec.log_format)
        app = AccessLogWsgi(app, log) if wsgi else AccessLogAsgi(app, log)
    if spec.trusted_proxies:
        trusted = TrustedProxies(spec.trusted_proxies)
        app = ForwardedWsgi(app, trusted) if wsgi else ForwardedAsgi(app, trusted)
    return DrainWsgi(app, drain, probe) if wsgi else DrainAsgi(app, drain, probe)
