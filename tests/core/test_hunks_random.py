"""Whatever hunks are committed, discarded and undone, in whatever order: what the mount shows
changes by a discard alone, the source by a commit or undo alone, and both by what was chosen."""

import random
from pathlib import Path

import pytest
from commit_bench import Bench, fill

from gateway.review.hunks import apply_hunks, hunks, split_hunk

NAMES = ("a", "b/c")


def text(rng: random.Random, lines: int) -> str:
    return "".join(f"{rng.choice('abcde')} {number}\n" for number in range(lines))


def edit(rng: random.Random, old: bytes) -> bytes:
    lines = old.splitlines(keepends=True)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(lines) + 1)
        how = rng.randrange(3)
        if how == 0:
            lines[at:at] = [b"new %d\n" % rng.randrange(1000)]
        elif how == 1:
            lines[at : at + rng.randrange(1, 4)] = []
        else:
            lines[at : at + 1] = [b"changed %d\n" % rng.randrange(1000)]
    return b"".join(lines)


def rounds(folder: Path, seed: int, count: int) -> None:
    rng = random.Random(seed)
    bench = Bench(folder)
    fill(bench.source, {name: text(rng, 60) for name in NAMES})
    bench.start()
    made: list[tuple[str, dict[str, bytes]]] = []  # commits, with the source before each
    for turn in range(count):
        where = f"seed {seed}, round {turn}"
        name = rng.choice(NAMES)
        path = f"proj/{name}"
        what = rng.random()
        source = {one: (bench.source / one).read_bytes() for one in NAMES}
        if what < 0.4:
            bench.agent.write(path, edit(rng, bench.agent.read(path)))
            continue
        if what < 0.5 and made and not bench.changes():
            commit, before = made.pop()
            assert bench.undo(commit)["conflicts"] == [], where
            assert {one: (bench.source / one).read_bytes() for one in NAMES} == before, where
            continue
        shown = bench.agent.read(path)
        found = hunks(source[name], shown, path=path.encode())
        parts = [part for hunk in found for part in split_hunk(hunk, path.encode())]
        if not parts:
            continue
        # Whole hunks, and parts of others.
        chosen = rng.sample(parts, rng.randrange(1, len(parts) + 1))
        ids = [part.id for part in chosen]
        if what < 0.8:
            done = bench.commit(path, chosen=ids)
            assert done.conflicts == done.failed == done.undecided == [], (where, done)
            assert bench.agent.read(path) == shown, where
            landed = apply_hunks(source[name], chosen)
            assert (bench.source / name).read_bytes() == landed, where
            assert done.commit is not None
            made.append((done.commit, source))
        else:
            bench.discard(path, chosen=ids)
            left = [part for part in parts if part.id not in ids]
            assert bench.agent.read(path) == apply_hunks(source[name], left), where
            assert (bench.source / name).read_bytes() == source[name], where
        bench.assert_no_temporary()
        if rng.random() < 0.1:
            bench.agent.forget()
            bench.restart()
    before = bench.shown()
    assert bench.commit().remaining == []
    assert bench.on_disk() == before
    bench.assert_stage_is_empty()
    bench.close()


@pytest.mark.parametrize("seed", range(4))
def test_hunks_in_any_order(tmp_path: Path, seed: int) -> None:
    rounds(tmp_path, seed, 60)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_hunks_in_any_order_at_length(tmp_path: Path, seed: int) -> None:
    rounds(tmp_path, seed, 300)
