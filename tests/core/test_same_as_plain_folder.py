"""The stage behaves as a plain folder does (promise 4): the same random operations on the core
and on a real folder give the same results, errno and tree, also after a restart."""

import errno
import os
import random
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from core_agent import EXCHANGE, NOREPLACE, Agent, File
from core_workspace import Workspace

OLD_NS = 1_500_000_000_000_000_000
"""Times that a test sets lie about here, those of changes about now."""


def real_rename(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2) on real paths."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, old, -100, new, flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def fill(root: Path) -> None:
    """A source with something of everything."""
    (root / "d/sub/deep").mkdir(parents=True)
    (root / "e").mkdir()
    (root / "full").mkdir()
    for n in range(4):
        (root / f"full/f{n}").write_bytes(b"full %d\n" % n)
    (root / "a").write_bytes(b"alpha\n" * 10)
    (root / "b").write_bytes(b"")
    (root / "d/one").write_bytes(b"one " * 3000)
    (root / "d/sub/two").write_bytes(b"two")
    (root / "d/sub/deep/three").write_bytes(b"three" * 40_000)
    os.link(root / "a", root / "a.link")
    os.link(root / "a", root / "d/a.link")
    os.link(root / "d/one", root / "e/one.link")
    os.symlink("nowhere", root / "sym")
    os.symlink("../a", root / "d/sym")
    os.chmod(root / "b", 0o600)
    os.chmod(root / "full/f1", 0o755)
    paths = [root, *root.rglob("*")]
    for number, path in enumerate(sorted(paths, reverse=True)):
        at = OLD_NS + number * 1_000_000_000
        os.utime(path, ns=(at, at), follow_symlinks=False)


@dataclass(frozen=True)
class Seen:
    """What stat and reading tell of one path, by what can be compared."""

    mode: int
    nlink: int
    uid: int
    gid: int
    size: int | None
    mtime_ns: int | None
    content: bytes | None
    names: tuple[bytes, ...]


def _time(mtime_ns: int) -> int | None:
    """A time that was set; None stands for now."""
    return None if mtime_ns > OLD_NS + 10**17 else mtime_ns


def real_tree(root: bytes) -> dict[bytes, Seen]:
    """Everything below a real folder, by path."""
    found = {}
    same: dict[int, list[bytes]] = {}
    paths = [root]
    for folder, folders, files in os.walk(root):
        paths += [os.path.join(folder, name) for name in folders + files]
    stats = {path[len(root) :]: os.lstat(path) for path in paths}
    for path, status in stats.items():
        same.setdefault(status.st_ino, []).append(path)
    for path, status in stats.items():
        content = None
        if stat.S_ISREG(status.st_mode):
            with open(root + path, "rb") as file:
                content = file.read()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(root + path)
        found[path] = Seen(
            status.st_mode, status.st_nlink, status.st_uid, status.st_gid,
            None if stat.S_ISDIR(status.st_mode) else status.st_size,
            _time(status.st_mtime_ns), content, tuple(sorted(same[status.st_ino])),
        )  # fmt: skip
    return found


def agent_tree(agent: Agent, root: bytes = b"proj") -> dict[bytes, Seen]:
    """Everything in a projection, by path."""
    stats = {}
    todo = [b""]
    while todo:
        path = todo.pop()
        stats[path] = status = agent.lstat(root + path)
        if status.kind == stat.S_IFDIR:
            todo += [path + b"/" + name for name in agent.listdir(root + path)]
    same: dict[int, list[bytes]] = {}
    for path, status in stats.items():
        same.setdefault(status.ino, []).append(path)
    found = {}
    for path, status in stats.items():
        content = None
        if status.kind == stat.S_IFREG:
            content = agent.read(root + path)
        elif status.kind == stat.S_IFLNK:
            content = agent.readlink(root + path)
        found[path] = Seen(
            status.mode, status.nlink, status.uid, status.gid,
            None if status.kind == stat.S_IFDIR else status.size,
            _time(status.mtime_ns), content, tuple(sorted(same[status.ino])),
        )  # fmt: skip
    return found


