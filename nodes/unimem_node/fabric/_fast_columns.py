"""Columns of the network interface's tables, and byte offsets of what travels, as compiled code sees them.

Named ``_fast_*`` because compiled code has these numbers built in: the cache of machine code is keyed by
the content of such files (`unimem_node._jit`). The dtypes of `packets` are the same layout for NumPy; a test
compares the two. All tables are int64; numbers that are unsigned on the wire are stored with the same bits.
"""

from __future__ import annotations

# ---- `node`: one row of scalars -----------------------------------------------------------------
N_INDEX = 0
N_INCARNATION = 1
N_CLOCK = 2  # virtual time of this node: the later of its own and what arrived
N_SOURCE_FREE = 3  # when the engine that reads for outgoing requests is free
N_TARGET_FREE = 4  # when the engine that serves what arrives is free
N_WINDOW_BASE = 5
N_WINDOW_END = 6
N_ENABLED = 7
N_ISSUE_PS = 8
N_BLOCK_BYTES = 9
N_FRAME_PAYLOAD = 10
N_FRAME_PACKETS = 11
N_PEER_BYTES = 12  # in flight per peer, headers included
N_FRAMES = 14  # request frames cut so far
N_HANDED = 15  # ... of which the transport has been given those up to this number
N_DONE = 16  # rows of `done` that wait to be taken
N_WORK_FREE = 17  # free list of `work`, -1 at its end
N_WORK_TOP = 18  # rows from here on have never been used
N_WORK_LIVE = 19
N_FLIGHT_FREE = 20
N_FLIGHT_TOP = 21
N_FLIGHT_LIVE = 22
N_READY_HEAD = 23  # peers that have something to cut, first come first served
N_READY_TAIL = 24
N_ROUTES = 25  # rows of `routes` in use
N_REPLAYS = 26  # blocks of `replay` in use
N_TIMER = 27  # when `on_timer` is wanted, on the timer's clock; NEVER
N_NOW = 28  # the timer's clock
N_VIRTUAL = 29  # 1: it is the virtual clock, so that a packet is sent when it has left
N_CHECKS = 30  # 0: no CRC, no window, no timer (a yardstick)
N_LOOKAHEAD = 31  # ps: nothing is cut for a link that is booked further ahead; 0: no limit
N_ENTRY_PS = 62  # of a packet's first hop: more than a further one takes
N_CELL_BYTES = 63  # a switch passes on a packet once it has so much of it
# counters: what `RdmaNi.counters` returns, in the order of `state.COUNTERS`
K_POSTED = 32
K_COMPLETED = 33
K_FAILED = 34
K_BYTES_DELIVERED = 35
K_FRAMES_OUT = 36
K_FRAMES_IN = 37
K_PACKETS_OUT = 38
K_PACKETS_IN = 39
K_BLOCKS_SERVED = 40  # requests executed here
K_BYTES_WRITTEN = 41  # by requests from elsewhere
K_BYTES_READ = 42
K_ATOMICS = 43
K_REFUSED = 44  # NACKs sent
K_REFUSALS = 45  # NACKs received
K_DUPLICATES = 46
K_GAPS = 47
K_BAD_CRC = 48
K_BAD_FRAMES = 49
K_STALE_FRAMES = 50
K_LATE_ANSWERS = 51  # answers to nothing that is in flight
K_MISSES = 52
K_LOST = 53  # packets in flight to a peer that was lost
K_RESENT = 54
K_TIMEOUTS = 55
K_PENDING = 56  # PAGE_PENDING answers sent
K_DEFERRED = 57  # blocks whose page at home was not there
K_PARKED = 58  # stalled accesses that were held
K_GIVEN_UP = 59  # connections
K_OUT_OF_ORDER = 60
N_RTO_MIN = 64
N_RTO_MAX = 65
N_PACED = 66  # when a link is free enough to go on cutting; NEVER
N_DEADLINE = 67  # the earliest of a work request's; NEVER
N_ALARM = 68  # the earliest of the readable half's own; NEVER
N_WAKES = 69  # requests of the interface's own that have ended: `pump` is wanted
NODE_COLS = 72

