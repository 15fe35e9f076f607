"""What every test shares: quiet compilation, reproducible Hypothesis runs."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("UNIMEM_QUIET", "1")

# Examples are drawn from a fixed seed: a failure in CI is a failure here. No deadline: machines differ.
settings.register_profile(
    "unimem", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unimem")
