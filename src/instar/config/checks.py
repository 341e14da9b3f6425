"""What must, or should, hold between several keys. Nothing here looks at the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

from instar.config.handlers import HANDLER_NAME
from instar.config.model import Config
from instar.config.types import quoted


def problems(config: Config) -> list[str]:
    """What can't work, one sentence each; empty when all is well."""
    return [
        *_target(config),
        *_tls(config),
        *_binds(config),
        *_canary(config),
        *_engine(config),
        *_handlers(config),
        *_jobs(config),
    ]


def _target(config: Config) -> Iterator[str]:
    app, web = config.app, config.web
    if web.engine == "command":
        if not web.command:
            yield '[web] engine "command" needs [web] command, the server\'s program and arguments'
        return
    if web.command:
        yield f'[web] command is only used by engine "command", not by "{web.engine}"; set [web] engine = "command"'
    if not app.target:
        yield '[app] target is missing; write target = "module:attribute", as in "mysite.wsgi:application"'


def _tls(config: Config) -> Iterator[str]:
    web = config.web
    if web.tls_cert and not web.tls_key:
        yield "[web] tls_cert needs [web] tls_key, the private key of the certificate"
    if web.tls_key and not web.tls_cert:
        yield "[web] tls_key needs [web] tls_cert, the certificate"
    if web.tls_key_password_env and not web.tls_key:
        yield "[web] tls_key_password_env needs [web] tls_key"


def _binds(config: Config) -> Iterator[str]:
    for first, second in combinations(config.web.addresses, 2):
        if first.location == second.location and not (first.kind == "tcp" and first.port == 0):
            yield f"[web] bind has {first.location} twice"
        elif first.overlaps(second):
            wide, narrow = (first, second) if first.wildcard else (second, first)
            yield f"[web] bind has {narrow}, which {wide} already covers; leave one out"
    yield from _uwsgi_binds(config)


def _uwsgi_binds(config: Config) -> Iterator[str]:
    binds = [address for address in config.web.addresses if address.protocol == "uwsgi"]
    if binds and config.app.interface == "asgi" and config.web.engine != "command":
        yield f"[web] bind has {binds[0]}: the uwsgi protocol can't carry ASGI; use an HTTP bind and proxy_pass"
    for address in binds:
        if not address.local and not config.web.uwsgi.allow:
            yield (
                f"[web] bind has {address}, which other hosts can reach, and a peer is believed in all it says of a "
                "client; name the proxies in [web.uwsgi] allow, or listen on 127.0.0.1"
            )


def _canary(config: Config) -> Iterator[str]:
    canary = config.restart.canary
    if all(address.kind == "unix" for address in config.web.addresses):
        if canary.share:
            yield "[restart.canary] share needs a TCP bind: connections to a UNIX socket can't be shared out"
        if canary.networks:
            yield "[restart.canary] networks needs a TCP bind: clients of a UNIX socket have no address"
    if canary.active and config.web.steering == "shared":
        yield '[restart.canary] needs steered sockets, and [web] steering is "shared"'


def _engine(config: Config) -> Iterator[str]:
    web = config.web
    if web.engine == "uwsgi":
        if web.tls_cert:
            yield '[web] tls_cert has no meaning for engine "uwsgi"; leave TLS to the proxy before it'
        if config.app.interface == "asgi":
            yield '[app] interface is "asgi", and engine "uwsgi" serves WSGI; use "granian"'
    if web.http == "2" and web.engine in ("uvicorn", "gunicorn", "uwsgi"):
        yield f'[web] http = "2" needs engine "granian": {web.engine} does not speak HTTP/2'
    if web.worker_class and web.engine != "gunicorn":
        yield f'[web] worker_class is only used by engine "gunicorn", not by "{web.engine}"'
    if web.max_workers and web.workers > web.max_workers:
        yield f"[web] workers ({web.workers}) must not be more than [web] max_workers ({web.max_workers})"


def _handlers(config: Config) -> Iterator[str]:
    for pool, item in config.handlers.items():
        given = list(item.work)
        if not given and pool != config.jobs.pool:
            yield f"[handlers.{pool}] needs one of target, script and command; only the pool of [jobs] may have none"
        elif len(given) > 1:
            yield f"[handlers.{pool}] has {' and '.join(given)}; keep one of them"
        elif item.handover == "warm" and item.command:
            yield (
                f'[handlers.{pool}] handover "warm" needs target or script: a command can\'t be forked from the '
                'application; use "cold"'
            )
    yield from _handler_names(config)


