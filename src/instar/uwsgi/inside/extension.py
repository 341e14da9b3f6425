"""Where `instar uwsgi` takes part in the life of the application's processes."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from instar.runtime import extension
from instar.runtime.scoreboard import Scoreboard
from instar.runtime.spec import GenerationSpec, HandlerSpec
from instar.uwsgi.inside import files, module
from instar.uwsgi.inside.data import InsideData, MuleData
from instar.uwsgi.inside.leaving import Leaving
from instar.uwsgi.inside.locks import Locks
from instar.uwsgi.inside.mail import Mail

_IMPORT = ("import", "pyimport", "py-import", "python-import")
_SHARED_IMPORT = ("shared-import", "shared-pyimport", "shared-py-import", "shared-python-import")


class UwsgiExtension(extension.Extension):
    """Installs the `uwsgi` module before the application is loaded and tells it which process it is in."""

    def __init__(self, spec: GenerationSpec, board: Scoreboard, ask: Callable[[str], object]) -> None:
        super().__init__(spec, board, ask)
        self.data = InsideData.of(spec.extension.data if spec.extension else {})
        #: The mule that this process is.
        self.mule: MuleData | None = None
        # One file for all generations: while two of them live, a lock still has one holder.
        path = Path(spec.handler_dir) / f".uwsgi-{spec.app_name}.locks"
        self.leaving = Leaving()
        self.mail = Mail(self.data, spec.queues, self.leaving)
        self.locks = Locks(path, 1 + max(0, self.data.number("locks", default=0)))
        self.functions = module.Functions(self.data, board, spec.workers, self.locks, self.mail, ask)
        sockets = [item.fds[0] for item in spec.listeners if item.fds]
        self.module = module.make(self.data, self.functions, workers=spec.workers, sockets=sockets)

    def before_load(self) -> None:
        """Make `import uwsgi` and `import uwsgidecorators` work, and import what the file names."""
        own = [*reversed(self.spec.pythonpath), self.spec.chdir]
        sys.path[:] = [*own, *(entry for entry in sys.path if entry not in own)]
        sys.argv = ["uwsgi", *(self.data.last("pyargv") or "").split()]
        sys.modules["uwsgi"] = self.module
        sys.meta_path.insert(0, _Decorators())
        for alias in self.data.all("pymodule-alias"):
            _alias(alias)
        for name in self.data.all(*_SHARED_IMPORT):
            self._import(name)
        if not self.spec.lazy:
            self._import_all()

    def _import_all(self) -> None:
        for name in self.data.all(*_IMPORT):
            self._import(name)
        for alias in self.data.all("post-pymodule-alias"):
            _alias(alias)

    def _import(self, name: str) -> None:
        """`import: NAME`: a module, or a file. An error fails the boot, unless the file says `need-app: false`."""
        try:
            if "/" in name or name.endswith(".py"):
                files.run_file(files.module_name(name), name)
            else:
                importlib.import_module(name)
        except Exception:
            if self.data.flag("need-app", default=True):
                raise
            traceback.print_exc()

    def loads_in(self, handler: HandlerSpec) -> bool:
        """Mules of `lazy-apps` never have the application. One that is lazy for instar's own reasons is loaded where
        nothing else could have set the mule's hooks."""
        mule = self.data.mule(handler.name)
        if mule is None:
            return True
        return not self.data.lazy_apps and not mule.script and not mule.target

    def in_worker(self, index: int, row: int) -> None:
        """The worker has its number; with `lazy-apps`, hooks run before the application is loaded, as in uWSGI."""
        self.functions.become_worker(index, row)
        sockets = [item.fds[(index - 1) % len(item.fds)] for item in self.spec.listeners if item.fds]
        self.module.__dict__["sockets"][:] = sockets
        if self.data.lazy_apps:
            self.run_post_fork_hook()
        if self.spec.lazy:
            self._import_all()

    def before_serving(self) -> None:
        """The post-fork hook, which the application has set by now."""
        if not self.data.lazy_apps:
            self.run_post_fork_hook()

    def in_handler(self, handler: HandlerSpec) -> None:
        """A mule has its number as soon as it is forked; its hooks run when it has its name (`inside.mule`)."""
        self.mule = self.data.mule(handler.name)
        self.module.__dict__["sockets"][:] = []
        if self.mule:
            self.locks.leaving = self.leaving
            self.functions.become_mule(self.mule)
            if self.spec.lazy and self.loads_in(handler):
                self._import_all()

    def at_exit(self) -> None:
        """`uwsgi.atexit`, which comes before Python's own exit handlers."""
        self._call("atexit")
        self.mail.close()

    def run_post_fork_hook(self) -> None:
        """`uwsgi.post_fork_hook`; what it raises is printed, and no more, as in uWSGI."""
        self._call("post_fork_hook")

    def _call(self, name: str) -> None:
        hook = self.module.__dict__.get(name)
        if hook is not None:
            try:
                hook()
            except Exception:
                traceback.print_exc()


class _Decorators(MetaPathFinder):
    """Finds our `uwsgidecorators`, also where the real one is installed: it is only run when it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of that one module."""
        if fullname != "uwsgidecorators":
            return None
        location = os.path.join(os.path.dirname(__file__), "decorators.py")  # noqa: PTH118, PTH120
        return importlib.util.spec_from_file_location(fullname, location)


def _alias(text: str) -> None:
    """`pymodule-alias: ALIAS=MODULE` (or `=/path/of/file`)."""
    alias, _, name = text.partition("=")
    if "/" in name:
        files.run_file(alias, name)
    else:
        sys.modules[alias] = importlib.import_module(name)
