"""The stage's harder cases, one by one (promises 4 and 12); the random ones are in
`test_same_as_plain_folder`."""

import errno
import os
import stat
from pathlib import Path

import pytest
from core_agent import EXCHANGE, NOREPLACE, Agent
from core_workspace import Workspace

from vfs.attributes import SetAttributes
from vfs.stage.changes import ChangeFinder
from vfs.stage.tree import WHITEOUT


@pytest.fixture
def agent(workspace: Workspace) -> Agent:
    source = workspace.source
    (source / "d/sub").mkdir(parents=True)
    (source / "d/one").write_bytes(b"one")
    (source / "d/sub/two").write_bytes(b"two")
    (source / "file").write_bytes(b"file")
    os.link(source / "file", source / "other")
    return workspace.start().agent


# -- what is gone stays gone ---------------------------------------------------------------


def test_a_deleted_file_stays_deleted(workspace: Workspace, agent: Agent) -> None:
    agent.unlink("proj/d/one")
    assert agent.listdir("proj/d") == [b"sub"]
    agent.forget()
    with pytest.raises(FileNotFoundError):
        agent.read("proj/d/one")
    workspace.restart()
    assert workspace.agent.listdir("proj/d") == [b"sub"]
    assert (workspace.source / "d/one").read_bytes() == b"one"


def test_a_folder_made_anew_shows_nothing_old(workspace: Workspace, agent: Agent) -> None:
    agent.unlink("proj/d/one")
    agent.unlink("proj/d/sub/two")
    agent.rmdir("proj/d/sub")
    agent.rmdir("proj/d")
    agent.mkdir("proj/d")
    assert agent.listdir("proj/d") == []
    agent.mkdir("proj/d/sub")
    assert agent.listdir("proj/d/sub") == []
    workspace.restart()
    assert workspace.agent.listdir("proj/d") == [b"sub"]
    assert workspace.agent.listdir("proj/d/sub") == []


def test_a_new_folder_over_a_renamed_one_shows_nothing_old(agent: Agent) -> None:
    agent.rename("proj/d", "proj/e")
    agent.mkdir("proj/d")
    assert agent.listdir("proj/d") == []
    assert agent.listdir("proj/e") == [b"one", b"sub"]


# -- renames of folders --------------------------------------------------------------------


def test_a_renamed_folder_redirects_and_copies_nothing(workspace: Workspace, agent: Agent) -> None:
    agent.rename("proj/d", "proj/e")
    assert agent.read("proj/e/sub/two") == b"two"
    assert os.listdir(workspace.state / "bodies") == []
    assert len(workspace.fs.tree.inodes) == 2  # the root and the folder itself


def test_changes_below_a_renamed_folder(workspace: Workspace, agent: Agent) -> None:
    agent.rename("proj/d", "proj/e")
    agent.append("proj/e/sub/two", b" more")
    agent.unlink("proj/e/one")
    agent.rename("proj/e/sub", "proj/sub")
    agent.rename("proj/e", "proj/d")
    assert agent.listdir("proj") == [b"d", b"file", b"other", b"sub"]
    assert agent.listdir("proj/d") == []
    assert agent.read("proj/sub/two") == b"two more"
    workspace.restart()
    assert workspace.agent.read("proj/sub/two") == b"two more"
    assert workspace.agent.listdir("proj/d") == []


def test_what_the_user_adds_below_a_renamed_folder_appears(
    workspace: Workspace, agent: Agent
) -> None:
    agent.rename("proj/d", "proj/e")
    (workspace.source / "d/late").write_bytes(b"late")
    assert agent.read("proj/e/late") == b"late"


def test_swaps_and_cycles(agent: Agent) -> None:
    agent.mkdir("proj/new")
    agent.write("proj/new/n", b"n")
    agent.rename("proj/d", "proj/new", EXCHANGE)
    assert agent.listdir("proj/d") == [b"n"]
    assert agent.listdir("proj/new") == [b"one", b"sub"]
    agent.rename("proj/new", "proj/x")
    agent.rename("proj/d", "proj/new")
    agent.rename("proj/x", "proj/d")
    assert agent.listdir("proj/d") == [b"one", b"sub"]
    assert agent.listdir("proj/new") == [b"n"]


def test_a_folder_never_moves_into_itself(workspace: Workspace, agent: Agent) -> None:
    fs, caller = workspace.fs, agent.caller
    top, folder, sub = agent.ino("proj"), agent.ino("proj/d"), agent.ino("proj/d/sub")
    for flags in (0, NOREPLACE):
        for parent in (folder, sub):
            with pytest.raises(OSError) as caught:
                fs.rename(top, b"d", parent, b"x", flags, caller)
            assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError) as caught:
        fs.rename(top, b"file", top, b"other", NOREPLACE, caller)
    assert caught.value.errno == errno.EEXIST


