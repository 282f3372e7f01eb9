"""Every operation passes the choke point (promise 1), and the record tells of refusals."""

import errno
import inspect
import os
import stat
from collections.abc import Callable

import pytest
from core_agent import Agent, File
from core_workspace import ALL, Workspace

from vfs.attributes import SetAttributes
from vfs.blocking import finish
from vfs.filesystem import Filesystem
from vfs.gate import Access
from vfs.projection import Projection
from vfs.source import Source

Call = Callable[["Scene"], object]


class Scene:
    """Numbers and handles that an agent got while all was allowed."""

    def __init__(self, workspace: Workspace) -> None:
        source = workspace.source
        (source / "d").mkdir()
        (source / "empty").mkdir()
        (source / "file").write_bytes(b"text SECRET1")
        (source / "other").write_bytes(b"other")
        (source / "link").symlink_to("file")
        os.setxattr(source / "file", "user.mime_type", b"text/plain")
        workspace.start()
        self.workspace = workspace
        self.fs: Filesystem = workspace.fs
        self.agent: Agent = workspace.agent
        self.caller = self.agent.caller
        self.top = self.agent.ino("proj")
        self.file = self.agent.ino("proj/file")
        self.link = self.agent.ino("proj/link")
        self.agent.ino("proj/empty")
        self.reader: File = self.agent.open("proj/file", os.O_RDONLY)
        self.writer: File = self.agent.open("proj/other", os.O_RDWR)
        self.folder = self.fs.opendir(self.top, self.caller)


def _set(**changes: int) -> Call:
    return lambda s: s.fs.setattr(s.file, SetAttributes(**changes), s.caller)


LOOKS: dict[str, Call] = {
    "lookup": lambda s: s.fs.lookup(s.top, b"file", s.agent.caller),
    "find": lambda s: s.fs.find(s.top, b"file"),
    "attributes": lambda s: s.fs.attributes(s.fs.node(s.file)),
    "getattr": lambda s: s.fs.getattr(s.file),
    "readlink": lambda s: s.fs.readlink(s.link, s.caller),
    "opendir": lambda s: s.fs.opendir(s.top, s.caller),
    "dots": lambda s: s.fs.dots(s.folder),
    "readdir": lambda s: list(s.fs.readdir(s.folder, 0)),
    "readdir, later": lambda s: list(s.fs.readdir(s.folder, 1)),
    "getxattr": lambda s: s.fs.getxattr(s.file, b"user.mime_type"),
    "listxattr": lambda s: s.fs.listxattr(s.file),
}
READS: dict[str, Call] = {
    "open": lambda s: s.fs.open(s.file, os.O_RDONLY, s.caller),
    "read": lambda s: s.fs.read(s.reader.fh, 0, 10),
}
WRITES: dict[str, Call] = {
    "open": lambda s: s.fs.open(s.file, os.O_WRONLY, s.caller),
    "open, truncating": lambda s: s.fs.open(s.file, os.O_WRONLY | os.O_TRUNC, s.caller),
    "create": lambda s: s.fs.create(s.top, b"new", 0o644, os.O_WRONLY, s.caller),
    "mkdir": lambda s: s.fs.mkdir(s.top, b"new", 0o755, s.caller),
    "mknod": lambda s: s.fs.mknod(s.top, b"new", stat.S_IFIFO | 0o600, 0, s.caller),
    "symlink": lambda s: s.fs.symlink(s.top, b"new", b"target", s.caller),
    "link": lambda s: s.fs.link(s.file, s.top, b"new", s.caller),
    "unlink": lambda s: s.fs.unlink(s.top, b"file", s.caller),
    "rmdir": lambda s: s.fs.rmdir(s.top, b"empty", s.caller),
    "rename": lambda s: s.fs.rename(s.top, b"file", s.top, b"new", 0, s.caller),
    "rename, over": lambda s: s.fs.rename(s.top, b"file", s.top, b"other", 0, s.caller),
    "setattr": _set(mode=0o600),
    "setattr, size": _set(size=0),
    "setattr, owner": _set(uid=1, gid=1),
    "setattr, times": _set(mtime_ns=1),
    "setxattr": lambda s: s.fs.setxattr(s.file, b"user.x", b"1", s.caller),
    "removexattr": lambda s: s.fs.removexattr(s.file, b"user.mime_type", s.caller),
}
HANDLE_WRITES: dict[str, Call] = {
    "write": lambda s: s.fs.write(s.writer.fh, 0, b"x"),
    "setattr, by handle": lambda s: s.fs.setattr(
        s.writer.ino, SetAttributes(size=0), s.caller, s.writer.fh
    ),
}
FREE = {
    "close": "ends the service",
    "project": "called by the gateway",
    "begin_end": "called by the gateway",
    "finish_end": "called by the gateway",
    "node": "tells whether a number is known, nothing of the object",
    "remember": "counts",
    "forget": "counts",
    "release": "closes",
    "releasedir": "closes",
    "sync": "makes durable what was admitted before",
    "sync_folder": "makes durable what was admitted before",
    "statfs": "the space of the stage, not of a source",
}


