"""A commit is whole or not at all (promise 5), whatever happens at whatever call of it."""

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from commit_bench import Bench, Tree, fill
from commit_faults import Faults, die_at, refuse

from gateway.commit.batch import Batch
from gateway.commit.steps import Step
from gateway.daemon.commit import Committer
from gateway.errors import ConflictError, GrantfsError
from vfs.stage.changes import Change

SECRET = b"sk_live_4eC39HqLyjWDarjtT1zdp7dc"
FILES: dict[str, str | bytes] = {
    "edited": "before\n", "deleted": "gone soon\n", "moved": "moves\n", "mode": "#!/bin/sh\n",
    ".env": b"STRIPE_API_KEY=" + SECRET + b"\nDEBUG=0\n", "folder/a": "a\n", "folder/b": "b\n",
    "old/one": "one\n", "old/two": "two\n", "gives-way/x": "x\n", "closed/inside": "1\n",
    "linked": "two names\n", "kept": "kept\n", "big": b"x" * 300_000,
}  # fmt: skip


def make(folder: Path) -> Bench:
    bench = Bench(folder)
    fill(bench.source, FILES)
    os.link(bench.source / "linked", bench.source / "linked-too")
    os.symlink("kept", bench.source / "symlink")
    os.setxattr(bench.source / "edited", "user.note", b"kept")
    bench.start()
    agent = bench.agent
    agent.write("proj/edited", b"after\n")
    agent.unlink("proj/deleted")
    agent.mkdir("proj/new")
    agent.mkdir("proj/new/deep")
    agent.rename("proj/moved", "proj/new/deep/moved")
    agent.write("proj/new/made", b"made\n")
    agent.chmod("proj/mode", 0o755)
    agent.append("proj/.env", b"MORE=1\n")
    agent.rename("proj/folder", "proj/renamed")
    for name in ("one", "two"):
        agent.unlink(f"proj/old/{name}")
    agent.rmdir("proj/old")
    agent.unlink("proj/gives-way/x")
    agent.rmdir("proj/gives-way")
    agent.write("proj/gives-way", b"a file now\n")
    agent.write("proj/closed/inside", b"2\n")
    agent.chmod("proj/closed", 0o555)
    agent.append("proj/linked", b"more\n")
    agent.unlink("proj/symlink")
    agent.symlink(b"edited", "proj/symlink")
    agent.truncate("proj/big", 5)
    return bench


class State:
    """A source and its stage before the commit, and what the commit is to make of it."""

    def __init__(self, bench: Bench) -> None:
        self.before = bench.on_disk()
        self.shown = bench.shown()
        self.changes = sorted(change.path for change in bench.changes())
        self.after = dict(self.shown)
        env = self.shown[b".env"]
        masked = env[2].split(b"=", 1)[1].split(b"\n")[0]
        self.after[b".env"] = (*env[:2], env[2].replace(masked, SECRET))

    def check(self, bench: Bench, where: str) -> bool:
        """All of it landed (True) or none, and nothing that was staged is lost."""
        disk: Tree = bench.on_disk()
        assert disk in (self.before, self.after), (where, _difference(disk, self))
        assert bench.shown() == self.shown, where
        bench.assert_no_temporary()
        if disk == self.after:
            bench.assert_stage_is_empty()
            assert len(bench.workspace.commits.all()) == 1, where
            return True
        assert sorted(change.path for change in bench.changes()) == self.changes, where
        assert bench.workspace.commits.all() == [], where
        outcome = bench.commit()
        assert outcome.conflicts == outcome.undecided == outcome.failed == [], (where, outcome)
        assert bench.on_disk() == self.after, where
        return False


def _difference(disk: Tree, state: State) -> dict[bytes, str]:
    found = {}
    for key in {*disk, *state.before, *state.after}:
        old, new, now = state.before.get(key), state.after.get(key), disk.get(key)
        if old != new:
            found[key] = "old" if now == old else "new" if now == new else f"other: {now}"
    return found


