"""A serial port: the PC16550D, a UART with FIFOs.

Everything in the datasheet (National Semiconductor PC16550D) that software can see, on a line that takes no
time: a character written is sent at once, one that arrives is there at once, and the transmitter is always
empty.  The line has no noise (no parity, framing or break conditions), and a terminal at its far end that is
always ready.

    offset   read                          write
    0        RBR (DLAB: DLL)               THR (DLAB: DLL)
    1        IER (DLAB: DLM)               IER (DLAB: DLM)
    2        IIR                           FCR
    3, 4     LCR, MCR                      LCR, MCR
    5, 6     LSR, MSR                      -
    7        SCR                           SCR

What arrives while the receiver is full waits in a backlog, as if the far end respected a handshake: nothing
typed is lost.

Rules:
- With the FIFOs on, characters below the trigger level are reported as a character time-out at once.
- On a PC the interrupt reaches the controller only while OUT2 is on, and loopback turns the OUT2 pin off.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from revirt.machine.device import Line
from revirt.machine.state import U4, U8, Range, State

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR = 3
MCR = 4
LSR = 5
MSR = 6
SCR = 7

IER_ERBFI = 0x01
IER_ETBEI = 0x02
IER_ELSI = 0x04
IER_EDSSI = 0x08
IER_WRITABLE = 0x0F

IIR_NONE = 0x01
IIR_MODEM = 0x00
IIR_TRANSMITTER = 0x02
IIR_RECEIVED = 0x04
IIR_LINE = 0x06
IIR_TIMEOUT = 0x0C
IIR_FIFOS = 0xC0

FCR_ENABLE = 0x01
FCR_RESET_RECEIVER = 0x02
FCR_TRIGGER_SHIFT = 6
FCR_KEPT = 0xC9
"""Enable, DMA mode and trigger level; the resets clear themselves."""
TRIGGER_LEVELS = (1, 4, 8, 14)

LCR_DLAB = 0x80

MCR_DTR = 0x01
MCR_RTS = 0x02
MCR_OUT1 = 0x04
MCR_OUT2 = 0x08
MCR_LOOP = 0x10
MCR_WRITABLE = 0x1F

LSR_DR = 0x01
LSR_OE = 0x02
LSR_THRE = 0x20
LSR_TEMT = 0x40

MSR_CTS = 0x10
MSR_DSR = 0x20
MSR_RI = 0x40
MSR_DCD = 0x80
MSR_TERI = 0x04
"""The ring indicator's delta bit, alone of the four, is set by the trailing edge only."""
MODEM_READY = MSR_CTS | MSR_DSR | MSR_DCD
"""What the terminal at the far end drives."""

FIFO_SIZE = 16
BACKLOG_SIZE = 1 << 20


@dataclass
class UartState(State):
    """The registers, the receiver's FIFO (one deep while the FIFOs are off), and what waits to enter it."""

    ier: U4 = 0
    fcr: U8 = 0
    lcr: U8 = 0
    mcr: U8 = 0
    scr: U8 = 0
    dll: U8 = 12
    dlm: U8 = 0
    overrun: bool = False
    transmitter_empty: bool = False  # an interrupt condition, not the THRE bit, which is always set
    modem_deltas: U4 = 0
    fifo: Annotated[bytes, Range(0, FIFO_SIZE)] = b""
    backlog: Annotated[bytes, Range(0, BACKLOG_SIZE)] = b""


