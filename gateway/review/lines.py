"""Which lines differ between two files.

Promises: the result is always a correct difference (what lies between the regions is equal), and
the steps taken are bounded by a small multiple of the number of lines, whatever the input. It is
the shortest difference where that is cheap to know, and a coarser one where it is not.

A line is bytes up to and including its ``\\n``; ``\\r`` and other line separators do not split.
Pure functions; any task or thread may call them.

How: patience. Lines that occur exactly once on both sides are anchors, the longest run of them in
the same order on both sides is kept, and each gap between two anchors is compared anew. A gap
without anchors gets the shortest edit script if that is short, then anchors made of repeated lines
(the n-th here against the n-th there), and is else one region.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from gateway.review.meter import Meter
from gateway.review.slide import Region, lower, rise

MAX_EDITS = 256
"""Longest edit script that is searched for in a gap; its cost is the square of this."""

_BLOCK = 1 << 16


def split_lines(data: bytes) -> list[bytes]:
    """The lines of ``data`` with their ends; only the last may lack its ``\\n``."""
    lines = data.split(b"\n")
    last = lines.pop()
    lines = [line + b"\n" for line in lines]
    if last:
        lines.append(last)
    return lines


def common_edges(old: bytes, new: bytes) -> tuple[int, int]:
    """How many leading and how many trailing bytes are equal; the two never overlap.

    It compares blocks, so a large file with one edit costs little more than reading it.
    """
    limit = min(len(old), len(new))
    head = 0
    while head < limit:
        step = min(_BLOCK, limit - head)
        if old[head : head + step] != new[head : head + step]:
            head += _equal_prefix(old[head : head + step], new[head : head + step])
            break
        head += step
    limit -= head
    tail = 0
    while tail < limit:
        step = min(_BLOCK, limit - tail)
        left = old[len(old) - tail - step : len(old) - tail]
        right = new[len(new) - tail - step : len(new) - tail]
        if left != right:
            tail += _equal_prefix(left[::-1], right[::-1])
            break
        tail += step
    return head, tail


def _equal_prefix(left: bytes, right: bytes) -> int:
    """Length of the common prefix of two equally long, unequal blocks, by halving."""
    low, high = 0, len(left)
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def changed_regions(
    a: Sequence[bytes],
    b: Sequence[bytes],
    *,
    readable: bool = True,
    meter: Meter | None = None,
) -> list[Region]:
    """The regions in which ``b`` differs from ``a``, in order.

    Between two regions lies at least one equal line. Where an edit can be drawn at several places,
    ``readable`` takes the one that people read best, and else it is the lowest, which is the same
    for the same edit in different files. ``meter`` counts and bounds the work, over several calls
    if they share it; without one a call has an allowance of its own.
    """
    meter = Meter(len(a) + len(b)) if meter is None else meter
    head, a_end, b_head, b_end = _trim(a, b, (0, len(a), 0, len(b)))
    meter.steps += head + len(a) - a_end
    if head == a_end and b_head == b_end:
        return []
    # Small integers that stand for lines: no comparison below depends on how long a line is.
    numbers: dict[bytes, int] = {}
    x = [numbers.setdefault(line, len(numbers)) for line in a[head:a_end]]
    y = [numbers.setdefault(line, len(numbers)) for line in b[head:b_end]]
    meter.steps += len(x) + len(y)
    regions = [
        (a0 + head, a1 + head, b0 + head, b1 + head) for a0, a1, b0, b1 in _compare(x, y, meter)
    ]
    regions = lower(regions, a, b, meter)
    return rise(regions, a, b, meter) if readable else regions


def _trim(x: Sequence[object], y: Sequence[object], box: Region) -> Region:
    """``box`` without the equal lines at its edges."""
    a0, a1, b0, b1 = box
    while a0 < a1 and b0 < b1 and x[a0] == y[b0]:
        a0 += 1
        b0 += 1
    while a0 < a1 and b0 < b1 and x[a1 - 1] == y[b1 - 1]:
        a1 -= 1
        b1 -= 1
    return a0, a1, b0, b1


def _compare(x: list[int], y: list[int], meter: Meter) -> list[Region]:
    """The regions in which ``y`` differs from ``x``, in order; some may touch."""
    regions: list[Region] = []
    # A stack rather than recursion: hostile input nests as deep as it has lines.
    stack: list[Region] = [(0, len(x), 0, len(y))]
    while stack:
        outer = stack.pop()
        box = _trim(x, y, outer)
        a0, a1, b0, b1 = box
        meter.steps += 1 + outer[1] - outer[0] - (a1 - a0)
        if a0 == a1 and b0 == b1:
            continue
        matches = [] if a0 == a1 or b0 == b1 or meter.spent else _matches(x, y, box, meter)
        if matches:
            _push_gaps(stack, box, matches)
        else:
            regions.append(box)
    return regions


def _push_gaps(stack: list[Region], box: Region, matches: list[tuple[int, int]]) -> None:
    """Put what lies between the matched lines on the stack, the first gap on top."""
    a0, a_end, b0, b_end = box
    for i, j in reversed(matches):
        if i + 1 < a_end or j + 1 < b_end:
            stack.append((i + 1, a_end, j + 1, b_end))
        a_end, b_end = i, j
    if a0 < a_end or b0 < b_end:
        stack.append((a0, a_end, b0, b_end))


def _matches(x: list[int], y: list[int], box: Region, meter: Meter) -> list[tuple[int, int]]:
    """Equal lines to hold on to within ``box``, rising on both sides; empty if there are none."""
    a0, a1, b0, b1 = box
    xs, ys = x[a0:a1], y[b0:b1]
    meter.steps += len(xs) + len(ys)
    count_x, count_y = Counter(xs), Counter(ys)
    where = dict(zip(xs, range(a0, a1), strict=True))
    unique = [
        (where[line], j)
        for j, line in enumerate(ys, b0)
        if count_y[line] == 1 and count_x.get(line) == 1
    ]
    if unique:
        return _longest_rising(unique, meter)
    rows = [i for i, line in enumerate(xs, a0) if line in count_y]
    if not rows:
        return []
    columns = [j for j, line in enumerate(ys, b0) if line in count_x]
    path = _shortest_edit([x[i] for i in rows], [y[j] for j in columns], meter)
    if path is not None:
        return [(rows[i], columns[j]) for i, j in path]
    balanced = {line for line, count in count_x.items() if count_y.get(line) == count}
    places: dict[int, list[int]] = {line: [] for line in balanced}
    for i in reversed(rows):
        if x[i] in balanced:
            places[x[i]].append(i)
    return _longest_rising([(places[y[j]].pop(), j) for j in columns if y[j] in balanced], meter)


def _longest_rising(pairs: list[tuple[int, int]], meter: Meter) -> list[tuple[int, int]]:
    """The longest subsequence of ``pairs`` that rises in its first member too.

    ``pairs`` rises in its second member; no first member occurs twice. O(n log n).
    """
    meter.steps += len(pairs)
    ends: list[int] = []
    at: list[int] = []
    before: list[int] = []
    for n, (i, _) in enumerate(pairs):
        if not ends or i > ends[-1]:
            before.append(at[-1] if at else -1)
            ends.append(i)
            at.append(n)
        else:
            slot = bisect_left(ends, i)
            before.append(at[slot - 1] if slot else -1)
            ends[slot] = i
            at[slot] = n
    chain = []
    n = at[-1] if at else -1
    while n >= 0:
        chain.append(pairs[n])
        n = before[n]
    chain.reverse()
    return chain


def _shortest_edit(x: list[int], y: list[int], meter: Meter) -> list[tuple[int, int]] | None:
    """The matched indices of a shortest edit script, or ``None`` if it is too long to look for.

    Myers, "An O(ND) difference algorithm and its variations" (1986), the greedy form.
    """
    n, m = len(x), len(y)
    # A path of d edits can end only where both sides are used up: the lengths differ by <= d.
    if abs(n - m) > MAX_EDITS:
        return None
    centre = MAX_EDITS + 1
    reach = [0] * (2 * MAX_EDITS + 3)
    trace: list[list[int]] = []
    for d in range(MAX_EDITS + 1):
        if meter.spent:
            return None
        trace.append(reach[centre - d - 1 : centre + d + 2])
        for k in range(-d, d + 1, 2):
            down = k == -d or (k != d and reach[centre + k - 1] < reach[centre + k + 1])
            i = reach[centre + k + 1] if down else reach[centre + k - 1] + 1
            j = i - k
            start = i
            while i < n and j < m and x[i] == y[j]:
                i += 1
                j += 1
            reach[centre + k] = i
            meter.steps += 1 + i - start
            if i >= n and j >= m:
                return _walk_back(trace, n, m)
    return None


def _walk_back(trace: list[list[int]], n: int, m: int) -> list[tuple[int, int]]:
    """The matches on the path that ended at ``(n, m)``, from the reach before each edit."""
    pairs: list[tuple[int, int]] = []
    i, j = n, m
    for d in range(len(trace) - 1, -1, -1):
        reach, k = trace[d], i - j
        # Row d holds diagonals -d-1 .. d+1, so diagonal k stands at k + d + 1.
        down = k == -d or (k != d and reach[k + d] < reach[k + d + 2])
        edit = reach[k + d + 2] if down else reach[k + d]
        start = edit if down else edit + 1
        pairs.extend((i - step, j - step) for step in range(1, i - start + 1))
        i, j = edit, edit - (k + 1 if down else k - 1)
    pairs.reverse()
    return pairs