# -- hard links ----------------------------------------------------------------------------


def test_hard_links_of_a_source_are_one_inode(agent: Agent) -> None:
    assert agent.ino("proj/file") == agent.ino("proj/other")
    assert agent.lstat("proj/file").nlink == 2


@pytest.mark.parametrize("first", ["file", "other"])
def test_writing_through_one_name_shows_through_the_other(
    workspace: Workspace, agent: Agent, first: str
) -> None:
    second = {"file": "other", "other": "file"}[first]
    agent.append(f"proj/{first}", b" more")
    assert agent.read(f"proj/{second}") == b"file more"
    agent.unlink(f"proj/{first}")
    assert agent.lstat(f"proj/{second}").nlink == 1
    workspace.restart()
    agent = workspace.agent
    assert agent.read(f"proj/{second}") == b"file more"
    agent.rename(f"proj/{second}", "proj/renamed")
    assert agent.listdir("proj") == [b"d", b"renamed"]


def test_an_unlinked_name_does_not_come_back_by_a_change_through_the_other(agent: Agent) -> None:
    agent.ino("proj/file")
    agent.unlink("proj/other")
    agent.chmod("proj/file", 0o600)
    agent.append("proj/file", b" more")
    agent.forget()
    assert agent.listdir("proj") == [b"d", b"file"]


def test_a_replaced_name_is_not_taken_back_by_a_change_through_the_other(agent: Agent) -> None:
    agent.ino("proj/file")
    agent.write("proj/new", b"precious")
    agent.rename("proj/new", "proj/other")
    agent.chmod("proj/file", 0o600)
    agent.forget()
    assert agent.read("proj/other") == b"precious"
    assert agent.read("proj/file") == b"file"


def test_links_to_a_link_that_is_no_file(workspace: Workspace) -> None:
    (workspace.source / "sym").symlink_to("t")
    os.link(workspace.source / "sym", workspace.source / "sym2", follow_symlinks=False)
    agent = workspace.start().agent
    agent.rename("proj/sym", "proj/moved")
    assert agent.ino("proj/moved") == agent.ino("proj/sym2")
    agent.unlink("proj/moved")
    assert agent.lstat("proj/sym2").nlink == 1


def test_links_stay_within_a_grant(workspace: Workspace, agent: Agent) -> None:
    with pytest.raises(OSError) as caught:
        agent.link("proj/d", "proj/x")
    assert caught.value.errno == errno.EPERM
    file = agent.open("proj/d/one")
    agent.unlink("proj/d/one")
    with pytest.raises(FileNotFoundError):
        workspace.fs.link(file.ino, agent.ino("proj"), b"x", agent.caller)


# -- open files ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["proj/d/one", "proj/new"])
def test_a_file_outlives_its_name_while_open(workspace: Workspace, agent: Agent, path: str) -> None:
    if path == "proj/new":
        agent.write(path, b"one")
    reader, writer = agent.open(path), agent.open(path, os.O_RDWR)
    agent.unlink(path)
    assert agent.fstat(reader).nlink == 0
    assert agent.pread(reader, 9, 0) == b"one"
    agent.pwrite(writer, b"ONE!", 0)
    assert agent.pread(reader, 9, 0) == b"ONE!"
    workspace.fs.setattr(writer.ino, SetAttributes(mode=0o600, mtime_ns=5), agent.caller)
    agent.ftruncate(writer, 2)
    assert (agent.fstat(reader).size, agent.fstat(reader).nlink) == (2, 0)
    agent.write(path, b"another")
    assert agent.pread(reader, 9, 0) == b"ON"
    agent.close(reader)
    agent.close(writer)
    agent.forget()
    workspace.fs.tree.tidy_now()
    assert len(os.listdir(workspace.state / "bodies")) == 1
    assert agent.read(path) == b"another"


def test_a_removed_folder_that_a_process_stands_in(workspace: Workspace, agent: Agent) -> None:
    """A working folder is held by the kernel, not open."""
    agent.mkdir("proj/new")
    agent.unlink("proj/d/sub/two")
    for path in ("proj/new", "proj/d/sub"):
        ino = agent.ino(path)
        name = os.fsencode(path.rpartition("/")[2])
        workspace.fs.rmdir(agent.place(path)[0], name, agent.caller)
        assert workspace.fs.getattr(ino).nlink == 0
        assert list(workspace.fs.readdir(workspace.fs.opendir(ino, agent.caller), 0)) == []
        workspace.fs.setattr(ino, SetAttributes(mode=0o700), agent.caller)
        assert stat.S_IMODE(workspace.fs.getattr(ino).mode) == 0o700
        with pytest.raises(FileNotFoundError):
            workspace.fs.mkdir(ino, b"x", 0o644, agent.caller)
        with pytest.raises(FileNotFoundError):
            workspace.fs.mknod(ino, b"x", 0o644, 0, agent.caller)
        with pytest.raises(FileNotFoundError):
            workspace.fs.lookup(ino, b"x", workspace.agent.caller)
    workspace.restart()


