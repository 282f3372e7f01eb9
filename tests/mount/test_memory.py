"""The daemon's memory is bounded by what is in use, not by what has been seen."""

import os
from pathlib import Path

import pytest
from driving import Grantfs

MIB = 1 << 20


def _memory(pid: int, which: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` at most since `_reset`."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(which + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(which)


def _reset(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make the kernel forget")
def test_what_the_kernel_has_forgotten_the_daemon_forgets(grantfs: Grantfs, source: Path) -> None:
    count = 8_000
    for turn in range(5):
        folder = source / f"part{turn}"
        folder.mkdir()
        for number in range(count):
            (folder / f"file-with-a-name-of-its-own-{number}").touch()
    proj = grantfs.up(source) / "proj"
    pid = grantfs.pid()

    def walk(turn: int) -> int:
        found = sum(entry.stat().st_size == 0 for entry in os.scandir(proj / f"part{turn}"))
        assert found == count
        return _memory(pid, "VmRSS")

    first = walk(0)
    for turn in range(1, 5):
        Path("/proc/sys/vm/drop_caches").write_text("2")
        last = walk(turn)
    # Each part takes over 4 MiB; what was forgotten of one may go while the next is walked.
    assert last - first < 10 * MIB


def test_a_review_holds_no_contents(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    line = b"a line that is unlike the one before it\n"
    for number in range(150):
        (proj / f"large{number}").write_bytes(b"%d\n" % number + line * (MIB // len(line)))
    pid = grantfs.pid()
    _reset(pid)
    before = _memory(pid, "VmHWM")
    assert len(grantfs.ask("status")["changes"]) == 150
    assert _memory(pid, "VmHWM") - before < 60 * MIB
