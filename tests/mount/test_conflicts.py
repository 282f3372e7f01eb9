"""A source that changed under a staged change: refused, merged, or overwritten with a way back."""

import os
import subprocess
from pathlib import Path

import pytest
from driving import ENV, PASSWORD, TOKEN, Grantfs, tree

TEXT = [f"line {number}\n" for number in range(30)]


def text(**changes: str) -> str:
    found = list(TEXT)
    for number, line in changes.items():
        found[int(number.removeprefix("n"))] = line
    return "".join(found)


@pytest.fixture
def proj(grantfs: Grantfs, source: Path) -> Path:
    (source / "text").write_text(text())
    (source / ".env").write_bytes(ENV)
    (source / "gone").write_bytes(b"x\n")
    return grantfs.up(source) / "proj"


def test_a_merge_is_that_of_git(grantfs: Grantfs, source: Path, proj: Path, tmp_path: Path) -> None:
    (proj / "text").write_text(text(n3="agent\n", n9="both\n"))
    (source / "text").write_text(text(n25="user\n", n9="both\n"))
    for name, content in (
        ("ours", text(n25="user\n", n9="both\n")), ("base", text()),
        ("theirs", text(n3="agent\n", n9="both\n")),
    ):  # fmt: skip
        (tmp_path / name).write_text(content)
    refused = grantfs.run("commit", "-y", code=3)
    assert "proj/text stays staged: the source changed" in refused.err
    done = grantfs.ask("commit", "-y", "--merge")
    assert done["merged"] == ["proj/text"]
    merged = subprocess.run(
        ["git", "merge-file", "-p", "ours", "base", "theirs"], cwd=tmp_path, check=True,
        capture_output=True,
    ).stdout  # fmt: skip
    assert (source / "text").read_bytes() == merged
    assert (proj / "text").read_bytes() == merged
    assert grantfs.ask("status")["changes"] == []
    grantfs.ask("undo")
    assert (source / "text").read_text() == text(n25="user\n", n9="both\n")


def test_a_merge_of_masked_text_restores(grantfs: Grantfs, source: Path, proj: Path) -> None:
    (proj / ".env").write_bytes(b"FIRST=1\n" + (proj / ".env").read_bytes())
    (source / ".env").write_bytes(ENV + b"LAST=2\n")
    assert grantfs.ask("commit", "-y", "--merge")["merged"] == ["proj/.env"]
    assert (source / ".env").read_bytes() == b"FIRST=1\n" + ENV + b"LAST=2\n"
    # A secret that the user has changed meanwhile is taken as it is now.
    (proj / ".env").write_bytes((proj / ".env").read_bytes().replace(b"LAST=2", b"LAST=3"))
    rotated = (source / ".env").read_bytes().replace(PASSWORD, b"Another-Horse8-staple")
    (source / ".env").write_bytes(rotated)
    assert grantfs.ask("commit", "-y", "--merge")["undecided"] == []
    assert (source / ".env").read_bytes() == rotated.replace(b"LAST=2", b"LAST=3")
    assert TOKEN in (source / ".env").read_bytes()


def test_what_cannot_be_merged_stays(grantfs: Grantfs, source: Path, proj: Path) -> None:
    (proj / "text").write_text(text(n3="agent\n"))
    (proj / "gone").unlink()
    (proj / "binary").write_bytes(b"\0\1")
    (source / "text").write_text(text(n3="user\n"))
    (source / "gone").write_bytes(b"y\n")
    (source / "binary").write_bytes(b"\0\2")
    done = grantfs.run("commit", "-y", "--merge", "--json", code=3)
    assert sorted(done.json["conflicts"]) == ["proj/binary", "proj/gone", "proj/text"]
    assert "a merge has 1 conflict(s)" in done.err
    assert (source / "text").read_text() == text(n3="user\n")
    assert (proj / "text").read_text() == text(n3="agent\n")
    assert (source / "gone").read_bytes() == b"y\n"
    assert (source / "binary").read_bytes() == b"\0\2"


def test_overwriting_says_what_goes_and_can_be_undone(
    grantfs: Grantfs, source: Path, proj: Path
) -> None:
    (proj / "text").write_text(text(n3="agent\n"))
    (proj / "gone").unlink()
    (proj / "new").write_bytes(b"the agent's\n")
    (proj / ".env").write_bytes((proj / ".env").read_bytes() + b"MORE=1\n")
    (proj / "README.md").write_bytes(b"the agent's\n")
    (source / "text").write_text(text(n3="user\n"))
    (source / "text").chmod(0o600)
    (source / "gone").write_bytes(b"y\n")
    (source / "new").write_bytes(b"the user's\n")
    (source / "README.md").unlink()
    (source / ".env").unlink()
    before = tree(source)
    done = grantfs.run("commit", "-y", "--force-overwrite", "--json", code=3)
    # With their file went the secrets that its placeholders stand for.
    assert done.json["undecided"] == ["proj/.env"]
    assert sorted(done.json["overwritten"]) == [
        "proj/README.md", "proj/gone", "proj/new", "proj/text",
    ]  # fmt: skip
    assert "what the source had got in proj/text is overwritten" in done.err
    assert (source / "text").read_text() == text(n3="agent\n")
    assert not (source / "gone").exists()
    assert (source / "new").read_bytes() == b"the agent's\n"
    grantfs.ask("discard", "-y")
    grantfs.ask("undo")
    assert tree(source) == before
    assert sorted(os.listdir(proj)) == sorted(os.listdir(source))


def test_a_folder_in_the_way_is_not_overwritten(grantfs: Grantfs, source: Path, proj: Path) -> None:
    (proj / "new").write_bytes(b"the agent's\n")
    (source / "new").mkdir()
    (source / "new" / "users").write_bytes(b"mine\n")
    done = grantfs.run("commit", "-y", "--force-overwrite", "--json", code=None)
    assert done.code in (1, 3)
    assert (source / "new" / "users").read_bytes() == b"mine\n"
    assert [one["path"] for one in grantfs.ask("status")["changes"]] == ["proj/new"]
    assert "take one of them" in grantfs.run(
        "commit", "-y", "--merge", "--force-overwrite", code=2
    ).error  # fmt: skip
