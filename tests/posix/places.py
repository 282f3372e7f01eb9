"""Where a case of the POSIX suite runs, and what it sees there.

A case is a generator: it makes what it needs, yields, and then acts. The same case runs in a plain
folder and in a mount; before the `yield` it may be in the mount's source instead, so that what it
acts on is the user's. What it saw in both places is compared, and so are the trees it leaves.
"""

import contextlib
import ctypes
import errno
import os
import pickle
import signal
import stat
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x1000
SECONDS = 60
"""No case takes longer; one that does hangs."""

Case = Callable[["Place"], Iterator[None]]
CASES: dict[str, Case] = {}


def case(function: Case) -> Case:
    """Add a case to the suite."""
    assert function.__name__ not in CASES, function.__name__
    CASES[function.__name__] = function
    return function


def checked(result: int) -> int:
    """The result of a C function; raises OSError where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


@dataclass(frozen=True)
class Who:
    """Credentials of a process."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def become(self) -> None:
        """Take them on for good."""
        os.setgroups(self.groups)
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)


class Place:
    """A folder in which a case runs. `seen` is all that it saw, for comparison."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.seen: list[tuple[str, object]] = []

    def __call__(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    # -- making ----------------------------------------------------------------------------

    def file(self, name: str, data: bytes = b"data\n", mode: int = 0o644) -> str:
        """Make a file."""
        path = self(name)
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        os.write(fd, data)
        os.fchmod(fd, mode)
        os.close(fd)
        return path

    def folder(self, name: str, mode: int = 0o755) -> str:
        """Make a folder."""
        os.mkdir(self(name))
        os.chmod(self(name), mode)
        return self(name)

    def open(self, name: str, flags: int = os.O_RDWR, mode: int = 0o666) -> int:
        """A descriptor; a case need not close it."""
        return os.open(self(name), flags, mode)

    # -- seeing ----------------------------------------------------------------------------

    def note(self, what: str, value: object) -> None:
        """Remember something for the comparison."""
        self.seen.append((what, value))

    def see(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Make a call and note its result or errno; None where it fails."""
        shown = [self._shown(argument) for argument in arguments]
        what = f"{len(self.seen)} {getattr(call, '__name__', call)}({', '.join(map(str, shown))})"
        try:
            result = call(*arguments, **options)
        except OSError as error:
            self.note(what, errno.errorcode[error.errno or 0])
            return None
        self.note(what, self._shown(result))
        return result

    def opens(self, name: str, flags: int = os.O_RDWR, mode: int = 0o666) -> int:
        """As `open`, noting how it ends; -1 where it fails."""
        try:
            fd = self.open(name, flags, mode)
        except OSError as error:
            self.note(f"open {name} {flags:o}", errno.errorcode[error.errno or 0])
            return -1
        self.note(f"open {name} {flags:o}", "open")
        return fd

    def _shown(self, value: Any) -> Any:
        if isinstance(value, os.stat_result):
            return self.status(value)
        if isinstance(value, str):
            return value.replace(self.root, "@")
        if isinstance(value, bytes):
            return value.replace(os.fsencode(self.root), b"@") if len(value) < 999 else hash(value)
        return value

    @staticmethod
    def status(status: os.stat_result) -> tuple[object, ...]:
        """What can be compared of a stat."""
        kind = stat.S_IFMT(status.st_mode)
        size = status.st_size if kind != stat.S_IFDIR else "-"
        return (stat.filemode(status.st_mode), oct(status.st_mode), status.st_nlink, status.st_uid,
                status.st_gid, size, status.st_rdev)  # fmt: skip

    def look(self, *names: str) -> None:
        """Note what lstat says of each name."""
        for name in names:
            self.see(os.lstat, self(name))

    def read(self, name: str) -> None:
        """Note a file's content."""
        self.see(lambda: Path(self(name)).read_bytes())

    def tree(self, *, attributes: bool = True) -> dict[str, object]:
        """All that is there now, with extended *attributes* or without."""
        found: dict[str, object] = {}
        for folder, folders, files in os.walk(self.root):
            for name in ["", *folders, *files]:
                path = f"{folder}/{name}".rstrip("/")
                content: object = None
                try:
                    status = os.lstat(path)
                except PermissionError:
                    found[os.path.relpath(path, self.root)] = "closed"
                    continue
                if stat.S_ISLNK(status.st_mode):
                    content = self._shown(os.readlink(path))
                elif stat.S_ISREG(status.st_mode):
                    with contextlib.suppress(PermissionError):
                        content = self._shown(Path(path).read_bytes())
                xattrs: object = None
                if attributes and not stat.S_ISLNK(status.st_mode):
                    with contextlib.suppress(PermissionError):
                        xattrs = sorted(
                            (key, os.getxattr(path, key))
                            for key in os.listxattr(path)
                            if key.startswith("user.")
                        )
                found[os.path.relpath(path, self.root)] = (self.status(status), content, xattrs)
        return found

    def moved(self, call: Callable[..., Any], *arguments: Any, of: Sequence[str] = ("",)) -> Any:
        """Make a call and note which times of *of* it moved: a(ccess), m(odification), c(hange)."""

        def times() -> list[tuple[int, int, int]]:
            found = []
            for name in of:
                status = os.lstat(self(name))
                found.append((status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns))
            return found

        before = times()
        tick()
        result = self.see(call, *arguments)
        for name, old, new in zip(of, before, times(), strict=True):
            which = "".join(
                letter for letter, one, other in zip("amc", old, new, strict=True) if other > one
            )
            self.note(f"moved times of {name!r}", which)
        return result

    # -- as somebody else ------------------------------------------------------------------

    def as_user(self, who: Who, act: Callable[["Place"], object]) -> None:
        """Let another user act here; what that user sees is noted as well."""
        inner = Place(self.root)

        def work() -> None:
            try:
                who.become()
            except OSError as error:
                inner.note("become", errno.errorcode[error.errno or 0])
                return
            act(inner)

        self.seen.extend(in_child(work, inner))


