"""What a driver learns from an SMMU before it touches it: the identification registers (SMMUv2, Arm IHI0062).

As Linux' `arm_smmu_device_cfg_probe` does, and `arm_smmu_test_smr_masks` for the bits of a stream ID: which
of them a stream match register keeps is found by writing all ones, not by believing IDR0.NUMSIDB.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from unimem_node.bus import Bus
from unimem_node.kernel import smmu_registers as reg

#: IAS and OAS by code, in bits.
_SIZES: Final = (32, 36, 40, 42, 44, 48)
#: UBS has another word for its fifth.
_UPSTREAM_49: Final = 5


class Features(NamedTuple):
    """What the SMMU at an address is. Sizes of addresses are in bits."""

    major: int
    minor: int
    stage_1: bool
    stage_2: bool
    nested: bool
    stream_matching: bool
    match_groups: int
    context_banks: int
    stage_2_banks: int  # of them, for stage 2 only
    page: int  # bytes between context banks
    banks_at: int  # offset of the first
    input_bits: int
    output_bits: int
    output_code: int  # the latter as TCR2.PASize says it
    upstream_bits: int
    granules: tuple[int, ...]  # log2
    coherent_walks: bool  # walks ask the CPU's caches: tables need no cleaning
    translation_operations: bool  # GATS and ATS1 are offered


def probe(bus: Bus, base: int) -> Features:
    """Read the identification registers of the SMMU at `base`."""
    idr0, idr1, idr2, idr7 = (bus.read32(base + at) for at in (reg.IDR0, reg.IDR1, reg.IDR2, reg.IDR7))
    page = 0x1_0000 if idr1 & reg.IDR1_PAGESIZE else 0x1000
    return Features(
        major=idr7 >> 4 & 0xF,
        minor=idr7 & 0xF,
        stage_1=bool(idr0 & reg.IDR0_S1TS),
        stage_2=bool(idr0 & reg.IDR0_S2TS),
        nested=bool(idr0 & reg.IDR0_NTS),
        stream_matching=bool(idr0 & reg.IDR0_SMS),
        match_groups=idr0 & 0xFF,
        context_banks=idr1 & 0xFF,
        stage_2_banks=idr1 >> 16 & 0xFF,
        page=page,
        banks_at=(2 << (idr1 >> 28 & 7)) * page,
        input_bits=_bits(idr2),
        output_bits=_bits(idr2 >> 4),
        output_code=idr2 >> 4 & 0xF,
        upstream_bits=49 if idr2 >> 8 & 0xF == _UPSTREAM_49 else _bits(idr2 >> 8),
        granules=tuple(shift for bit, shift in reg.IDR2_GRANULES if idr2 & bit),
        coherent_walks=bool(idr0 & reg.IDR0_CTTW),
        translation_operations=not idr0 & reg.IDR0_ATOSNS,
    )


def _bits(code: int) -> int:
    return _SIZES[min(code & 0xF, len(_SIZES) - 1)]


def probe_stream_bits(bus: Bus, base: int, group: int) -> tuple[int, int]:
    """Return the bits of ID and of MASK that a stream match register keeps; `group` must not be in use.

    The mask is asked for with those bits of the ID: others may be lost under a mask.
    """
    smr = base + reg.SMR + 4 * group
    bus.write32(smr, reg.STREAM_MASK)
    ids = bus.read32(smr) & reg.STREAM_MASK
    bus.write32(smr, ids << reg.SMR_MASK_SHIFT)
    mask = bus.read32(smr) >> reg.SMR_MASK_SHIFT & reg.STREAM_MASK
    bus.write32(smr, 0)
    return ids, mask
