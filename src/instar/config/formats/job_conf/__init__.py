"""Galaxy's job configuration (`job_conf.xml`, `job_conf.yml`): read into the layout of `[jobs]`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instar.config.formats.job_conf import xml, yaml
from instar.config.formats.job_conf.meaning import Meaning
from instar.errors import ConfigError

__all__ = ["JobConf", "read_job_conf"]


@dataclasses.dataclass(frozen=True)
class JobConf:
    """What a file says."""

    #: As a table `[jobs]` would.
    table: dict[str, Any]
    #: What is not supported, or is done in another way, one sentence each.
    warnings: tuple[str, ...] = ()


def read_job_conf(path: Path, environ: Mapping[str, str] = os.environ) -> JobConf:
    """Read a job configuration in either form. Raises ConfigError.

    Everything in the file that has no meaning here is named in a warning. `environ`: for
    `default_from_environ` and for `${VARIABLES}`, which Galaxy replaces from its environment as well.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {(error.strerror or str(error)).lower()}; check [jobs] config"
        ) from error
    raw = xml.read(text, path) if path.suffix.lower() == ".xml" else yaml.read(text, path)
    meaning = Meaning(path.name, environ)
    meaning.read(raw)
    return JobConf(meaning.table(), tuple(meaning.warnings))
