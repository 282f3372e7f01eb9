"""The steps by which a source is changed. The only code of grantfs that changes one.

Each step is data that the journal keeps, and is known before the first one is taken. It never
follows a link and never replaces what it did not expect: new contents stand under a temporary name
and are exchanged with the old file, which is looked at again once it is out of the way. Whether a
step was taken is told by what is there, so that `revert` serves a step that failed as well as one
that a crash cut short. Paths are within the source; all of it is for one worker thread.
"""

import ctypes
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.commit.metadata import STORED, Metadata, path_of, some_xattrs
from vfs.source import Source
from vfs.statx import Stat, stat_at, stat_fd

T = TypeVar("T")

_NOREPLACE = 1
_EXCHANGE = 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_STAYS = (*_GONE, errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY)
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = _libc.renameat2
_renameat2.argtypes = [
    ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint,
]  # fmt: skip


class MovedError(Exception):
    """The source is not what it was when the change was checked: a conflict."""


GONE = "the source's file is gone"
THERE = "the source has something there now"
CHANGED = "the source changed"
FOLDER_GONE = "its folder in the source is gone or was replaced"
NOT_EMPTY = "the source's folder holds something that the agent was not shown"


def rename(folder: int, name: bytes, new_folder: int, new_name: bytes, flags: int = 0) -> None:
    """renameat2(2). Raises OSError."""
    if _renameat2(folder, name, new_folder, new_name, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def rename_noreplace(folder: int, name: bytes, new_folder: int, new_name: bytes) -> None:
    """Rename, unless the new name exists. Raises FileExistsError, OSError."""
    try:
        rename(folder, name, new_folder, new_name, _NOREPLACE)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        # A file system that cannot promise it: as near as one gets.
        if _look(new_folder, new_name) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        rename(folder, name, new_folder, new_name)


def _look(folder: int, name: bytes) -> Stat | None:
    try:
        return stat_at(folder, name, fresh=True)
    except FileNotFoundError:
        return None


def same(now: Stat, expected: Stat, *, renamed: bool = False, shared: bool = False) -> bool:
    """True for the version that was expected. `renamed` and a change of the link count explain
    another ctime; that other steps meet an object by other names (`shared`), another mode too."""
    if (now.dev, now.ino, now.kind) != (expected.dev, expected.ino, expected.kind):
        return False
    if not shared and now.mode != expected.mode:
        return False
    if stat.S_ISDIR(now.mode):
        return True
    if (now.size, now.mtime_ns) != (expected.size, expected.mtime_ns):
        return False
    if renamed or shared or now.ctime_ns == expected.ctime_ns:
        return True
    return now.nlink != expected.nlink


@dataclass(frozen=True, slots=True, config=STORED)
class Temporary:
    """A name that a commit uses for a while, in the source folder at `folder`."""

    folder: bytes
    name: bytes


class Hands:
    """Reaches into one source, the thread's own (`Source.for_commit`). `touched` are folders whose
    names changed; `kept` temporaries that hold what could not be put back."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.touched: set[bytes] = set()
        self.kept: set[Temporary] = set()

    def folder(self, path: bytes) -> int:
        """A descriptor of a folder, for the caller to close. Raises MovedError, OSError."""
        try:
            return self.source.borrow_folder(path)
        except OSError as error:
            if error.errno in _GONE:
                raise MovedError(FOLDER_GONE) from None
            raise

    def place(self, path: bytes) -> tuple[int, bytes]:
        """The folder's descriptor, for the caller to close, and the name in it, of a place that is
        to change. Raises MovedError, OSError."""
        try:
            found = self.source.place(path)
        except OSError as error:
            if error.errno in _GONE:
                raise MovedError(FOLDER_GONE) from None
            raise
        self.touched.add(path.rpartition(b"/")[0])
        return found

    @contextmanager
    def at_folder(self, path: bytes) -> Iterator[int]:
        """`folder`, closed at the end."""
        folder = self.folder(path)
        try:
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def at_place(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """`place`, closed at the end."""
        folder, name = self.place(path)
        try:
            yield folder, name
        finally:
            os.close(folder)

    def pin(self, path: bytes) -> int:
        """An O_PATH descriptor of what is at *path* itself, for the caller to close."""
        if not path:
            return self.folder(b"")
        folder, name = self.place(path)
        try:
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            raise MovedError(GONE) from None
        finally:
            os.close(folder)

    def look(self, path: bytes) -> Stat | None:
        """What is at *path*, None for nothing."""
        try:
            folder, name = self.place(path)
        except MovedError:
            return None
        try:
            return _look(folder, name)
        finally:
            os.close(folder)

    def at(self, temporary: Temporary) -> Stat | None:
        """What is under a temporary name, None for nothing."""
        try:
            folder = self.folder(temporary.folder)
        except MovedError:
            return None
        try:
            return _look(folder, temporary.name)
        finally:
            os.close(folder)

    def remove(self, temporary: Temporary) -> None:
        """Remove a temporary, unless it holds what could not be put back. Raises OSError."""
        if temporary in self.kept:
            return
        try:
            folder = self.folder(temporary.folder)
        except MovedError:
            return
        try:
            # Where nothing can be written, not even a name that was never made can be removed.
            if _look(folder, temporary.name) is not None:
                with suppress(FileNotFoundError):
                    opened_up(folder, lambda: os.unlink(temporary.name, dir_fd=folder))
        finally:
            os.close(folder)

    def keep(self, temporary: Temporary) -> OSError:
        """Note that the user's own file stays under a temporary name; the error that says so."""
        self.kept.add(temporary)
        where = os.path.join(self.source.root, temporary.folder, temporary.name)
        return OSError(errno.EBUSY, f"another file has taken a place; kept as {os.fsdecode(where)}")


def opened_up(folder: int, action: Callable[[], T]) -> T:
    """Do what a commit has to do in a folder (an O_PATH descriptor) that the same commit may have
    closed to its owner. Raises OSError."""
    try:
        return action()
    except PermissionError:
        mode = stat.S_IMODE(os.stat(path_of(folder)).st_mode)
        os.chmod(path_of(folder), mode | stat.S_IRWXU)
        try:
            return action()
        finally:
            os.chmod(path_of(folder), mode)


def _check(folder: int, name: bytes, expected: Stat | None, shared: bool) -> None:
    now = _look(folder, name)
    if expected is None:
        if now is not None:
            raise MovedError(THERE)
    elif now is None:
        raise MovedError(GONE)
    elif not same(now, expected, shared=shared):
        raise MovedError(CHANGED)


# -- steps. `perform` raises MovedError and OSError, `revert` OSError. -----------------------


@dataclass(frozen=True, slots=True, config=STORED)
class Take:
    """A file or link goes out of its place, to a temporary name."""

    path: bytes
    to: Temporary
    expected: Stat
    shared: bool = False
    step: Literal["take"] = "take"

    def perform(self, hands: Hands) -> None:
        with hands.at_place(self.path) as (folder, name), hands.at_folder(self.to.folder) as to:
            _check(folder, name, self.expected, self.shared)
            rename_noreplace(folder, name, to, self.to.name)
            now = _look(to, self.to.name)
            if now is None or not same(now, self.expected, renamed=True, shared=self.shared):
                raise MovedError(CHANGED)

    def revert(self, hands: Hands) -> None:
        if hands.at(self.to) is None:
            return
        _move_back(hands, self.to, self.path)


def _move_back(hands: Hands, taken: Temporary, path: bytes) -> None:
    try:
        folder, name = hands.place(path)
    except MovedError:
        raise hands.keep(taken) from None
    try:
        at = hands.folder(taken.folder)
        try:
            rename_noreplace(at, taken.name, folder, name)
        except FileExistsError:
            raise hands.keep(taken) from None
        except OSError:
            hands.keep(taken)
            raise
        finally:
            os.close(at)
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True, config=STORED)
class Link:
    """A temporary name becomes another name of the object `made` at `other`."""

    other: bytes
    to: Temporary
    made: tuple[int, int]
    step: Literal["link"] = "link"

    def perform(self, hands: Hands) -> None:
        with hands.at_folder(self.to.folder) as to:
            with hands.at_place(self.other) as (of, name):
                try:
                    os.link(name, self.to.name, src_dir_fd=of, dst_dir_fd=to, follow_symlinks=False)
                except FileNotFoundError:
                    raise MovedError(GONE) from None
            now = _look(to, self.to.name)
            if now is None or now.identity != self.made:
                raise MovedError(CHANGED)

    def revert(self, hands: Hands) -> None:
        """Temporaries are removed once all steps are reverted."""


