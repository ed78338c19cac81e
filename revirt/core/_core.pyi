"""The CPU core: Unicorn's x86, with the clock, exact stops and exception delivery that record and replay need.

The core counts *taken branches*: the number of times execution continued anywhere other than at the byte after the
previous instruction.  (A REP instruction goes back to itself after every iteration, the last included.)  It stops
only on a taken branch or at a HLT.  Memory below ``ram_size`` is ordinary RAM, kept
by the core and visible as ``Core.ram``; everything else that a guest touches is MMIO.

Unless said otherwise methods may be called only while the guest is not running; ``request_stop`` may be called from
anywhere, and device callbacks may use ``branches``, ``pc``, ``intr``, ``set_clock`` and ``request_stop``.
"""

from collections.abc import Callable, Sequence
from typing import Final, final

UNICORN_VERSION: Final[str]
"""The only release of Unicorn whose CPU context this core knows."""
PAGE_SIZE: Final[int]

# Why `Core.run` returned.
STOP_LIMIT: Final[int]
"""The branch count asked for was reached."""
STOP_REQUEST: Final[int]
"""`Core.request_stop` was called; the core went on to the next taken branch."""
STOP_INTERRUPTIBLE: Final[int]
"""``intr`` is high and the guest accepts interrupts."""
STOP_HALT: Final[int]
"""The guest executed HLT, or ``sees_windows`` is on and it let interrupts in."""
STOP_SHUTDOWN: Final[int]
"""The guest cannot go on (a triple fault, a jump out of memory, what Unicorn gives up at): ``fault`` says why."""
STOP_STEPS: Final[int]
"""`Core.step` executed as many instructions as it was asked to."""
STOP_WATCH: Final[int]
"""A watch was hit in the straight line that ends here, and ``stop_at_hits`` is on."""

# What a watch noted: one of these, with what is not certain about it.
WATCH_EXECUTE: Final[int]
WATCH_READ: Final[int]
WATCH_WRITE: Final[int]
WATCH_INTERRUPT: Final[int]
"""An interrupt or exception was taken."""
WATCH_SYSTEM_CALL: Final[int]
"""SYSCALL, SYSENTER or INT 0x80 was executed."""
WATCH_ADDRESS_SPACE: Final[int]
"""CR3 changed."""
WATCH_PRIVILEGE: Final[int]
"""The privilege level (CPL) changed."""
WATCH_CALL: Final[int]
"""A call put its return address on the stack."""
WATCH_RETURN: Final[int]
"""A return took one from there."""
WATCH_MAYBE: Final[int]
"""The access goes on from a page that is not watched into another, which may or may not be."""
WATCH_BLOCK: Final[int]
"""The access was made somewhere in the block that begins at the hit's pc."""

# How `Core.start` sets the CPU up.
MODE_REAL: Final[int]
MODE_PROTECTED: Final[int]
MODE_LONG: Final[int]

def load(library: str) -> None:
    """Load libunicorn from the path *library*; to be called once, before the first `Core`.

    Raises OSError if it cannot be loaded and ImportError if it is not ``UNICORN_VERSION``.
    """

def hash_pages(pages: bytes | bytearray | memoryview, /) -> bytes:
    """Return the 64-bit hashes of *pages* (a multiple of 4096 bytes), 8 bytes each, little-endian."""

def encode_columns(rows: bytes, data: bytes, /) -> bytes:
    """Return events, given as *rows* with their *data*, in the form that `revirt.log.columns` describes.

    Raises ValueError if branches decrease or reach 2**63, or rows and data do not fit together.
    """

def trim_heap() -> None:
    """Give memory that was freed back to the host, where the C library knows how to; releases the GIL."""

