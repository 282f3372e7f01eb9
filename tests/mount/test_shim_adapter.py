"""The mfusepy adapter on a real mount, over the core with a stub gate and redactor.

The core runs on a trio loop in a thread of the test's own process. Nothing here touches a map of
a file in that process: the fault would wait, with the interpreter's lock held, for this very
process to answer it; a child does that.
"""

import contextlib
import ctypes
import dataclasses
import errno
import os
import re
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from vfs.attributes import Caller
from vfs.blocking import Blocked
from vfs.filesystem import Filesystem
from vfs.gate import Access, Request, Verdict
from vfs.projection import Projection
from vfs.source import Source
from winfsp_shim import ShimUnavailable
from winfsp_shim.system import LINUX, WINDOWS, System

if not os.access("/dev/fuse", os.R_OK | os.W_OK):
    pytest.skip("/dev/fuse cannot be used here", allow_module_level=True)

from winfsp_shim.adapter import Adapter
from winfsp_shim.held import Held
from winfsp_shim.mount import ShimMount

T = TypeVar("T")

ALL = Access.LIST | Access.READ | Access.WRITE
SOMEONE = Caller(0, 0, 0)
PLAIN = b"key=SECRET42\n"
MASKED = b"key=xxxxxxxx\n"
LARGE = 300 * 1024
"""Bytes that are scanned in a job."""
NOREPLACE, EXCHANGE = 1, 2


class StubGate:
    generation = 1

    def __init__(self) -> None:
        self.allowed = ALL
        self.callers: dict[bytes, Caller | None] = {}

    def access(self, projection: int) -> Access:
        return self.allowed

    def profile(self, projection: int, host_path: bytes) -> str:
        return "secrets"

    def hidden(self, projection: int, host_path: bytes) -> bool:
        return False

    def decide(self, request: Request) -> Verdict:
        return Verdict(True)

    def report(
        self,
        event: str,
        outcome: str,
        mount_path: bytes,
        caller: Caller | None,
        projection: int,
        detail: Mapping[str, str | int | bool | None],
    ) -> None:
        self.callers[mount_path] = caller


@dataclasses.dataclass(frozen=True)
class StubSnapshot:
    data: bytes
    findings: tuple[object, ...] = ()


class StubRedactor:
    version = "1"

    def holds_finding(self, _text: bytes, _profile: str = "") -> bool:
        return False

    def container(self, _head: bytes, _profile: str = "") -> bool:
        return False

    def look_into(self, _read: object, _size: int, _profile: str = "") -> frozenset[str]:
        return frozenset()

    def snapshot(self, data: bytes, profile: str = "") -> StubSnapshot:
        return StubSnapshot(re.sub(rb"SECRET[0-9]+", lambda found: b"x" * len(found[0]), data))

    def reader(self, read: Callable[[int, int], bytes], size: int, profile: str = "") -> Any:
        raise AssertionError("no file here is larger than a snapshot")


class Workspace:
    """A filesystem over `source`, and its mount at `root` while it is served."""

    def __init__(self, folder: Path, system: System = LINUX, *, allow_other: bool = False) -> None:
        self.source = folder / "proj"
        self.root = folder / "mnt"
        for each in (self.source, self.root, folder / "state"):
            each.mkdir()
        self.path = self.root / "proj"
        self.gate = StubGate()
        self.fs = Filesystem(folder / "state", self.gate, StubRedactor(), b"k" * 32)
        self.projection = Projection(1, b"proj", Source(os.fsencode(self.source)))
        self.fs.project(self.projection)
        self.mount = ShimMount(self.fs, str(self.root), allow_other=allow_other, system=system)
        self.token: Future[trio.lowlevel.TrioToken] = Future()
        self.thread = threading.Thread(target=trio.run, args=(self._main,))

    async def _main(self) -> None:
        self.token.set_result(trio.lowlevel.current_trio_token())
        await self.mount.serve()

    def start(self) -> None:
        self.mount.open()
        self.thread.start()

    def on_core(self, function: Callable[[], T]) -> T:
        return trio.from_thread.run_sync(function, trio_token=self.token.result())

    def finish(self) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            self.on_core(self.mount.stop)
        self.thread.join()
        self.mount.close()
        self.fs.close()

    def mounted(self) -> bool:
        return str(self.root) in Path("/proc/self/mountinfo").read_text()


