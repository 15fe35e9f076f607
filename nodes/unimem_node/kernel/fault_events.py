"""What became of each page fault of DMA: the kernel's log of them, for experiments and for people."""

from __future__ import annotations

from dataclasses import dataclass

from unimem.addresses import fmt
from unimem_node.clock import EventLog


@dataclass(slots=True)
class FaultEvent:
    """One page fault that the kernel was told of; filled in while it is handled.

    `outcome`: "pending" first; "resolved"; "aborted" (the policy, or the engine cannot wait); refused: "gone"
    (nothing is mapped there), "denied" (the mapping forbids the access), "unsuited" (a kind of fault that no
    page cures), "out_of_memory", "no_progress"; "dropped" (its process ended meanwhile).
    `kind`: what the page needed, "minor" or "major", "spurious" when it was there already, "" before it is
    looked at. `minor`, `major`: pages made present.

    `time_ps`: when the SMMU's interrupt came. `resolved_ps`: when the initiator, or the SMMU, was told; -1
    before. `duplicates`: further faults of pages that were waited for, which needed no handling of their own.
    `lost`: more faults came before the record was read, and left none (MULTI). `stalled`: the SMMU held the
    access. `rounds`: how often the page has been resolved in a row.
    """

    number: int
    time_ps: int
    pdid: int
    va: int
    access: str
    policy: str
    outcome: str = "pending"
    kind: str = ""
    minor: int = 0
    major: int = 0
    resolved_ps: int = -1
    duplicates: int = 0
    lost: bool = False
    stalled: bool = False
    rounds: int = 0

    @property
    def text(self) -> str:
        """The event as one line."""
        line = f"process {self.pdid}: {self.access} of {fmt(self.va)} faulted, {self.policy}: {self.outcome}"
        if self.outcome == "resolved":
            line += f" ({self.kind}; {self.minor} minor, {self.major} major)"
        if self.resolved_ps >= 0:
            line += f" after {(self.resolved_ps - self.time_ps) / 1e6:.1f} µs"
        line += f", {self.duplicates} duplicates" if self.duplicates else ""
        return line + (f", resolved {self.rounds} times in a row" if self.rounds > 1 else "")

    def record(self, log: EventLog, node: str) -> None:
        """Put an event that has come to its end into a run's log; what was aborted has its report there."""
        if self.outcome != "aborted":
            log.record(
                max(self.resolved_ps, self.time_ps),
                node,
                "page_fault",
                number=self.number,
                pdid=self.pdid,
                va=self.va,
                access=self.access,
                policy=self.policy,
                outcome=self.outcome,
                fault_kind=self.kind,
                minor=self.minor,
                major=self.major,
                faulted_ps=self.time_ps,
            )

    def __str__(self) -> str:
        return self.text
