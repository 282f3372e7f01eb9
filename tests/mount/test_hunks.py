"""Choosing hunks: by id for programs, by keys on a terminal for people."""

import os
import pty
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from driving import ENV, PASSWORD, SCRIPT, TOKEN, Grantfs

LINES = [f"line {number}\n" for number in range(40)]


def edited(**changes: str) -> str:
    found = list(LINES)
    for number, text in changes.items():
        found[int(number.removeprefix("n"))] = text
    return "".join(found)


@pytest.fixture
def proj(grantfs: Grantfs, source: Path) -> Path:
    (source / "text").write_text("".join(LINES))
    (source / ".env").write_bytes(ENV)
    proj = grantfs.up(source) / "proj"
    (proj / "text").write_text(edited(n2="two\n", n20="twenty\n", n22="and two\n", n38="last\n"))
    return proj


def ids(grantfs: Grantfs, path: str) -> list[str]:
    (found,) = [one for one in grantfs.ask("diff") if one["path"] == path]
    return [hunk["id"] for hunk in found["hunks"]]


def test_hunks_land_by_id_and_the_rest_stays(grantfs: Grantfs, source: Path, proj: Path) -> None:
    first, _second, third = ids(grantfs, "proj/text")
    shown = (proj / "text").read_text()
    done = grantfs.ask("commit", "-y", "--hunk", first, "--hunk", third)
    assert done["applied"] == ["proj/text"]
    assert done["remaining"] == ["proj/text"]
    assert (source / "text").read_text() == edited(n2="two\n", n38="last\n")
    assert (proj / "text").read_text() == shown
    assert [one["conflict"] for one in grantfs.ask("status")["changes"]] == [False]
    landed = grantfs.run("show", done["commit"]).out.decode()
    assert "+two" in landed
    assert "+twenty" not in landed
    (left,) = ids(grantfs, "proj/text")
    assert grantfs.ask("commit", "-y", "--hunk", left)["remaining"] == []
    assert (source / "text").read_text() == shown
    grantfs.ask("undo")
    grantfs.ask("undo", done["commit"])
    assert (source / "text").read_text() == "".join(LINES)


def test_an_id_names_what_was_seen(grantfs: Grantfs, source: Path, proj: Path) -> None:
    first, _second, _third = ids(grantfs, "proj/text")
    (proj / "text").write_text(edited(n2="something else\n"))
    refused = grantfs.run("commit", "-y", "--hunk", first, code=3)
    assert "there is no hunk" in refused.error
    assert "there is no hunk" in grantfs.run("discard", "-y", "--hunk", first, code=3).error
    assert (source / "text").read_text() == "".join(LINES)


def test_hunks_of_a_masked_file(grantfs: Grantfs, source: Path, proj: Path) -> None:
    text = (proj / ".env").read_text()
    (proj / ".env").write_text("# new first line\n" + text.replace("PORT=8080", "PORT=9090"))
    status = {one["path"]: one for one in grantfs.ask("status")["changes"]}
    assert status["proj/.env"]["placeholders"] == 2
    parts = ids(grantfs, "proj/.env")
    assert len(parts) == 1  # close to each other: one hunk, of which a part is chosen below
    on_a_terminal(grantfs, ["commit", "-p", "proj/.env"], ["s", "n", "y"])
    now = (source / ".env").read_bytes()
    assert now == ENV.replace(b"8080", b"9090")
    assert TOKEN in now
    assert PASSWORD in now
    assert (proj / ".env").read_text().startswith("# new first line\n")
    assert grantfs.ask("commit", "-y", "proj/.env")["undecided"] == []
    assert (source / ".env").read_bytes() == b"# new first line\n" + now


def test_a_hunk_is_discarded(grantfs: Grantfs, source: Path, proj: Path) -> None:
    _first, second, _third = ids(grantfs, "proj/text")
    with open(proj / "text", "rb") as held:
        assert grantfs.ask("discard", "-y", "--hunk", second)["discarded"] == ["proj/text"]
        assert held.read().decode() == edited(n2="two\n", n38="last\n")
    assert (proj / "text").read_text() == edited(n2="two\n", n38="last\n")
    for left in ids(grantfs, "proj/text"):
        grantfs.ask("discard", "-y", "--hunk", left)
    assert grantfs.ask("status")["changes"] == []
    assert (proj / "text").read_text() == "".join(LINES)
    assert (source / "text").read_text() == "".join(LINES)


