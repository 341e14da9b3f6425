"""What a job configuration means here. Whatever has no meaning is told."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from instar.config.formats.job_conf.limits import Limits
from instar.config.formats.job_conf.raw import Entry, Raw
from instar.config.formats.job_conf.runners import OURS, kind_of
from instar.config.types import NAME_PATTERN

#: An id that stands for no handler at all: `handler = NULL`, which anyone may take.
ANYONE = "_null_"
#: The tag of handlers without a tag (Galaxy's name for it).
UNTAGGED = "_default_"

_HANDLING = frozenset({"assign", "max_grab", "ready_window_size", "default", "default_from_environ"})
_TOOL = frozenset({"id", "class", "handler", "environment", "destination"})
#: Settings of an environment that need what only Galaxy has; the rest are parameters for its runner.
_NOT_OURS = ("resubmit", "job_metrics", "docker_enabled", "singularity_enabled", "container_resolvers", "container")


class Meaning:
    """Collects the table `[jobs]` and the warnings of one file."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.warnings: list[str] = []
        self._name = name
        self._environ = environ
        self._table: dict[str, Any] = {}
        self._tagged: set[str] = set()

    def read(self, raw: Raw) -> None:
        """Take in a whole file."""
        for part in raw.unknown:
            self._warn(f"{part} has no meaning here and is left out")
        self._runners(raw.runners)
        self._handling(raw.handling, raw.processes)
        self._environments(raw.environments)
        self._default_environment(raw.execution, raw.environments)
        self._tools(raw.tools)
        limits = Limits(self._table.get("destinations", {}), self._warn)
        limits.read(raw.limits)
        self._table |= limits.table

    def table(self) -> dict[str, Any]:
        """The result, in the layout of `[jobs]`."""
        return self._table

    def _warn(self, text: str) -> None:
        warning = f"{self._name}: {text}"
        if warning not in self.warnings:
            self.warnings.append(warning)

    # --- runners ------------------------------------------------------------------------------------

    def _runners(self, runners: Mapping[str, Entry]) -> None:
        for name, given in runners.items():
            if not self._usable("runner", name):
                continue
            entry = dict(given)
            kind, note = kind_of(name, str(entry.pop("load", "")), entry)
            if note:
                self._warn(f"runner {name}: {note}")
            if not kind:
                continue
            runner: dict[str, Any] = {"kind": kind, "options": entry}
            if kind not in OURS:
                runner["optional"] = True
            workers = self._number(entry.pop("workers", None), f"runner {name}: workers")
            if workers:
                runner["workers"] = workers
            self._part("runners")[name] = runner

    # --- handlers -----------------------------------------------------------------------------------

    def _handling(self, handling: Entry, processes: Mapping[str, Entry]) -> None:
        for key in handling.keys() - _HANDLING:
            self._warn(f"handling: {key} has no meaning here and is left out")
        self._assign(handling.get("assign"))
        for theirs, ours in (("max_grab", "max_grab"), ("ready_window_size", "ready_window")):
            if number := self._number(handling.get(theirs), f"handling: {theirs}"):
                self._table[ours] = number
        for name, entry in processes.items():
            self._process(name, entry or {})
        default = self._environ.get(str(handling.get("default_from_environ", "")), handling.get("default"))
        if default is not None and (handler := self.handler(str(default), "handling: default")):
            self._table["default_handler"] = handler
        elif default is None and self._tagged and len(self._tagged) < len(self._part("handlers")):
            # As in Galaxy: once some have tags, only those without take jobs that ask for nothing.
            self._table["default_handler"] = UNTAGGED

    def _assign(self, methods: Any) -> None:
        names = [methods] if isinstance(methods, str) else list(methods or ())
        for name in names:
            if name in ("db-preassign", "db-self", "mem-self", "uwsgi-mule-message"):
                self._warn(
                    f"handling: assign {name} is done in another way: a job belongs to nobody until a living handler "
                    "takes it, so that none waits for one that is gone"
                )
            elif name not in ("db-transaction-isolation", "db-skip-locked"):
                self._warn(f"handling: assign {name} is not known")

    def _process(self, name: str, entry: Entry) -> None:
        if name in ("", ANYONE):
            self._warn(
                f'the handler id "{name}" stands for no handler: jobs are given to nobody, and whoever is there takes '
                "them" + ("" if name else " (in Galaxy they would be stranded)")
            )
            return
        if not self._usable("handler", name):
            return
        tags = _words(entry.get("tags"))
        if tags:
            self._tagged.add(name)
        handler: dict[str, Any] = {"tags": tags or [UNTAGGED]}
        if plugins := _words(entry.get("plugins")):
            handler["runners"] = plugins
        if grab := self._number(entry.get("max_grab"), f"handler {name}: max_grab"):
            handler["max_grab"] = grab
        for key in entry.keys() - {"tags", "plugins", "max_grab"}:
            self._warn(f"handler {name}: {key} has no meaning here; set env in [handlers.POOL] for variables")
        self._part("handlers")[name] = handler

    def handler(self, name: str, where: str) -> str:
        """A handler, or tag, that somebody names; "" for nobody."""
        if name in ("", ANYONE):
            if not name:
                self._warn(f'{where}: the empty handler is read as "{ANYONE}": anyone may take the job')
            return ""
        return name

    # --- destinations -------------------------------------------------------------------------------

    def _environments(self, environments: Mapping[str, Entry]) -> None:
        for name, given in environments.items():
            if not self._usable("destination", name):
                continue
            entry = dict(given)
            runner = str(entry.pop("runner", ""))
            if runner == "dynamic":
                self._warn(
                    f"destination {name}: rules in Python (runner dynamic) are not run; jobs that ask for it are "
                    "refused; write a [jobs.rules.KIND] for each kind"
                )
                continue
            if runner and runner not in self._part("runners") and runner != "local":
                self._warn(f"destination {name}: its runner {runner} is not there; it is left out")
                continue
            found: dict[str, Any] = {"runner": runner or "local"}
            if tags := _words(entry.pop("tags", None)):
                found["tags"] = tags
            if variables := self._variables(name, entry.pop("env", None)):
                found["env"] = variables
            for key in _NOT_OURS:
                if entry.pop(key, None) not in (None, [], False, "false", "False"):
                    self._warn(f"destination {name}: {key} has no meaning here and is left out")
            if params := {key: self._text(value) for key, value in entry.items()}:
                found["params"] = params
            self._part("destinations")[name] = found

    def _default_environment(self, execution: Entry, environments: Mapping[str, Entry]) -> None:
        for key in execution.keys() - {"default", "default_from_environ"}:
            self._warn(f"execution: {key} has no meaning here and is left out")
        default = self._environ.get(str(execution.get("default_from_environ", "")), execution.get("default"))
        if default is None and len(environments) == 1:
            default = next(iter(environments))
        if default is None:
            return
        places = self._part("destinations")
        tags = {tag for item in places.values() for tag in item.get("tags", ())}
        if str(default) in places or str(default) in tags:
            self._table["default_destination"] = str(default)
        else:
            self._warn(f"execution: the default {default} is no destination that can be used; jobs go to local")

    def _variables(self, name: str, entries: Any) -> dict[str, str]:
        found = {}
        for entry in entries or ():
            if "name" in entry or "id" in entry:
                found[str(entry.get("name", entry.get("id")))] = self._text(entry.get("value", ""))
            else:
                what = "file" if "file" in entry else "exec"
                self._warn(f"destination {name}: env {what} is a shell script and is not run; name the variables")
        return found

    # --- tools --------------------------------------------------------------------------------------

    def _tools(self, tools: Iterable[Entry]) -> None:
        for entry in tools:
            kind = str(entry.get("id") or "")
            if not kind:
                self._warn(f"tools: class {entry.get('class')} has no meaning here; rules go by the kind of the job")
                continue
            rule: dict[str, Any] = {}
            if (handler := entry.get("handler")) is not None:
                rule["handler"] = self.handler(str(handler), f"tool {kind}")
            if place := entry.get("environment", entry.get("destination")):
                places = self._part("destinations")
                tags = {tag for item in places.values() for tag in item.get("tags", ())}
                if str(place) in places or str(place) in tags:
                    rule["destination"] = str(place)
                else:
                    self._warn(f"tool {kind}: {place} is no destination that can be used; its jobs go to the default")
            for key in entry.keys() - _TOOL:
                self._warn(f"tool {kind}: {key} has no meaning here and is left out")
            if kind in self._part("rules"):
                self._warn(f"tool {kind}: it stands in the file more than once; the first counts")
                continue
            self._part("rules")[kind] = {key: value for key, value in rule.items() if value}

    # --- values -------------------------------------------------------------------------------------

    def _part(self, name: str) -> dict[str, Any]:
        part: dict[str, Any] = self._table.setdefault(name, {})
        return part

    def _usable(self, what: str, name: str) -> bool:
        if re.fullmatch(NAME_PATTERN, name):
            return True
        self._warn(f'the {what} "{name}" is left out: a name has 1 to 64 letters, digits, "-", "_" and "."')
        return False

    def _number(self, value: Any, what: str) -> int:
        if value is None:
            return 0
        text = str(self._text(value))
        if not text.isdecimal():
            self._warn(f'{what} must be a whole number, not "{text}"; it is left out')
            return 0
        return int(text)

    def _text(self, value: Any) -> Any:
        """`${NAME}` and `${NAME:-default}` as Galaxy replaces them."""
        if not isinstance(value, str):
            return value
        return re.sub(
            r"\$\{(\w+)(?::-([^}]*))?\}", lambda match: self._environ.get(match[1], match[2] or match[0]), value
        )


def _words(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return [str(word) for word in value]
