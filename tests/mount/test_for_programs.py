"""What other programs take: `status --short`, `--porcelain -z`, `export`, answers in parts."""

import os
import shutil
import sqlite3
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from driving import ENV, PASSWORD, TOKEN, Grantfs
from test_hunks import on_a_terminal

from gateway.control.client import call
from gateway.places import Places


def git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
        check=True, stdout=subprocess.PIPE,
    ).stdout  # fmt: skip


@pytest.fixture
def proj(grantfs: Grantfs, source: Path) -> Path:
    """A mount with a change of every kind."""
    (source / "a file").write_bytes(b"a\nb\n")
    (source / "old").write_bytes(b"of this name\n")
    (source / "gone").write_bytes(b"bye\n")
    (source / "kind").write_bytes(b"a file\n")
    (source / "run.sh").write_bytes(b"#!/bin/sh\n")
    (source / "pointer").symlink_to("gone")
    (source / ".env").write_bytes(ENV)
    shutil.copytree(source, source.parent / "before", symlinks=True)
    proj = grantfs.up(source, "--subject", "tester") / "proj"
    (proj / "a file").write_bytes(b"a\nb\nc\n")
    (proj / "old").rename(proj / "new -> name")
    (proj / "gone").unlink()
    (proj / "kind").unlink()
    (proj / "kind").symlink_to("a file")
    (proj / "run.sh").chmod(0o755)
    (proj / "pointer").unlink()
    (proj / "pointer").symlink_to("run.sh")
    (proj / "deep" / "er").mkdir(parents=True)
    (proj / "deep" / "er" / "bin").write_bytes(bytes(range(256)))
    Path(os.fsdecode(os.fsencode(proj) + b"/no\xffutf\n\"q'")).write_bytes(b"x")
    with (proj / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    return proj


def staged_in_git(source: Path, proj: Path) -> Path:
    """A repository that has in its index what the mount shows, over the source's old tree."""
    repository = source.parent / "repository"
    repository.mkdir()
    shutil.copytree(source.parent / "before", repository / "proj", symlinks=True)
    # What is masked is no change.
    (repository / "proj" / ".env").write_bytes((proj / ".env").read_bytes()[: len(ENV)])
    git(repository, "init", "-q")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "before")
    shutil.rmtree(repository / "proj")
    shutil.copytree(proj, repository / "proj", symlinks=True)
    git(repository, "add", "-A")
    return repository


@pytest.mark.parametrize("form", [["--short"], ["--porcelain"], ["-z"], ["--porcelain", "-z"]])
def test_status_is_that_of_git(grantfs: Grantfs, source: Path, proj: Path, form: list[str]) -> None:
    repository = staged_in_git(source, proj)
    theirs = git(repository, "status", *form)
    ours = grantfs.run("status", *form).out
    assert len(ours) > 100
    if "-z" in form:
        assert sorted(ours.split(b"\0")) == sorted(theirs.split(b"\0"))
    else:
        assert sorted(ours.splitlines()) == sorted(theirs.splitlines())


def test_a_conflict_is_unmerged(grantfs: Grantfs, source: Path, proj: Path) -> None:
    (source / "a file").write_bytes(b"the user's\n")
    assert b"UU proj/a file\0" in grantfs.run("status", "-z").out
    assert grantfs.run("status", "-z", "proj/run.sh").out == b"M  proj/run.sh\0"
    found = grantfs.ask("status", "--porcelain", "proj/run.sh")
    assert [one["path"] for one in found["changes"]] == ["proj/run.sh"]


def test_a_tar_over_the_old_tree_is_the_mount(grantfs: Grantfs, source: Path, proj: Path) -> None:
    target = source.parent / "stage.tar"
    made = grantfs.ask("export", "--format", "tar", "-o", target)
    assert made == {"output": str(target), "format": "tar", "size": target.stat().st_size}
    assert target.stat().st_mode & 0o777 == 0o600
    assert grantfs.run("export", "--format", "tar").out == target.read_bytes()
    looked = [one["detail"]["changes"] for one in grantfs.events("--event", "review")]
    assert looked == [len(grantfs.status())] * 2
    assert TOKEN not in target.read_bytes()
    assert PASSWORD not in target.read_bytes()
    tree = source.parent / "unpacked"
    tree.mkdir()
    shutil.copytree(source.parent / "before", tree / "proj", symlinks=True)
    with tarfile.open(target, errors="surrogateescape") as tar:
        names = tar.getnames()
    gone = [name for name in names if "/.wh." in name]
    assert gone == ["proj/.wh.gone", "proj/.wh.old"]
    for name in gone:
        (tree / name.replace(".wh.", "")).unlink()
    subprocess.run(["tar", "-C", tree, "--exclude=.wh.*", "-xf", target], check=True)
    assert listing(tree / "proj") == listing(proj)


