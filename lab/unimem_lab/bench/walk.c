/* The yardstick of `translate_many`: the same micro TLB, macro TLB and walk over the same arrays, in C.
 *
 * Compiled on the spot by c_walk.py, which passes the column numbers as -D definitions (they are those of
 * nodes/unimem_node/smmu/arrays.py, mmu/regime.py and mmu/_fast_cache.py), so that both sides read one layout.
 * Stage 1 only: what the benchmark's patterns use.
 */
#include <stdint.h>

typedef int64_t i64;

typedef struct {
    const uint64_t *mem64;
    const i64 *geometry; /* [4][3] */
    i64 *tlb;            /* [][TLB_COLS] */
    i64 *state;
    const i64 *regimes; /* [][BANK_COLS] */
    const i64 *timing;
    i64 *counters; /* [LANES][C_COLS] */
} node;

typedef struct {
    i64 code, level, pa, shift, attrs, cost;
} result;

static inline i64 max64(i64 a, i64 b) { return a > b ? a : b; }

static inline i64 offset_of(const i64 *geometry, i64 pa, i64 n) {
    for (int i = 0; i < 4; i++) {
        i64 start = pa - geometry[3 * i];
        if (start >= 0 && start <= geometry[3 * i + 1] - n) return geometry[3 * i + 2] + start;
    }
    return -1;
}

/* The walk cache: rows of the TLB's array, a header in `state` at M_WALKS. */
static inline i64 first_of_set(const i64 *header, i64 page, i64 context) {
    i64 index = (page ^ context ^ (context >> 16) ^ (context >> 32)) & header[H_SET_MASK];
    return header[H_FIRST] + index * header[H_WAYS];
}

static inline i64 *cached_table(const node *n, i64 address, i64 shift, i64 context) {
    const i64 *header = n->state + M_WALKS;
    i64 first = first_of_set(header, address >> shift, context);
    i64 tag = (address & -(1LL << shift)) | KIND_TABLE_1 | shift;
    for (i64 row = first; row < first + header[H_WAYS]; row++) {
        i64 *entry = n->tlb + row * TLB_COLS;
        if (entry[W_TAG] == tag && entry[W_CONTEXT] == context) return entry;
    }
    return 0;
}

static inline void cache_table(const node *n, i64 address, i64 shift, i64 context, i64 value, i64 attrs) {
    i64 *header = n->state + M_WALKS;
    i64 first = first_of_set(header, address >> shift, context), ways = header[H_WAYS];
    i64 tag = (address & -(1LL << shift)) | KIND_TABLE_1 | shift, place = -1;
    for (i64 row = first; row < first + ways; row++) {
        const i64 *entry = n->tlb + row * TLB_COLS;
        if (entry[W_TAG] == tag && entry[W_CONTEXT] == context) {
            place = row;
            break;
        }
        if (!entry[W_TAG] && place < 0) place = row;
    }
    if (place < 0) {
        i64 *pointer = n->state + header[H_POINTERS] + (first - header[H_FIRST]) / ways, way = *pointer;
        *pointer = way + 1 < ways ? way + 1 : 0;
        place = first + way;
    }
    i64 *entry = n->tlb + place * TLB_COLS;
    entry[W_TAG] = tag;
    entry[W_CONTEXT] = context;
    entry[W_VALUE] = value;
    entry[W_ATTRS] = attrs;
}

static inline i64 group_bits(i64 granule, i64 level) {
    if (granule == 12) return 4;
    return granule == 14 && level == 3 ? 7 : 5;
}

static inline i64 may_by_stage_1(i64 attrs, i64 wxn) {
    i64 user = !!(attrs & A_USER), write = !(attrs & A_READ_ONLY), user_write = user & write;
    i64 user_execute = !(attrs & A_UXN) & !(wxn && user_write);
    i64 execute = !(attrs & A_PXN) & !(wxn && write) & !user_write;
    return user | user_write << 1 | 4 | write << 3 | user_execute * 0x30 | execute * 0xC0;
}

