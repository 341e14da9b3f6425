"""Applications that the tests run: plain ASGI and WSGI, with an endpoint for every client class.

They read two files of the folder they are started in, once, at import: `release` (a word that every answer
carries) and `behaviour` (JSON, see `apps.behaviour`: in which way this release is bad).
"""

from __future__ import annotations
