"""The named handlers of a generation: forked as standbys, armed and released on the supervisor's word, replaced when
they end while the generation owns their name."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

from instar.handlers.states import HandlerState
from instar.handlers.tree import ProcessGroup, descendants
from instar.runtime import channel
from instar.runtime.fleet import HEALTHY_AFTER
from instar.runtime.handler import run_handler
from instar.runtime.nursery import Child
from instar.runtime.parent import Parent, Phase
from instar.runtime.spec import HandlerSpec
from instar.system import describe_status

#: Seconds for which the programs of a killed keeper are looked for.
_SWEEP = 3.0


@dataclasses.dataclass
class HandlerChild:
    """One handler process. The roster owns the write ends of its pipes: a byte arms or releases it."""

    child: Child
    arm: int
    release: int
    group: ProcessGroup | None
    state: HandlerState = HandlerState.STANDBY
    #: It has said that it waits for its name.
    waiting: bool = False
    epoch: int = 0
    armed: bool = False
    #: Asked to leave; when the harsher means follow (0: never).
    leaving: bool = False
    term_at: float = 0.0
    kill_at: float = 0.0


@dataclasses.dataclass
class Post:
    """One name. `owned`: this generation may hold it, so a process that ends is replaced, and armed at once."""

    spec: HandlerSpec
    owned: bool = False
    children: list[HandlerChild] = dataclasses.field(default_factory=list)
    #: The process that is to follow the holder.
    successor: HandlerChild | None = None
    respawn_at: float | None = None
    delay: float = 0.0
    #: The epoch of a keeper that was killed, and until when its program is looked for.
    orphaned: int = 0
    sweep_until: float = 0.0

    @property
    def newest(self) -> HandlerChild | None:
        """The standby that would follow, or the only process."""
        return self.children[-1] if self.children else None


class Roster:
    """Owner of the posts."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._posts = {spec.name: Post(spec, delay=spec.backoff) for spec in parent.spec.handlers}
        parent.nursery.in_child(self._shed)

    def start(self) -> None:
        """Fork a standby for every name."""
        for post in self._posts.values():
            self._fork(post)

    def arm(self, name: str) -> None:
        """The newest process may take the name as soon as it is free; its successors too."""
        post = self._posts.get(name)
        if post is None:
            return
        post.owned = True
        if post.newest is None or post.newest.leaving:
            self._fork(post)
        elif not post.newest.armed:
            self._arm(post.newest)

    def release(self, name: str, *, successor: bool) -> None:
        """Ask the oldest process to leave. `successor`: a newer one of this generation follows it."""
        post = self._posts.get(name)
        if post is None:
            return
        post.owned = successor
        if not successor:
            post.respawn_at = None
        for item in post.children:
            # If it has ended already, the holder leaves all the same and is replaced.
            if not successor or item is not post.successor:
                self._release(post, item)

    def start_standby(self, name: str) -> None:
        """Fork another process for a name, unless one waits already."""
        post = self._posts.get(name)
        if post is None:
            return
        if post.newest is None or post.newest.leaving or post.newest.state is not HandlerState.STANDBY:
            self._fork(post)
        post.successor = post.newest

    def stop(self, timeout: float, *, keep: bool) -> None:
        """Ask every handler to leave; SIGKILL after `timeout` seconds. `keep`: names that this generation owns are
        held on, and processes that keep theirs (`keep_name`) stay."""
        now = self._parent.system.monotonic()
        for post in self._posts.values():
            if keep and post.owned:
                continue
            post.owned, post.respawn_at = False, None
            for item in post.children:
                if keep and post.spec.keep_name and item.state is not HandlerState.STANDBY:
                    continue
                if not item.leaving:
                    self._release(post, item)
                if item.state is HandlerState.STANDBY:
                    item.kill_at = item.kill_at or now + min(timeout, post.spec.kill_timeout)
                item.kill_at = min(item.kill_at or now + timeout, now + timeout)

    @property
    def busy(self) -> bool:
        """Whether a handler is to be started again later: the zygote must not end without it."""
        return any(post.respawn_at is not None for post in self._posts.values())

    def greet(self) -> None:
        """Tell a supervisor that has just connected who lives."""
        for post in self._posts.values():
            for item in post.children:
                self._tell_forked(post, item)
                if item.waiting:
                    self._parent.link.send(channel.HandlerStandby(post.spec.name, item.child.pid))
                if item.epoch:
                    self._parent.link.send(channel.HandlerActive(post.spec.name, item.child.pid, item.epoch))

    def patience(self) -> float:
        """Seconds until `step` has something to do."""
        now = self._parent.system.monotonic()
        due = [post.respawn_at - now for post in self._posts.values() if post.respawn_at is not None]
        if any(item.leaving for post in self._posts.values() for item in post.children):
            due.append(0.05)
        due += [0.05 for post in self._posts.values() if now < post.sweep_until]
        return max(0.0, min([1.0, *due]))

    def step(self, now: float) -> None:
        """Do what is due."""
        for post in self._posts.values():
            if post.respawn_at is not None and now >= post.respawn_at:
                post.respawn_at = None
                if post.owned and post.newest is None:
                    self._fork(post)
            for item in post.children:
                self._press(post, item, now)
            if now < post.sweep_until:
                self._sweep(post)

    def on_event(self, event: dict[str, Any]) -> None:
        """A handler said something."""
        post = self._posts[event["handler"]]
        item = next((item for item in post.children if item.child.pid == event["pid"]), None)
        if item is None:
            return
        name, link = post.spec.name, self._parent.link
        if event["event"] == "standby":
            item.waiting = True
            link.send(channel.HandlerStandby(name, item.child.pid), keep=False)
        elif event["event"] == "active":
            item.state, item.epoch = HandlerState.ACTIVE, event["epoch"]
            link.send(channel.HandlerActive(name, item.child.pid, item.epoch), keep=False)
        elif self._parent.phase is Phase.BOOTING:
            error = f"handler {name} failed: {event['error']}"
            self._parent.fail_boot("handler", error, event.get("traceback", ""))
        else:
            link.send(channel.Note("handler_error", f"{name}: {event['error']}"))

    # --- processes --------------------------------------------------------------------------------

    def _fork(self, post: Post) -> None:
        parent, spec = self._parent, post.spec
        arm_read, arm = os.pipe2(os.O_CLOEXEC)
        release_read, release = os.pipe2(os.O_CLOEXEC)
        group = self._group(spec)

        def body() -> int:
            os.close(arm)
            os.close(release)
            return run_handler(
                parent.spec, spec, parent.app, arm_fd=arm_read, release_fd=release_read, tell=parent.tell, group=group
            )

        child = parent.nursery.fork(body, lambda ended, status: self._on_exit(post, ended, status))
        os.close(arm_read)
        os.close(release_read)
        item = HandlerChild(child, arm, release, group)
        post.children.append(item)
        self._tell_forked(post, item)
        if post.owned:
            self._arm(item)

    def _group(self, spec: HandlerSpec) -> ProcessGroup | None:
        group = ProcessGroup.create(f"{spec.name}.{self._parent.system.monotonic():.6f}")
        if group:
            for problem in group.limit(memory=spec.memory_max, cores=spec.cpu_max):
                self._parent.link.send(channel.Note("limit", f"{spec.name}: {problem}"))
        elif spec.cpu_max:
            self._parent.link.send(channel.Note("limit", f"{spec.name}: cannot limit cpu_max without a cgroup v2"))
        return group

    def _shed(self) -> None:
        """No child may hold the write ends: a handler hears of its orphanhood by end of file."""
        for post in self._posts.values():
            for item in post.children:
                os.close(item.arm)
                os.close(item.release)

    def _tell_forked(self, post: Post, item: HandlerChild) -> None:
        message = channel.HandlerForked(post.spec.name, item.child.pid, item.child.start_time)
        self._parent.link.send(message, (item.child.pidfd, item.arm, item.release), keep=False)

    def _arm(self, item: HandlerChild) -> None:
        item.armed = True
        os.write(item.arm, b"a")

    def _release(self, post: Post, item: HandlerChild) -> None:
        if item.leaving:
            return
        item.leaving = True
        now, spec = self._parent.system.monotonic(), post.spec
        if item.state is HandlerState.STANDBY:
            # It does nothing under the name yet: there is nothing to finish.
            item.term_at = now
            item.kill_at = now + spec.kill_timeout
        elif not spec.keep_name:
            item.term_at = now + spec.stop_timeout
            item.kill_at = item.term_at + spec.kill_timeout
        with contextlib.suppress(OSError):
            os.write(item.release, b"r")
        if item.state is HandlerState.ACTIVE:
            item.state = HandlerState.RELEASING

    def _press(self, post: Post, item: HandlerChild, now: float) -> None:
        if item.term_at and now >= item.term_at:
            item.term_at = 0.0
            self._parent.nursery.signal(item.child, signal.SIGTERM)
        if item.kill_at and now >= item.kill_at:
            item.kill_at = 0.0
            self._kill_tree(item)

    def _kill_tree(self, item: HandlerChild) -> None:
        """SIGKILL for the process and all that it started."""
        if item.group:
            item.group.kill()
        for pid in descendants(item.child.pid):
            self._parent.system.kill(pid, signal.SIGKILL)
        self._parent.nursery.signal(item.child, signal.SIGKILL)

    def _sweep(self, post: Post) -> None:
        """A killed keeper leaves its program, which still holds the name. Looked for again and again: it may have
        been between fork and exec, or forking."""
        if any(item.epoch > post.orphaned for item in post.children):
            post.sweep_until = 0.0
        for pid in belonging_to(self._parent.spec.lock_path(post.spec.name), post.orphaned):
            self._parent.system.kill(pid, signal.SIGKILL)

    def _on_exit(self, post: Post, child: Child, status: int) -> None:
        parent, name = self._parent, post.spec.name
        item = next(item for item in post.children if item.child is child)
        post.children.remove(item)
        os.close(item.arm)
        os.close(item.release)
        if post.spec.argv and status < 0:
            post.orphaned, post.sweep_until = item.epoch, parent.system.monotonic() + _SWEEP
        if item.group:
            item.group.remove()
        expected = item.leaving or (parent.phase is Phase.STOPPING and not post.owned)
        reason = "" if expected else f"handler {name} {describe_status(status)}"
        delay = -1.0
        if post.owned and not post.children:
            now = parent.system.monotonic()
            healthy = now - child.forked_at >= HEALTHY_AFTER
            # The first replacement comes at once: its name is unheld.
            delay = 0.0 if healthy or (post.delay == post.spec.backoff and item.epoch) else post.delay
            post.delay = post.spec.backoff if healthy else min(post.delay * 2, post.spec.backoff_limit)
            post.respawn_at = now + delay
        parent.link.send(channel.HandlerExited(name, child.pid, status, reason, delay, expected))
        if parent.phase is Phase.BOOTING and not expected:
            parent.fail_boot("handler", f"handler {name} {describe_status(status)} before it was ready")


def belonging_to(lock: Path, epoch: int) -> list[int]:
    """Pids of the programs that a keeper has started under its name, daemons included: their environment tells.

    The lock file stands for the name: another application of the host may have the same one.
    """
    marks = {f"INSTAR_LOCK={lock}".encode(), f"INSTAR_EPOCH={epoch}".encode()}
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # Others' processes may not be looked at, and any may go away.
        with contextlib.suppress(OSError):
            if marks.issubset(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                found.append(int(pid))
    return found