def test_every_public_operation_is_in_a_table() -> None:
    """A new operation has to be added here, with how it is admitted."""
    listed = {name.partition(",")[0] for name in [*LOOKS, *READS, *WRITES, *HANDLE_WRITES, *FREE]}
    public = {
        name
        for name, _member in inspect.getmembers(Filesystem, inspect.isfunction)
        if not name.startswith("_")
    }
    assert public == listed


def refused(scene: Scene, call: Call) -> int:
    with pytest.raises(OSError) as caught:
        finish(lambda: call(scene))
    return caught.value.errno or 0


@pytest.mark.parametrize("name", [*LOOKS, *READS, *WRITES, *HANDLE_WRITES])
def test_without_a_grant_nothing_answers(workspace: Workspace, name: str) -> None:
    """Promise 1."""
    scene = Scene(workspace)
    workspace.gate.allowed = Access.NONE
    for table in (LOOKS, READS, WRITES, HANDLE_WRITES):
        if name in table:
            assert refused(scene, table[name]) in (errno.ESTALE, errno.ENOENT)


@pytest.mark.parametrize("name", [*LOOKS, *READS, *WRITES, *HANDLE_WRITES])
def test_after_the_end_of_a_grant_nothing_answers(workspace: Workspace, name: str) -> None:
    """Promise 7, even if the gate went on to say yes."""
    scene = Scene(workspace)
    workspace.end()
    workspace.gate.allowed = ALL
    for table in (LOOKS, READS, WRITES, HANDLE_WRITES):
        if name in table:
            assert refused(scene, table[name]) in (errno.ESTALE, errno.ENOENT)


@pytest.mark.parametrize("name", list(LOOKS))
def test_with_list_alone_looks_answer(workspace: Workspace, name: str) -> None:
    scene = Scene(workspace)
    workspace.gate.allowed = Access.LIST
    finish(lambda: LOOKS[name](scene))


@pytest.mark.parametrize("name", list(READS))
def test_with_list_alone_reads_are_refused(workspace: Workspace, name: str) -> None:
    scene = Scene(workspace)
    workspace.gate.allowed = Access.LIST
    assert refused(scene, READS[name]) == errno.EACCES


@pytest.mark.parametrize("allowed", [Access.LIST, Access.LIST | Access.READ])
@pytest.mark.parametrize("name", list(WRITES))
def test_without_a_write_grant_changes_are_refused(
    workspace: Workspace, name: str, allowed: Access
) -> None:
    scene = Scene(workspace)
    workspace.gate.allowed = allowed
    assert refused(scene, WRITES[name]) == errno.EROFS
    assert ("refuse", "refused") in {event[:2] for event in workspace.gate.events}
    assert not workspace.fs.tree.inodes


@pytest.mark.parametrize("name", list(HANDLE_WRITES))
def test_handles_lose_what_the_grant_loses(workspace: Workspace, name: str) -> None:
    scene = Scene(workspace)
    workspace.gate.allowed = Access.LIST | Access.READ
    assert refused(scene, HANDLE_WRITES[name]) in (errno.EACCES, errno.EROFS)


@pytest.mark.parametrize("call", [READS["open"], *WRITES.values()], ids=["read", *WRITES])
def test_policy_can_refuse_what_a_grant_allows(workspace: Workspace, call: Call) -> None:
    scene = Scene(workspace)
    workspace.gate.refuse = lambda _request: True
    assert refused(scene, call) == errno.EACCES
    assert not workspace.fs.tree.inodes


def test_a_handle_opened_for_reading_writes_nothing(workspace: Workspace) -> None:
    scene = Scene(workspace)
    fs, fh = scene.fs, scene.reader.fh
    assert refused(scene, lambda s: fs.write(fh, 0, b"x")) == errno.EBADF
    cut = SetAttributes(size=0)
    assert refused(scene, lambda s: fs.setattr(s.file, cut, s.caller, fh)) in (
        errno.EBADF, errno.EINVAL,
    )  # fmt: skip
    assert not fs.tree.inodes