class Uart:
    """A 16550A that interrupts through *irq* and hands every character sent to *transmit*.

    *drained* is called when the guest has made room for all that was received: there is room for more.
    """

    name = "uart"

    def __init__(
        self, irq: Line, transmit: Callable[[bytes], None], drained: Callable[[], None] = lambda: None
    ) -> None:
        self._irq = irq
        self._transmit = transmit
        self._drained = drained
        self.restore(UartState())

    def receive(self, data: bytes) -> int:
        """Take *data* from the line; return how many bytes were taken, not all if the backlog is full."""
        taken = min(len(data), BACKLOG_SIZE - len(self._backlog))
        self._backlog += data[:taken]
        self._update()
        return taken

    @property
    def is_backlogged(self) -> bool:
        """Whether characters wait outside the FIFO for the guest to make room."""
        return bool(self._backlog)

    def read(self, offset: int, _size: int) -> int:
        """Return register *offset*."""
        s = self._state
        if offset == LSR:
            return self._read_lsr()
        if s.lcr & LCR_DLAB and offset in (DLL, DLM):
            return s.dll if offset == DLL else s.dlm
        if offset == RBR:
            return self._read_rbr()
        if offset == IIR:
            return self._read_iir()
        if offset == MSR:
            return self._read_msr()
        return {IER: s.ier, LCR: s.lcr, MCR: s.mcr}.get(offset, s.scr)

    def write(self, offset: int, _size: int, value: int) -> None:
        """Write register *offset*; LSR and MSR, made for factory tests, ignore it."""
        s = self._state
        if s.lcr & LCR_DLAB and offset in (DLL, DLM):
            if offset == DLL:
                s.dll = value
            else:
                s.dlm = value
            return
        if offset == THR:
            self._write_thr(value)
        elif offset == IER:
            # Enabling the interrupt of a transmitter that is empty raises it: Linux tests for this, and works
            # around a UART that does not.
            if value & ~s.ier & IER_ETBEI:
                s.transmitter_empty = True
            s.ier = value & IER_WRITABLE
        elif offset == FCR:
            self._write_fcr(value)
        elif offset == LCR:
            s.lcr = value
        elif offset == MCR:
            self._write_mcr(value & MCR_WRITABLE)
        elif offset == SCR:
            s.scr = value
        self._update()

    def drive(self) -> None:
        """Drive the interrupt line with the level it has."""
        s = self._state
        connected = s.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2
        self._irq(connected and self._source() != IIR_NONE)

    def save(self) -> UartState:
        """Return a copy of the state."""
        return replace(self._state, fifo=bytes(self._fifo), backlog=bytes(self._backlog))

    def restore(self, state: UartState) -> None:
        """Replace the state; `drive` then drives the line."""
        self._state = copy.copy(state)
        # Byte arrays drop bytes from their front in constant time; bytes would copy a backlog for each
        # character.
        self._fifo = bytearray(state.fifo)
        self._backlog = bytearray(state.backlog)

    # -- the receiver -------------------------------------------------------------------------------------

    @property
    def _fifos_on(self) -> bool:
        return bool(self._state.fcr & FCR_ENABLE)

    def _update(self) -> None:
        """Let the receiver take what waits and drive the line, after anything has changed."""
        # In loopback the receiver is cut off from the line (datasheet, "Modem Control Register", bit 4).
        if self._backlog and not self._state.mcr & MCR_LOOP:
            room = (FIFO_SIZE if self._fifos_on else 1) - len(self._fifo)
            if room > 0:
                self._fifo += self._backlog[:room]
                del self._backlog[:room]
                if not self._backlog:
                    self._drained()
        self.drive()

    def _read_rbr(self) -> int:
        if not self._fifo:
            return 0
        character = self._fifo.pop(0)
        self._update()
        return character

    def _loop_back(self, character: int) -> None:
        """Receive what was sent in loopback; nothing holds the sender back, so there may be an overrun."""
        if len(self._fifo) < (FIFO_SIZE if self._fifos_on else 1):
            self._fifo.append(character)
            return
        self._state.overrun = True
        if not self._fifos_on:
            self._fifo[0] = character

    def _read_lsr(self) -> int:
        s = self._state
        status = LSR_THRE | LSR_TEMT | (LSR_DR if self._fifo else 0) | (LSR_OE if s.overrun else 0)
        if s.overrun:
            s.overrun = False
            self._update()
        return status

    def _write_fcr(self, value: int) -> None:
        s = self._state
        # Datasheet, "FIFO Control Register": switching the FIFOs on or off empties them, and the other bits
        # are taken only while they are on.
        if value & FCR_RESET_RECEIVER or (value ^ s.fcr) & FCR_ENABLE:
            self._fifo.clear()
        s.fcr = value & FCR_KEPT if value & FCR_ENABLE else 0

    # -- the transmitter ----------------------------------------------------------------------------------

    def _write_thr(self, character: int) -> None:
        s = self._state
        if s.mcr & MCR_LOOP:
            self._loop_back(character)
        else:
            self._transmit(bytes((character,)))
        s.transmitter_empty = True

    # -- the modem ----------------------------------------------------------------------------------------

    def _modem_lines(self) -> int:
        mcr = self._state.mcr
        if not mcr & MCR_LOOP:
            return MODEM_READY
        return (
            (MSR_CTS if mcr & MCR_RTS else 0)
            | (MSR_DSR if mcr & MCR_DTR else 0)
            | (MSR_RI if mcr & MCR_OUT1 else 0)
            | (MSR_DCD if mcr & MCR_OUT2 else 0)
        )

    def _write_mcr(self, value: int) -> None:
        before = self._modem_lines()
        self._state.mcr = value
        after = self._modem_lines()
        deltas = (before ^ after) >> 4
        if after & MSR_RI:
            deltas &= ~MSR_TERI
        self._state.modem_deltas |= deltas

    def _read_msr(self) -> int:
        s = self._state
        status = self._modem_lines() | s.modem_deltas
        s.modem_deltas = 0
        self._update()
        return status

    # -- interrupts ---------------------------------------------------------------------------------------

    def _source(self) -> int:
        """Return what IIR says: the pending interrupt of highest priority (table "Interrupt Control")."""
        s = self._state
        if s.ier & IER_ELSI and s.overrun:
            return IIR_LINE
        if s.ier & IER_ERBFI and self._fifo:
            trigger = TRIGGER_LEVELS[s.fcr >> FCR_TRIGGER_SHIFT] if self._fifos_on else 1
            return IIR_RECEIVED if len(self._fifo) >= trigger else IIR_TIMEOUT
        if s.ier & IER_ETBEI and s.transmitter_empty:
            return IIR_TRANSMITTER
        if s.ier & IER_EDSSI and s.modem_deltas:
            return IIR_MODEM
        return IIR_NONE

    def _read_iir(self) -> int:
        source = self._source()
        if source == IIR_TRANSMITTER:
            self._state.transmitter_empty = False
            self._update()
        return source | (IIR_FIFOS if self._fifos_on else 0)
