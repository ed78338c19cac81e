"""The keyboard controller; expectations are from IBM's PS/2 technical reference and Linux's i8042 driver."""

from types import SimpleNamespace

import pytest

from revirt.machine.i8042 import I8042, PRESSES

DATA, COMMAND = 0, 1
OBF, SYSTEM, A2, UNLOCKED, AUX_OBF, TIMEOUT = 0x01, 0x04, 0x08, 0x10, 0x20, 0x40
KEYBOARD_IRQ, AUX_IRQ, KEYBOARD_OFF, AUX_OFF, TRANSLATE = 0x01, 0x02, 0x10, 0x20, 0x40
ACK, RESEND = 0xFA, 0xFE


@pytest.fixture
def pc():
    irq1, irq12, resets = [], [], []
    controller = I8042(irq1.append, irq12.append, lambda: resets.append("reset"))
    return SimpleNamespace(controller=controller, irq1=irq1, irq12=irq12, resets=resets)


def status(pc):
    return pc.controller.read(COMMAND, 1)


def command(pc, value, *data):
    pc.controller.write(COMMAND, 1, value)
    for byte in data:
        pc.controller.write(DATA, 1, byte)


def answers(pc):
    """Everything that waits to be read from port 0x60."""
    bytes_read = []
    while status(pc) & OBF:
        bytes_read.append(pc.controller.read(DATA, 1))
    return bytes_read


def ask(pc, value, *data):
    command(pc, value, *data)
    return answers(pc)


def tell(pc, *data):
    """What the keyboard answers to bytes sent to it."""
    for byte in data:
        pc.controller.write(DATA, 1, byte)
    return answers(pc)


def set_mode(pc, mode):
    command(pc, 0x60, mode)


def test_firmware_left_the_keyboard_enabled_and_translated(pc):
    assert ask(pc, 0x20) == [0x65]
    assert status(pc) == SYSTEM | A2 | UNLOCKED


def test_status_tells_whether_the_last_write_was_a_command(pc):
    command(pc, 0x60, 0x45)
    assert not status(pc) & A2

    command(pc, 0xAE)
    assert status(pc) & A2


def test_the_mode_is_what_was_written(pc):
    set_mode(pc, 0x47)

    assert ask(pc, 0x20) == [0x47]


@pytest.mark.parametrize(("test", "passed"), [(0xAA, 0x55), (0xAB, 0x00), (0xA9, 0x00)])
def test_every_test_passes(pc, test, passed):
    assert ask(pc, test) == [passed]


def test_the_self_test_sets_the_system_flag(pc):
    set_mode(pc, 0)
    assert not status(pc) & SYSTEM

    command(pc, 0xAA)

    assert status(pc) & SYSTEM


@pytest.mark.parametrize(("off", "on", "bit"), [(0xAD, 0xAE, KEYBOARD_OFF), (0xA7, 0xA8, AUX_OFF)])
def test_ports_are_switched_in_the_mode(pc, off, on, bit):
    command(pc, off)
    assert ask(pc, 0x20)[0] & bit

    command(pc, on)
    assert not ask(pc, 0x20)[0] & bit


def test_linux_finds_the_auxiliary_port(pc):
    # i8042_check_aux(): the loop command must come back marked as auxiliary data.
    command(pc, 0xD3, 0x5A)

    assert status(pc) & (OBF | AUX_OBF) == OBF | AUX_OBF
    assert answers(pc) == [0x5A]


def test_there_is_no_mouse(pc):
    command(pc, 0xD4, 0xF2)

    assert status(pc) & (OBF | AUX_OBF | TIMEOUT) == OBF | AUX_OBF | TIMEOUT
    assert answers(pc) == [0xFE]


def test_auxiliary_data_interrupts_on_its_own_line(pc):
    set_mode(pc, KEYBOARD_IRQ | AUX_IRQ)

    command(pc, 0xD3, 0xA5)

    assert pc.irq12[-1] is True
    assert pc.irq1[-1] is False
    answers(pc)
    assert pc.irq12[-1] is False


@pytest.mark.parametrize("value", [0xFE, 0xF0])
def test_pulsing_the_lowest_output_resets_the_cpu(pc, value):
    command(pc, value)

    assert pc.resets == ["reset"]


def test_pulsing_no_output_does_nothing(pc):
    command(pc, 0xFF)

    assert pc.resets == []


def test_the_output_port_switches_a20_and_resets(pc):
    assert ask(pc, 0xD0) == [0x03]
    command(pc, 0xD1, 0xDD)
    assert ask(pc, 0xD0) == [0xDD]
    assert pc.resets == []

    command(pc, 0xD1, 0xDE)

    assert pc.resets == ["reset"]


def test_a_new_command_ends_the_wait_for_data(pc):
    command(pc, 0x60)

    assert ask(pc, 0xAA) == [0x55]
    assert tell(pc, 0xEE) == [0xEE]


