"""Versions of instar, installed one over the other in a folder of their own, as `pip install --upgrade` does it."""

from __future__ import annotations

import compileall
import shutil
import sys
from pathlib import Path

import instar

#: Code that is added to a module of the new version, by what goes wrong: module, code.
TROUBLES = {
    "": ("__init__", ""),
    "import": ("__init__", "raise ImportError('no such library')"),
    "hanging self-test": ("cli.run", "import time; time.sleep(1000)"),
}
#: Trouble when the new version is the process already: what it does.
_ACTS = {
    "raises": "raise RuntimeError('broken release')",
    "exits": "raise SystemExit(9)",
    "hangs": "import time; time.sleep(1000)",
    "is slow": "import os, time; [time.sleep(0.05) for _ in range(600) if not os.path.exists(os.environ['TEST_GO'])]",
    "leaves": "import os; os._exit(7)",
    "segfaults": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "hangs deaf": (
        "import signal, time; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG)); time.sleep(1000)"
    ),
}
#: Before it has changed anything but the connections to the zygotes, and when all is adopted.
_MOMENTS = {
    "early": (
        "control.assembly",
        """
_occupy = occupy
def occupy(*args, **more):
    found = _occupy(*args, **more)
    {act}
    return found
""",
    ),
    "adopted": (
        "supervisor.supervisor",
        """
_adopt = Supervisor._adopt
async def _then(self, remains):
    done = await _adopt(self, remains)
    {act}
    return done
Supervisor._adopt = _then
""",
    ),
}
for _moment, (_module, _code) in _MOMENTS.items():
    for _name, _act in _ACTS.items():
        TROUBLES[f"{_moment} {_name}"] = (_module, _code.format(act=_act))


class Site:
    """A folder like site-packages, with a program `instar` that runs what is installed there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._package = root / "site" / "instar"
        self.program = root / "instar"
        self.program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(root / 'site')!r})\n"
            "from instar.cli import main\nmain()\n"
        )
        self.program.chmod(0o755)

    def install(self, version: str, trouble: str = "", *, more: str = "") -> Site:
        """Replace what is installed. `more`: code for the end of `instar/__init__.py`."""
        shutil.rmtree(self._package, ignore_errors=True)
        shutil.copytree(_compiled(), self._package)
        module, code = TROUBLES[trouble]
        init = self._package / "__init__.py"
        text = init.read_text().replace(f'__version__ = "{instar.__version__}"', f'__version__ = "{version}"')
        assert version in text
        init.write_text(f"{text}\n{more}\n")
        broken = self._package / f"{module.replace('.', '/')}.py"
        broken.write_text(f"{broken.read_text()}\n{code}\n")
        return self


def _compiled() -> Path:
    """This version, compiled: an installed one is, and it starts in a third of the time."""
    home = Path(instar.__file__).parent
    cached = Path(_CACHE[0]) if _CACHE else None
    if cached is None:
        import atexit
        import tempfile

        folder = tempfile.mkdtemp(prefix="instar-compiled-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        cached = Path(folder) / "instar"
        shutil.copytree(home, cached, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(str(cached), quiet=1)
        _CACHE.append(str(cached))
    return cached


_CACHE: list[str] = []
