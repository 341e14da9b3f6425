"""`--wsgi-file` of the real uWSGI (`engines/uwsgi_binary.py`): the application, as a worker would serve it.

Run by path, so nothing of the supervisor's environment is importable yet: see `bootstrap.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from typing import Any

#: Descriptor of the generation's spec.
SPEC_FD = "INSTAR_SPEC_FD"


def _load() -> Any:
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as in bootstrap.py
    location = importlib.util.spec_from_file_location("instar_bootstrap", os.path.join(here, "bootstrap.py"))  # noqa: PTH118
    if location is None or location.loader is None:
        raise ImportError(f"cannot load bootstrap.py from {here}")
    bootstrap = importlib.util.module_from_spec(location)
    location.loader.exec_module(bootstrap)
    text = bootstrap.read_all(int(os.environ.pop(SPEC_FD)))
    sys.meta_path.insert(0, bootstrap.PackageFinder({"instar": os.path.dirname(here)}))  # noqa: PTH120
    sys.meta_path.append(bootstrap.fallback_finder(json.loads(text)))

    from instar.runtime.uwsgi_process import application

    return application(text)


if SPEC_FD in os.environ:
    application = _load()