static inline result walk(const node *n, const i64 *regime, i64 address, i64 context, i64 *counters) {
    i64 half = (address >> 55) & 1;
    i64 bits = 64 - regime[R_T0SZ + half];
    i64 granule = regime[R_GRANULE_SHIFT0 + half];
    if (bits < 25 || bits > 48 || (granule != 12 && granule != 14 && granule != 16))
        return (result){TF, 0, 0, 0, 0, 0};
    i64 top = address;
    if (regime[R_TBI0 + half]) top = (address & ((1LL << 56) - 1)) | (-half & ~((1LL << 56) - 1));
    if ((top >> bits) != -half || regime[R_EPD0 + half]) return (result){TF, 0, 0, 0, 0, 0};

    i64 stride = granule - 3, shift = granule, level = 3;
    while (shift + stride < bits) {
        shift += stride;
        level -= 1;
    }
    const i64 bits47 = (1LL << 48) - 1;
    i64 table = regime[R_TTBR0 + half] & bits47 & -max64(8LL << (bits - shift), 64);
    i64 ips = regime[R_IPS_BITS];
    if (table >> ips) return (result){ASF, 0, 0, 0, 0, 0};
    i64 index_mask = (1LL << (bits - shift)) - 1;
    i64 address_mask = bits47 & -(1LL << granule);
    i64 inherited = 0, descriptor;
    i64 uses = n->state[M_WALKS + H_USES] & USE_STAGE_1;
    for (i64 depth = 0; uses && depth < 2 && 3 - depth > level; depth++) {
        const i64 *hit = cached_table(n, address, granule + (depth + 1) * stride, context);
        if (!hit) continue;
        table = hit[W_VALUE];
        inherited = hit[W_ATTRS];
        level = 3 - depth;
        shift = granule + depth * stride;
        index_mask = (1LL << stride) - 1;
        counters[C_WALK_HITS] += 1;
        break;
    }
    for (;;) {
        counters[C_READS + level] += 1;
        i64 at = offset_of(n->geometry, table + (((address >> shift) & index_mask) << 3), 8);
        if (at < 0) return (result){EF, level, 0, 0, 0, 0};
        descriptor = (i64)n->mem64[at >> 3];
        if (regime[R_BIG_ENDIAN]) descriptor = (i64)__builtin_bswap64((uint64_t)descriptor);
        if ((descriptor & 3) != 3 || level == 3) break;
        table = descriptor & address_mask;
        if (table >> ips) return (result){ASF, level, 0, 0, 0, 0};
        inherited |= (descriptor >> 59) & 0x1F;
        if (uses && level >= 1) cache_table(n, address, shift, context, table, inherited);
        level += 1;
        shift -= stride;
        index_mask = (1LL << stride) - 1;
    }
    if (!(descriptor & 1) || (level == 3 && !(descriptor & 2)) || level == 0 ||
        (level == 1 && granule != 12))
        return (result){TF, level, 0, 0, 0, 0};
    i64 attrs = (descriptor & 0xFFC) | A_LEAF | ((descriptor >> 52) & 7) * A_CONTIGUOUS |
                level << A_LEVEL_SHIFT | 0xFFLL << A_MAY2_SHIFT |
                0xFLL << A_MEMATTR_SHIFT;
    attrs |= (inherited & 1) * A_PXN | ((inherited >> 1) & 1) * A_UXN | ((inherited >> 3) & 1) * A_READ_ONLY |
             ((inherited >> 4) & 1) * A_NS;
    attrs &= ~(((inherited >> 2) & 1) * A_USER);
    attrs |= may_by_stage_1(attrs, regime[R_WXN]) << A_MAY_SHIFT;
    attrs |= ((regime[R_MAIR] >> (8 * ((attrs >> A_ATTR_SHIFT) & 7))) & 0xFF) << A_TYPE_SHIFT;
    if (!(attrs & A_AF) && regime[R_AF_ENABLED]) return (result){AFF, level, 0, shift, attrs, 0};
    i64 pa = descriptor & bits47 & -(1LL << shift);
    if (pa >> ips) return (result){ASF, level, 0, shift, attrs, 0};
    if ((descriptor >> 52) & 1) {
        i64 more = group_bits(granule, level);
        if (shift + more <= bits && !(((pa ^ address) >> shift) & ((1LL << more) - 1))) shift += more;
    }
    return (result){OK, level, pa & -(1LL << shift), shift, attrs, 0};
}

