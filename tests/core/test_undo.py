"""An undo puts the sources back, whole or not at all, and can itself be undone."""

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest
from commit_bench import Bench, Tree, fill
from commit_faults import Faults, die_at, refuse
from random_agent import RandomAgent
from test_commit_whole import NUMBERS, SECRET, make

from gateway.errors import ConflictError, GrantfsError, NotFoundError


def committed(folder: Path) -> tuple[Bench, Tree, Tree]:
    """A bench with one commit; the source before and after it."""
    bench = make(folder)
    before = bench.on_disk()
    outcome = bench.commit()
    assert outcome.conflicts == outcome.undecided == outcome.failed == []
    return bench, before, bench.on_disk()


def test_there_and_back_and_there_again(tmp_path: Path) -> None:
    bench, before, after = committed(tmp_path)
    inodes = {name: os.lstat(bench.source / name).st_ino for name in ("kept", "mode")}
    undone = bench.undo()
    assert undone["conflicts"] == []
    assert bench.on_disk() == before == bench.shown() | _secret(before)
    assert os.getxattr(bench.source / "edited", "user.note") == b"kept"
    linked = [(bench.source / name).stat() for name in ("linked", "linked-too")]
    assert linked[0].st_ino == linked[1].st_ino
    assert {name: os.lstat(bench.source / name).st_ino for name in inodes} == inodes
    assert bench.changes() == []
    bench.assert_no_temporary()
    bench.undo(undone["commit"])
    assert bench.on_disk() == after
    bench.undo()
    assert bench.on_disk() == before
    assert len(bench.workspace.commits.all()) == 4
    assert bench.state_holds(SECRET) == []
    bench.close()


def _secret(tree: Tree) -> Tree:
    return {b".env": tree[b".env"]}


def test_times_and_modes_come_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    fill(bench.source, {"a": "old\n", "b": "x\n"})
    os.utime(bench.source / "a", ns=(1_000_000_007, 2_000_000_009))
    (bench.source / "a").chmod(0o640)
    os.chown(bench.source / "b", 12345, 12346) if os.getuid() == 0 else None
    before = [os.stat(bench.source / name) for name in ("a", "b")]
    bench.start()
    bench.agent.write("proj/a", b"new\n")
    bench.agent.chmod("proj/a", 0o600)
    bench.agent.unlink("proj/b")
    bench.commit()
    bench.undo()
    for name, old in zip(("a", "b"), before, strict=True):
        now = os.stat(bench.source / name)
        assert (now.st_mode, now.st_uid, now.st_gid, now.st_mtime_ns) == (
            old.st_mode, old.st_uid, old.st_gid, old.st_mtime_ns,
        )  # fmt: skip
    bench.close()