@dataclass(frozen=True, slots=True, config=STORED)
class Put:
    """The temporary object `made` goes to its place: over the version `expected`, which then has
    the temporary name, or where nothing is. `backup` serves file systems without an exchange."""

    temporary: Temporary
    path: bytes
    made: tuple[int, int]
    expected: Stat | None
    backup: Temporary
    shared: bool = False
    step: Literal["put"] = "put"

    def perform(self, hands: Hands) -> None:
        with (
            hands.at_place(self.path) as (folder, name),
            hands.at_folder(self.temporary.folder) as at,
        ):
            _check(folder, name, self.expected, self.shared)
            if self.expected is None:
                self._put_new(at, folder, name)
            else:
                self._put_over(at, folder, name, self.expected)

    def _put_new(self, at: int, folder: int, name: bytes) -> None:
        try:
            rename_noreplace(at, self.temporary.name, folder, name)
        except FileExistsError:
            raise MovedError(THERE) from None

    def _put_over(self, at: int, folder: int, name: bytes, expected: Stat) -> None:
        try:
            rename(at, self.temporary.name, folder, name, _EXCHANGE)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            os.link(name, self.backup.name, src_dir_fd=folder, dst_dir_fd=at, follow_symlinks=False)
            rename(at, self.temporary.name, folder, name)
            return
        displaced = _look(at, self.temporary.name)
        if displaced is None or not same(displaced, expected, renamed=True, shared=self.shared):
            raise MovedError(CHANGED)

    def revert(self, hands: Hands) -> None:
        now, mine = hands.look(self.path), hands.at(self.temporary)
        if mine is not None and mine.identity == self.made:
            return  # it was not put there
        if self.expected is None:
            if now is not None and now.identity == self.made:
                with (
                    hands.at_place(self.path) as (folder, name),
                    hands.at_folder(self.temporary.folder) as at,
                ):
                    rename_noreplace(folder, name, at, self.temporary.name)
            return
        holding = self.temporary if mine is not None else self.backup
        if now is None or now.identity != self.made or hands.at(holding) is None:
            if hands.at(holding) is not None:
                raise hands.keep(holding)
            return
        with (
            hands.at_place(self.path) as (folder, name),
            hands.at_folder(holding.folder) as at,
        ):
            try:
                rename(at, holding.name, folder, name, _EXCHANGE if mine is not None else 0)
            except OSError:
                hands.keep(holding)
                raise