# ---- `work`: one row a work request -----------------------------------------------------------
W_STATE = 0
W_NEXT = 1  # free list, send queue or list behind a fence; -1 at the end
W_ID = 2
W_OP = 3
W_FLAGS = 4
W_PDID = 5
W_LENGTH = 6
W_LOCAL = 7  # VA in the posting process
W_REMOTE = 8  # GVA
W_OPERAND = 9
W_COMPARE = 10
W_POSTED = 11
W_PEER = 12  # row of `peers`
W_CUT = 13  # bytes sent so far
W_PENDING = 14  # blocks in flight
W_BYTES = 15  # bytes acknowledged
W_TOUCHED = 16  # 1: something may have happened at the target
W_VALUE = 17
W_ISSUE = 18  # ps from the doorbell to the engine
W_TRANSLATE = 19  # ps of source translation so far
W_MEMORY = 20
W_DONE = 21  # latest answer so far, and the parts of its way (TIMING_PARTS)
W_PARTS = 22
# what refused it first; valid when W_STATUS is not 0
W_STATUS = 31
W_SIDE = 32
W_STAGE = 33
W_LEVEL = 34
W_ACCESS = 35
W_IOVA = 36
W_STREAM = 37
W_BANK = 38
W_FSR = 39
W_FSYNR0 = 40
W_NODE = 41
W_DEADLINE = 42  # on the timer's clock; 0: none
W_ORIGIN = 43  # serial number of one that the interface posts itself (`internal`); 0: a poster's
W_SIGNAL = 44  # of the data of a signalling write: the row of the signal, + 1
WORK_COLS = 48

WORK_FREE = 0  # or refused at the door
WORK_HELD = 1  # behind a fence
WORK_QUEUED = 2  # in a peer's send queue; from here on it counts as active
WORK_SENT = 3  # every block is in flight or answered

# TIMING_PARTS of `unimem.wire`, relative to W_PARTS
PART_ISSUE = 0
PART_SOURCE_TRANSLATE = 1
PART_SOURCE_MEMORY = 2
PART_LINK_WAIT = 3
PART_WIRE = 4
PART_TARGET_WAIT = 5
PART_TARGET_TRANSLATE = 6
PART_TARGET_MEMORY = 7
PART_ACK = 8
PARTS = 9

# ---- `flight`: one row a packet that waits for its answer --------------------------------------
F_TOKEN = 0  # generation << 32 | row
F_LIVE = 1
F_NEXT = 2
F_WORK = 3
F_PEER = 4
F_SEQ = 5
F_OP = 6
F_OFFSET = 7  # of the block in its work request
F_LENGTH = 8
F_FRAME = 9
F_LINK_WAIT = 10
F_WIRE = 11
F_ARRIVAL = 12
F_TRANSLATE = 13  # source translation of the request up to and including this block
F_MEMORY = 14
F_SENT = 15  # when it was sent last, on the timer's clock
F_OLDER = 16  # neighbours in the order of sending; -1
F_NEWER = 17
F_STATE = 18
F_SENDS = 19  # times it was sent
F_ROUNDS = 20  # OUT_OF_ORDER answers so far
F_SLOT = 21  # replay slot at the target, + 1; 0: none
F_FLAGS = 22  # of the packet
F_EVER = 23  # 1: a connection that broke was given it
FLIGHT_COLS = 24

FLYING = 0  # in the list of those sent
AGAIN = 1  # waits to be sent again
AWAY = 2  # waits for a page at the target
HERE = 3  # waits for a page at home

