"""`unimem demo`: the thesis' scenarios, a file on its way round the cluster, refused accesses, the report.

Everything happens in a `SimCluster`, so the same seed gives the same `events.jsonl`, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import unimem
from unimem.addresses import fmt
from unimem.wire import TIMING_PARTS
from unimem_lab.cli import output
from unimem_lab.report import Bar, NodeView, Report, Section, write_report
from unimem_lab.runs import new_run
from unimem_lab.sim import SimCluster
from unimem_node import Mpsoc
from unimem_node.clock import named_stream
from unimem_node.mpsoc.node import boot
from unimem_node.mpsoc.platform import load
from unimem_node.mpsoc.scenarios import ScenarioRow, refusals, thesis
from unimem_node.mpsoc.staleness import staleness

if TYPE_CHECKING:
    from unimem import Client, Transfer

#: Without --file: so many bytes, made from the seed.
DEFAULT_BYTES = 4 << 20
#: Of the write-back cache in the scenarios of staleness: 64 KiB.
_CACHE_LINES = 1024


@dataclass(slots=True)
class Refusal:
    """An access that must not succeed, and what stopped it."""

    what: str
    error: str
    outcome: str
    syndrome: str
    ok: bool


@dataclass(slots=True)
class Demo:
    """What the demo did and found."""

    seed: int
    nodes: int
    topology: str
    scenarios: list[ScenarioRow] = field(default_factory=list)
    file: str = ""
    bytes: int = 0
    sha256_sent: str = ""
    sha256_got: str = ""
    way: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    links: dict[tuple[str, str], int] = field(default_factory=dict)
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    simulated_ps: int = 0
    folder: Path = Path()

    @property
    def ok(self) -> bool:
        """Everything went as it must."""
        return (
            all(row.ok for row in self.scenarios)
            and self.sha256_sent == self.sha256_got
            and len(self.refusals) == 3
            and all(r.ok for r in self.refusals)
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "seed": self.seed,
            "nodes": self.nodes,
            "topology": self.topology,
            "scenarios": [_scenario(row) for row in self.scenarios],
            "file": {
                "name": self.file,
                "bytes": self.bytes,
                "way": self.way,
                "sha256_sent": self.sha256_sent,
                "sha256_got": self.sha256_got,
            },
            "refusals": [asdict(r) for r in self.refusals],
            "counters": self.counters,
            "simulated_ps": self.simulated_ps,
            "folder": str(self.folder),
        }


class _Tour:
    """Moves bytes for the demo and notes every transfer."""

    def __init__(self, demo: Demo, cluster: SimCluster) -> None:
        self.demo, self.cluster = demo, cluster

    def transfer(self, label: str, source: str, target: str, transfer: Transfer) -> None:
        """Wait for `transfer` and note it; its error is the caller's."""
        error = transfer.exception()
        row = transfer.rows[transfer.index]
        parts = tuple(int(ps) for ps in row["parts_ps"])
        outcome = "ok" if error is None else type(error).__name__
        self.demo.bars.append(
            Bar(label, f"{source} → {target}", int(row["posted_ps"]), parts, outcome, int(row["bytes"]))
        )
        if source != target and row["bytes"]:
            pair = (min(source, target), max(source, target))
            self.demo.links[pair] = self.demo.links.get(pair, 0) + int(row["bytes"])
        if error is not None:
            raise error

    def file(self, um: Client, data: np.ndarray) -> np.ndarray:
        """Home → first node → … → last node → back, by global address all the way."""
        first, *others = self.cluster.nodes[1:]
        regions = {name: um.alloc(len(data), node=name, name=f"file on {name}") for name in (first, *others)}
        self.transfer("put file", um.home, first, um.put_async(regions[first], data))
        way = [um.home, first]
        for name in others:
            before = way[-1]
            self.transfer("copy", before, name, um.copy_async(regions[name], regions[before], len(data)))
            way.append(name)
        got = um.get_async(regions[way[-1]], len(data))
        self.transfer("get file", way[-1], um.home, got)
        self.demo.way = [*way, um.home]
        result: np.ndarray = got.result()
        return result

    def refused(
        self, what: str, wanted: type[unimem.UnimemError], source: str, target: str, transfer: Transfer
    ) -> None:
        """A transfer that must be refused in the given way."""
        try:
            self.transfer(what, source, target, transfer)
        except unimem.UnimemError as error:
            syndrome = ""
            if isinstance(error, unimem.SmmuFault):
                syndrome = (
                    f"FSR {error.fsr:#x} FSYNR0 {error.fsynr0:#x} FAR {fmt(error.iova)} "
                    f"stream {error.stream_id:#x} bank {error.context_bank}"
                )
            self.demo.refusals.append(
                Refusal(
                    what,
                    type(error).__name__,
                    str(error),
                    syndrome,
                    isinstance(error, wanted) and error.definite,
                )
            )
        else:
            self.demo.refusals.append(Refusal(what, "none", "it was allowed", "", False))


