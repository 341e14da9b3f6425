"""What a generation is told at its start: one JSON document, written by the supervisor, read by the zygote.

Fields are only ever added, with a default, so that a zygote and a supervisor of neighbouring releases
understand each other.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from instar import PROTOCOL
from instar.engines.base import EngineOptions
from instar.handlers.messages import QueueSpec


@dataclasses.dataclass(frozen=True)
class ListenerSpec:
    """The sockets of one bind address that a generation serves."""

    #: As in the configuration: `127.0.0.1:8080`, `[::]:80`, `unix:/run/app.sock`, `uwsgi:127.0.0.1:3031`.
    address: str
    family: str
    #: Descriptors by row; worker `i` serves `fds[i % len(fds)]`.
    fds: tuple[int, ...]
    #: Every other descriptor of the listener (the other slot's). The zygote only holds them: an index of the
    #: reuseport group is lost when the last holder closes a socket.
    held: tuple[int, ...] = ()
    #: What its clients speak: `http` or `uwsgi`.
    protocol: str = "http"


@dataclasses.dataclass(frozen=True)
class StaticMap:
    """URL prefix served from a folder."""

    prefix: str
    root: str


@dataclasses.dataclass(frozen=True)
class HandlerSpec:
    """One named handler. Exactly one of `target`, `script` and `argv` is set; times in seconds."""

    name: str
    pool: str
    index: int
    target: str = ""
    argv: tuple[str, ...] = ()
    #: Boots before it has the name.
    warm: bool = True
    tags: tuple[str, ...] = ()
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    stop_timeout: float = 30.0
    kill_timeout: float = 5.0
    keep_name: bool = False
    backoff: float = 0.5
    backoff_limit: float = 30.0
    memory_max: int = 0
    cpu_max: float = 0.0
    #: A Python file that is run in the handler's own process, as soon as it has the name.
    script: str = ""


@dataclasses.dataclass(frozen=True)
class ExtensionSpec:
    """An `instar.runtime.extension.Extension`, as `module:class`, and what it is told."""

    target: str
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GenerationSpec:
    """Everything a zygote needs. Times in seconds, sizes in bytes."""

    generation: int
    app_name: str
    #: `module:attr`; empty with the `command` engine.
    target: str
    factory: bool
    #: `auto`, `wsgi` or `asgi`.
    interface: str
    #: Resolved at boot: the pinned release.
    chdir: str
    pythonpath: tuple[str, ...]
    slot: str
    workers: int
    engine: str
    options: EngineOptions
    listeners: tuple[ListenerSpec, ...]
    #: Descriptor of the zygote's listening control socket.
    control_fd: int
    #: Descriptor of the scoreboard memfd (`2 * workers` rows).
    scoreboard_fd: int
    #: Folder for the output of each process (`<role>.out`).
    output_dir: str
    #: Secret of this generation; a probe that carries it is answered with generation and row.
    nonce: str
    #: Load in each worker instead of once: None = decide by whether the import started threads.
    lazy: bool | None = None
    #: Why it was made lazy.
    lazy_notes: tuple[str, ...] = ()
    static: tuple[StaticMap, ...] = ()
    handlers: tuple[HandlerSpec, ...] = ()
    #: Folder of the handlers' lock files.
    handler_dir: str = ""
    queues: tuple[QueueSpec, ...] = ()
    trusted_proxies: tuple[str, ...] = ()
    request_timeout: float = 0.0
    heartbeat_timeout: float = 30.0
    max_requests: int = 0
    max_requests_jitter: int = 0
    max_memory: int = 0
    stop_timeout: float = 10.0
    #: Limits for a worker that is being recycled.
    drain_timeout: float = 60.0
    stream_grace: float = 5.0
    access_log: bool = False
    #: "json" or "text"
    log_format: str = "text"
    #: Accept only after `Commit` (shared listeners).
    gated: bool = False
    #: Path probed inside the process before a gated worker is ready; empty: no probe.
    probe_path: str = ""
    #: Packages that the application's environment may lack, with their folders in the supervisor's installation.
    fallbacks: dict[str, str] = dataclasses.field(default_factory=dict)
    #: The same for packages with compiled modules, and the ending of these modules' names: only an interpreter with
    #: the same ending can load them.
    compiled: dict[str, str] = dataclasses.field(default_factory=dict)
    abi: str = ""
    #: Connection to the supervisor, kept over the exec that makes a lazy zygote; -1: accept one.
    connection_fd: int = -1
    #: uid that may command the zygote, besides root.
    supervisor_uid: int = 0
    #: Takes part in every process of the generation.
    extension: ExtensionSpec | None = None
    protocol: int = PROTOCOL

    def lock_path(self, name: str) -> Path:
        """The lock file of a handler's name; programs are known by it, too."""
        return Path(self.handler_dir) / f"{name}.lock"

    def to_json(self) -> str:
        """The document."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> GenerationSpec:
        """Read a document; unknown fields (of a newer supervisor) are ignored."""
        raw = _known(cls, json.loads(text))
        raw["options"] = EngineOptions(**_tuples(_known(EngineOptions, raw["options"])))
        raw["listeners"] = tuple(ListenerSpec(**_tuples(_known(ListenerSpec, item))) for item in raw["listeners"])
        raw["static"] = tuple(StaticMap(**_known(StaticMap, item)) for item in raw.get("static", ()))
        raw["handlers"] = tuple(HandlerSpec(**_tuples(_known(HandlerSpec, item))) for item in raw.get("handlers", ()))
        raw["queues"] = tuple(QueueSpec(**_known(QueueSpec, item)) for item in raw.get("queues", ()))
        if raw.get("extension"):
            raw["extension"] = ExtensionSpec(**_known(ExtensionSpec, raw["extension"]))
        return cls(**_tuples(raw))


def _known(cls: Any, raw: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    return {key: value for key, value in raw.items() if key in names}


def _tuples(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
