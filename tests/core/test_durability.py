"""Staged work survives (promise 10): a copy of the state at any instant opens with every
operation that had returned; what the disk refuses leaves memory and disk as they were."""

import errno
import os
import random
import re
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from core_agent import EXCHANGE, Agent
from core_workspace import Workspace
from test_same_as_plain_folder import Pair, agent_tree, fill, numbers, real_tree

STEPS = 60


@pytest.mark.parametrize("seed", range(4))
def test_a_copy_of_the_state_after_each_step_opens(
    workspace: Workspace, tmp_path: Path, seed: int
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    fill(workspace.source)
    fill(plain)
    workspace.start()
    pair = Pair(workspace, plain, seed)
    old_mask = os.umask(0)
    other = Workspace(tmp_path_below(tmp_path))
    try:
        for number in range(STEPS):
            pair.step()
            image = tmp_path / f"image{number}"
            shutil.copytree(workspace.state, image)
            other.start(state=image, root=workspace.source)
            try:
                assert agent_tree(other.agent) == real_tree(os.fsencode(plain)), pair.log[-1]
                assert numbers(other.agent) == numbers(pair.agent)
                # What no row names has been swept.
                assert len(os.listdir(image / "bodies")) == len(other.fs.tree._named_bodies())
            finally:
                other.stop()
            shutil.rmtree(image)
    finally:
        os.umask(old_mask)
        for _file, fd in pair.files:
            os.close(fd)


def tmp_path_below(tmp_path: Path) -> Path:
    folder = tmp_path / "other"
    folder.mkdir()
    return folder


class Refusing:
    """Stands before the stage's connection and refuses the statements that a test names."""

    def __init__(self, db: sqlite3.Connection, statement: str, message: str) -> None:
        self._db = db
        self._statement = statement
        self._message = message

    def execute(self, sql: str, *args: object) -> sqlite3.Cursor:
        if sql.startswith(self._statement):
            raise sqlite3.OperationalError(self._message)
        return self._db.execute(sql, *args)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)


@contextmanager
def refusing(workspace: Workspace, statement: str, message: str) -> Iterator[None]:
    store = workspace.fs.store
    db = store._db
    store._db = Refusing(db, statement, message)  # type: ignore[assignment]
    try:
        yield
    finally:
        store._db = db


CHANGES: dict[str, Callable[[Agent], object]] = {
    "create": lambda a: a.write("proj/new", b"x"),
    "mkdir": lambda a: a.mkdir("proj/new"),
    "symlink": lambda a: a.symlink(b"t", "proj/new"),
    "mknod": lambda a: a.mknod("proj/new", stat.S_IFIFO | 0o600),
    "link": lambda a: a.link("proj/a", "proj/new"),
    "link of a staged file": lambda a: a.link("proj/staged", "proj/new"),
    "unlink": lambda a: a.unlink("proj/b"),
    "unlink of a link": lambda a: a.unlink("proj/a"),
    "unlink of a staged file": lambda a: a.unlink("proj/staged"),
    "rmdir": lambda a: a.rmdir("proj/empty"),
    "rename": lambda a: a.rename("proj/d", "proj/new"),
    "rename over a source file": lambda a: a.rename("proj/staged", "proj/b"),
    "rename over a staged file": lambda a: a.rename("proj/b", "proj/staged"),
    "rename over a folder": lambda a: a.rename("proj/d", "proj/empty"),
    "exchange": lambda a: a.rename("proj/d", "proj/b", EXCHANGE),
    "exchange of staged": lambda a: a.rename("proj/staged", "proj/d", EXCHANGE),
    "chmod": lambda a: a.chmod("proj/b", 0o640),
    "chmod of a folder": lambda a: a.chmod("proj/d", 0o700),
    "utime": lambda a: a.utime("proj/d/one", 1, 2),
    "utime of a staged file": lambda a: a.utime("proj/staged", 1, 2),
    "first write": lambda a: a.append("proj/d/one", b"x"),
    "first truncate": lambda a: a.truncate("proj/d/one", 1),
    "O_TRUNC": lambda a: a.write("proj/d/one", b""),
    "setxattr": lambda a: a.fs.setxattr(a.ino("proj/d/one"), b"user.x", b"1", a.caller),
}


def state_of(agent: Agent) -> tuple[object, object]:
    """All that an agent can see of a workspace."""
    return agent_tree(agent), agent.fs.listxattr(agent.ino("proj/d/one"))


