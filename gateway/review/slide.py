"""Where an ambiguous difference is drawn, so that people read it easily.

A run of added (or removed) lines whose first line equals the line after the run can be drawn one
line lower without being any less correct. Promises: the difference stays correct, regions stay in
order with at least one equal line between them, and the work is linear in the lines passed over.

`lower` moves every run down as far as it goes, as ``git diff`` does; that joins regions that
touch, and makes two files with the same edit agree on its place. `rise` then moves it up to the
place where blocks begin and end: least indented, next to a blank line, and else the lowest.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.review.meter import Meter

Region = tuple[int, int, int, int]
"""``a0, a1, b0, b1``: lines ``a[a0:a1]`` became ``b[b0:b1]``; half open, not both empty."""

MAX_RISE = 100
"""How many lines a run is moved up at most for looks."""

_MAX_INDENT = 200
_MAX_BLANKS = 4
_BLANK = -1


def lower(
    regions: Sequence[Region], a: Sequence[bytes], b: Sequence[bytes], meter: Meter
) -> list[Region]:
    """``regions`` (in order) with each run as low as it goes, those that come to touch joined."""
    below: list[Region] = []
    for a0, a1, b0, b1 in reversed(regions):
        while True:
            start = a0
            end = below[-1][0] if below else len(a)
            if a0 == a1:
                while a1 < end and b[b0] == b[b1]:
                    a0, a1, b0, b1 = a0 + 1, a1 + 1, b0 + 1, b1 + 1
            elif b0 == b1:
                while a1 < end and a[a0] == a[a1]:
                    a0, a1, b0, b1 = a0 + 1, a1 + 1, b0 + 1, b1 + 1
            meter.steps += 1 + a0 - start
            if not below or a1 < end:
                break
            _, a1, _, b1 = below.pop()
        below.append((a0, a1, b0, b1))
    below.reverse()
    return below


def rise(
    regions: Sequence[Region], a: Sequence[bytes], b: Sequence[bytes], meter: Meter
) -> list[Region]:
    """``regions`` (lowered) with each run where it reads best, if ``meter`` is not spent."""
    settled: list[Region] = []
    floor = 0
    for a0, a1, b0, b1 in regions:
        room = min(a0 - floor, MAX_RISE)
        if a0 == a1:
            up = _best_rise(b, b0, b1, room, meter)
        elif b0 == b1:
            up = _best_rise(a, a0, a1, room, meter)
        else:
            up = 0
        settled.append((a0 - up, a1 - up, b0 - up, b1 - up))
        # The next run may rise to one line below this one, never to touch it.
        floor = a1 - up + 1
    return settled


def _best_rise(lines: Sequence[bytes], start: int, end: int, room: int, meter: Meter) -> int:
    """By how many lines, at most ``room``, the run ``lines[start:end]`` best moves up."""
    best = rise = 0
    best_score = None
    # Most runs cannot move at all: then there is nothing to weigh.
    while rise < room and not meter.spent and lines[start - rise - 1] == lines[end - rise - 1]:
        if best_score is None:
            best_score = _roughness(lines, start) + _roughness(lines, end)
        rise += 1
        meter.steps += 2 + 2 * _MAX_BLANKS
        score = _roughness(lines, start - rise) + _roughness(lines, end - rise)
        if score < best_score:
            best, best_score = rise, score
    return best


def _roughness(lines: Sequence[bytes], at: int) -> int:
    """How badly a border above ``lines[at]`` cuts through a block; lower is better."""
    blank_above = at > 0 and _indent(lines[at - 1]) == _BLANK
    indent = 0
    blanks = 0
    for line in lines[at : at + _MAX_BLANKS]:
        indent = _indent(line)
        if indent != _BLANK:
            break
        blanks += 1
    # One column of indentation outweighs blank lines; a blank line above beats one below.
    return 4 * max(indent, 0) - (2 if blank_above else 0) - (1 if blanks else 0)


def _indent(line: bytes) -> int:
    """Columns of indentation (a tab counts as eight); ``_BLANK`` for an empty line."""
    head = line[:_MAX_INDENT]
    text = head.lstrip(b" \t")
    if not text.strip():
        return _BLANK
    return len(head[: len(head) - len(text)].expandtabs(8))