def test_a_hard_link_is_no_way_around_a_refused_write(workspace: Workspace) -> None:
    """A second name of a file that must not be written would make it writable."""
    scene = Scene(workspace)
    path = os.fsencode(workspace.source / "file")
    workspace.gate.refuse = lambda r: r.action == "write" and r.host_path == path
    assert refused(scene, lambda s: s.fs.link(s.file, s.top, b"new", s.caller)) == errno.EACCES


def test_a_read_is_decided_by_where_the_bytes_come_from(workspace: Workspace) -> None:
    scene = Scene(workspace)
    path = os.fsencode(workspace.source / "file")
    workspace.gate.refuse = lambda r: r.action == "read" and r.host_path == path
    scene.agent.rename("proj/file", "proj/renamed")
    assert refused(scene, lambda s: s.agent.read("proj/renamed")) == errno.EACCES


# -- hidden names --------------------------------------------------------------------------


def hide(workspace: Workspace, *names: str) -> None:
    paths = {os.fsencode(workspace.source / name) for name in names}
    workspace.gate.hide = lambda path: any(
        path == hidden or path.startswith(hidden + b"/") for hidden in paths
    )


def test_hidden_names_are_nowhere(workspace: Workspace) -> None:
    (workspace.source / "d").mkdir()
    (workspace.source / "d/key").write_bytes(b"key")
    (workspace.source / "d/seen").write_bytes(b"seen")
    hide(workspace, "d/key", "d/absent")
    agent = workspace.start().agent
    assert agent.listdir("proj/d") == [b"seen"]
    with pytest.raises(FileNotFoundError):
        agent.read("proj/d/key")
    for name in ("key", "absent"):
        for call in (
            lambda name=name: agent.write(f"proj/d/{name}", b""),
            lambda name=name: agent.mkdir(f"proj/d/{name}"),
            lambda name=name: agent.symlink(b"t", f"proj/d/{name}"),
            lambda name=name: agent.link("proj/d/seen", f"proj/d/{name}"),
            lambda name=name: agent.rename("proj/d/seen", f"proj/d/{name}"),
        ):
            with pytest.raises(PermissionError):
                call()
    with pytest.raises(FileNotFoundError):
        agent.rename("proj/d/key", "proj/d/got")
    with pytest.raises(FileNotFoundError):
        agent.unlink("proj/d/key")


def test_hidden_names_stay_hidden_in_a_renamed_folder(workspace: Workspace) -> None:
    (workspace.source / "d").mkdir()
    (workspace.source / "d/key").write_bytes(b"key")
    hide(workspace, "d/key")
    agent = workspace.start().agent
    agent.rename("proj/d", "proj/e")
    assert agent.listdir("proj/e") == []
    with pytest.raises(FileNotFoundError):
        agent.read("proj/e/key")
    with pytest.raises(PermissionError):
        agent.write("proj/e/key", b"")
    with pytest.raises(PermissionError):
        agent.rmdir("proj/e")


def test_a_place_that_is_hidden_takes_in_no_folder_from_elsewhere(workspace: Workspace) -> None:
    (workspace.source / "d").mkdir()
    (workspace.source / "d/key").write_bytes(b"key")
    hide(workspace, "e/key")
    agent = workspace.start().agent
    agent.rename("proj/d", "proj/e")
    assert agent.listdir("proj/e") == []


@pytest.mark.parametrize("how", ["written", "chmod", "renamed", "new"])
def test_what_policy_hides_later_is_hidden_although_staged(workspace: Workspace, how: str) -> None:
    (workspace.source / "d").mkdir()
    (workspace.source / "d/key").write_bytes(b"key")
    agent = workspace.start().agent
    path = "proj/d/key"
    hidden = "d/key"
    if how == "written":
        agent.append(path, b"more")
    elif how == "chmod":
        agent.chmod(path, 0o600)
    elif how == "renamed":
        agent.rename(path, path := "proj/d/renamed")
    else:
        agent.write(path := "proj/d/new", b"new")
        hidden = "d/new"
    name = os.fsencode(path.rpartition("/")[2])
    assert name in agent.listdir("proj/d")
    hide(workspace, hidden)
    agent.forget()
    assert name not in agent.listdir("proj/d")
    with pytest.raises(FileNotFoundError):
        agent.lstat(path)