def tick() -> None:
    """Wait until the clock that files are stamped with has moved on (it ticks every 4 ms or so)."""
    clock = 5  # CLOCK_REALTIME_COARSE
    before = time.clock_gettime_ns(clock)
    while time.clock_gettime_ns(clock) == before:
        time.sleep(0.001)


def in_child(work: Callable[[], object], place: Place) -> list[tuple[str, object]]:
    """Do something in a process of its own: its umask, user and descriptors end with it. Returns
    what was seen at *place*. Raises AssertionError with the traceback of what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            signal.alarm(SECONDS)
            os.umask(0o022)
            trouble = ""
            try:
                work()
            except BaseException:
                trouble = traceback.format_exc()
            with open(writer, "wb") as out:
                pickle.dump((place.seen, trouble), out)
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    assert said, f"the child ended with status {status}"
    seen, trouble = pickle.loads(said)
    assert not trouble, trouble
    return list(seen)


def perform(one: Case, given: str, root: str, who: Who | None = None) -> list[tuple[str, object]]:
    """Run a case: what it needs is made in *given*, then it acts in *root*, as *who*."""
    place = Place(given)

    def work() -> None:
        if who is not None:
            who.become()
        steps = one(place)
        next(steps)
        place.root = root
        for _ in steps:
            raise AssertionError("a case yields once")
        for name, entry in sorted(place.tree().items()):
            place.note(f"left {name}", entry)

    return in_child(work, place)


# -- calls that Python does not have -------------------------------------------------------


def renameat2(old: str, new: str, flags: int) -> None:
    """renameat2(2)."""
    checked(LIBC.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """fallocate(2)."""
    checked(LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(size)))


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def utimensat(path: str, atime_ns: int, mtime_ns: int) -> None:
    """utimensat(2) with nanosecond parts that may be UTIME_NOW or UTIME_OMIT (seconds 0)."""
    times = (_Timespec * 2)(_Timespec(0, atime_ns), _Timespec(0, mtime_ns))
    checked(LIBC.utimensat(AT_FDCWD, os.fsencode(path), times, 0))


def linkat_fd(fd: int, path: str) -> None:
    """linkat(2) of an open file, through /proc."""
    checked(LIBC.linkat(AT_FDCWD, b"/proc/self/fd/%d" % fd, AT_FDCWD, os.fsencode(path), 0x400))
