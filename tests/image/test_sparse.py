"""Files with holes: the same when they are read, and small."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from revirt.image.sparse import BLOCK_SIZE, SparseWriter, allocated_size, clone, copy_sparse, pieces

RUNS = st.lists(
    st.tuples(st.sampled_from([0, 1, 7]), st.sampled_from([1, 511, 4096, 4097, 70_000, 1 << 20])), max_size=6
)


def contents_of(runs: list[tuple[int, int]]) -> bytes:
    return b"".join(bytes((value,)) * size for value, size in runs)


@given(RUNS)
def test_a_copy_reads_the_same(runs: list[tuple[int, int]]) -> None:
    contents = contents_of(runs)
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(contents)
        source.flush()

        copy_sparse(source.fileno(), target.fileno(), len(contents))

        assert target.read() == contents


@given(RUNS, st.integers(1, 300_000))
def test_what_is_written_in_pieces_reads_the_same(runs: list[tuple[int, int]], blocks: int) -> None:
    contents, step = contents_of(runs), blocks % 300 * BLOCK_SIZE or BLOCK_SIZE
    with tempfile.TemporaryFile() as target:
        writer = SparseWriter(target.fileno())
        for start in range(0, len(contents), step):
            writer.write(contents[start : start + step])
        writer.finish()

        assert target.read() == contents
        assert writer.size == len(contents)


def test_zeros_take_no_space(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        writer = SparseWriter(file.fileno())
        writer.write(bytes(3 << 20))
        writer.write(b"x" * BLOCK_SIZE)
        writer.skip(8 << 20)
        writer.finish()

    found = (tmp_path / "file").stat()
    assert found.st_size == (11 << 20) + BLOCK_SIZE
    assert allocated_size(found) <= 1 << 16


def test_holes_are_told_and_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb+") as file:
        file.truncate(1 << 30)
        os.pwrite(file.fileno(), b"x" * BLOCK_SIZE, 1 << 20)

        found = list(pieces(file.fileno(), 1 << 30))

    assert sum(piece if isinstance(piece, int) else len(piece) for piece in found) == 1 << 30
    assert sum(len(piece) for piece in found if isinstance(piece, bytes)) <= 1 << 16


def test_a_file_that_is_cut_short_ends_with_a_hole(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb+") as file:
        file.write(b"x" * 5000)
        file.flush()

        found = b"".join(
            bytes(each) if isinstance(each, int) else each for each in pieces(file.fileno(), 9000)
        )

    assert found == b"x" * 5000 + bytes(4000)


def test_a_clone_is_the_same_or_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 10_000)

    with open(tmp_path / "source", "rb") as source, open(tmp_path / "target", "wb+") as target:
        can = clone(source.fileno(), target.fileno())

        assert target.read() == (b"x" * 10_000 if can else b"")