# -- the end of a grant --------------------------------------------------------------------


def test_while_a_grant_ends_only_pages_of_written_files_are_taken(workspace: Workspace) -> None:
    """Promise 7: pages written back while the grant ends are kept."""
    scene = Scene(workspace)
    fs = scene.fs
    fs.write(scene.writer.fh, 0, b"dirty")
    workspace.gate.allowed = Access.NONE
    assert {node.ino for node in fs.begin_end(workspace.projection)} >= {scene.top, scene.file}
    assert fs.write(scene.writer.fh, 5, b" page") == 5
    for call in (
        lambda s: fs.write(s.reader.fh, 0, b"x"),
        lambda s: fs.setattr(s.file, SetAttributes(size=0), s.caller, s.reader.fh),
        lambda s: fs.read(s.writer.fh, 0, 5),
        lambda s: fs.read(s.reader.fh, 0, 5),
        lambda s: fs.create(s.top, b"new", 0o644, os.O_WRONLY, s.caller),
        lambda s: fs.lookup(s.top, b"file", s.agent.caller),
    ):
        assert refused(scene, call) in (errno.ESTALE, errno.EBADF, errno.EINVAL)
    fs.finish_end(workspace.projection)
    assert refused(scene, lambda s: fs.write(s.writer.fh, 0, b"x")) == errno.ESTALE
    # The work is there for the user, and for whoever is granted the folder again.
    workspace.restart()
    workspace.gate.allowed = ALL
    assert workspace.agent.read("proj/other") == b"dirty page"


@pytest.mark.parametrize("same_object", [True, False])
def test_handles_stay_dead_when_the_folder_is_granted_again(
    workspace: Workspace, same_object: bool
) -> None:
    scene = Scene(workspace)
    fs = scene.fs
    old = workspace.projection
    workspace.end()
    workspace.gate.allowed = ALL
    if same_object:
        fs.project(old)
    else:
        old.source.close()
        fs.project(Projection(1, b"proj", Source(os.fsencode(workspace.source))))
    dead: list[Call] = [
        READS["read"], *HANDLE_WRITES.values(), LOOKS["readdir"],
        lambda s: fs.setattr(s.writer.ino, SetAttributes(size=1), s.caller, s.writer.fh),
    ]  # fmt: skip
    for call in dead:
        assert refused(scene, call) == errno.ESTALE
    # Names work again, for numbers that the kernel still holds as well.
    assert scene.agent.read("proj/file") == b"text xxxxxxx"
    scene.agent.forget()
    assert scene.agent.read("proj/file") == b"text xxxxxxx"
    assert scene.agent.listdir("proj") == [b"d", b"empty", b"file", b"link", b"other"]


def test_the_end_of_a_grant_lets_go_of_masked_bytes_and_descriptors(workspace: Workspace) -> None:
    scene = Scene(workspace)
    fs = scene.fs
    fs.read(scene.reader.fh, 0, 5)
    assert fs.node(scene.file).content is not None
    workspace.end()
    assert fs.node(scene.file).content is None


def test_the_root_shows_live_projections_alone(workspace: Workspace) -> None:
    scene = Scene(workspace)
    assert scene.agent.listdir("") == [b".grantfs", b"proj"]
    workspace.gate.allowed = Access.NONE
    agent = Agent(scene.fs)
    assert agent.listdir("") == [b".grantfs"]
    assert agent.lstat("").nlink == 3
    with pytest.raises(FileNotFoundError):
        agent.lstat("proj")


def test_the_mounts_own_places_are_read_only(workspace: Workspace) -> None:
    scene = Scene(workspace)
    agent, fs = scene.agent, scene.fs
    fs.virtual.add(b"README", lambda: b"words")
    assert agent.listdir(".grantfs") == [b"README"]
    assert agent.read(".grantfs/README") == b"words"
    for call in (
        lambda: agent.write("x", b""),
        lambda: agent.mkdir(".grantfs/x"),
        lambda: agent.write(".grantfs/README", b""),
        lambda: agent.unlink(".grantfs/README"),
        lambda: agent.rename("proj/file", "x"),
        lambda: agent.rename("proj", "x"),
        lambda: agent.rmdir("proj"),
        lambda: agent.link("proj/file", ".grantfs/x"),
        lambda: agent.chmod(".grantfs", 0o777),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EROFS
