"""A granted single file is saved as editors do, with temporary files beside it that are its own.

What stands beside the file in the source is never shown, and what the agent makes beside it is
never a change.
"""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core_agent import EXCHANGE, Agent
from core_workspace import Workspace

from vfs.gate import Access
from vfs.projection import Projection
from vfs.source import Source
from vfs.stage.changes import ChangeFinder


def number_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        call()
    return caught.value.errno


class Scene:
    """`notes.txt` and, in another folder, `todo.txt` granted; both folders hold other things."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        for folder, name in (("one", "notes.txt"), ("two", "todo.txt")):
            (workspace.source / folder).mkdir()
            (workspace.source / folder / name).write_bytes(b"old SECRET1\n")
            (workspace.source / folder / "neighbour").write_bytes(b"private")
        self.start()

    def start(self) -> None:
        workspace = self.workspace
        workspace.start()
        self.fs = workspace.fs
        del self.fs.projections[b"proj"]
        workspace.projection.source.close()
        for number, path in ((2, "one/notes.txt"), (3, "two/todo.txt")):
            root = os.fsencode(workspace.source / path)
            name = os.path.basename(root)
            self.fs.project(Projection(number, name, Source(root, shown=name)))
        self.agent = Agent(self.fs)

    def changes(self) -> list[tuple[bytes, str]]:
        finder = ChangeFinder(self.fs.union)
        return [
            (change.path, change.kind.value)
            for projection in self.fs.projections.values()
            for change in finder.find(projection)
        ]

    def hosts(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.workspace.source)): path.read_bytes()
            for path in Path(self.workspace.source).rglob("*")
            if path.is_file()
        }


@pytest.fixture
def scene(workspace: Workspace) -> Iterator[Scene]:
    made = Scene(workspace)
    before = made.hosts()
    yield made
    assert made.hosts() == before, "the source was changed"


def saved_like_sed(agent: Agent, name: str, data: bytes) -> None:
    agent.write("sedXa12", data)
    agent.chmod("sedXa12", 0o644)
    agent.rename("sedXa12", name)


def saved_like_vim(agent: Agent, name: str, data: bytes) -> None:
    agent.write(f".{name}.swp", b"swap")
    agent.write("4913", b"")
    agent.unlink("4913")
    agent.rename(name, name + "~")
    agent.write(name, data)
    agent.chmod(name, 0o644)
    agent.unlink(name + "~")
    agent.unlink(f".{name}.swp")


def saved_by_exchange(agent: Agent, name: str, data: bytes) -> None:
    agent.write(f"{name}.new", data)
    agent.rename(f"{name}.new", name, EXCHANGE)
    agent.unlink(f"{name}.new")


@pytest.mark.parametrize("save", [saved_like_sed, saved_like_vim, saved_by_exchange])
@pytest.mark.parametrize("name", ["notes.txt", "todo.txt"])
def test_a_save_is_one_modification(
    scene: Scene, save: Callable[[Agent, str, bytes], None], name: str
) -> None:
    agent = scene.agent
    other = {"notes.txt": "todo.txt", "todo.txt": "notes.txt"}[name]
    save(agent, name, b"new\n")
    assert agent.read(name) == b"new\n"
    assert agent.read(other) == b"old xxxxxxx\n"
    assert agent.listdir("") == [b".grantfs", b"notes.txt", b"todo.txt"]
    assert scene.changes() == [(os.fsencode(name), "modified")]
    save(agent, name, b"newer\n")
    assert scene.changes() == [(os.fsencode(name), "modified")]
    scene.workspace.stop()
    scene.start()
    assert scene.agent.read(name) == b"newer\n"
    assert scene.changes() == [(os.fsencode(name), "modified")]


def test_what_stands_beside_the_file_is_neither_shown_nor_told_of(scene: Scene) -> None:
    agent = scene.agent
    assert not agent.exists("neighbour")
    # A name that is taken in the source's folder is as free as any other.
    agent.write("neighbour", b"the agent's own")
    agent.write("no-neighbour", b"the agent's own")
    assert agent.read("neighbour") == b"the agent's own"
    assert agent.listdir("") == [
        b".grantfs", b"neighbour", b"no-neighbour", b"notes.txt", b"todo.txt",
    ]  # fmt: skip
    assert scene.changes() == []


def test_temporaries_are_listed_kept_and_never_a_change(scene: Scene) -> None:
    agent = scene.agent
    agent.write(".notes.txt.swp", b"swap")
    agent.symlink(b"host.1234", ".#notes.txt")
    assert scene.changes() == []
    scene.workspace.stop()
    scene.start()
    assert sorted(scene.agent.listdir("")) == [
        b".#notes.txt", b".grantfs", b".notes.txt.swp", b"notes.txt", b"todo.txt",
    ]  # fmt: skip
    assert scene.agent.read(".notes.txt.swp") == b"swap"


def test_a_backup_keeps_the_masked_bytes(scene: Scene) -> None:
    agent = scene.agent
    agent.rename("notes.txt", "notes.txt~")
    assert not agent.exists("notes.txt")
    assert scene.changes() == [(b"notes.txt", "deleted")]
    assert agent.read("notes.txt~") == b"old xxxxxxx\n"
    (scene.workspace.source / "one/notes.txt").write_bytes(b"changed\n")
    assert agent.read("notes.txt~") == b"old xxxxxxx\n"
    (scene.workspace.source / "one/notes.txt").write_bytes(b"old SECRET1\n")
    agent.rename("notes.txt~", "notes.txt")
    assert agent.read("notes.txt") == b"old xxxxxxx\n"
    agent.write("tmp", b"new")
    agent.rename("tmp", "notes.txt", EXCHANGE)
    (scene.workspace.source / "one/notes.txt").write_bytes(b"changed\n")
    assert agent.read("tmp") == b"old xxxxxxx\n"
    (scene.workspace.source / "one/notes.txt").write_bytes(b"old SECRET1\n")


def test_a_deleted_file_is_a_deletion(scene: Scene) -> None:
    scene.agent.unlink("todo.txt")
    assert scene.changes() == [(b"todo.txt", "deleted")]
    scene.agent.write("todo.txt", b"anew")
    assert scene.changes() == [(b"todo.txt", "modified")]


def test_a_save_through_an_open_temporary_goes_on(scene: Scene) -> None:
    agent = scene.agent
    file = agent.open("tmp", os.O_RDWR | os.O_CREAT)
    agent.pwrite(file, b"one", 0)
    agent.rename("tmp", "todo.txt")
    agent.pwrite(file, b" two", 3)
    assert agent.pread(file, 100, 0) == b"one two"
    agent.close(file)
    assert agent.read("todo.txt") == b"one two"


def test_only_files_and_links_are_made_beside_a_single_file(scene: Scene) -> None:
    agent = scene.agent
    assert number_of(lambda: agent.mkdir("d")) == errno.EROFS
    assert number_of(lambda: agent.mknod("p", 0o010600)) == errno.EPERM
    assert number_of(lambda: agent.link("notes.txt", "n")) == errno.EPERM
    assert number_of(lambda: agent.rename("notes.txt", "todo.txt")) == errno.EXDEV
    assert number_of(lambda: agent.rename("notes.txt", "todo.txt", EXCHANGE)) == errno.EXDEV
    assert number_of(lambda: agent.rename("notes.txt", ".grantfs/notes.txt")) == errno.EROFS
    assert scene.changes() == []


def test_a_read_grant_makes_no_room(scene: Scene) -> None:
    agent = scene.agent
    assert agent.lstat("").mode & 0o777 == 0o755
    scene.workspace.gate.allowed = Access.LIST | Access.READ
    assert agent.lstat("").mode & 0o777 == 0o555
    for call in (
        lambda: agent.write("tmp", b""),
        lambda: agent.unlink("notes.txt"),
        lambda: agent.rename("notes.txt", "notes.txt~"),
    ):
        assert number_of(call) == errno.EROFS


def test_the_end_of_a_grant_takes_its_temporaries_along(scene: Scene) -> None:
    agent, fs = scene.agent, scene.fs
    agent.write(".notes.txt.swp", b"swap")
    agent.write(".todo.txt.swp", b"swap")
    notes = fs.projections[b"notes.txt"]
    assert fs.root.names_of(notes) == [b".notes.txt.swp", b"notes.txt"]
    fs.begin_end(notes)
    fs.finish_end(notes)
    fresh = Agent(fs)
    assert fresh.listdir("") == [b".grantfs", b".todo.txt.swp", b"todo.txt"]
    assert not fresh.exists(".notes.txt.swp")
    # The name of what was granted stays free for it.
    assert number_of(lambda: fresh.write("notes.txt", b"")) == errno.EROFS
    assert number_of(lambda: fresh.rename(".todo.txt.swp", "notes.txt")) == errno.EROFS


def test_policy_judges_temporaries_as_it_does_the_file(scene: Scene) -> None:
    agent, gate = scene.agent, scene.workspace.gate
    gate.asked.clear()
    agent.write("tmp", b"x")
    agent.unlink("tmp")
    assert {path for _action, path in gate.asked} <= {
        os.fsencode(scene.workspace.source / "one/notes.txt"),
        os.fsencode(scene.workspace.source / "two/todo.txt"),
    }
    gate.refuse = lambda request: request.action == "delete"
    saved_like_sed(agent, "notes.txt", b"new")
    assert number_of(lambda: agent.unlink("notes.txt")) == errno.EACCES
    assert number_of(lambda: agent.rename("notes.txt", "notes.txt~")) == errno.EACCES
