"""The daemon's memory is bounded by what is in use, not by what has been seen."""

import os
from pathlib import Path

import pytest
from driving import Grantfs, wait_until

MIB = 1 << 20
LOW = (1 << 32) - 1


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
    # Other files by the same names each time: what policy said of a name may be remembered.
    count = 8_000
    parts = [source.parent / f"part{turn}" for turn in range(6)]
    for part in parts:
        part.mkdir()
        for number in range(count):
            (part / f"file-with-a-name-of-its-own-{number}").touch()
    folder = grantfs.up(source) / "proj" / "folder"
    pid = grantfs.pid()

    def walk(part: Path) -> int:
        part.rename(source / "folder")
        Path("/proc/sys/vm/drop_caches").write_text("2")
        numbers = {entry.inode() & LOW for entry in os.scandir(source / "folder")}
        number = (source / "folder").stat().st_ino & LOW
        wait_until(lambda: folder.stat().st_ino & LOW == number, part.name)
        shown = {entry.stat().st_ino & LOW for entry in os.scandir(folder)}
        assert shown == numbers
        (source / "folder").rename(part)
        return _memory(pid, "VmRSS")

    first = max(walk(parts[0]), walk(parts[1]))
    last = [walk(part) for part in parts[2:]][-1]
    # Each part takes over 4 MiB; what was forgotten of one may go while the next is walked.
    assert last - first < 8 * MIB


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
