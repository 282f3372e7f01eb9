"""Restoring: the original bytes back into what the agent left, before a commit.

A placeholder is put back, byte for byte, where its secret stood: the same place (`place`), no more
often than there. Whatever else looks like a placeholder is `Undecided` and never restored in
silence: cut or altered, invented, carried from elsewhere, a copy, or packed into an archive or an
object of git's (the redactor says so). Values under `MARKED`
characters have placeholders that innocent text may hold, so they are matched by place only.

Works on each view of the bytes, so UTF-16 files are restored in their own encoding. Linear in the
staged bytes; holds nothing between calls.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vfs.redaction.errors import ScanError
from vfs.redaction.place import place_of
from vfs.redaction.placeholders import MARKED, Masker, find_candidates
from vfs.redaction.rules import regex
from vfs.redaction.spans import Finding
from vfs.redaction.views import STRIDE, Unit, narrow, views

Why = Literal["cut", "forged", "moved", "extra", "packed"]
Mode = Literal["ask", "restore", "keep"]
Known = Callable[[bytes], bytes | None]
"""Takes a placeholder (one byte a character), returns its original in another file, or None."""

_SHINGLE = 8
"""Characters of a placeholder that count as a piece of it; random text repeats them by chance once
in 2**45."""

MAX_SEARCH = 8 << 30
"""Bytes that placeholders inside longer words may cost to search, at some GB/s."""

_RUN = regex("[A-Za-z0-9]{8,}")
_WORD = regex("[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Undecided:
    """`staged[start:end]` needs the user's decision. Offsets are bytes of the staged data."""

    start: int
    end: int
    why: Why


@dataclass(frozen=True, slots=True)
class Restoration:
    """`data` is what would land; `dropped` counts findings of the base that are not in it."""

    data: bytes
    restored: int
    undecided: tuple[Undecided, ...]
    dropped: int


@dataclass(frozen=True, slots=True)
class _Item:
    """A finding of the base in one view: its placeholder, place, and original bytes."""

    start: int
    end: int
    placeholder: bytes
    place: bytes
    original: bytes
    joined: tuple[bool, bool]


@dataclass(slots=True)
class _Plan:
    """What one view decided, in offsets of the view."""

    replace: list[tuple[int, int, bytes]] = field(default_factory=list)
    undecided: list[tuple[int, int, Why, bytes | None]] = field(default_factory=list)
    taken: list[tuple[int, int]] = field(default_factory=list)
    dropped: int = 0


def restore(
    staged: bytes,
    base: bytes,
    findings: Sequence[Finding],
    masker: Masker,
    *,
    mode: Mode = "ask",
    known: Known | None = None,
) -> Restoration:
    """Puts the secrets of `base` back into `staged`.

    `findings` are those of `base`, made by the path that masked it. `known` recognises placeholders
    of other files. `mode` is the user's decision for what is undecided: `restore` puts back the
    originals that are known (the rest stays undecided), `keep` leaves all as it stands. Raises
    ScanError where the search runs out of its bounds.
    """
    masked = masker.mask(base, findings)
    if staged == masked:
        return Restoration(base, len(findings), (), 0)
    by_unit: dict[Unit, list[Finding]] = {view.unit: [] for view in views(staged)}
    for finding in findings:
        by_unit.setdefault(finding.unit, []).append(finding)
    edits: list[tuple[int, int, bytes]] = []
    undecided: list[Undecided] = []
    restored = dropped = 0
    for unit, members in by_unit.items():
        stride = STRIDE[unit]
        plan = _plan(
            narrow(staged, unit), narrow(base, unit), narrow(masked, unit),
            _items(base, masked, unit, members), masker, known,
        )  # fmt: skip
        edits += [(a * stride, b * stride, raw) for a, b, raw in plan.replace]
        restored += len(plan.replace)
        dropped += plan.dropped
        for start, end, why, original in plan.undecided:
            if mode == "keep":
                continue
            if mode == "restore" and original is not None:
                edits.append((start * stride, end * stride, original))
                restored += 1
            else:
                undecided.append(Undecided(start * stride, min(end * stride, len(staged)), why))
    undecided.sort(key=lambda u: u.start)
    return Restoration(_apply(staged, edits), restored, tuple(undecided), dropped)


def _items(base: bytes, masked: bytes, unit: Unit, findings: list[Finding]) -> list[_Item]:
    text = narrow(masked, unit)
    stride = STRIDE[unit]
    items = []
    for finding in findings:
        start, end = finding.start // stride, -(-finding.end // stride)
        items.append(
            _Item(
                start,
                end,
                text[start:end],
                place_of(text, start),
                base[finding.start : finding.end],
                _joined(text, start, end),
            )
        )
    return items


