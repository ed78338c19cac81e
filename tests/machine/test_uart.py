"""The 16550A; expectations are from National's PC16550D datasheet and Linux's 8250 driver."""

from types import SimpleNamespace

import pytest

from revirt.machine.uart import BACKLOG_SIZE, Uart

RBR = THR = DLL = 0
IER = DLM = 1
IIR = FCR = 2
LCR, MCR, LSR, MSR, SCR = 3, 4, 5, 6, 7

ERBFI, ETBEI, ELSI, EDSSI = 1, 2, 4, 8
NONE, MODEM, TRANSMITTER, RECEIVED, LINE, TIMEOUT = 0x01, 0x00, 0x02, 0x04, 0x06, 0x0C
FIFOS_ON = 0xC0
OUT2, LOOP = 0x08, 0x10


@pytest.fixture
def port():
    """A UART as after reset, with what it sent and the levels of its line."""
    irq, sent = [], bytearray()
    uart = Uart(irq.append, sent.extend)
    return SimpleNamespace(
        uart=uart,
        irq=irq,
        sent=sent,
        read=lambda offset: uart.read(offset, 1),
        write=lambda offset, value: uart.write(offset, 1, value),
    )


def drain(port):
    received = bytearray()
    while port.read(LSR) & 1:
        received.append(port.read(RBR))
    return bytes(received)


def test_reset_leaves_the_registers_as_in_the_datasheet(port):
    # Table "UART Reset Configuration".
    assert [port.read(offset) for offset in (IER, IIR, LCR, MCR, LSR)] == [0, 1, 0, 0, 0x60]
    assert port.read(MSR) & 0x0F == 0


def test_a_character_written_is_sent_at_once(port):
    for character in b"ok\n":
        port.write(THR, character)

    assert port.sent == b"ok\n"
    assert port.read(LSR) == 0x60


def test_the_divisor_latch_hides_behind_dlab(port):
    port.write(LCR, 0x83)
    port.write(DLL, 0x01)
    port.write(DLM, 0x02)
    assert (port.read(DLL), port.read(DLM)) == (0x01, 0x02)

    port.write(LCR, 0x03)

    assert (port.read(RBR), port.read(IER)) == (0, 0)
    assert port.sent == b""


def test_characters_are_read_in_the_order_they_came(port):
    assert port.uart.receive(b"abc") == 3

    assert drain(port) == b"abc"
    assert port.read(LSR) == 0x60


def test_what_the_fifo_cannot_hold_waits(port):
    port.write(FCR, 0x01)
    text = bytes(range(256))

    assert port.uart.receive(text) == 256

    assert len(port.uart.save().fifo) == 16
    assert drain(port) == text


def test_the_backlog_is_bounded(port):
    assert port.uart.receive(bytes(BACKLOG_SIZE - 1)) == BACKLOG_SIZE - 1

    assert port.uart.receive(b"abc") == 2
    assert port.uart.receive(b"abc") == 0


