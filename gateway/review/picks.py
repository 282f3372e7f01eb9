"""Hunks that were chosen of a file, by ids that name their content, or as they were edited."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gateway.review.hunks import Hunk, HunkMismatchError, split_hunk


@dataclass(frozen=True, slots=True)
class Picks:
    """What was chosen of one file: ids of hunks or of their parts, and hunks in another wording."""

    ids: frozenset[str]
    edited: tuple[Hunk, ...] = ()

    def taken(self, found: Sequence[Hunk], path: bytes) -> list[Hunk]:
        """The hunks and parts that were chosen, as `apply_hunks` takes them. Raises
        HunkMismatchError if one is not there any more."""
        return [*self._sorted_out(found, path)[0], *self.edited]

    def left(self, found: Sequence[Hunk], path: bytes) -> list[Hunk]:
        """The hunks and parts that were not chosen. Raises HunkMismatchError."""
        return self._sorted_out(found, path)[1]

    def _sorted_out(self, found: Sequence[Hunk], path: bytes) -> tuple[list[Hunk], list[Hunk]]:
        taken: list[Hunk] = []
        left: list[Hunk] = []
        for hunk in found:
            if hunk.id in self.ids:
                taken.append(hunk)
                continue
            parts = split_hunk(hunk, path)
            chosen = [part for part in parts if part.id in self.ids]
            taken += chosen
            left += [part for part in parts if part.id not in self.ids] if chosen else [hunk]
        missing = self.ids - {hunk.id for hunk in taken}
        if missing:
            raise HunkMismatchError(f"hunk {min(missing)} is not there any more")
        return taken, left


def ids_of(found: Sequence[Hunk], path: bytes) -> set[str]:
    """Every id by which hunks, or parts of them, can be chosen."""
    return {part.id for hunk in found for part in (hunk, *split_hunk(hunk, path))}


def find(
    ids: Collection[str], files: Sequence[tuple[bytes, Sequence[Hunk]]]
) -> dict[bytes, frozenset[str]]:
    """Which file each id belongs to. Raises HunkMismatchError for one that is in none."""
    found: dict[bytes, frozenset[str]] = {}
    left = set(ids)
    for path, hunks in files:
        mine = left & ids_of(hunks, path)
        if mine:
            found[path] = frozenset(mine)
            left -= mine
    if left:
        raise HunkMismatchError(f"there is no hunk {min(left)}")
    return found
