"""The user goes on working on a mounted source: what is staged over stays, all else follows.

Each case first makes the kernel cache what it knows, with names, attributes and pages, then
changes the source behind it.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import Grantfs, differences, tree, wait_until

from vfs.filesystem import CACHE_SECONDS
from vfs.source import RECHECK_NS

QUEUE = 16384
"""Events that the kernel's watch queue holds by default (`fs.inotify.max_queued_events`)."""


def test_what_is_believed_unseen_is_less_than_a_second_old() -> None:
    assert 0 < CACHE_SECONDS + RECHECK_NS / 1e9 < 1


def _replace(source: Path) -> None:
    (source / "new").write_text("another object\n")
    os.rename(source / "new", source / "README.md")


CHANGES: dict[str, Callable[[Path], object]] = {
    "grows": lambda s: (s / "README.md").open("a").write("four\n"),
    "same size": lambda s: (s / "README.md").write_bytes((s / "README.md").read_bytes().upper()),
    "truncated": lambda s: os.truncate(s / "README.md", 0),
    "replaced": _replace,
    "mode": lambda s: (s / "README.md").chmod(0o600),
    "times": lambda s: os.utime(s / "README.md", (1, 1)),
    "added": lambda s: (s / "src" / "added.txt").write_text("added\n"),
    "folder added": lambda s: (s / "src" / "more" / "deep").mkdir(parents=True),
    "removed": lambda s: (s / "README.md").unlink(),
    "folder removed": lambda s: shutil.rmtree(s / "src"),
    "renamed": lambda s: os.rename(s / "README.md", s / "src" / "moved"),
    "folder renamed": lambda s: os.rename(s / "src", s / "moved"),
    "file becomes folder": lambda s: ((s / "README.md").unlink(), (s / "README.md").mkdir()),
    "folder becomes file": lambda s: (shutil.rmtree(s / "src"), (s / "src").write_text("file\n")),
    "link elsewhere": lambda s: ((s / "ln").unlink(), (s / "ln").symlink_to("src")),
    "secret added": lambda s: (s / "src" / "key").write_text("password = 'hunter2-Hunter2'\n"),
}


def _shown(proj: Path, source: Path) -> list[str]:
    """In what the mount differs from its source, where nothing is masked."""
    try:
        found = tree(proj)
    except (FileNotFoundError, NotADirectoryError):
        return ["in between"]  # it changed while it was walked
    wanted = tree(source)
    for one in (found, wanted):
        one.pop(".env")
        if "src/key" in one:
            one["src/key"] = (one["src/key"][0], len(one["src/key"][1]))
    return differences(found, wanted)


@pytest.mark.parametrize("staged", [False, True], ids=["nothing staged", "staged beside it"])
def test_what_the_user_changes_shows(grantfs: Grantfs, source: Path, staged: bool) -> None:
    (source / "ln").symlink_to("README.md")
    sources = {how: source.parent / how.replace(" ", "-") for how in CHANGES}
    for each in sources.values():
        shutil.copytree(source, each, symlinks=True)
    mount = grantfs.up(*sources.values())
    for each in sources.values():
        proj = mount / each.name
        if staged:  # and nothing is left of it but the rows of folders
            for mine in (proj / "mine", proj / "src" / "mine"):
                mine.write_text("mine\n")
                mine.unlink()
        assert _shown(proj, each) == []
    for how, each in sources.items():
        CHANGES[how](each)
    for how, each in sources.items():
        proj = mount / each.name
        wait_until(lambda p=proj, s=each: _shown(p, s) == [], f"the mount shows it: {how}")
    assert b"hunter2" not in (mount / "secret-added" / "src" / "key").read_bytes()
    assert grantfs.status() == {}


def test_an_open_file_follows(grantfs: Grantfs, source: Path) -> None:
    (source / "log").write_text("one\n")
    proj = grantfs.up(source) / "proj"
    with (proj / "log").open("rb", buffering=0) as reader:
        assert reader.read() == b"one\n"
        with (source / "log").open("a") as writer:
            writer.write("two\n")
        wait_until(lambda: reader.read() == b"two\n", "what was appended is read")
        (source / "log").write_text("ONE\nTWO\n")
        wait_until(lambda: os.pread(reader.fileno(), 99, 0) == b"ONE\nTWO\n", "it is read anew")


@pytest.mark.parametrize("how", ["modified", "deleted", "replaced", "folder"])
def test_what_is_staged_stays_and_is_a_conflict(grantfs: Grantfs, source: Path, how: str) -> None:
    proj = grantfs.up(source) / "proj"
    with (proj / "README.md").open("a") as file:
        file.write("the agent's\n")
    mine = (proj / "README.md").read_bytes()
    if how == "modified":
        (source / "README.md").write_text("the user's\n")
    else:
        (source / "README.md").unlink()
    if how == "replaced":
        (source / "README.md").symlink_to("src/main.py")
    elif how == "folder":
        (source / "README.md").mkdir()
    (shown,) = grantfs.ask("status")["changes"]
    assert shown["conflict"]
    assert (proj / "README.md").read_bytes() == mine
    before = tree(source)
    done = grantfs.run("commit", "-y", "--json", code=3)
    assert json.loads(done.out)["conflicts"] == ["proj/README.md"]
    assert tree(source) == before
    assert (proj / "README.md").read_bytes() == mine


def test_more_changes_at_once_than_a_watch_queue_holds(grantfs: Grantfs, source: Path) -> None:
    for number in range(8):
        folder = source / f"d{number}"
        folder.mkdir()
        for index in range(50):
            (folder / f"f{index}").write_text("old\n")
    proj = grantfs.up(source) / "proj"
    subprocess.run(["grep", "-r", "old", proj], check=True, capture_output=True)
    # Touched, renamed away and back: far more events than files.
    for _ in range(QUEUE // 800):
        for number in range(8):
            for index in range(50):
                path = source / f"d{number}" / f"f{index}"
                os.utime(path)
                os.rename(path, f"{path}.x")
                os.rename(f"{path}.x", path)
    for number in range(8):
        (source / f"d{number}" / "f7").unlink()
        (source / f"d{number}" / "f8").write_text("new\n")
        (source / f"d{number}" / "late").write_text("late\n")
    wait_until(lambda: _shown(proj, source) == [], "all of it shows")


def test_without_a_single_watch_to_be_had(grantfs: Grantfs, source: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can take the watches away")
    limit = Path("/proc/sys/fs/inotify/max_user_watches")
    before = limit.read_text()
    try:
        limit.write_text("0")
        proj = grantfs.up(source) / "proj"
        assert _shown(proj, source) == []
        (source / "README.md").write_text("new\n")
        (source / "late").write_text("late\n")
        wait_until(lambda: _shown(proj, source) == [], "the mount shows the source")
    finally:
        limit.write_text(before)
