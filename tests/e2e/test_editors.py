"""Editors at a terminal, as a person drives them: what they leave is the same in both places."""

import os
import pty
import re
import select
import time
from pathlib import Path

import pytest
from both_places import Both, both, needs
from driving import Grantfs

SECONDS = 30
CONTROL_O, CONTROL_X, ESCAPE = b"\x0f", b"\x18", b"\x1b"


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, cwd: Path, *words: str) -> None:
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ.update(TERM="xterm", HOME="/nonexistent", LINES="24", COLUMNS="80")
            os.execvp(words[0], words)
        self._seen = b""

    def expect(self, pattern: bytes) -> None:
        """Wait until it has printed this since the last time."""
        until = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self._seen)):
            readable, _, _ = select.select([self._descriptor], [], [], until - time.monotonic())
            assert readable, (pattern, self._seen)
            self._seen += os.read(self._descriptor, 65536)
        self._seen = self._seen[found.end() :]

    def send(self, keys: bytes) -> None:
        os.write(self._descriptor, keys)

    def wait(self) -> int:
        """Its exit code once it has ended."""
        try:
            while os.read(self._descriptor, 65536):
                pass
        except OSError:
            pass  # The other end is gone.
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def places(grantfs: Grantfs, source: Path) -> Both:
    (source / ".env").unlink()
    (source / "README.md").write_text("first line\nsecond line\n")
    return both(grantfs, source)


@pytest.mark.parametrize("options", [[], ["--backup"], ["--locking"], ["--unix", "--nonewlines"]])
def test_nano_saves(places: Both, options: list[str]) -> None:
    needs("nano")
    for place in (places.plain, places.mounted):
        nano = Terminal(place, "nano", "--ignorercfiles", *options, "README.md")
        nano.expect(b"second line")
        nano.send(b"typed ")
        nano.expect(b"typed")
        nano.send(CONTROL_O)
        nano.expect(b"Write")
        nano.send(b"\r")
        nano.expect(rb"Wrote \d+ lines")
        nano.send(CONTROL_X)
        assert nano.wait() == 0
        assert (place / "README.md").read_text().startswith("typed first line\n")
    assert places.grantfs.status()["proj/README.md"] == "modified"
    places.check()


def test_nano_makes_a_file(places: Both) -> None:
    needs("nano")
    for place in (places.plain, places.mounted):
        nano = Terminal(place, "nano", "--ignorercfiles", "src/new.txt")
        nano.expect(b"New File")
        nano.send(b"hello")
        nano.expect(b"hello")
        nano.send(CONTROL_X)
        nano.expect(b"Save modified buffer")
        nano.send(b"y")
        nano.expect(b"Write")
        nano.send(b"\r")
        assert nano.wait() == 0
    places.check()


def test_vim_at_a_terminal_with_its_swap_file(places: Both) -> None:
    needs("vim")
    for place in (places.plain, places.mounted):
        vim = Terminal(place, "vim", "-u", "NONE", "-i", "NONE", "-N", "README.md")
        vim.expect(b"second line")
        vim.send(b"ox" + ESCAPE)
        vim.send(b":w\r")
        vim.expect(b"written")
        assert (place / ".README.md.swp").exists()
        vim.send(b":wq\r")
        assert vim.wait() == 0
        assert not (place / ".README.md.swp").exists()
        assert "first line\nx\n" in (place / "README.md").read_text()
    places.check()


def test_a_second_vim_finds_the_swap_file_of_the_first(places: Both) -> None:
    needs("vim")
    words = ("vim", "-u", "NONE", "-i", "NONE", "-N", "README.md")
    for place in (places.plain, places.mounted):
        first = Terminal(place, *words)
        first.expect(b"second line")
        second = Terminal(place, *words)
        second.expect(b"ATTENTION|swap file")
        second.send(b"q")
        second.wait()
        first.send(b":q!\r")
        assert first.wait() == 0
    places.check()
