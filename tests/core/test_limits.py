"""The stage's limits: EDQUOT where it has had its share, ENOSPC while the disk has a little left
(promise 10). What is removed makes room again, and removing always works."""

import errno
import os
from collections.abc import Callable

import pytest
from core_workspace import Workspace

from vfs.attributes import SetAttributes
from vfs.stage.quota import Limits, margin
from vfs.union import os_error

KIB = 1024


def number_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


def limited(workspace: Workspace, size: int = 1 << 40, entries: int = 1_000_000) -> Workspace:
    workspace.start()
    workspace.fs.quota.limits = Limits(size, entries)
    return workspace


def test_writes_over_the_limit_are_refused_and_removing_makes_room(workspace: Workspace) -> None:
    agent = limited(workspace, 64 * KIB).agent
    agent.write("proj/a", bytes(40 * KIB))
    assert number_of(lambda: agent.write("proj/b", b"x" * (40 * KIB))) == errno.EDQUOT
    assert agent.read("proj/b") == b""
    agent.write("proj/a", b"y" * (40 * KIB), 0)  # in place: nothing grows
    agent.unlink("proj/a")
    agent.write("proj/b", b"x" * (40 * KIB))
    assert agent.read("proj/b") == b"x" * (40 * KIB)
    agent.truncate("proj/b", 0)
    agent.write("proj/c", b"x" * (60 * KIB))


def test_appends_and_holes_count_as_they_fill(workspace: Workspace) -> None:
    agent = limited(workspace, 64 * KIB).agent
    agent.write("proj/sparse", b"")
    agent.truncate("proj/sparse", 1 << 30)
    file = agent.open("proj/sparse", os.O_RDWR)
    agent.pwrite(file, b"x" * (32 * KIB), 1 << 20)
    agent.pwrite(file, b"x" * (28 * KIB), 2 << 20)
    assert number_of(lambda: agent.pwrite(file, b"x" * (8 * KIB), 3 << 20)) == errno.EDQUOT
    agent.close(file)


def test_copies_of_source_files_count(workspace: Workspace) -> None:
    (workspace.source / "big").write_bytes(b"x" * (64 * KIB))
    agent = limited(workspace, 100 * KIB).agent
    assert number_of(lambda: agent.append("proj/big", b"more")) == errno.EDQUOT
    assert agent.read("proj/big") == b"x" * (64 * KIB)
    assert workspace.fs.quota.used == 0
    workspace.fs.quota.limits = Limits(140 * KIB)
    agent.append("proj/big", b"more")
    assert workspace.fs.quota.used >= 128 * KIB


def test_a_large_source_file_is_refused_before_it_is_copied(workspace: Workspace) -> None:
    (workspace.source / "large").write_bytes(b"x" * (1 << 20))
    agent = limited(workspace, 100 * KIB).agent
    assert number_of(lambda: agent.truncate("proj/large", 5)) == errno.EDQUOT
    assert os.listdir(workspace.state / "bodies") == []


def test_names_are_limited_hard_links_among_them(workspace: Workspace) -> None:
    (workspace.source / "old").write_bytes(b"")
    agent = limited(workspace, entries=3).agent
    agent.write("proj/a", b"")
    agent.mkdir("proj/d")
    agent.link("proj/a", "proj/d/a")
    for call in (
        lambda: agent.write("proj/b", b""),
        lambda: agent.mkdir("proj/e"),
        lambda: agent.symlink(b"a", "proj/s"),
        lambda: agent.mknod("proj/p", 0o010600),
        lambda: agent.link("proj/a", "proj/l"),
    ):
        assert number_of(call) == errno.EDQUOT
    agent.unlink("proj/old")
    agent.rename("proj/a", "proj/b")
    agent.unlink("proj/b")
    agent.unlink("proj/d/a")
    agent.write("proj/b", b"")


