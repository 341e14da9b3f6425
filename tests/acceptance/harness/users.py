"""Other users of the host: who they are, and an interpreter that they can run."""

from __future__ import annotations

import contextlib
import importlib.util
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def interpreter_for(user: pwd.struct_passwd) -> dict[str, Any]:
    """Settings for an interpreter of our version, with our packages, that this user can run."""
    version = "{}.{}".format(*sys.version_info)
    found = importlib.util.find_spec("granian")
    assert found and found.origin
    packages = str(Path(found.origin).parents[1])
    code = f"import sys; sys.path.insert(0, {packages!r}); import granian"
    for candidate in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        with contextlib.suppress(OSError):
            tried = subprocess.run([candidate, "-c", code], user=user.pw_uid, group=user.pw_gid, cwd="/", check=False)
            if tried.returncode == 0:
                return {"python": candidate, "pythonpath": [packages]}
    pytest.skip(f"no Python {version} that {user.pw_name} can run: install one outside of root's home")
