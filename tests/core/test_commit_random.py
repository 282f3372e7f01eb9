"""Commits and discards after anything that an agent may have done (promises 4 and 5).

Each round continues on the source that the one before left, so that the stage's bookkeeping is
carried through hundreds of commits.
"""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from commit_bench import Bench, fill
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
