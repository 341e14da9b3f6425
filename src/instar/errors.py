"""Errors that reach a person, and the exit codes of the command line (a contract: scripts rely on them)."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of every `instar` verb."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    ROLLED_BACK = 3
    BUSY = 4
    NO_SUPERVISOR = 5
    HANDLER_KEPT = 6
    JOB_FAILED = 7


class InstarError(Exception):
    """Something that the user can act on. The message reads "cannot …: why; what to do"."""

    exit_code: ExitCode = ExitCode.UNEXPECTED


class ConfigError(InstarError):
    """The configuration or the command line is wrong."""

    exit_code = ExitCode.USAGE


class BusyError(InstarError):
    """A handover is already running."""

    exit_code = ExitCode.BUSY


class NoSupervisorError(InstarError):
    """No supervisor answers for this application."""

    exit_code = ExitCode.NO_SUPERVISOR


class RolledBackError(InstarError):
    """The new generation failed; the old one serves on."""

    exit_code = ExitCode.ROLLED_BACK
