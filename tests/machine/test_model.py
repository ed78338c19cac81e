"""The machine's model: what a manifest says of the machine, and what it leaves to the model's number.

`model-1.json` and `model-2.json` beside this file describe the models as they are, the second with all that can be
plugged.  A test that fails against one found a change that recordings of that model would not survive: raise the model,
and keep the old ones (docs/log-format.md, "Versions").
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import msgpack
import pytest
from nobody import Nobody

from revirt.log.events import LINE_LIMIT
from revirt.machine import pit, uart
from revirt.machine.config import MachineConfig
from revirt.machine.cpuid import check_table, cpuid_leaves, table_from_plain, table_to_plain
from revirt.machine.devices import Devices, Disk, Framebuffer, Nic
from revirt.machine.machine import Ended, Machine
from revirt.machine.model import MODEL
from revirt.machine.power import RESET
from revirt.machine.state import NewerVersionError

CONFIG = MachineConfig(memory=1 << 20, clock="virtual", epoch=0, ns_per_branch=10)
HERE = Path(__file__).parent
PLUGGED = replace(
    CONFIG,
    memory=4 << 20,
    devices=Devices(
        nics=(Nic("52:54:00:12:34:56"),),
        disks=(Disk(1 << 20, "0" * 64, 256), Disk(1 << 20, "1" * 64, 0)),
        framebuffer=Framebuffer(320, 200),
        vga=True,
        rng=True,
        console=True,
        firmware=True,
    ),
)
PINNED = {1: replace(CONFIG, model=1), 2: PLUGGED}


class Zeros:
    """The image of a disk without anything on it."""

    def read(self, _offset: int, size: int) -> bytes:
        return bytes(size)


@pytest.fixture
def machine() -> Machine:
    return Machine(CONFIG, Nobody())


def changed_state(machine: Machine, change: Any) -> bytes:
    """Return the state of *machine* after *change* has done to it, unpacked, what it likes."""
    plain = msgpack.unpackb(machine.save())
    change(plain)
    packed: bytes = msgpack.packb(plain)
    return packed


# -- the model is what it was -------------------------------------------------------------------------------------


def fields_of(cls: type) -> dict[str, str]:
    """Return the fields of a state class, in order, with their types, ranges and parts."""
    described = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        text = str(hint).replace("typing.", "").replace("revirt.machine.state.", "")
        described[name] = json.dumps(fields_of(hint)) if hasattr(hint, "VERSION") else text
    return described


def description(machine: Machine) -> dict[str, Any]:
    """Return what a guest, a saved state or a digest shows of *machine* and its devices."""
    states = machine.board.save()
    ports = machine.board.ports._whole
    return {
        "model": machine.config.model,
        "ports": {
            f"{port:#06x} by {size}": f"{device.name} {offset}"
            for size, owners in sorted(ports.items())
            for port, (device, offset) in sorted(owners.items())
        },
        "states": {name: fields_of(type(state)) for name, state in states.items()},
        "reset": {name: str(state) for name, state in states.items()},
        "cpu registers": list(machine.core.registers()),
        "cpu state bytes": len(machine.core.save()),
        "digest input bytes": len(machine.core.digest_input()),
        "cpuid": table_to_plain(machine.config.cpuid),
        "8254 Hz": pit.FREQUENCY,
        "refresh pulses": pit.REFRESH_PULSES,
        "uart backlog": uart.BACKLOG_SIZE,
        "output cut at": LINE_LIMIT,
    }


@pytest.mark.parametrize("model", PINNED)
def test_a_model_is_as_it_was_when_it_got_its_number(model: int) -> None:
    config = PINNED[model]
    machine = Machine(config, Nobody(), bases=[Zeros() for _ in config.devices.disks])

    assert description(machine) == json.loads((HERE / f"model-{model}.json").read_text())


# -- the manifest -------------------------------------------------------------------------------------------------


def test_a_configuration_comes_back_from_its_plain_form() -> None:
    plain = json.loads(json.dumps(CONFIG.to_plain()))

    assert MachineConfig.from_plain(plain) == CONFIG
    assert plain["model"] == MODEL
    assert plain["cpuid"]["0.0"] == "00000001 756e6547 6c65746e 49656e69"


def test_a_newer_model_is_named_whatever_else_its_machine_has() -> None:
    with pytest.raises(NewerVersionError) as caught:
        MachineConfig.from_plain({"model": MODEL + 1, "disks": ["sda"]})

    assert (caught.value.what, caught.value.found, caught.value.known) == ("machine model", MODEL + 1, MODEL)


@pytest.mark.parametrize("model", [0, -1, True, "1", None, 1.0])
def test_what_is_no_model_is_refused(model: object) -> None:
    with pytest.raises(ValueError, match="no version of machine model"):
        MachineConfig.from_plain({**CONFIG.to_plain(), "model": model})


# -- CPUID --------------------------------------------------------------------------------------------------------


def test_a_machine_answers_cpuid_from_its_configuration() -> None:
    brand = (0x61626364, 0, 0, 0)
    config = MachineConfig(
        memory=1 << 20, clock="virtual", epoch=0, ns_per_branch=10, cpuid={(0x8000_0002, 0): brand}
    )
    machine = Machine(config, Nobody())
    # mov eax, 0x80000002; cpuid; hlt
    machine.core.ram[0x7C00:0x7C09] = bytes.fromhex("66b8020000800fa2f4")
    machine.core.start(0, 0x7C00, {}, 0, 0, 0)

    machine.run()

    registers = machine.core.registers()
    assert [registers[name] for name in ("rax", "rbx", "rcx", "rdx")] == list(brand)


def test_what_follows_the_instruction_that_resets_a_machine_is_no_crash() -> None:
    """What was seen: SeaBIOS has an INT3 behind the reset that no PC comes back from, and no IDT any more."""
    machine = Machine(CONFIG, Nobody())
    # mov al, 6; mov dx, 0xcf9; out dx, al; int3
    machine.core.ram[0x7C00:0x7C09] = bytes.fromhex("b006ba f90c0000 ee cc")
    machine.core.start(1, 0x7C00, {}, 0, 0, 0)

    assert machine.run().ended == Ended(RESET)


def test_the_table_of_new_machines_is_one_that_the_model_can_have() -> None:
    check_table(cpuid_leaves())


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        # Intel SDM volume 2, CPUID: leaf 1, ECX bit 30 is RDRAND, EDX bit 9 the APIC; leaf 7, EBX bit 18 is RDSEED.
        ("1.0", "00030661 00000800 40002001 078bfbff", "leaf 0x1.0 offers ECX bits 0x40000000"),
        ("1.0", "00030661 00000800 00002001 00000200", "leaf 0x1.0 offers EDX bits 0x200"),
        ("7.0", "00000000 00040000 00000000 00000000", "has leaf 0x7.0"),
        ("80000008.0", "00003034 00000000 00000000 00000000", "leaf 0x80000008.0 offers EAX bits 0x14"),
        ("80000008.1", "00000000 00000000 00000000 00000000", "has leaf 0x80000008.1"),
    ],
)
def test_a_table_that_offers_more_than_the_model_has_is_refused_by_leaf(
    key: str, value: str, problem: str
) -> None:
    plain = CONFIG.to_plain()
    plain["cpuid"][key] = value

    with pytest.raises(ValueError, match=problem) as caught:
        MachineConfig.from_plain(plain)

    assert "which a machine of model 1 has not" in str(caught.value)


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        {"1": "00000000 00000000 00000000 00000000"},
        {"01.0": "00000000 00000000 00000000 00000000"},
        {"1.0": "0 0 0 0"},
        {"1.0": "00000000 00000000 00000000 0000000G"},
        {"1.0": [0, 0, 0, 0]},
        {"123456789.0": "00000000 00000000 00000000 00000000"},
    ],
)
def test_what_is_no_table_is_refused(plain: object) -> None:
    with pytest.raises(ValueError, match="cpuid"):
        table_from_plain(plain)


# -- saved states -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", ["cpu", "clock", "run", "pic", "pit", "rtc", "uart", "i8042", "pci", "power"]
)
def test_a_state_that_a_newer_revirt_saved_is_refused_by_the_name_of_the_part(
    machine: Machine, part: str
) -> None:
    state = changed_state(machine, lambda plain: plain["versions"].update({part: 2}))
    before = machine.save()

    with pytest.raises(NewerVersionError, match=f"{part} state version 2; the newest known is 1"):
        machine.restore(state)

    assert machine.save() == before


def test_every_part_of_a_saved_state_has_a_version(machine: Machine) -> None:
    plain = msgpack.unpackb(machine.save())

    assert set(plain["versions"]) == {"cpu", "clock", "run", *plain["devices"]}


@pytest.mark.parametrize(
    "versions", [None, {}, {"cpu": 1}, {"apic": 1}], ids=["none", "empty", "few", "others"]
)
def test_versions_of_other_parts_are_refused(machine: Machine, versions: object) -> None:
    state = changed_state(machine, lambda plain: plain.update(versions=versions))

    with pytest.raises(ValueError, match="not the states of this machine's parts"):
        machine.restore(state)