static inline int permitted(i64 attrs, i64 access) {
    return (attrs >> (A_MAY_SHIFT + access)) & (attrs >> (A_MAY2_SHIFT + access)) & 1;
}

static inline i64 bucket_of(i64 page, i64 context) {
    i64 x = page >> 12;
    return (x ^ (x >> 9) ^ (x >> 18) ^ (context + (context >> 11))) & (BUCKETS - 1);
}

static inline i64 tag_context(i64 context, i64 code) {
    return code & CLASS_GLOBAL ? context | GLOBAL_ASID : context;
}

static inline void add_class(i64 *classes, i64 code) {
    i64 count = classes[0];
    for (i64 i = 0; i < count; i++)
        if (classes[1 + i] == code) return;
    classes[1 + count] = code;
    classes[0] = count + 1;
}

static inline void store(i64 *row, i64 page, i64 context, i64 pa, i64 attrs) {
    row[T_PAGE] = page;
    row[T_CONTEXT] = context;
    row[T_PA] = pa;
    row[T_ATTRS] = attrs;
}

static inline void fill_micro(const node *n, i64 tbu, i64 page, i64 context, i64 pa, i64 attrs) {
    i64 *state = n->state, *unit = state + STATE_TBU + tbu * U_COLS;
    i64 entry = unit[U_NEXT];
    unit[U_NEXT] = entry + 1 == unit[U_ENTRIES] ? 0 : entry + 1;
    i64 number = unit[U_FIRST] + entry;
    i64 *row = n->tlb + number * TLB_COLS, *links = state + state[M_LINKS];
    if (row[T_PAGE]) {
        i64 *at = unit + U_HEADS + bucket_of(row[T_PAGE], row[T_CONTEXT]);
        while (*at != number) at = links + *at;
        *at = links[number];
    }
    store(row, page, context, pa, attrs);
    i64 *at = unit + U_HEADS + bucket_of(page, context);
    links[number] = *at;
    *at = number;
    add_class(unit + U_CLASSES, page & (CLASS_SHIFT | CLASS_GLOBAL));
}

static inline void fill_macro(const node *n, i64 page, i64 context, i64 pa, i64 attrs) {
    i64 *state = n->state;
    i64 index = (page >> (page & CLASS_SHIFT)) & state[M_SET_MASK];
    i64 *pointer = state + state[M_POINTERS] + index, way = *pointer;
    *pointer = way + 1 == state[M_WAYS] ? 0 : way + 1;
    store(n->tlb + (state[M_FIRST] + index * state[M_WAYS] + way) * TLB_COLS, page, context, pa, attrs);
    add_class(state + M_CLASSES, page & (CLASS_SHIFT | CLASS_GLOBAL));
}

static inline i64 find_micro(const node *n, const i64 *unit, i64 context, i64 va) {
    i64 found = 0;
    for (i64 i = 0; i < unit[U_CLASSES]; i++) {
        i64 code = unit[U_CLASSES + 1 + i], shift = code & CLASS_SHIFT;
        i64 page = (va & -(1LL << shift)) | code, wanted = tag_context(context, code);
        for (i64 row = unit[U_HEADS + bucket_of(page, wanted)]; row; row = n->state[n->state[M_LINKS] + row]) {
            const i64 *entry = n->tlb + row * TLB_COLS;
            if (entry[T_PAGE] == page && entry[T_CONTEXT] == wanted) {
                if (found) return -1;
                found = row;
                break;
            }
        }
    }
    return found;
}

static inline i64 find_macro(const node *n, i64 context, i64 va) {
    const i64 *state = n->state;
    i64 ways = state[M_WAYS], found = 0;
    for (i64 i = 0; i < state[M_CLASSES]; i++) {
        i64 code = state[M_CLASSES + 1 + i], shift = code & CLASS_SHIFT;
        i64 page = (va & -(1LL << shift)) | code, wanted = tag_context(context, code);
        i64 first = state[M_FIRST] + ((va >> shift) & state[M_SET_MASK]) * ways;
        for (i64 row = first; row < first + ways; row++) {
            const i64 *entry = n->tlb + row * TLB_COLS;
            if (entry[T_PAGE] == page && entry[T_CONTEXT] == wanted) {
                if (found) return -1;
                found = row;
                break;
            }
        }
    }
    return found;
}

