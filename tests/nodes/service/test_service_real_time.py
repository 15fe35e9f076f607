from __future__ import annotations

from unimem_node.fabric import RdmaSpec
from unimem_node.mpsoc.platform import load
from unimem_node.service.real_time import TIMES, real_time_platform


def test_only_the_timers_are_those_of_real_time() -> None:
    asked, made = load("zynqmp"), real_time_platform("zynqmp")
    before = next(spec for spec in asked.pl_specs(asked.pl.masters) if isinstance(spec, RdmaSpec))
    after = next(spec for spec in made.pl_specs(made.pl.masters) if isinstance(spec, RdmaSpec))
    assert 20_000_000_000 <= after.rto_min_ps <= 50_000_000_000
    assert after.rto_first_ps >= after.rto_min_ps
    assert after.rto_max_ps >= after.rto_first_ps
    changed = {name for name in before.__slots__ if getattr(before, name) != getattr(after, name)}
    assert changed == set(TIMES)
