"""From a group of reviewed changes to the steps that bring it into its source and lose nothing.

What is to be written is written first, under temporary names (`Plan.prepare`); then, step by step,
what stands in the way is taken away, folders are made, and the new contents go to their places.
Nothing here changes what a source shows. For one worker thread at a time; what it needs of the core
was taken before.
"""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gateway.commit.batch import Batch
from gateway.commit.metadata import Metadata, path_of
from gateway.commit.steps import (
    FOLDER_GONE,
    GONE,
    NOT_EMPTY,
    Link,
    MakeFolder,
    Move,
    MovedError,
    Put,
    RemoveFolder,
    SetAttributes,
    Step,
    Take,
    Temporary,
    attributes,
)
from vfs import names
from vfs.statx import Stat

How = Literal["write", "symlink", "link", "move", "folder", "delete", "mode"]
Identity = tuple[int, int]


@dataclass(slots=True)
class Job:
    """What one change does to the source.

    `old_place` is taken away or replaced and `expected` the version of it that was reviewed.
    `how` says what comes to `place`: a file that `fill` writes, a link to `target`, another name
    of what is at `link_to`, the old place's object itself, a folder, or nothing.
    """

    how: How
    place: bytes
    old_place: bytes | None = None
    expected: Stat | None = None
    fill: Callable[[int], None] | None = None
    target: bytes = b""
    link_to: bytes = b""
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def replaces(self) -> bool:
        """True where the old side stands at the very place of the new one."""
        return self.old_place == self.place and self.expected is not None


