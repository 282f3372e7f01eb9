"""`commit` and `undo` by the command line: whole under kill -9, and seen in the mount at once."""

import os
import subprocess
from pathlib import Path

import pytest
from driving import ENV, TOKEN, Grantfs, tree, wait_until


def test_undo_is_seen_in_the_mount_at_once(grantfs: Grantfs, source: Path) -> None:
    (source / ".env").write_bytes(ENV)
    (source / "gone").write_bytes(b"was here\n")
    (source / "folder").mkdir()
    (source / "folder" / "a").write_bytes(b"a\n")
    before = tree(source)
    proj = grantfs.up(source) / "proj"
    (proj / ".env").write_bytes((proj / ".env").read_bytes() + b"MORE=1\n")
    (proj / "gone").unlink()
    (proj / "folder").rename(proj / "moved")
    (proj / "made").write_bytes(b"new\n")
    done = grantfs.ask("commit", "-y", "-m", "all of it")
    after = tree(source)
    assert TOKEN in after[".env"][1]

    undone = grantfs.ask("undo")
    assert undone["undone"] == done["commit"]
    assert sorted(undone["restored"]) == sorted(done["applied"])
    assert undone["conflicts"] == []
    assert tree(source) == before
    assert sorted(os.listdir(proj)) == sorted(os.listdir(source))
    assert b"MORE" not in (proj / ".env").read_bytes()
    assert TOKEN not in (proj / ".env").read_bytes()
    assert (proj / "gone").read_bytes() == b"was here\n"
    assert grantfs.ask("status")["changes"] == []

    log = grantfs.ask("log")
    assert [one["undoes"] for one in log] == [done["commit"], None]
    shown = grantfs.run("show", undone["commit"]).out
    assert b"-MORE=1" in shown
    assert TOKEN not in shown
    grantfs.ask("revoke", "--all")  # an undo is the user's own doing
    assert grantfs.ask("undo", undone["commit"])["undone"] == undone["commit"]
    assert tree(source) == after
    events = [one["event"] for one in grantfs.events()]
    assert events.count("undo") == 4


def test_how_undo_refuses(grantfs: Grantfs, source: Path) -> None:
    (source / "a").write_bytes(b"1\n")
    proj = grantfs.up(source) / "proj"
    assert "no commit to undo" in grantfs.run("undo", code=5).error
    (proj / "a").write_bytes(b"2\n")
    commit = grantfs.ask("commit", "-y")["commit"]
    assert "no commit" in grantfs.run("undo", "cffffffffffff", code=5).error
    (source / "a").write_bytes(b"mine\n")
    refused = grantfs.run("--json", "undo", code=3)
    assert refused.json == {
        "undone": None, "commit": None, "restored": [], "conflicts": ["proj/a"],
    }  # fmt: skip
    assert (source / "a").read_bytes() == b"mine\n"
    (source / "a").write_bytes(b"2\n")
    grantfs.ask("undo", commit[:6])
    assert "undone already" in grantfs.run("undo", commit, code=3).error
    grantfs.ask("down")
    assert grantfs.run("undo", code=6).error


def _names(folder: Path) -> tuple[int, int]:
    """How many temporary and how many other names a folder has."""
    found = os.listdir(folder)
    temporary = sum(name.startswith(".grantfs-tmp-") for name in found)
    return temporary, len(found) - temporary


COUNT = 1500
INSTANTS = {
    "the first is written": lambda temporary, _landed: temporary > 0,
    "half is written": lambda temporary, _landed: temporary > COUNT // 2,
    "the first has landed": lambda _temporary, landed: landed > 0,
    "half has landed": lambda _temporary, landed: landed > COUNT // 2,
    "all has landed": lambda _temporary, landed: landed >= COUNT,
}


@pytest.mark.parametrize(
    "instant",
    [
        pytest.param(instant, marks=[] if instant == "half has landed" else pytest.mark.slow)
        for instant in INSTANTS
    ],
)
def test_kill_9_in_the_middle_of_a_commit(grantfs: Grantfs, source: Path, instant: str) -> None:
    (source / "many").mkdir()
    (source / "many" / "edited").write_bytes(ENV)
    proj = grantfs.up(source) / "proj"
    for number in range(COUNT):
        (proj / "many" / f"file{number:05}").write_bytes(b"%d\n" % number)
    (proj / "many" / "edited").write_bytes((proj / "many" / "edited").read_bytes() + b"NEW=1\n")
    reached = INSTANTS[instant]
    with grantfs.start("commit", "-y", "--json") as commit:

        def now() -> bool:
            temporary, landed = _names(source / "many")
            return reached(temporary, landed - 1) or commit.poll() is not None

        wait_until(now, instant)
        grantfs.kill()
        commit.communicate(timeout=60)
    grantfs.ask("up")
    temporary, landed = _names(source / "many")
    assert temporary == 0
    assert landed - 1 in (0, COUNT)
    edited = (source / "many" / "edited").read_bytes()
    left = grantfs.ask("status")["changes"]
    if landed == 1:
        assert edited == ENV
        assert len(left) == COUNT + 1
        assert len(grantfs.ask("commit", "-y")["applied"]) == COUNT + 1
        edited = (source / "many" / "edited").read_bytes()
    else:
        assert left == []
    assert edited == ENV + b"NEW=1\n"
    assert len(grantfs.ask("log")) == 1
    assert _names(source / "many") == (0, COUNT + 1)
    grantfs.ask("undo")
    assert tree(source / "many").keys() == {".", "edited"}
    assert grantfs.run("audit", "verify").code == 0


def test_a_folder_that_cannot_be_written_to_stops_all(grantfs: Grantfs, source: Path) -> None:
    for name in ("a", "b"):
        (source / name).write_bytes(b"old\n")
    proj = grantfs.up(source) / "proj"
    for name in ("a", "b"):
        (proj / name).write_bytes(b"new\n")
    subprocess.run(["chattr", "+i", source / "b"], check=True)
    try:
        refused = grantfs.run("commit", "-y", code=1)
        assert "proj/b stays staged: Operation not permitted; nothing was committed" in refused.err
        assert (source / "a").read_bytes() == b"old\n"
        assert _names(source)[0] == 0
    finally:
        subprocess.run(["chattr", "-i", source / "b"], check=True)
    assert len(grantfs.ask("commit", "-y")["applied"]) == 2
    assert (source / "b").read_bytes() == b"new\n"