# ---- `peers`: one row a node that was talked to -----------------------------------------------
P_INDEX = 0
P_HEAD = 1  # send queue
P_TAIL = 2
P_READY = 3  # link in the list of ready peers; NOT_READY
P_BYTES = 4  # in flight, headers included
P_SEQ = 5  # of the next request to it
P_CONNECTION = 6  # ours to it; grows when it is lost
P_ROUTE_INCARNATION = 7  # whom our requests are for
P_SEEN_INCARNATION = 8  # who sent its last frame
P_SEEN_CONNECTION = 9
P_EXPECTED = 10  # seq of its next request
P_LINK_FREE = 11  # when the link to it is free
P_LAST_ARRIVAL = 12
P_LATENCY = 13
P_PS_PER_KIB = 14
P_FRAMES = 15  # frames sent to it
P_OLDEST = 16  # packets that wait for an answer, in the order of sending; -1
P_NEWEST = 17
P_BASE = 18  # the oldest seq of ours that is not settled
P_SETTLED = 19  # how many later ones are (`settled`)
P_SRTT = 20
P_RTTVAR = 21
P_RTO = 22
P_TIMEOUTS = 23  # in a row, without a word from it
P_AHEAD = 24  # requests of its that were executed after P_EXPECTED (`seen`)
P_CREDIT = 25  # bytes it grants us; 0: it has not said
P_AGAIN = 26  # packets that wait to be sent again
P_RACK = 27  # F_SENT of the latest packet that was answered
P_REPLAY = 28  # its block of `replay`, + 1
P_PATHS = 33  # row of `paths` of its first path, + 1; 0: none, see P_LATENCY
P_PATH_COUNT = 34
P_NEXT_PATH = 35
P_GRANT = 36  # bytes we grant it
P_OWED = 37  # requests of its that were accepted, and wait here to be executed
P_VALUES = 40  # replay slots at it that are in use, a bit each: VALUE_WORDS words of 32
PEER_COLS = 48

NOT_READY = -2

# ---- `domains`: one row a PDID ------------------------------------------------------------------
D_ACTIVE = 0  # work requests that are queued or in flight
D_HEAD = 1  # held behind a fence: row + 1
D_TAIL = 2
DOMAIN_COLS = 3

# ---- `slots`: one row a PD slot ---------------------------------------------------------------
S_PDID = 0
S_ROUTE = 1
S_LANE = 2
S_BANK = 3  # context bank as `dma._fast.locate` takes it
S_USED = 4  # virtual time of the last use
SLOT_COLS = 8

ROUTE_UNKNOWN = 0  # ask the SMMU first
ROUTE_OPEN = 1  # translated, or bypassing
ROUTE_REFUSED = 2

# ---- `routes`: sorted by base -------------------------------------------------------------------
R_BASE = 0
R_END = 1
R_INDEX = 2
R_INCARNATION = 3
R_STATE = 4
R_PEER = 5  # row of `peers`, -1: none yet
ROUTE_COLS = 6

NODE_UP = 1  # unimem.v1.NodeState
NODE_LOST = 2

# ---- `seen`, `settled`: one row a peer, a bit for each seq of its window --------------------------
WINDOW = 8192  # packets from the oldest that is not settled
WINDOW_MASK = WINDOW - 1
COPY_SPAN = 256  # no COPY is sent further from the oldest that is not settled
WINDOW_WORDS = WINDOW // 32  # 32 bits a word: shifts of the sign bit are nobody's friend

# ---- `replay`: answers given to requests that return a value; a block of VALUE_SLOTS rows a peer --------
VALUE_SLOTS = 256
VALUE_WORDS = 8
A_SEQ = 0
A_CONNECTION = 1
A_VALUE = 2
A_STATUS = 3
REPLAY_COLS = 4

# ---- `links`: one row a link, shared by all who know it ---------------------------------------------
L_FREE = 0  # when it is free
L_PS_PER_KIB = 1
L_LATENCY = 2
L_BYTES = 3  # carried so far
L_WAIT = 4  # ps that packets waited for it
LINK_COLS = 5

# ---- `paths`: one row a path: count of links, then the links -------------------------------------------
PATH_COLS = 64

# ---- `done`: a COMPLETION as 20 words -----------------------------------------------------------
DONE_COLS = 20
DONE_ORIGIN = 19  # W_ORIGIN: no poster sees another value than 0