@dataclass(frozen=True, slots=True, config=STORED)
class Move:
    """A file or link gets another name, where nothing is."""

    path: bytes
    new_path: bytes
    expected: Stat
    shared: bool = False
    step: Literal["move"] = "move"

    def perform(self, hands: Hands) -> None:
        with hands.at_place(self.path) as (folder, name), hands.at_place(self.new_path) as new:
            _check(folder, name, self.expected, self.shared)
            try:
                rename_noreplace(folder, name, *new)
            except FileExistsError:
                raise MovedError(THERE) from None
            now = _look(*new)
            if now is None or not same(now, self.expected, renamed=True, shared=self.shared):
                raise MovedError(CHANGED)

    def revert(self, hands: Hands) -> None:
        there, back = hands.look(self.new_path), hands.look(self.path)
        if there is None or there.identity != self.expected.identity:
            return
        if back is not None:
            if back.identity == self.expected.identity:
                return  # two names of one file, and this step was not taken
            raise OSError(errno.EEXIST, f"{os.fsdecode(self.path)} is taken; the file stays moved")
        with hands.at_place(self.new_path) as here, hands.at_place(self.path) as old:
            rename_noreplace(*here, *old)


@dataclass(frozen=True, slots=True, config=STORED)
class MakeFolder:
    """A folder is made, unless one is there."""

    path: bytes
    metadata: Metadata
    step: Literal["make-folder"] = "make-folder"

    def perform(self, hands: Hands) -> None:
        parent, name = hands.place(self.path)
        try:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(stat_at(parent, name).mode):
                    raise MovedError("the source has a file where a folder is to be") from None
                return
            _dress(parent, name, self.metadata)
        finally:
            os.close(parent)

    def revert(self, hands: Hands) -> None:
        with suppress(MovedError):
            parent, name = hands.place(self.path)
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                # What somebody put into it meanwhile stays.
                if error.errno not in (*_GONE, errno.ENOTEMPTY, errno.EEXIST):
                    raise
            finally:
                os.close(parent)


