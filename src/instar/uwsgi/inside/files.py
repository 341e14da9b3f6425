"""Python files that are run as modules, whatever they are called."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path


def module_name(path: str) -> str:
    """The name that uWSGI gives to the module of a file: `sub/my.app.py` → `sub_my_app`."""
    name = path.replace(".", "_").replace("/", "_")
    return name[:-3] if name.endswith("_py") else name


def run_file(name: str, path: str) -> types.ModuleType:
    """Run a file as the module `name` and return it. `__main__` is a fresh one. The file's errors come through."""
    # Bytes: the compiler finds the encoding. Our own `from __future__` is not the file's.
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    return run_code(name, code, path)


def run_code(name: str, code: types.CodeType, path: str | None = None) -> types.ModuleType:
    """Run compiled code as the module `name`."""
    module = types.ModuleType(name)
    module.__dict__["__builtins__"] = builtins
    if path is not None:
        module.__file__ = path
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - the application itself
    except BaseException:
        if name != "__main__":
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before
        raise
    return module
