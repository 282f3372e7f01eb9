"""Host trees behind grants, reached from descriptors a component at a time (promise 2).

A `Source` never follows a symlink, `..` or `/proc` link, never crosses into another mount (a
grant is of one mount; what is mounted inside has to be granted by itself, and our own mount
would wait for ourselves), and never opens anything but regular files and folders. Paths are
bytes relative to the source's root, b"" for the root itself.

The cache of folder descriptors belongs to the task that runs the core; worker threads get
descriptors of their own from `open_file` and `borrow_folder`.
"""

import errno
import itertools
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from vfs import names
from vfs.statx import CURRENT_FOLDER, Stat, stat_at, stat_fd

_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDERS_KEPT = 256
RECHECK_NS = 100_000_000
"""How long a cached folder descriptor is believed without another look at its name."""

_REMOTE = ("nfs", "cifs", "smb", "fuse", "9p", "ceph", "afs", "virtiofs", "vboxsf")

ENOENT = errno.ENOENT


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _component(name: bytes) -> bytes:
    """Return *name* unless it could lead anywhere but to an entry of its folder."""
    if name in (b"", b".", b"..") or b"\0" in name:
        raise _error(ENOENT)
    return name


def _open_quietly(path: bytes, flags: int, folder: int | None = None) -> int:
    """Open for reading, where the kernel lets us, without moving the access time of a source."""
    try:
        return os.open(path, flags | os.O_RDONLY | os.O_NOATIME, dir_fd=folder)
    except PermissionError:  # of another user's file
        return os.open(path, flags | os.O_RDONLY, dir_fd=folder)


class _Folder(NamedTuple):
    fd: int
    identity: tuple[int, int]
    checked_ns: int