def count(folder: Path, *, look: bool = False) -> list[str]:
    """The names of a whole commit's calls."""
    folder.mkdir()
    bench = make(folder)
    with Faults(look=look).at_work() as faults:
        assert bench.commit().failed == []
    bench.close()
    return faults.calls


def killed_at(folder: Path, at: int, name: str) -> bool:
    folder.mkdir()
    bench = make(folder)
    state = State(bench)
    bench.agent.forget()
    bench.close()
    assert die_at(bench, at, bench.commit), f"call {at} ({name}) was not made"
    try:
        assert bench.workspace.unfinished == []
        return state.check(bench, f"killed before call {at} ({name})")
    finally:
        bench.close()


def fails_at(folder: Path, at: int, number: int) -> bool:
    folder.mkdir()
    bench = make(folder)
    state = State(bench)
    where = f"errno {number} at call {at}"
    with Faults(at, refuse(number), look=True).at_work() as faults, suppress(GrantfsError):
        bench.commit()
    where += f" ({faults.calls[at] if at < len(faults.calls) else 'none'})"
    bench.workspace.recover_commits()
    assert bench.workspace.unfinished == []
    try:
        return state.check(bench, where)
    finally:
        bench.close()


def test_the_commit_that_these_tests_cut_short_is_whole(tmp_path: Path) -> None:
    bench = make(tmp_path)
    state = State(bench)
    outcome = bench.commit()
    assert outcome.conflicts == outcome.undecided == outcome.failed == []
    assert state.check(bench, "undisturbed")
    assert os.getxattr(bench.source / "edited", "user.note") == b"kept"
    assert (bench.source / "linked").stat().st_ino == (bench.source / "linked-too").stat().st_ino
    bench.close()


def killed_everywhere(folder: Path, first: int, step: int) -> None:
    calls = count(folder / "count")
    places = sorted({*range(first, len(calls), step), len(calls) - 1})
    landed = [killed_at(folder / str(at), at, calls[at]) for at in places]
    # The moment that decides is one: none has all before it, all have after it.
    assert landed == sorted(landed)
    assert not landed[0]
    assert landed[-1]


def test_a_kill_at_some_calls(tmp_path: Path) -> None:
    killed_everywhere(tmp_path, 3, 17)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_kill_at_every_call(tmp_path: Path) -> None:
    killed_everywhere(tmp_path, 0, 1)


def test_what_the_agent_writes_while_it_lands_stays_staged(tmp_path: Path) -> None:
    bench = make(tmp_path)
    state = State(bench)
    real = Batch.perform

    def perform(batch: Batch, steps: Iterable[Step]) -> None:
        real(batch, steps)
        if bench.agent.read("proj/edited") == b"after\n":
            bench.agent.append("proj/edited", b"and more\n")
            bench.agent.append("proj/.env", b"LATER=1\n")
            bench.agent.write("proj/kept", b"edited meanwhile\n")

    with mock.patch.object(Batch, "perform", perform):
        outcome = bench.commit()
    assert outcome.conflicts == outcome.failed == []
    assert sorted(outcome.remaining) == ["proj/.env", "proj/edited", "proj/kept"]
    assert bench.on_disk() == state.after
    assert bench.agent.read("proj/edited") == b"after\nand more\n"
    status = bench.status()
    assert [status["proj/edited"]["added"], status["proj/edited"]["removed"]] == [1, 0]
    assert [status["proj/.env"]["added"], status["proj/.env"]["conflict"]] == [1, False]
    assert bench.commit().remaining == []
    env = (bench.source / ".env").read_bytes()
    assert env == b"STRIPE_API_KEY=" + SECRET + b"\nDEBUG=0\nMORE=1\nLATER=1\n"
    bench.close()


