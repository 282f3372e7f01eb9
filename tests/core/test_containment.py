"""Containment (promise 2): sources are reached a component at a time, never through a symlink,
`..`, a mount or a special file; what was moved away or replaced is noticed."""

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from core_agent import EXCHANGE
from core_workspace import Workspace

from vfs.source import Source
from vfs.statx import stat_at


def number_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with, 0 if it does not."""
    try:
        call()
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_bytes(b"outside")
    (folder / "sub/file").write_bytes(b"outside")
    return folder


def swap_for_link(path: Path, target: Path) -> None:
    os.rename(path, path.with_name(path.name + ".was"))
    path.symlink_to(target)


def test_folder_swapped_for_a_symlink_is_not_followed(workspace: Workspace, outside: Path) -> None:
    (workspace.source / "d/sub").mkdir(parents=True)
    (workspace.source / "d/sub/file").write_bytes(b"inside")
    agent = workspace.start().agent
    assert agent.read("proj/d/sub/file") == b"inside"
    swap_for_link(workspace.source / "d", outside)
    workspace.clock.second_passes()
    assert number_of(lambda: agent.read("proj/d/sub/file")) == errno.ESTALE
    agent.forget()
    assert number_of(lambda: agent.read("proj/d/sub/file")) == errno.ENOTDIR
    assert agent.lstat("proj/d").kind == stat.S_IFLNK


def test_every_call_of_a_source_refuses_a_symlink_on_the_way(
    workspace: Workspace, outside: Path
) -> None:
    (workspace.source / "d").symlink_to(outside)
    source = Source(os.fsencode(workspace.source))
    calls: list[Callable[[], object]] = [
        lambda: source.stat(b"d/file"),
        lambda: source.open_file(b"d/file"),
        lambda: source.list(b"d"),
        lambda: source.list(b"d/sub"),
        lambda: source.readlink(b"d/file"),
        lambda: source.place(b"d/file"),
        lambda: source.borrow_folder(b"d"),
        lambda: source.xattrs(b"d/file", frozenset()),
    ]
    assert [number_of(call) for call in calls] == [errno.ENOTDIR] * len(calls)
    assert not source.occupied(b"d/file")
    source.close()


@pytest.mark.parametrize("path", [b"..", b"d/..", b"d/../..", b".", b"d/.", b"d/", b"d//x"])
def test_dots_and_empty_components_lead_nowhere(workspace: Workspace, path: bytes) -> None:
    (workspace.source / "d").mkdir()
    source = Source(os.fsencode(workspace.source))
    below = path + b"/" + os.fsencode(workspace.source.name)
    for call in (source.open_file, source.list, source.stat, source.place):
        assert number_of(lambda call=call: call(below)) in (errno.ENOENT, errno.EINVAL), call
    assert not source.occupied(below)
    for call in (source.open_file, source.list, source.stat, source.borrow_folder):
        assert number_of(lambda call=call: call(path)) in (errno.ENOENT, errno.EINVAL), call
    source.close()


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../outside", b"d/file", b"x\0y"])
def test_only_single_components_are_looked_up(
    workspace: Workspace, outside: Path, name: bytes
) -> None:
    (workspace.source / "d").mkdir()
    (workspace.source / "d/file").write_bytes(b"")
    (workspace.source / "x").write_bytes(b"")
    workspace.start()
    folder = workspace.agent.ino("proj")
    fs = workspace.fs
    for call in (fs.lookup, fs.unlink, fs.rmdir):
        refused = number_of(lambda call=call: call(folder, name, workspace.agent.caller))
        assert refused in (errno.EINVAL, errno.ENOENT)


def test_symlinked_leaf_is_shown_as_a_link_and_never_opened(
    workspace: Workspace, outside: Path
) -> None:
    (workspace.source / "link").symlink_to(outside / "file")
    agent = workspace.start().agent
    assert number_of(lambda: agent.readlink("proj/link")) == errno.EACCES
    ino = agent.ino("proj/link")
    assert number_of(lambda: workspace.fs.open(ino, os.O_RDONLY, agent.caller)) == errno.ELOOP


def test_file_swapped_for_a_symlink_is_not_followed(workspace: Workspace, outside: Path) -> None:
    (workspace.source / "file").write_bytes(b"inside")
    agent = workspace.start().agent
    ino = agent.ino("proj/file")
    swap_for_link(workspace.source / "file", outside / "file")
    assert number_of(lambda: agent.open("proj/file")) in (errno.ELOOP, errno.ESTALE)
    assert number_of(lambda: workspace.fs.getattr(ino)) == errno.ESTALE


def test_special_files_are_shown_and_never_opened(workspace: Workspace) -> None:
    os.mkfifo(workspace.source / "fifo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.fspath(workspace.source / "socket"))
    if os.getuid() == 0:
        os.mknod(workspace.source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    agent = workspace.start().agent
    for name in agent.listdir("proj"):
        ino = agent.ino(b"proj/" + name)
        # A FIFO that was opened would hang here: there is nobody at its other end.
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            with pytest.raises(OSError) as refused:
                workspace.fs.open(ino, flags, agent.caller)
            assert refused.value.errno == errno.ENXIO, name
        assert number_of(lambda name=name: agent.truncate(b"proj/" + name, 0)) in (
            errno.ENXIO, errno.EINVAL,
        )  # fmt: skip
    server.close()


def test_file_swapped_for_a_fifo_is_not_opened(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(b"inside")
    agent = workspace.start().agent
    agent.ino("proj/file")
    os.unlink(workspace.source / "file")
    os.mkfifo(workspace.source / "file")
    assert number_of(lambda: agent.open("proj/file")) in (errno.ENXIO, errno.ESTALE)


def test_a_lease_on_a_file_does_not_hold_the_daemon_up(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(b"leased")
    agent = workspace.start().agent
    old = signal.signal(signal.SIGIO, signal.SIG_IGN)
    fd = os.open(workspace.source / "file", os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        # Waiting for the lease to break takes /proc/sys/fs/lease-break-time, 45 s.
        assert number_of(lambda: agent.open("proj/file")) == errno.EAGAIN
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, old)
    assert agent.read("proj/file") == b"leased"


def test_folder_moved_out_of_the_grant_is_unreachable(workspace: Workspace, tmp_path: Path) -> None:
    (workspace.source / "d/sub").mkdir(parents=True)
    (workspace.source / "d/sub/file").write_bytes(b"moved")
    agent = workspace.start().agent
    assert agent.listdir("proj/d/sub") == [b"file"]
    file = agent.ino("proj/d/sub/file")
    folder = agent.ino("proj/d/sub")
    os.rename(workspace.source / "d", tmp_path / "elsewhere")
    workspace.clock.second_passes()
    for call in (
        lambda: workspace.fs.getattr(file),
        lambda: workspace.fs.open(file, os.O_RDONLY, agent.caller),
        lambda: workspace.fs.lookup(folder, b"file", agent.caller),
        lambda: workspace.fs.getattr(folder),
        lambda: agent.listdir("proj/d/sub"),
        lambda: workspace.fs.create(folder, b"new", 0o644, os.O_WRONLY, agent.caller),
    ):
        assert number_of(call) in (errno.ESTALE, errno.ENOENT)


@pytest.mark.parametrize("how", ["moved", "replaced", "symlink"])
def test_granted_folder_itself_moved_or_replaced_is_noticed(
    workspace: Workspace, tmp_path: Path, how: str
) -> None:
    (workspace.source / "file").write_bytes(b"granted")
    agent = workspace.start().agent
    assert agent.read("proj/file") == b"granted"
    os.rename(workspace.source, tmp_path / "elsewhere")
    if how == "replaced":
        workspace.source.mkdir()
        (workspace.source / "file").write_bytes(b"another")
    elif how == "symlink":
        workspace.source.symlink_to(tmp_path / "elsewhere")
    workspace.clock.second_passes()
    assert number_of(lambda: agent.read("proj/file")) in (errno.ESTALE, errno.ENOENT)
    assert number_of(lambda: agent.listdir("proj")) in (errno.ESTALE, errno.ENOENT)
    agent.forget()
    assert number_of(lambda: agent.read("proj/file")) in (errno.ESTALE, errno.ENOENT)


@pytest.mark.parametrize("kind", ["folder", "symlink", "fifo"])
def test_granted_single_file_replaced_by_something_else_is_gone(
    workspace: Workspace, tmp_path: Path, kind: str
) -> None:
    granted = workspace.source / "granted"
    granted.write_bytes(b"text")
    (workspace.source / "neighbour").write_bytes(b"private")
    agent = workspace.start(root=granted).agent
    assert agent.read("proj") == b"text"
    granted.unlink()
    if kind == "folder":
        granted.mkdir()
    elif kind == "symlink":
        granted.symlink_to(workspace.source / "neighbour")
    else:
        os.mkfifo(granted)
    source = workspace.projection.source
    assert source.list(b"") == []
    for call in (source.list, source.stat, source.readlink):
        assert number_of(lambda call=call: call(b"proj")) == errno.ENOENT, call
    assert number_of(lambda: source.open_file(b"proj")) in (
        errno.EISDIR, errno.ELOOP, errno.ENXIO,
    )  # fmt: skip
    agent.forget()
    assert number_of(lambda: agent.lstat("proj")) in (errno.ESTALE, errno.ENOENT)


def test_granted_single_file_saved_by_rename_is_followed(workspace: Workspace) -> None:
    granted = workspace.source / "granted"
    granted.write_bytes(b"old")
    agent = workspace.start(root=granted).agent
    assert agent.read("proj") == b"old"
    (workspace.source / "tmp").write_bytes(b"new text")
    os.rename(workspace.source / "tmp", granted)
    agent.forget()
    assert agent.read("proj") == b"new text"
    assert number_of(lambda: agent.lstat("proj/neighbour")) == errno.ENOTDIR


def test_protected_objects_are_nowhere(workspace: Workspace) -> None:
    state = workspace.source / "state"
    state.mkdir()
    (state / "stage.db").write_bytes(b"rows")
    (workspace.source / "key").write_bytes(b"key")
    for path in (state, workspace.source / "key"):
        status = os.stat(path)
        workspace.protected.add((status.st_dev, status.st_ino))
    agent = workspace.start().agent
    assert agent.listdir("proj") == []
    for path in ("proj/state", "proj/state/stage.db", "proj/key"):
        assert number_of(lambda path=path: agent.lstat(path)) == errno.ENOENT
    folder = agent.ino("proj")
    fs, caller = workspace.fs, agent.caller
    assert number_of(lambda: fs.create(folder, b"key", 0o644, 0, caller)) == errno.EACCES
    assert number_of(lambda: fs.mkdir(folder, b"state", 0o755, caller)) == errno.EACCES
    agent.write("proj/mine", b"")
    assert number_of(lambda: agent.rename("proj/mine", "proj/key")) == errno.EACCES
    assert number_of(lambda: agent.rename("proj/key", "proj/x", EXCHANGE)) == errno.ENOENT
    with pytest.raises(FileNotFoundError):
        Source(os.fsencode(state), workspace.protected.__contains__)


def test_folder_renamed_around_a_protected_object_keeps_it_hidden(workspace: Workspace) -> None:
    (workspace.source / "d").mkdir()
    (workspace.source / "d/key").write_bytes(b"key")
    status = os.stat(workspace.source / "d/key")
    workspace.protected.add((status.st_dev, status.st_ino))
    agent = workspace.start().agent
    agent.rename("proj/d", "proj/e")
    assert agent.listdir("proj/e") == []
    assert number_of(lambda: agent.lstat("proj/e/key")) == errno.ENOENT
    # Removing the folder would remove what is in it at a commit.
    assert number_of(lambda: agent.rmdir("proj/e")) == errno.EACCES
    agent.mkdir("proj/new")
    assert number_of(lambda: agent.rename("proj/new", "proj/e")) == errno.EACCES


def test_magic_links_are_links_like_others(workspace: Workspace) -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        (workspace.source / "magic").symlink_to(f"/proc/self/fd/{fd}")
        agent = workspace.start().agent
        assert agent.lstat("proj/magic").kind == stat.S_IFLNK
        assert number_of(lambda: agent.lstat("proj/magic/etc")) == errno.ENOTDIR
        with pytest.raises(OSError):
            Source(b"/proc/self/fd/%d" % fd)
    finally:
        os.close(fd)


_INSIDE_A_NAMESPACE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def mount(source, target):
    if libc.mount(source, target, None, 4096, None):
        raise OSError(ctypes.get_errno(), "mount")
from vfs.source import Source
root = os.fsencode(sys.argv[1])
early = Source(root)
early.list(b"d")
mount(root + b"/outside", root + b"/granted/d")
mount(root + b"/outside/file", root + b"/granted/file")
source = Source(root + b"/granted")
def fails(call, *args):
    try:
        call(*args)
    except FileNotFoundError:
        return True
    return False
assert os.listdir(root + b"/granted/d") == [b"file"], "the mount is not there"
for path in (b"d", b"file", b"d/file"):
    assert fails(source.stat, path), path
    assert fails(source.open_file, path), path
assert fails(source.list, b"d")
assert fails(source.readlink, b"d/file")
assert source.occupied(b"d") and source.occupied(b"file")
print("hidden")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root for a mount in a namespace of its own")
def test_mounts_inside_a_source_are_hidden(tmp_path: Path) -> None:
    for folder in ("granted/d", "outside", "d"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("granted/file", "granted/d/below", "outside/file"):
        (tmp_path / file).write_bytes(b"")
    probe = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "true"], capture_output=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"no mount namespace: {probe.stderr.decode().strip()}")
    # In a namespace of a process of its own, so that no mount is left behind.
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private",
         sys.executable, "-c", _INSIDE_A_NAMESPACE, os.fspath(tmp_path)],
        capture_output=True, check=False, env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout == b"hidden\n", done.stderr.decode()


def test_deep_trees_do_not_hold_descriptors(workspace: Workspace) -> None:
    path = b""
    folder = os.open(workspace.source, os.O_RDONLY)
    for _ in range(600):  # deeper than PATH_MAX allows a path to be
        os.mkdir(b"folder-name", dir_fd=folder)
        below = os.open(b"folder-name", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
        path += b"/folder-name"
    os.close(os.open(b"leaf", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    agent = workspace.start().agent
    assert agent.listdir(b"proj" + path) == [b"leaf"]
    agent.write(b"proj" + path + b"/new", b"deep")
    assert agent.read(b"proj" + path + b"/new") == b"deep"
    assert len(os.listdir("/proc/self/fd")) < 350
    agent.rename(b"proj/folder-name", b"proj/moved")
    assert agent.read(b"proj/moved" + path[len(b"/folder-name") :] + b"/new") == b"deep"


def test_stat_of_a_name_never_follows(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    folder = os.open(tmp_path, os.O_PATH)
    try:
        assert stat_at(folder, b"link").kind == stat.S_IFLNK
    finally:
        os.close(folder)


@pytest.mark.parametrize(
    ("link", "target", "refused"),
    [
        (b"link", b"file", False),
        (b"d/link", b"../file", False),
        (b"d/link", b"../d/../file", False),
        (b"link", b"../source/file", True),
        (b"d/link", b"../../x", True),
        (b"link", b"/etc/passwd", True),
        (b"link", b"d/../../x", True),
    ],
)
def test_a_link_of_the_source_that_leaves_the_grant_is_refused_on_read(
    workspace: Workspace, link: bytes, target: bytes, refused: bool
) -> None:
    (workspace.source / "d").mkdir(exist_ok=True)
    os.symlink(target, os.fsencode(workspace.source) + b"/" + link)
    agent = workspace.start().agent
    path = b"proj/" + link
    if refused:
        assert number_of(lambda: agent.readlink(path)) == errno.EACCES
    else:
        assert agent.readlink(path) == target


def test_a_link_that_the_agent_made_reads_as_it_was_written(workspace: Workspace) -> None:
    agent = workspace.start().agent
    agent.symlink(b"/etc/passwd", "proj/mine")
    assert agent.readlink("proj/mine") == b"/etc/passwd"
