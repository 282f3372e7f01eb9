"""`diff` and `show` as a person sees them: coloured, paged, and with nothing that acts on the
terminal."""

import os
from pathlib import Path

import pytest
from driving import ENV, PASSWORD, TOKEN, Grantfs
from test_hunks import on_a_terminal

HOSTILE = "\x1b]0;owned\x07\x1b[2J\rfake\u202e\u200b\n"


@pytest.fixture
def proj(grantfs: Grantfs, source: Path) -> Path:
    (source / "text").write_bytes(b"old\n")
    (source / ".env").write_bytes(ENV)
    proj = grantfs.up(source) / "proj"
    (proj / "text").write_text("new\n" + HOSTILE)
    with (proj / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    (proj / "na\x1bme").write_bytes(b"x\n")
    return proj


def test_colour_where_it_is_welcome(grantfs: Grantfs, proj: Path) -> None:
    shown = on_a_terminal(grantfs, ["diff"], [], GIT_PAGER="cat")
    assert "\x1b[32m+new\x1b[0m" in shown
    assert "\x1b[31m-old\x1b[0m" in shown
    assert "\x1b[36m@@ -1 +1,2 @@" in shown
    for words, extra in ((["diff", "--no-color"], {}), (["diff"], {"NO_COLOR": "1"})):
        plain = on_a_terminal(grantfs, words, [], GIT_PAGER="cat", **extra)
        assert "\x1b" not in plain
        assert "+new" in plain
    assert b"\x1b[32m" not in grantfs.run("diff").out


def test_nothing_of_the_agent_acts_on_the_terminal(grantfs: Grantfs, proj: Path) -> None:
    for words in (["diff"], ["diff", "--stat"], ["diff", "--name-only"], ["status"]):
        shown = on_a_terminal(grantfs, [*words, "--no-color"], [], GIT_PAGER="cat")
        assert not set(shown) & set("\x1b\x07\u202e\u200b"), words
        assert "fake" not in [line.strip() for line in shown.split("\r")], words
        assert TOKEN.decode() not in shown
        assert PASSWORD.decode() not in shown
    shown = on_a_terminal(grantfs, ["diff", "--no-color"], [], GIT_PAGER="cat")
    assert "\\x1b]0;owned\\x07" in shown
    assert "\\u202e\\u200b" in shown
    # A program gets the bytes as they are.
    assert HOSTILE.encode() in grantfs.run("diff").out


def test_the_pager_is_the_users(grantfs: Grantfs, proj: Path) -> None:
    kept = grantfs.home.parent / "paged"
    pagers = {"GIT_PAGER": f"tee {kept}", "PAGER": "false"}
    assert "+new" in on_a_terminal(grantfs, ["diff"], [], **pagers)
    assert b"+new" in kept.read_bytes()
    kept.unlink()
    on_a_terminal(grantfs, ["diff"], [], GIT_PAGER="", PAGER=f"tee {kept}")
    assert b"+new" in kept.read_bytes()
    # One that is not there, or that ends at once, is no failure.
    assert "+new" in on_a_terminal(grantfs, ["diff"], [], GIT_PAGER=f"{os.devnull}/none")
    on_a_terminal(grantfs, ["diff"], [], GIT_PAGER="true")
    done = grantfs.ask("commit", "-y")
    shown = on_a_terminal(grantfs, ["show", done["commit"], "--no-color"], [], GIT_PAGER="cat")
    assert "+new" in shown
    assert "\x1b" not in shown
