"""A stage with a limit, and a disk that is full: the agent is told, and the user goes on working
(promise 10)."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import ENV, Grantfs, error_of, fill_disk, wait_until


def test_a_stage_has_a_limit_that_can_be_raised_at_work(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(source, "--name", "w", "--stage-limit", "1M")
    proj = mount / "proj"
    command = ["dd", "if=/dev/zero", f"of={proj}/big", "bs=64K", "count=100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "Disk quota exceeded" in done.stderr
    assert (proj / "big").stat().st_size <= 1 << 20
    df = subprocess.run(
        ["df", "-B1", "--output=size,avail", mount], check=True, capture_output=True
    )
    size, free = map(int, df.stdout.split()[-2:])
    assert size == 1 << 20
    assert free < 128 << 10
    (row,) = grantfs.ask("ps")
    assert row["stage_limit"] == 1 << 20
    grantfs.up("--stage-limit", "4M", "-w", "w")
    subprocess.run([*command[:-1], "count=40"], check=True, capture_output=True, timeout=60)
    grantfs.run("down")
    grantfs.up()
    assert error_of(lambda: (proj / "more").write_bytes(b"x" * (2 << 20))) == "EDQUOT"


@pytest.mark.parametrize("size", ["1", "5X", "-4K", "0", "1.5G"])
def test_a_bad_size(grantfs: Grantfs, source: Path, size: str) -> None:
    done = grantfs.run("up", source, "--stage-limit", size, code=None)
    if size == "1":
        assert done.code == 0
        return
    assert done.code == 2
    assert "bad size" in done.error


def test_an_agent_fills_the_disk_and_the_user_still_decides(
    grantfs: Grantfs, source: Path, small_disk: Path
) -> None:
    proj = grantfs.up(source, "--name", "w") / "proj"
    (proj / "early").write_text("early\n")
    assert error_of(lambda: (proj / "big").write_bytes(b"x" * (16 << 20))) == "ENOSPC"
    left = os.statvfs(proj)
    assert left.f_bavail * left.f_frsize < 1 << 20
    # The agent goes on reading, and every read is on the record.
    assert (proj / "README.md").read_bytes()
    assert set(grantfs.status()) == {"proj/big", "proj/early"}
    assert grantfs.ask("commit", "-y", "proj/early")["applied"] == ["proj/early"]
    assert grantfs.ask("discard", "-y", "proj/big")["discarded"] == ["proj/big"]
    (proj / "late").write_bytes(b"x" * (1 << 20))
    assert grantfs.ask("audit", "verify")["ok"] is True


def test_others_fill_the_disk_and_the_user_still_decides(
    grantfs: Grantfs, source: Path, small_disk: Path
) -> None:
    proj = grantfs.up(source, "--name", "w") / "proj"
    (proj / "early").write_text("early\n")
    (proj / "late").write_text("late\n")
    (proj / ".env").write_bytes((proj / ".env").read_bytes() + b"NEW=1\n")
    wait_until((grantfs.state("w") / "reserve").exists, "the reserve is held")
    filler = fill_disk(small_disk)
    assert error_of(lambda: (proj / "more").write_bytes(b"x")) == "ENOSPC"
    # The log has room of its own: reads go on, and are on the record.
    for _ in range(20):
        assert (proj / "README.md").read_bytes()
    assert set(grantfs.status()) == {"proj/.env", "proj/early", "proj/late"}
    assert grantfs.run("diff").out
    assert sorted(grantfs.ask("commit", "-y", "proj/early", "proj/.env")["applied"]) == [
        "proj/.env", "proj/early",
    ]  # fmt: skip
    assert (source / ".env").read_bytes() == ENV + b"NEW=1\n"
    assert grantfs.ask("discard", "-y", "proj/late")["discarded"] == ["proj/late"]
    grantfs.run("revoke", "--all")
    assert error_of((proj / "README.md").read_bytes) == "ENOENT"
    # And so after a start on the full disk.
    grantfs.run("down")
    grantfs.run("up")
    grantfs.run("grant", source)
    assert (proj / "README.md").read_bytes()
    assert grantfs.ask("audit", "verify")["ok"] is True
    filler.unlink()
    (proj / "more").write_bytes(b"x")


def test_the_reserve_comes_back_when_there_is_room(
    grantfs: Grantfs, source: Path, small_disk: Path
) -> None:
    grantfs.up(source, "--name", "w")
    reserve = grantfs.state("w") / "reserve"
    wait_until(reserve.exists, "the reserve is held")
    held = reserve.stat().st_blocks
    assert held
    filler = fill_disk(small_disk)
    grantfs.run("status")
    filler.unlink()
    grantfs.run("status")
    wait_until(lambda: reserve.exists() and reserve.stat().st_blocks == held, "it is held again")


@pytest.fixture
def failing_disk(grantfs: Grantfs, root: None) -> Iterator[Path]:
    """The GRANTFS_HOME on a disk image that stands on a small file system: once that is full, the
    image's disk fails to write what it had taken. Yields the folder to fill."""
    if shutil.which("mkfs.ext2") is None:
        pytest.skip("mkfs.ext2 is not installed")
    below = grantfs.home.parent / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", below], check=True)
    image = below / "image"
    with image.open("wb") as file:
        file.truncate(96 << 20)
    try:
        subprocess.run(["mkfs.ext2", "-q", "-F", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, grantfs.home], check=True)
        grantfs.home.chmod(0o700)
        yield below
        grantfs.run("down", "--all", "--force", code=None)
        subprocess.run(["umount", grantfs.home], check=True)
    finally:
        subprocess.run(["umount", below], check=True)


def _save(path: Path, size: int) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.write(fd, b"x" * size)
        os.fsync(fd)
    finally:
        os.close(fd)


def test_a_disk_that_fails_is_told_to_the_agent_and_harms_nothing_else(
    grantfs: Grantfs, source: Path, failing_disk: Path
) -> None:
    proj = grantfs.up(source, "--name", "w") / "proj"
    _save(proj / "good", 1 << 20)
    fill_disk(failing_disk)
    assert error_of(lambda: _save(proj / "bad", 8 << 20)) in ("EIO", "ENOSPC")
    assert (proj / "good").read_bytes() == b"x" * (1 << 20)
    (failing_disk / "filler").unlink()
    _save(proj / "late", 1 << 20)
    assert set(grantfs.status()) >= {"proj/good", "proj/late"}
    grantfs.kill()
    proj = grantfs.up("--name", "w") / "proj"
    assert (proj / "good").read_bytes() == (proj / "late").read_bytes() == b"x" * (1 << 20)
    grantfs.run("discard", "-y", "proj/bad")
    assert grantfs.ask("commit", "-y")["remaining"] == []
    assert (source / "good").read_bytes() == b"x" * (1 << 20)
    assert grantfs.ask("audit", "verify")["ok"] is True