static inline i64 descriptor_reads(const i64 *counters) {
    i64 total = 0;
    for (i64 column = C_READS; column < C_READS + 8; column++) total += counters[column];
    return total;
}

static inline result refill(const node *n, i64 lane, i64 cb, i64 va, i64 write) {
    i64 *counters = n->counters + lane * C_COLS, tbu = lane & LANE_TBU;
    const i64 *regime = n->regimes + cb * BANK_COLS;
    i64 context = regime[R_CONTEXT], cost = n->timing[T_MACRO_HIT], row = find_macro(n, context, va);
    if (row < 0) return (result){TLBMCF, 0, 0, 0, 0, cost};
    if (row) {
        const i64 *entry = n->tlb + row * TLB_COLS;
        counters[C_MACRO_HITS + write] += 1;
        fill_micro(n, tbu, entry[T_PAGE], entry[T_CONTEXT], entry[T_PA], entry[T_ATTRS]);
        return (result){OK, 0, entry[T_PA], entry[T_PAGE] & CLASS_SHIFT, entry[T_ATTRS], cost};
    }
    counters[C_WALKS + write] += 1;
    i64 before = descriptor_reads(counters);
    i64 address = va >> OUTPUT_BITS == 1 ? va - (1LL << INPUT_BITS) : va;
    result r = walk(n, regime, address, context, counters);
    r.cost = cost + (descriptor_reads(counters) - before) * n->timing[T_DESCRIPTOR_READ];
    if (r.code == OK) {
        i64 kind = r.attrs & A_NOT_GLOBAL ? r.shift : r.shift | CLASS_GLOBAL;
        i64 page = (va & -(1LL << r.shift)) | kind, wanted = tag_context(context, kind);
        fill_macro(n, page, wanted, r.pa, r.attrs);
        fill_micro(n, tbu, page, wanted, r.pa, r.attrs);
    }
    return r;
}

typedef struct {
    i64 code, info, pa, span, cost;
} access_result;

static inline access_result translate(const node *n, i64 lane, i64 cb, i64 va, i64 access) {
    i64 cost = n->timing[T_MICRO_HIT], write = access & ACCESS_WRITE;
    i64 *counters = n->counters + lane * C_COLS;
    const i64 *regime = n->regimes + cb * BANK_COLS;
    if (cb < 0 || regime[R_MODE] == MODE_BYPASS) {
        counters[C_BYPASSES + write] += 1;
        if (va < 0 || va >> OUTPUT_BITS) return (access_result){ASF, 0, 0, 0, cost};
        return (access_result){OK, 0, va, (1LL << OUTPUT_BITS) - va, cost};
    }
    i64 pa, shift, attrs;
    i64 row = find_micro(n, n->state + STATE_TBU + (lane & LANE_TBU) * U_COLS, regime[R_CONTEXT], va);
    if (row < 0) return (access_result){TLBMCF, 0, 0, 0, cost};
    if (row) {
        const i64 *entry = n->tlb + row * TLB_COLS;
        counters[C_UTLB_HITS + write] += 1;
        pa = entry[T_PA];
        shift = entry[T_PAGE] & CLASS_SHIFT;
        attrs = entry[T_ATTRS];
    } else {
        result r = refill(n, lane, cb, va, write);
        cost += r.cost;
        pa = r.pa;
        shift = r.shift;
        attrs = r.attrs;
        if (r.code != OK) {
            if (r.code == ASF && (attrs & A_LEAF) && !(attrs >> (A_MAY_SHIFT + access) & 1)) r.code = PF;
            return (access_result){r.code, r.level, 0, 0, cost};
        }
    }
    if (!permitted(attrs, access)) return (access_result){PF, (attrs >> A_LEVEL_SHIFT) & 3, 0, 0, cost};
    i64 within = va & ((1LL << shift) - 1);
    return (access_result){OK, attrs, pa | within, (1LL << shift) - within, cost};
}

int64_t translate_many(const node *n, i64 lane, i64 cb, const uint64_t *vas, i64 count, i64 access, uint64_t *pas) {
    for (i64 i = 0; i < count; i++) {
        access_result r = translate(n, lane, cb, (i64)vas[i], access);
        if (r.code) return i;
        pas[i] = (uint64_t)r.pa;
    }
    return count;
}
