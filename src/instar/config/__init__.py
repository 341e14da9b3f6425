"""The configuration of an application: model, loading, checks."""

from __future__ import annotations

from instar.config.address import Address, parse_address
from instar.config.env_file import environment, read_env_file
from instar.config.extension import Extension
from instar.config.loading import DEFAULT_FILE, load
from instar.config.model import Config
from instar.config.python import expand_command, resolve_python
from instar.config.redact import Redactor
from instar.config.schema import json_schema
from instar.config.state import state_dir

__all__ = [
    "DEFAULT_FILE",
    "Address",
    "Config",
    "Extension",
    "Redactor",
    "environment",
    "expand_command",
    "json_schema",
    "load",
    "parse_address",
    "read_env_file",
    "resolve_python",
    "state_dir",
]