def test_new_and_moved_files_in_part(grantfs: Grantfs, source: Path, proj: Path) -> None:
    (proj / "text").rename(proj / "moved")
    first, *_rest = ids(grantfs, "proj/moved")
    done = grantfs.ask("commit", "-y", "--hunk", first)
    assert done["remaining"] == ["proj/moved"]
    assert (source / "moved").read_text() == edited(n2="two\n")
    assert not (source / "text").exists()
    (proj / "plain").write_text("a\nb\n")
    (one,) = ids(grantfs, "proj/plain")
    grantfs.ask("commit", "-y", "--hunk", one)
    assert (source / "plain").read_text() == "a\nb\n"


def on_a_terminal(
    grantfs: Grantfs, words: Sequence[str], answers: Sequence[str], **extra: str
) -> str:
    """Run a command on a terminal of its own and answer each of its questions; what it showed."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [SCRIPT, *words], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**grantfs.environment(), "TERM": "xterm", **extra}, cwd=grantfs.home.parent,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    left = list(answers)
    asked = 0
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        assert ready, f"nothing more came: {shown!r}"
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
        while shown.count(b"]? ") > asked:
            asked += 1
            assert left, f"one more question than answers: {shown!r}"
            os.write(ours, left.pop(0).encode() + b"\n")
    os.close(ours)
    assert child.wait(60) == 0, shown
    assert left == [], shown
    return shown.decode()


def test_the_keys(grantfs: Grantfs, source: Path, proj: Path) -> None:
    (proj / "binary").write_bytes(b"\0\1")
    (proj / "evil").write_bytes(b"\x1b]0;title\x07\n")
    answers = ["n", "?", "y", "n", "s", "y", "n", "d"]
    # .env is unchanged: binary (no), evil (help, yes), text: no, split, yes, no, and none after
    shown = on_a_terminal(grantfs, ["commit", "-p", "-m", "some"], answers)
    assert "(1/3) Commit this hunk [y,n,q,a,d,e,?]?" in shown
    assert "[y,n,q,a,d,s,e,?]" in shown
    assert "Split into 2 hunks." in shown
    assert "y - commit this hunk" in shown
    assert "\x1b]0;" not in shown  # the agent's bytes never reach the terminal raw
    assert (source / "text").read_text() == edited(n20="twenty\n")
    assert (source / "evil").read_bytes() == b"\x1b]0;title\x07\n"
    assert not (source / "binary").exists()
    shown = on_a_terminal(grantfs, ["commit", "-p"], ["y", "a"])
    assert (source / "binary").exists()
    assert (source / "text").read_text() == (proj / "text").read_text()
    assert grantfs.ask("status")["changes"] == []


def test_quitting_commits_what_was_chosen(grantfs: Grantfs, source: Path, proj: Path) -> None:
    on_a_terminal(grantfs, ["commit", "-p"], ["y", "q"])
    assert (source / "text").read_text() == edited(n2="two\n")
    shown = on_a_terminal(grantfs, ["commit", "-p"], ["q"])
    assert "nothing was chosen" in shown
    assert len(grantfs.ask("log")) == 1
    assert "nobody is here" in grantfs.run("commit", "-p", code=2).error


def test_a_hunk_is_edited_first(grantfs: Grantfs, source: Path, proj: Path, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\nsed -i 's/^+two$/+two, as I say it/' \"$1\"\n")
    editor.chmod(0o755)
    on_a_terminal(grantfs, ["commit", "-p"], ["e", "n", "n"], EDITOR=str(editor), VISUAL="")
    assert (source / "text").read_text() == edited(n2="two, as I say it\n")
    assert "two\n" in (proj / "text").read_text()  # the agent's version stays staged
    editor.write_text("#!/bin/sh\nsed -i 's/^ line/ lime/' \"$1\"\n")
    shown = on_a_terminal(grantfs, ["commit", "-p"], ["e", "q"], EDITOR=str(editor), VISUAL="")
    assert "does not fit the file any more" in shown