class Plan:
    """One group on its way. `folders` says what folders that the source has not got are to be;
    `leaving` are folders that will go, where no temporary may be in the way; `shared` are objects
    that the steps of a commit meet under several names. Methods raise MovedError and OSError."""

    def __init__(
        self,
        batch: Batch,
        jobs: Sequence[Job],
        folders: Mapping[bytes, Metadata],
        leaving: frozenset[bytes] = frozenset(),
    ) -> None:
        self._batch = batch
        self._source = batch.hands.source
        self._jobs = jobs
        self._folders = folders
        self._leaving = leaving
        self._shared: frozenset[Identity] = frozenset()
        self._given_up: set[bytes] = set()
        self._ready: dict[int, tuple[Temporary, Identity]] = {}
        self._needed = self._needed_folders()
        self._steps: list[Step] = []
        self._made_folders: set[bytes] = set()

    def identities(self) -> list[Identity]:
        """The objects of the source that the group's steps meet."""
        return [job.expected.identity for job in self._jobs if job.expected is not None]

    def prepare(self) -> None:
        """Write new contents to temporary siblings."""
        self._given_up = {
            job.place
            for job in self._jobs
            if job.how not in ("delete", "mode", "folder") and self._is_folder(job.place)
        }
        for number, job in enumerate(self._jobs):
            home = self._home(job.place)
            if job.how == "write":
                assert job.fill is not None
                self._ready[number] = self._batch.make_file(home, job.fill, job.metadata)
                job.fill = None
            elif job.how == "symlink":
                self._ready[number] = self._batch.make_symlink(home, job.target, job.metadata)

    def steps(self, shared: frozenset[Identity]) -> list[Step]:
        """What is to be done, once all of the commit is prepared."""
        self._shared = shared
        for number, job in enumerate(self._jobs):
            self._clear(number, job)
        for place in sorted(self._given_up):
            self._remove_tree(place)
        for job in self._jobs:
            self._make_folders(job)
        for number, job in enumerate(self._jobs):
            self._put(number, job)
        for job in self._jobs:
            if job.how == "delete" and job.expected and stat.S_ISDIR(job.expected.mode):
                if not self._gave_way(job.place):
                    self._steps.append(self._removal(job.place))
            elif job.how == "mode" and job.expected is not None:
                self._set(job, job.place, job.expected)
        return self._steps

    def _gave_way(self, path: bytes) -> bool:
        """True for a folder that goes with one in whose place a file will stand."""
        return any(names.within(path, place) for place in self._given_up)

    def _is_folder(self, path: bytes) -> bool:
        try:
            return stat.S_ISDIR(self._source.stat(path).mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _home(self, path: bytes) -> bytes:
        """The nearest folder above *path* that is there now and stays."""
        folder = path.rpartition(b"/")[0]
        while folder and (
            folder in self._leaving or not self._is_folder(folder) or self._gave_way(folder)
        ):
            folder = folder.rpartition(b"/")[0]
        return folder

    def _in_the_way(self, path: bytes) -> bool:
        """True if something of this group is to stand below *path*, or in place of a folder above
        it."""
        return path in self._needed or self._gave_way(path)

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

    def _is_shared(self, expected: Stat) -> bool:
        return expected.identity in self._shared

    def _clear(self, number: int, job: Job) -> None:
        """Take the old side away, unless it is replaced where it stands."""
        if job.old_place is None or job.expected is None or (job.replaces and job.how != "delete"):
            return
        if job.how == "mode" or stat.S_ISDIR(job.expected.mode):
            return
        shared = self._is_shared(job.expected)
        if job.how == "move":
            if self._in_the_way(job.old_place):
                taken = self._batch.name(self._home(job.place))
                self._steps.append(Take(job.old_place, taken, job.expected, shared))
                self._ready[number] = taken, job.expected.identity
            return
        taken = self._batch.name(self._home(job.old_place))
        self._steps.append(Take(job.old_place, taken, job.expected, shared))

    def _removal(self, path: bytes) -> RemoveFolder:
        pin = self._batch.hands.pin(path)
        try:
            return RemoveFolder(path, Metadata.of(path_of(pin)))
        finally:
            os.close(pin)

    def _remove_tree(self, place: bytes) -> None:
        """Remove a folder in whose place a file is to stand; only folders may be left in it."""
        taken = {step.path for step in self._steps if isinstance(step, Take)}
        found = [place]
        at = 0
        while at < len(found):
            for name in self._source.list(found[at]):
                path = names.join(found[at], name)
                if self._is_folder(path):
                    found.append(path)
                elif path not in taken:
                    raise MovedError(NOT_EMPTY)
            at += 1
        self._steps += [self._removal(path) for path in reversed(found)]

    def _make_folders(self, job: Job) -> None:
        if job.how in ("delete", "mode"):
            return
        folder = job.place if job.how == "folder" else job.place.rpartition(b"/")[0]
        path = b""
        for name in folder.split(b"/") if folder else ():
            path = names.join(path, name)
            if path in self._made_folders:
                continue
            if self._is_folder(path) and not self._gave_way(path):
                continue
            metadata = self._folders.get(path)
            if metadata is None:
                raise MovedError(FOLDER_GONE)
            self._made_folders.add(path)
            self._steps.append(MakeFolder(path, metadata))

    def _put(self, number: int, job: Job) -> None:
        expected = job.expected if job.replaces else None
        shared = expected is not None and self._is_shared(expected)
        if job.how == "link":
            home = self._home(job.place)
            linked, made = self._batch.name(home), self._identity_at(job.link_to)
            self._steps.append(Link(job.link_to, linked, made))
            self._ready[number] = linked, made
        if number in self._ready:
            temporary, made = self._ready[number]
            backup = self._batch.name(temporary.folder)
            self._steps.append(Put(temporary, job.place, made, expected, backup, shared))
        elif job.how == "move":
            if job.old_place is None or job.expected is None:
                raise MovedError(GONE)
            shared = self._is_shared(job.expected)
            self._steps.append(Move(job.old_place, job.place, job.expected, shared))
        if job.how == "move" and job.metadata != Metadata():
            assert job.expected is not None
            assert job.old_place is not None
            self._set(job, job.old_place, job.expected)

    def _identity_at(self, place: bytes) -> Identity:
        for number, job in enumerate(self._jobs):
            if job.place == place and number in self._ready:
                return self._ready[number][1]
            if job.place == place and job.how == "move" and job.expected is not None:
                return job.expected.identity
        try:
            return self._source.stat(place).identity
        except (FileNotFoundError, NotADirectoryError):
            raise MovedError(GONE) from None

    def _set(self, job: Job, now_at: bytes, expected: Stat) -> None:
        before = attributes(self._batch.hands, now_at, job.metadata)
        shared = self._is_shared(expected)
        self._steps.append(SetAttributes(job.place, job.metadata, before, expected, shared))


def removals(batch: Batch, places: Sequence[bytes]) -> list[Step]:
    """Steps that remove folders that the agent removed, or moved away, if nothing is left in them.
    What is not empty holds something that the agent never saw, or that the user added."""
    found: list[Step] = []
    for place in sorted(places, key=len, reverse=True):
        try:
            pin = batch.hands.pin(place)
        except MovedError:
            continue
        try:
            found.append(RemoveFolder(place, Metadata.of(path_of(pin)), needed=False))
        finally:
            os.close(pin)
    return found
