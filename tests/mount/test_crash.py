"""`kill -9` of the daemon at any instant under load: every call that had returned is there, and of
the one that had not either all or nothing (promise 10)."""

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from crash_agent import MIXES, Call, do, tree
from driving import Grantfs, differences, driving, wait_until

AGENT = Path(__file__).with_name("crash_agent.py")


@dataclass
class Worker:
    """An agent at work in a folder of the mount, and its twin."""

    mounted: Path
    twin: Path
    running: "subprocess.Popen[str] | None" = None
    calls: int = 0
    under_way: Call | None = None

    def start(self, seed: int, mix: str) -> None:
        words = [sys.executable, str(AGENT), str(self.mounted), str(self.twin), str(seed), mix]
        self.running = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.calls = 0

    def wait_for(self, calls: int) -> None:
        """Until so many calls have returned in this round."""
        assert self.running is not None
        assert self.running.stdout is not None
        while self.calls < calls:
            line = self.running.stdout.readline()
            assert line == "returned\n", line or "the agent has ended"
            self.calls += 1

    def end(self) -> None:
        """After the daemon's death: take in the rest of what the agent says."""
        assert self.running is not None
        said, wrong = self.running.communicate(timeout=60)
        assert self.running.returncode == 0, wrong
        lines = [line for line in said.splitlines() if line != "returned"]
        self.calls += said.count("returned\n")
        name, arguments = json.loads(lines[-1])
        self.under_way = (name, arguments)

    def hide_attributes(self) -> None:
        """The mount does not show extended attributes of a source."""
        for path in self.twin.rglob("*"):
            if not path.is_symlink() and os.listxattr(path):
                os.removexattr(path, "user.k")

    def check(self) -> bool:
        """What had returned is there; True if what had not is there as well."""
        found = tree(str(self.mounted))
        if not differences(found, tree(str(self.twin))):
            return False
        without = differences(found, tree(str(self.twin)))
        assert self.under_way is not None
        for part in self._parts(self.under_way):
            with contextlib.suppress(OSError):
                do(str(self.twin), part)
            if not differences(found, tree(str(self.twin))):
                return True
        raise AssertionError(f"under way was {self.under_way}: {without}")

    @staticmethod
    def _parts(call: Call) -> Iterator[Call]:
        """A call, or the parts of a long write, which the kernel sends page by page."""
        name, arguments = call
        if name != "write":
            yield call
            return
        path, offset, letter, size = arguments
        while size > 0:
            some = min(size, 4096 - offset % 4096)
            yield name, [path, offset, letter, some]
            offset, size = offset + some, size - some


def _folded_in(state: Path) -> Callable[[], bool]:
    """True once the database's log has been folded into it, which takes a while."""
    database = state / "stage.db"
    before = database.stat().st_mtime_ns
    return lambda: database.stat().st_mtime_ns != before


def _check_state(state: Path) -> None:
    """Of a stopped workspace: rows are whole, and every body has one."""
    with sqlite3.connect(f"file:{state}/stage.db?mode=ro", uri=True) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        named = {row[0] for row in database.execute("SELECT body FROM inode WHERE body NOT NULL")}
        named |= {row[0] for row in database.execute("SELECT body FROM base WHERE body NOT NULL")}
    database.close()
    assert {int(name, 16) for name in os.listdir(state / "bodies")} == named


def kills(grantfs: Grantfs, source: Path, rounds: int, seed: int) -> None:
    """Kill the daemon so many times: in turn while files change, while folders are renamed, and
    while the database's log is folded in."""
    rng = random.Random(seed)
    base = grantfs.home.parent
    mount = grantfs.up(source, "--name", "w", "--mount", base / "m")
    workers = []
    for number in range(2):
        mounted, twin = mount / "proj" / f"w{number}", base / f"twin{number}"
        mounted.mkdir()
        twin.mkdir()
        workers.append(Worker(mounted, twin))
    for number in range(rounds):
        mix = list(MIXES)[number % len(MIXES)]
        for index, worker in enumerate(workers):
            worker.start(seed * 1000 + number * 10 + index, mix if index == 0 else "files")
        try:
            if mix == "rows":
                wait_until(_folded_in(grantfs.state("w")), "the log is folded in", 100)
            else:
                workers[rng.randrange(2)].wait_for(rng.randrange(1, 150))
        finally:
            grantfs.kill()
        for worker in workers:
            worker.end()
        grantfs.up("--name", "w")
        for worker in workers:
            worker.check()
        assert grantfs.ask("audit", "verify")["ok"] is True
        if number % 4 == 3:  # from here on all is the source's, and copied up when it changes
            assert grantfs.ask("commit", "-y")["remaining"] == []
            for worker in workers:
                worker.hide_attributes()
    grantfs.run("down")
    _check_state(grantfs.state("w"))
    grantfs.up("--name", "w")
    assert grantfs.ask("commit", "-y")["remaining"] == []
    for worker in workers:
        worker.hide_attributes()
        assert differences(tree(str(worker.mounted)), tree(str(worker.twin))) == []


def test_some_kills(grantfs: Grantfs, source: Path) -> None:
    kills(grantfs, source, 6, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2, 5))
def test_many_kills(grantfs: Grantfs, source: Path, seed: int) -> None:
    kills(grantfs, source, 18, seed)


def test_a_copy_of_the_state_of_a_workspace_at_work_opens(grantfs: Grantfs, source: Path) -> None:
    base = grantfs.home.parent
    mount = grantfs.up(source, "--name", "w", "--mount", base / "m")
    worker = Worker(mount / "proj" / "w0", base / "twin0")
    worker.mounted.mkdir()
    worker.twin.mkdir()
    worker.start(1, "files")
    with driving(60) as other:
        worker.wait_for(50)
        early = tree(str(worker.twin))
        # File by file, as a backup does it, while the agent goes on.
        shutil.copytree(grantfs.home / "state", other.home / "state")
        worker.wait_for(worker.calls + 50)
        image = other.up("--name", "w", "--mount", other.home.parent / "m")
        found = tree(str(image / "proj" / "w0"))
        assert found.keys() & early.keys()
        assert other.ask("audit", "verify")["ok"] is True
        assert other.ask("status")["changes"]
        other.run("discard", "-y")
        assert other.status() == {}
    grantfs.kill()
    worker.end()
    grantfs.up("--name", "w")
    worker.check()
