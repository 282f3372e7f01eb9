"""The same workspace through mfusepy, the adapter that serves WinFsp on Windows."""

import os
from pathlib import Path

from driving import ENV, TOKEN, Grantfs, error_of


def test_read_write_review_commit_revoke(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(source, "--adapter", "mfusepy", "--name", "w")
    proj = mount / "proj"
    shown = (proj / ".env").read_bytes()
    assert TOKEN not in shown
    assert len(shown) == len(ENV)
    with (proj / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    (proj / "new").write_text("new\n")
    os.rename(proj / "src" / "main.py", proj / "moved.py")
    assert grantfs.status() == {
        "proj/.env": "modified", "proj/moved.py": "renamed", "proj/new": "added",
    }  # fmt: skip
    assert (source / ".env").read_bytes() == ENV
    assert grantfs.ask("commit", "-y")["remaining"] == []
    assert (source / ".env").read_bytes() == ENV + b"MORE=1\n"
    assert (source / "moved.py").exists()
    with (proj / "README.md").open("rb") as opened:
        grantfs.run("revoke", "--all")
        assert error_of(lambda: opened.read()) in ("ESTALE", "EACCES")
    assert sorted(os.listdir(mount)) == [".grantfs"]
    grantfs.run("down")
    # The choice of adapter belongs to the workspace: it comes back with it.
    grantfs.up()
    events = [one for one in grantfs.events() if one["event"] == "workspace.up"]
    assert [one["detail"]["adapter"] for one in events] == ["mfusepy", "mfusepy"]
