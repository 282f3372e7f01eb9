"""Nodes, descriptors and folder offsets: nothing is met twice, nothing is left behind."""

import errno
import os

import pytest
from core_agent import Agent
from core_workspace import Workspace, descriptors

from vfs.blocking import finish


@pytest.fixture
def agent(workspace: Workspace) -> Agent:
    for number in range(40):
        (workspace.source / f"f{number:02}").write_bytes(b"%d" % number)
    (workspace.source / "d").mkdir()
    return workspace.start().agent


def test_offsets_hold_while_the_folder_changes(workspace: Workspace, agent: Agent) -> None:
    fs = workspace.fs
    fh = fs.opendir(agent.ino("proj"), agent.caller)
    seen = []
    offset = 0
    for turn in range(100):
        taken = None
        for name, _attributes, after in fs.readdir(fh, offset):
            taken = name, after
            break
        if taken is None:
            break
        seen.append(taken[0])
        offset = taken[1]
        if turn == 5:
            agent.unlink("proj/f00")  # behind
            agent.unlink("proj/f30")  # ahead
            agent.write("proj/aaa", b"")
            agent.rename("proj/f20", "proj/zzz")
            (workspace.source / "f31").unlink()
    assert len(seen) == len(set(seen))
    assert {b"f%02d" % number for number in range(40)} - set(seen) == {b"f30", b"f20", b"f31"}
    rewound = [name for name, _attributes, _after in fs.readdir(fh, 0)]
    assert b"zzz" in rewound
    assert b"aaa" in rewound
    fs.releasedir(fh)
    with pytest.raises(OSError) as caught:
        list(fs.readdir(fh, 0))
    assert caught.value.errno == errno.EBADF


def test_nodes_go_when_they_are_forgotten(workspace: Workspace, agent: Agent) -> None:
    fs = workspace.fs
    agent.listdir("proj")
    agent.append("proj/f01", b"x")
    agent.rename("proj/f02", "proj/f03")
    agent.unlink("proj/f04")
    agent.mkdir("proj/new")
    agent.write("proj/new/x", b"")
    agent.rename("proj/new", "proj/d")
    file = agent.open("proj/f05")
    agent.forget()
    assert {node.name for node in fs.nodes.by_ino.values()} == {b"f05"}
    agent.close(file)
    assert not fs.nodes.by_ino


def test_nodes_that_the_kernel_was_never_told_of_go(workspace: Workspace, agent: Agent) -> None:
    fs = workspace.fs
    fh = fs.opendir(agent.ino("proj"), agent.caller)
    for _ in fs.readdir(fh, 0):
        pass  # a reply that was full took none of them
    fs.releasedir(fh)
    with pytest.raises(FileNotFoundError):
        agent.lstat("proj/absent")
    assert len(fs.nodes.by_ino) == 1
    agent.forget()
    assert not fs.nodes.by_ino


def test_descriptors_of_read_and_written_files_go(workspace: Workspace, agent: Agent) -> None:
    agent.listdir("proj")
    before = descriptors()
    for number in range(40):
        assert agent.read(f"proj/f{number:02}") == b"%d" % number
    for number in range(0, 40, 3):
        agent.append(f"proj/f{number:02}", b"x")
    for number in range(0, 40, 5):
        agent.unlink(f"proj/f{number:02}")
    agent.forget()
    assert descriptors() == before
    assert workspace.fs.files.open_handles == 0


def test_contents_of_closed_files_are_kept_within_bounds(
    workspace: Workspace, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfs.files._IDLE_KEPT", 5)
    agent.listdir("proj")
    before = descriptors()
    for number in range(40):
        agent.read(f"proj/f{number:02}")
    assert descriptors() - before <= 5
    assert agent.read("proj/f00") == b"0"


def test_the_kernels_pages_hold_while_the_file_does(
    workspace: Workspace, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also once its content was let go of here: nothing is scanned anew for what it has got."""
    monkeypatch.setattr("vfs.files._IDLE_KEPT", 5)
    agent.listdir("proj")

    def keeps(path: str) -> bool:
        opened = finish(lambda: workspace.fs.open(agent.ino(path), os.O_RDONLY, agent.caller))
        workspace.fs.release(opened.fh)
        return opened.keep_cache

    def others() -> None:
        for number in range(10, 30):
            agent.read(f"proj/f{number:02}")

    assert not keeps("proj/f00")
    assert keeps("proj/f00")
    others()
    assert keeps("proj/f00")
    # Another version of the file, the agent's own bytes, and the source's after those.
    others()
    (workspace.source / "f00").write_bytes(b"new")
    assert not keeps("proj/f00")
    others()
    agent.write("proj/f00", b"staged")
    others()
    assert agent.read("proj/f00") == b"staged"


def test_folder_descriptors_are_bounded(workspace: Workspace) -> None:
    for number in range(400):
        (workspace.source / f"d{number}").mkdir()
        (workspace.source / f"d{number}/f").write_bytes(b"")
    agent = workspace.start().agent
    before = descriptors()
    for number in range(400):
        agent.lstat(f"proj/d{number}/f")
    assert descriptors() - before < 300


def test_numbers_are_the_same_after_a_restart(workspace: Workspace, agent: Agent) -> None:
    agent.append("proj/f01", b"x")
    agent.rename("proj/f02", "proj/d/f02")
    agent.write("proj/new", b"")
    paths = ("proj", "proj/f00", "proj/f01", "proj/d", "proj/d/f02", "proj/new")
    before = [agent.ino(path) for path in paths]
    host = os.stat(workspace.source / "f00").st_ino
    assert before[1] & 0xFFFFFFFF == host & 0xFFFFFFFF, "git's index keeps the low 32 bits"
    assert max(before) < 1 << 53
    workspace.restart()
    assert [workspace.agent.ino(path) for path in paths] == before


def test_a_number_is_not_given_again_while_it_may_be_held(
    workspace: Workspace, agent: Agent
) -> None:
    file = agent.open("proj/new", os.O_RDWR | os.O_CREAT)
    agent.unlink("proj/new")
    agent.write("proj/new", b"")
    assert agent.ino("proj/new") != file.ino


def test_forgetting_what_is_not_known_is_no_error(workspace: Workspace, agent: Agent) -> None:
    workspace.fs.forget([(12345678, 3), (1, 1)])
    workspace.fs.release(99)
    workspace.fs.releasedir(99)
    for call in (workspace.fs.read, workspace.fs.write):
        with pytest.raises(OSError) as caught:
            call(99, 0, b"" if call == workspace.fs.write else 1)  # type: ignore[arg-type]
        assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError) as caught:
        workspace.fs.getattr(987654)
    assert caught.value.errno == errno.ESTALE
