"""Git's object files: loose objects, packs and bundles, as the texts that are in them.

The formats are those of git's own documentation (gitformat-pack, gitformat-bundle). An object that
is stored as a difference is put together from its base, and what is new in it is given: the bytes
that the difference brings, with what stands around them, for the base was given already. Objects
come one by one; nothing but a bounded number of bases is kept in memory.
"""

import hashlib
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

HEAD = 512
"""Bytes of a file's beginning by which it is known."""

MAX_OBJECT = 64 << 20
"""Bytes of an object that others are built on."""

MAX_BASES = 96 << 20
"""Bytes of objects that are kept, to build others on."""

AROUND = 16 << 10
"""Bytes around what a difference brings that are looked at with it: the widest rule's window."""

MAX_NAMED = 200_000
"""Objects of a pack in which bases are named by their hashes; each costs some memory."""

PIECE = 1 << 20

_COMMIT, _TREE, _BLOB, _TAG, _AT_OFFSET, _OF_OBJECT = 1, 2, 3, 4, 6, 7
_KINDS = (b"commit ", b"tree ", b"blob ", b"tag ")
_BUNDLE = b"# v"
_NO_NULS = bytes([0x0A, *range(1, 256)])

Pread = Callable[[int, int], bytes]
"""Bytes of the file from an offset on, fewer at its end."""

Take = Callable[[int], None]
"""Is told how many bytes were unpacked; raises where they become too many."""


class DamagedError(ValueError):
    """Not what git writes, or not all of it."""


def known(head: bytes) -> bool:
    """Whether a file that begins like this is a loose object, a pack or a bundle of git's."""
    if head.startswith(b"PACK\0\0\0") or (head.startswith(_BUNDLE) and b" git bundle\n" in head):
        return True
    if len(head) < 2 or head[0] & 0x0F != 8 or (head[0] << 8 | head[1]) % 31:
        return False
    try:
        return zlib.decompressobj().decompress(head[:HEAD], 64).startswith(_KINDS)
    except zlib.error:
        return False


def loose(pread: Pread) -> Iterator[bytes]:
    """What a loose object holds, in pieces, without its head. Raises DamagedError, zlib.error."""
    unpacker = zlib.decompressobj()
    data, at = pread(0, PIECE), 0
    piece = unpacker.decompress(data, HEAD)
    kind, head, piece = piece[:5], *piece.partition(b"\0")[::2]
    if len(head) == HEAD:
        raise DamagedError("no object's head")
    while True:
        if piece:
            yield piece.translate(_NO_NULS) if kind == b"tree " else piece
        if unpacker.eof:
            return
        if not unpacker.unconsumed_tail:
            at += len(data)
            data = pread(at, PIECE)
            if not data:
                raise DamagedError("ends too early")
            piece = unpacker.decompress(data, PIECE)
        else:
            piece = unpacker.decompress(unpacker.unconsumed_tail, PIECE)


def packed(pread: Pread, take: Take, alone: Callable[[bytes], bool]) -> Iterator[bytes]:
    """The texts in a pack or bundle: objects joined, or one where `alone` says so of its
    beginning. Raises DamagedError, zlib.error, and what `pread` and `take` raise."""
    start = 0
    if pread(0, len(_BUNDLE)) == _BUNDLE:
        start = pread(0, PIECE).find(b"\n\nPACK") + 2
        if start == 1:
            raise DamagedError("no pack in this bundle")
    batch: list[bytes] = []
    held = 0
    for text in _Pack(pread, start, take, alone).texts():
        if b"\0" in text or alone(text[:HEAD]):  # NULs among other texts would look like UTF-16
            yield text
            continue
        batch.append(text)
        held += len(text)
        if held >= PIECE:
            yield b"\n\n".join(batch)
            batch, held = [], 0
    yield b"\n\n".join(batch)


def _overlapping(pieces: Iterator[bytes]) -> Iterator[bytes]:
    kept = b""
    for piece in pieces:
        yield kept + piece
        kept = (kept + piece)[-4 * AROUND :]


class _Waiting(Exception):
    """A base that is named by its hash and not known yet."""


