"""The user goes on working on the source while it is mounted: what is not staged follows, what
is staged stays, and a number whose object is gone says so."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable

import pytest
from core_agent import Agent
from core_workspace import Workspace

from vfs.stage.changes import ChangeFinder


def stale(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError as error:
        return error.errno == errno.ESTALE
    return False


@pytest.fixture
def agent(workspace: Workspace) -> Agent:
    (workspace.source / "d/sub").mkdir(parents=True)
    (workspace.source / "d/one").write_bytes(b"one")
    (workspace.source / "d/sub/two").write_bytes(b"two")
    (workspace.source / "file").write_bytes(b"old SECRET1")
    return workspace.start().agent


def test_modified_in_place(workspace: Workspace, agent: Agent) -> None:
    file = agent.open("proj/file")
    assert agent.pread(file, 99, 0) == b"old xxxxxxx"
    (workspace.source / "file").write_bytes(b"newer SECRET22")
    assert agent.fstat(file).size == 14
    assert agent.pread(file, 99, 0) == b"newer xxxxxxxx"
    opened = workspace.fs.open(file.ino, os.O_RDONLY, agent.caller)
    assert opened.keep_cache  # the read before it took the new version in


def test_an_open_after_a_change_drops_the_kernels_pages(workspace: Workspace, agent: Agent) -> None:
    file = agent.open("proj/file")
    agent.pread(file, 99, 0)
    assert workspace.fs.open(file.ino, os.O_RDONLY, agent.caller).keep_cache
    (workspace.source / "file").write_bytes(b"newer")
    assert not workspace.fs.open(file.ino, os.O_RDONLY, agent.caller).keep_cache


@pytest.mark.parametrize("how", ["replaced", "deleted", "folder", "symlink"])
def test_another_object_or_none_at_the_name(workspace: Workspace, agent: Agent, how: str) -> None:
    path = workspace.source / "file"
    ino = agent.ino("proj/file")
    agent.read("proj/file")
    path.rename(workspace.source.parent / "away")
    if how == "replaced":
        path.write_bytes(b"another")
    elif how == "folder":
        path.mkdir()
    elif how == "symlink":
        path.symlink_to("d/one")
    fs, caller = workspace.fs, agent.caller
    assert stale(lambda: fs.getattr(ino))
    assert stale(lambda: fs.open(ino, os.O_RDONLY, caller))
    assert stale(lambda: agent.chmod("proj/file", 0o600))
    assert stale(lambda: agent.truncate("proj/file", 1))
    assert not fs.tree.inodes
    agent.forget()
    if how == "replaced":
        assert agent.read("proj/file") == b"another"
        assert agent.ino("proj/file") != ino
    elif how == "deleted":
        assert not agent.exists("proj/file")
    else:
        kind = {"folder": stat.S_IFDIR, "symlink": stat.S_IFLNK}[how]
        assert agent.lstat("proj/file").kind == kind


def test_moved_by_the_user_keeps_its_number(workspace: Workspace, agent: Agent) -> None:
    file, folder = agent.ino("proj/file"), agent.ino("proj/d/sub")
    (workspace.source / "file").rename(workspace.source / "moved")
    (workspace.source / "d/sub").rename(workspace.source / "sub")
    workspace.clock.second_passes()
    agent.dentries.clear()
    assert agent.ino("proj/moved") == file
    assert agent.ino("proj/sub") == folder
    assert agent.read("proj/sub/two") == b"two"


def test_a_new_file_appears_unless_something_staged_stands_there(
    workspace: Workspace, agent: Agent
) -> None:
    agent.write("proj/d/mine", b"mine")
    agent.unlink("proj/d/one")
    (workspace.source / "d/late").write_bytes(b"late")
    (workspace.source / "d/mine").write_bytes(b"the user's")
    assert agent.listdir("proj/d") == [b"late", b"mine", b"sub"]
    assert agent.read("proj/d/mine") == b"mine"


def test_staged_content_stays_when_the_user_deletes_the_file(
    workspace: Workspace, agent: Agent
) -> None:
    agent.append("proj/file", b" more")
    (workspace.source / "file").unlink()
    assert agent.read("proj/file") == b"old xxxxxxx more"
    workspace.restart()
    assert workspace.agent.read("proj/file") == b"old xxxxxxx more"


def test_staged_work_stays_when_the_user_deletes_its_folder(
    workspace: Workspace, agent: Agent
) -> None:
    agent.write("proj/d/sub/new", b"new")
    agent.append("proj/d/one", b" more")
    for path in ("d/one", "d/sub/two"):
        (workspace.source / path).unlink()
    for path in ("d/sub", "d"):
        (workspace.source / path).rmdir()
    workspace.clock.second_passes()
    agent.forget()
    assert agent.listdir("proj") == [b"d", b"file"]
    assert agent.listdir("proj/d") == [b"one", b"sub"]
    assert agent.read("proj/d/one") == b"one more"
    assert agent.read("proj/d/sub/new") == b"new"
    assert stat.S_IMODE(agent.lstat("proj/d").mode) == 0o755
    agent.write("proj/d/sub/newer", b"newer")
    agent.mkdir("proj/d/more")
    agent.rename("proj/d/sub/new", "proj/d/more/new")
    assert agent.read("proj/d/more/new") == b"new"
    workspace.restart()
    assert workspace.agent.read("proj/d/sub/newer") == b"newer"


@pytest.mark.parametrize("how", ["chmod", "rename"])
def test_a_staged_name_whose_content_the_user_deleted_is_free_again(
    workspace: Workspace, agent: Agent, how: str
) -> None:
    path = "proj/d/one"
    if how == "chmod":
        agent.chmod(path, 0o600)
    else:
        agent.rename(path, path := "proj/d/moved")
    (workspace.source / "d/one").unlink()
    agent.forget()
    assert agent.listdir("proj/d") == [b"sub"]
    assert not agent.exists(path)
    agent.write(path, b"mine")
    assert agent.read(path) == b"mine"
    rows = len(workspace.fs.tree.inodes)
    workspace.restart()
    assert len(workspace.fs.tree.inodes) == rows
    assert workspace.agent.read(path) == b"mine"


def test_a_folder_staged_only_by_deletions_goes_with_its_source(
    workspace: Workspace, agent: Agent
) -> None:
    agent.unlink("proj/d/sub/two")
    agent.unlink("proj/d/one")
    (workspace.source / "d/sub/two").unlink()
    (workspace.source / "d/one").unlink()
    (workspace.source / "d/sub").rmdir()
    (workspace.source / "d").rmdir()
    workspace.clock.second_passes()
    agent.forget()
    assert agent.listdir("proj") == [b"file"]
    assert not agent.exists("proj/d")
    agent.mkdir("proj/d")
    assert agent.listdir("proj/d") == []


@pytest.mark.parametrize("how", ["deleted", "replaced", "moved out"])
def test_handles_of_a_file_that_the_user_took_away_are_stale(
    workspace: Workspace, agent: Agent, how: str
) -> None:
    path = workspace.source / "file"
    file = agent.open("proj/file", os.O_RDWR)
    agent.pread(file, 9, 0)
    if how == "deleted":
        path.unlink()
    else:
        path.rename(workspace.source.parent / "away")
    if how == "replaced":
        path.write_bytes(b"another")
    assert stale(lambda: agent.pread(file, 99, 0))
    assert stale(lambda: agent.pwrite(file, b"x", 0))
    assert not workspace.fs.tree.inodes


def test_a_staged_file_replaced_by_the_user_is_left_alone(
    workspace: Workspace, agent: Agent
) -> None:
    agent.append("proj/file", b" more")
    number = agent.ino("proj/file")
    (workspace.source / "file").unlink()
    (workspace.source / "file").mkdir()
    agent.forget()
    assert agent.read("proj/file") == b"old xxxxxxx more"
    assert agent.ino("proj/file") == number
    agent.unlink("proj/file")
    assert agent.listdir("proj") == [b"d"]
    agent.mkdir("proj/file")
    assert agent.listdir("proj/file") == []


def _changes(workspace: Workspace) -> list[tuple[str, bytes]]:
    finder = ChangeFinder(workspace.fs.union)
    return [(str(one.kind), one.place) for one in finder.find(workspace.projection)]


def test_a_folder_in_place_of_a_file_of_which_only_the_mode_was_staged_shows(
    workspace: Workspace, agent: Agent
) -> None:
    agent.chmod("proj/file", 0o600)
    (workspace.source / "file").unlink()
    (workspace.source / "file").mkdir()
    (workspace.source / "file/inner").write_bytes(b"inner")
    agent.forget()
    assert agent.listdir("proj") == [b"d", b"file"]
    assert agent.read("proj/file/inner") == b"inner"
    assert _changes(workspace) == []
    agent.append("proj/file/inner", b" more")
    agent.chmod("proj/file", 0o700)
    assert stat.S_ISDIR(workspace.fs.tree.bases[1, b"file"].fingerprint.mode)
    assert _changes(workspace) == [("mode", b"file"), ("modified", b"file/inner")]
    workspace.restart()
    assert workspace.agent.read("proj/file/inner") == b"inner more"
    assert stat.S_IMODE(workspace.agent.lstat("proj/file").mode) == 0o700
    assert _changes(workspace) == [("mode", b"file"), ("modified", b"file/inner")]


def test_a_file_in_place_of_a_folder_with_nothing_but_deletions_shows(
    workspace: Workspace, agent: Agent
) -> None:
    agent.unlink("proj/d/one")
    agent.write("proj/d/sub/new", b"new")
    agent.unlink("proj/d/sub/new")
    shutil.rmtree(workspace.source / "d")
    (workspace.source / "d").write_bytes(b"a file SECRET1")
    workspace.clock.second_passes()
    agent.forget()
    assert agent.listdir("proj") == [b"d", b"file"]
    assert agent.read("proj/d") == b"a file xxxxxxx"
    assert not {b"d", b"d/one", b"d/sub"} & {path for _, path in workspace.fs.tree.bases}
    assert {inode.kind for inode in workspace.fs.tree.inodes.values()} <= {stat.S_IFDIR}
    assert _changes(workspace) == []
    agent.append("proj/d", b" more")
    assert _changes(workspace) == [("modified", b"d")]
    workspace.restart()
    assert workspace.agent.read("proj/d") == b"a file xxxxxxx more"
    workspace.agent.unlink("proj/d")
    assert workspace.agent.listdir("proj") == [b"file"]
    assert _changes(workspace) == [("deleted", b"d")]


def test_a_staged_file_stays_one_change_when_the_user_puts_a_folder_there(
    workspace: Workspace, agent: Agent
) -> None:
    agent.append("proj/file", b" more")
    (workspace.source / "file").unlink()
    (workspace.source / "file").mkdir()
    (workspace.source / "file/inner").write_bytes(b"inner")
    assert _changes(workspace) == [("modified", b"file")]


def test_staged_work_stays_when_the_user_puts_a_file_in_place_of_its_folder(
    workspace: Workspace, agent: Agent
) -> None:
    agent.write("proj/d/new", b"new")
    shutil.rmtree(workspace.source / "d")
    (workspace.source / "d").write_bytes(b"a file")
    workspace.clock.second_passes()
    agent.forget()
    assert agent.listdir("proj/d") == [b"new"]
    assert agent.read("proj/d/new") == b"new"
    assert ("added", b"d/new") in _changes(workspace)


@pytest.mark.slow
def test_a_deep_tree_that_the_user_replaces_by_a_file(workspace: Workspace) -> None:
    place = "deep/" + "d/" * 1500
    folder = os.open(workspace.source, os.O_RDONLY)
    for name in place.rstrip("/").split("/"):
        os.mkdir(name, dir_fd=folder)
        inner = os.open(name, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=folder))
    os.close(folder)
    agent = workspace.start().agent
    agent.unlink(f"proj/{place}file")
    subprocess.run(["rm", "-r", workspace.source / "deep"], check=True)
    (workspace.source / "deep").write_bytes(b"a file")
    workspace.clock.second_passes()
    agent.forget()
    assert agent.read("proj/deep") == b"a file"
    assert len(workspace.fs.tree.inodes) == 1
    assert not workspace.fs.tree.bases
