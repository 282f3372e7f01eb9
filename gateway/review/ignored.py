"""Build output and dependency trees: folders that git's ignore rules leave out as a whole.

A `.gitignore` may be the agent's work or a hostile repository's: its patterns are matched by RE2,
and all that they can do is to keep changes out of a commit that names no path. A single file that
is ignored, such as `.env`, is committed like any other.
"""

from collections.abc import Callable, Sequence

from pathspec import GitIgnoreSpec

MAX_BYTES = 256 * 1024
"""What is read of one `.gitignore`."""

_ANY = "grantfs-any-name"


class IgnoreRules:
    """The rules of one grant. *read* gives the content of the `.gitignore` of a folder, None where
    there is none."""

    def __init__(self, read: Callable[[bytes], bytes | None]) -> None:
        self._read = read
        self._specs: dict[bytes, GitIgnoreSpec | None] = {}
        self._out: dict[bytes, bool] = {}

    def tree(self, place: bytes) -> bytes | None:
        """The topmost folder above *place* that is left out; None if none is."""
        above = [(0, self._spec(b""))]
        at = place.find(b"/")
        while at > 0:
            folder = place[:at]
            spec = self._spec(folder)
            if folder not in self._out:
                # `*` in a folder's own file leaves out all that is in it, as virtual
                # environments do.
                everything = spec is not None and spec.check_file(_ANY).include
                self._out[folder] = bool(everything) or _ignored(folder, above)
            if self._out[folder]:
                return folder
            if spec is not None:
                above.append((at + 1, spec))
            at = place.find(b"/", at + 1)
        return None

    def _spec(self, folder: bytes) -> GitIgnoreSpec | None:
        if folder not in self._specs:
            data = self._read(folder)
            self._specs[folder] = None if data is None else _parse(data[:MAX_BYTES])
        return self._specs[folder]


def _ignored(folder: bytes, above: Sequence[tuple[int, GitIgnoreSpec | None]]) -> bool:
    """True if a rule above the folder ignores it; the deepest that says anything counts. Each has
    the length of the path that it does not look at."""
    for start, spec in reversed(above):
        if spec is not None:
            name = folder[start:].decode("utf-8", "surrogateescape") + "/"
            include = spec.check_file(name).include
            if include is not None:
                return include
    return False


def _parse(data: bytes) -> GitIgnoreSpec | None:
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    try:
        return GitIgnoreSpec.from_lines(lines, backend="re2")
    except Exception:
        return _parse_each(lines)


def _parse_each(lines: list[str]) -> GitIgnoreSpec | None:
    """The lines that are patterns; git, too, passes over what is none."""
    good = []
    for line in lines:
        try:
            GitIgnoreSpec.from_lines([line], backend="re2")
        except Exception:
            continue
        good.append(line)
    return GitIgnoreSpec.from_lines(good, backend="re2") if good else None