class _Pack:
    """A pack that begins at `start`; see gitformat-pack."""

    def __init__(
        self, pread: Pread, start: int, take: Take, alone: Callable[[bytes], bool]
    ) -> None:
        self._pread = pread
        self._start = start
        self._take = take
        self._alone = alone
        self._bases: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._kept = 0
        self._found: dict[int, int] = {}
        """Where the base is of an object whose base is named by its hash."""

    def texts(self) -> Iterator[bytes]:
        """What is new in each object, in the file's order but for those that wait for a base."""
        magic, version, count = struct.unpack(">4sII", self._exactly(self._start, 12))
        if magic != b"PACK" or version not in (2, 3):
            raise DamagedError("no pack of a known version")
        at = self._start + 12
        places: list[int] = []
        waiting: list[int] = []
        for _ in range(count):
            self._take(1)
            entry = self._entry(at)
            if entry.base is None and entry.size > MAX_OBJECT:
                end = [at]
                yield from _overlapping(self._streamed(entry.body, end))
                at = end[0]
                continue
            stored, end_of_it = self._unpack(entry.body, entry.size)
            try:
                yield from self._new(at, entry, stored)
                places.append(at)
            except _Waiting:
                waiting.append(at)
            at = end_of_it
        if waiting:
            yield from self._late(places, waiting)

    def _new(self, at: int, entry: "_Entry", stored: bytes) -> Iterator[bytes]:
        if entry.base is None:
            self._keep(at, entry.kind, stored)
            yield stored.translate(_NO_NULS) if entry.kind == _TREE else stored
            return
        kind, base = self._object(self._base(at, entry))
        whole, spans = _apply(base, stored)
        self._take(len(whole))
        self._keep(at, kind, whole)
        if self._alone(whole[:HEAD]):
            yield whole
            return
        for low, high in spans:
            yield whole[low:high].translate(_NO_NULS) if kind == _TREE else whole[low:high]

    def _late(self, places: list[int], waiting: list[int]) -> Iterator[bytes]:
        """The objects whose base was named by its hash: every object's own hash is needed."""
        if len(places) + len(waiting) > MAX_NAMED:
            raise DamagedError("too many objects whose bases are named by their hashes")
        self._names: dict[bytes, int] = {}
        for at in places:
            self._name(at)
        while waiting:
            left: list[int] = []
            for at in waiting:
                entry = self._entry(at)
                if isinstance(entry.base, bytes) and entry.base in self._names:
                    self._found[at] = self._names[entry.base]
                try:
                    yield from self._new(at, entry, self._unpack(entry.body, entry.size)[0])
                    self._name(at)
                except _Waiting:
                    left.append(at)
            if len(left) == len(waiting):
                raise DamagedError("a base is not in the pack")
            waiting = left

    def _name(self, at: int) -> None:
        kind, data = self._object(at)
        head = _KINDS[kind - 1] + b"%d\0" % len(data)
        self._names[hashlib.sha1(head + data, usedforsecurity=False).digest()] = at

    def _exactly(self, at: int, size: int) -> bytes:
        data = self._pread(at, size)
        if len(data) < size:
            raise DamagedError("ends too early")
        return data

    def _entry(self, at: int) -> "_Entry":
        data = self._pread(at, 64)
        try:
            byte, used = data[0], 1
            kind, size, shift = byte >> 4 & 7, byte & 15, 4
            while byte & 0x80:
                byte = data[used]
                size |= (byte & 0x7F) << shift
                used, shift = used + 1, shift + 7
            if kind == _AT_OFFSET:
                byte, back = data[used], data[used] & 0x7F
                used += 1
                while byte & 0x80:
                    byte = data[used]
                    back = (back + 1) << 7 | byte & 0x7F
                    used += 1
                if not self._start < at - back < at:
                    raise DamagedError("a base outside of the pack")
                return _Entry(kind, size, at + used, at - back)
        except IndexError:
            raise DamagedError("no object's head") from None
        if kind == _OF_OBJECT:
            return _Entry(kind, size, at + used + 20, data[used : used + 20])
        if kind not in (_COMMIT, _TREE, _BLOB, _TAG):
            raise DamagedError("an object of no known kind")
        return _Entry(kind, size, at + used, None)

    def _base(self, at: int, entry: "_Entry") -> int:
        """Where an object's base is. Raises _Waiting."""
        if isinstance(entry.base, int):
            return entry.base
        if at not in self._found:
            raise _Waiting
        return self._found[at]

    def _unpack(self, at: int, size: int) -> tuple[bytes, int]:
        """An object's stored bytes, and where the file goes on."""
        if size > MAX_OBJECT:
            raise DamagedError("an object is too large")
        unpacker = zlib.decompressobj()
        parts: list[bytes] = []
        found = 0
        while not unpacker.eof:
            data = self._pread(at, min(size + 64, PIECE))
            at += len(data)
            if not data:
                raise DamagedError("ends too early")
            part = unpacker.decompress(data, size + 1 - found)
            found += len(part)
            self._take(len(part))
            parts.append(part)
            if found > size or unpacker.unconsumed_tail:
                raise DamagedError("an object is larger than it says")
        if found != size:
            raise DamagedError("an object is smaller than it says")
        return b"".join(parts), at - len(unpacker.unused_data)

    def _streamed(self, at: int, end: list[int]) -> Iterator[bytes]:
        """A large object in pieces; `end[0]` becomes where the file goes on."""
        unpacker = zlib.decompressobj()
        data = b""
        while not unpacker.eof:
            if not data:
                data = self._pread(at, PIECE)
                at += len(data)
                if not data:
                    raise DamagedError("ends too early")
            piece = unpacker.decompress(data, PIECE)
            data = unpacker.unconsumed_tail
            self._take(len(piece))
            if piece:
                yield piece
        end[0] = at - len(unpacker.unused_data)

    def _keep(self, at: int, kind: int, data: bytes) -> None:
        self._bases[at] = (kind, data)
        self._kept += len(data)
        while self._kept > MAX_BASES:
            _, (_, oldest) = self._bases.popitem(last=False)
            self._kept -= len(oldest)

    def _object(self, at: int) -> tuple[int, bytes]:
        """An object's kind and bytes, put together anew where they were let go of. The chain back
        to a whole object is walked, not recursed into. Raises _Waiting."""
        chain: list[bytes] = []
        seen: set[int] = set()
        while True:
            known = self._bases.get(at)
            if known is not None:
                self._bases.move_to_end(at)
                break
            if at in seen:
                raise DamagedError("an object is its own base")
            seen.add(at)
            self._take(1)
            entry = self._entry(at)
            base = None if entry.base is None else self._base(at, entry)
            stored, _ = self._unpack(entry.body, entry.size)
            if base is None:
                known = (entry.kind, stored)
                break
            chain.append(stored)
            at = base
        kind, data = known
        for delta in reversed(chain):
            data, _ = _apply(data, delta)
            self._take(len(data))
        return kind, data