class Pair:
    """The same calls on the core (`left`) and on a real folder (`right`)."""

    NAMES = (b"a", b"b", b"d", b"e", b"sub", b"two", b"n1", b"n2", b"full")

    def __init__(self, workspace: Workspace, plain: Path, seed: int) -> None:
        self.workspace = workspace
        self.plain = os.fsencode(plain)
        self.random = random.Random(seed)
        self.files: list[tuple[File, int]] = []
        self.log: list[str] = []

    @property
    def agent(self) -> Agent:
        return self.workspace.agent

    def known(self) -> list[bytes]:
        """Paths that are there now, by the real folder."""
        found = []
        for folder, folders, files in os.walk(self.plain):
            found += [os.path.join(folder, name)[len(self.plain) + 1 :] for name in folders + files]
        return sorted(found)

    def some(self) -> bytes:
        """A path: mostly one that is there."""
        known = self.known()
        if known and self.random.random() < 0.85:
            return self.random.choice(known)
        return self.fresh()

    def fresh(self) -> bytes:
        """A path: any name in some folder, or below a file."""
        known = self.known()
        folders = [p for p in known if os.path.isdir(os.path.join(self.plain, p))]
        folders = [p for p in folders if not os.path.islink(os.path.join(self.plain, p))] + [b""]
        if known and self.random.random() < 0.03:
            folder = self.random.choice(known)
            if os.path.islink(os.path.join(self.plain, folder)):
                folder = b""
        else:
            folder = self.random.choice(folders)
        return os.path.join(folder, self.random.choice(self.NAMES))

    def is_link(self, path: bytes) -> bool:
        return os.path.islink(os.path.join(self.plain, path))

    def both(self, what: str, left: Callable[[], object], right: Callable[[], object]) -> None:
        """Do it on both sides; results and errno must agree."""
        self.log.append(what)
        answers = []
        for call in (left, right):
            try:
                answers.append(("ok", call()))
            except OSError as error:
                answers.append(("error", errno.errorcode[error.errno or 0]))
        assert answers[0] == answers[1], f"{what}: {answers[0]!r}, a plain folder {answers[1]!r}"

    # -- operations ------------------------------------------------------------------------

    def step(self) -> None:
        chosen = self.random.choices(list(self.OPERATIONS), list(self.OPERATIONS.values()))[0]
        getattr(self, chosen)()

    def _paths(self, path: bytes) -> tuple[bytes, bytes]:
        return b"proj/" + path, os.path.join(self.plain, path)

    def _data(self) -> bytes:
        size = self.random.choice([0, 1, 5, 100, 5000])
        return bytes([self.random.randrange(97, 123)]) * size

    def open_file(self) -> None:
        path = self.some()
        if len(self.files) >= 5 or self.is_link(path):
            return
        flags = self.random.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
        if flags != os.O_RDONLY:
            flags |= self.random.choice([0, 0, os.O_CREAT, os.O_CREAT | os.O_EXCL])
            flags |= self.random.choice([0, 0, os.O_TRUNC, os.O_APPEND])
        left, right = self._paths(path)
        if stat.S_ISFIFO(mode_of(right)):
            return  # the kernel's own business
        if flags & os.O_ACCMODE == os.O_RDONLY and os.path.isdir(right):
            return
        opened: list[File | int] = []

        def real() -> None:
            opened.append(os.open(right, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o640))

        self.both(
            f"open {path!r} {flags:o}",
            lambda: opened.append(self.agent.open(left, flags, 0o640)),
            real,
        )
        if opened:
            assert isinstance(opened[0], File)
            assert isinstance(opened[1], int)
            self.files.append((opened[0], opened[1]))

    def close_file(self) -> None:
        if self.files:
            file, fd = self.files.pop(self.random.randrange(len(self.files)))
            self.log.append(f"close {file.fh}")
            self.agent.close(file)
            os.close(fd)

    def write_file(self) -> None:
        if not self.files:
            return
        file, fd = self.random.choice(self.files)
        data, offset = self._data(), self.random.choice([0, 3, 50, 9000])
        if not file.writable or not data:
            return
        # The kernel sends appends at the end it knows of; Linux's pwrite appends by itself.
        self.both(
            f"write {file.fh} {offset} {len(data)}",
            lambda: self.agent.pwrite(file, data, offset),
            lambda: os.pwrite(fd, data, offset),
        )

    def read_file(self) -> None:
        if not self.files:
            return
        file, fd = self.random.choice(self.files)
        if fcntl_mode(fd) == os.O_WRONLY:
            return
        offset, size = self.random.choice([0, 3, 100]), self.random.choice([1, 10, 100_000])
        self.both(
            f"read {file.fh} {offset} {size}",
            lambda: self.agent.pread(file, size, offset),
            lambda: os.pread(fd, size, offset),
        )

    def stat_file(self) -> None:
        if not self.files:
            return
        file, fd = self.random.choice(self.files)

        def left() -> tuple[int, ...]:
            seen = self.agent.fstat(file)
            return seen.mode, seen.nlink, seen.size, seen.uid, seen.gid

        def right() -> tuple[int, ...]:
            seen = os.fstat(fd)
            return seen.st_mode, seen.st_nlink, seen.st_size, seen.st_uid, seen.st_gid

        self.both(f"fstat {file.fh}", left, right)

    def truncate_file(self) -> None:
        if not self.files:
            return
        file, fd = self.random.choice(self.files)
        size = self.random.choice([0, 1, 100, 20_000])
        self.both(
            f"ftruncate {file.fh} {size}",
            lambda: self.agent.ftruncate(file, size),
            lambda: os.ftruncate(fd, size),
        )

    def save(self) -> None:
        path, data = self.some(), self._data()
        left, right = self._paths(path)
        if self.is_link(path) or stat.S_ISFIFO(mode_of(right)):
            return
        self.both(f"save {path!r}", lambda: self.agent.write(left, data), lambda: save(right, data))

    def truncate(self) -> None:
        path, size = self.some(), self.random.choice([0, 1, 100, 20_000])
        left, right = self._paths(path)
        if self.is_link(path) or stat.S_ISFIFO(mode_of(right)):
            return
        self.both(
            f"truncate {path!r} {size}",
            lambda: self.agent.truncate(left, size),
            lambda: os.truncate(right, size),
        )

    def rename(self) -> None:
        old, new = self.some(), self.random.choice([self.some, self.fresh])()
        flags = self.random.choice([0, 0, 0, NOREPLACE, EXCHANGE])
        left_old, right_old = self._paths(old)
        left_new, right_new = self._paths(new)
        self.both(
            f"rename {old!r} {new!r} {flags}",
            lambda: self.agent.rename(left_old, left_new, flags),
            lambda: real_rename(right_old, right_new, flags),
        )

    def unlink(self) -> None:
        left, right = self._paths(path := self.some())
        self.both(f"unlink {path!r}", lambda: self.agent.unlink(left), lambda: os.unlink(right))

    def rmdir(self) -> None:
        left, right = self._paths(path := self.some())
        self.both(f"rmdir {path!r}", lambda: self.agent.rmdir(left), lambda: os.rmdir(right))

    def remove_tree(self) -> None:
        path = self.some()
        left, right = self._paths(path)
        if not os.path.isdir(right) or os.path.islink(right) or self.random.random() < 0.6:
            return
        self.both(
            f"rm -r {path!r}", lambda: remove_tree(self.agent, left), lambda: shutil.rmtree(right)
        )

    def mkdir(self) -> None:
        left, right = self._paths(path := self.fresh())
        mode = self.random.choice([0o755, 0o700, 0o1777])
        self.both(
            f"mkdir {path!r}", lambda: self.agent.mkdir(left, mode), lambda: mkdir(right, mode)
        )

    def mkfifo(self) -> None:
        left, right = self._paths(path := self.fresh())
        self.both(
            f"mkfifo {path!r}",
            lambda: self.agent.mknod(left, stat.S_IFIFO | 0o600),
            lambda: os.mkfifo(right, 0o600),
        )

    def link(self) -> None:
        old, new = self.some(), self.fresh()
        left_old, right_old = self._paths(old)
        left_new, right_new = self._paths(new)
        self.both(
            f"link {old!r} {new!r}",
            lambda: self.agent.link(left_old, left_new),
            lambda: os.link(right_old, right_new, follow_symlinks=False),
        )

    def symlink(self) -> None:
        left, right = self._paths(path := self.fresh())
        target = self.random.choice([b"a", b"../../..", b"/etc/passwd", b"x" * 300])
        self.both(
            f"symlink {path!r}",
            lambda: self.agent.symlink(target, left),
            lambda: os.symlink(target, right),
        )

    def chmod(self) -> None:
        left, right = self._paths(path := self.some())
        if self.is_link(path):
            return
        mode = self.random.choice([0o600, 0o644, 0o755, 0o4755, 0o000])
        self.both(
            f"chmod {path!r} {mode:o}",
            lambda: self.agent.chmod(left, mode),
            lambda: os.chmod(right, mode),
        )

    def chown(self) -> None:
        left, right = self._paths(path := self.some())
        if os.getuid() or stat.S_IMODE(mode_of(right)) & 0o7000:
            return
        self.both(
            f"chown {path!r}",
            lambda: self.agent.chown(left, 12, 34),
            lambda: os.chown(right, 12, 34, follow_symlinks=False),
        )

    def utime(self) -> None:
        left, right = self._paths(path := self.some())
        at = OLD_NS + self.random.randrange(10**9)
        self.both(
            f"utime {path!r}",
            lambda: self.agent.utime(left, at, at + 5),
            lambda: os.utime(right, ns=(at, at + 5), follow_symlinks=False),
        )

    def forget(self) -> None:
        self.log.append("forget")
        keep = self.random.random()
        self.agent.forget(lambda _parent, _name: self.random.random() < keep)

    OPERATIONS = {  # noqa: RUF012
        "open_file": 8, "close_file": 4, "write_file": 8, "read_file": 4, "stat_file": 4,
        "truncate_file": 2, "save": 8, "truncate": 3, "rename": 14, "unlink": 6, "rmdir": 3,
        "remove_tree": 1, "mkdir": 5, "mkfifo": 1, "link": 4, "symlink": 2, "chmod": 4,
        "chown": 1, "utime": 4, "forget": 4,
    }  # fmt: skip

    # -- comparing -------------------------------------------------------------------------

    def compare(self) -> None:
        mine, plain = agent_tree(self.agent), real_tree(self.plain)
        assert sorted(mine) == sorted(plain)
        for path, seen in plain.items():
            assert mine[path] == seen, path

    def close_all(self) -> None:
        while self.files:
            self.close_file()

    def restart(self) -> None:
        """After a restart the tree and the inode numbers are as before."""
        self.close_all()
        before = numbers(self.agent)
        self.agent.forget()
        assert not self.workspace.fs.nodes.by_ino, "nodes left after everything was forgotten"
        self.log.append("restart")
        self.workspace.restart()
        assert numbers(self.agent) == before
        self.compare()