def run_demo(*, file: Path | None, nodes: int, seed: int, platform: str, topology: str) -> Demo:
    """Run the demo and write its run folder. Raises OSError when `file` cannot be read, before all else."""
    if file is not None:
        data = np.frombuffer(file.read_bytes(), np.uint8)
        if not len(data):
            raise unimem.UsageError(f"{file} is empty: there is nothing to move", op="demo")
    else:
        data = np.frombuffer(named_stream(seed, "demo file").randbytes(DEFAULT_BYTES), np.uint8)
    demo = Demo(seed, nodes, topology, file=str(file.name) if file else "made from the seed", bytes=len(data))
    demo.scenarios = _scenarios(platform, seed)
    demo.folder = new_run("demo", seed)
    with SimCluster(nodes=nodes, seed=seed, platform=platform, topology=topology, log=True) as cluster:
        tour = _Tour(demo, cluster)
        with (
            cluster.client(home="n0", domain="demo") as um,
            cluster.client(home="n0", domain="stranger") as stranger,
        ):
            demo.sha256_sent = hashlib.sha256(data.data).hexdigest()
            demo.sha256_got = hashlib.sha256(tour.file(um, data).data).hexdigest()
            far = cluster.nodes[-1]
            mine = um.alloc(4096, node=far, name="mine")
            um.put(mine, b"for the demo domain only")
            unmapped = int(mine) + (1 << 34)
            tour.refused(
                "read of an unmapped address", unimem.TranslationFault, "n0", far, um.get_async(unmapped, 8)
            )
            um.share(mine, "stranger", rights="r")
            tour.refused(
                "write to a read-only share",
                unimem.PermissionFault,
                "n0",
                far,
                stranger.put_async(int(mine), b"x"),
            )
            um.share(mine, "stranger", rights=None)
            stranger.alloc(4096, node=far)  # so that the stranger has tables there, without this page
            tour.refused(
                "read by a foreign protection domain",
                unimem.TranslationFault,
                "n0",
                far,
                stranger.get_async(int(mine), 8),
            )
        demo.counters = {name: cluster.node(name).counters() for name in cluster.nodes}
        demo.simulated_ps = cluster.scheduler.now_ps
        assert cluster.events is not None
        cluster.events.dump(demo.folder / "events.jsonl")
    _write(demo)
    return demo


def _scenarios(platform: str, seed: int) -> list[ScenarioRow]:
    """The thesis' table and what the chip refuses; then E3b, on a chip with a cache in front of DRAM."""
    rows: list[ScenarioRow] = []
    for spec, scenarios in (
        (load(platform), (thesis, refusals)),
        (load(platform).with_cache(_CACHE_LINES), (staleness,)),
    ):
        soc = Mpsoc(spec, seed=seed)
        try:
            kernel = boot(soc)
            for scenario in scenarios:
                rows += scenario(soc, kernel)
        finally:
            soc.close()
    return rows