@dataclass(frozen=True, slots=True)
class _Entry:
    """An object in a pack: where its zlib stream begins, and its base's place or hash."""

    kind: int
    size: int
    body: int
    base: int | bytes | None


def _size(delta: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(delta) or shift > 63:
            raise DamagedError("a difference is cut off")
        byte = delta[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _apply(base: bytes, delta: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """The object that `delta` makes of its base, and the spans of it that are new, widened by
    `AROUND`: what is inserted, and where copied parts meet that did not before."""
    wanted, at = _size(delta, 0)
    if wanted != len(base):
        raise DamagedError("a difference for another base")
    wanted, at = _size(delta, at)
    if wanted > MAX_OBJECT:
        raise DamagedError("an object is too large")
    parts: list[bytes] = []
    spans: list[tuple[int, int]] = []
    made = 0
    end = len(delta)
    while at < end:
        code = delta[at]
        at += 1
        if code & 0x80:
            offset = size = 0
            for bit in range(4):
                if code & 1 << bit:
                    if at >= end:
                        raise DamagedError("a difference is cut off")
                    offset |= delta[at] << 8 * bit
                    at += 1
            for bit in range(3):
                if code & 0x10 << bit:
                    if at >= end:
                        raise DamagedError("a difference is cut off")
                    size |= delta[at] << 8 * bit
                    at += 1
            part = base[offset : offset + (size or 0x10000)]
            if len(part) != (size or 0x10000):
                raise DamagedError("a difference copies what is not there")
            fresh = (made, made)
        elif code:
            part = delta[at : at + code]
            if len(part) != code:
                raise DamagedError("a difference is cut off")
            at += code
            fresh = (made, made + code)
        else:
            raise DamagedError("a difference with a code that git does not use")
        parts.append(part)
        made += len(part)
        if made > wanted:
            raise DamagedError("a difference makes more than it says")
        low, high = max(0, fresh[0] - AROUND), fresh[1] + AROUND
        if spans and low <= spans[-1][1]:
            spans[-1] = (spans[-1][0], high)
        else:
            spans.append((low, high))
    spans.append((max(0, made - AROUND), made))
    if made != wanted:
        raise DamagedError("a difference makes less than it says")
    return b"".join(parts), spans
