"""`commit -p`: hunk by hunk, with the keys that `git add -p` has."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import click

from gateway.cli.context import printable
from gateway.review.hunks import Hunk, split_hunk
from gateway.review.show import escape_terminal

_HELP = """y - commit this hunk
n - leave this hunk staged
q - leave this hunk and all that follow
a - commit this hunk and all later ones of the file
d - leave this hunk and all later ones of the file
s - split this hunk into smaller ones
e - edit this hunk first
? - this help
"""
_GUIDE = """# Edit the hunk. A line with '-' is kept in the file if it starts with a space instead;
# a line with '+' can be deleted or changed. Lines that start with '#' are left out.
# With no line left, the hunk is asked about again.
"""


@dataclass(slots=True)
class Picked:
    """What was chosen: ids of hunks, hunks in another wording, and paths to take whole."""

    hunks: list[str] = field(default_factory=list)
    edited: list[dict[str, Any]] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.hunks or self.edited or self.whole)


class Picker:
    """Goes through the changes; *ask* puts a question and returns the answer, *show* prints."""

    def __init__(
        self,
        changes: list[dict[str, Any]],
        exact: dict[str, tuple[str, list[Hunk]]],
        ask: Callable[[str], str],
        show: Callable[[str], None],
        line: Callable[[dict[str, Any]], str],
    ) -> None:
        self._changes = changes
        self._exact = exact
        self._ask = ask
        self._show = show
        self._line = line
        self._picked = Picked()

    def run(self) -> Picked:
        """Ask about every change."""
        for change in self._changes:
            self._show(self._line(change))
            path, found = self._exact[change["path"]]
            if not (self._file(path, found) if found else self._whole(change, path)):
                break
        return self._picked

    def _whole(self, change: dict[str, Any], path: str) -> bool:
        """A change that has no hunks; False to end."""
        while True:
            answer = self._ask(f"Commit this change of {printable(change['path'])} [y,n,q,?]? ")
            if answer in ("y", "a"):
                self._picked.whole.append(path)
                return True
            if answer in ("n", "d"):
                return True
            if answer == "q":
                return False
            self._show(_HELP)

    def _file(self, name: str, found: list[Hunk]) -> bool:
        left = list(found)
        done = 0
        path = name.encode("utf-8", "surrogateescape")
        rest = ""  # the answer for all that is left of the file
        while left:
            hunk = left.pop(0)
            done += 1
            answer = rest or self._about(hunk, path, done, done + len(left))
            if answer == "q":
                return False
            if answer in ("a", "d"):
                rest = answer
            if answer in ("y", "a"):
                self._picked.hunks.append(hunk.id)
            elif answer == "s":
                left = [*split_hunk(hunk, path), *left]
                self._show(f"Split into {len(split_hunk(hunk, path))} hunks.")
                done -= 1
            elif answer == "e" and not self._edit(hunk, name):
                left.insert(0, hunk)
                done -= 1
        return True

    def _about(self, hunk: Hunk, path: bytes, number: int, count: int) -> str:
        """The answer for one hunk."""
        can_split = len(split_hunk(hunk, path)) > 1
        keys = "y,n,q,a,d," + ("s," if can_split else "") + "e,?"
        self._show(shown(hunk))
        while True:
            answer = self._ask(f"({number}/{count}) Commit this hunk [{keys}]? ")
            if answer in keys.split(",") and answer != "?":
                return answer
            self._show(_HELP)

    def _edit(self, hunk: Hunk, path: str) -> bool:
        """Take the hunk as the user edits it; False if nothing came of that."""
        text = b"".join(hunk.lines).decode("utf-8", "surrogateescape")
        edited = click.edit(_GUIDE + text, extension=".diff", require_save=False)
        lines = [
            line.encode("utf-8", "surrogateescape") + b"\n"
            for line in (edited or "").split("\n")
            if line and not line.startswith("#")
        ]
        if not lines:
            return False
        if old_side(lines) != old_side(hunk.lines):
            self._show("That hunk does not fit the file any more: only '+' lines can be changed.")
            return False
        self._picked.edited.append(
            {
                "path": path,
                "old_start": hunk.old_start,
                "lines": [line.decode("latin-1") for line in lines],
            }
        )
        return True


def old_side(lines: "tuple[bytes, ...] | list[bytes]") -> list[bytes]:
    """The lines that a hunk has of the old file."""
    return [line[1:] for line in lines if line[:1] in (b" ", b"-")]


def shown(hunk: Hunk) -> str:
    """A hunk for a terminal: what the agent wrote is never sent to it raw."""
    return escape_terminal(hunk.header.encode() + b"\n" + b"".join(hunk.lines)).rstrip("\n")


def from_exact(files: list[dict[str, Any]]) -> dict[str, tuple[str, list[Hunk]]]:
    """The real path and hunks by path as it is shown, from a `diff` that was asked for them."""
    return {
        one["shown"]: (
            one["path"],
            [
                Hunk(
                    hunk["id"], hunk["old_start"], hunk["old_count"], hunk["new_start"],
                    hunk["new_count"], tuple(line.encode("latin-1") for line in hunk["lines"]),
                )
                for hunk in one["hunks"]
            ],
        )
        for one in files
    }  # fmt: skip
