"""Putting one group of reviewed changes into its source, in an order that loses nothing.

What is to be written is written first, under temporary names; then what stands in the way is
taken away, folders are made, and the new contents go to their places. If any step fails, all are
taken back. For one worker thread at a time; what it needs of the core was taken before.
"""

import errno
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.daemon.apply import (
    FOLDER_GONE,
    NOT_EMPTY,
    Batch,
    Metadata,
    MovedError,
    Temporary,
    fill_from,
    fill_with,
)
from vfs import names
from vfs.source import Source
from vfs.statx import Stat

How = Literal["write", "copy", "symlink", "link", "move", "folder", "delete", "mode"]


@dataclass(slots=True)
class Job:
    """What one change does to the source.

    `old_place` is taken away or replaced and `expected` the version of it that was reviewed.
    `how` says what comes to `place`: `data` written, `fd` (of version `version`) copied, a link
    to `data`, another name of what is at `link_to`, the old place's object itself, a folder, or
    nothing. Descriptors are the caller's. A `sparse` file is given holes for zeros.
    """

    how: How
    place: bytes
    old_place: bytes | None = None
    expected: Stat | None = None
    data: bytes = b""
    fd: int = -1
    version: Stat | None = None
    link_to: bytes = b""
    metadata: Metadata = field(default_factory=Metadata)
    sparse: bool = False

    @property
    def replaces(self) -> bool:
        """True where the old side stands at the very place of the new one."""
        return self.old_place == self.place and self.expected is not None


@dataclass(slots=True)
class _Pending:
    job: Job
    temporary: Temporary | None


class Landing:
    """One group on its way; `folders` says what folders that the source has not got are to be."""

    def __init__(
        self, source: Source, jobs: Sequence[Job], folders: Mapping[bytes, Metadata]
    ) -> None:
        self._source = source
        self._jobs = jobs
        self._folders = folders
        met = Counter(job.expected.identity for job in jobs if job.expected is not None)
        shared = frozenset(identity for identity, count in met.items() if count > 1)
        self._batch = Batch(source, shared)
        self._given_up: set[bytes] = set()
        self._folders_above = self._needed_folders()

    def run(self) -> None:
        """Land the group. Raises MovedError or OSError, after which the source is as it was."""
        try:
            self._run()
            self._batch.sync()
        except BaseException:
            self._batch.undo()
            raise
        self._batch.finish()

    def _run(self) -> None:
        self._given_up = {
            job.place
            for job in self._jobs
            if job.how not in ("delete", "mode", "folder") and self._is_folder(job.place)
        }
        pending = [_Pending(job, self._prepare(job)) for job in self._jobs]
        for one in pending:
            self._clear(one)
        for place in self._given_up:
            self._remove_tree(place)
        for one in pending:
            self._make_folders(one.job)
        for one in pending:
            self._put(one)
        for job in self._jobs:
            if job.how == "delete" and job.expected and stat.S_ISDIR(job.expected.mode):
                if not self._gave_way(job.place):
                    self._batch.remove_folder(job.place)
            elif job.how == "mode" and job.expected is not None:
                self._batch.set_attributes(job.place, job.metadata, job.expected)

    def _gave_way(self, path: bytes) -> bool:
        """True for a folder that went with one in whose place a file stands now."""
        return any(names.within(path, place) for place in self._given_up)

    def _is_folder(self, path: bytes) -> bool:
        try:
            return stat.S_ISDIR(self._source.stat(path).mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _home(self, path: bytes) -> bytes:
        """The nearest folder above *path* that is there now and stays."""
        folder = path.rpartition(b"/")[0]
        while folder and (not self._is_folder(folder) or self._gave_way(folder)):
            folder = folder.rpartition(b"/")[0]
        return folder

    def _prepare(self, job: Job) -> Temporary | None:
        home = self._home(job.place)
        if job.how == "write":
            return self._batch.make_file(home, fill_with(job.data, sparse=job.sparse), job.metadata)
        if job.how == "copy":
            assert job.version is not None
            return self._batch.make_file(home, fill_from(job.fd, job.version), job.metadata)
        if job.how == "symlink":
            return self._batch.make_symlink(home, job.data, job.metadata)
        return None

    def _in_the_way(self, path: bytes) -> bool:
        """True if something of this group is to stand below *path*, or in place of a folder above
        it."""
        return path in self._folders_above or self._gave_way(path)

    def _needed_folders(self) -> set[bytes]:
        found = set()
        for job in self._jobs:
            if job.how in ("delete", "mode"):
                continue
            folder = job.place if job.how == "folder" else job.place.rpartition(b"/")[0]
            while folder:
                found.add(folder)
                folder = folder.rpartition(b"/")[0]
        return found

    def _clear(self, one: _Pending) -> None:
        """Take the old side away, unless it is replaced where it stands."""
        job = one.job
        if job.old_place is None or job.expected is None or (job.replaces and job.how != "delete"):
            return
        if job.how == "mode" or stat.S_ISDIR(job.expected.mode):
            return
        if job.how == "move":
            if self._in_the_way(job.old_place):
                one.temporary = self._batch.take(job.old_place, self._home(job.place), job.expected)
            return
        taken = self._batch.take(job.old_place, self._home(job.old_place), job.expected)
        self._batch.forget(taken)

    def _remove_tree(self, place: bytes) -> None:
        """Remove a folder in whose place a file is to stand; only folders may be left in it."""
        found = [place]
        at = 0
        while at < len(found):
            for name in self._source.list(found[at]):
                path = names.join(found[at], name)
                if not self._is_folder(path):
                    raise MovedError(NOT_EMPTY)
                found.append(path)
            at += 1
        for path in reversed(found):
            self._batch.remove_folder(path)

    def _make_folders(self, job: Job) -> None:
        if job.how in ("delete", "mode"):
            return
        folder = job.place if job.how == "folder" else job.place.rpartition(b"/")[0]
        parts = folder.split(b"/") if folder else []
        path = b""
        for name in parts:
            path = names.join(path, name)
            if self._is_folder(path):
                continue
            metadata = self._folders.get(path)
            if metadata is None:
                raise MovedError(FOLDER_GONE)
            self._batch.make_folder(path, metadata)

    def _put(self, one: _Pending) -> None:
        job = one.job
        expected = job.expected if job.replaces else None
        if job.how == "link":
            linked = self._batch.make_link(self._home(job.place), job.link_to)
            self._batch.put(linked, job.place, expected)
        elif job.how == "move" and one.temporary is None:
            assert job.old_place is not None
            assert job.expected is not None
            self._batch.move(job.old_place, job.place, job.expected)
            self._after_move(job)
        elif one.temporary is not None:
            self._batch.put(one.temporary, job.place, expected)
            if job.how == "move":
                self._after_move(job)

    def _after_move(self, job: Job) -> None:
        wanted = job.metadata
        if wanted != Metadata():
            self._batch.set_attributes(job.place, wanted, self._source.stat(job.place))


def remove_emptied(source: Source, places: Sequence[bytes]) -> None:
    """Remove folders that the agent removed, or moved away, if nothing is left in them. What
    is not empty holds something that the agent never saw, or that the user added."""
    for place in sorted(places, key=len, reverse=True):
        try:
            folder, name = source.place(place)
        except OSError:
            continue
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                continue  # status goes on showing the folder as deleted
        finally:
            os.close(folder)
