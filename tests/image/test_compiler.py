from __future__ import annotations

import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from revirt.errors import BuildError
from revirt.image import compiler
from revirt.image.compiler import compile_daemon

SOURCE = """\
#include <stdio.h>

char *gets(char *);

int main(void)
{
    char line[64];

    gets(line);
    return printf(line);
}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a C program as the textbooks have it."""
    path = tmp_path / "daemon.c"
    path.write_text(SOURCE)
    return path


def test_daemon_is_static_and_has_no_protection(tmp_path: Path, source: Path) -> None:
    program = ELFFile(io.BytesIO(compile_daemon(source, tmp_path)))

    segments = {segment["p_type"]: segment["p_flags"] for segment in program.iter_segments()}
    assert (program["e_machine"], program["e_type"]) == ("EM_X86_64", "ET_EXEC")
    assert "PT_INTERP" not in segments
    assert "PT_GNU_RELRO" not in segments
    assert segments["PT_GNU_STACK"] & 1
    assert program.get_section_by_name(".symtab").get_symbol_by_name("main")


def test_same_compiler_makes_the_same_bytes(tmp_path: Path, source: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copy = elsewhere / source.name
    copy.write_bytes(source.read_bytes())

    assert compile_daemon(source, tmp_path) == compile_daemon(copy, elsewhere)


def test_program_that_cannot_be_compiled_says_why(tmp_path: Path, source: Path) -> None:
    source.write_text("int main(void) { return nonsense; }\n")

    with pytest.raises(BuildError, match="failed: ") as caught:
        compile_daemon(source, tmp_path)

    assert "libc6-dev" in caught.value.hint


def test_host_without_a_compiler_says_what_to_install(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "find_tool", lambda name: None)

    with pytest.raises(BuildError, match="no C compiler") as caught:
        compile_daemon(source, tmp_path)

    assert "gcc" in caught.value.hint
