"""What `instar run` would do, in words."""

from __future__ import annotations

from instar.config import Config
from instar.config.units import format_duration, format_size
from instar.supervisor.plan import worker_count

#: Of a pool's handlers, so many are named.
MOST_NAMES = 8


def describe(config: Config) -> list[tuple[str, str]]:
    """(label, text) for each thing. Nothing in it comes from a file of secrets."""
    return [*_application(config), *_web(config), *_restart(config), ("state", str(config.state_dir()))]


def _application(config: Config) -> list[tuple[str, str]]:
    app, web = config.app, config.web
    what = " ".join(web.command) if web.engine == "command" else app.target + (" (factory)" if app.factory else "")
    rows = [("application", f"{app.name}: {what}"), ("folder", str(app.chdir))]
    return [*rows, ("environment", ", ".join(app.env))] if app.env else rows


def _web(config: Config) -> list[tuple[str, str]]:
    web, workers = config.web, worker_count(config)
    rows = [
        ("addresses", ", ".join(address.url(tls=bool(web.tls_cert)) for address in web.addresses)),
        ("workers", f"{workers} {'process' if workers == 1 else 'processes'}, {_threads(web.threads)}, {web.servers}"),
    ]
    if web.static:
        rows.append(("static files", ", ".join(f"{prefix} from {folder}" for prefix, folder in web.static.items())))
    if web.max_memory:
        rows.append(("recycle", f"a worker above {format_size(web.max_memory)} of memory"))
    if web.max_requests:
        rows.append(("recycle", f"a worker after {web.max_requests} requests"))
    return rows


def _threads(count: int) -> str:
    if not count:
        return "4 threads (WSGI) or 1 (ASGI)"
    return f"{count} thread{'s' if count != 1 else ''}"


def _restart(config: Config) -> list[tuple[str, str]]:
    restart, health = config.restart, config.health
    boot, drain = format_duration(restart.boot_timeout), format_duration(restart.drain_timeout)
    rows = [
        ("health", f"GET {health.path} must give {health.status} within {format_duration(health.timeout)}"),
        ("restart", f"boot within {boot}, drain up to {drain}"),
    ]
    if restart.canary.active:
        rows.append(("canary", _canary(config)))
    if restart.keep_old:
        rows.append(("keep old", format_duration(restart.keep_old)))
    for key in ("before", "after", "on_rollback"):
        rows += [(f"hook {key}", " ".join(hook.command)) for hook in getattr(restart, key)]
    rows += [(f"handlers {pool}", _pool(config, pool)) for pool in config.handlers]
    return rows + [(f"service {name}", " ".join(item.command)) for name, item in config.services.items()]


def _pool(config: Config, pool: str) -> str:
    item, names = config.handlers[pool], config.handler_names(pool)
    shown = names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], "…", names[-1]]
    work = " ".join(item.command) if item.command else str(item.script or item.target or "runs jobs")
    return f"{', '.join(shown) or 'none'} ({'warm' if item.warm else 'cold'}: {work})"


def _canary(config: Config) -> str:
    canary = config.restart.canary
    whom = [f"{canary.share:.0%} of new connections"] if canary.share else []
    whom += [f"clients from {', '.join(map(str, canary.networks))}"] if canary.networks else []
    return f"{' and '.join(whom)} for {format_duration(canary.duration)}"
