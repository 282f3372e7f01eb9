"""A whole workspace without a mount, for tests of commit and discard.

`Bench` is a real `Workspace` over temporary folders, with `source` granted as `proj`; `agent` works
in it by path, and stands in for the kernel: what the workspace tells a mount to forget, it forgets.
"""

import atexit
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import trio

from gateway.control.messages import StartUp
from gateway.daemon.commit import Committer
from gateway.daemon.outcome import Outcome
from gateway.daemon.state import create_state
from gateway.daemon.workspace import GrantSpec, Workspace
from gateway.places import Places
from vfs.stage.changes import Change
from vfs.virtual import ROOT_INO

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
from core_agent import Agent

T = TypeVar("T")
Tree = dict[bytes, tuple[str, int, bytes]]


class AgentMount:
    """The kernel's side of invalidation, for an `Agent`."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.entries: list[tuple[int, bytes]] = []

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        self.entries.append((parent, name))

    def invalidate_inode(self, ino: int) -> None:
        """An agent caches no attributes and pages."""

    def settle(self) -> None:
        """Forget the names, after the daemon has returned to its loop."""
        for parent, name in self.entries:
            self.agent.dentries.pop((parent, name), None)
        self.entries.clear()
        self.agent._give_back()


COMPILED = Path(tempfile.mkdtemp(prefix="grantfs-rules-"))
"""Compiled rules, which all tests of a run share."""

atexit.register(shutil.rmtree, COMPILED)


class Bench:
    """One workspace under *folder*; close it."""

    def __init__(self, folder: Path, *, access: str = "write", profile: str = "secrets") -> None:
        self.folder = folder
        self.source = folder / "src"
        self.source.mkdir()
        self.home = folder / "home"
        self.access = access
        self.profile = profile
        self.workspace: Workspace

    def start(self, path: Path | None = None) -> "Bench":
        """Make the workspace and grant *path* (the source)."""
        places = Places(
            state=self.home / "state",
            runtime=self.home / "run",
            config=self.home / "config",
            mounts=self.home / "mnt",
            managed_policy=(self.home / "none", self.home / "managed"),
            user_policy=self.home / "policy",
            cache=COMPILED,
        )
        self.state = places.state / "w"
        places.state.mkdir(parents=True, mode=0o700)
        places.user_policy.mkdir()
        chosen = create_state(self.state, StartUp(name="w"), places)
        self.workspace = Workspace(self.state, places, chosen, new=True)
        spec = GrantSpec(
            path=os.fsencode(path or self.source),
            access=self.access,  # type: ignore[arg-type]
            mounted_as=b"proj",
            profile=self.profile,
        )

        async def grant() -> None:
            await self.workspace.make(self.workspace.plan([spec], keep=False))

        trio.run(grant)
        self._attend()
        return self

    def _attend(self) -> None:
        self.agent = Agent(self.workspace.fs)
        self.mount = AgentMount(self.agent)
        self.workspace.mount = self.mount  # type: ignore[assignment]
        self.committer = Committer(self.workspace)
        for projection in self.workspace.projections.values():
            self.projection = projection

    def restart(self) -> None:
        """Close the workspace and open it again."""
        self.workspace.close()
        self.reopen()

    def reopen(self) -> None:
        """Open the workspace again after its daemon ended, or another process had it."""
        old = self.workspace
        self.workspace = Workspace(self.state, old.places, old.settings)
        self._attend()

    def close(self) -> None:
        self.workspace.close()

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Run on the core's task, then let the agent hear of it."""
        result = trio.run(function)
        self.mount.settle()
        return result

    # -- the user --------------------------------------------------------------------------

    def commit(
        self,
        *paths: str | bytes,
        placeholders: str = "ask",
        digest: str | None = None,
        chosen: Sequence[str] = (),
    ) -> Outcome:
        wanted = [[os.fsencode(path)] for path in paths]
        return self.run(
            lambda: self.committer.commit(
                wanted,
                message="m",
                digest=digest,
                placeholders=placeholders,  # type: ignore[arg-type]
                chosen=chosen,
            )
        )

    def undo(self, commit: str | None = None) -> dict[str, Any]:
        return self.run(lambda: self.committer.undo(commit))

    def discard(self, *paths: str | bytes, chosen: Sequence[str] = ()) -> list[str]:
        wanted = [[os.fsencode(path)] for path in paths]
        return self.run(lambda: self.committer.discard(wanted, chosen))

    def status(self) -> dict[str, dict[str, Any]]:
        """Changes by path, as `status --json` has them, with the reason of a conflict."""
        reviewed, _digest = self.run(lambda: self.committer.review(()))
        return {one.path: {**one.to_json(), "why": one.conflict} for one in reviewed}

    def digest(self) -> str:
        _reviewed, digest = self.run(lambda: self.committer.review(()))
        return digest

    def changes(self) -> list[Change]:
        return self.committer.reviewer.find([self.projection])

    # -- looking ---------------------------------------------------------------------------

    def shown(self) -> Tree:
        """What the mount shows, by path within the grant: (kind, permission bits, content)."""
        found: Tree = {}
        self._walk(b"proj", b"", found)
        return found

    def _walk(self, path: bytes, place: bytes, found: Tree) -> None:
        for name in self.agent.listdir(path):
            below, key = path + b"/" + name, (place + b"/" + name).lstrip(b"/")
            attributes = self.agent.lstat(below)
            if stat.S_ISDIR(attributes.mode):
                found[key] = ("folder", stat.S_IMODE(attributes.mode), b"")
                self._walk(below, key, found)
            elif stat.S_ISLNK(attributes.mode):
                found[key] = ("link", 0, self.agent.readlink(below))
            elif stat.S_ISREG(attributes.mode):
                data = self.agent.read(below)
                assert len(data) == attributes.size, (key, len(data), attributes.size)
                found[key] = ("file", stat.S_IMODE(attributes.mode), data)
            else:
                found[key] = ("special", stat.S_IMODE(attributes.mode), b"")

    def on_disk(self) -> Tree:
        """The source, in the same form."""
        return disk(self.source)

    # -- what must hold --------------------------------------------------------------------

    def assert_stage_is_empty(self) -> None:
        tree = self.workspace.fs.tree
        assert self.changes() == []
        assert [inode for inode in tree.inodes.values() if inode.persistent] == []
        assert not any(names for names in tree.tops.values())
        assert tree.bases == {}
        assert list(self.workspace.fs.store.inodes()) == []
        assert list(self.workspace.fs.store.entries()) == []
        assert list(self.workspace.fs.store.bases()) == []
        open_bodies = {inode.body for inode in tree.inodes.values() if inode.body is not None}
        self.workspace.fs.tree.tidy_now()
        assert {int(name, 16) for name in os.listdir(self.state / "bodies")} == open_bodies

    def assert_no_temporary(self) -> None:
        for folder, folders, files in os.walk(os.fsencode(self.source)):
            for name in [*folders, *files]:
                assert not name.startswith(b".grantfs-tmp-"), os.path.join(folder, name)

    def state_holds(self, secret: bytes) -> list[str]:
        """Files of the state in whose bytes *secret* stands."""
        self.workspace.log.flush()
        found = []
        for folder, _folders, files in os.walk(self.home):
            for name in files:
                path = Path(folder) / name
                if secret in path.read_bytes():
                    found.append(str(path))
        return found


def disk(root: Path) -> Tree:
    """A host tree by path: (kind, permission bits, content)."""
    found: Tree = {}
    base = os.fsencode(root)
    for folder, folders, files in os.walk(base):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            key = path[len(base) + 1 :]
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                found[key] = ("folder", stat.S_IMODE(status.st_mode), b"")
            elif stat.S_ISLNK(status.st_mode):
                found[key] = ("link", 0, os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    found[key] = ("file", stat.S_IMODE(status.st_mode), file.read())
            else:
                found[key] = ("special", stat.S_IMODE(status.st_mode), b"")
    return found


def fill(root: Path, files: Mapping[str, str | bytes]) -> None:
    """Write files; folders are made as needed, a name that ends in `/` is a folder."""
    for name, data in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)


__all__ = ["ROOT_INO", "AgentMount", "Bench", "disk", "fill"]