def _dress(parent: int, name: bytes, metadata: Metadata) -> None:
    fd = os.open(name, _FOLDER_FLAGS, dir_fd=parent)
    try:
        metadata.give(fd)
        os.fsync(fd)
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True, config=STORED)
class RemoveFolder:
    """An empty folder, of which `before` is kept, is removed. If not `needed`, one that is not
    empty stays: it holds what the agent never saw."""

    path: bytes
    before: Metadata
    needed: bool = True
    step: Literal["remove-folder"] = "remove-folder"

    def perform(self, hands: Hands) -> None:
        try:
            parent, name = hands.place(self.path)
        except MovedError:
            if self.needed:
                raise
            return
        try:
            os.rmdir(name, dir_fd=parent)
        except OSError as error:
            if not self.needed and error.errno in _STAYS:
                return
            if error.errno == errno.ENOENT:
                raise MovedError(GONE) from None
            if error.errno == errno.ENOTDIR:
                raise MovedError(CHANGED) from None
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise MovedError(NOT_EMPTY) from None
            raise
        finally:
            os.close(parent)

    def revert(self, hands: Hands) -> None:
        try:
            parent, name = hands.place(self.path)
        except MovedError as error:
            raise OSError(errno.ENOENT, str(error)) from None
        try:
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                return
            _dress(parent, name, self.before)
        finally:
            os.close(parent)


@dataclass(frozen=True, slots=True, config=STORED)
class SetAttributes:
    """Permission bits, owner and extended attributes of a file or folder change."""

    path: bytes
    metadata: Metadata
    before: Metadata
    expected: Stat
    shared: bool = False
    step: Literal["set-attributes"] = "set-attributes"

    def perform(self, hands: Hands) -> None:
        pin = hands.pin(self.path)
        try:
            now, expected = stat_fd(pin, fresh=True), self.expected
            if now.identity != expected.identity or now.kind != expected.kind:
                raise MovedError(CHANGED)
            was = (now.mode, now.uid, now.gid) == (expected.mode, expected.uid, expected.gid)
            if not was and not self.shared:
                raise MovedError(CHANGED)
            self.metadata.give(path_of(pin))
        finally:
            os.close(pin)

    def revert(self, hands: Hands) -> None:
        try:
            pin = hands.pin(self.path)
        except MovedError:
            return
        try:
            if stat_fd(pin, fresh=True).identity == self.expected.identity:
                self.before.give(path_of(pin))
        finally:
            os.close(pin)


def attributes(hands: Hands, path: bytes, wanted: Metadata) -> Metadata:
    """What `wanted` is about to change, as it is now. Raises MovedError, OSError."""
    pin = hands.pin(path)
    try:
        now = stat_fd(pin, fresh=True)
        mode = None if stat.S_ISLNK(now.mode) else stat.S_IMODE(now.mode)
        changed = some_xattrs(path_of(pin), [name for name, _value in wanted.xattrs])
        times = None if wanted.times_ns is None else (now.atime_ns, now.mtime_ns)
        return Metadata(mode, now.uid, now.gid, times, changed)
    finally:
        os.close(pin)


Step = Take | Link | Put | Move | MakeFolder | RemoveFolder | SetAttributes
AnyStep = Annotated[Step, Field(discriminator="step")]
"""A step as it is read from JSON."""