def _write(demo: Demo) -> None:
    """results.json, manifest.json, report.html; then `runs/latest` points here."""
    folder = demo.folder
    (folder / "results.json").write_text(json.dumps(demo.as_dict(), indent=2, sort_keys=True) + "\n")
    manifest = {
        "name": "demo",
        "seed": demo.seed,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    write_report(_report(demo), folder / "report.html")
    latest = folder.parents[1] / "latest"
    if latest.is_symlink() or latest.is_file():
        latest.unlink()
    elif latest.exists():
        shutil.rmtree(latest)
    latest.symlink_to(folder.relative_to(latest.parent), target_is_directory=True)


#: Counters of the report: heading, name.
_COUNTERS = (
    ("translations", "translations"),
    ("µTLB hits", "utlb_hits"),
    ("macro TLB hits", "macro_hits"),
    ("walks", "walks"),
    ("reads L0", "reads_l0"),
    ("reads L1", "reads_l1"),
    ("reads L2", "reads_l2"),
    ("reads L3", "reads_l3"),
    ("faults", "faults"),
)


def _report(demo: Demo) -> Report:
    names = sorted(demo.counters, key=lambda name: int(name[1:]))
    views = [
        NodeView(
            name,
            fmt(unimem.addresses.window_of(i).start),
            (f"{demo.counters[name].get('walks', 0)} walks, {demo.counters[name].get('faults', 0)} faults",),
        )
        for i, name in enumerate(names)
    ]
    index = {name: i for i, name in enumerate(names)}
    sections = [
        Section(
            "The thesis' scenarios",
            ("scenario", "how the address was supplied", "what the SMMU did", "outcome", "counters"),
            tuple(
                (f"{r.scenario} {r.title}", r.supplied, r.smmu, r.outcome, _proof(r)) for r in demo.scenarios
            ),
            "E1 to E3 as published (arXiv 2511.19258), then what the chip refuses.",
        ),
        Section(
            "The file",
            ("file", "bytes", "SHA-256 sent, and got back"),
            (
                (demo.file, f"{demo.bytes:,}", demo.sha256_sent),
                (" → ".join(demo.way), "", demo.sha256_got),
            ),
        ),
        Section(
            "Refused accesses",
            ("access", "error", "syndrome", "message"),
            tuple((r.what, r.error, r.syndrome, r.outcome) for r in demo.refusals),
            "What the target's SMMU recorded, as the client sees it. Nothing was written.",
        ),
        Section(
            "TLB and fault counters",
            ("node", *(heading for heading, _ in _COUNTERS)),
            tuple((n, *(f"{demo.counters[n].get(key, 0):,}" for _, key in _COUNTERS)) for n in names),
        ),
    ]
    return Report(
        "Unimem demo",
        "Remote DMA by global virtual address, translated by the target's SMMU. "
        "Simulated time is calibrated, not validated.",
        views,
        [(index[a], index[b], n) for (a, b), n in sorted(demo.links.items())],
        demo.bars,
        sections,
        [
            ("nodes", str(demo.nodes)),
            ("topology", demo.topology),
            ("seed", str(demo.seed)),
            ("simulated time", f"{demo.simulated_ps / 1e9:.3f} ms"),
            ("verdict", "as it must be" if demo.ok else "NOT as it must be"),
        ],
    )


def _grown(row: ScenarioRow) -> dict[str, int]:
    return {name: row.delta(name) for name in row.after if row.delta(name)}


def _proof(row: ScenarioRow) -> str:
    """The SMMU's counters that grew, and how much was mapped for the engine beforehand."""
    smmu = {name for _, name in _COUNTERS} | {"bypasses"}
    shown = [f"{name} {value}" for name, value in _grown(row).items() if name in smmu]
    return ", ".join([f"mapped beforehand {row.mapped_before:,}", *shown])


def show_demo(demo: Demo) -> None:
    """The demo for people."""
    titled = [(f"{r.scenario} {r.title}", r) for r in demo.scenarios]
    published = [pair for pair in titled if pair[1].scenario in _PUBLISHED]
    output.table(
        ["scenario", "how the address was supplied", "what the SMMU did", "outcome", "mapped beforehand"],
        [(t, r.supplied, r.smmu, r.outcome, f"{r.mapped_before:,} bytes") for t, r in published],
        title="The thesis' scenarios (arXiv 2511.19258)",
    )
    for title, stale in (
        ("What the chip refuses, and what passes it by", False),
        ("What is stale, and its cure (E3b, with the CPU's cache in front of DRAM)", True),
    ):
        output.table(
            ["scenario", "what the SMMU did", "outcome"],
            [
                (t, r.smmu, r.outcome)
                for t, r in titled
                if r.scenario not in _PUBLISHED and (r.scenario == "E3b") == stale
            ],
            title=f"\n{title}",
        )
    same = "equal" if demo.sha256_sent == demo.sha256_got else "DIFFERENT"
    moved = [bar for bar in demo.bars if bar.outcome == "ok"]
    output.table(
        [
            "transfer",
            "way",
            "bytes",
            "simulated",
            *(p.replace("_", " ") for p in TIMING_PARTS if p in _SHOWN),
        ],
        [
            (
                bar.label,
                bar.route,
                f"{bar.bytes:,}",
                _us(bar.end_ps - bar.start_ps),
                *(_us(ps) for p, ps in zip(TIMING_PARTS, bar.parts_ps, strict=True) if p in _SHOWN),
            )
            for bar in moved
        ],
        title=f"\nThe file ({demo.file}) by global address, SHA-256 {demo.sha256_sent[:16]}… {same}",
    )
    output.table(
        ["refused access", "error", "syndrome"],
        [(r.what, r.error, r.syndrome) for r in demo.refusals],
        title="\nRefused by the target's SMMU",
    )
    for refusal in demo.refusals:
        output.say(f"  {refusal.outcome}")
    verdict = "Everything is as it must be." if demo.ok else "NOT everything is as it must be."
    output.say(f"\n{verdict} Report: {demo.folder.parents[1] / 'latest' / 'report.html'}")


def _scenario(row: ScenarioRow) -> dict[str, Any]:
    """A row for JSON, with the counters that grew."""
    plain = {k: v for k, v in asdict(row).items() if k not in {"before", "after"}}
    return plain | {"counters": _grown(row)}


_PUBLISHED = ("E1", "E2", "E3")
_SHOWN = ("source_translate", "wire", "target_translate", "target_memory")


def _us(ps: int) -> str:
    return f"{ps / 1e6:,.2f} µs"
