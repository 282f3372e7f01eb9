"""Looks into files that cannot be masked in place: archives, compressed files, documents, git's
objects.

`kind_of` tells by the first bytes whether a file is one; `holds_findings` unpacks it, within
bounds of bytes, members and depth, and scans what comes out. What cannot be told is said
(`Unreadable`), never taken for clean. Nothing is written to disk, and no member's name is used as
a path. What is encrypted is as closed to the agent as it is to us, and counts as clean.
"""

import bz2
import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, cast

import re2

from vfs.redaction import git_objects

Kind = Literal["", "archive", "document", "git"]

HEAD = 512
"""Bytes that `kind_of` wants to see of a file's beginning."""

MAX_UNPACKED = 512 << 20
"""Bytes that may come out of one file, of all depths together."""

MAX_GIT = 4 << 30
"""Bytes, as `MAX_UNPACKED`, for a pack of git's, whose objects are put together from others."""

MAX_RATIO = 1200
"""Times its own size that a file may unpack to, from `MAX_FREE` on; deflate ends at 1032."""

MAX_FREE = 16 << 20
"""Bytes that any file may unpack to."""

MAX_MEMBERS = 100_000
MAX_DEPTH = 3

PART = 1 << 20
OVERLAP = 64 << 10
"""Bytes. Members are scanned in parts that overlap, as large files are."""

Find = Callable[[bytes], bool]
"""Tells if some text holds a finding; raises ScanError."""

ReadAt = Callable[[int, int], bytes]

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x5d\0\0": "lzma"}
_CLOSED = (
    b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18",
    b"MSCF\0\0\0\0", b"LZIP",
)  # fmt: skip
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_PDF_STREAM = re2.compile(rb"stream\r?\n")
_PDF_TEXT = re2.compile(rb"\(((?:[^()\\]|\\.)*)\)")
_END_OF_ZIP, _END_OF_ZIP_64 = b"PK\x05\x06", b"PK\x06\x06"

MAX_DIRECTORY = 32 << 20
"""Bytes of a zip file's directory, which is read as a whole."""


class Unreadable(Exception):
    """What is inside could not be looked at, or not all of it; the text says why."""


def kind_of(head: bytes) -> Kind:
    """What a file is by its first `HEAD` bytes; "" for one that is masked in place."""
    if head.startswith(_ZIP):
        office = b"[Content_Types].xml" in head or head[30:38] == b"mimetype"
        return "document" if office else "archive"
    if head.startswith((b"%PDF-", _OLE)):
        return "document"
    if head.startswith((*_COMPRESSED, *_CLOSED)):
        return "archive"
    if git_objects.known(head):
        return "git"
    return "archive" if head[257:262] == b"ustar" else ""


def holds_findings(read: ReadAt, size: int, find: Find) -> bool:
    """True if something inside the file is a finding. Raises Unreadable, ScanError, OSError."""
    most = MAX_GIT if kind_of(read(0, HEAD)) == "git" else MAX_UNPACKED
    allowed = max(MAX_FREE, min(most, size * MAX_RATIO))
    return _Look(find, allowed).file(_File(read, size), 0)


