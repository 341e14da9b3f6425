"""`job_conf.xml`."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from instar.config.formats.job_conf.raw import Entry, Raw
from instar.errors import ConfigError


def read(text: bytes, path: Path) -> Raw:
    """The parts of the file. Raises ConfigError."""
    try:
        root = fromstring(text)
    except ParseError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except DefusedXmlException:
        raise ConfigError(f"cannot read {path}: it declares entities or a document type; remove them") from None
    if root.tag != "job_conf":
        raise ConfigError(f"cannot read {path}: it begins with <{root.tag}>, a job configuration with <job_conf>")
    raw = Raw()
    for part in root:
        match part.tag:
            case "plugins":
                _plugins(part, raw)
            case "handlers":
                _handlers(part, raw)
            case "destinations":
                _destinations(part, raw)
            case "tools":
                raw.tools += [_entry(item) for item in part]
            case "limits":
                raw.limits += [dict(item.attrib) | {"value": (item.text or "").strip()} for item in part]
            case _:
                raw.unknown.append(f"<{part.tag}>")
    return raw


def _plugins(part: Element, raw: Raw) -> None:
    for item in part:
        if item.tag != "plugin" or item.get("type", "runner") != "runner":
            raw.unknown.append(f"<{item.tag}> in <plugins>")
            continue
        entry = _entry(item)
        if "workers" in part.attrib:
            entry.setdefault("workers", part.attrib["workers"])
        name = entry.pop("id", "")
        raw.runners[name] = entry


def _handlers(part: Element, raw: Raw) -> None:
    raw.handling = dict(part.attrib)
    if "assign_with" in raw.handling:
        raw.handling["assign"] = _words(raw.handling.pop("assign_with"))
    for item in part:
        if item.tag != "handler":
            raw.unknown.append(f"<{item.tag}> in <handlers>")
            continue
        plugins = [plugin.get("id", "") for plugin in item if plugin.tag == "plugin"]
        others = [child.tag for child in item if child.tag != "plugin"]
        raw.unknown += [f"<{tag}> in <handler>" for tag in others]
        entry: Entry = {"plugins": plugins} if plugins else {}
        raw.processes[item.get("id", "")] = entry | {key: text for key, text in item.attrib.items() if key != "id"}


def _destinations(part: Element, raw: Raw) -> None:
    raw.execution = dict(part.attrib)
    for item in part:
        if item.tag != "destination":
            raw.unknown.append(f"<{item.tag}> in <destinations>")
            continue
        entry = _entry(item)
        name = entry.pop("id", "")
        raw.environments[name] = entry


def _entry(item: Element) -> Entry:
    """Attributes and parameters in one; `<env>` and `<resubmit>` as the YAML form has them."""
    # `type` says that a plugin is a runner, which is known by now.
    entry: Entry = {key: text for key, text in item.attrib.items() if (item.tag, key) != ("plugin", "type")}
    for child in item:
        match child.tag:
            case "param":
                entry[child.get("id", "")] = _value(child)
            case "env":
                entry.setdefault("env", []).append(_env(child))
            case tag:
                entry.setdefault(tag, []).append(dict(child.attrib))
    return entry


def _value(element: Element) -> str:
    return (element.text or "").strip()


def _env(element: Element) -> Entry:
    if "id" in element.attrib:
        return {"name": element.get("id", ""), "value": _value(element)}
    # <env file="…"/> and <env exec="…"/>, also as text with type="exec".
    return dict(element.attrib) or {"execute": _value(element)}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