def _plan(
    staged: bytes,
    base: bytes,
    masked: bytes,
    items: list[_Item],
    masker: Masker,
    known: Known | None,
) -> _Plan:
    plan = _Plan()
    slots: dict[tuple[bytes, bytes], list[_Item]] = defaultdict(list)
    by_text: dict[bytes, list[_Item]] = defaultdict(list)
    for item in reversed(items):
        slots[item.placeholder, item.place].append(item)
        by_text[item.placeholder].append(item)
    strays: list[tuple[int, int, list[_Item]]] = []
    for start, end in _occurrences(staged, by_text):
        placeholder = staged[start:end]
        same = by_text[placeholder]
        if _joined(staged, start, end) not in [item.joined for item in same[:8]]:
            if _recognisable(placeholder):
                plan.undecided.append((start, end, "cut", None))
                plan.taken.append((start, end))
            continue
        free = slots.get((placeholder, place_of(staged, start)))
        if free:
            plan.replace.append((start, end, free.pop().original))
            plan.taken.append((start, end))
        elif _recognisable(placeholder):
            strays.append((start, end, same))
            plan.taken.append((start, end))
    missing = [item for free in slots.values() for item in free]
    gone = {item.placeholder for item in missing}
    for start, end, same in strays:
        why: Why = "moved" if same[0].placeholder in gone else "extra"
        plan.undecided.append((start, end, why, same[0].original))
    plan.dropped = len(missing)
    plan.taken.sort()
    _judge_candidates(plan, staged, base, masked, items, masker, known)
    _judge_fragments(plan, staged, items)
    return plan


def _judge_candidates(
    plan: _Plan,
    staged: bytes,
    base: bytes,
    masked: bytes,
    items: list[_Item],
    masker: Masker,
    known: Known | None,
) -> None:
    """What has a placeholder's form and is none of the base's."""
    own: dict[bytes, int] = defaultdict(int)
    for start, end in find_candidates(base):
        if masked[start:end] == base[start:end]:
            own[base[start:end]] += 1
    heads = {item.placeholder[:10] for item in items}
    for start, end in _outside(find_candidates(staged), plan.taken):
        text = staged[start:end]
        if own[text] > 0:
            own[text] -= 1
            continue
        original = known(text) if known is not None else None
        if original is not None:
            plan.undecided.append((start, end, "moved", original))
        elif text[:10] in heads:
            plan.undecided.append((start, end, "cut", None))
        elif masker.is_genuine(text):
            plan.undecided.append((start, end, "moved", None))
        else:
            plan.undecided.append((start, end, "forged", None))
        plan.taken.append((start, end))
    plan.taken.sort()


def _judge_fragments(plan: _Plan, staged: bytes, items: list[_Item]) -> None:
    """Pieces of placeholders that have lost their marker."""
    shingles = {
        item.placeholder[at : at + _SHINGLE]
        for item in items
        if _recognisable(item.placeholder)
        for at in range(len(item.placeholder) - _SHINGLE + 1)
    }
    if not shingles:
        return
    for start, end in _outside(_spans(_RUN, staged), plan.taken):
        if any(staged[at : at + _SHINGLE] in shingles for at in range(start, end - _SHINGLE + 1)):
            plan.undecided.append((start, end, "cut", None))


def _occurrences(text: bytes, wanted: dict[bytes, list[_Item]]) -> list[tuple[int, int]]:
    """Where the placeholders stand in `text`: sorted, disjoint, the longest at each place.

    Most are whole words, which one pass over the words finds; the few that stand inside a longer
    run of letters and digits are searched one by one.
    """
    found: list[tuple[int, int]] = []
    inside = {p for p, items in wanted.items() if any(any(i.joined) for i in items)}
    marked = {p for p in wanted if len(p) >= MARKED}
    if not wanted:
        return []
    heads: dict[bytes, set[int]] = defaultdict(set)
    for placeholder in marked:
        heads[placeholder[:MARKED]].add(len(placeholder))
    for start, end in _spans(_WORD, text):
        word = text[start:end]
        if word in wanted:
            found.append((start, end))
            continue
        # A placeholder with letters stuck to it is still to be seen, as an altered one.
        lengths = heads.get(word[:MARKED])
        if lengths:
            size = max((n for n in lengths if word[:n] in wanted), default=0)
            if size:
                found.append((start, start + size))
    if len(inside) * len(text) > MAX_SEARCH:
        raise ScanError("restoring needs too many searches", "commit the file in smaller changes")
    for placeholder in inside:
        at = text.find(placeholder)
        while at >= 0:
            found.append((at, at + len(placeholder)))
            at = text.find(placeholder, at + len(placeholder))
    return _disjoint(found)


def _disjoint(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    kept: list[tuple[int, int]] = []
    for start, end in sorted(set(spans), key=lambda s: (s[0], -s[1])):
        if not kept or start >= kept[-1][1]:
            kept.append((start, end))
    return kept


def _spans(pattern: object, text: bytes) -> list[tuple[int, int]]:
    return [match.span() for match in pattern.finditer(text)]  # type: ignore[attr-defined]


def _outside(spans: list[tuple[int, int]], taken: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans that no taken one overlaps; both sorted."""
    left = []
    at = 0
    for start, end in spans:
        while at < len(taken) and taken[at][1] <= start:
            at += 1
        if at == len(taken) or taken[at][0] >= end:
            left.append((start, end))
    return left


def _recognisable(placeholder: bytes) -> bool:
    """Long enough that finding it elsewhere is no accident."""
    return len(placeholder) >= (MARKED if placeholder.isdigit() else _SHINGLE)


def _joined(text: bytes, start: int, end: int) -> tuple[bool, bool]:
    """Whether letters or digits touch the span before and behind."""
    return text[start - 1 : start].isalnum() if start else False, text[end : end + 1].isalnum()


def _apply(staged: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    parts = []
    at = 0
    for start, end, raw in sorted(edits, key=lambda edit: edit[0]):
        parts += [staged[at:start], raw]
        at = end
    parts.append(staged[at:])
    return b"".join(parts)
