"""Line differences: always correct, short where that is cheap, bounded whatever the input."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.review.lines import changed_regions, common_edges, split_lines
from gateway.review.meter import STEPS_FREE, STEPS_PER_LINE, Meter
from gateway.review.slide import Region, lower, rise

LINES = st.lists(st.sampled_from([b"a\n", b"b\n", b"  c\n", b"\n", b"d\n", b"\te\n"]), max_size=14)


def assert_correct(a: Sequence[bytes], b: Sequence[bytes], regions: Sequence[Region]) -> None:
    """What lies between the regions is equal, and at least a line of it."""
    i = j = 0
    for n, (a0, a1, b0, b1) in enumerate(regions):
        assert a0 < a1 or b0 < b1
        assert i <= a0 <= a1
        assert j <= b0 <= b1
        assert a[i:a0] == b[j:b0]
        assert n == 0 or a0 > i
        i, j = a1, b1
    assert a[i:] == b[j:]


def edits(regions: Sequence[Region]) -> int:
    return sum(a1 - a0 + b1 - b0 for a0, a1, b0, b1 in regions)


def longest_common(a: Sequence[bytes], b: Sequence[bytes]) -> int:
    """The textbook table, as a reference."""
    row = [0] * (len(b) + 1)
    for line in a:
        last, row = row, [0]
        for j, other in enumerate(b):
            row.append(last[j] + 1 if line == other else max(last[j + 1], row[j]))
    return row[-1]


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [b"\n"]),
        (b"a", [b"a"]),
        (b"a\n\nb", [b"a\n", b"\n", b"b"]),
        (b"a\r\nb\rc\x0bd\x85\n", [b"a\r\n", b"b\rc\x0bd\x85\n"]),
    ],
)
def test_only_a_newline_splits(data: bytes, lines: list[bytes]) -> None:
    assert split_lines(data) == lines


@given(st.binary(max_size=40), st.binary(max_size=10), st.binary(max_size=10))
def test_common_edges_are_equal_and_as_long_as_can_be(shared: bytes, x: bytes, y: bytes) -> None:
    for old, new in ((shared + x, shared + y), (x + shared, y + shared), (x, y)):
        head, tail = common_edges(old, new)
        assert head + tail <= min(len(old), len(new))
        assert old[:head] == new[:head]
        assert old[len(old) - tail :] == new[len(new) - tail :]
        if head + tail < min(len(old), len(new)):
            assert old[head] != new[head]
            assert old[len(old) - tail - 1] != new[len(new) - tail - 1]


def test_common_edges_are_exact_across_blocks() -> None:
    old = bytes(200_000)
    for at in (0, 65_535, 65_536, 131_071, 150_000, 199_999):
        new = old[:at] + b"x" + old[at + 1 :]
        assert common_edges(old, new) == (at, 199_999 - at)


@given(LINES, LINES)
@example([b"a\n"] * 3, [b"a\n"] * 5)
def test_regions_are_correct(a: list[bytes], b: list[bytes]) -> None:
    assert_correct(a, b, changed_regions(a, b))
    assert_correct(a, b, changed_regions(a, b, readable=False))


@pytest.mark.parametrize("seed", range(20))
def test_repeated_lines_are_compared_exactly(seed: int) -> None:
    random.seed(seed)
    a = [random.choice([b"x\n", b"y\n", b"z\n"]) for _ in range(60)]
    b = list(a)
    for _ in range(6):
        del b[random.randrange(len(b))]
        b.insert(random.randrange(len(b)), random.choice([b"x\n", b"y\n"]))
    b += [b"x\n", b"y\n", b"y\n", b"z\n"]
    regions = changed_regions(a, b, readable=False)
    assert_correct(a, b, regions)
    assert edits(regions) == len(a) + len(b) - 2 * longest_common(a, b)


def test_unique_lines_hold_a_moved_block_together() -> None:
    block = [b"def f():\n", b"    return 1\n", b"\n"]
    rest = [b"def g():\n", b"    return 2\n", b"\n", b"def h():\n", b"    return 3\n", b"\n"]
    regions = changed_regions(block + rest, rest + block)
    assert_correct(block + rest, rest + block, regions)
    assert [(a1 - a0, b1 - b0) for a0, a1, b0, b1 in regions] == [(3, 0), (0, 3)]


def test_an_added_function_is_drawn_as_one_block() -> None:
    one = [b"def f():\n", b"    a()\n", b"    return\n", b"\n"]
    two = [b"def g():\n", b"    b()\n", b"    return\n", b"\n"]
    new = [b"def n():\n", b"    c()\n", b"    return\n", b"\n"]
    assert changed_regions(one + two, one + new + two) == [(4, 4, 4, 8)]


def test_a_run_that_moves_up_stays_a_line_away_from_the_one_above() -> None:
    old, new = [b"m\n", b"x\n", b"q\n"], [b"n\n", b"x\n", b"  y\n", b"x\n", b"q\n"]
    regions = [(0, 1, 0, 1), (2, 2, 2, 4)]
    assert rise(regions, old, new, Meter(10)) == regions
    # With one more line between, the same run does move.
    old, new = [b"m\n", b"-\n", *old[1:]], [b"n\n", b"-\n", *new[1:]]
    assert rise([(0, 1, 0, 1), (3, 3, 3, 5)], old, new, Meter(10))[1] == (2, 2, 2, 4)


def test_runs_that_come_to_touch_are_joined() -> None:
    old, new = [b"x\n", b"x\n", b"y\n"], [b"x\n"]
    assert lower([(0, 1, 0, 0), (2, 3, 1, 1)], old, new, Meter(10)) == [(1, 3, 1, 1)]


def test_without_readable_a_run_stands_as_low_as_it_goes() -> None:
    old = [b"{\n", b"  one\n", b"}\n", b"{\n", b"  two\n", b"}\n"]
    new = [*old[:3], b"{\n", b"  new\n", b"}\n", *old[3:]]
    assert changed_regions(old, new) == [(3, 3, 3, 6)]
    assert changed_regions(old, new, readable=False) == [(4, 4, 4, 7)]


@given(LINES, LINES)
def test_an_unambiguous_edit_has_one_place(before: list[bytes], after: list[bytes]) -> None:
    at = len(before)
    a, b = [*before, b"-\n", *after], [*before, b"+\n", *after]
    assert changed_regions(a, b) == [(at, at + 1, at, at + 1)]


N = 200_000


def numbered(tag: bytes, count: int = N) -> list[bytes]:
    return [b"%s%d\n" % (tag, n) for n in range(count)]


def from_few(kinds: int, seed: int, count: int = N) -> list[bytes]:
    source = random.Random(seed)
    return [b"%d\n" % source.randrange(kinds) for _ in range(count)]


def shuffled_gaps(seed: int) -> list[bytes]:
    """Unique lines, and between them repeated ones in an order of each file's own."""
    source = random.Random(seed)
    lines: list[bytes] = []
    for n in range(N // 400):
        gap = [b"%d\n" % (k // 2) for k in range(399)]
        source.shuffle(gap)
        lines += (b"anchor %d\n" % n, *gap)
    return lines


def out_of_period(every: int) -> list[bytes]:
    """Two lines in turn, one of them once more now and then: long runs match on any diagonal."""
    lines: list[bytes] = []
    for n in range(N // 2):
        lines += (b"a\n", b"b\n") if n % every else (b"a\n", b"b\n", b"b\n")
    return lines


def peeled(count: int) -> list[bytes]:
    """Lines of which few are unique at first and a few more in each part that remains."""
    lines: list[bytes] = []
    for n in range(count // 3):
        lines += (b"u%d\n" % n, b"v%d\n" % (n // 2), b"w%d\n" % (n // 2 + 1))
    return lines


HOSTILE: list[tuple[str, Callable[[], tuple[list[bytes], list[bytes]]]]] = [
    ("equal lines", lambda: ([b"x\n"] * N, [b"x\n"] * (N - 1000))),
    ("all different", lambda: (numbered(b"a"), numbered(b"b"))),
    ("reversed", lambda: (numbered(b"a"), numbered(b"a")[::-1])),
    ("few kinds", lambda: (from_few(10, 1), from_few(10, 2))),
    ("pairs", lambda: (from_few(N // 2, 3), from_few(N // 2, 4))),
    ("out of step", lambda: ([b"a\n", b"b\n"] * (N // 2), [b"b\n", b"a\n", b"a\n"] * (N // 3))),
    ("blank runs", lambda: ([b"\n", b" \n"] * (N // 2), [b"\n", b" \n", b"\n"] * (N // 3))),
    ("peeled", lambda: (peeled(N), peeled(N)[3:][::-1])),
    ("out of period", lambda: (out_of_period(701), out_of_period(733))),
    ("shuffled gaps", lambda: (shuffled_gaps(1), shuffled_gaps(2))),
    ("thinned out", lambda: (from_few(40, 5), [x for n, x in enumerate(from_few(40, 5)) if n % 7])),
]


@pytest.mark.parametrize(("name", "make"), HOSTILE, ids=[name for name, _ in HOSTILE])
def test_hostile_files_cost_a_few_steps_a_line(
    name: str, make: Callable[[], tuple[list[bytes], list[bytes]]]
) -> None:
    a, b = make()
    meter = Meter(len(a) + len(b))
    regions = changed_regions(a, b, meter=meter)
    assert_correct(a, b, regions)
    assert meter.steps < STEPS_FREE + (STEPS_PER_LINE + 6) * (len(a) + len(b))


def test_a_spent_meter_still_gives_a_correct_answer() -> None:
    a, b = from_few(50, 6, 3000), from_few(50, 7, 3000)
    meter = Meter(0)
    meter.steps = meter.limit
    regions = changed_regions(a, b, meter=meter)
    assert_correct(a, b, regions)
    assert len(regions) == 1
    assert meter.steps - meter.limit < 6 * (len(a) + len(b))


def test_ordinary_edits_stay_far_below_the_allowance() -> None:
    source = random.Random(8)
    a = from_few(200_000, 9, 20_000)
    b = list(a)
    for _ in range(200):
        b[source.randrange(len(b))] = b"edited %d\n" % source.randrange(10**9)
        b.insert(source.randrange(len(b)), b"}\n")
    meter = Meter(len(a) + len(b))
    assert_correct(a, b, changed_regions(a, b, meter=meter))
    assert meter.steps < 4 * (len(a) + len(b))