def test_what_is_used_is_known_after_a_restart_and_back_to_nothing_in_the_end(
    workspace: Workspace,
) -> None:
    (workspace.source / "old").write_bytes(b"x" * 5000)
    agent = limited(workspace).agent
    agent.append("proj/old", b"x" * 5000)
    agent.write("proj/new", b"x" * 9000)
    agent.mkdir("proj/d")
    agent.link("proj/new", "proj/d/other")
    used, names = workspace.fs.quota.used, workspace.fs.tree.names
    assert used >= 4 * 4096
    agent.forget()
    workspace.restart()
    assert (workspace.fs.quota.used, workspace.fs.tree.names) == (used, names)
    agent = workspace.agent
    agent.unlink("proj/new")
    agent.unlink("proj/d/other")
    agent.rmdir("proj/d")
    agent.forget()
    assert workspace.fs.tree.names == 1
    assert workspace.fs.quota.used < used


def test_a_failed_operation_counts_nothing(workspace: Workspace) -> None:
    agent = limited(workspace).agent
    agent.mkdir("proj/d")
    agent.write("proj/d/a", b"x" * 5000)
    before = workspace.fs.quota.used, workspace.fs.tree.names
    assert number_of(lambda: agent.rmdir("proj/d")) == errno.ENOTEMPTY
    tree = workspace.fs.tree
    folder = agent.ino("proj/d")

    def broken_off() -> None:
        with tree.transaction():
            entries = tree.inodes[folder].entries
            tree.set_entry(tree.inodes[folder], b"b", entries[b"a"])
            raise os_error(errno.EIO)

    assert number_of(broken_off) == errno.EIO
    assert (workspace.fs.quota.used, workspace.fs.tree.names) == before


def test_extended_attributes_of_a_file_are_bounded(workspace: Workspace) -> None:
    agent = limited(workspace).agent
    agent.write("proj/a", b"")
    fs, ino = workspace.fs, agent.ino("proj/a")
    fs.setxattr(ino, b"user.a", bytes(40 * KIB), agent.caller)
    fs.setxattr(ino, b"user.a", bytes(60 * KIB), agent.caller)
    assert number_of(lambda: fs.setxattr(ino, b"user.b", bytes(8 * KIB), agent.caller)) == (
        errno.ENOSPC
    )
    fs.removexattr(ino, b"user.a", agent.caller)
    fs.setxattr(ino, b"user.b", bytes(8 * KIB), agent.caller)


def test_the_agent_leaves_the_rest_of_the_disk(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace.source / "old").write_bytes(b"old")
    agent = limited(workspace).agent
    agent.write("proj/a", b"a")
    agent.mkdir("proj/d")
    disk = os.statvfs(workspace.state)
    unit = disk.f_frsize
    left = list(disk)
    left[3] = left[4] = (margin(disk) + 2 * unit) // unit
    monkeypatch.setattr("vfs.stage.quota.os.fstatvfs", lambda _fd: os.statvfs_result(left))
    assert workspace.fs.statfs().f_bavail * unit == pytest.approx(2 * unit, abs=unit)
    agent.append("proj/a", b"a")
    for call in (
        lambda: agent.append("proj/a", bytes(4 * unit)),
        lambda: agent.write("proj/b", bytes(4 * unit)),
    ):
        assert number_of(call) == errno.ENOSPC
    left[3] = left[4] = 0
    for call in (
        lambda: agent.write("proj/c", b""),
        lambda: agent.append("proj/a", b"x"),
        lambda: agent.append("proj/old", b"x"),
        lambda: agent.mkdir("proj/e"),
    ):
        assert number_of(call) == errno.ENOSPC
    assert workspace.fs.statfs().f_bavail == 0
    # What makes room, or changes a row alone, goes on.
    agent.set("proj/a", SetAttributes(mode=0o600))
    agent.rename("proj/a", "proj/d/a")
    agent.truncate("proj/d/a", 0)
    for path in ("proj/d/a", "proj/b", "proj/old"):
        agent.unlink(path)
    agent.rmdir("proj/d")


def test_statfs_tells_of_the_limit(workspace: Workspace) -> None:
    agent = limited(workspace, 1 << 20, 100).agent
    before = workspace.fs.statfs()
    assert before.f_blocks * before.f_frsize == 1 << 20
    agent.write("proj/a", bytes(512 * KIB))
    after = workspace.fs.statfs()
    assert (before.f_bavail - after.f_bavail) * after.f_frsize == 512 * KIB
    assert before.f_favail - after.f_favail == 1