@pytest.mark.parametrize("statement", ["COMMIT", "INSERT", "BEGIN"])
@pytest.mark.parametrize("what", CHANGES)
def test_what_the_disk_refuses_has_not_happened(
    workspace: Workspace, what: str, statement: str
) -> None:
    fill(workspace.source)
    agent = workspace.start().agent
    agent.mkdir("proj/empty")
    agent.write("proj/staged", b"staged")
    before = state_of(agent)
    count = len(os.listdir(workspace.state / "bodies"))
    for message, number in (("database or disk is full", errno.ENOSPC), ("disk I/O", errno.EIO)):
        with refusing(workspace, statement, message):
            with pytest.raises(OSError) as caught:
                CHANGES[what](agent)
            assert caught.value.errno == number
        assert state_of(agent) == before
    assert len(os.listdir(workspace.state / "bodies")) == count, "a body was left behind"
    assert not any(node.unlinked for node in workspace.fs.nodes.by_ino.values())
    agent.forget()
    assert state_of(agent) == before
    # And now that there is space, it happens.
    CHANGES[what](agent)
    after = agent_tree(agent)
    if "xattr" not in what:
        assert after != before[0]
    workspace.restart()
    assert agent_tree(workspace.agent) == after


@pytest.mark.parametrize(
    ("what", "call"),
    [
        *((what, "create") for what in ("create", "first write", "first truncate", "O_TRUNC")),
        *((what, "open") for what in ("create", "first write", "first truncate")),
    ],
)
def test_a_body_that_cannot_be_made_changes_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, what: str, call: str
) -> None:
    fill(workspace.source)
    agent = workspace.start().agent
    before = agent_tree(agent)

    def full(*_args: object, **_more: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(workspace.fs.bodies, call, full)
        with pytest.raises(OSError) as caught:
            CHANGES[what](agent)
        assert caught.value.errno == errno.ENOSPC
    for file in list(agent.files):
        agent.close(file)
    assert {path: seen.content for path, seen in agent_tree(agent).items() if path != b"/new"} == {
        path: seen.content for path, seen in before.items()
    }
    workspace.restart()
    assert set(agent_tree(workspace.agent)) >= set(before)


def test_a_write_the_disk_refuses_is_an_error_and_the_file_stays(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(workspace.source)
    agent = workspace.start().agent
    file = agent.open("proj/a", os.O_RDWR)
    agent.pwrite(file, b"ALPHA", 0)

    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr("vfs.files.os.pwrite", full)
        with pytest.raises(OSError) as caught:
            agent.pwrite(file, b"more", 10)
        assert caught.value.errno == errno.ENOSPC
    assert agent.pread(file, 10, 0) == b"ALPHA\nalph"


@pytest.mark.parametrize("again", [False, True])
def test_sync_works_before_anything_is_staged(workspace: Workspace, again: bool) -> None:
    (workspace.source / "file").write_bytes(b"x")
    workspace.start()
    if again:
        workspace.restart()
    agent = workspace.agent
    workspace.fs.sync_folder(0)()
    file = agent.open("proj/file")
    agent.fsync(file)


def test_sync_of_a_written_file(workspace: Workspace) -> None:
    agent = workspace.start().agent
    file = agent.open("proj/new", os.O_RDWR | os.O_CREAT)
    agent.pwrite(file, b"data", 0)
    agent.fsync(file)
    agent.unlink("proj/new")
    agent.fsync(file)


def test_stray_bodies_are_swept_at_the_start(workspace: Workspace) -> None:
    agent = workspace.start().agent
    agent.write("proj/new", b"kept")
    workspace.stop()
    (workspace.state / "bodies/0000000000ff").write_bytes(b"stray")
    workspace.start()
    assert len(os.listdir(workspace.state / "bodies")) == 1
    assert workspace.agent.read("proj/new") == b"kept"


def test_random_refusals_leave_the_tree_as_a_plain_folder(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Each operation is refused once at random, and then done; the trees agree all the way."""
    plain = tmp_path / "plain"
    plain.mkdir()
    fill(workspace.source)
    fill(plain)
    workspace.start()
    pair = Pair(workspace, plain, 77)
    chance = random.Random(5)
    store = workspace.fs.store
    old_mask = os.umask(0)
    both = pair.both

    def twice(what: str, left: Callable[[], object], right: Callable[[], object]) -> None:
        if not what.startswith(("rm", "save", "open", "write", "read")):
            db = store._db
            statement = chance.choice(["COMMIT", "INSERT", "DELETE"])
            store._db = Refusing(db, statement, "disk is full")  # type: ignore[assignment]
            try:
                before = agent_tree(pair.agent)
                left()
            except OSError:
                store._db = db
                assert agent_tree(pair.agent) == before, what
            else:
                store._db = db
                right()
                return
            finally:
                store._db = db
        both(what, left, right)

    pair.both = twice  # type: ignore[method-assign]
    try:
        for _ in range(150):
            pair.step()
            pair.compare()
    except BaseException as error:
        error.add_note("\n".join(pair.log[-20:]))
        raise
    finally:
        os.umask(old_mask)
        for _file, fd in pair.files:
            os.close(fd)


def bodies(workspace: Workspace) -> set[str]:
    return set(os.listdir(workspace.state / "bodies"))


def test_bodies_outlive_the_rows_that_a_power_cut_can_bring_back(
    workspace: Workspace, tmp_path: Path
) -> None:
    (workspace.source / "file").write_bytes(b"source")
    workspace.start()
    agent = workspace.agent
    agent.write("proj/new", b"new")
    agent.append("proj/file", b" and more")
    workspace.fs.store.sync()
    image = tmp_path / "image"
    shutil.copytree(workspace.state, image)
    agent.unlink("proj/new")
    agent.unlink("proj/file")
    agent.forget()
    # The cut: rows as of the last sync, bodies as they are now.
    shutil.rmtree(image / "bodies")
    shutil.copytree(workspace.state / "bodies", image / "bodies")
    other = Workspace(tmp_path_below(tmp_path)).start(image, workspace.source)
    try:
        assert other.agent.read("proj/new") == b"new"
        assert other.agent.read("proj/file") == b"source and more"
    finally:
        other.stop()
    before = len(bodies(workspace))
    assert workspace.fs.quota.used < before * 4096
    assert workspace.fs.tree.tidy_now()
    assert len(bodies(workspace)) < before
    assert not workspace.fs.tree.tidy_now()


def test_rows_are_durable_before_their_bodies_go(workspace: Workspace) -> None:
    workspace.start()
    agent = workspace.agent
    agent.write("proj/new", b"new")
    agent.unlink("proj/new")
    agent.forget()
    job = workspace.fs.tree.tidy()
    assert job is not None
    kept = bodies(workspace)
    store = workspace.fs.store
    store.sync = lambda: (_ for _ in ()).throw(OSError(errno.EIO, "sync"))  # type: ignore[method-assign]
    job()
    assert bodies(workspace) == kept
    del store.sync  # type: ignore[method-assign]


def test_a_full_disk_gets_back_what_nothing_names(workspace: Workspace) -> None:
    workspace.start()
    agent = workspace.agent
    agent.write("proj/new", b"new")
    agent.unlink("proj/new")
    agent.forget()
    assert bodies(workspace)
    quota = workspace.fs.quota
    full = lambda growth: bool(bodies(workspace))  # noqa: E731
    quota._is_short = full  # type: ignore[method-assign]
    quota.check_disk()
    assert not bodies(workspace)


@pytest.mark.parametrize("lost", ["the agent's", "of a source", "of a base"])
def test_a_body_that_a_power_cut_took_is_done_without(workspace: Workspace, lost: str) -> None:
    (workspace.source / "file").write_bytes(b"source")
    workspace.start()
    agent = workspace.agent
    agent.write("proj/new", b"new")
    agent.append("proj/file", b" and more")
    tree = workspace.fs.tree
    inode = tree.inodes[agent.ino("proj/new" if lost == "the agent's" else "proj/file")]
    body = tree.bases[1, b"file"].body if lost == "of a base" else inode.body
    workspace.stop()
    (workspace.state / "bodies" / f"{body:012x}").unlink()
    workspace.start()
    agent = workspace.agent
    assert agent.read("proj/new") == (b"" if lost == "the agent's" else b"new")
    assert agent.read("proj/file") == (b"source" if lost == "of a source" else b"source and more")
    agent.append("proj/file", b" yet")
    agent.append("proj/new", b" yet")
    workspace.restart()
    assert workspace.agent.read("proj/new").endswith(b" yet")


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "garbage"])
def test_a_stage_that_cannot_be_read_is_refused_and_left_alone(
    workspace: Workspace, how: str
) -> None:
    workspace.start()
    for number in range(50):
        workspace.agent.write(f"proj/f{number}", b"new")
    workspace.stop()
    database = workspace.state / "stage.db"
    data = database.read_bytes()
    if how == "missing":
        database.unlink()
    else:
        garbage = data[:8192] + b"\x77" * 8192 + data[16384:]
        database.write_bytes({"empty": b"", "cut": data[:-4096], "garbage": garbage}[how])
    kept = bodies(workspace)
    with pytest.raises(OSError, match=re.escape(str(database))) as caught:
        workspace.start()
    assert caught.value.errno == errno.EIO
    assert bodies(workspace) == kept
    database.write_bytes(data)
    workspace.start()
    assert workspace.agent.read("proj/f7") == b"new"
