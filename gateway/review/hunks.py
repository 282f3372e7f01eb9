"""A difference as hunks that can be taken or left.

Promises: a hunk's id names its content, so that an id which was reviewed can't apply to something
else; applying some hunks makes exactly their changes and no others, or fails. Line numbers are
those of a unified diff: from 1, and with a count of 0 the line before.

Pure functions; any task or thread may call them. Ids are plain digests, and lines are shown as
they are: hand in masked bytes only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from gateway.review.lines import changed_regions, common_edges, split_lines
from gateway.review.slide import MAX_RISE, Region

NO_NEWLINE = b"\\ No newline at end of file\n"
"""Follows a line that has no newline of its own, as in ``git diff``."""

_SNIFFED = 8000
_ID_LENGTH = 32
_BLOCK = 1 << 16


class HunkMismatchError(ValueError):
    """A hunk does not fit the bytes that it should be applied to, or two hunks overlap."""

    hint = "The file has changed since the hunks were listed: list them again."


@dataclass(frozen=True, slots=True)
class Hunk:
    """A piece of a unified diff.

    ``lines`` start with a space, ``-`` or ``+`` and carry their newline; one that has none is
    given one and followed by `NO_NEWLINE`. ``id`` is 32 hex digits.
    """

    id: str
    old_start: int
    old_count: int
    new_start: int
    new_count: int
    lines: tuple[bytes, ...]

    @property
    def header(self) -> str:
        """``@@ -a,b +c,d @@``, a count of 1 left out as git does."""
        old = _range(self.old_start, self.old_count)
        new = _range(self.new_start, self.new_count)
        return f"@@ -{old} +{new} @@"


def is_binary(data: bytes) -> bool:
    """Whether ``data`` is no text, by git's rule: a NUL in its first 8000 bytes."""
    return b"\0" in data[:_SNIFFED]


def hunks(old: bytes, new: bytes, context: int = 3, path: bytes = b"") -> list[Hunk]:
    """The hunks that turn ``old`` into ``new``, in order, with ``context`` lines around each.

    ``path`` enters the ids. A large file with a few edits close to each other costs little more
    than comparing its bytes.
    """
    if old == new:
        return []
    head, tail = _skippable(old, new, context + MAX_RISE)
    skipped = old.count(b"\n", 0, head)
    a = split_lines(old[head : len(old) - tail])
    b = split_lines(new[head : len(new) - tail])
    found = [
        _hunk(group, a, b, context, skipped) for group in _groups(changed_regions(a, b), context)
    ]
    return _named(found, path)


def split_hunk(hunk: Hunk, path: bytes = b"") -> list[Hunk]:
    """The parts of a hunk that can be taken or left on their own; itself alone if it has one part.

    The equal lines between two parts are context of both, as ``git add -p`` shows them.
    """
    runs = _runs(hunk.lines)
    if len(runs) < 2:
        return [hunk]
    parts = []
    for n in range(len(runs)):
        first = runs[n - 1][1] if n else 0
        last = runs[n + 1][0] if n + 1 < len(runs) else len(hunk.lines)
        old_before, new_before = _counts(hunk.lines[:first])
        parts.append(
            _placed(
                _first(hunk.old_start, hunk.old_count) + old_before,
                _first(hunk.new_start, hunk.new_count) + new_before,
                hunk.lines[first:last],
            )
        )
    return _named(parts, path)


def apply_hunks(old: bytes, chosen: Collection[Hunk]) -> bytes:
    """``old`` with the changes of ``chosen``, which are some of the hunks from ``old``.

    Raises `HunkMismatchError` unless every line of every hunk stands in ``old`` at its place and
    no two hunks change the same lines or touch.
    """
    pieces: list[bytes] = []
    done = line = offset = 0
    changed_to = -1
    for hunk in sorted(chosen, key=_order):
        first = _first(hunk.old_start, hunk.old_count)
        offset = _skip_lines(old, offset, first - line, hunk)
        line = first
        _check_fit(old, offset, hunk)
        for start, end, text in _edits(offset, hunk):
            if start <= changed_to:
                raise HunkMismatchError(f"hunk {hunk.id} overlaps another")
            pieces += (old[done:start], text)
            done = changed_to = end
    pieces.append(old[done:])
    return b"".join(pieces)


def count_lines(hunks: Iterable[Hunk]) -> tuple[int, int]:
    """How many lines the hunks add and how many they remove."""
    added = removed = 0
    for hunk in hunks:
        tags = Counter(line[:1] for line in hunk.lines)
        added += tags[b"+"]
        removed += tags[b"-"]
    return added, removed


def _skippable(old: bytes, new: bytes, margin: int) -> tuple[int, int]:
    """How many bytes of whole equal lines at the start and at the end need not be looked at.

    ``margin`` equal lines are kept on either side.
    """
    head, tail = common_edges(old, new)
    for _ in range(margin + 1):
        head = old.rfind(b"\n", 0, head)
        if head < 0:
            break
    start = len(old) - tail
    for _ in range(margin + 1):
        start = old.find(b"\n", start) + 1
        if not start:
            break
    return head + 1, len(old) - start if start else 0


def _groups(regions: Sequence[Region], context: int) -> list[list[Region]]:
    """Regions whose context lines touch or overlap, together."""
    groups: list[list[Region]] = []
    for region in regions:
        if groups and region[0] - groups[-1][-1][1] <= 2 * context:
            groups[-1].append(region)
        else:
            groups.append([region])
    return groups


