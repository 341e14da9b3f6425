"""Galaxy's own configuration for a restarter: it must give jobs to the handlers of the main instance, by name.

A restarter has no mules, so its workers would handle jobs themselves, or, with the recipe's `<handler id=""/>`, leave
them to nobody. Assigned in advance to the names that the main instance will have again, they wait for it.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import defusedxml.ElementTree
import yaml

from instar.config.formats.uwsgi import UwsgiConfig
from instar.errors import InstarError
from instar.uwsgi.emperor.backstage import Backstage

_SECTION = "galaxy"
_POOL = "job-handlers"
#: What Galaxy does without a job configuration.
_DEFAULT = (
    '<job_conf><plugins><plugin id="local" type="runner" load="galaxy.jobs.runners.local:LocalJobRunner" workers="4"/>'
    '</plugins><destinations><destination id="local" runner="local"/></destinations></job_conf>'
)


def handler_names(options: UwsgiConfig, server_name: str = "main") -> dict[str, str]:
    """Names of the mules that handle jobs, each with its tag or "" (`main.job-handlers.1`)."""
    names, taken = {}, set()
    for option in options.all("farm"):
        farm, _, members = option.value.partition(":")
        for place, mule in enumerate((item.strip() for item in members.split(",")), start=1):
            # A mule that is in several farms has the name of its first.
            if mule not in taken and (farm == _POOL or farm.startswith(f"{_POOL}.")):
                names[f"{server_name}.{farm}.{place}"] = farm.removeprefix(_POOL).removeprefix(".")
            taken.add(mule)
    return names


def rewrite(options: UwsgiConfig, directory: Path, backstage: Backstage) -> dict[str, str]:
    """Options that lead the restarter to a Galaxy configuration of its own; none where it isn't Galaxy.

    Raises InstarError.
    """
    section = _section(options, directory)
    names = handler_names(options)
    if section is None or not names:
        return {}
    chdir = options.last("chdir")
    base = directory / chdir.value if chdir else directory
    if isinstance(section.get("job_config"), dict):
        section["job_config"] = _yaml(section["job_config"], names)
    else:
        source = base / str(section.get("job_config_file", "config/job_conf.xml"))
        section["job_config_file"] = str(_job_config(source, names, backstage))
    text = yaml.safe_dump({_SECTION: section}, sort_keys=False, allow_unicode=True)
    return {"galaxy_config_file": str(backstage.write("galaxy.yml", text))}


def _section(options: UwsgiConfig, directory: Path) -> dict[str, Any] | None:
    """The `galaxy:` section of the last YAML file that uWSGI loads and that has one, as Galaxy itself finds it."""
    named = options.last("galaxy_config_file")
    files = [named.value] if named else [item.value for item in options.all("yaml", "yml")]
    if not named and options.source is not None:
        files.insert(0, str(options.source))
    found = None
    for name in files:
        path = directory / name.rpartition(":")[0] if name.rpartition(":")[0] else directory / name
        if path.suffix not in (".yml", ".yaml"):
            continue
        try:
            content = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if isinstance(content, dict) and isinstance(content.get(_SECTION), dict):
            found = content[_SECTION]
    return found


def _job_config(source: Path, names: dict[str, str], backstage: Backstage) -> Path:
    try:
        text = source.read_text() if source.exists() else _DEFAULT
        if source.suffix in (".yml", ".yaml"):
            changed = yaml.safe_dump(_yaml(yaml.safe_load(text) or {}, names), sort_keys=False, allow_unicode=True)
        else:
            changed = _xml(text, names)
    except (OSError, ValueError, ET.ParseError, yaml.YAMLError) as error:
        raise InstarError(f"cannot give the handlers' names to the restarter: {source}: {error}") from error
    return backstage.write(f"job_conf{source.suffix or '.xml'}", changed)


def _xml(text: str, names: dict[str, str]) -> str:
    root = defusedxml.ElementTree.fromstring(text)
    handlers = root.find("handlers")
    if handlers is None:
        handlers = ET.SubElement(root, "handlers")
    handlers.set("assign_with", "db-preassign")
    known = set()
    for handler in list(handlers.findall("handler")):
        if not handler.get("id"):  # the recipe's
            handlers.remove(handler)
        known.add(handler.get("id"))
    for name, tag in names.items():
        if name not in known:
            ET.SubElement(handlers, "handler", {"id": name, **({"tags": tag} if tag else {})})
    return ET.tostring(root, encoding="unicode")


def _yaml(content: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    handling = dict(content.get("handling") or {})
    processes = {key: value for key, value in dict(handling.get("processes") or {}).items() if key}
    for name, tag in names.items():
        processes.setdefault(name, {"tags": [tag]} if tag else None)
    return {**content, "handling": {**handling, "assign": ["db-preassign"], "processes": processes}}