def numbers(agent: Agent) -> dict[bytes, int]:
    """Inode numbers by path."""
    found = {}
    todo = [b"proj"]
    while todo:
        path = todo.pop()
        found[path] = agent.lstat(path).ino
        if agent.lstat(path).kind == stat.S_IFDIR:
            todo += [path + b"/" + name for name in agent.listdir(path)]
    return found


def fcntl_mode(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def mode_of(path: bytes) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def save(path: bytes, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def mkdir(path: bytes, mode: int) -> None:
    os.mkdir(path)
    os.chmod(path, mode)


def remove_tree(agent: Agent, path: bytes) -> None:
    for name in agent.listdir(path):
        child = path + b"/" + name
        if agent.lstat(child).kind == stat.S_IFDIR:
            remove_tree(agent, child)
        else:
            agent.unlink(child)
    agent.rmdir(path)


def run(workspace: Workspace, tmp_path: Path, seed: int, steps: int) -> None:
    """*steps* random operations, compared as they go."""
    plain = tmp_path / "plain"
    plain.mkdir()
    fill(workspace.source)
    fill(plain)
    untouched = real_tree(os.fsencode(workspace.source))
    workspace.start()
    pair = Pair(workspace, plain, seed)
    old_mask = os.umask(0)
    try:
        pair.compare()
        for number in range(1, steps + 1):
            pair.step()
            if number % 20 == 0:
                pair.compare()
            if number % 100 == 0:
                pair.restart()
        pair.restart()
    except BaseException as error:
        error.add_note(f"seed {seed}, the last operations:\n  " + "\n  ".join(pair.log[-40:]))
        raise
    finally:
        os.umask(old_mask)
        for _file, fd in pair.files:
            os.close(fd)
    assert real_tree(os.fsencode(workspace.source)) == untouched, "the source was changed"


@pytest.mark.parametrize("seed", range(24))
def test_random_operations_agree_with_a_plain_folder(
    workspace: Workspace, tmp_path: Path, seed: int
) -> None:
    run(workspace, tmp_path, seed, 400)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1040))
def test_many_random_operations_agree_with_a_plain_folder(
    workspace: Workspace, tmp_path: Path, seed: int
) -> None:
    run(workspace, tmp_path, seed, 2000)


def test_times_of_now_are_told_from_times_that_were_set() -> None:
    assert _time(time.time_ns()) is None
    assert _time(OLD_NS) == OLD_NS
