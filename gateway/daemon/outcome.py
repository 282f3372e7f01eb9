"""What a commit did, as `commit` tells it."""

from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.audit.events import show_name
from gateway.daemon.review import Reviewed

Placeholders = Literal["ask", "restore", "keep"]
OnConflict = Literal["refuse", "merge", "overwrite"]


@dataclass(slots=True)
class Outcome:
    """What a commit did; paths are relative to the mount's root."""

    commit: str | None = None
    applied: list[str] = field(default_factory=list)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    undecided: list[dict[str, str]] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, other: "Outcome") -> None:
        """Take in what another attempt found."""
        self.applied += other.applied
        self.conflicts += other.conflicts
        self.undecided += other.undecided
        self.failed += other.failed
        self.merged += other.merged
        self.overwritten += other.overwritten
        self.warnings += other.warnings

    def to_json(self) -> dict[str, object]:
        """The object of `commit`."""
        found: dict[str, object] = {
            "commit": self.commit,
            "applied": self.applied,
            "conflicts": [one["path"] for one in self.conflicts],
            "undecided": [one["path"] for one in self.undecided],
            "remaining": self.remaining,
        }
        kept = (*self.conflicts, *self.failed, *self.undecided)
        reasons = {one["path"]: one["why"] for one in kept}
        if reasons:
            found["reasons"] = reasons
        for key in ("merged", "overwritten"):
            if getattr(self, key):
                found[key] = getattr(self, key)
        if self.failed:
            found["failed"] = [one["path"] for one in self.failed]
        return found


def diff_json(reviewed: Reviewed) -> dict[str, Any]:
    """The object of `diff` and `show`."""
    origin = reviewed.change.from_path
    return {
        "path": reviewed.path,
        "kind": reviewed.change.kind.value,
        "from": None if origin is None else show_name(origin),
        "binary": reviewed.binary,
        "hunks": [
            {
                "id": hunk.id,
                "header": hunk.header if isinstance(hunk.header, str) else hunk.header.decode(),
                "lines": [line.decode("utf-8", "backslashreplace") for line in hunk.lines],
            }
            for hunk in reviewed.hunks
        ],
    }