def test_a_handle_from_before_the_first_write_sees_it(agent: Agent) -> None:
    reader = agent.open("proj/d/one")
    assert agent.pread(reader, 9, 0) == b"one"
    agent.append("proj/d/one", b" more")
    assert agent.pread(reader, 9, 0) == b"one more"


def test_create_opens_what_came_meanwhile_unless_exclusive(
    workspace: Workspace, agent: Agent
) -> None:
    top = agent.ino("proj")
    (workspace.source / "late").write_bytes(b"late")
    opened, attributes = workspace.fs.create(top, b"late", 0o644, os.O_RDWR, agent.caller)
    assert attributes.size == 4
    assert workspace.fs.read(opened.fh, 0, 9) == b"late"
    with pytest.raises(FileExistsError):
        workspace.fs.create(top, b"late", 0o644, os.O_RDWR | os.O_EXCL, agent.caller)
    with pytest.raises(FileExistsError):
        workspace.fs.create(top, b"d", 0o644, os.O_RDWR, agent.caller)


def test_truncating_by_path_holds_no_descriptor(workspace: Workspace, agent: Agent) -> None:
    agent.truncate("proj/d/one", 1)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        agent.mknod(f"proj/n{number}", stat.S_IFREG | 0o600)
        agent.truncate(f"proj/n{number}", 10)
    assert len(os.listdir("/proc/self/fd")) == before


# -- attributes ----------------------------------------------------------------------------


def test_metadata_of_a_source_is_staged_without_its_content(
    workspace: Workspace, agent: Agent
) -> None:
    agent.chmod("proj/d/one", 0o640)
    agent.utime("proj/d/one", 1, 2)
    agent.chmod("proj/d", 0o711)
    workspace.restart()
    seen = workspace.agent.lstat("proj/d/one")
    assert (stat.S_IMODE(seen.mode), seen.mtime_ns) == (0o640, 2)
    assert stat.S_IMODE(workspace.agent.lstat("proj/d").mode) == 0o711
    assert os.listdir(workspace.state / "bodies") == []
    workspace.agent.append("proj/d/one", b"!")
    assert stat.S_IMODE(workspace.agent.lstat("proj/d/one").mode) == 0o640


def test_a_folder_that_was_only_the_way_gets_its_base_with_its_first_change(
    workspace: Workspace, agent: Agent
) -> None:
    agent.write("proj/d/new", b"")
    assert (1, b"d") not in workspace.fs.tree.bases
    agent.chmod("proj/d", 0o700)
    assert stat.S_IMODE(workspace.fs.tree.bases[1, b"d"].fingerprint.mode) == 0o755


def test_user_xattrs_are_staged_and_the_sources_own_stay_private(workspace: Workspace) -> None:
    path = workspace.source / "file"
    path.write_bytes(b"x")
    os.setxattr(path, "user.mime_type", b"text/plain")
    os.setxattr(path, "user.token", b"SECRET1")
    workspace.start()
    fs, agent = workspace.fs, workspace.agent
    ino = agent.ino("proj/file")
    assert fs.listxattr(ino) == [b"user.mime_type"]
    fs.setxattr(ino, b"user.mine", b"1", agent.caller)
    fs.removexattr(ino, b"user.mime_type", agent.caller)
    for name in (b"user.token", b"user.mime_type", b"security.selinux"):
        with pytest.raises(OSError) as caught:
            fs.getxattr(ino, name)
        assert caught.value.errno == errno.ENODATA
    with pytest.raises(OSError) as caught:
        fs.setxattr(ino, b"trusted.x", b"", agent.caller)
    assert caught.value.errno == errno.ENOTSUP
    workspace.restart()
    assert workspace.fs.listxattr(workspace.agent.ino("proj/file")) == [b"user.mine"]
    assert os.getxattr(path, "user.mime_type") == b"text/plain"


def test_setgid_folders_hand_their_group_down(workspace: Workspace, agent: Agent) -> None:
    agent.mkdir("proj/shared", 0o755)
    agent.chown("proj/shared", 5, 6)
    agent.chmod("proj/shared", 0o2775)
    agent.mkdir("proj/shared/below")
    agent.write("proj/shared/file", b"")
    assert agent.lstat("proj/shared/below").gid == 6
    assert agent.lstat("proj/shared/below").mode & stat.S_ISGID
    assert agent.lstat("proj/shared/file").gid == 6


