"""What compiled code sees of a node: memory, TLBs, translation regimes, timing and counters as arrays.

Everything the SMMU caches is here and nowhere else, so that the compiled paths (`_fast.py` of floors 2 to 4)
and the readable ones share one state. The layout of the TLB rows, of `tlb_state`, and the names of the
columns are below; who fills them: `tlb.py` (shape), `_fast.py` (contents), `smmu.py` (regimes).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from unimem_node.mmu._fast_cache import HEADER
from unimem_node.mmu.regime import REGIME_COLS

# Columns of `tlb`, one row an entry. Row 0 is never used: 0 ends a chain. Behind the rows of the µTLBs and of
# the macro TLB come those of the walk and IPA cache (`mmu._fast_cache`, same columns); behind all of these,
# at M_IPAS + row, what a TLB entry of two stages has besides: its IPA in the first column.
T_PAGE: Final = 0  # virtual page: address with the low bits replaced by the class code; 0 = empty
T_CONTEXT: Final = 1  # whose address: see R_CONTEXT, or the context with GLOBAL_ASID for a global entry
T_PA: Final = 2  # output address of the page
T_ATTRS: Final = 3  # attributes as floor 1 packs them (A_*), permissions of both stages with WXN applied
TLB_COLS: Final = 4

# A class code says of what kind an entry is: its size, and whether any ASID may use it. `tlb_state` lists
# the classes that are present, so that a look-up probes one hash bucket or set for each.
CLASS_SHIFT: Final = 63  # mask of log2(page size)
CLASS_GLOBAL: Final = 64
MAX_CLASSES: Final = 20  # 9 sizes over the three granules, contiguous ones included, global or not
GLOBAL_ASID: Final = 0xFFFF

# A context, the tag of an entry: VMID << 32 | bank << 16 | ASID, and above the VMID:
WORLD_SHIFT: Final = 48  # NON_HYP, HYP, MONITOR (`tlb.World`), 2 bits
CONTEXT_STAGE_2: Final = 1 << 50  # an entry of stage 2 alone

# `tlb_state`: the macro TLB's shape, a section for each TBU, then (at the offsets given) pointers and links.
M_FIRST: Final = 0  # first row in `tlb`
M_WAYS: Final = 1
M_SET_MASK: Final = 2  # sets - 1
M_POINTERS: Final = 3  # offset of the replacement pointers (way replaced next), one a set
M_LINKS: Final = 4  # offset of the chain links, one a row of `tlb`
M_TBUS: Final = 5
M_IPAS: Final = 6  # row in `tlb` at which the IPAs of its rows begin
M_ROWS: Final = 7  # rows of the TLBs: 1 to M_ROWS - 1 are entries
M_WALKS: Final = 8  # header of the walk and IPA cache (HEADER words)
M_CLASSES: Final = M_WALKS + HEADER  # number of classes present, then their codes
STATE_TBU: Final = M_CLASSES + 1 + MAX_CLASSES  # the section of TBU 0
U_FIRST: Final = 0  # first row in `tlb`
U_ENTRIES: Final = 1
U_NEXT: Final = 2  # entry replaced next (first in, first out)
U_CLASSES: Final = 3
U_HEADS: Final = U_CLASSES + 1 + MAX_CLASSES  # heads of the hash index' chains: rows of `tlb`, 0 = none
BUCKETS: Final = 512  # a power of two, ≥ 4 × the largest µTLB
U_COLS: Final = U_HEADS + BUCKETS

# A row of `regimes` is floor 1's decoded regime followed by what the TLB needs to know of the bank.
R_CONTEXT: Final = REGIME_COLS  # the tag of this bank's entries (`tlb.context_of`)
BANK_COLS: Final = REGIME_COLS + 1

# `timing`, in picoseconds.
T_MICRO_HIT: Final = 0  # a µTLB hit (every access pays it)
T_MACRO_HIT: Final = 1  # asking the TCU's macro TLB (every µTLB miss pays it)
T_DESCRIPTOR_READ: Final = 2  # one descriptor fetch of a walk
T_MEMORY_LATENCY: Final = 3  # first data from DRAM
T_MEMORY_PER_KIB: Final = 4  # DRAM streaming
T_COLS: Final = 5

# Columns of `counters`, one row a *lane*. A lane is one stream's way through a TBU: its low five bits are the
# TBU's number, the rest tells streams of one TBU apart (`Smmu.lane_of`), so that the performance monitor can
# filter by stream. Translations and misses are sums of these (`Tlb.counters`). Columns that count accesses
# come in pairs: column + 1 counts writes.
LANE_TBU: Final = 31  # mask of the TBU's number in a lane
LANES: Final = 32 * 16
C_BYPASSES: Final = 0  # identity: bypass stream, or SCTLR.M = 0
C_UTLB_HITS: Final = 2
C_MACRO_HITS: Final = 4
C_WALKS: Final = 6
C_READS: Final = 8  # stage-1 descriptor reads at level 0, 1, 2, 3: four columns
C_READS_2: Final = 12  # stage-2 descriptor reads at level 0, 1, 2, 3: four columns
C_WALK_HITS: Final = 16  # walks that began below their start level, by the walk cache
C_IPA_HITS: Final = 17  # stage-2 translations found in the IPA cache
C_FAULTS: Final = 18  # counted where they are recorded, in `Smmu.fault`
C_COLS: Final = 19

#: Code of `translate`, besides FSR's bit positions: the bank is blocked (MODE_BLOCKED); nothing is recorded.
BLOCKED: Final = 34

INPUT_BITS: Final = 49  # of an address that arrives at a TBU
OUTPUT_BITS: Final = 48


class Arrays(NamedTuple):
    """A node as compiled code sees it. As an argument it costs some microseconds: pass it once a batch."""

    mem8: Any  # uint8[:]: all of DRAM and OCM, bank after bank
    mem64: Any  # uint64[:]: the same bytes
    geometry: Any  # int64[4, 3]: (base, size, offset into mem8)
    tlb: Any  # int64[:, TLB_COLS]: µTLB of each TBU, macro TLB, walk and IPA cache; IPAs
    tlb_state: Any  # int64[:]: shape, classes present, replacement pointers, hash index
    regimes: Any  # int64[banks, BANK_COLS]
    timing: Any  # int64[T_COLS]
    counters: Any  # int64[LANES, C_COLS]