def _handler_names(config: Config) -> Iterator[str]:
    """No name twice, none that a process or a file of instar has already; one sentence a pool."""
    owners: dict[str, str] = {}
    for pool in config.handlers:
        for name in config.handler_names(pool):
            problem = _handler_name(config, pool, name, owners.get(name))
            if problem:
                yield problem
                break
            owners[name] = pool


def _handler_name(config: Config, pool: str, name: str, owner: str | None) -> str:
    where = f"[handlers.{pool}]"
    if not HANDLER_NAME.fullmatch(name):
        allowed = '1 to 100 letters, digits, "-", "_" and ".", the first a letter or digit'
        return f"{where} would have a handler with the name {quoted(name)}; a name has {allowed}"
    if owner == pool:
        return f"{where} would have several handlers with the name {name}; use {{index}} in the template of its names"
    if owner is not None:
        return f"{where} and [handlers.{owner}] would both have a handler {name}; use {{pool}} in their templates"
    if name in config.handlers and (name != pool or len(config.handler_names(pool)) > 1):
        return f"{where} would have a handler with the name {name}, which is that of a pool"
    if re.fullmatch(rf"zygote|web\.\d+|{re.escape(config.app.name)}\.[ab]\.\d+", name):
        return f"{where} would have a handler with the name {name}, which instar gives to a process of its own"
    return ""


def _jobs(config: Config) -> Iterator[str]:
    jobs = config.jobs
    if jobs.pool and jobs.pool not in config.handlers:
        yield f"[jobs] pool names {quoted(jobs.pool)}, and there is no table [handlers.{jobs.pool}]"
    pool = config.handlers.get(jobs.pool)
    if pool is not None and (pool.script or pool.command):
        yield f"[jobs] pool names [handlers.{jobs.pool}], which runs a program; it must have a target, or nothing"
    if jobs.store and jobs.store_env:
        yield "[jobs] has store and store_env; keep one of them"
    yield from _job_names(config)


def _job_names(config: Config) -> Iterator[str]:
    """Runners and destinations that are named must be there."""
    jobs = config.jobs
    runners = {"local", *jobs.runners}
    for name, destination in jobs.destinations.items():
        if (destination.runner or name) not in runners:
            yield f"[jobs.destinations.{name}] needs a runner: there is no [jobs.runners.{destination.runner or name}]"
    places = runners | set(jobs.destinations) | {tag for item in jobs.destinations.values() for tag in item.tags}
    if jobs.default_destination not in places:
        yield f"[jobs] default_destination names {quoted(jobs.default_destination)}, which is no destination"
    for kind, rule in jobs.rules.items():
        if rule.destination and rule.destination not in places:
            yield f"[jobs.rules.{kind}] destination names {quoted(rule.destination)}, which is no destination"


def warnings(config: Config) -> Iterator[str]:
    """What works and yet is probably not meant, one sentence each."""
    web, restart = config.web, config.restart
    if restart.drain_timeout <= web.keep_alive:
        yield (
            f"[restart] drain_timeout ({restart.drain_timeout:g} s) should be longer than [web] keep_alive "
            f"({web.keep_alive:g} s), or idle clients may lose a request when the old generation stops"
        )
    if restart.stream_grace > restart.drain_timeout:
        yield "[restart] stream_grace should be shorter than [restart] drain_timeout, or long-lived streams are cut"
    if config.health.timeout > restart.boot_timeout:
        yield "[health] timeout should be shorter than [restart] boot_timeout, or one slow answer fails the boot"
    if restart.canary.networks and web.trusted_proxies:
        yield "[restart.canary] networks looks at the address that connects, which is the proxy's"
    if restart.canary.active and any(address.kind == "unix" for address in web.addresses):
        yield "[restart.canary] has no effect on clients of UNIX sockets"
    if web.max_requests_jitter and not web.max_requests:
        yield "[web] max_requests_jitter has no effect without [web] max_requests"
    if "*" in web.trusted_proxies and any(address.wildcard for address in web.addresses):
        yield '[web] trusted_proxies = "*" lets every client forge its own address'
    for pool, item in config.handlers.items():
        if item.backoff > item.backoff_limit:
            yield f"[handlers.{pool}] backoff should not be longer than its backoff_limit, which wins"
    if web.engine == "command":
        yield from _command_warnings(config)


def _command_warnings(config: Config) -> Iterator[str]:
    for key in ("tls_cert", "static", "root_path", "trusted_proxies", "threads"):
        if getattr(config.web, key):
            yield f'[web] {key} has no effect with engine "command"; the command has to do it'
