"""uWSGI's configuration: read with its own semantics, explained, converted."""

from __future__ import annotations

from instar.config.formats.uwsgi.commandline import read_command_line
from instar.config.formats.uwsgi.option import Note, Option, Place, UwsgiConfig
from instar.config.formats.uwsgi.reader import Reader, is_uwsgi_file, read, split_section
from instar.config.formats.uwsgi.surroundings import Surroundings

__all__ = [
    "Note",
    "Option",
    "Place",
    "Reader",
    "Surroundings",
    "UwsgiConfig",
    "is_uwsgi_file",
    "read",
    "read_command_line",
    "split_section",
]
