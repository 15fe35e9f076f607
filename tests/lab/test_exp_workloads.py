"""Workloads: who talks to whom, and that wrong bytes, failures and lost flows do not go unnoticed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from unimem_lab.experiments.loading import from_dict
from unimem_lab.experiments.results import Result
from unimem_lab.experiments.runner import run_experiment, seed_of
from unimem_lab.experiments.workloads.applications import HaloWorkload, ReduceWorkload, TransposeWorkload
from unimem_lab.experiments.workloads.base import Op, traffic


def run(workload: dict[str, Any], *, seed: int = 1, **keys: Any) -> Result:
    plain = {"version": 1, "name": "x", "workload": workload, **keys}
    return run_experiment(from_dict(plain), seed)


def quantities(result: Result) -> dict[str, float]:
    assert not result.error
    (point,) = result.points
    return dict(point.quantities)


def test_a_halo_goes_to_four_neighbours_of_a_torus() -> None:
    halo = HaloWorkload(type="halo")
    (messages,) = halo.messages(0, 12)  # 3 x 4
    assert Counter(message.src for message in messages) == dict.fromkeys(range(12), 4)
    assert sorted(message.dst for message in messages if message.src == 0) == [1, 3, 4, 8]
    places = [(message.dst, message.slot) for message in messages]
    assert len(set(places)) == len(places)  # nobody overwrites what another has sent
    (later,) = halo.messages(1, 12)
    assert {(m.dst, m.slot) for m in later}.isdisjoint(places)


def test_a_transpose_goes_from_everybody_to_everybody() -> None:
    (messages,) = TransposeWorkload(type="transpose").messages(0, 5)
    assert {(m.src, m.dst) for m in messages} == {(a, b) for a in range(5) for b in range(5) if a != b}
    assert all(m.slot == m.src for m in messages)


def test_a_reduction_reaches_everybody_in_logarithmic_rounds() -> None:
    rounds = list(ReduceWorkload(type="reduce").messages(0, 8))[1:4]  # after the halo; the first reduction
    known = {rank: {rank} for rank in range(8)}
    for messages in rounds:
        known = {
            rank: known[rank].union(*(known[m.src] for m in messages if m.dst == rank)) for rank in known
        }
    assert all(found == set(range(8)) for found in known.values())


@pytest.mark.parametrize("kind", ["halo", "transpose", "reduce"])
def test_applications_run_and_check_what_arrived(kind: str) -> None:
    found = quantities(
        run({"type": kind, "ranks_per_node": 2, "steps": 2, "compute": "10us"}, system={"nodes": 2})
    )
    assert found["failed"] == found["wrong_bytes"] == 0
    assert found["steps"] == 2
    assert found["run_ms"] > 0.02


def test_pinning_takes_its_time_before_the_first_step() -> None:
    workload = {"type": "halo", "ranks_per_node": 2, "steps": 1, "memory": "pinned"}
    found = quantities(run(workload, system={"nodes": 2}))
    # Eight slots of 16 KiB are 32 pages: 2.0 + 0.2 µs each, and a call of 1 µs (platforms/zynqmp.toml).
    assert found["set_up_ms"] == pytest.approx(32 * 2.2e-3 + 1e-3)


def test_a_flipped_bit_is_a_wrong_byte() -> None:
    workload = {"type": "put_get", "operations": 40, "bytes": 512, "reads": 0}
    sound = run(workload, system={"nodes": 2})
    assert sound.status == "passed"
    flipped = run(workload, system={"nodes": 2}, faults=[{"type": "bitflip", "target": "n1", "after": 36}])
    assert flipped.status == "failed"
    assert quantities(flipped)["wrong_bytes"] == 1


def test_incast_shares_the_target_fairly() -> None:
    found = quantities(
        run({"type": "flows", "flows": 6, "puts": 3, "pattern": "incast", "bytes": "4K"}, system={"nodes": 3})
    )
    assert found["operations"] == 18
    assert 0.9 < found["fairness"] <= 1


def test_latency_grows_with_hops_and_a_get_is_a_round_trip() -> None:
    near, far = (
        quantities(run({"type": "transfer", "hops": hops}, system={"nodes": 6, "topology": "ring"}))
        for hops in (1, 3)
    )
    assert far["one_way_us"] > near["one_way_us"]
    got = quantities(run({"type": "transfer", "op": "get"}, system={"nodes": 2}))
    assert "one_way_us" not in got
    assert got["round_trip_us"] > near["one_way_us"]


def test_parameters_of_the_platform_reach_the_nodes() -> None:
    def one_way(ps: int) -> float:
        parameters = {"pl.masters.ni.issue_ps": ps}
        return quantities(run({"type": "transfer"}, system={"nodes": 2, "parameters": parameters}))[
            "issue_us"
        ]

    assert one_way(2_000_000) - one_way(1_000_000) == pytest.approx(1.0)


def test_failures_count_and_have_no_latency() -> None:
    parts = (0,) * 8 + (1_000_000,)
    ops = [
        Op("a", "n0", "n1", 100, "ok", True, 0, 5_000_000, parts),
        Op("b", "n0", "n1", 0, "PeerLost", False, 0, 9_000_000, parts),
    ]
    found = traffic(ops)
    assert (found["operations"], found["failed"], found["failed_indefinite"]) == (2, 1, 1)
    assert found["mean_us"] == found["p99_us"] == 5.0
    assert ops[0].one_way_ps == 4_000_000


def test_seeds_of_repetitions_are_the_seed_and_others() -> None:
    seeds = [seed_of(7, n) for n in range(100)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 100
    assert np.all(np.array(seeds) >= 0)
