"""From the steps of a commit to those that put its sources back as they were.

The steps in reverse, with images in the place of what was thrown away. `changed` tells first where
a source is not any more as the commit left it. For one worker thread at a time.
"""

import os
import stat
from collections.abc import Callable, Sequence

from gateway.commit.batch import Batch
from gateway.commit.images import Image, Kept, digest_of
from gateway.commit.metadata import Metadata, path_of
from gateway.commit.steps import (
    Hands,
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
from vfs.statx import Stat

Identity = tuple[int, int]


def changed(
    hands: Hands, steps: Sequence[Step], kept: Sequence[Kept], digest_key: bytes
) -> list[bytes]:
    """Places that are not as these steps left them. Raises OSError."""
    # By another of its names, a file may have got another mode.
    modes = {
        step.expected.identity: step.metadata.mode
        for step in steps
        if isinstance(step, SetAttributes) and step.metadata.mode is not None
    }
    moved_from = {step.to: step for step in steps if isinstance(step, Take)}
    checks: dict[bytes, Callable[[], bool]] = {}
    attributes_set: dict[bytes, SetAttributes] = {}
    for step, about in zip(steps, kept, strict=True):
        if isinstance(step, Take):
            checks[step.path] = _is(hands, step.path, _absent)
        elif isinstance(step, Put):
            taken = moved_from.get(step.temporary)
            if taken is not None:
                checks[step.path] = _is(hands, step.path, _moved(taken.expected))
            else:
                mode = modes.get(step.made, about.mode)
                checks[step.path] = _holds(hands, step.path, mode, about.digest, digest_key)
        elif isinstance(step, Move):
            checks[step.path] = _is(hands, step.path, _absent)
            checks[step.new_path] = _is(hands, step.new_path, _moved(step.expected))
        elif isinstance(step, MakeFolder):
            checks[step.path] = _is(hands, step.path, _folder_or_absent)
        elif isinstance(step, RemoveFolder):
            checks.setdefault(step.path, _is(hands, step.path, _folder_or_absent))
        elif isinstance(step, SetAttributes):
            attributes_set[step.path] = step
    found = [path for path, holds in checks.items() if not holds()]
    for path, step in attributes_set.items():
        now = hands.look(path) if path else _root(hands)
        wanted = step.metadata.mode
        if now is None or (wanted is not None and stat.S_IMODE(now.mode) != wanted):
            found.append(path)
    return sorted(set(found))


def _root(hands: Hands) -> Stat:
    return hands.source.stat(b"")


def _is(hands: Hands, path: bytes, holds: Callable[[Stat | None], bool]) -> Callable[[], bool]:
    return lambda: holds(hands.look(path))


def _absent(now: Stat | None) -> bool:
    return now is None


def _folder_or_absent(now: Stat | None) -> bool:
    return now is None or stat.S_ISDIR(now.mode)


def _moved(expected: Stat) -> Callable[[Stat | None], bool]:
    # Not by identity: an undo of a later commit may have made the file anew.
    return lambda now: now is not None and (now.kind, now.size, now.mtime_ns) == (
        expected.kind, expected.size, expected.mtime_ns,
    )  # fmt: skip


def _holds(
    hands: Hands, path: bytes, mode: int | None, digest: bytes | None, key: bytes
) -> Callable[[], bool]:
    def holds() -> bool:
        try:
            folder, name = hands.place(path)
            now = digest_of(folder, name, key)
        except (FileNotFoundError, MovedError):
            return False
        if digest is None or mode is None:
            return True
        return stat.S_IMODE(now[0]) == stat.S_IMODE(mode) and now[1] == digest

    return holds


class Reversal:
    """Makes the steps back; *fill* gives what writes an image's content, *target* a symlink's."""

    def __init__(
        self,
        batch: Batch,
        steps: Sequence[Step],
        kept: Sequence[Kept],
        fill: Callable[[Image], Callable[[int], None]],
        target: Callable[[Image], bytes],
    ) -> None:
        self._batch = batch
        self._hands = batch.hands
        self._pairs = list(zip(steps, kept, strict=True))
        self._fill = fill
        self._target = target
        self._leaving = {step.path for step in steps if isinstance(step, MakeFolder)}
        self._moved = {step.to: step for step in steps if isinstance(step, Take)}
        self._held: dict[Temporary, Temporary] = {}
        self._restored: dict[Identity, tuple[bytes, Identity]] = {}
        self._back: list[Step] = []

    def steps(self) -> list[Step]:
        """Write what was taken away to temporary siblings, and say what is to be done. Raises
        MovedError, OSError."""
        for step, kept in reversed(self._pairs):
            if isinstance(step, SetAttributes):
                self._set_back(step)
            elif isinstance(step, RemoveFolder):
                # One that was not needed may not have been taken: a file stood there by then.
                now = self._hands.look(step.path)
                if now is None or (step.needed and not stat.S_ISDIR(now.mode)):
                    self._back.append(MakeFolder(step.path, step.before))
            elif isinstance(step, MakeFolder):
                self._remove_folder(step.path)
            elif isinstance(step, Move):
                now = self._there(step.new_path)
                self._back.append(Move(step.new_path, step.path, now, shared=True))
            elif isinstance(step, Put):
                self._take_out(step, kept)
            elif isinstance(step, Take):
                self._put_in(step, kept)
        return self._back

    def _home(self, path: bytes) -> bytes:
        folder = path.rpartition(b"/")[0]
        while folder and (folder in self._leaving or not self._is_folder(folder)):
            folder = folder.rpartition(b"/")[0]
        return folder

    def _is_folder(self, path: bytes) -> bool:
        now = self._hands.look(path)
        return now is not None and stat.S_ISDIR(now.mode)

    def _there(self, path: bytes) -> Stat:
        now = self._hands.look(path)
        if now is None:
            raise MovedError("the source's file is gone")
        return now

    def _set_back(self, step: SetAttributes) -> None:
        now = self._there(step.path) if step.path else _root(self._hands)
        before = attributes(self._hands, step.path, step.before)
        self._back.append(SetAttributes(step.path, step.before, before, now, shared=True))

    def _remove_folder(self, path: bytes) -> None:
        try:
            pin = self._hands.pin(path)
        except MovedError:
            return
        try:
            before = Metadata.of(path_of(pin))
        finally:
            os.close(pin)
        self._back.append(RemoveFolder(path, before, needed=False))

    def _take_out(self, step: Put, kept: Kept) -> None:
        now = self._there(step.path)
        moved = step.temporary in self._moved
        if not moved and kept.image is not None and step.expected is not None:
            self._restore(step.path, kept.image, step.expected.identity, over=now)
            return
        taken = self._batch.name(self._home(step.path))
        self._back.append(Take(step.path, taken, now, shared=True))
        if moved:
            self._held[step.temporary] = taken
        if kept.image is not None and step.expected is not None:
            self._restore(step.path, kept.image, step.expected.identity, over=None)

    def _put_in(self, step: Take, kept: Kept) -> None:
        if step.to in self._held:
            taken = self._held[step.to]
            backup = self._batch.name(taken.folder)
            self._back.append(Put(taken, step.path, step.expected.identity, None, backup))
        elif kept.image is not None:
            self._restore(step.path, kept.image, step.expected.identity, over=None)

    def _restore(self, path: bytes, image: Image, was: Identity, *, over: Stat | None) -> None:
        home = self._home(path)
        if was in self._restored:
            # Another name of one file becomes that again.
            other, made = self._restored[was]
            temporary = self._batch.name(home)
            self._back.append(Link(other, temporary, made))
        elif image.kind == "symlink":
            target = self._target(image)
            temporary, made = self._batch.make_symlink(home, target, image.metadata)
        else:
            temporary, made = self._batch.make_file(home, self._fill(image), image.metadata)
        self._restored.setdefault(was, (path, made))
        backup = self._batch.name(temporary.folder)
        self._back.append(Put(temporary, path, made, over, backup, shared=over is not None))