def test_what_the_agent_writes_before_it_lands_keeps_the_file_back(tmp_path: Path) -> None:
    bench = make(tmp_path)
    real = Batch.sync_files

    def sync_files(batch: Batch) -> None:
        real(batch)
        bench.agent.append("proj/edited", b"and more\n")

    with mock.patch.object(Batch, "sync_files", sync_files):
        outcome = bench.commit()
    assert outcome.conflicts == [{"path": "proj/edited", "why": "the agent is still writing to it"}]
    assert outcome.remaining == ["proj/edited"]
    assert (bench.source / "edited").read_bytes() == b"before\n"
    bench.assert_no_temporary()
    bench.close()


def test_what_the_user_changes_while_it_lands_is_left_out(tmp_path: Path) -> None:
    bench = make(tmp_path)
    real = Batch.sync_files

    def sync_files(batch: Batch) -> None:
        real(batch)
        (bench.source / "edited").write_bytes(b"by the user\n")

    with mock.patch.object(Batch, "sync_files", sync_files):
        outcome = bench.commit()
    assert outcome.conflicts == [{"path": "proj/edited", "why": "the source changed"}]
    assert outcome.remaining == ["proj/edited"]
    assert (bench.source / "edited").read_bytes() == b"by the user\n"
    assert not (bench.source / "deleted").exists()
    assert len(bench.workspace.commits.all()) == 1
    bench.assert_no_temporary()
    bench.close()


def test_a_digest_binds_what_lands(tmp_path: Path) -> None:
    bench = make(tmp_path)
    before = bench.on_disk()
    real = Committer._take

    def take(committer: Committer, wanted: Sequence[Sequence[bytes]], **how: bool) -> list[Change]:
        bench.agent.append("proj/edited", b"slipped in\n")
        return real(committer, wanted, **how)

    with mock.patch.object(Committer, "_take", take), pytest.raises(ConflictError):
        bench.commit(digest=bench.digest())
    assert bench.on_disk() == before
    bench.assert_no_temporary()
    bench.agent.write("proj/another", b"x")
    real_take = real

    def take_too(
        committer: Committer, wanted: Sequence[Sequence[bytes]], **how: bool
    ) -> list[Change]:
        bench.agent.write("proj/slipped", b"in\n")
        return real_take(committer, wanted, **how)

    with mock.patch.object(Committer, "_take", take_too), pytest.raises(ConflictError):
        bench.commit(digest=bench.digest())
    assert bench.on_disk() == before
    assert bench.commit(digest=bench.digest()).remaining == []
    bench.close()


def test_a_source_that_is_away_is_recovered_once_it_is_back(tmp_path: Path) -> None:
    bench = make(tmp_path)
    state = State(bench)
    with (
        mock.patch.object(Batch, "undo", side_effect=OSError(errno.EIO, "gone")),
        mock.patch.object(Batch, "sync", side_effect=OSError(errno.EIO, "gone")),
        pytest.raises(GrantfsError, match="not all could be put back"),
    ):
        bench.commit()
    assert bench.on_disk() == state.after | _temporaries(bench)
    away = tmp_path / "away"
    bench.source.rename(away)
    with pytest.raises(GrantfsError, match="earlier commit is to be finished first"):
        bench.commit()
    bench.restart()
    assert bench.workspace.unfinished != []
    assert any("cut short" in warning for warning in bench.workspace.warnings)
    away.rename(bench.source)
    bench.restart()
    assert bench.workspace.unfinished == []
    assert not state.check(bench, "recovered late")
    bench.close()


def _temporaries(bench: Bench) -> Tree:
    return {key: value for key, value in bench.on_disk().items() if b".grantfs-tmp-" in key}


NUMBERS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


def test_an_error_at_some_calls(tmp_path: Path) -> None:
    calls = count(tmp_path / "count", look=True)
    for turn, at in enumerate(range(2, len(calls), 23)):
        fails_at(tmp_path / str(at), at, NUMBERS[turn % 4])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", NUMBERS)
def test_an_error_at_every_call(tmp_path: Path, number: int) -> None:
    calls = count(tmp_path / "count", look=True)
    for at in range(len(calls)):
        fails_at(tmp_path / str(at), at, number)
