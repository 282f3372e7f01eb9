"""One POSIX suite over a plain folder and over the mount: both must see the same (promise 4).

Each case runs on what the agent made and on what the source has. What a FUSE file system in user
space does otherwise is in `DIFFERENCES`, with the reason; `docs/posix.md` says it to people.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cases_attributes
import cases_files
import cases_names
import pytest
from driving import Grantfs, User, driving
from places import CASES, Place, Who, in_child, perform

assert cases_attributes
assert cases_files
assert cases_names

MADE_BY = ("agent", "source")

_NO_CALL = "pyfuse3 has no handler for it"
_NO_LSEEK = "pyfuse3 has no handler for lseek: the kernel takes a file for one piece of data"
_PRIVILEGED = "the stage keeps user attributes only; these would carry rights or labels out of it"

_NO_SEARCH = "the daemon is that user: what it may not look at is not listed"

DIFFERENCES: dict[str, tuple[str, Sequence[str]]] = {
    "allocating": (_NO_CALL, (*(f"{n} f" for n in range(5)), "5 pread", "left f")),
    "nameless_files": (_NO_CALL, ("open d", "1 write", "2 linkat_fd", "left named")),
    "finding_holes": (_NO_LSEEK, [f"{n} lseek" for n in (1, 2, 3, 5, 6, 7)]),
    "privileged_attributes": (_PRIVILEGED, ("1 set", "2 remove", "4 set", "5 remove", "11 remove")),
    "privileged_attributes of an ordinary user's": (_PRIVILEGED, ("11 remove",)),
    "access_by_class of an ordinary user's source": (_NO_SEARCH, ("left d444/in", "left d666/in")),
}
"""Case → why it sees something else in a mount, and the beginnings of what it sees otherwise."""


class Mounted:
    """A workspace over a folder that holds a folder for each case, and a plain one beside it."""

    def __init__(self, grantfs: Grantfs, who: Who | None) -> None:
        base = grantfs.home.parent
        self.who = who
        self.source, self.plain = base / "proj", base / "plain"
        for folder in (self.source, self.plain):
            folder.mkdir()
            folder.chmod(0o755)
            if who is not None:
                os.chown(folder, who.uid, who.gid)
        options = [] if who is not None else ["--agent-user", "any"]
        base.chmod(0o755)
        self.mount = grantfs.up(self.source, *options, "--mount", base / "m") / "proj"
        self.wanted: dict[str, list[tuple[str, object]]] = {}

    def differences(self, name: str, made_by: str) -> list[str]:
        """What a case sees in the mount that it does not see in the plain folder."""
        folder = f"{name}-{made_by}"
        if name not in self.wanted:
            place = self._folder(self.plain, name)
            self.wanted[name] = perform(CASES[name], place, place, self.who)
        if made_by == "source":
            given = self._folder(self.source, folder)
        else:
            given = self._folder(self.mount, folder)
        found = perform(CASES[name], given, str(self.mount / folder), self.who)
        keys = [name]
        if self.who is not None:
            keys = [
                f"{name} of an ordinary user's {made_by}",
                f"{name} of an ordinary user's",
                name,
            ]
        known = next((DIFFERENCES[key][1] for key in keys if key in DIFFERENCES), ())
        return list(_compare(found, self.wanted[name], known))

    def _folder(self, parent: Path, name: str) -> str:
        def make() -> None:
            if self.who is not None:
                self.who.become()
            os.mkdir(parent / name)

        in_child(make, Place(str(parent)))
        return str(parent / name)


def _compare(
    found: list[tuple[str, object]], wanted: list[tuple[str, object]], known: Sequence[str]
) -> Iterator[str]:
    """What differs and is not known to, and what is known to and does not."""
    here, there = dict(_numbered(found)), dict(_numbered(wanted))
    met = set()
    for key in dict.fromkeys([*there, *here]):
        one, other = here.get(key, "nothing"), there.get(key, "nothing")
        if one == other:
            continue
        covered = [start for start in known if key.startswith(start)]
        met.update(covered)
        if not covered:
            yield f"{key}: in the mount {str(one)[:300]}, in a plain folder {str(other)[:300]}"
    for start in set(known) - met:
        yield f"no difference any more: {start!r}"


def _numbered(seen: list[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    counts: dict[str, int] = {}
    for what, value in seen:
        counts[what] = counts.get(what, 0) + 1
        yield (f"{what} #{counts[what]}" if counts[what] > 1 else what), value


@pytest.fixture(scope="module")
def by_root(root: None) -> Iterator[Mounted]:
    with driving(600) as grantfs:
        yield Mounted(grantfs, None)


@pytest.fixture(scope="module")
def by_someone(someone: User) -> Iterator[Mounted]:
    with driving(600, someone) as grantfs:
        yield Mounted(grantfs, Who(someone.uid, someone.gid))


@pytest.mark.parametrize("made_by", MADE_BY)
@pytest.mark.parametrize("name", CASES)
def test_for_root_and_others(by_root: Mounted, name: str, made_by: str) -> None:
    assert by_root.differences(name, made_by) == []


@pytest.mark.parametrize("made_by", MADE_BY)
@pytest.mark.parametrize("name", CASES)
def test_for_an_ordinary_user(by_someone: Mounted, name: str, made_by: str) -> None:
    assert by_someone.differences(name, made_by) == []
