"""The steps of one commit on one source: taken in order, or taken back in reverse.

New contents are written to temporary siblings first; they are durable before the first step, and
the steps' names before the commit counts. For one worker thread at a time.
"""

import ctypes
import errno
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.commit.metadata import Metadata, path_of
from gateway.commit.steps import (
    CHANGED,
    Hands,
    Move,
    MovedError,
    Put,
    Step,
    Take,
    Temporary,
    opened_up,
    same,
)
from vfs import names
from vfs.source import Source
from vfs.stage.bodies import copy_contents
from vfs.statx import Stat, stat_fd

_MANY = 64
_BLOCK = 4096
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


def _sync_file_system(fd: int) -> None:
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def prefix_of(commit: str) -> bytes:
    """How a commit's temporary names begin."""
    return names.TEMPORARY_PREFIX + commit.encode() + b"-"


@dataclass(frozen=True, slots=True)
class PutBack:
    """What a step took from a place is there again, with another ctime."""

    path: bytes
    before: Stat
    now: Stat


class Batch:
    """Steps on one source, which is the thread's own (`Source.for_commit`); `files` is how many
    files the commit writes. Methods raise MovedError and OSError; then call `undo`."""

    def __init__(self, source: Source, commit: str, files: int) -> None:
        self.hands = Hands(source)
        self._prefix = prefix_of(commit)
        self._numbers = itertools.count()
        self._temporaries: list[Temporary] = []
        self._begun: list[Step] = []
        # One flush of the file system costs less than many of files; others' data goes with it.
        self._at_once = files > _MANY and not source.is_remote

    def name(self, folder: bytes) -> Temporary:
        """A temporary name in a folder, not taken yet."""
        made = Temporary(folder, self._prefix + b"%d" % next(self._numbers))
        self._temporaries.append(made)
        return made

    def make_file(
        self, home: bytes, fill: Callable[[int], None], metadata: Metadata
    ) -> tuple[Temporary, tuple[int, int]]:
        """A new file in folder *home*, 0600 until it is complete, and its identity."""
        made = self.name(home)
        folder = self.hands.folder(home)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(made.name, flags, 0o600, dir_fd=folder)
            try:
                fill(fd)
                metadata.give(fd)
                if not self._at_once:
                    os.fsync(fd)
                return made, stat_fd(fd).identity
            finally:
                os.close(fd)
        finally:
            os.close(folder)

    def make_symlink(
        self, home: bytes, target: bytes, metadata: Metadata
    ) -> tuple[Temporary, tuple[int, int]]:
        """A new symlink in folder *home*, and its identity."""
        made = self.name(home)
        folder = self.hands.folder(home)
        try:
            os.symlink(target, made.name, dir_fd=folder)
            pin = os.open(made.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                metadata.give(path_of(pin))
                return made, stat_fd(pin).identity
            finally:
                os.close(pin)
        finally:
            os.close(folder)

    def sync_files(self) -> None:
        """All that was made is durable afterwards."""
        if self._at_once:
            self._sync_folders([b""], _sync_file_system)

    def perform(self, steps: Iterable[Step]) -> None:
        """Take steps; the journal has to have them."""
        for step in steps:
            self._begun.append(step)
            step.perform(self.hands)

    def sync(self) -> None:
        """Make the names durable."""
        if len(self.hands.touched) > _MANY and not self.hands.source.is_remote:
            self._sync_folders([b""], _sync_file_system)
        else:
            self._sync_folders(self.hands.touched, os.fsync)

    def _sync_folders(self, paths: Iterable[bytes], sync: Callable[[int], None]) -> None:
        for path in paths:
            try:
                folder = self.hands.folder(path)
            except MovedError:
                continue  # a folder that the commit itself removed
            try:
                # O_PATH descriptors, which these are, cannot be synced.
                fd = os.open(b".", _FOLDER_FLAGS, dir_fd=folder)
                try:
                    sync(fd)
                finally:
                    os.close(fd)
            finally:
                os.close(folder)

    def undo(self) -> list[PutBack]:
        """Put everything back as it was. Raises OSError if the source did not let something be put
        back; the rest was."""
        failed = revert(self.hands, self._begun)
        found = put_back(self.hands, self._begun)
        self._begun.clear()
        failed = self.clean() or failed
        if failed is not None:
            raise failed
        return found

    def clean(self) -> OSError | None:
        """Remove every temporary that is left: what was displaced, and what was not put. The first
        error of any; call it again then."""
        failed = None
        left = []
        for temporary in self._temporaries:
            try:
                self.hands.remove(temporary)
            except OSError as error:
                failed = failed or error
                left.append(temporary)
        self._temporaries = left
        return failed


def revert(hands: Hands, steps: Sequence[Step]) -> OSError | None:
    """Take steps back, the last one first, taken or not. Returns the first error of any."""
    failed: OSError | None = None
    for step in reversed(steps):
        try:
            step.revert(hands)
        except OSError as error:
            failed = failed or error
        except MovedError as error:
            failed = failed or OSError(errno.EBUSY, str(error))
    return failed


def put_back(hands: Hands, steps: Sequence[Step]) -> list[PutBack]:
    """What `revert` has put back. Raises OSError."""
    found = []
    for step in steps:
        if isinstance(step, Take | Put | Move) and step.expected is not None:
            now = hands.look(step.path)
            if now is not None and same(now, step.expected, renamed=True, shared=step.shared):
                found.append(PutBack(step.path, step.expected, now))
    return found


def sweep(hands: Hands, commit: str, folders: Iterable[bytes]) -> None:
    """Remove a commit's temporaries from these folders. Raises OSError."""
    prefix = prefix_of(commit)
    for path in folders:
        try:
            folder = hands.folder(path)
        except MovedError:
            continue
        try:
            found = opened_up(folder, partial(_list, folder))
        finally:
            os.close(folder)
        for name in found:
            if name.startswith(prefix):
                hands.remove(Temporary(path, name))


def _list(folder: int) -> list[bytes]:
    fd = os.open(b".", _FOLDER_FLAGS, dir_fd=folder)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]
    finally:
        os.close(fd)


def fill_with(data: bytes, *, sparse: bool = False) -> Callable[[int], None]:
    """What writes *data* to a new file's descriptor, with holes for blocks of zeros if *sparse*."""

    def write(fd: int, view: memoryview) -> None:
        while view:
            view = view[os.write(fd, view) :]

    def fill(fd: int) -> None:
        view = memoryview(data)
        if not sparse:
            write(fd, view)
            return
        zeros = bytes(_BLOCK)
        for start in range(0, len(view), _BLOCK):
            part = view[start : start + _BLOCK]
            if part != zeros[: len(part)]:
                os.lseek(fd, start, os.SEEK_SET)
                write(fd, part)
        os.truncate(fd, len(view))

    return fill


def fill_from(original: int, version: Stat) -> Callable[[int], None]:
    """What copies an open source file to a new file's descriptor. Raises MovedError if it changed
    meanwhile."""

    def fill(fd: int) -> None:
        copy_contents(original, fd)
        if not same(stat_fd(original, fresh=True), version):
            raise MovedError(CHANGED)

    return fill
