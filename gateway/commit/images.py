"""What sources held before a commit, sealed: the material of an undo.

One file a commit, in the workspace's state. Contents are cut into blocks, each encrypted and
authenticated with its place, so that files of any size take little memory and none can be put in
another's place.
"""

import errno
import hashlib
import hmac
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from pydantic.dataclasses import dataclass

from gateway.authority.keys import Keys
from gateway.commit.metadata import STORED, Metadata, path_of
from gateway.commit.steps import CHANGED, GONE, Hands, Link, Move, MovedError, Put, Step, Take, same
from vfs.statx import Stat, stat_fd

_BLOCK = 1 << 20
_LENGTH = struct.Struct(">I")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, config=STORED)
class Image:
    """A file or symlink as it was; its content begins at `offset` of the commit's images."""

    kind: Literal["file", "symlink"]
    offset: int
    metadata: Metadata


@dataclass(frozen=True, slots=True, config=STORED)
class Kept:
    """What is kept of a step: what it took away, and the mode and HMAC of what it put there."""

    image: Image | None = None
    mode: int | None = None
    digest: bytes | None = None


class Images:
    """The images of all commits of a workspace. Methods raise OSError."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        self._folder = folder
        self._keys = keys
        folder.mkdir(mode=0o700, exist_ok=True)

    def _path(self, commit: str) -> Path:
        return self._folder / commit

    def write(self, commit: str) -> "Writer":
        """Begin a commit's images; the caller closes."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return Writer(os.open(self._path(commit), flags, 0o600), commit, self._keys)

    def read(self, commit: str, image: Image) -> Iterator[bytes]:
        """The content of an image, block by block."""
        with open(self._path(commit), "rb") as file:
            file.seek(image.offset)
            number, last = 0, False
            while not last:
                head = file.read(_LENGTH.size + 1)
                if len(head) != _LENGTH.size + 1:
                    raise _damaged(commit)
                (length,), last = _LENGTH.unpack(head[:-1]), head[-1:] == b"\1"
                try:
                    label = _label(commit, image.offset, number, last)
                    yield self._keys.unseal(file.read(length), label)
                except (InvalidTag, ValueError):
                    raise _damaged(commit) from None
                number += 1

    def fill(self, commit: str, image: Image) -> Callable[[int], None]:
        """What writes an image's content to a new file's descriptor."""

        def fill(fd: int) -> None:
            for block in self.read(commit, image):
                view = memoryview(block)
                while view:
                    view = view[os.write(fd, view) :]

        return fill

    def size(self, commit: str) -> int:
        """Bytes that a commit's images take."""
        try:
            return self._path(commit).stat().st_size
        except FileNotFoundError:
            return 0

    def remove(self, commit: str) -> None:
        """Forget a commit's images."""
        self._path(commit).unlink(missing_ok=True)


def _damaged(commit: str) -> OSError:
    return OSError(errno.EIO, f"what commit {commit} kept is damaged")


def _label(commit: str, offset: int, number: int, last: bool) -> bytes:
    return f"{commit}:{offset}:{number}:{int(last)}".encode()


class Writer:
    """Writes one commit's images."""

    def __init__(self, fd: int, commit: str, keys: Keys) -> None:
        self._file = os.fdopen(fd, "wb")
        self._commit = commit
        self._keys = keys

    def add(self, blocks: Iterator[bytes]) -> int:
        """Seal a content; returns its offset."""
        offset = self._file.tell()
        block, number = next(blocks, b""), 0
        while True:
            following = next(blocks, None)
            last = following is None
            sealed = self._keys.seal(block, _label(self._commit, offset, number, last))
            self._file.write(_LENGTH.pack(len(sealed)) + (b"\1" if last else b"\0") + sealed)
            if following is None:
                return offset
            block, number = following, number + 1

    def close(self) -> None:
        """All of it is durable afterwards."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        """Close what is not needed."""
        self._file.close()


def _blocks(fd: int) -> Iterator[bytes]:
    at = 0
    while part := os.pread(fd, _BLOCK, at):
        yield part
        at += len(part)


class Keeper:
    """Keeps what the steps on one source are about to take away. For one worker thread."""

    def __init__(self, hands: Hands, writer: Writer, digest_key: bytes) -> None:
        self._hands = hands
        self._writer = writer
        self._key = digest_key

    def keep(self, steps: Sequence[Step]) -> list[Kept]:
        """What is kept of each step, in the state before the first. Raises MovedError, OSError;
        PermissionError for what cannot be read."""
        put = {step.temporary for step in steps if isinstance(step, Put)}
        taken = {step.to: step.path for step in steps if isinstance(step, Take)}
        comes_from = {step.new_path: step.path for step in steps if isinstance(step, Move)}
        comes_from |= {
            step.path: taken[step.temporary]
            for step in steps
            if isinstance(step, Put) and step.temporary in taken
        }
        linked = {step.to: step.other for step in steps if isinstance(step, Link)}
        at_places: dict[bytes, Kept] = {}
        found = []
        for step in steps:
            kept = Kept()
            if isinstance(step, Take) and step.to not in put:
                kept = Kept(self._image(step.path, step.expected, step.shared))
            elif isinstance(step, Put):
                image = None
                if step.expected is not None:
                    image = self._image(step.path, step.expected, step.shared)
                mode, digest = None, None
                if step.temporary in linked:
                    other = linked[step.temporary]
                    mode, digest = self._linked(comes_from.get(other, other), at_places)
                elif step.temporary not in taken:
                    folder = self._hands.folder(step.temporary.folder)
                    mode, digest = digest_of(folder, step.temporary.name, self._key)
                kept = at_places[step.path] = Kept(image, mode, digest)
            found.append(kept)
        return found

    def _linked(self, other: bytes, known: dict[bytes, Kept]) -> tuple[int | None, bytes | None]:
        """Mode and digest of what a link to *other*, a place as it is now, will show."""
        if other in known:
            return known[other].mode, known[other].digest
        return digest_of(*self._hands.place(other), self._key)

    def _image(self, path: bytes, expected: Stat, shared: bool) -> Image | None:
        folder, name = self._hands.place(path)
        try:
            if stat.S_ISLNK(expected.mode):
                target = os.readlink(name, dir_fd=folder)
                times = (expected.atime_ns, expected.mtime_ns)
                metadata = Metadata(None, expected.uid, expected.gid, times)
                return Image("symlink", self._writer.add(iter([target])), metadata)
            fd = os.open(name, _OPEN, dir_fd=folder)
        except FileNotFoundError:
            raise MovedError(GONE) from None
        finally:
            os.close(folder)
        try:
            now = stat_fd(fd, fresh=True)
            if not same(now, expected, shared=shared):
                raise MovedError(CHANGED)
            times = (now.atime_ns, now.mtime_ns)
            return Image("file", self._writer.add(_blocks(fd)), Metadata.of(fd, times_ns=times))
        finally:
            os.close(fd)


def digest_of(folder: int, name: bytes, key: bytes) -> tuple[int, bytes]:
    """Mode (with type bits) and HMAC of the content, or target, of what has a name in a folder,
    whose descriptor is closed. Raises OSError."""
    try:
        pin = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    finally:
        os.close(folder)
    digest = hmac.new(key, digestmod=hashlib.sha256)
    try:
        mode = stat_fd(pin).mode
        if stat.S_ISLNK(mode):
            digest.update(os.readlink(b"", dir_fd=pin))
        elif stat.S_ISREG(mode):
            fd = os.open(path_of(pin), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                for block in _blocks(fd):
                    digest.update(block)
            finally:
                os.close(fd)
    finally:
        os.close(pin)
    return mode, digest.digest()