def _is_remote(device: int) -> bool:
    """True if the file system with this device number is reached over a network or a daemon."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            fields = line.split()
            if fields[2].decode() == wanted:
                kind = fields[fields.index(b"-") + 1].decode()
                return kind.startswith(_REMOTE)
    return False


def never_protected(_identity: tuple[int, int]) -> bool:
    """The `protected` of a source that hides no object (tests, and tools without a state)."""
    return False


class Source:
    """One granted host folder or file.

    `root` is an absolute canonical host path. `protected` tells by (device, inode) which objects
    are never shown: the workspace's own state. Raises OSError as the calls beneath do; ENOENT
    for what is protected, EXDEV never: another mount is ENOENT too.

    Of a single file the source is the folder that it stands in, as if nothing else were there:
    `only` is the file's one path, the name *shown* (its own by default). The file is looked up by
    its name each time, so that an editor's rename over it is seen.
    """

    def __init__(
        self,
        root: bytes,
        protected: Callable[[tuple[int, int]], bool] = never_protected,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        shown: bytes | None = None,
        *,
        is_file: bool = False,
    ) -> None:
        """`is_file`: a single file was granted, whatever stands at its name now."""
        self.root = root
        self._protected = protected
        self._clock_ns = clock_ns
        self._folders: OrderedDict[bytes, _Folder] = OrderedDict()
        fd = -1
        self.identity, self.is_file = (0, 0), is_file
        if not is_file:
            fd = os.open(root, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._look_at(stat_fd(fd))
            except BaseException:
                os.close(fd)
                raise
        folder, self._host_name = os.path.split(root)
        self.only = b""
        if self.is_file:
            if fd >= 0:
                os.close(fd)
            self.only = shown or self._host_name
            fd = os.open(folder, _FOLDER_FLAGS)
        status = stat_fd(fd)
        self._anchor = fd
        self._anchor_identity = status.identity
        self._anchor_checked_ns = clock_ns()
        self._mount = status.mount
        self.home_dev = status.dev
        self.is_remote = _is_remote(status.dev)

    def _look_at(self, root: Stat) -> None:
        self.identity = root.identity
        self.is_file = stat.S_ISREG(root.mode)
        if not self.is_file and not stat.S_ISDIR(root.mode):
            raise _error(errno.EINVAL)
        if self._protected(root.identity):
            raise _error(ENOENT)

    def close(self) -> None:
        """Close every descriptor; the source is unusable afterwards."""
        for folder in self._folders.values():
            os.close(folder.fd)
        self._folders.clear()
        if self._anchor >= 0:
            os.close(self._anchor)
            self._anchor = -1

    def host_path(self, path: bytes) -> bytes:
        """The absolute host path that *path* names; for policy, logs and people only. What an
        agent keeps beside a single file is judged as the file is."""
        return self.root + b"/" + path if path and not self.is_file else self.root

    # -- folders ---------------------------------------------------------------------------

    def _anchored(self) -> int:
        """The anchor's descriptor, while what was granted still stands at its name."""
        now = self._clock_ns()
        if now - self._anchor_checked_ns > RECHECK_NS:
            path = os.path.dirname(self.root) if self.is_file else self.root
            try:
                same = stat_at(CURRENT_FOLDER, path).identity == self._anchor_identity
            except OSError:
                same = False
            if not same:
                raise _error(ENOENT)
            self._anchor_checked_ns = now
        return self._anchor

    def _open_folder(self, parent: int, name: bytes) -> _Folder:
        # O_PATH sends nothing to a daemon behind a mount, so that the mount check comes first.
        fd = os.open(_component(name), _FOLDER_FLAGS, dir_fd=parent)
        status = stat_fd(fd)
        if status.mount != self._mount or self._protected(status.identity):
            os.close(fd)
            raise _error(ENOENT)
        return _Folder(fd, status.identity, self._clock_ns())

    def _forget_folders(self, path: bytes) -> None:
        for known in [known for known in self._folders if names.within(known, path)]:
            os.close(self._folders.pop(known).fd)

    def _folder(self, path: bytes) -> int:
        """A descriptor of the folder at *path*, valid until the next call into this source."""
        parent, at, now = self._anchored(), b"", self._clock_ns()
        if not path:
            return parent
        if self.is_file:
            raise _error(ENOENT)
        for name in path.split(b"/"):
            at = names.join(at, name)
            known = self._folders.get(at)
            if known is not None and now - known.checked_ns > RECHECK_NS:
                # A folder that was moved out of the grant must not stay reachable through us.
                try:
                    same = stat_at(parent, name).identity == known.identity
                except OSError:
                    same = False
                if same:
                    known = self._folders[at] = known._replace(checked_ns=now)
                else:
                    self._forget_folders(at)
                    known = None
            if known is None:
                known = self._folders[at] = self._open_folder(parent, name)
            self._folders.move_to_end(at)
            parent = known.fd
        while len(self._folders) > _FOLDERS_KEPT:
            oldest = next(iter(self._folders))
            if self._folders[oldest].fd == parent:
                break
            os.close(self._folders.pop(oldest).fd)
        return parent

    def _place(self, path: bytes) -> tuple[int, bytes]:
        """The (folder descriptor, name) pair through which *path* is reached."""
        if self.is_file:
            if path != self.only:
                raise _error(ENOENT)
            return self._anchored(), self._host_name
        folder, _, name = path.rpartition(b"/")
        return self._folder(folder), _component(name)

    def place(self, path: bytes) -> tuple[int, bytes]:
        """A new folder descriptor of the caller's own and the name in it, for a commit."""
        folder, name = self._place(path)
        return os.dup(folder), name

    def look_again(self) -> None:
        """Believe no cached folder any more: a commit may have replaced any."""
        self._forget_folders(b"")

    def for_commit(self) -> "Source":
        """Another source over the same root, for the one worker thread that commits to it: it
        looks at every folder's name again each time. Raises OSError(ENOENT) where another object
        stands at the root's name now."""
        ticks = itertools.count(0, 2 * RECHECK_NS)
        other = Source(self.root, self._protected, lambda: next(ticks), self.only)
        if other._anchor_identity != self._anchor_identity:
            other.close()
            raise _error(ENOENT)
        return other

    def borrow_folder(self, path: bytes) -> int:
        """A new O_PATH descriptor of a folder, for the caller to use anywhere and close."""
        return os.dup(self._folder(path))

    # -- looking ---------------------------------------------------------------------------

    def stat(self, path: bytes) -> Stat:
        """Attributes of the object at *path*, a symlink's own."""
        if not path:
            return stat_fd(self._anchored(), fresh=self.is_remote)
        folder, name = self._place(path)
        if name.startswith(names.TEMPORARY_PREFIX):
            raise _error(ENOENT)  # a commit at work
        status = stat_at(folder, name)
        if status.mount != self._mount or status.mount_root or self._protected(status.identity):
            raise _error(ENOENT)
        if self.is_file and status.kind != stat.S_IFREG:
            raise _error(ENOENT)  # a file was granted; whatever stands at its name now was not
        if self.is_remote:
            status = stat_at(folder, name, fresh=True)
        return status

    def stat_open(self, fd: int) -> Stat:
        """Attributes of a file of this source by a descriptor of it."""
        return stat_fd(fd, fresh=self.is_remote)

    def occupied(self, path: bytes) -> bool:
        """True if the host has anything at *path*, protected objects and mounts included."""
        try:
            stat_at(*self._place(path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def exists(self, path: bytes) -> bool:
        """True if anything that this source may show is at *path*."""
        try:
            self.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def list(self, path: bytes) -> list[bytes]:
        """Names in the folder at *path*, unsorted, protected objects and mounts included, a
        commit's temporary siblings not; of a single file's folder its own."""
        if self.is_file:
            self._folder(path)
            return [self.only] if self.exists(self.only) else []
        fd = _open_quietly(b".", os.O_DIRECTORY | os.O_CLOEXEC, self._folder(path))
        try:
            with os.scandir(fd) as entries:
                found = [os.fsencode(entry.name) for entry in entries]
        finally:
            os.close(fd)
        return [name for name in found if not name.startswith(names.TEMPORARY_PREFIX)]

    def readlink(self, path: bytes) -> bytes:
        """Target of the symlink at *path*. Raises OSError(ENOENT) for one that is hidden, EINVAL
        for what is no symlink."""
        if self.stat(path).kind != stat.S_IFLNK:
            raise _error(errno.EINVAL)
        folder, name = self._place(path)
        return os.readlink(name, dir_fd=folder)

    # -- reading ---------------------------------------------------------------------------

    def open_file(self, path: bytes) -> tuple[int, Stat]:
        """Open the regular file at *path* for reading; the caller closes the descriptor.

        The object is pinned by an O_PATH descriptor and looked at before it is opened, so that a
        FIFO or device put in its place is never opened. Raises ENXIO for those, ELOOP for a link,
        EISDIR for a folder, EAGAIN where another program's lease would have to be waited for.
        """
        folder, name = self._place(path)
        pin = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            status = stat_fd(pin)
            if status.mount != self._mount or self._protected(status.identity):
                raise _error(ENOENT)
            if stat.S_ISLNK(status.mode):
                raise _error(errno.ELOOP)
            if not stat.S_ISREG(status.mode):
                raise _error(errno.EISDIR if stat.S_ISDIR(status.mode) else errno.ENXIO)
            # O_NONBLOCK: breaking a lease of another program takes up to 45 s.
            flags = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
            fd = _open_quietly(b"/proc/self/fd/%d" % pin, flags)
        finally:
            os.close(pin)
        return fd, status

    def xattrs(self, path: bytes, allowed: frozenset[bytes]) -> dict[bytes, bytes]:
        """The extended attributes of *path* that are on the allow-list."""
        fd, _status = self.open_file(path)
        try:
            found = {}
            for name in os.listxattr(fd):
                raw = os.fsencode(name)
                if raw in allowed:
                    found[raw] = os.getxattr(fd, name)
            return found
        except OSError as error:
            if error.errno == errno.ENOTSUP:
                return {}
            raise
        finally:
            os.close(fd)
