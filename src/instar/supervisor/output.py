"""Follows the output of every process.

They append to files, which outlive the supervisor, never to a pipe that dies with it.

Layout below the root, which the application's user owns: `g<N>/<role>.out` for the processes of generation
N, `services/<name>.out` for services, `vassals/<file>.out` for an Emperor's vassals. Each line is delivered once;
after a crash of the supervisor the lines of the last moments may come twice, but none is lost: deliver, then save the
offset, then free the space.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from instar.supervisor.logrecord import LogRecord
from instar.supervisor.outputfile import OutputFile

#: Seconds between two looks at the files.
POLL = 0.2
#: An unfinished line is delivered after this many seconds of silence.
PARTIAL_AFTER = 5.0
#: More files in one folder are ignored: the application's user could create any number.
MAX_FILES = 1024

_GENERATION = re.compile(r"g([1-9][0-9]{0,8})\Z")
_OUTPUT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.out\Z")
#: Folders of what belongs to no generation, and the first part of the roles of what is in them.
_OTHERS = {"services": "service", "vassals": "vassal"}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Sink = Callable[[LogRecord], None]


class OutputFollower:
    """Follows all files below `root` and calls `sink` for each line, in the caller's thread.

    A sink that raises OSError (disk full) is asked again later with the same line. `state` is a small file
    in a folder that only the supervisor can write; it remembers how far each file has been delivered.
    """

    def __init__(
        self, root: Path, sink: Sink, *, state: Path, poll: float = POLL, partial_after: float = PARTIAL_AFTER
    ) -> None:
        self._root = root
        self._sink = sink
        self._state = state
        self._poll = poll
        self._partial_after = partial_after
        self._saved: dict[str, dict[str, int]] = _load(state)
        self._written: str = ""
        #: By path below the root, `g1/web.1.out`.
        self._files: dict[str, OutputFile] = {}
        self._retired: set[int] = set()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(0 if self.poll_once() else self._poll)

    def poll_once(self) -> bool:
        """Deliver what is there, at most one chunk a file; True when some file has more."""
        more = False
        seen: set[str] = set()
        for folder, name, dir_fd in self._scan():
            key = f"{folder}/{name}"
            seen.add(key)
            with contextlib.suppress(OSError):  # a full disk or a vanished file; the next round tries again
                more |= self._follow(key, name, dir_fd)
        for key in self._files.keys() - seen:
            self._forget(key)
        self._saved = {key: value for key, value in self._saved.items() if key in seen}
        self._save()
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.free()
        self._remove_retired()
        return more

    def catch_up(self) -> None:
        """Deliver everything written so far: before reading a dead process's last words."""
        limit = time.monotonic() + 1.0
        while self.poll_once() and time.monotonic() < limit:
            pass

    def generations(self) -> list[int]:
        """Numbers of the generations that have a folder, to find leftovers of an earlier run."""
        with contextlib.suppress(OSError):
            return sorted(int(match[1]) for name in os.listdir(self._root) if (match := _GENERATION.match(name)))
        return []

    def retire(self, generation: int) -> None:
        """All processes of the generation are gone: deliver the rest, then delete its files."""
        self._retired.add(generation)

    def close(self, *, final: bool = False) -> None:
        """Deliver what is there and stop. `final`: the writers are gone, so unfinished lines are delivered too."""
        self.catch_up()
        if final:
            for key, file in self._files.items():
                with contextlib.suppress(OSError):
                    file.flush_partial(self._deliverer(key), before=time.monotonic())
            self._save()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _scan(self) -> Iterator[tuple[str, str, int]]:
        """Every output file as (folder, name, descriptor of the folder, valid until the next step)."""
        with contextlib.suppress(FileNotFoundError):
            root_fd = os.open(self._root, _FOLDER)
            try:
                for folder in os.listdir(root_fd):
                    if folder in _OTHERS or _GENERATION.match(folder):
                        yield from self._scan_folder(folder, root_fd)
            finally:
                os.close(root_fd)

    def _scan_folder(self, folder: str, root_fd: int) -> Iterator[tuple[str, str, int]]:
        try:
            dir_fd = os.open(folder, _FOLDER, dir_fd=root_fd)
        except OSError:  # removed meanwhile, or not a folder
            return
        try:
            names = [name for name in os.listdir(dir_fd) if _OUTPUT.match(name)]
            for name in names[:MAX_FILES]:
                yield folder, name, dir_fd
        finally:
            os.close(dir_fd)

    def _follow(self, key: str, name: str, dir_fd: int) -> bool:
        file = self._files.get(key)
        if file is not None and os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_ino != file.inode:
            if not self._forget(key):  # replaced; its old inode first
                return False
            file = None
        if file is None:
            file = OutputFile.open(name, dir_fd, self._saved.get(key))
            if file is None:
                return False
            self._files[key] = file
            self._saved.pop(key, None)
        deliver, now = self._deliverer(key), time.monotonic()
        more = file.read(deliver, now)
        file.flush_partial(deliver, before=now - self._partial_after)
        return more

    def _forget(self, key: str) -> bool:
        """Deliver the rest of a file that is no longer written to and let go of it; False if that must wait."""
        file, deliver = self._files[key], self._deliverer(key)
        try:
            while file.read(deliver, 0.0):
                pass
            file.flush_partial(deliver, before=math.inf)
        except OSError:
            return False
        file.close()
        del self._files[key]
        return True

    def _deliverer(self, key: str) -> Callable[[str], None]:
        folder, _, name = key.partition("/")
        role, generation = name.removesuffix(".out"), None
        if match := _GENERATION.match(folder):
            generation = int(match[1])
        else:
            role = f"{_OTHERS[folder]}.{role}"
        return lambda text: self._sink(LogRecord(time.time(), generation, role, text))

    def _save(self) -> None:
        """Remember the offsets, in one rename. No fsync: a machine that crashes takes the writers with it."""
        files = {**self._saved, **{key: file.saved() for key, file in self._files.items()}}
        text = json.dumps({"version": 1, "files": files}, sort_keys=True)
        if text == self._written:
            return
        temporary = self._state.with_name(self._state.name + ".new")
        # On a full disk the space is freed all the same: `OutputFile.open` skips a hole at the saved offset.
        with contextlib.suppress(OSError):
            temporary.write_text(text)
            temporary.replace(self._state)
            self._written = text

    def _remove_retired(self) -> None:
        for generation in list(self._retired):
            keys = [key for key in self._files if key.startswith(f"g{generation}/")]
            if not all(self._forget(key) for key in keys):
                continue
            if _remove(self._root, f"g{generation}"):
                self._retired.discard(generation)
                self._save()


def _remove(root: Path, name: str) -> bool:
    """Delete the output files of a folder, then the folder if nothing else is in it; whether it is gone."""
    with contextlib.ExitStack() as stack:
        try:
            root_fd = os.open(root, _FOLDER)
            stack.callback(os.close, root_fd)
            dir_fd = os.open(name, _FOLDER, dir_fd=root_fd)
            stack.callback(os.close, dir_fd)
            for file in filter(_OUTPUT.match, os.listdir(dir_fd)):
                os.unlink(file, dir_fd=dir_fd)
            os.rmdir(name, dir_fd=root_fd)
        except OSError as error:
            # Whatever else there is by that name is nothing of ours, and is left alone.
            return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
    return True


def _load(state: Path) -> dict[str, dict[str, int]]:
    """The saved offsets; nothing where there are none, or none that can be read."""
    try:
        raw: Any = json.loads(state.read_text())
        return {str(key): {name: int(value[name]) for name in value} for key, value in raw["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
