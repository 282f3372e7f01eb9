"""Which changes have to be taken together, and in which groups they land.

A change cannot land alone where it would destroy what another one still needs: the bytes of a
file that the agent moved or copied from there, a folder in whose place a file is to stand, one of
the names of a hard link, the rest of a `.git` (references without their objects are a broken
repository). `commit` and `discard` take such changes with those that were named, and
a group lands as a whole or not at all. Pure functions over `Change`s of one projection.
"""

import stat
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from vfs.stage.changes import Change, Kind


def _above(path: bytes) -> Iterator[bytes]:
    """Every folder above *path*, the root not among them."""
    at = path.rfind(b"/")
    while at > 0:
        yield path[:at]
        at = path.rfind(b"/", 0, at)


def _git_folder(path: bytes) -> bytes | None:
    """The outermost `.git` that a path is in, or is."""
    parts = path.split(b"/")
    return b"/".join(parts[: parts.index(b".git") + 1]) if b".git" in parts else None


class _Index:
    """Changes by what they have to do with a place; indices into the list."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self.changes = changes
        self.ending: dict[bytes, list[int]] = defaultdict(list)
        self.placing: dict[bytes, list[int]] = defaultdict(list)
        self.from_origin: dict[bytes, list[int]] = defaultdict(list)
        self.by_ino: dict[int, list[int]] = defaultdict(list)
        self._by_git: dict[bytes, list[int]] = defaultdict(list)
        for number, change in enumerate(changes):
            if change.ends is not None:
                self.ending[change.ends].append(number)
            item = change.item
            if item is not None and change.kind is not Kind.MODE:
                self.placing[change.place].append(number)
                if item.origin is not None:
                    self.from_origin[item.origin].append(number)
            if item is not None and item.ino is not None and not stat.S_ISDIR(item.kind):
                self.by_ino[item.ino].append(number)
            for git in {_git_folder(change.place), _git_folder(change.ends or b"")} - {None}:
                self._by_git[git].append(number)  # type: ignore[index]
        self._ending_sorted = sorted(self.ending)
        self._placing_sorted = sorted(self.placing)

    @staticmethod
    def _within(ordered: list[bytes], folder: bytes) -> Iterator[bytes]:
        at = bisect_right(ordered, folder + b"/")
        while at < len(ordered) and ordered[at].startswith(folder + b"/"):
            yield ordered[at]
            at += 1

    def of_one_git(self, number: int) -> Iterator[int]:
        """The first change in the same `.git`; of the first, all: few links tie them together."""
        change = self.changes[number]
        for git in {_git_folder(change.place), _git_folder(change.ends or b"")} - {None}:
            members = self._by_git[git]  # type: ignore[index]
            yield from members if members[0] == number else members[:1]

    def ending_within(self, folder: bytes) -> Iterator[int]:
        """Changes that take something of the source away below *folder*."""
        for path in self._within(self._ending_sorted, folder):
            yield from self.ending[path]

    def placing_within(self, folder: bytes) -> Iterator[int]:
        """Changes that put something below *folder*."""
        for path in self._within(self._placing_sorted, folder):
            yield from self.placing[path]


def _for_commit(index: _Index, number: int) -> Iterator[int]:
    change = index.changes[number]
    yield from index.of_one_git(number)
    if change.ends is not None:
        # Whoever shows the bytes that end here has to have landed.
        yield from index.from_origin.get(change.ends, ())
    item = change.item
    if item is None or change.kind is Kind.MODE:
        return
    for folder in _above(change.place):
        yield from index.ending.get(folder, ())
    # Of a file that takes the place of another kind of thing, both sides are changes.
    yield from index.ending.get(change.place, ())
    if not stat.S_ISDIR(item.kind):
        yield from index.ending_within(change.place)
        if item.ino is not None:
            yield from index.by_ino.get(item.ino, ())


def _for_discard(index: _Index, number: int) -> Iterator[int]:
    change = index.changes[number]
    place = change.ends
    if place is not None:
        for folder in _above(place):
            yield from index.placing.get(folder, ())
        yield from index.placing.get(place, ())
        if change.old is not None and not stat.S_ISDIR(change.old.mode):
            yield from index.placing_within(place)
    item = change.item
    if place is not None and item is not None and item.ino is not None:
        # One inode at several names of the source: none of them can go back alone.
        for other in index.by_ino.get(item.ino, ()):
            if index.changes[other].kind in (Kind.MODIFIED, Kind.MODE):
                yield other


def _reach(index: _Index, start: Iterable[int], discard: bool) -> dict[int, set[int]]:
    """Everything that *start* needs, directly or not, with what each one needs itself."""
    step = _for_discard if discard else _for_commit
    needs: dict[int, set[int]] = {}
    todo = list(start)
    while todo:
        number = todo.pop()
        if number in needs:
            continue
        needs[number] = set(step(index, number)) - {number}
        todo += needs[number]
    return needs


def close_over(
    changes: Sequence[Change], chosen: Sequence[Change], *, discard: bool = False
) -> list[Change]:
    """The chosen changes and those that have to be taken with them, in the order of *changes*."""
    index = _Index(changes)
    wanted = {id(change) for change in chosen}
    start = [number for number, change in enumerate(changes) if id(change) in wanted]
    reached = _reach(index, start, discard)
    return [change for number, change in enumerate(changes) if number in reached]


def groups(changes: Sequence[Change]) -> list[list[Change]]:
    """The changes of a commit in groups, each of which lands whole or not at all."""
    index = _Index(changes)
    needs = _reach(index, range(len(changes)), False)
    leader = list(range(len(changes)))

    def find(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    for number, needed in needs.items():
        for other in needed:
            leader[find(other)] = find(number)
    found: dict[int, list[Change]] = defaultdict(list)
    for number, change in enumerate(changes):
        found[find(number)].append(change)
    return list(found.values())