# ---- `cursor`: where the frame under construction, or under examination, stands -------------------
# Between frames C_OPEN and C_PACKET are 0 and C_COUNT is -1.
C_STOP = 0
C_NEED = 1  # bytes (NEED_BUFFER) or rows (NEED_FLIGHT)
C_OPEN = 2  # 1: a frame is under construction
C_SLOTS = 3  # packets there is room for
C_USED = 4
C_PAYLOAD = 5  # where the next payload goes
C_ROOM = 6  # end of the buffer planned
C_TIME = 7  # when the last packet of the frame arrives
C_RECORDS = 8  # where the ACK records begin
C_ACKS = 9
C_PACKET = 10  # of the received frame: the next packet
C_END = 11  # ... where this reply ends
C_COUNT = 12  # its packets; -1: its header has not been looked at
# of a refused translation (STOP_FAULT)
C_SLOT = 13  # PD slot
C_CODE = 14
C_LEVEL = 15
C_VA = 16
C_MOVED = 17
C_COST = 18
C_PEER = 19  # whom the frame is for
C_PLANNED = 20  # ACK records there is room for
CURSOR_COLS = 24

STOP_DONE = 0  # cut: the frame is ready; receive: all packets are examined
STOP_IDLE = 1  # nothing may leave now
STOP_NEED_BUFFER = 2
STOP_NEED_FLIGHT = 3
STOP_DOMAIN = 4  # the process at the head of the queue has no usable PD slot
STOP_FAULT = 5  # the SMMU, or the interconnect, refused an address
STOP_HEADER = 6  # the frame is not the common case
STOP_PACKET = 7  # this packet is not the common case
STOP_PEER = 8  # a work request goes to a node that was not talked to before
STOP_WORK = 9  # this work request is not the common case
STOP_REPLY = 10  # the reply is full, there are more packets
STOP_AGAIN = 11  # packets for this peer wait to be sent again

# ---- the frame header (unimem.wire.FRAME_HEADER) and what FABRIC puts into its reserved words ---------
MAGIC_VERSION_KIND = 3 << 48 | 1 << 32 | 0x464D_4E55
H_COUNT = 8
H_TOTAL = 16
H_SRC = 24
H_DST = 28
H_SRC_INCARNATION = 32
H_DST_INCARNATION = 36
H_NUMBER = 40
H_BASE = 44
H_CONNECTION = 48
H_CRC = 52
H_TIME = 56
HEADER = 64

# ---- a packet (packets.PACKET, RESPONSE, NACK) ---------------------------------------------------------
X_STATUS = 2
X_PDID = 4
X_SEQ = 8
X_LENGTH = 12
X_VA = 16
X_TOKEN = 24
X_TIME = 32
X_OPERAND = 40
X_COMPARE = 48
X_PAYLOAD = 56
X_CRC = 60
PACKET_BYTES = 64

# ---- an ACK record (packets.ACK_RECORD) -------------------------------------------------------------
ACK_TIME = 8
ACK_WAIT = 16
ACK_TRANSLATE = 24
ACK_MEMORY = 28
ACK_BYTES = 32

OP_WRITE = 1
OP_READ = 2
OP_FETCH_ADD = 3
OP_COMPARE_SWAP = 4
OP_SWAP = 5
OP_SEND = 6
OP_COPY = 7
OP_ACK = 16
OP_RESPONSE = 17
OP_NACK = 18
OP_READY = 19

HAS_PAYLOAD = 1  # packet flags
ORDERED = 2
SIGNAL = 4
ACCEPTED = 8

FLAG_FENCE = 4  # unimem.wire.WorkFlags
FLAG_ORDERED = 8
FLAG_ACCEPTED = 16
FLAG_SIGNAL = 32
FLAG_DEFINITE = 1  # unimem.wire.CompletionFlags

#: No time is later: 26 days. Keeps sums of times that a peer sent inside an int64.
TIME_LIMIT = 1 << 61
NEVER = 1 << 62
#: Input addresses of the SMMU have 49 bits.
LOCAL_LIMIT = 1 << 49
#: Sequence numbers count modulo this.
SEQ_MASK = 0xFFFF_FFFF
#: A link carries nothing in less time than this many bytes.
LINK_MINIMUM = 64
#: Smaller frames are made in one buffer and copied out; larger ones have a buffer of the pool to themselves.
SMALL_FRAME = 1 << 14
