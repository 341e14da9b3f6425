"""What the acceptance tests are made of: a project on disk, its supervisor, and a look at its processes."""

from __future__ import annotations