@pytest.mark.parametrize(("fcr", "trigger"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_the_trigger_level_tells_received_from_timed_out(port, fcr, trigger):
    port.write(FCR, fcr)
    port.write(IER, ERBFI)
    for received in range(1, 17):
        port.uart.receive(b"x")

        assert port.read(IIR) == FIFOS_ON | (RECEIVED if received >= trigger else TIMEOUT)


def test_switching_the_fifos_empties_them(port):
    port.write(FCR, 0x01)
    port.uart.receive(b"abc")

    port.write(FCR, 0x00)

    assert drain(port) == b""


def test_resetting_the_receiver_keeps_what_has_not_arrived_yet(port):
    port.write(FCR, 0x01)
    port.uart.receive(bytes(range(20)))

    port.write(FCR, 0x07)

    assert drain(port) == bytes(range(16, 20))


def test_the_other_bits_of_fcr_need_the_enable_bit(port):
    port.write(FCR, 0xC0)
    port.write(IER, ERBFI)
    port.uart.receive(b"x")

    assert port.read(IIR) == RECEIVED


def test_interrupts_are_identified_in_the_order_of_their_priority(port):
    port.write(MCR, LOOP)
    port.write(IER, ERBFI | ETBEI | ELSI | EDSSI)
    port.write(THR, 1)
    port.write(THR, 2)
    port.write(MCR, LOOP | 0x01)

    assert port.read(IIR) == LINE
    assert port.read(LSR) == 0x63
    assert port.read(IIR) == RECEIVED
    assert port.read(RBR) == 2
    assert port.read(IIR) == TRANSMITTER
    assert port.read(IIR) == MODEM
    assert port.read(MSR) & 0x0F
    assert port.read(IIR) == NONE


def test_reading_iir_clears_only_the_source_it_names(port):
    port.write(IER, ERBFI | ETBEI)
    port.uart.receive(b"x")

    assert port.read(IIR) == RECEIVED
    assert port.read(IIR) == RECEIVED
    port.read(RBR)
    assert port.read(IIR) == TRANSMITTER
    assert port.read(IIR) == NONE


def test_the_interrupt_line_follows_its_source(port):
    port.write(MCR, OUT2)
    port.write(IER, ERBFI)
    assert port.irq[-1] is False

    port.uart.receive(b"x")
    assert port.irq[-1] is True

    port.read(RBR)
    assert port.irq[-1] is False


def test_without_out2_no_interrupt_leaves_the_card(port):
    port.write(IER, ERBFI)
    port.uart.receive(b"x")
    assert True not in port.irq

    port.write(MCR, OUT2)
    assert port.irq[-1] is True

    port.write(MCR, OUT2 | LOOP)
    assert port.irq[-1] is False


def test_each_character_sent_interrupts_again(port):
    port.write(MCR, OUT2)
    port.write(IER, ETBEI)
    assert port.read(IIR) == TRANSMITTER
    assert port.irq[-1] is False

    port.write(THR, 0x41)

    assert port.irq[-1] is True
    assert port.read(IIR) == TRANSMITTER


def test_loopback_connects_the_modem_lines_crosswise(port):
    # Datasheet, MCR bit 4: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
    for mcr, msr in ((0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80)):
        port.write(MCR, LOOP | mcr)

        assert port.read(MSR) & 0xF0 == msr


def test_deltas_tell_what_changed_since_msr_was_read(port):
    port.write(MCR, LOOP)
    port.read(MSR)

    port.write(MCR, LOOP | 0x07)
    assert port.read(MSR) == 0x73
    assert port.read(MSR) == 0x70

    # The ring indicator has a trailing-edge detector.
    port.write(MCR, LOOP | 0x03)
    assert port.read(MSR) == 0x34


def test_in_loopback_nothing_leaves_or_enters(port):
    port.write(MCR, LOOP)
    port.uart.receive(b"from outside")

    port.write(THR, 0x55)

    assert port.sent == b""
    assert drain(port) == b"\x55"
    port.write(MCR, 0)
    assert drain(port) == b"from outside"


def test_a_full_fifo_overruns_in_loopback_and_keeps_what_it_has(port):
    port.write(FCR, 0x01)
    port.write(MCR, LOOP)
    for character in range(17):
        port.write(THR, character)

    assert port.read(LSR) & 0x02
    assert not port.read(LSR) & 0x02
    assert drain(port) == bytes(range(16))


def test_a_full_buffer_register_overruns_in_loopback_and_keeps_the_last(port):
    port.write(MCR, LOOP)
    port.write(THR, 1)
    port.write(THR, 2)

    assert port.read(LSR) & 0x02
    assert drain(port) == b"\x02"


def test_status_registers_ignore_writes_and_scratch_keeps_them(port):
    port.write(LSR, 0)
    port.write(MSR, 0)
    port.write(SCR, 0xA5)

    assert (port.read(LSR), port.read(SCR)) == (0x60, 0xA5)


def test_linux_finds_a_16550a(port):
    # autoconfig() of drivers/tty/serial/8250/8250_port.c, in its order.
    port.write(IER, 0x00)
    assert port.read(IER) == 0x00
    port.write(IER, 0x0F)
    assert port.read(IER) == 0x0F
    port.write(IER, 0x00)

    port.write(MCR, 0x1A)
    assert port.read(MSR) & 0xF0 == 0x90
    port.write(MCR, 0x00)

    port.write(LCR, 0xBF)
    port.write(FCR, 0x00)
    port.write(LCR, 0x00)
    port.write(FCR, 0x01)
    port.write(LCR, 0xBF)
    assert port.read(IIR) >> 6 == 3

    # autoconfig_16550a(): neither an EFR, nor 64-byte FIFOs, nor the UUE bit of an XScale.
    port.write(LCR, 0x80)
    assert port.read(IIR) != 0
    port.write(LCR, 0x00)
    port.write(FCR, 0x21)
    assert port.read(IIR) >> 5 == 6
    port.write(IER, 0x40)
    assert port.read(IER) & 0x40 == 0


def test_linux_finds_no_transmitter_bug(port):
    # serial8250_do_startup(): the THRE test, then the TXEN test.
    port.write(MCR, OUT2)
    port.write(FCR, 0x01)
    port.write(IER, ETBEI)
    first = port.read(IIR)
    port.write(IER, 0)
    port.write(IER, ETBEI)
    second = port.read(IIR)
    port.write(IER, 0)
    assert not first & NONE
    assert not second & NONE

    port.write(IER, ETBEI)
    assert port.read(LSR) & 0x40
    assert not port.read(IIR) & NONE


def test_a_restored_port_goes_on_where_it_was(port, through_bytes):
    port.write(FCR, 0x81)
    port.write(MCR, OUT2 | 0x03)
    port.write(IER, ERBFI | ETBEI)
    port.uart.receive(bytes(range(40)))
    port.read(RBR)
    irq, sent = [], bytearray()
    other = Uart(irq.append, sent.extend)

    other.restore(through_bytes(port.uart.save()))

    assert irq == []
    other.drive()
    assert irq == [True]
    assert other.read(IIR, 1) == port.read(IIR)
    assert [other.read(RBR, 1) for _ in range(39)] == list(range(1, 40))
    assert drain(port) == bytes(range(1, 40))
    assert other.save() == port.uart.save()


def test_no_guest_can_upset_it(attack):
    def make(_clock):
        uart = Uart(lambda _: None, lambda _: None)
        uart.receive(bytes(range(100)))
        return uart

    attack(make, 8)