def listing(top: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(top))] = os.readlink(path)
        elif path.is_file():
            found[str(path.relative_to(top))] = path.read_bytes(), path.stat().st_mode
    return found


def test_a_patch_is_taken_by_git(grantfs: Grantfs, source: Path, proj: Path) -> None:
    target = source.parent / "stage.patch"
    grantfs.run("export", "-o", target)
    assert grantfs.run("diff", "--binary").out == target.read_bytes()
    tree = source.parent / "patched"
    tree.mkdir()
    shutil.copytree(source.parent / "before", tree / "proj", symlinks=True)
    masked = (proj / ".env").read_bytes()
    (tree / "proj" / ".env").write_bytes(masked[: len(ENV)])
    git(tree, "init", "-q")
    git(tree, "apply", str(target))
    assert listing(tree / "proj") == listing(proj)


def test_an_export_is_whole_or_not_there(grantfs: Grantfs, source: Path, proj: Path) -> None:
    target = source.parent / "stage.tar"
    target.write_bytes(b"mine")
    before = sorted(source.parent.iterdir())
    grantfs.run("export", "--format", "tar", "-o", target, "proj/nothing", "/elsewhere", code=5)
    assert target.read_bytes() == b"mine"
    assert sorted(source.parent.iterdir()) == before
    (proj / ".wh.run.sh").write_bytes(b"")  # the agent's: unpacked, it would remove run.sh
    refused = grantfs.run("export", "--format", "tar", "-o", target, code=1)
    assert "proj/.wh.run.sh: a tar of this form cannot hold the name" in refused.error
    assert target.read_bytes() == b"mine"
    grantfs.run("discard", "-y", "proj/.wh.run.sh")
    failed = grantfs.run("export", "-o", source.parent / "no" / "folder", code=1)
    assert "cannot be written" in failed.error
    assert "name a file with -o" in grantfs.run("export", "--json", code=2).error
    shown = grantfs.run("export", "proj/run.sh").out.decode()
    assert "new mode 100755" in shown
    assert "a file" not in shown


def test_a_large_diff_comes_in_parts(
    grantfs: Grantfs, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proj = grantfs.up(source) / "proj"
    for number in range(100):
        (proj / f"f{number:02}").write_bytes(b"new\n")
    monkeypatch.setenv("GRANTFS_HOME", str(grantfs.home))
    places = Places.from_environment()
    (name,) = places.names()
    parts: list[Any] = []
    reply = call(places.socket(name), name, "diff", paths=[], take=parts.append)
    assert reply.result == {}
    assert len(parts) > 1
    assert sum(len(part["files"]) for part in parts) == 100
    assert "".join(part["patch"] for part in parts).count("diff --git") == 100
    # A reader that has seen enough ends neither the daemon nor its log.
    shown = on_a_terminal(grantfs, ["diff"], [], GIT_PAGER="head -n 3")
    assert shown.count("\n") == 3
    assert len(grantfs.ask("diff")) == 100


def test_a_commit_says_on_whose_behalf(grantfs: Grantfs, source: Path, proj: Path) -> None:
    (grant,) = grantfs.ask("grants")
    done = grantfs.ask("commit", "-y", "-m", "why")
    (one,) = grantfs.ask("log")
    assert (one["subject"], one["grants"]) == ("tester", [grant["id"]])
    assert "tester  why" in grantfs.run("log").out.decode()
    shown = grantfs.run("show", done["commit"]).out.decode()
    assert f"Subject: tester ({grant['id']})" in shown
    grantfs.ask("undo")
    assert grantfs.ask("log")[0]["grants"] == []


def test_commits_of_the_format_before_are_kept(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    (proj / "one").write_bytes(b"1\n")
    first = grantfs.ask("commit", "-y")["commit"]
    grantfs.run("down")
    (found,) = grantfs.home.rglob("commits.db")
    with sqlite3.connect(found) as db:
        db.execute("ALTER TABLE commits DROP COLUMN grants")
        db.execute("PRAGMA user_version = 2")
    db.close()
    grantfs.up()
    assert [(one["commit"], one["subject"]) for one in grantfs.ask("log")] == [(first, None)]
    assert grantfs.ask("undo")["undone"] == first
    assert not (source / "one").exists()