CHANGES = {
    "edited": lambda path: path.write_bytes(b"by the user\n"),
    "new/made": lambda path: path.unlink(),
    "new/deep/moved": lambda path: path.write_bytes(b"by the user\n"),
    "deleted": lambda path: path.write_bytes(b"again\n"),
    "mode": lambda path: path.chmod(0o700),
    "symlink": lambda path: (path.unlink(), path.symlink_to("elsewhere")),
    "gives-way": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changed_since_is_not_touched(tmp_path: Path, name: str) -> None:
    bench, _before, _after = committed(tmp_path)
    CHANGES[name](bench.source / name)
    now = bench.on_disk()
    done = bench.undo()
    assert done["undone"] is None
    assert done["restored"] == []
    assert done["conflicts"] == [f"proj/{name}"]
    assert bench.on_disk() == now
    bench.assert_no_temporary()
    assert len(bench.workspace.commits.all()) == 1
    bench.close()


def test_what_was_only_touched_is_no_conflict(tmp_path: Path) -> None:
    bench, before, _after = committed(tmp_path)
    os.utime(bench.source / "edited")
    again = bench.source / "new" / "made"
    data = again.read_bytes()
    again.unlink()
    again.write_bytes(data)
    again.chmod(0o644)
    assert bench.undo()["conflicts"] == []
    assert bench.on_disk() == before
    bench.close()


def test_what_somebody_put_into_a_new_folder_stays(tmp_path: Path) -> None:
    bench, before, _after = committed(tmp_path)
    (bench.source / "new" / "user").write_text("mine")
    assert bench.undo()["conflicts"] == []
    stays = {b"new": ("folder", 0o755, b""), b"new/user": ("file", 0o644, b"mine")}
    assert bench.on_disk() == {**before, **stays}
    bench.close()


def test_staged_work_stays(tmp_path: Path) -> None:
    bench, _before, _after = committed(tmp_path)
    bench.agent.append("proj/edited", b"more\n")
    bench.agent.write("proj/another", b"x")
    bench.undo()
    assert bench.agent.read("proj/edited") == b"after\nmore\n"
    assert sorted(bench.status()) == ["proj/another", "proj/edited"]
    assert bench.status()["proj/edited"]["conflict"]
    bench.close()


def test_which_commit_is_meant(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    fill(bench.source, {"a": "0"})
    bench.start()
    with pytest.raises(NotFoundError):
        bench.undo()
    ids = []
    for content in (b"1", b"2"):
        bench.agent.write("proj/a", content)
        ids.append(bench.commit().commit)
    assert bench.undo(ids[0])["conflicts"] == ["proj/a"]
    assert bench.undo()["undone"] == ids[1]
    assert bench.undo()["undone"] == ids[0]
    assert (bench.source / "a").read_bytes() == b"0"
    with pytest.raises(NotFoundError):
        bench.undo()
    with pytest.raises(ConflictError, match="undone already"):
        bench.undo(ids[0])
    bench.close()


def test_what_is_kept_has_limits(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    fill(bench.source, {"a": b"a" * 6000, "b": b"b" * 6000, "c": b"c" * 20_000})
    bench.start()
    bench.workspace.configure({"undo_limit": 10_000})
    ids = []
    for name in "ab":
        bench.agent.write(f"proj/{name}", b"new")
        ids.append(bench.commit().commit)
    with pytest.raises(GrantfsError, match="not kept"):
        bench.undo(ids[0])
    bench.agent.write("proj/c", b"new")
    with pytest.raises(GrantfsError, match="too large to be undone"):
        bench.commit()
    assert (bench.source / "c").stat().st_size == 20_000
    done = bench.run(
        lambda: bench.committer.commit(
            (), message="", digest=None, placeholders="ask", without_undo=True
        )
    )
    assert done.applied == ["proj/c"]
    with pytest.raises(GrantfsError, match="not kept"):
        bench.undo(done.commit)
    bench.workspace.configure({"undo_limit": 1})
    bench.restart()
    with pytest.raises(GrantfsError, match="not kept"):
        bench.undo(ids[1])
    assert os.listdir(bench.state / "undo") == []
    bench.close()


def test_what_was_kept_is_sealed_and_bound_to_its_place(tmp_path: Path) -> None:
    bench, _before, after = committed(tmp_path)
    (path,) = (bench.state / "undo").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(GrantfsError, match="damaged"):
        bench.undo()
    assert bench.on_disk() == after
    bench.assert_no_temporary()
    bench.close()


def test_show_of_an_undo_is_the_diff_turned_round(tmp_path: Path) -> None:
    bench, _before, _after = committed(tmp_path)
    done = bench.undo()
    _commit, files, patch = bench.workspace.commits.show(done["commit"])
    assert b"-after\n+before\n" in patch  # what goes stands first
    kinds = {one["path"]: one["kind"] for one in files}
    assert kinds["proj/deleted"] == "added"
    assert kinds["proj/new/made"] == "deleted"
    assert kinds["proj/moved"] == "renamed"
    assert SECRET not in patch
    bench.close()


def count(folder: Path, *, look: bool) -> list[str]:
    folder.mkdir()
    bench, _before, _after = committed(folder)
    with Faults(look=look).at_work() as faults:
        assert bench.undo()["conflicts"] == []
    bench.close()
    return faults.calls


def check(bench: Bench, before: Tree, after: Tree, where: str) -> bool:
    disk = bench.on_disk()
    assert disk in (before, after), where
    bench.assert_no_temporary()
    bench.assert_stage_is_empty()
    if disk == before:
        assert len(bench.workspace.commits.all()) == 2, where
        return True
    assert bench.undo()["conflicts"] == [], where
    assert bench.on_disk() == before, where
    return False


def killed_at(folder: Path, at: int, name: str) -> bool:
    folder.mkdir()
    bench, before, after = committed(folder)
    bench.agent.forget()
    bench.close()
    assert die_at(bench, at, bench.undo), f"call {at} ({name}) was not made"
    try:
        return check(bench, before, after, f"killed before call {at} ({name})")
    finally:
        bench.close()


def fails_at(folder: Path, at: int, number: int) -> None:
    folder.mkdir()
    bench, before, after = committed(folder)
    with Faults(at, refuse(number), look=True).at_work(), suppress(GrantfsError):
        bench.undo()
    bench.workspace.recover_commits()
    check(bench, before, after, f"errno {number} at call {at}")
    bench.close()


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 19])
@pytest.mark.timeout(900)
def test_a_kill_at_any_call(tmp_path: Path, step: int) -> None:
    calls = count(tmp_path / "count", look=False)
    done = [killed_at(tmp_path / str(at), at, calls[at]) for at in range(2, len(calls), step)]
    assert done == sorted(done)
    assert not done[0]


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 29])
@pytest.mark.timeout(900)
def test_an_error_at_any_call(tmp_path: Path, step: int) -> None:
    calls = count(tmp_path / "count", look=True)
    for at in range(2, len(calls), step):
        fails_at(tmp_path / str(at), at, NUMBERS[at % 4])


def random_rounds(folder: Path, seed: int, rounds: int) -> None:
    """Commits of anything an agent does, undone in turn: each source of the way back is the one
    of the way there."""
    import random

    bench = Bench(folder)
    fill(bench.source, {"a": "alpha\n", "b/a": "beta\n", "b/c/a": "deep\n", "keep": "kept\n"})
    bench.start()
    rng = random.Random(seed)
    agent = RandomAgent(bench.agent, rng, keep_open=False)
    states = [bench.on_disk()]
    for turn in range(rounds):
        done = [agent.step() for _ in range(rng.choice((1, 4, 12)))]
        where = f"seed {seed}, round {turn}: " + "; ".join(done)
        outcome = bench.commit()
        assert outcome.conflicts == outcome.undecided == outcome.failed == [], where
        if outcome.commit is not None:
            states.append(bench.on_disk())
    for number in range(len(states) - 1, 0, -1):
        assert bench.on_disk() == states[number], (seed, number)
        assert bench.undo()["conflicts"] == [], (seed, number)
        assert bench.on_disk() == states[number - 1], (seed, number)
        bench.agent.forget()
        bench.assert_no_temporary()
    bench.close()


@pytest.mark.parametrize("seed", range(3))
def test_all_of_a_history_can_be_undone(tmp_path: Path, seed: int) -> None:
    random_rounds(tmp_path, seed, 12)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_all_of_a_long_history_can_be_undone(tmp_path: Path, seed: int) -> None:
    random_rounds(tmp_path, seed, 60)