def test_unknown_commands_are_ignored(pc):
    assert ask(pc, 0x00) == []
    assert ask(pc, 0xC5) == []


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ([0xFF], [ACK, 0xAA]),
        ([0xF2], [ACK, 0xAB, 0x83]),
        ([0xED, 0x07], [ACK, ACK]),
        ([0xF3, 0x20], [ACK, ACK]),
        ([0xF4], [ACK]),
        ([0xF5], [ACK]),
        ([0xF6], [ACK]),
        ([0xF8], [ACK]),
        ([0xEE], [0xEE]),
        ([0xF0, 0x01, 0xF0, 0x00], [ACK, ACK, ACK, ACK, 0x01]),
        ([0xF0, 0x00], [ACK, ACK, 0x02]),
        ([0xF0, 0x07], [ACK, RESEND]),
        ([0xED, 0xF4], [ACK, ACK]),
        ([0xF2, 0xFE], [ACK, 0xAB, 0x83, 0x83]),
        ([0x00], [RESEND]),
    ],
)
def test_the_keyboard_answers(pc, sent, answered):
    set_mode(pc, KEYBOARD_IRQ)

    assert tell(pc, *sent) == answered


def test_answers_are_translated_too(pc):
    # A keyboard on a translating controller is known by AB 41 instead of AB 83.
    assert tell(pc, 0xF2) == [ACK, 0xAB, 0x41]


def test_every_byte_of_an_answer_is_an_edge_on_irq_1(pc):
    pc.controller.write(DATA, 1, 0xF2)
    levels = []
    while status(pc) & OBF:
        pc.irq1.clear()
        pc.controller.read(DATA, 1)
        levels.append((pc.irq1[0], pc.irq1[-1]))

    assert levels == [(False, True), (False, True), (False, False)]


def test_without_its_enable_bit_irq_1_stays_low(pc):
    set_mode(pc, 0)

    tell(pc, 0xEE)

    assert True not in pc.irq1


# Set 2 codes as the keyboard sends them, and set 1 codes as an XT keyboard would have.
@pytest.mark.parametrize(
    ("pressed", "read"),
    [
        ("76", "01"),  # Esc
        ("1c", "1e"),  # A
        ("5a", "1c"),  # Enter
        ("29", "39"),  # space
        ("83", "41"),  # F7
        ("84", "54"),  # SysRq
        ("f0 1c", "9e"),  # A, let go
        ("f0 83", "c1"),
        ("e0 75", "e0 48"),  # up
        ("e0 f0 75", "e0 c8"),
        ("e1 14 77 e1 f0 14 f0 77", "e1 1d 45 e1 9d c5"),  # Pause
    ],
)
def test_scan_codes_are_translated_to_set_1(pc, pressed, read):
    codes = bytes.fromhex(pressed)

    assert pc.controller.press(codes) == len(codes)

    assert bytes(answers(pc)) == bytes.fromhex(read)


def test_scan_codes_pass_untranslated_if_so_set(pc):
    set_mode(pc, KEYBOARD_IRQ)

    pc.controller.press(b"\xf0\x1c")

    assert answers(pc) == [0xF0, 0x1C]


def test_keys_wait_while_the_keyboard_is_off_and_answers_go_first(pc):
    command(pc, 0xAD)
    pc.controller.press(b"\x1c")
    assert not status(pc) & OBF
    assert ask(pc, 0x20)[0] & KEYBOARD_OFF

    # Sending to the keyboard turns it on.
    assert tell(pc, 0xEE) == [0xEE, 0x1E]


def test_a_keyboard_that_does_not_scan_takes_no_keys(pc):
    tell(pc, 0xF5)
    assert pc.controller.press(b"\x1c") == 0

    tell(pc, 0xF4)
    assert pc.controller.press(b"\x1c") == 1


def test_keys_that_nobody_reads_are_bounded(pc):
    command(pc, 0xAD)

    assert pc.controller.press(bytes(PRESSES + 5)) == PRESSES
    assert pc.controller.press(b"\x1c") == 0


def test_replies_that_nobody_reads_are_bounded(pc):
    for _ in range(1000):
        command(pc, 0x20)

    assert len(answers(pc)) == 17


def test_a_restored_controller_goes_on_where_it_was(pc, through_bytes):
    pc.controller.write(DATA, 1, 0xF2)
    pc.controller.press(b"\xe0\xf0\x75")
    pc.controller.write(DATA, 1, 0xED)
    command(pc, 0xD3, 0x77)
    command(pc, 0x60)
    irq1, irq12 = [], []
    other = I8042(irq1.append, irq12.append, lambda: None)

    other.restore(through_bytes(pc.controller.save()))

    assert irq1 == irq12 == []
    other.drive()
    assert (irq1, irq12) == ([True], [False])
    twin = SimpleNamespace(controller=other)
    set_mode(pc, 0x47)
    other.write(DATA, 1, 0x47)
    assert answers(twin) == answers(pc)
    assert other.save().mode == 0x47


def test_no_guest_can_upset_it(attack):
    def make(_clock):
        controller = I8042(lambda _: None, lambda _: None, lambda: None)
        controller.press(bytes.fromhex("1c f0 1c e0 75 e0 f0 75"))
        return controller

    attack(make, 2)
