"""Bytes on their way to the agent (promise 3): scanned, or not served."""

import errno
import os

import pytest
from core_workspace import Workspace, mask

from vfs import files
from vfs.attributes import SetAttributes
from vfs.blocking import Blocked
from vfs.content import INLINE_BYTES, SNAPSHOT_BYTES

SIZES = [100, INLINE_BYTES + 1, SNAPSHOT_BYTES + 1]


def text(size: int) -> bytes:
    line = b"key = SECRET12345\n"
    return (line * (size // len(line) + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_is_masked(workspace: Workspace, size: int) -> None:
    (workspace.source / "file").write_bytes(text(size))
    agent = workspace.start().agent
    assert agent.read("proj/file") == mask(text(size))
    file = agent.open("proj/file")
    # However the reads are cut, no secret is served in halves.
    for offset in range(0, 60, 7):
        assert agent.pread(file, 7, offset) == mask(text(size))[offset : offset + 7]
    assert agent.pread(file, 7, size + 10) == b""


@pytest.mark.parametrize("size", SIZES)
def test_a_failing_scan_fails_the_read_and_the_write(workspace: Workspace, size: int) -> None:
    """Promise 10."""
    (workspace.source / "file").write_bytes(text(size))
    agent = workspace.start().agent
    workspace.redactor.broken = True
    file = agent.open("proj/file", os.O_RDWR)
    for call in (
        lambda: agent.pread(file, 10, 0),
        lambda: agent.pwrite(file, b"x", 0),
        lambda: agent.truncate("proj/file", 5),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EIO
    assert not workspace.fs.tree.inodes
    assert os.listdir(workspace.state / "bodies") == []
    workspace.redactor.broken = False
    assert agent.pread(file, 10, 0) == mask(text(size))[:10]


def test_large_files_are_scanned_off_the_loop(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(text(INLINE_BYTES + 1))
    agent = workspace.start().agent
    file = agent.open("proj/file", os.O_RDWR)
    with pytest.raises(Blocked):
        workspace.fs.read(file.fh, 0, 10)
    with pytest.raises(Blocked):
        workspace.fs.write(file.fh, 0, b"x")
    assert workspace.redactor.scans == 0
    assert not workspace.fs.tree.inodes


@pytest.mark.parametrize("size", SIZES)
def test_copy_up_takes_the_masked_bytes_and_keeps_them_as_base(
    workspace: Workspace, size: int
) -> None:
    (workspace.source / "file").write_bytes(text(size))
    agent = workspace.start().agent
    agent.append("proj/file", b"and SECRET99 of the agent's own")
    assert agent.read("proj/file") == mask(text(size)) + b"and SECRET99 of the agent's own"
    base = workspace.fs.tree.bases[1, b"file"]
    assert base.body is not None
    assert base.fingerprint.digest is not None
    fd = workspace.fs.bodies.open(base.body)
    with os.fdopen(fd, "rb") as file:
        assert file.read() == mask(text(size))
    for path in workspace.state.rglob("*"):
        if path.is_file():
            assert b"SECRET12345" not in path.read_bytes(), "a secret at rest (promise 9)"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", ["O_TRUNC", "truncate", "rename over", "chmod, rename over"])
def test_the_first_replacement_keeps_the_masked_base(
    workspace: Workspace, size: int, how: str
) -> None:
    (workspace.source / "file").write_bytes(text(size))
    agent = workspace.start().agent
    if how == "O_TRUNC":
        agent.write("proj/file", b"")
    elif how == "truncate":
        agent.truncate("proj/file", 0)
    else:
        if how.startswith("chmod"):
            agent.chmod("proj/file", 0o600)
        agent.write("proj/new", b"")
        agent.rename("proj/new", "proj/file")
    assert agent.read("proj/file") == b""
    base = workspace.fs.tree.bases[1, b"file"]
    assert base.body is not None
    assert workspace.fs.bodies.stat(base.body).st_size == size
    inode = workspace.fs.tree.inodes[agent.ino("proj/file")]
    assert inode.body is not None
    assert workspace.fs.bodies.stat(inode.body).st_blocks == 0, "O_TRUNC copied content"
    assert len(os.listdir(workspace.state / "bodies")) == 2


def test_truncating_at_open_copies_nothing_into_the_body(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.source / "file").write_bytes(text(100))
    agent = workspace.start().agent
    copies = []
    monkeypatch.setattr("vfs.copyup.copy_contents", lambda *fds: copies.append(fds))
    agent.write("proj/file", b"")
    assert not copies


def test_reading_copies_nothing(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(text(100))
    agent = workspace.start().agent
    file = agent.open("proj/file", os.O_RDWR)
    agent.pread(file, 10, 0)
    agent.listdir("proj")
    agent.close(file)
    assert not workspace.fs.tree.inodes
    assert os.listdir(workspace.state / "bodies") == []


def test_changed_rules_mask_the_file_anew(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(text(100))
    agent = workspace.start().agent
    file = agent.open("proj/file")
    agent.pread(file, 1, 0)
    agent.pread(file, 1, 0)
    assert workspace.redactor.scans == 1
    workspace.redactor.version = "2"
    agent.pread(file, 1, 0)
    assert workspace.redactor.scans == 2


@pytest.mark.parametrize("size", SIZES)
def test_source_that_changes_once_during_copy_up_gives_the_new_version(
    workspace: Workspace, size: int
) -> None:
    path = workspace.source / "file"
    path.write_bytes(text(size))
    agent = workspace.start().agent
    changes = [b"SECRET7 new version"]

    def meanwhile() -> None:
        if changes:
            path.write_bytes(changes.pop())

    workspace.redactor.meanwhile = meanwhile
    agent.write("proj/file", b"!", 0)
    assert agent.read("proj/file") == b"!xxxxxx new version"
    assert len(os.listdir(workspace.state / "bodies")) == 2


@pytest.mark.parametrize("size", SIZES)
def test_source_that_keeps_changing_is_tried_a_few_times(workspace: Workspace, size: int) -> None:
    path = workspace.source / "file"
    path.write_bytes(text(size))
    agent = workspace.start().agent
    sizes = iter(range(size + 1, size + 1000))

    def meanwhile() -> None:
        path.write_bytes(text(next(sizes)))

    workspace.redactor.meanwhile = meanwhile
    with pytest.raises(OSError) as caught:
        agent.write("proj/file", b"!", 0)
    assert caught.value.errno == errno.EAGAIN
    assert not workspace.fs.tree.inodes
    assert os.listdir(workspace.state / "bodies") == []
    workspace.redactor.meanwhile = lambda: None
    agent.write("proj/file", b"!", 0)
    assert agent.read("proj/file") == b"!" + mask(path.read_bytes())[1:]


def test_two_waiting_writers_make_one_copy(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(text(INLINE_BYTES + 1))
    agent = workspace.start().agent
    fs = workspace.fs
    file = agent.open("proj/file", os.O_RDWR)
    jobs = []
    for _ in range(2):
        with pytest.raises(Blocked) as blocked:
            fs.write(file.fh, 0, b"x")
        jobs.append(blocked.value.job)
    for job in jobs:
        job()
    assert fs.write(file.fh, 0, b"one") == 3
    assert fs.write(file.fh, 3, b"two") == 3
    assert agent.read("proj/file")[:6] == b"onetwo"
    assert len(os.listdir(workspace.state / "bodies")) == 2, "a prepared copy was left behind"


def test_a_late_job_after_the_copy_leaves_nothing(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(text(INLINE_BYTES + 1))
    agent = workspace.start().agent
    fs = workspace.fs
    file = agent.open("proj/file", os.O_RDWR)
    with pytest.raises(Blocked) as late:
        fs.write(file.fh, 0, b"x")
    agent.pwrite(file, b"first", 0)
    late.value.job()
    fs.write(file.fh, 0, b"second")
    assert len(os.listdir(workspace.state / "bodies")) == 2


def test_holes_stay_holes_when_copied(workspace: Workspace) -> None:
    with open(workspace.source / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"island SECRET5")
    agent = workspace.start().agent
    agent.set("proj/sparse", SetAttributes(size=(64 << 20) + 1))
    used = sum(path.stat().st_blocks * 512 for path in (workspace.state / "bodies").iterdir())
    assert used < 4 << 20
    with_hole = agent.open("proj/sparse")
    assert agent.pread(with_hole, 20, 32 << 20) == b"island xxxxxxx" + bytes(6)
    assert agent.lstat("proj/sparse").size == (64 << 20) + 1


def test_an_unlinked_file_is_still_masked_by_the_rules_in_force(workspace: Workspace) -> None:
    (workspace.source / "file").write_bytes(text(100))
    agent = workspace.start().agent
    file = agent.open("proj/file")
    agent.pread(file, 1, 0)
    agent.unlink("proj/file")
    workspace.redactor.version = "2"
    assert agent.pread(file, 100, 0) == mask(text(100))
    assert workspace.redactor.scans == 2


def test_a_container_is_looked_into_once_for_each_version(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when its content was let go of between two opens: git opens its packs all the time."""
    monkeypatch.setattr(files, "_IDLE_KEPT", 1)
    box = workspace.source / "box"
    box.write_bytes(b"BOX one")
    for name in ("a", "b", "c"):
        (workspace.source / name).write_bytes(b"plain")
    agent = workspace.start().agent
    for _ in range(3):
        agent.read("proj/box")
        for name in ("a", "b", "c"):
            agent.read(f"proj/{name}")
    assert workspace.redactor.looks == 1
    box.write_bytes(b"BOX two, another")
    workspace.clock.second_passes()
    assert agent.read("proj/box") == mask(b"BOX two, another")
    assert workspace.redactor.looks == 2
    workspace.redactor.version = "2"
    agent.read("proj/box")
    assert workspace.redactor.looks == 3