# -- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"new\nline", b" ", b"\xc3\xa9", b"e\xcc\x81", b"x" * 255, b"-rf", b"\\"]
)
def test_names_are_bytes(workspace: Workspace, agent: Agent, name: bytes) -> None:
    """Promise 12."""
    with open(os.fsencode(workspace.source) + b"/d/" + name, "wb") as file:
        file.write(b"host")
    assert name in agent.listdir("proj/d")
    agent.append(b"proj/d/" + name, b" and agent")
    agent.rename(b"proj/d/" + name, b"proj/" + name)
    workspace.restart()
    assert name in workspace.agent.listdir("proj")
    assert name not in workspace.agent.listdir("proj/d")
    assert workspace.agent.read(b"proj/" + name) == b"host and agent"


@pytest.mark.parametrize("folder", [b"proj", b"proj/d", b"proj/new"])
def test_names_that_are_too_long_are_refused(
    workspace: Workspace, agent: Agent, folder: bytes
) -> None:
    long = b"x" * 256
    agent.mkdir("proj/new")
    fs, caller = workspace.fs, agent.caller
    parent, top = agent.ino(folder), agent.ino("proj")
    for call in (
        lambda: agent.lstat(folder + b"/" + long),
        lambda: agent.write(folder + b"/" + long, b""),
        lambda: fs.create(parent, long, 0o644, 0, caller),
        lambda: fs.mkdir(parent, long, 0o755, caller),
        lambda: fs.unlink(parent, long, caller),
        lambda: fs.rmdir(parent, long, caller),
        lambda: fs.rename(top, b"file", parent, long, 0, caller),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.ENAMETOOLONG
    with pytest.raises(OSError) as caught:
        agent.symlink(b"t" * 4096, "proj/sym")
    assert caught.value.errno == errno.ENAMETOOLONG


def test_numbers_beyond_63_bits_are_kept(workspace: Workspace, agent: Agent) -> None:
    """Some file systems (overlay, network ones) hand out inode numbers of all 64 bits."""
    tree = workspace.fs.tree
    large = (1 << 64) - 3
    agent.chmod("proj/file", 0o600)
    inode = tree.inodes[agent.ino("proj/file")]
    inode.identity = (inode.identity[0], large)
    base = tree.bases[1, b"file"]
    changed = type(base.fingerprint)(large, large, *[0] * 6)
    with tree.transaction():
        tree.save(inode)
        tree.put_base(1, b"file", type(base)(changed))
        tree.store.put_projection(1, b"/r", b"proj", False, large, large)
    workspace.restart()
    tree = workspace.fs.tree
    assert tree.inodes[inode.ino].identity == inode.identity
    assert tree.bases[1, b"file"].fingerprint == changed
    assert tree.store.projections() == [(1, b"/r", b"proj", 0, large, large)]


def test_a_whiteout_remains_only_where_the_source_has_something(
    workspace: Workspace, agent: Agent
) -> None:
    agent.write("proj/new", b"")
    agent.unlink("proj/new")
    agent.unlink("proj/d/one")
    tree = workspace.fs.tree
    entries = {name: ino for inode in tree.inodes.values() for name, ino in inode.entries.items()}
    assert entries.pop(b"d") != WHITEOUT
    assert entries == {b"one": WHITEOUT}


def test_deep_folders_of_the_agent(workspace: Workspace, agent: Agent) -> None:
    path = "proj"
    for _ in range(1200):  # deeper than Python's stack
        path += "/f"
        agent.mkdir(path)
    agent.write(path + "/leaf", b"deep")
    workspace.restart()
    assert workspace.agent.read(path + "/leaf") == b"deep"
    workspace.agent.rename("proj/f", "proj/g")
    assert workspace.agent.read("proj/g" + path[6:] + "/leaf") == b"deep"
    (change,) = ChangeFinder(workspace.fs.union).find(workspace.projection)
    assert change.place == os.fsencode("g" + path[6:] + "/leaf")


def test_editors_save_by_rename(workspace: Workspace, agent: Agent) -> None:
    agent.chmod("proj/d/one", 0o755)
    number = agent.ino("proj/d/one")
    agent.write("proj/d/.one.swp", b"swap")
    agent.rename("proj/d/one", "proj/d/one~")
    agent.write("proj/d/one", b"saved")
    agent.chmod("proj/d/one", 0o755)
    agent.unlink("proj/d/one~")
    agent.unlink("proj/d/.one.swp")
    assert agent.listdir("proj/d") == [b"one", b"sub"]
    assert agent.read("proj/d/one") == b"saved"
    assert agent.ino("proj/d/one") != number
    assert not Path(workspace.source / "d/one~").exists()
