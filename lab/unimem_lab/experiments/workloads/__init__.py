"""Workloads: what an experiment does. `AnyWorkload` is any of them, told apart by `type`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from unimem_lab.experiments.workloads.applications import HaloWorkload, ReduceWorkload, TransposeWorkload
from unimem_lab.experiments.workloads.base import NotHere, Op, Outcome, Sample, Stage, Workload
from unimem_lab.experiments.workloads.chip import (
    DramPortsWorkload,
    TlbSweepWorkload,
    WalkDepthWorkload,
    WalkOverlapWorkload,
)
from unimem_lab.experiments.workloads.paging import CollapseWorkload, PagefaultsWorkload
from unimem_lab.experiments.workloads.scenario import ScenarioWorkload
from unimem_lab.experiments.workloads.traffic import FlowsWorkload, PutGetWorkload
from unimem_lab.experiments.workloads.transfer import TransferWorkload
from unimem_lab.experiments.workloads.translation_cost import TranslationCostWorkload

AnyWorkload = Annotated[
    CollapseWorkload
    | DramPortsWorkload
    | FlowsWorkload
    | HaloWorkload
    | PagefaultsWorkload
    | PutGetWorkload
    | ReduceWorkload
    | ScenarioWorkload
    | TlbSweepWorkload
    | TransferWorkload
    | TranslationCostWorkload
    | TransposeWorkload
    | WalkDepthWorkload
    | WalkOverlapWorkload,
    Field(discriminator="type"),
]

__all__ = ["AnyWorkload", "NotHere", "Op", "Outcome", "Sample", "Stage", "Workload"]
