"""Takes secrets out of text that a person will see."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Iterable

HIDDEN = "***"
#: A shorter value is only replaced where it stands alone: a "1" is in every other word.
_SHORT = 4


class Redactor:
    """Replaces each secret, also quoted, escaped or URL-encoded, with `***`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        patterns = [_pattern(form) for form in sorted(forms, key=len, reverse=True)]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        return self._pattern.sub(HIDDEN, text) if self._pattern else text


def _forms(secret: str) -> set[str]:
    # A traceback shows one line of a multi-line key at a time.
    lines = {line.strip() for line in secret.splitlines()} | {secret.strip()}
    in_url = {urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret)}
    encoded = {repr(secret)[1:-1], json.dumps(secret)[1:-1]} | in_url
    return {form for form in lines | encoded if form}


def _pattern(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _SHORT else rf"(?<!\w){escaped}(?!\w)"
