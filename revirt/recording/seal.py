"""The seal of a recording, as it is read: keys, certificates and heads are checked, leaves are handed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from revirt.errors import CorruptError, KeyFileError, SealError
from revirt.log.frame import list_directory, read_file
from revirt.recording import layout
from revirt.recording.manifest import Manifest
from revirt.seal import keys, leaves
from revirt.seal.dsse import ENVELOPE_LIMIT
from revirt.seal.epochs import Batch, verify_certificates
from revirt.seal.heads import End, Evicted, Head, SignedEnd, SignedHead, open_end, open_head
from revirt.seal.keys import PublicKey
from revirt.seal.leaves import LeafFile
from revirt.seal.merkle import HistoryTree

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seal:
    """A seal whose signatures hold; made by `open`.

    ``heads`` are the last ones of all epochs, none missing, from the oldest that is kept on, ``first`` is that of epoch
    0; ``certificates`` as `revirt.seal.epochs.verify_certificates` takes them, ``batches`` as it returns them.
    ``start`` is the segment that the recording begins with.
    """

    directory: Path
    key: PublicKey
    certificates: tuple[bytes, ...]
    batches: tuple[Batch, ...]
    heads: tuple[SignedHead, ...]
    first: SignedHead
    end: End | None
    start: int

    @classmethod
    def open(cls, path: Path, contents: Manifest, key: PublicKey | None = None) -> Seal:
        """Return the seal of the recording in *path*, whose manifest is *contents*.

        *key* is the user's; without it the one that stands in the recording is believed.  Raises SealError if there is
        no seal, CorruptError if something in it does not hold.
        """
        directory = path / layout.SEAL
        if not is_sealed(path):
            raise SealError(f"{path} is not sealed", hint="'revirt record --sign KEY' seals what it records")
        signer = _own_key(directory) if key is None else key
        certificates = _certificates(directory, _numbers(directory)["batch"])
        try:
            batches = verify_certificates(certificates, signer, contents.uuid)
        except SealError as error:
            raise CorruptError(directory, str(error)) from error
        # Before the heads, which a recorder may still be writing: behind an end none follows.
        has_end = (directory / layout.SEAL_END).exists()
        end = _open(directory / layout.SEAL_END, open_end, batches) if has_end else None
        heads = _heads(directory, _numbers(directory)["head"], batches, end)
        first = _head(directory, 0, batches)
        if end is not None:
            _check_end(directory / layout.SEAL_END, end, heads[-1])
        # A recorder may have died with the receipt written and nothing evicted yet.
        evicted = heads[-1].head.evicted
        start = evicted.segment if evicted is not None else 0
        if end is None:
            start = min(start, contents.start.segment)
        said = end.end if end is not None else None
        return cls(directory, signer, certificates, batches, heads, first, said, start)

    @property
    def head(self) -> Head:
        """The newest head."""
        return self.heads[-1].head

    @property
    def evicted(self) -> Evicted:
        """Where what is left of the recording begins."""
        return self.head.evicted or Evicted(0, 0, 0, 0, 0, 0, 0)

    def check_own_key(self) -> None:
        """Raise CorruptError unless the key that stands in the recording is the one that sealed it."""
        path = self.directory / layout.SEAL_KEY
        if _own_key(self.directory) != self.key:
            raise CorruptError(path, "is another key than the one that sealed")
        if read_file(path, ENVELOPE_LIMIT) != self.key.to_pem():
            raise CorruptError(path, "is the key that sealed, but not as it was written")

    def leaf_files(self) -> Iterator[LeafFile]:
        """Yield the files of leaves that are kept, in order; raises CorruptError, also if one is missing."""
        numbers = _numbers(self.directory)["leaves"]
        for segment in _from(numbers, self.start, self.leaves_path):
            yield self.read_leaves(segment)

    def read_leaves(self, segment: int) -> LeafFile:
        """Return the leaves of *segment*; raises CorruptError."""
        return leaves.read(self.leaves_path(segment), segment)

    def tree(self) -> HistoryTree:
        """Return the history tree of all leaves that are kept, compared with every head.

        It may have leaves for which no head was signed any more.  Raises CorruptError.
        """
        tree: HistoryTree | None = None
        for file in self.leaf_files():
            if tree is None:
                tree = HistoryTree.resume(file.first, file.subtrees)
            is_behind = file.first == tree.size and tuple(tree.subtrees(file.first)) == file.subtrees
            if not is_behind or (file.segment == self.evicted.segment and file.first != self.evicted.leaf):
                problem = "does not begin where the leaves before it end"
                raise CorruptError(self.leaves_path(file.segment), problem, offset=0)
            for leaf in file.leaves:
                tree.append(leaf.hash)
        return self._compared(tree or HistoryTree())

    def _compared(self, tree: HistoryTree) -> HistoryTree:
        before = 0
        for signed in self.heads:
            path, head = self.directory / layout.head_name(signed.epoch), signed.head
            if head.leaves > tree.size:
                problem = f"lacks leaves: there are {tree.size}, {path.name} was signed over {head.leaves}"
                raise CorruptError(self.directory, problem)
            if head.leaves < before:
                raise CorruptError(path, f"is about {head.leaves} leaves, the one before it about {before}")
            # Of what was evicted, the oldest head only tells that it is over.
            if head.leaves >= tree.first and tree.root(head.leaves) != head.root:
                problem = f"leaves from number {before} to {head.leaves} are not what it was signed over"
                raise CorruptError(path, problem)
            before = head.leaves
        return tree

    def leaves_path(self, segment: int) -> Path:
        """Return the file with the leaves of *segment*."""
        return self.directory / leaves.file_name(segment)


def is_sealed(path: Path) -> bool:
    """Return whether the recording in *path* has a seal."""
    return (path / layout.SEAL).is_dir()


def _own_key(directory: Path) -> PublicKey:
    path = directory / layout.SEAL_KEY
    try:
        return keys.load_public(path)
    except KeyFileError as error:
        raise CorruptError(path, error.problem) from error


def _numbers(directory: Path) -> dict[str, list[int]]:
    """Return which numbers there are of each kind of file, ascending."""
    numbers: dict[str, list[int]] = {"batch": [], "head": [], "leaves": []}
    for path in list_directory(directory):
        found = layout.seal_number(path.name)
        if found is not None:
            numbers[found[0]].append(found[1])
    return {kind: sorted(found) for kind, found in numbers.items()}


def _from(numbers: list[int], first: int, path_of: Callable[[int], Path]) -> list[int]:
    """Return those of *numbers* from *first* on; raises CorruptError if one between them is missing."""
    kept = [number for number in numbers if number >= first]
    missing = next((number for number, found in enumerate(kept, first) if number != found), None)
    if missing is not None:
        raise CorruptError(path_of(missing), "missing")
    return kept


def _heads(
    directory: Path, numbers: list[int], batches: tuple[Batch, ...], end: SignedEnd | None
) -> tuple[SignedHead, ...]:
    """Return the last heads of all epochs from the oldest on that must be kept; raises CorruptError."""
    if not numbers:
        raise CorruptError(directory, "has no head")
    last = _head(directory, numbers[-1], batches)
    # Without the last head, the receipt of one before it would ask for heads that were evicted since.
    if end is not None and end.epoch > last.epoch and last.head.evicted:
        raise CorruptError(directory / layout.head_name(end.epoch), "missing")
    first = last.head.evicted.epoch if last.head.evicted else 0
    if first > numbers[-1]:
        raise CorruptError(directory / layout.head_name(first), "missing")
    kept = _from(numbers, first, lambda number: directory / layout.head_name(number))
    heads = (*(_head(directory, number, batches) for number in kept[:-1]), last)
    for signed in heads[:-1]:
        if not signed.head.final:
            raise CorruptError(
                directory / layout.head_name(signed.epoch), "is not the last head of its epoch"
            )
    if first and last.head.evicted and heads[0].head.leaves > last.head.evicted.leaf:
        path = directory / layout.head_name(first - 1)
        raise CorruptError(path, f"missing: that of epoch {first} is about something that is kept")
    return heads


def _check_end(path: Path, end: SignedEnd, last: SignedHead) -> None:
    said, head = end.end, last.head
    if (end.epoch, said.leaves, said.root, True) != (last.epoch, head.leaves, head.root, head.final):
        raise CorruptError(path, "is not about the last head")


def _head(directory: Path, number: int, batches: tuple[Batch, ...]) -> SignedHead:
    path = directory / layout.head_name(number)
    signed = _open(path, open_head, batches)
    if signed.epoch != number:
        raise CorruptError(path, f"is the head of epoch {signed.epoch}")
    return signed


def _certificates(directory: Path, numbers: list[int]) -> tuple[bytes, ...]:
    def path_of(number: int) -> Path:
        return directory / layout.batch_name(number)

    return tuple(read_file(path_of(number), ENVELOPE_LIMIT) for number in _from(numbers, 0, path_of))


def _open(path: Path, opener: Callable[[bytes, tuple[Batch, ...]], T], batches: tuple[Batch, ...]) -> T:
    """Return what *opener* makes of the file *path*; raises CorruptError."""
    try:
        return opener(read_file(path, ENVELOPE_LIMIT), batches)
    except SealError as error:
        raise CorruptError(path, str(error)) from error
