"""Build output and dependency trees are grouped, and committed by name or with `--all` alone."""

import subprocess
from pathlib import Path

from driving import Grantfs

from gateway.review.ignored import IgnoreRules


def rules(files: dict[bytes, str]) -> IgnoreRules:
    return IgnoreRules(lambda folder: files[folder].encode() if folder in files else None)


def test_which_trees(tmp_path: Path) -> None:
    # git itself is asked the same.
    files = {
        b"": "node_modules/\n*.log\n/build\ntarget\n!sub/target\n[bad\nä/\n",
        b"sub": "__pycache__/\n!node_modules\n",
        b"env": "*\n",
        b"deep/er": "/here/\n",
    }
    found = rules(files)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for folder, text in files.items():
        where = tmp_path / folder.decode()
        where.mkdir(parents=True, exist_ok=True)
        (where / ".gitignore").write_text(text)
    for place in (
        "node_modules/a", "x/node_modules/b/c", "sub/node_modules/x", "build/x", "sub/build/x",
        "target/x", "sub/target/y", "other/target/z", "sub/__pycache__/a.pyc", "__pycache__/a",
        "env/bin/python", "deep/er/here/x", "deep/here/x", "src/a", "ä/x", "logs/a",
    ):  # fmt: skip
        ignored = subprocess.run(
            ["git", "-C", tmp_path, "check-ignore", "-q", "--no-index", place], check=False
        )
        assert (found.tree(place.encode()) is not None) == (ignored.returncode == 0), place
    assert found.tree(b"node_modules/a/b") == b"node_modules"
    assert found.tree(b"x.log") is None  # a single file is committed
    assert found.tree(b"/".join([b"d"] * 5000)) is None
    assert rules({b"": "a*" * 50 + "b\n"}).tree(b"a" * 200 + b"/x") is None


def test_it_stays_unless_named(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    (proj / ".gitignore").write_bytes(b"node_modules/\n.env\n")
    (proj / "node_modules" / "left").mkdir(parents=True)
    for number in range(20):
        (proj / "node_modules" / "left" / f"m{number}.js").write_bytes(b"x")
    (proj / "node_modules" / "run.sh").write_bytes(b"x")
    (proj / "node_modules" / "run.sh").chmod(0o755)
    (proj / ".env").write_bytes(b"PORT=1\n")
    (proj / "a.py").write_bytes(b"x")
    status = grantfs.run("status").out.decode()
    assert "proj/node_modules/  21 change(s) that .gitignore leaves out" in status
    assert "executable 1" in status
    assert "m7.js" not in status
    changes = {one["path"]: one["left_out"] for one in grantfs.ask("status")["changes"]}
    assert changes["proj/node_modules/run.sh"] == "proj/node_modules"
    assert changes["proj/.env"] is None
    assert len(changes) == 24

    done = grantfs.ask("commit", "-y")
    assert sorted(done["applied"]) == ["proj/.env", "proj/.gitignore", "proj/a.py"]
    assert len(done["remaining"]) == 21
    assert not (source / "node_modules").exists()
    (proj / "b.py").write_bytes(b"x")
    grantfs.ask("commit", "-y", "proj/node_modules/left")
    assert len(list((source / "node_modules" / "left").iterdir())) == 20
    assert not (source / "node_modules" / "run.sh").exists()
    assert grantfs.ask("commit", "-y", "--all")["remaining"] == []
    assert (source / "node_modules" / "run.sh").exists()
    assert (source / "b.py").exists()