def _hunk(
    group: Sequence[Region], a: Sequence[bytes], b: Sequence[bytes], context: int, skipped: int
) -> Hunk:
    """The hunk of one group, still without an id; ``skipped`` lines lie before ``a`` and ``b``."""
    first = max(group[0][0] - context, 0)
    lines: list[bytes] = []
    at = first
    for a0, a1, b0, b1 in group:
        lines += _prefixed(b" ", a[at:a0])
        lines += _prefixed(b"-", a[a0:a1])
        lines += _prefixed(b"+", b[b0:b1])
        at = a1
    lines += _prefixed(b" ", a[at : at + context])
    new_first = group[0][2] - (group[0][0] - first)
    return _placed(first + skipped, new_first + skipped, tuple(lines))


def _placed(old_first: int, new_first: int, lines: tuple[bytes, ...]) -> Hunk:
    """A hunk without an id whose first lines have these indices (from 0)."""
    old_count, new_count = _counts(lines)
    old_start = old_first + 1 if old_count else old_first
    new_start = new_first + 1 if new_count else new_first
    return Hunk("", old_start, old_count, new_start, new_count, lines)


def _first(start: int, count: int) -> int:
    """The index (from 0) of a range's first line: an empty range is named by the line before."""
    return start - 1 if count else start


def _range(start: int, count: int) -> str:
    return f"{start}" if count == 1 else f"{start},{count}"


def _prefixed(tag: bytes, lines: Iterable[bytes]) -> list[bytes]:
    shown = [tag + line for line in lines]
    if shown and not shown[-1].endswith(b"\n"):
        shown[-1] += b"\n"
        shown.append(NO_NEWLINE)
    return shown


def _counts(lines: Iterable[bytes]) -> tuple[int, int]:
    """How many lines of the old and of the new file there are among ``lines``."""
    tags = Counter(line[:1] for line in lines)
    return tags[b" "] + tags[b"-"], tags[b" "] + tags[b"+"]


def _runs(lines: Sequence[bytes]) -> list[tuple[int, int]]:
    """The runs ``lines[start:end]`` that change something, with their newline remarks."""
    runs: list[tuple[int, int]] = []
    inside = False
    for n, line in enumerate(lines):
        if line[:1] in b"-+":
            runs.append((runs.pop()[0] if inside else n, n + 1))
            inside = True
        elif line[:1] == b" ":
            inside = False
        elif inside:
            runs.append((runs.pop()[0], n + 1))
    return runs


def _side(lines: Sequence[bytes], tags: bytes) -> bytes:
    """What ``lines`` say about one file: the text of those that start with one of ``tags``."""
    texts: list[bytes] = []
    counted = False
    for line in lines:
        if line[:1] != b"\\":
            counted = line[:1] in tags
            if counted:
                texts.append(line[1:])
        elif counted:
            texts[-1] = texts[-1][:-1]
    return b"".join(texts)


def _order(hunk: Hunk) -> tuple[int, int]:
    """Where a hunk stands among others: parts of one may begin with the same context."""
    context = next((n for n, line in enumerate(hunk.lines) if line[:1] != b" "), 0)
    return _first(hunk.old_start, hunk.old_count), context


def _check_fit(old: bytes, offset: int, hunk: Hunk) -> None:
    """Raise `HunkMismatchError` unless the hunk fits ``old`` from byte ``offset`` on."""
    before, after = _side(hunk.lines, b" -"), _side(hunk.lines, b" +")
    end = offset + len(before)
    at_line_start = offset == 0 or old[offset - 1 : offset] == b"\n"
    # Text without a newline can only be the end of a file, or it would join with what follows.
    whole = all(not text or text.endswith(b"\n") for text in (before, after))
    if (
        not at_line_start
        or old[offset:end] != before
        or not (whole or end == len(old))
        or _counts(hunk.lines) != (hunk.old_count, hunk.new_count)
    ):
        raise HunkMismatchError(f"hunk {hunk.id} does not fit at line {hunk.old_start}")


def _edits(offset: int, hunk: Hunk) -> Iterator[tuple[int, int, bytes]]:
    """Each change of a hunk that starts at byte ``offset``: replace bytes start to end by text."""
    seen = 0
    for start, end in _runs(hunk.lines):
        offset += len(_side(hunk.lines[seen:start], b" "))
        run = hunk.lines[start:end]
        removed = len(_side(run, b"-"))
        yield offset, offset + removed, _side(run, b"+")
        offset += removed
        seen = end


def _skip_lines(data: bytes, offset: int, count: int, hunk: Hunk) -> int:
    """The offset ``count`` lines after ``offset``; `HunkMismatchError` if there are not as many."""
    while count and offset < len(data):
        passed = data.count(b"\n", offset, offset + _BLOCK)
        if passed < count and offset + _BLOCK < len(data):
            count -= passed
            offset += _BLOCK
            continue
        newline = data.find(b"\n", offset)
        offset = newline + 1 if newline >= 0 else len(data)
        count -= 1
    if count:
        raise HunkMismatchError(f"hunk {hunk.id} starts after the end of the file")
    return offset


def _named(found: Sequence[Hunk], path: bytes) -> list[Hunk]:
    """The hunks with their ids; the position enters only the ids of hunks that are equal."""
    digests = [_digest(path, hunk.lines) for hunk in found]
    times = Counter(digests)
    return [
        replace(
            hunk,
            id=digest
            if times[digest] == 1
            else _digest(path, (*hunk.lines, b"%d" % hunk.old_start)),
        )
        for hunk, digest in zip(found, digests, strict=True)
    ]


def _digest(path: bytes, lines: Iterable[bytes]) -> str:
    digest = hashlib.sha256(b"grantfs hunk\0%d\0" % len(path))
    digest.update(path)
    # Each line ends with its only newline, so that joining them loses no border.
    for line in lines:
        digest.update(line)
    return digest.hexdigest()[:_ID_LENGTH]