@final
class Core:
    def __init__(
        self, ram_size: int, *, store_size: int = 0, translation_buffer: int = 0, track_writes: bool = True
    ) -> None:
        """Create a CPU with *ram_size* bytes of zeroed memory (a multiple of 4096).

        Behind it are *store_size* bytes more (likewise; 4 GiB together) that no guest can address: for what devices
        keep.  They are pages as those of RAM are, with the numbers behind them.
        *translation_buffer* is the size in bytes of Unicorn's buffer for translated code, 0 for its default.
        *track_writes* false finds changed pages by comparing hashes, as on hosts without userfaultfd.
        Raises RuntimeError if the CPU context of this libunicorn is not laid out as expected, MemoryError if the host
        has not enough memory.
        """

    # -- running ------------------------------------------------------------------------------------------------

    def run(self, limit: int, /) -> int:
        """Run until ``branches`` is *limit* or something else of the ``STOP_`` kind happens; return which.

        Releases the GIL.  An exception raised by a device callback stops the guest at the next taken branch and
        is raised from here.
        """

    def step(self, count: int, limit: int | None = None, whole_blocks: bool = False, /) -> int:
        """Execute *count* instructions under an instruction hook; return ``STOP_STEPS``, or why it stopped before.

        It stops at the latest when ``branches`` is *limit*: with ``branches + 1`` it does not leave the straight line.

        Running on from inside a block begins another one there, and a guest that then writes to the part that it left
        out is not seen to change its own block, which would be a taken branch.  With *whole_blocks* it executes some
        more instructions, if need be, up to where a block begins: what runs on from there does just the same.

        Counts ``instructions``, and does not move ``branches`` differently from `run`.  The first step after a `run`,
        and the first `run` after a step, drop all translations.  The hook changes what BT and its like leave in the
        flags that they do not define.
        """

    def request_stop(self) -> None:
        """Make `run` return at the next taken branch.  Safe from any thread and from callbacks."""

    def interrupt(self, vector: int, /) -> None:
        """Deliver the external interrupt *vector*, as if accepted between two instructions."""

    def flush_tlb(self) -> None:
        """Forget every translation of an address: the guest's page tables are walked again, as after a `restore`."""

    @property
    def branches(self) -> int:
        """Taken branches since the start of the guest: its clock."""

    @property
    def instructions(self) -> int:
        """Instructions begun while ``counting`` was on, or by `step`.

        Iterations of a REP instruction count one each, and an instruction that faults counts again when it is retried.
        In a port callback the IN or OUT is the last one counted; in an MMIO callback the block it is in counts whole.
        """

    @instructions.setter
    def instructions(self, value: int) -> None: ...
    @property
    def counting(self) -> bool:
        """Whether instructions are counted, which changes nothing else (and takes about a third more time).

        The count is exact but for a guest that leaves a block in its middle whose code is not mapped any more, or that
        shuts down by leaving its memory: there the whole block counts.  Setting it raises MemoryError if the host has
        not enough memory.
        """

    @counting.setter
    def counting(self, value: bool) -> None: ...
    @property
    def intr(self) -> bool:
        """Level of the CPU's INTR input."""

    @intr.setter
    def intr(self, value: bool) -> None: ...
    sees_windows: bool
    """Whether `run` also returns, with ``STOP_HALT``, within a straight line: where the guest begins to let interrupts
    in (behind the shadow of STI, or behind POPF) and ``intr`` is high since the line began.

    Firmware lets them in so between two taken branches, for an instruction or two.  False at first.
    """

    @property
    def interruptible(self) -> bool:
        """Whether the guest accepts external interrupts (IF is set)."""

    @property
    def pc(self) -> int:
        """The instruction pointer register (an offset in the code segment)."""

    @property
    def fault(self) -> str:
        """Why the guest shut down: what could not be delivered, and where; empty unless it did."""

    # -- devices ------------------------------------------------------------------------------------------------

    def set_callbacks(
        self,
        port_in: Callable[[int, int], int],
        port_out: Callable[[int, int, int], None],
        mmio_read: Callable[[int, int], int],
        mmio_write: Callable[[int, int, int], None],
        /,
    ) -> None:
        """Install device callbacks: ``(port, size) -> value``, ``(port, size, value)``, and the same by address."""

    def map_mmio(self, start: int, size: int, /) -> None:
        """Route guest accesses to physical ``[start, start + size)`` to the MMIO callbacks (multiples of 4096)."""

    def set_cpuid(self, leaves: dict[tuple[int, int], tuple[int, int, int, int]], /) -> None:
        """Set what CPUID answers: ``(leaf, subleaf)`` to (eax, ebx, ecx, edx).

        A leaf without that subleaf answers as its subleaf 0; a leaf that is absent answers zeros.  Raises ValueError
        or OverflowError, and changes nothing, if *leaves* are not like that.
        """

    def set_clock(self, base_ns: int, base_branches: int, ns_per_branch: int, /) -> None:
        """Let RDTSC read ``base_ns + (branches - base_branches) * ns_per_branch``."""

    # -- watching -----------------------------------------------------------------------------------------------

    def set_watches(
        self,
        code: Sequence[int],
        writes: Sequence[tuple[int, int]],
        reads: Sequence[tuple[int, int]],
        /,
        *,
        system: int = 0,
        vectors: Sequence[int] | None = None,
        stack: tuple[int, int, int, int, int, int] | None = None,
        traps: int = 0,
    ) -> None:
        """Watch the instructions at the linear addresses *code* and the physical ranges *writes* and *reads*.

        *system* is of ``WATCH_INTERRUPT``, which is about these *vectors* or all of them, ``WATCH_SYSTEM_CALL``,
        ``WATCH_ADDRESS_SPACE`` and ``WATCH_PRIVILEGE``.  *stack* has calls and returns noted whose return address
        lies in a stretch of a stack: (start, size, mask, base, privilege, root) are the least stack pointer, a number
        of bytes up to 2**32, which part of RSP the stack pointer is, the base of SS, the privilege level, and CR3
        without its low 12 bits, or 0 for any.

        With *traps* the host's page protection finds the accesses, so many at most, and nothing but these takes longer
        (some 20 us each).  A hit then tells the line, and the address where the access begins, and no more; and there
        may be hits where nothing was accessed, as reads by the MMU and accesses to what stands before a range.
        Where the host cannot do that (`traps` is false then), hooks do it.

        They replace what was watched before.  A range is (start, size); at most 64 of each kind, of at most 65,536
        bytes together, and 1,024 instructions.  Raises ValueError for what cannot be watched, MemoryError if the host
        has not enough memory.

        Watching changes neither what the guest does nor ``branches``.  Every execution and every access is noted that
        the guest makes, those of exception delivery included, and what `written` is told.  Not noted are reads by the
        MMU, and fetches.  While ranges are watched every access of the guest takes longer; if one of them holds one
        of the first seven bytes of a page, much longer.
        """

    def take_hits(self) -> list[tuple[int, int, int, int, int, int, int]]:
        """Return and forget the hits noted so far, the last 65,536 of them: (kind, branches, instructions, pc, address,
        size, value).

        The kind is one of ``WATCH_``, to ``WATCH_READ`` and ``WATCH_WRITE`` ``WATCH_MAYBE`` or ``WATCH_BLOCK`` may be
        added.  Hits are in order; one with ``WATCH_BLOCK`` may stand behind others of its block.  The branches are
        those at which the straight line of the hit begins, *pc* is that of the instruction (where an exception is
        delivered, of the place that it came from), and *instructions* is what ``instructions`` would be there.  The
        address of an execution is linear, that of an access physical; an access wider than 8 bytes is several hits.
        The value is what is written, or what stood there to be read, 0 if that goes on into another page.

        The value of ``WATCH_INTERRUPT`` is the vector, of ``WATCH_SYSTEM_CALL`` what EAX or RAX holds, of
        ``WATCH_ADDRESS_SPACE`` and ``WATCH_PRIVILEGE`` what there is now; of ``WATCH_CALL`` and ``WATCH_RETURN``
        it is the *pc* that follows, and the address is the stack pointer that points to the return address.  The last
        four are made by the last instruction of a block, the *pc* is that of the block; or by what is delivered there.
        Where delivery meets a fault, the vector is that of the handler that is entered.

        What changes without being seen, as accessed and dirty bits of page tables do, comes with ``WATCH_BLOCK``.
        What an access that goes on into the next page does there is not seen either: if one of the first seven bytes
        of a page is watched, every such access is noted with ``WATCH_MAYBE``, and the caller has to look.  An
        instruction that begins twice, as one does that changes its own block, is noted twice; Unicorn reads for NEG
        with LOCK, and stores for INS, twice.
        """

    @property
    def hits_noted(self) -> int:
        """How many hits were noted since the watches were set, those that are not kept included."""

    @property
    def traps(self) -> bool:
        """Whether page protection watches the memory that is watched."""

    @property
    def traps_left(self) -> int:
        """How many more traps there may be.  At 0 nothing more is noted, and `run` ends with ``STOP_WATCH`` at the next
        taken branch: of the line before that it is not known what else was accessed."""

    stop_at_hits: bool
    """Whether a hit ends `run`, with ``STOP_WATCH``, at the next taken branch.  `step` only notes."""

    # -- CPU state ----------------------------------------------------------------------------------------------

    def start(
        self, mode: int, pc: int, registers: dict[str, int], gdt_base: int, gdt_limit: int, cr3: int, /
    ) -> None:
        """Reset the CPU, all of its registers, into *mode* (``MODE_*``) at *pc*.

        Real mode: all segments 0 but CS, which has bits 16 to 19 of *pc*: that is linear, and below 1 MiB.
        Protected mode: flat 4 GiB segments (code selector 0x10, data 0x18), paging off.  Long mode: likewise, 64-bit
        code, paging on with *cr3* and PAE.  *registers* are general registers by their 64-bit names.
        """

    def registers(self) -> dict[str, int]:
        """Return every register of the CPU by name, in a fixed order (vector and x87 ones as integers).

        Machine-specific registers without a name of their own are called ``msr.`` and their number.  ``hflags`` is
        Unicorn's summary of the mode: bits 0 and 1 are the privilege level, bit 3 is the shadow of STI or MOV SS.
        """

    def digest_input(self) -> bytes:
        """Return the architectural state of the CPU, the clock included, as canonical bytes."""

    def check(self) -> int:
        """Return a 16-bit hash of the general registers and flags."""

    def save(self) -> bytes:
        """Return the CPU's state, the clock included: nothing but what `registers` shows; equal states, equal bytes."""

    def restore(self, state: bytes, /) -> None:
        """Replace the CPU's state by what `save` returned; drops all translations.

        Raises ValueError if *state* is not of this core's layout.  Otherwise its content may be anything: what a guest
        could not have set is left out.
        """

    # -- noting events ------------------------------------------------------------------------------------------

    def note(self, kind: int, halted: bool, checked: bool, number: int, data: bytes, /) -> int:
        """Note an event here, at ``branches`` and ``pc``, with the `check` if *checked*; return the bytes that wait.

        From callbacks only what is not *checked* can be noted.
        """

    def take_notes(self) -> tuple[bytes, bytes]:
        """Return and forget the events noted so far: their rows, as in `revirt.log.rows`, and their data."""

    # -- memory -------------------------------------------------------------------------------------------------

    @property
    def ram(self) -> memoryview:
        """Guest memory, writable.  After writing below a running guest call `written`."""

    @property
    def store(self) -> memoryview:
        """The memory behind RAM that only devices see, writable."""

    def written(self, start: int, size: int, comes_with_branch: bool = False, /) -> None:
        """Tell the core that physical ``[start, start + size)`` was written from outside: stale code is dropped.

        What is watched there is noted: on the straight line that the core is in, or where that has only begun and this
        *comes_with_branch*, on the one before.
        """

    def translate(self, vaddr: int, /) -> int | None:
        """Return the physical address of *vaddr* in the guest's current page tables, None if it is not mapped.

        Nor is what the CPU cannot form: more than 32 bits, or in long mode what is not canonical.
        """

    @property
    def tracks_writes(self) -> bool:
        """Whether the host's kernel tells which pages were written (else they are compared)."""

    def scan(self) -> int:
        """Find pages changed since the last scan, update ``page_hashes``; return how many changed."""

    @property
    def page_hashes(self) -> memoryview:
        """The 64-bit hash of every page of RAM and store as of the last `scan` (read-only bytes, 8 per page)."""

    def take_changed(self) -> bytes:
        """Return and forget the numbers (32-bit little-endian, ascending) of pages found changed so far."""

    def read_pages(self, numbers: bytes | memoryview, /) -> bytes:
        """Return the contents of the pages with these *numbers* (32-bit little-endian), concatenated."""

    def write_pages(self, numbers: bytes | memoryview, contents: bytes | memoryview, /) -> None:
        """Write *contents* to the pages with these *numbers*; raises ValueError if sizes or numbers do not fit."""
