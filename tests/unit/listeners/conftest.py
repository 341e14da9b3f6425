from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# The helpers beside this file are imported by name.
sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes says nothing on a shared machine.
settings.register_profile("listeners", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("listeners")