class _File(io.RawIOBase):
    """A source as a seekable binary file, read only."""

    def __init__(self, read: ReadAt, size: int) -> None:
        self._read, self._size, self._at = read, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._at, self._size)[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        data = self._read(self._at, min(len(view), max(0, self._size - self._at)))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Look:
    def __init__(self, find: Find, allowed: int) -> None:
        self._find = find
        self._left = allowed
        self._members = MAX_MEMBERS

    def file(self, raw: io.RawIOBase, depth: int) -> bool:
        """Look into one container."""
        file = cast(BinaryIO, io.BufferedReader(raw, PART))
        head = file.read(HEAD)
        file.seek(0)
        try:
            if head.startswith(_ZIP):
                return self._zip(file, depth)
            if head.startswith(b"%PDF-"):
                return self._pdf(file)
            if head.startswith(_OLE):
                return self._parts(_chunks(file))
            for magic, how in _COMPRESSED.items():
                if head.startswith(magic):
                    return self._stream(_inflated(file, how), depth)
            if head[257:262] == b"ustar":
                return self._tar(file, depth)
            if git_objects.known(head):
                return self._git(file, head, depth)
        except (
            zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError,
            ValueError, NotImplementedError, RecursionError, MemoryError,
        ) as error:  # fmt: skip
            raise Unreadable(f"{type(error).__name__} while it was unpacked") from error
        except OSError as error:
            if error.errno is not None:
                raise  # of the source; bz2 raises one without a number for damaged data
            raise Unreadable("damaged") from error
        raise Unreadable("no unpacker for its format")

    def _zip(self, file: BinaryIO, depth: int) -> bool:
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                self._count()
                if member.flag_bits & 1 or member.is_dir():
                    continue  # encrypted, or a folder
                with archive.open(member) as inner:
                    if self._stream(_chunks(cast(BinaryIO, inner)), depth):
                        return True
            return self._find(archive.comment)

    def _tar(self, file: BinaryIO, depth: int) -> bool:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                self._count()
                inner = archive.extractfile(member) if member.isreg() else None
                if inner is not None and self._stream(_chunks(cast(BinaryIO, inner)), depth):
                    return True
        return False

    def _pdf(self, file: BinaryIO) -> bool:
        """Its bytes, and its streams where deflate alone packed them; others hold pictures."""
        data = file.read(self._left + 1)
        self._take(len(data))
        if self._parts(iter((data,))):
            return True
        view = memoryview(data)
        for found in _PDF_STREAM.finditer(data):
            self._count()
            unpacker = zlib.decompressobj()
            try:
                text = unpacker.decompress(view[found.end() :], 4 * PART)
            except zlib.error:
                continue
            self._take(len(text))
            if self._find(text) or self._find(b"".join(_PDF_TEXT.findall(text))):
                return True
        return False

    def _git(self, file: BinaryIO, head: bytes, depth: int) -> bool:
        def pread(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        if not head.startswith((b"PACK", b"#")):
            return self._stream(git_objects.loose(pread), depth)
        for text in git_objects.packed(pread, self._take, lambda first: kind_of(first) != ""):
            if self._parts(iter((text,)), counted=True):
                return True
            if kind_of(text[:HEAD]):
                if depth + 1 >= MAX_DEPTH:
                    raise Unreadable("archives in archives, too deep")
                inner = _File(lambda at, size, text=text: text[at : at + size], len(text))  # type: ignore[misc]
                if self.file(inner, depth + 1):
                    return True
        return False

    def _stream(self, chunks: Iterator[bytes], depth: int) -> bool:
        """Scan what was unpacked, and look into it where it is a container again."""
        first = next(chunks, b"")
        if kind_of(first[:HEAD]) or first[257:262] == b"ustar":
            if depth + 1 >= MAX_DEPTH:
                raise Unreadable("archives in archives, too deep")
            parts = [first]
            self._take(len(first))
            for chunk in chunks:
                self._take(len(chunk))
                parts.append(chunk)
            data = b"".join(parts)
            if self._parts(iter((data,)), counted=True):
                return True
            inner = _File(lambda at, size: data[at : at + size], len(data))
            return self.file(inner, depth + 1)
        return self._parts(_before(first, chunks))

    def _parts(self, chunks: Iterator[bytes], *, counted: bool = False) -> bool:
        kept = b""
        for chunk in chunks:
            if not counted:
                self._take(len(chunk))
            for start in range(0, len(chunk), PART):
                text = kept + chunk[start : start + PART]
                if self._find(text):
                    return True
                kept = text[-OVERLAP:]
        return False

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Unreadable("too much comes out of it")

    def _count(self) -> None:
        self._members -= 1
        if self._members < 0:
            raise Unreadable("too many members")


def _check_directory(file: BinaryIO) -> None:
    """Raises Unreadable for a directory that would not fit into a sensible memory."""
    end = file.seek(0, io.SEEK_END)
    file.seek(max(0, end - (1 << 16) - 128))
    tail = file.read()
    at = tail.rfind(_END_OF_ZIP)
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if size == 0xFFFFFFFF:
        at = tail.rfind(_END_OF_ZIP_64)
        size = int.from_bytes(tail[at + 40 : at + 48], "little") if at >= 0 else size
    if size > MAX_DIRECTORY:
        raise Unreadable("its directory is too large")
    file.seek(0)


def _before(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(PART):
        yield chunk


def _inflated(file: BinaryIO, how: str) -> Iterator[bytes]:
    """The unpacked bytes of a compressed file in bounded pieces, all of its members."""
    make: Callable[[], object] = {
        "gzip": lambda: zlib.decompressobj(31),
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(memlimit=256 << 20),
        "lzma": lambda: lzma.LZMADecompressor(memlimit=256 << 20),
    }[how]
    data = b""
    while True:
        unpacker = make()
        if not data:
            data = file.read(PART)
        if not data.strip(b"\0"):  # padding behind the last member
            return
        while not unpacker.eof:  # type: ignore[attr-defined]
            if not data:
                data = file.read(PART)
                if not data and not getattr(unpacker, "unconsumed_tail", b""):
                    raise EOFError
            out = unpacker.decompress(data, PART)  # type: ignore[attr-defined]
            data = getattr(unpacker, "unconsumed_tail", b"")
            if out:
                yield out
            if how != "gzip":
                data = b""
                while not unpacker.eof and not unpacker.needs_input:  # type: ignore[attr-defined]
                    yield unpacker.decompress(b"", PART)  # type: ignore[attr-defined]
        data = unpacker.unused_data or file.read(PART)  # type: ignore[attr-defined]
