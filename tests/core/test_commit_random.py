"""Commits and discards after anything that an agent may have done (promises 4 and 5).

Each round continues on the source that the one before left, so that the stage's bookkeeping is
carried through hundreds of commits.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from commit_bench import Bench, Tree, fill
from random_agent import RandomAgent

FILES = {
    "a": "alpha\n", "b/a": "beta a\n", "b/b": "beta b\n", "b/c/a": "deep\n", "b/c/b": "deep b\n",
    "c": "gamma\n", "keep": "kept\n",
}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    fill(made.source, FILES)
    made.start()
    yield made
    made.close()


def commit_all_rounds(bench: Bench, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    agent = RandomAgent(bench.agent, rng)
    for turn in range(rounds):
        done = [agent.step() for _ in range(rng.choice((1, 3, 8, 20)))]
        where = f"seed {seed}, round {turn}: " + "; ".join(done)
        before = bench.shown()
        held = [bench.agent.pread(file, 1 << 20, 0) for file, _content in agent.held]
        outcome = bench.commit()
        assert outcome.conflicts == outcome.undecided == outcome.failed == [], where
        assert bench.on_disk() == before, where
        assert bench.shown() == before, where
        bench.assert_no_temporary()
        try:
            bench.assert_stage_is_empty()
        except AssertionError as error:
            raise AssertionError(where) from error
        for (file, _content), data in zip(agent.held, held, strict=True):
            assert bench.agent.pread(file, 1 << 20, 0) == data, where
            bench.agent.fstat(file)


@pytest.mark.parametrize("seed", range(4))
def test_a_commit_of_everything_makes_the_source_what_the_mount_showed(
    bench: Bench, seed: int
) -> None:
    commit_all_rounds(bench, seed, 25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 130))
def test_a_commit_of_everything_at_length(bench: Bench, seed: int) -> None:
    commit_all_rounds(bench, seed, 100)


def some_paths(bench: Bench, rng: random.Random) -> list[bytes]:
    """Paths that a user might name: of changes, and of folders above them."""
    found = []
    for change in bench.changes():
        if rng.random() < 0.4:
            parts = change.path.split(b"/")
            found.append(b"/".join(parts[: rng.randrange(2, len(parts) + 1)]))
    return found


def under(tree: Tree, path: bytes) -> Tree:
    """A place and what is below it."""
    return {key: value for key, value in tree.items() if key == path or key.startswith(path + b"/")}


def partial_rounds(bench: Bench, seed: int, rounds: int) -> None:
    """Commits and discards of some paths, the agent at work in between. What the mount shows is
    the model: a commit never changes it, a discard changes only what it says it does."""
    rng = random.Random(seed)
    agent = RandomAgent(bench.agent, rng, keep_open=False)
    for turn in range(rounds):
        done = [agent.step() for _ in range(rng.choice((1, 2, 5, 10)))]
        where = f"seed {seed}, round {turn}: " + "; ".join(done)
        before, source = bench.shown(), bench.on_disk()
        chosen = some_paths(bench, rng)
        if not chosen:
            continue
        if rng.random() < 0.6:
            outcome = bench.commit(*chosen)
            where += f"; commit {chosen} -> {outcome}"
            assert outcome.conflicts == outcome.undecided == outcome.failed == [], where
            assert bench.shown() == before, where
            assert not set(outcome.applied) & set(outcome.remaining), where
            check_committed(bench, chosen, before, where)
        else:
            dropped = bench.discard(*chosen)
            where += f"; discard {chosen} -> {dropped}"
            assert bench.on_disk() == source, where
            check_discarded(bench, chosen, before, source, where)
        bench.assert_no_temporary()
        if rng.random() < 0.1:
            bench.agent.forget()
            bench.restart()
            agent.agent = bench.agent
    before = bench.shown()
    where = f"seed {seed}, at the end"
    outcome = bench.commit()
    assert outcome.conflicts == outcome.undecided == outcome.failed == [], where
    assert bench.on_disk() == before == bench.shown(), where
    bench.assert_stage_is_empty()


def check_committed(bench: Bench, chosen: list[bytes], before: Tree, where: str) -> None:
    disk = bench.on_disk()
    for path in chosen:
        place = path.removeprefix(b"proj").lstrip(b"/")
        for key, value in under(before, place).items():
            assert disk.get(key) == value, (key, where)
    left = {change.place for change in bench.changes()}
    for path in chosen:
        place = path.removeprefix(b"proj").lstrip(b"/")
        assert not any(one == place or one.startswith(place + b"/") for one in left), where


def check_discarded(
    bench: Bench, chosen: list[bytes], before: Tree, source: Tree, where: str
) -> None:
    """Files show what the source has at the places named; what is not touched shows as before."""
    shown = bench.shown()
    for path in chosen:
        place = path.removeprefix(b"proj").lstrip(b"/")
        for key, value in under(source, place).items():
            if value[0] != "folder":
                assert shown.get(key) == value, (key, where)
        for key, value in under(shown, place).items():
            if value[0] != "folder":
                assert source.get(key) == value, (key, where)
    for key, value in shown.items():
        if value[0] != "folder":
            assert value in (before.get(key), source.get(key)), (key, where)


@pytest.mark.parametrize("seed", range(4))
def test_partial_commits_and_discards_lose_nothing(bench: Bench, seed: int) -> None:
    partial_rounds(bench, seed, 25)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 115))
def test_many_partial_commits_and_discards_lose_nothing(bench: Bench, seed: int) -> None:
    partial_rounds(bench, seed, 100)


def discard_all_rounds(bench: Bench, seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    agent = RandomAgent(bench.agent, rng)
    source = bench.on_disk()
    for turn in range(rounds):
        done = [agent.step() for _ in range(rng.choice((1, 3, 8, 20)))]
        where = f"seed {seed}, round {turn}: " + "; ".join(done)
        while agent.held:
            agent.close_held()
        bench.discard()
        assert bench.shown() == source == bench.on_disk(), where
        bench.assert_stage_is_empty()


@pytest.mark.parametrize("seed", range(3))
def test_a_discard_of_everything_shows_the_source(bench: Bench, seed: int) -> None:
    discard_all_rounds(bench, seed, 30)
