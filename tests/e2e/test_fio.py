"""fio writes what it can verify, by every way of reading and writing that a program has."""

import subprocess
from pathlib import Path

import pytest
from both_places import needs
from driving import Grantfs, tree

BLOCKS = ["--bsrange=512-64k", "--bs_unaligned=1"]
JOBS = {
    "psync": ["--ioengine=psync", *BLOCKS],
    "pvsync": ["--ioengine=pvsync2", "--bs=4k"],
    "mmap": ["--ioengine=mmap", "--bs=4k"],
    "libaio": ["--ioengine=libaio", "--iodepth=16", "--bs=4k"],
    "direct": ["--ioengine=libaio", "--iodepth=8", "--direct=1", "--bs=4k"],
    "fsync": ["--ioengine=psync", "--fsync=16", *BLOCKS],
    "threads": ["--ioengine=psync", "--numjobs=4", "--thread", "--bs=4k"],
}
QUICK = ("psync", "mmap", "fsync")


def _fio(folder: Path, name: str, *more: str) -> None:
    words = [
        "fio", f"--directory={folder}", f"--name={name}", "--size=8m", "--rw=randrw",
        "--verify=crc32c", "--verify_fatal=1", "--randseed=7", "--group_reporting", *JOBS[name],
    ]  # fmt: skip
    done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verify:" not in done.stderr


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in JOBS],
)
def test_what_fio_writes_it_reads_again(grantfs: Grantfs, source: Path, name: str) -> None:
    """At once, after the daemon was killed, and in the source after the commit."""
    needs("fio")
    before = tree(source, identity=True)
    proj = grantfs.up(source, "--name", "w") / "proj"
    _fio(proj, name, "--do_verify=1", "--end_fsync=1")
    grantfs.kill()
    proj = grantfs.up("--name", "w") / "proj"
    _fio(proj, name, "--verify_only=1")
    assert tree(source, identity=True) == before
    grantfs.ask("commit", "-y")
    grantfs.run("down")
    _fio(source, name, "--verify_only=1")
