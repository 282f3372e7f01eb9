"""Three-way merges, held to ``git merge-file``."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.review.merge import Merge, merge3
from gateway.review.meter import STEPS_FREE, STEPS_PER_LINE, Meter

TEN = b"".join(b"line %d\n" % n for n in range(10))


def by_git(folder: Path, base: bytes, ours: bytes, theirs: bytes) -> Merge:
    names = []
    for name, data in (("ours", ours), ("base", base), ("theirs", theirs)):
        (folder / name).write_bytes(data)
        names.append(name)
    done = subprocess.run(
        ["git", "merge-file", "-p", "-L", "ours", "-L", "base", "-L", "theirs", *names],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"},
        capture_output=True,
    )
    assert done.returncode < 128, done.stderr
    return Merge(done.stdout, done.returncode)


def edited(text: bytes, *edits: tuple[bytes, bytes]) -> bytes:
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


CASES: dict[str, tuple[bytes, bytes, bytes]] = {
    "nothing": (TEN, TEN, TEN),
    "ours only": (TEN, edited(TEN, (b"line 3", b"three")), TEN),
    "theirs only": (TEN, TEN, edited(TEN, (b"line 3", b"three"))),
    "apart": (TEN, edited(TEN, (b"line 2", b"two")), edited(TEN, (b"line 7", b"seven"))),
    "alike": (TEN, edited(TEN, (b"line 2", b"two")), edited(TEN, (b"line 2", b"two"))),
    "alike and more": (
        TEN,
        edited(TEN, (b"line 2", b"two"), (b"line 8", b"eight")),
        edited(TEN, (b"line 2", b"two"), (b"line 5", b"five")),
    ),
    "same line": (TEN, edited(TEN, (b"line 2", b"two")), edited(TEN, (b"line 2", b"zwei"))),
    "touching": (TEN, edited(TEN, (b"line 2", b"two")), edited(TEN, (b"line 3", b"three"))),
    "one line between": (
        TEN,
        edited(TEN, (b"line 2", b"two")),
        edited(TEN, (b"line 4", b"four")),
    ),
    "overlapping": (
        TEN,
        edited(TEN, (b"line 2\nline 3\n", b"a\n")),
        edited(TEN, (b"line 3\nline 4\n", b"b\n")),
    ),
    "deleted against edited": (
        TEN,
        edited(TEN, (b"line 4\nline 5\n", b"")),
        edited(TEN, (b"line 5", b"five")),
    ),
    "both deleted": (TEN, edited(TEN, (b"line 4\n", b"")), edited(TEN, (b"line 4\n", b""))),
    "both added at the end": (TEN, TEN + b"a\n", TEN + b"b\n"),
    "both added at the start": (TEN, b"a\n" + TEN, b"b\n" + TEN),
    "both added the same": (TEN, TEN + b"a\n", TEN + b"a\n"),
    "two conflicts near": (
        TEN,
        edited(TEN, (b"line 2", b"two"), (b"line 5", b"five")),
        edited(TEN, (b"line 2", b"zwei"), (b"line 5", b"funf")),
    ),
    "two conflicts far": (
        TEN,
        edited(TEN, (b"line 1", b"one"), (b"line 8", b"eight")),
        edited(TEN, (b"line 1", b"eins"), (b"line 8", b"acht")),
    ),
    "agreeing within a conflict": (
        TEN,
        edited(TEN, (b"line 3\n", b"p\nq\nr\ns\nt\nu\nv\n")),
        edited(TEN, (b"line 3\n", b"P\nq\nr\ns\nt\nu\nV\n")),
    ),
    "alike between two conflicts": (
        TEN,
        edited(TEN, (b"line 2", b"two"), (b"line 4", b"same"), (b"line 6", b"six")),
        edited(TEN, (b"line 2", b"zwei"), (b"line 4", b"same"), (b"line 6", b"sechs")),
    ),
    "deleted alike between two conflicts": (
        TEN,
        edited(TEN, (b"line 2", b"two"), (b"line 4\n", b""), (b"line 6", b"six")),
        edited(TEN, (b"line 2", b"zwei"), (b"line 4\n", b""), (b"line 6", b"sechs")),
    ),
    "only signs between": (
        b"x\n{\n}\n{\n}\n;\ny\n",
        b"x1\n{\n}\n{\n}\n;\ny1\n",
        b"x2\n{\n}\n{\n}\n;\ny2\n",
    ),
    "no newline ours": (b"a\nb\nc\n", b"a\nb\nC", b"a\nb\nD\n"),
    "no newline both": (b"a\nb\nc", b"a\nb\nC", b"a\nb\nD"),
    "newline added and edited": (b"a\nb\nc", b"a\nb\nc\n", b"A\nb\nc"),
    "crlf": (b"a\r\nb\r\nc\r\n", b"a\r\nB\r\nc\r\n", b"a\r\nX\r\nc\r\n"),
    "crlf against lf": (b"a\nb\nc\n", b"a\r\nB\r\nc\r\n", b"a\nX\nc\n"),
    "from nothing": (b"", b"a\n", b"b\n"),
    "to nothing": (b"a\n", b"", b"b\n"),
    "odd bytes": (b"\xff\n\r\n\x1b\n", b"\xfe\n\r\n\x1b\n", b"\xff\n\r\n\x1b\x1b\n"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_merge_is_that_of_git(case: str, tmp_path: Path) -> None:
    base, ours, theirs = CASES[case]
    assert merge3(base, ours, theirs) == by_git(tmp_path, base, ours, theirs)


def test_labels_stand_after_the_markers() -> None:
    merged = merge3(b"a\n", b"b\n", b"c\n", labels=(b"agent", b""))
    assert merged.data == b"<<<<<<< agent\nb\n=======\nc\n>>>>>>>\n"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32))
def test_edits_of_distinct_lines_merge_as_git_does(tmp_path: Path, seed: int) -> None:
    # With every line distinct there is one alignment, so that the results must be equal.
    source = random.Random(seed)
    base = [b"line %d\n" % n for n in range(source.randrange(1, 30))]
    sides = []
    for side in (b"ours", b"theirs"):
        lines = list(base)
        for n in range(source.randrange(1, 4)):
            at = source.randrange(len(lines) + 1)
            fresh = [b"%s %d %d\n" % (side, n, k) for k in range(source.randrange(3))]
            lines[at : at + source.randrange(3)] = fresh
        sides.append(b"".join(lines))
    if source.random() < 0.2:
        sides[0] = sides[0][:-1]
    args = (b"".join(base), *sides)
    assert merge3(*args) == by_git(tmp_path, *args)


def both_sides(merged: bytes) -> tuple[bytes, bytes]:
    """What the merge comes to if every conflict goes to ours, and if every one goes to theirs."""
    ours: list[bytes] = []
    theirs: list[bytes] = []
    targets = [ours, theirs]
    for line in merged.splitlines(keepends=True):
        if line == b"<<<<<<< ours\n":
            targets = [ours]
        elif line == b"=======\n":
            targets = [theirs]
        elif line == b">>>>>>> theirs\n":
            targets = [ours, theirs]
        else:
            for target in targets:
                target.append(line)
    return b"".join(ours), b"".join(theirs)


REPEATING = st.lists(st.sampled_from([b"a\n", b"b\n", b"}\n", b"\n"]), max_size=12).map(b"".join)


@settings(max_examples=400)
@given(REPEATING, REPEATING, REPEATING)
def test_no_line_of_one_side_alone_is_lost(base: bytes, ours: bytes, theirs: bytes) -> None:
    # Lines that only one side has are marked, since alignment is free where lines repeat.
    ours = ours.replace(b"b\n", b"ours\n")
    theirs = theirs.replace(b"b\n", b"theirs\n")
    merged = merge3(base, ours, theirs)
    for_ours, for_theirs = both_sides(merged.data)
    assert for_ours.count(b"ours\n") == ours.count(b"ours\n")
    assert for_theirs.count(b"theirs\n") == theirs.count(b"theirs\n")
    assert merged.data.count(b"<<<<<<< ours\n") == merged.conflicts


@settings(max_examples=300)
@given(REPEATING, REPEATING, REPEATING)
def test_merging_is_symmetric_and_trivial_merges_are_exact(x: bytes, y: bytes, z: bytes) -> None:
    assert merge3(x, y, y) == Merge(y, 0)
    assert merge3(x, x, y) == Merge(y, 0)
    assert merge3(x, y, x) == Merge(y, 0)
    one, other = merge3(x, y, z), merge3(x, z, y)
    if not one.conflicts and not other.conflicts:
        assert one == other


def test_hostile_merges_cost_a_few_steps_a_line() -> None:
    count = 60_000
    source = random.Random(1)

    def few() -> bytes:
        return b"".join(b"%d\n" % source.randrange(12) for _ in range(count))

    same = b"x\n" * count
    for base, ours, theirs in (
        (few(), few(), few()),
        (same, same + b"x\n", same[2:] + b"y\n"),
        (same, same.replace(b"x\nx\n", b"x\ny\n"), same.replace(b"x\nx\n", b"x\nz\n")),
    ):
        lines = base.count(b"\n") + ours.count(b"\n") + theirs.count(b"\n")
        meter = Meter(2 * lines)
        merge3(base, ours, theirs, meter=meter)
        assert meter.steps < STEPS_FREE + (STEPS_PER_LINE + 6) * 2 * lines