def descriptors() -> Counter[str]:
    """What this process has open; a number of a socket or pipe says nothing and is left out."""
    found: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[os.readlink(f"/proc/self/fd/{number}").partition(":[")[0]] += 1
    return found


@contextlib.contextmanager
def serving(folder: Path, **how: Any) -> Iterator[Workspace]:
    """A served workspace, of which nothing may be left."""
    before = descriptors()
    threads = set(threading.enumerate())
    here = os.getcwd()
    workspace = Workspace(folder, **how)
    workspace.start()
    try:
        yield workspace
    finally:
        workspace.finish()
    assert not workspace.mounted()
    assert os.listdir(workspace.root) == []
    assert descriptors() - before == Counter()
    left = {each for each in set(threading.enumerate()) - threads if each.name.startswith("fuse")}
    assert not left
    assert os.getcwd() == here


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    with serving(tmp_path) as served:
        yield served


@contextlib.contextmanager
def opened(path: Path | bytes, flags: int, mode: int = 0o644) -> Iterator[int]:
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):  # ENOTCONN where the mount has gone
            os.close(fd)


def number_of(act: Callable[[], object]) -> int | None:
    """The error number that a call fails with."""
    with pytest.raises(OSError) as caught:
        act()
    return caught.value.errno


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


# -- files ---------------------------------------------------------------------------------


