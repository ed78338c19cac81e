from __future__ import annotations

import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from revirt.errors import BuildError
from revirt.image.modules import in_loading_order


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], bytes]:
    """Return a function that returns a file with that text, NUL-terminated, in a section called .modinfo."""

    def assemble(text: str) -> bytes:
        output = tmp_path / "module.ko"
        source = f'.section .modinfo,"a"\n.asciz "license=none"\n.asciz "{text}"\n'
        command = ["gcc", "-c", "-x", "assembler", "-o", str(output), "-"]
        subprocess.run(command, input=source.encode(), check=True)
        return output.read_bytes()

    return assemble


def test_modules_stand_behind_what_they_depend_on(module: Callable[[str], bytes]) -> None:
    files = {
        "lib/modules/6/kernel/net/card.ko": module("depends=ring,fail-over"),
        "lib/modules/6/kernel/net/fail-over.ko": module("depends=bus"),
        "lib/modules/6/kernel/bus/bus.ko": module("depends="),
        "lib/modules/6/kernel/bus/ring.ko": module("depends="),
        "lib/modules/6/kernel/other.ko": b"of no interest",
    }

    order = in_loading_order(files.items(), ("card", "bus"))

    assert [each.name for each in order] == ["ring", "bus", "fail_over", "card"]
    assert order[-1].data == files["lib/modules/6/kernel/net/card.ko"]


def test_compressed_modules_are_unpacked(module: Callable[[str], bytes]) -> None:
    plain = module("depends=")

    (only,) = in_loading_order([("kernel/card.ko.xz", lzma.compress(plain))], ["card"])

    assert only.data == plain


def test_module_that_is_nowhere_is_named(module: Callable[[str], bytes]) -> None:
    with pytest.raises(BuildError, match="no module bus"):
        in_loading_order([("card.ko", module("depends=bus"))], ["card"])


def test_modules_in_a_circle_are_refused(module: Callable[[str], bytes]) -> None:
    files = [("a.ko", module("depends=b")), ("b.ko", module("depends=a"))]

    with pytest.raises(BuildError, match="depend on one another: a b a"):
        in_loading_order(files, ["a"])


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"no module at all"])
def test_file_that_is_no_elf_is_refused(data: bytes) -> None:
    with pytest.raises(BuildError, match="module a is not a valid ELF file"):
        in_loading_order([("a.ko", data)], ["a"])


def test_file_that_says_nothing_of_dependencies_is_refused(module: Callable[[str], bytes]) -> None:
    with pytest.raises(BuildError, match="does not say what it depends on"):
        in_loading_order([("a.ko", module("author=nobody"))], ["a"])
