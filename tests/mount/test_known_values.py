"""Known values, and guesses: what is secret once is secret everywhere in the sources, and what an
agent writes tells it nothing (design: "Whose bytes")."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Grantfs, error_of

SECRET = "9f86d081884c7d659a2feaa0c55ad015"
NAMED = f"TWILIO_AUTH_TOKEN={SECRET}\n"
BARE = f"see also {SECRET} in the notes\n"
EACH = 1250
"""Guesses by each of eight ways: 10,000."""


@pytest.fixture
def mounted(grantfs: Grantfs, source: Path) -> Path:
    (source / "settings").write_text(NAMED)
    (source / "notes").write_text(BARE)
    return grantfs.up(source, "--name", "w") / "proj"


def test_a_value_that_was_found_once_is_masked_everywhere(
    grantfs: Grantfs, source: Path, mounted: Path
) -> None:
    assert (mounted / "notes").read_text() == BARE  # nothing tells yet what this is
    shown = (mounted / "settings").read_text()
    assert SECRET not in shown
    assert SECRET not in (mounted / "notes").read_text()
    # Also what the user writes later, and after a restart without the file that taught it.
    (source / "settings").unlink()
    grantfs.run("down")
    sealed = list(grantfs.home.rglob("known.sealed"))
    assert len(sealed) == 1
    assert sealed[0].stat().st_mode & 0o777 == 0o600
    assert SECRET.encode() not in sealed[0].read_bytes()
    grantfs.up("--name", "w")
    (source / "later").write_text(BARE * 2)
    assert SECRET not in (mounted / "later").read_text()


def test_an_edit_around_a_secret_never_uncovers_it(
    grantfs: Grantfs, source: Path, mounted: Path
) -> None:
    """The name that a rule goes by is edited away, and the secret is put back at the commit."""
    shown = (mounted / "settings").read_text()
    (mounted / "settings").write_text(shown.replace("TWILIO_AUTH_TOKEN=", "x="))
    grantfs.run("commit", "-y", "--placeholders", "restore", "proj/settings", "--json")
    assert (source / "settings").read_text() == f"x={SECRET}\n"
    assert (mounted / "settings").read_text() == shown.replace("TWILIO_AUTH_TOKEN=", "x=")


def test_damaged_known_values_are_no_reason_to_go_on(grantfs: Grantfs, mounted: Path) -> None:
    (mounted / "settings").read_text()
    grantfs.run("down")
    (sealed,) = grantfs.home.rglob("known.sealed")
    sealed.write_bytes(b"damaged")
    failed = grantfs.run("up", "--name", "w", code=1)
    assert "known.sealed" in failed.err
    sealed.unlink()
    grantfs.up("--name", "w")


def _guesses() -> list[str]:
    found = [f"{number:032x}" for number in range(EACH - 1)]
    return [*found[: EACH // 2], SECRET, *found[EACH // 2 :]]


def _written(folder: Path, guess: str) -> object:
    path = folder / "w"
    path.write_text(f"TWILIO_AUTH_TOKEN={guess}\n")
    return path.read_text() == f"TWILIO_AUTH_TOKEN={guess}\n", path.stat().st_size


def _appended(folder: Path, guess: str) -> object:
    with (folder / "a").open("a+b") as file:
        file.write(guess.encode())
        file.flush()
        end = file.tell()
        return os.pread(file.fileno(), 32, end - 32) == guess.encode(), end % 32


def _over_a_source(folder: Path, guess: str) -> object:
    with (folder / "notes").open("r+b") as file:
        file.write(guess.encode())
        file.flush()
        return os.pread(file.fileno(), 32, 0) == guess.encode(), os.fstat(file.fileno()).st_size


def _mapped(folder: Path, guess: str) -> object:
    path = folder / "m"
    if not path.exists():
        path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as mapped:
        mapped[:32] = guess.encode()
        mapped.flush()
        return os.pread(file.fileno(), 32, 0) == guess.encode()


def _renamed(folder: Path, guess: str) -> object:
    (folder / "r.new").write_text(guess)
    os.rename(folder / "r.new", folder / "r")
    return (folder / "r").read_text() == guess, (folder / "r").stat().st_size


def _named(folder: Path, guess: str) -> object:
    error = error_of((folder / guess).touch)
    seen = guess in os.listdir(folder)
    (folder / guess).unlink()
    return error, seen


def _linked(folder: Path, guess: str) -> object:
    error = error_of(lambda: os.symlink(guess, folder / "l"))
    target = os.readlink(folder / "l")
    (folder / "l").unlink()
    return error, target == guess


def _attributed(folder: Path, guess: str) -> object:
    error = error_of(lambda: os.setxattr(folder / "w", "user.guess", guess.encode()))
    return error, os.getxattr(folder / "w", "user.guess") == guess.encode()


WAYS: tuple[Callable[[Path, str], object], ...] = (
    _written, _appended, _over_a_source, _mapped, _renamed, _named, _linked, _attributed,
)  # fmt: skip


@pytest.mark.timeout(300)
def test_ten_thousand_guesses_tell_nothing(grantfs: Grantfs, source: Path, mounted: Path) -> None:
    """By every way of writing the right guess looks like the wrong ones, and what a source shows
    is the same before and after."""
    (mounted / "settings").read_text()
    before = (mounted / "settings").read_bytes()
    own = {p.name: p.read_bytes() for p in (mounted.parent / ".grantfs").iterdir()}
    for way in WAYS:
        outcomes = {repr(way(mounted, guess)) for guess in _guesses()}
        assert len(outcomes) == 1, (way.__name__, outcomes)
    assert (mounted / "settings").read_bytes() == before
    after = {p.name: p.read_bytes() for p in (mounted.parent / ".grantfs").iterdir()}
    assert {n: d for n, d in own.items() if n != "status.json"} == {
        name: data for name, data in after.items() if name != "status.json"
    }
    assert SECRET.encode() not in b"".join(after.values())
    # Nor did any of it teach what the sources' other bytes are.
    (source / "other").write_text("f" * 20 + f"{7:032x}\n")
    assert f"{7:032x}" in (mounted / "other").read_text()