def test_a_file_is_listed_and_read_masked(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(PLAIN)
    listed = subprocess.run(
        ["ls", "-a", workspace.path], capture_output=True, check=True, text=True
    ).stdout
    assert listed.split() == [".", "..", "a"]
    assert sorted(os.listdir(workspace.root)) == [".grantfs", "proj"]
    assert (workspace.path / "a").read_bytes() == MASKED


def test_a_write_is_staged_and_the_source_stays(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(PLAIN)
    with opened(workspace.path / "a", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"more\n")
        os.fsync(fd)
    assert (workspace.path / "a").read_bytes() == MASKED + b"more\n"
    (workspace.path / "new").write_bytes(b"first")
    (workspace.path / "new").write_bytes(b"2nd")
    assert (workspace.path / "new").read_bytes() == b"2nd"
    assert (workspace.source / "a").read_bytes() == PLAIN
    assert os.listdir(workspace.source) == ["a"]


def test_every_handle_sees_a_write_at_once(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(b"old")
    with (
        opened(workspace.path / "a", os.O_RDONLY) as reading,
        opened(workspace.path / "a", os.O_RDWR) as writing,
    ):
        assert os.pread(reading, 9, 0) == b"old"
        os.pwrite(writing, b"new!", 0)
        assert os.pread(reading, 9, 0) == b"new!"
        assert os.fstat(reading).st_size == 4


def test_exclusive_creation_and_attributes_of_a_new_file(workspace: Workspace) -> None:
    before = os.umask(0o027)
    try:
        with opened(workspace.path / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666) as fd:
            assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
        (workspace.path / "folder").mkdir()
    finally:
        os.umask(before)
    assert stat.S_IMODE((workspace.path / "folder").stat().st_mode) == 0o750
    again = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    assert number_of(lambda: os.open(workspace.path / "new", again)) == errno.EEXIST
    caller = workspace.gate.callers[b"proj/new"]
    assert caller is not None
    assert (caller.uid, caller.gid, caller.pid) == (os.getuid(), os.getgid(), os.getpid())


def test_a_file_belongs_to_the_user_who_makes_it(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can act as another user")
    with serving(tmp_path, allow_other=True) as workspace:
        workspace.path.chmod(0o777)
        subprocess.run(["touch", "new"], cwd=workspace.path, user=65534, group=65533, check=True)
        status = (workspace.path / "new").stat()
        assert (status.st_uid, status.st_gid) == (65534, 65533)


def test_a_file_without_a_name_goes_on_through_its_handle(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(PLAIN)
    (workspace.path / "new").write_bytes(b"mine")
    for name, first in ("a", MASKED), ("new", b"mine"):
        with opened(workspace.path / name, os.O_RDWR) as fd:
            os.unlink(workspace.path / name)
            assert not (workspace.path / name).exists()
            assert os.pread(fd, 99, 0) == first
            assert os.pwrite(fd, b"0123456789", 0) == 10
            os.ftruncate(fd, 4)
            os.fsync(fd)
            assert os.pread(fd, 99, 0) == b"0123"
            # libfuse asks by path, and there is none any more: a limit that windows.md tells of
            assert number_of(partial(os.fstat, fd)) in (errno.ESTALE, errno.ENOENT)
    assert os.listdir(workspace.path) == []
    assert workspace.on_core(lambda: workspace.fs.files.open_handles) == 0


def test_a_file_that_is_replaced_while_open_stays_readable(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(b"old")
    (workspace.path / "b").write_bytes(b"new")
    with opened(workspace.path / "a", os.O_RDONLY) as fd:
        os.replace(workspace.path / "b", workspace.path / "a")
        assert os.pread(fd, 9, 0) == b"old"
    assert (workspace.path / "a").read_bytes() == b"new"
    assert os.listdir(workspace.path) == ["a"]


def test_truncating_by_path_and_by_handle(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(b"0123456789")
    os.truncate(workspace.path / "a", 8)
    assert (workspace.path / "a").read_bytes() == b"01234567"
    with opened(workspace.path / "a", os.O_RDWR) as fd:
        workspace.gate.callers.clear()
        os.ftruncate(fd, 3)
        # by the handle's own admission: an operation by path would have been on the record
        assert b"proj/a" not in workspace.gate.callers
        assert os.fstat(fd).st_size == 3
    assert (workspace.path / "a").read_bytes() == b"012"


def test_a_large_file_is_scanned_by_a_job(workspace: Workspace) -> None:
    data = b"SECRET99".ljust(LARGE, b".")
    (workspace.source / "large").write_bytes(data)
    assert (workspace.path / "large").read_bytes() == b"xxxxxxxx".ljust(LARGE, b".")


@pytest.mark.parametrize("idle", [1, 64])
def test_an_operation_that_is_blocked_stops_nobody_else(
    idle: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With few idle threads libfuse ends some, the one that was told to end the loop among them.
    system = dataclasses.replace(LINUX, options={**LINUX.options, "max_idle_threads": idle})
    with serving(tmp_path, system=system) as workspace:
        (workspace.source / "a").write_bytes(PLAIN)
        waiting, answered = threading.Event(), threading.Event()
        ran_on: list[int] = []
        plain_open = workspace.fs.open

        def job() -> None:
            ran_on.append(threading.get_ident())
            waiting.set()
            answered.wait()

        def ask(*request: Any) -> Any:
            if not answered.is_set():
                raise Blocked(job)
            return plain_open(*request)

        monkeypatch.setattr(workspace.fs, "open", ask)
        read: list[bytes] = []
        readers = [
            threading.Thread(target=lambda: read.append((workspace.path / "a").read_bytes()))
            for _ in range(12)  # more than libfuse has threads of its own accord
        ]
        for reader in readers:
            reader.start()
        other = threading.Thread(target=(workspace.path / "other").mkdir)
        try:
            waiting.wait()
            other.start()
            other.join(10)
            assert not other.is_alive()
            assert sorted(os.listdir(workspace.path)) == ["a", "other"]
        finally:
            answered.set()
            for reader in readers:
                reader.join()
        assert read == [MASKED] * 12
        assert workspace.thread.ident not in ran_on


def test_a_job_that_fails_is_the_answer(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace.source / "a").write_bytes(PLAIN)

    def blocked(error: Exception) -> Callable[..., Any]:
        def job() -> None:
            raise error

        def call(*_request: Any) -> Any:
            raise Blocked(job)

        return call

    monkeypatch.setattr(workspace.fs, "open", blocked(PermissionError(errno.EACCES, "no")))
    assert number_of((workspace.path / "a").read_bytes) == errno.EACCES
    assert not caplog.records
    monkeypatch.setattr(workspace.fs, "open", blocked(ValueError("broken")))
    assert number_of((workspace.path / "a").read_bytes) == errno.EIO
    assert "broken" in caplog.text


# -- names ---------------------------------------------------------------------------------


def test_folders_are_made_and_removed(workspace: Workspace) -> None:
    (workspace.path / "one/two").mkdir(parents=True)
    (workspace.path / "one/two/file").write_bytes(b"")
    assert number_of((workspace.path / "one").rmdir) == errno.ENOTEMPTY
    subprocess.run(["rm", "-r", workspace.path / "one"], check=True)
    assert os.listdir(workspace.path) == []
    assert number_of(workspace.path.rmdir) in (errno.EROFS, errno.EACCES)


def test_renames_keep_their_flags(workspace: Workspace) -> None:
    one, two, three = (workspace.path / name for name in ("one", "two", "three"))
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    assert number_of(lambda: renameat2(one, two, NOREPLACE)) == errno.EEXIST
    renameat2(one, two, EXCHANGE)
    assert (one.read_bytes(), two.read_bytes()) == (b"2", b"1")
    renameat2(one, three, NOREPLACE)
    assert three.read_bytes() == b"2"
    os.rename(three, two)
    assert sorted(os.listdir(workspace.path)) == ["two"]
    assert two.read_bytes() == b"2"


def test_a_folder_is_renamed_above_an_open_file(workspace: Workspace) -> None:
    (workspace.source / "folder").mkdir()
    (workspace.source / "folder/a").write_bytes(b"old")
    with opened(workspace.path / "folder/a", os.O_WRONLY) as fd:
        os.rename(workspace.path / "folder", workspace.path / "moved")
        os.write(fd, b"new")
        assert os.fstat(fd).st_size == 3
    assert (workspace.path / "moved/a").read_bytes() == b"new"
    assert os.listdir(workspace.path) == ["moved"]


def test_links(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(b"data")
    (workspace.path / "soft").symlink_to("a")
    assert os.readlink(workspace.path / "soft") == "a"
    assert (workspace.path / "soft").read_bytes() == b"data"
    os.link(workspace.path / "a", workspace.path / "hard")
    assert (workspace.path / "hard").stat().st_ino == (workspace.path / "a").stat().st_ino
    assert (workspace.path / "a").stat().st_nlink == 2
    (workspace.path / "hard").write_bytes(b"both")
    assert (workspace.path / "a").read_bytes() == b"both"


def test_fifos_and_devices_that_nobody_opens(workspace: Workspace) -> None:
    os.mkfifo(workspace.path / "fifo")
    assert stat.S_ISFIFO((workspace.path / "fifo").stat().st_mode)
    if os.getuid() == 0:
        device = workspace.path / "device"
        os.mknod(device, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        assert device.stat().st_rdev == os.makedev(1, 3)
        assert number_of(lambda: os.open(device, os.O_RDONLY)) == errno.EACCES


def test_names_that_are_no_utf8(workspace: Workspace) -> None:
    odd = b"odd\xff\xfe\n\xc3\xa4"
    (workspace.source / os.fsdecode(odd)).write_bytes(b"data")
    root = os.fsencode(workspace.path)
    assert os.listdir(root) == [odd]
    with opened(root + b"/" + odd, os.O_RDONLY) as fd:
        assert os.read(fd, 9) == b"data"
    os.symlink(b"to\xff", root + b"/link\xff")
    assert os.readlink(root + b"/link\xff") == b"to\xff"
    os.rename(root + b"/" + odd, root + b"/\x80")
    assert sorted(os.listdir(root)) == sorted([b"\x80", b"link\xff"])
    assert number_of(lambda: os.mkdir(root + b"/" + b"x" * 256)) == errno.ENAMETOOLONG


def test_a_folder_of_a_thousand_names(workspace: Workspace) -> None:
    names = {f"name {number:04}" for number in range(1000)}
    for name in names:
        (workspace.source / name).write_bytes(b"")
    listed = os.listdir(workspace.path)
    assert len(listed) == 1000
    assert set(listed) == names
    with os.scandir(workspace.path) as entries:
        inodes = {entry.name: entry.inode() for entry in entries if entry.is_file()}
    assert inodes == {name: (workspace.path / name).stat().st_ino for name in names}
    for name in names:
        (workspace.path / name).unlink()
    assert os.listdir(workspace.path) == []


# -- attributes ----------------------------------------------------------------------------


def test_mode_owner_and_space(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(b"")
    (workspace.path / "a").chmod(0o751)
    assert stat.S_IMODE((workspace.path / "a").stat().st_mode) == 0o751
    with opened(workspace.path / "a", os.O_RDWR) as fd:
        os.fchmod(fd, 0o600)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    if os.getuid() == 0:
        os.chown(workspace.path / "a", -1, 7)
        os.chown(workspace.path / "a", 8, -1)
        status = (workspace.path / "a").stat()
        assert (status.st_uid, status.st_gid) == (8, 7)
    space = os.statvfs(workspace.path)
    assert space.f_blocks * space.f_frsize == workspace.fs.quota.space()[0]
    assert space.f_namemax == 255


def test_times(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(b"")
    path = workspace.path / "a"
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    status = path.stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 2_000_000_002)
    subprocess.run(["touch", "-m", "-d", "@5", path], check=True)  # leaves the other as it is
    status = path.stat()
    assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_001, 5_000_000_000)
    (workspace.path / "new").touch()
    before = (workspace.path / "new").stat().st_mtime_ns
    subprocess.run(["touch", "-a", path], check=True)  # the other one is now
    status = path.stat()
    assert status.st_atime_ns >= before - 10**9
    assert status.st_mtime_ns == 5_000_000_000
    os.utime(path)
    assert path.stat().st_mtime_ns >= before - 10**9


def test_extended_attributes(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(b"")
    path = workspace.path / "a"
    os.setxattr(path, b"user.odd\xff", b"\0value\xff")
    assert os.getxattr(path, b"user.odd\xff") == b"\0value\xff"
    assert [os.fsencode(name) for name in os.listxattr(path)] == [b"user.odd\xff"]
    os.removexattr(path, b"user.odd\xff")
    assert os.listxattr(path) == []
    assert number_of(lambda: os.getxattr(path, "user.none")) == errno.ENODATA
    assert number_of(lambda: os.setxattr(path, "trusted.x", b"")) == errno.ENOTSUP


# -- ending a grant ------------------------------------------------------------------------


def test_an_ended_grant_is_gone_at_once(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(PLAIN)
    folder = workspace.path
    with opened(folder / "a", os.O_RDWR) as fd, opened(folder, os.O_RDONLY) as inside:
        assert os.pread(fd, 99, 0) == MASKED
        for node in workspace.on_core(lambda: workspace.fs.begin_end(workspace.projection)):
            workspace.mount.invalidate_inode(node.ino)
        workspace.mount.invalidate_entry(1, b"proj")
        workspace.on_core(lambda: workspace.fs.finish_end(workspace.projection))
        assert number_of(lambda: os.pread(fd, 99, 0)) == errno.ESTALE
        assert number_of(lambda: os.pwrite(fd, b"x", 0)) == errno.ESTALE
        assert number_of(lambda: os.fstat(fd)) in (errno.ESTALE, errno.ENOENT)
        assert number_of(lambda: os.listdir(inside)) in (errno.ESTALE, errno.ENOENT)
        assert not folder.exists()
        assert os.listdir(workspace.root) == [".grantfs"]


def test_only_private_maps_are_allowed(workspace: Workspace) -> None:
    # A shared map would be served from pages that an ended grant could not take back.
    (workspace.source / "a").write_bytes(PLAIN)
    script = (
        "import errno, mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDWR)\n"
        "try:\n"
        "    mmap.mmap(fd, 0, flags=mmap.MAP_SHARED)\n"
        "except OSError as error:\n"
        "    assert error.errno == errno.ENODEV, error\n"
        "else:\n"
        "    sys.exit('a shared map')\n"
        "sys.stdout.buffer.write(mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE)[:])\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script, workspace.path / "a"], capture_output=True, check=False
    )
    assert (child.returncode, child.stderr, child.stdout) == (0, b"", MASKED)


# -- what goes wrong -----------------------------------------------------------------------


def test_an_exception_in_the_core_is_an_error_of_one_call(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace.source / "a").write_bytes(PLAIN)

    def broken(*_arguments: object) -> None:
        raise ValueError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(workspace.fs, "read", broken)
        patch.setattr(workspace.fs, "statfs", broken)
        patch.setattr(workspace.fs, "readdir", broken)
        assert number_of((workspace.path / "a").read_bytes) == errno.EIO
        assert number_of(lambda: os.statvfs(workspace.path)) == errno.EIO
        assert number_of(lambda: os.listdir(workspace.path)) == errno.EIO
    assert caplog.text.count("ValueError: broken") == 3
    assert (workspace.path / "a").read_bytes() == MASKED
    assert os.listdir(workspace.path) == ["a"]


OPERATIONS: dict[str, tuple[object, ...]] = {
    "create": ("/proj/a", 0o644, os.O_WRONLY),
    "mkdir": ("/proj/a", 0o755),
    "mknod": ("/proj/a", 0o644, 0),
    "symlink": ("/proj/a", "b"),
    "link": ("/proj/a", "/proj/b"),
    "readlink": ("/proj/a",),
    "unlink": ("/proj/a",),
    "rmdir": ("/proj/a",),
    "rename": ("/proj/a", "/proj/b"),
    "getattr": ("/proj/a",),
    "chmod": ("/proj/a", 0o644),
    "chown": ("/proj/a", 1, 1),
    "truncate": ("/proj/a", 1),
    "utimens": ("/proj/a",),
    "getxattr": ("/proj/a", "user.a"),
    "listxattr": ("/proj/a",),
    "setxattr": ("/proj/a", "user.a", b"", 0),
    "removexattr": ("/proj/a", "user.a"),
    "statfs": ("/",),
    "open": ("/proj/a", os.O_RDONLY),
    "read": (None, 1, 0, 7),
    "write": (None, b"a", 0, 7),
    "fsync": (None, 0, 7),
    "release": (None, 7),
    "opendir": ("/proj",),
    "readdir_with_offset": (None, 0, 7),
    "releasedir": (None, 7),
    "fsyncdir": (None, 0, 7),
}
"""Every operation, with arguments that it may be called with."""


class BrokenCore:
    """A core of which every call fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        def fail(*_arguments: object) -> None:
            raise self._error

        return fail


def test_the_list_of_operations_is_complete() -> None:
    found = {name for name, each in vars(Adapter).items() if callable(each) and name[0] != "_"}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_lets_an_exception_through(
    operation: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Held, "keep", lambda _self, _ino: None)
    monkeypatch.setattr(Held, "of_handle", lambda _self, fh: fh)
    monkeypatch.setattr(Held, "chain", lambda _self, ino: [ino])
    for error, number in (
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError("no number"), errno.EIO),
        (KeyError("broken"), errno.EIO),
    ):
        core: Any = BrokenCore(error)
        adapter = Adapter(core, lambda function: function(), lambda: SOMEONE, LINUX)

        def call(adapter: Adapter = adapter) -> None:
            answer = getattr(adapter, operation)(*OPERATIONS[operation])
            if operation.startswith("readdir"):
                list(answer)

        caplog.clear()
        assert number_of(call) == number
        assert bool(caplog.records) == isinstance(error, KeyError)


# -- ending the mount ----------------------------------------------------------------------


def test_an_unmount_from_outside_ends_the_service(workspace: Workspace) -> None:
    assert workspace.path.exists()
    subprocess.run(["umount", workspace.root], check=True)
    workspace.thread.join()
    assert not workspace.mounted()


def test_a_stop_with_files_open_ends_the_service(workspace: Workspace) -> None:
    (workspace.source / "a").write_bytes(PLAIN)
    with opened(workspace.path / "a", os.O_RDONLY) as fd:
        workspace.on_core(workspace.mount.stop)
        workspace.thread.join()
        workspace.mount.close()
        assert not workspace.mounted()
        assert number_of(lambda: os.pread(fd, 1, 0)) in (errno.ENOTCONN, errno.ECONNABORTED)


def test_a_stop_of_a_mount_that_is_out_of_reach_ends_the_service(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace.source / "a").write_bytes(PLAIN)
    with opened(workspace.path / "a", os.O_RDONLY) as fd:
        subprocess.run(["umount", "--lazy", workspace.root], check=True)
        workspace.on_core(workspace.mount.stop)
        workspace.thread.join()
        assert "out of reach" in caplog.text
        assert number_of(lambda: os.pread(fd, 1, 0)) == errno.ENOTCONN


def test_a_loop_that_breaks_off_leaves_no_mount(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.mount.open()

    async def broken() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workspace.mount.serve)
            await trio.lowlevel.checkpoint()
            raise ValueError("broken")

    with pytest.raises(ExceptionGroup, match="nursery"):
        trio.run(broken)
    assert number_of(workspace.path.stat) == errno.ENOTCONN
    workspace.mount.close()
    assert not workspace.mounted()
    workspace.fs.close()


def test_a_close_on_the_loop_waits_for_no_request_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace(tmp_path)
    workspace.mount.open()
    asked = threading.Event()

    class Waiting(set[Future[Any]]):
        def add(self, answer: Future[Any]) -> None:
            super().add(answer)
            asked.set()

    workspace.mount._waiting = Waiting()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(workspace.mount.serve)
            while not workspace.mount._core.done():
                await trio.lowlevel.checkpoint()
            asking = subprocess.Popen(["ls", workspace.path], stderr=subprocess.DEVNULL)
            asked.wait()  # holds the loop, which the request needs
            workspace.mount.close()
            assert asking.wait() != 0
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not workspace.mounted()
    assert not caplog.records
    workspace.fs.close()


def test_a_mount_that_is_never_served_is_unmounted(tmp_path: Path) -> None:
    asked = threading.Event()

    class NoCore(Future[trio.lowlevel.TrioToken]):
        def result(self, timeout: float | None = None) -> trio.lowlevel.TrioToken:
            asked.set()
            return super().result(timeout)

    workspace = Workspace(tmp_path)
    workspace.mount._core = NoCore()
    workspace.mount.open()
    assert workspace.mounted()
    asking = subprocess.Popen(["ls", workspace.path], stderr=subprocess.DEVNULL)
    asked.wait()
    workspace.mount.close()
    assert asking.wait() != 0
    assert not workspace.mounted()
    workspace.fs.close()


def test_a_mountpoint_that_is_missing_is_an_error(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.root.rmdir()
    with pytest.raises(RuntimeError, match="cannot mount at"):
        workspace.mount.open()
    workspace.mount.close()
    workspace.fs.close()


# -- nodes that are held -------------------------------------------------------------------


@pytest.fixture
def unmounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Adapter]]:
    """A source and an adapter over it that holds 20 nodes, without a mount."""
    monkeypatch.setattr(Held.__init__, "__defaults__", (20,))
    workspace = Workspace(tmp_path)
    yield (
        workspace.source,
        Adapter(workspace.fs, lambda function: function(), lambda: SOMEONE, LINUX),
    )
    workspace.fs.close()


def fill(source: Path, adapter: Adapter, folder: str) -> None:
    (source / folder).mkdir()
    for number in range(50):
        (source / folder / str(number)).touch()
        adapter.getattr(f"/proj/{folder}/{number}")


def test_nodes_are_let_go_when_there_are_many(unmounted: tuple[Path, Adapter]) -> None:
    source, adapter = unmounted
    for folder in "abc":
        fill(source, adapter, folder)
    known = adapter._fs.nodes.by_ino
    assert len(adapter._held) <= 20
    assert len(known) <= 20
    fh = adapter.opendir("/proj/a")
    assert len(list(adapter.readdir_with_offset(None, 0, fh))) == 52
    adapter.releasedir(None, fh)
    assert len(known) <= 20
    assert adapter._fs.nodes.take_fresh() == []


def test_a_folder_is_held_as_long_as_a_file_beneath_it_is_open(
    unmounted: tuple[Path, Adapter],
) -> None:
    source, adapter = unmounted
    (source / "one/two").mkdir(parents=True)
    (source / "one/two/file").write_bytes(b"old")
    fh = adapter.open("/proj/one/two/file", os.O_RDWR)
    fill(source, adapter, "a")
    adapter.rename("/proj/one", "/proj/moved")
    fill(source, adapter, "b")
    adapter.write(None, b"new", 0, fh)
    adapter.release(None, fh)
    gate = adapter._fs.gate
    assert isinstance(gate, StubGate)
    assert b"proj/moved/two/file" in gate.callers  # what policy and log take it for
    assert adapter.getattr("/proj/moved/two/file")["st_size"] == 3
    again = adapter.open("/proj/moved/two/file", os.O_RDONLY)
    assert adapter.read(None, 9, 0, again) == b"new"
    adapter.release(None, again)
    with pytest.raises(FileNotFoundError):
        adapter.getattr("/proj/one")


# -- Windows' rules, and what is missing ---------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a:stream", "a<b", 'a"', "a|b", "a?", "a*", "a\\b", "a\n", "a.", "a ", "con", "Aux.txt",
     "COM1", "lpt9.tar.gz", "COM²", "NUL .x", "\udcff"],
)  # fmt: skip
def test_names_that_windows_cannot_have_are_refused(name: str) -> None:
    assert number_of(lambda: WINDOWS.components(f"/proj/{name}/x")) == errno.EINVAL
    assert LINUX.components(f"/proj/{name}/x")[1] == os.fsencode(name)


@pytest.mark.parametrize(
    "name", ["a", ".git", "a b", "console", "com", "COM10", "ä", "日本", "nul_"]
)
def test_names_that_windows_has_are_taken(name: str) -> None:
    assert WINDOWS.components(f"/{name}/.") == [name.encode()]


def test_errors_that_winfsp_does_not_know_are_translated() -> None:
    assert WINDOWS.error(OSError(errno.ESTALE, "stale")).errno == errno.ENOENT
    assert WINDOWS.error(OSError(errno.EDQUOT, "quota")).errno == errno.ENOSPC
    assert WINDOWS.error(OSError(errno.EEXIST, "there")).errno == errno.EEXIST
    assert LINUX.error(OSError(errno.ESTALE, "stale")).errno == errno.ESTALE


def test_windows_names_on_a_mount(tmp_path: Path) -> None:
    system = dataclasses.replace(LINUX, problem=WINDOWS.problem)
    with serving(tmp_path, system=system) as workspace:
        for name in ("good", "a:b", "aux.c", os.fsdecode(b"\xff")):
            (workspace.source / name).write_bytes(b"")
        assert os.listdir(workspace.path) == ["good"]
        assert number_of((workspace.path / "a:b").stat) == errno.EINVAL
        assert number_of((workspace.path / "nul").touch) == errno.EINVAL


def test_without_mfusepy_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import winfsp_shim

    for module in ("winfsp_shim.mount", "winfsp_shim.library"):
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "mfusepy", None)
    with pytest.raises(ShimUnavailable, match=r"not installed: pip install 'grantfs\[winfsp\]'"):
        winfsp_shim.load()


@pytest.mark.parametrize(
    "setting", [("FUSE_LIBRARY_NAME", "no-such"), ("FUSE_LIBRARY_PATH", "/no/such")]
)
def test_without_a_fuse_library_there_is_one_clear_error(setting: tuple[str, str]) -> None:
    script = (
        "import winfsp_shim\n"
        "try:\n"
        "    winfsp_shim.load()\n"
        "except winfsp_shim.ShimUnavailable as error:\n"
        "    print(error)\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True,
        env=dict([*os.environ.items(), setting]), cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "no usable FUSE library" in child.stdout
    assert "apt-get install fuse3" in child.stdout


def test_the_library_that_is_taken_by_default_is_libfuse_3() -> None:
    # Imported by the library module alone: whoever imports it first decides which libfuse it loads.
    from winfsp_shim.library import mfusepy

    assert mfusepy.fuse_version_major == 3
    assert "FUSE_LIBRARY_NAME" not in os.environ


def test_no_caching_is_asked_of_the_kernel() -> None:
    assert {name: LINUX.options[name] for name in LINUX.options if name.endswith("_timeout")} == {
        "attr_timeout": 0,
        "entry_timeout": 0,
        "negative_timeout": 0,
    }
    assert LINUX.options["direct_io"] is True
