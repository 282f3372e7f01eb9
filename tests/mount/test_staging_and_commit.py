"""Writing stages, committing lands it with secrets put back (promises 4, 5 and 6)."""

import ctypes
import ctypes.util
import mmap
import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from driving import ENV, PASSWORD, TOKEN, Grantfs, error_of, tree

NEW_TOKEN = b"ghp_" + b"9xQ7e42F292c6912E7710c838347Ae178ZzZz"


def sh(script: str, cwd: Path) -> None:
    subprocess.run(["sh", "-ec", script], cwd=cwd, check=True, capture_output=True)


def test_nothing_that_the_agent_does_touches_the_source(grantfs: Grantfs, source: Path) -> None:
    (source / "old").mkdir()
    (source / "old" / "a").write_text("a\n")
    os.link(source / "README.md", source / "hard")
    before = tree(source, identity=True)
    proj = grantfs.up(source) / "proj"
    sh(
        """
        echo more >> README.md; echo new > new.txt; mkdir -p deep/er; echo x > deep/er/x
        chmod 600 src/main.py; touch -d 2001-01-01 src/tool.sh; truncate -s 3 hard
        mv old young; rm young/a; rmdir young; ln -s README.md l2; ln src/main.py l3
        rm link; cp .env copy.env; sed -i s/8080/1/ .env; mkfifo pipe && rm pipe
        """,
        proj,
    )
    with (proj / "new.txt").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0:3] = b"MAP"
    os.setxattr(proj / "new.txt", "user.note", b"1")
    os.utime(proj / "src")
    os.chmod(proj, 0o700)
    assert tree(source, identity=True) == before
    assert grantfs.status()["proj/README.md"] == "modified"
    grantfs.run("down")
    assert tree(source, identity=True) == before
    grantfs.up()
    assert (proj / "new.txt").read_text() == "MAP\n"
    grantfs.run("discard", "-y")
    assert tree(source, identity=True) == before
    assert grantfs.status() == {}
    shown = tree(proj)
    assert set(shown) == set(tree(source))
    assert {name: one[0] for name, one in shown.items() if name != "."} == {
        name: one[0] for name, one in tree(source).items() if name != "."
    }


def test_kinds_of_changes_in_review_and_on_commit(grantfs: Grantfs, source: Path) -> None:
    (source / "a.txt").write_text("".join(f"line {n}\n" for n in range(20)))
    (source / "gone.txt").write_text("gone\n")
    proj = grantfs.up(source) / "proj"
    sh(
        "echo more >> README.md; echo new > new.txt; rm gone.txt; mv a.txt b.txt;"
        " chmod 755 src/main.py; ln -sfn README.md link; mkdir -p d/e; echo x > d/e/f",
        proj,
    )
    assert grantfs.status() == {
        "proj/README.md": "modified",
        "proj/b.txt": "renamed",
        "proj/d/e/f": "added",
        "proj/gone.txt": "deleted",
        "proj/link": "symlink",
        "proj/new.txt": "added",
        "proj/src/main.py": "mode",
    }
    patch = grantfs.run("diff").out
    # A copy of the source under the name that it has in the mount takes the patch.
    copy = grantfs.home.parent / "copy"
    subprocess.run(["mkdir", copy], check=True)
    subprocess.run(["cp", "-a", source, copy / "proj"], check=True)
    apply = ["git", "apply", "--unsafe-paths", "--whitespace=nowarn", "-"]
    subprocess.run([*apply[:2], "--check", *apply[2:]], input=patch, cwd=copy, check=True)
    subprocess.run(apply, input=patch, cwd=copy, check=True)
    wanted = tree(proj)
    done = grantfs.ask("commit", "-y", "-m", "all kinds")
    assert done["remaining"] == done["conflicts"] == done["undecided"] == []
    landed = tree(source)
    assert {name: one for name, one in landed.items() if name not in (".", ".env")} == {
        name: one for name, one in wanted.items() if name not in (".", ".env")
    }
    applied = tree(copy / "proj")
    assert {name: one[1] for name, one in landed.items()} == {
        name: one[1] for name, one in applied.items()
    }
    assert (source / ".env").read_bytes() == ENV
    assert grantfs.status() == {}
    assert tree(proj) == wanted
    assert grantfs.ask("log")[0]["message"] == "all kinds"


EDITS = {
    "sed -i": "sed -i s/8080/9090/ .env",
    "atomic save": "sed s/8080/9090/ .env > .env.tmp; mv .env.tmp .env",
    "save with backup": "cp .env .env~; sed s/8080/9090/ .env~ > .env; rm .env~",
    "rename away and write anew": "mv .env b; sed s/8080/9090/ b > .env; rm b",
    "truncate and rewrite": 'x=$(cat .env); printf "%s\\n" "$x" | sed s/8080/9090/ > .env',
    "delete and write anew": 'x=$(cat .env); rm .env; echo "$x" | sed s/8080/9090/ > .env',
    "reordered": "(tail -n 2 .env | sed s/8080/9090/; head -n 2 .env) > n; mv n .env",
}


@pytest.mark.parametrize("how", EDITS)
def test_secrets_are_back_byte_for_byte_after(grantfs: Grantfs, source: Path, how: str) -> None:
    proj = grantfs.up(source) / "proj"
    sh(EDITS[how], proj)
    assert TOKEN not in (proj / ".env").read_bytes()
    (change,) = grantfs.ask("status")["changes"]
    assert (change["path"], change["kind"], change["placeholders"]) == ("proj/.env", "modified", 2)
    done = grantfs.ask("commit", "-y")
    assert done["applied"] == ["proj/.env"]
    lines = ENV.replace(b"8080", b"9090").splitlines(keepends=True)
    wanted = lines[2:] + lines[:2] if how == "reordered" else lines
    assert (source / ".env").read_bytes() == b"".join(wanted)
    # What landed is masked again, and the same secrets look the same.
    assert TOKEN not in (proj / ".env").read_bytes()
    assert (source / ".env").stat().st_mode & 0o777 == (proj / ".env").stat().st_mode & 0o777


def test_append_and_rename_put_secrets_back(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    with (proj / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    os.rename(proj / ".env", proj / "settings.env")
    done = grantfs.ask("commit", "-y")
    assert done["undecided"] == []
    assert (source / "settings.env").read_bytes() == ENV + b"MORE=1\n"
    assert not (source / ".env").exists()


def _placeholder(proj: Path) -> bytes:
    return (proj / ".env").read_bytes().splitlines()[1].partition(b"=")[2]


def test_a_forged_or_carried_placeholder_waits_and_the_rest_lands(
    grantfs: Grantfs, source: Path
) -> None:
    before = tree(source)
    proj = grantfs.up(source) / "proj"
    real = _placeholder(proj)
    forged = real[:-6] + b"ABCDEF"
    (proj / ".env").write_bytes((proj / ".env").read_bytes().replace(real, forged))
    (proj / "carried.txt").write_bytes(b"GITHUB_TOKEN=" + real + b"\n")
    with (proj / "README.md").open("a") as file:
        file.write("four\n")
    done = grantfs.run("commit", "-y", "--json", code=3)
    assert done.json["applied"] == ["proj/README.md"]
    assert sorted(done.json["undecided"]) == ["proj/.env", "proj/carried.txt"]
    assert all(line.startswith("grantfs: ") for line in done.err.splitlines())
    assert (source / "README.md").read_text().endswith("three\nfour\n")
    assert tree(source)[".env"] == before[".env"]
    assert "carried.txt" not in tree(source)
    assert sorted(grantfs.status()) == ["proj/.env", "proj/carried.txt"]
    grantfs.run("commit", "-y", "--placeholders", "keep", code=2)
    done = grantfs.ask("commit", "-y", "--placeholders", "keep", "proj/carried.txt")
    assert (source / "carried.txt").read_bytes() == b"GITHUB_TOKEN=" + real + b"\n"
    assert done["remaining"] == ["proj/.env"]


def test_a_secret_that_the_agent_replaced_lands_as_the_agent_wrote_it(
    grantfs: Grantfs, source: Path
) -> None:
    proj = grantfs.up(source) / "proj"
    real = _placeholder(proj)
    edited = (proj / ".env").read_bytes().replace(real, NEW_TOKEN)
    (proj / ".env").write_bytes(edited)
    assert (proj / ".env").read_bytes() == edited  # never masked within the agent's own sight
    grantfs.ask("commit", "-y")
    assert (source / ".env").read_bytes() == ENV.replace(TOKEN, NEW_TOKEN)
    assert PASSWORD in (source / ".env").read_bytes()
    assert NEW_TOKEN not in (proj / ".env").read_bytes()


def test_a_changed_source_is_a_conflict_and_never_overwritten(
    grantfs: Grantfs, source: Path
) -> None:
    proj = grantfs.up(source) / "proj"
    (proj / "README.md").write_text("agent\n")
    (proj / "src" / "main.py").unlink()
    (proj / "both.txt").write_text("agent\n")
    (proj / "fine.txt").write_text("fine\n")
    (source / "README.md").write_text("user\n")
    (source / "src" / "main.py").write_text("user\n")
    (source / "both.txt").write_text("user\n")
    shown = {one["path"]: one["conflict"] for one in grantfs.ask("status")["changes"]}
    assert shown == {
        "proj/README.md": True,
        "proj/both.txt": True,
        "proj/fine.txt": False,
        "proj/src/main.py": True,
    }
    done = grantfs.run("commit", "-y", "--json", code=3).json
    assert done["applied"] == ["proj/fine.txt"]
    assert sorted(done["conflicts"]) == ["proj/README.md", "proj/both.txt", "proj/src/main.py"]
    for name in ("README.md", "src/main.py", "both.txt"):
        assert (source / name).read_text() == "user\n"
    assert (proj / "README.md").read_text() == "agent\n"
    # The user's way out: drop the agent's version, the source shows again.
    grantfs.run("discard", "-y", "proj/README.md")
    assert (proj / "README.md").read_text() == "user\n"


def test_a_commit_for_another_digest_lands_nothing(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    (proj / "README.md").write_text("agent\n")
    seen = grantfs.ask("status")["digest"]
    (proj / "late.txt").write_text("late\n")
    before = tree(source, identity=True)
    done = grantfs.run("commit", "-y", "--digest", seen, code=3)
    assert "moved on" in done.error
    assert tree(source, identity=True) == before
    assert grantfs.ask("log") == []
    grantfs.ask("commit", "-y", "--digest", grantfs.ask("status")["digest"])
    assert (source / "late.txt").read_text() == "late\n"


def test_a_commit_of_nothing_makes_no_entry(grantfs: Grantfs, source: Path) -> None:
    grantfs.up(source)
    assert grantfs.ask("commit", "-y")["commit"] is None
    assert grantfs.ask("log") == []


def test_paths_choose_what_is_committed_and_discarded(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    sh("for n in one two three; do echo $n > $n; done", proj)
    sh("mv README.md READ.me; echo 5 >> src/main.py", proj)
    # A host path, one under the mount, one relative to the mount's root, one side of a rename.
    done = grantfs.ask("commit", "-y", source / "one", proj / "two", "proj/README.md")
    assert sorted(done["applied"]) == ["proj/READ.me", "proj/one", "proj/two"]
    assert sorted(done["remaining"]) == ["proj/src/main.py", "proj/three"]
    assert not (source / "README.md").exists()
    dropped = grantfs.ask("discard", "-y", "src/main.py", cwd=source)
    assert dropped == {"discarded": ["proj/src/main.py"]}
    assert grantfs.status() == {"proj/three": "added"}
    grantfs.run("commit", "-y", "nowhere/at/all", code=5)


def test_exchange_of_two_files_lands(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    readme, main = (source / "README.md").read_bytes(), (source / "src/main.py").read_bytes()
    libc = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    left, right = bytes(proj / "README.md"), bytes(proj / "src" / "main.py")
    assert libc.renameat2(-100, left, -100, right, 2) == 0
    assert grantfs.ask("commit", "-y")["remaining"] == []
    assert (source / "README.md").read_bytes() == main
    assert (source / "src/main.py").read_bytes() == readme


def test_extended_attributes_are_reviewed_and_land(grantfs: Grantfs, source: Path) -> None:
    os.setxattr(source / "README.md", "user.old", b"old")
    os.setxattr(source / "README.md", "user.mime_type", b"text/markdown")
    os.setxattr(source / "src" / "main.py", "user.kept", b"kept")
    before = tree(source, identity=True)
    proj = grantfs.up(source) / "proj"
    for path in (proj / "README.md", proj / "src" / "main.py", proj / "src", proj / "new.txt"):
        if path.name == "new.txt":
            path.write_text("new\n")
        os.setxattr(path, "user.note", b"note")
    os.removexattr(proj / "README.md", "user.mime_type")
    os.rename(proj / "src" / "main.py", proj / "src" / "moved.py")
    assert tree(source, identity=True) == before
    first = grantfs.ask("status")
    shown = {one["path"]: (one["kind"], "xattr" in one["flags"]) for one in first["changes"]}
    assert shown == {
        "proj/README.md": ("mode", True),
        "proj/new.txt": ("added", True),
        "proj/src": ("mode", True),
        "proj/src/moved.py": ("renamed", True),
    }
    os.setxattr(proj / "README.md", "user.note", b"another")
    assert grantfs.ask("status")["digest"] != first["digest"]
    grantfs.run("discard", "-y", "proj/README.md")
    assert os.listxattr(proj / "README.md") == ["user.mime_type"]
    os.setxattr(proj / "README.md", "user.note", b"another")
    os.removexattr(proj / "README.md", "user.mime_type")
    assert grantfs.ask("commit", "-y")["remaining"] == []

    def xattrs(name: str) -> dict[str, bytes]:
        path = source / name
        return {key: os.getxattr(path, key) for key in sorted(os.listxattr(path))}

    assert xattrs("README.md") == {"user.note": b"another", "user.old": b"old"}
    assert xattrs("src/moved.py") == {"user.kept": b"kept", "user.note": b"note"}
    assert xattrs("src") == xattrs("new.txt") == {"user.note": b"note"}
    assert grantfs.status() == {}


def test_a_link_in_place_of_a_file_of_the_same_content_is_a_change(
    grantfs: Grantfs, source: Path
) -> None:
    for name in ("a", "b"):
        (source / name).write_text("same\n")
        (source / f"{name}.link").symlink_to("nowhere")
    proj = grantfs.up(source) / "proj"
    sh("ln -f a b; ln -fP a.link b.link; ln -s nowhere c; ln -P c d", proj)
    assert grantfs.status() == {
        "proj/b": "modified", "proj/b.link": "symlink", "proj/c": "symlink", "proj/d": "symlink",
    }  # fmt: skip
    assert grantfs.ask("commit", "-y")["remaining"] == []
    for one, other in (("a", "b"), ("a.link", "b.link"), ("c", "d")):
        assert (source / one).lstat().st_ino == (source / other).lstat().st_ino
    assert grantfs.status() == {}


def test_pipes_sockets_and_devices_stay_in_the_stage(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    os.mkfifo(proj / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(proj / "socket"))
    os.mknod(proj / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(proj / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    assert (proj / "null").stat().st_rdev == os.makedev(1, 3)
    assert error_of((proj / "null").read_bytes) == "EACCES"
    assert error_of((proj / "disk").read_bytes) == "EACCES"
    special = ["proj/disk", "proj/null", "proj/pipe", "proj/socket"]
    shown = grantfs.ask("status")["changes"]
    assert [(one["path"], "special" in one["flags"]) for one in shown] == [
        (path, True) for path in special
    ]
    (proj / "README.md").write_text("new\n")
    done = grantfs.run("commit", "-y", "--json", code=1)
    assert done.json["applied"] == ["proj/README.md"]
    assert sorted(done.json["remaining"]) == special
    assert "pipes, sockets and devices are not committed" in done.err
    assert {"disk", "null", "pipe", "socket"}.isdisjoint(os.listdir(source))
    grantfs.run("discard", "-y")
    assert grantfs.status() == {}


def test_names_are_bytes(grantfs: Grantfs, source: Path) -> None:
    names = [b"new\nline", b"\xff\xfe", "fi\u0301n".encode(), "f\u00edn".encode(), b" ", b"-rf",
             b"\x1b[31mred", b"a" * 255, b'q"uote', b"tab\there"]  # fmt: skip
    for number, name in enumerate(names):
        (source / os.fsdecode(name)).write_text(f"{number}\n")
    proj = grantfs.up(source) / "proj"
    assert set(names) <= set(os.listdir(bytes(proj)))
    for name in names:
        with (proj / os.fsdecode(name)).open("ab") as file:
            file.write(b"more\n")
        (proj / os.fsdecode(name[:250] + b".new")).write_text("new\n")
    assert error_of(lambda: (proj / ("a" * 256)).write_text("x")) == "ENAMETOOLONG"
    assert len(grantfs.ask("status")["changes"]) == 2 * len(names)
    text = grantfs.run("status").out
    assert len(text.splitlines()) == 2 * len(names)
    assert b"\x1b" not in text
    patch = grantfs.run("diff").out
    copy = grantfs.home.parent / "copy"
    copy.mkdir()
    subprocess.run(["cp", "-a", source, copy / "proj"], check=True)
    subprocess.run(["git", "apply", "--check", "-"], input=patch, cwd=copy, check=True)
    done = grantfs.ask("commit", "-y")
    assert done["remaining"] == []
    for number, name in enumerate(names):
        assert (source / os.fsdecode(name)).read_text() == f"{number}\nmore\n"


def test_what_the_mount_refuses(grantfs: Grantfs, source: Path) -> None:
    other = grantfs.home.parent / "other"
    other.mkdir()
    (other / "file").write_text("file\n")
    (other / "sub").mkdir()
    single = grantfs.home.parent / "single.txt"
    single.write_text("single\n")
    (source / "out").symlink_to("/etc")
    mount = grantfs.up(source, "--read", other, "--list", single)
    proj = mount / "proj"
    assert sorted(os.listdir(mount)) == [".grantfs", "other", "proj", "single.txt"]
    assert error_of(lambda: (mount / "other" / "new").write_text("x")) == "EROFS"
    assert error_of(lambda: (mount / "other" / "file").write_text("x")) == "EROFS"
    assert error_of(lambda: (mount / "other" / "file").unlink()) == "EROFS"
    assert error_of(lambda: os.chmod(mount / "other" / "file", 0o600)) == "EROFS"
    assert error_of((mount / "single.txt").read_bytes) == "EACCES"
    assert error_of((mount / "nothing").read_bytes) == "ENOENT"
    assert error_of(lambda: (mount / "nothing").write_text("x")) in ("EROFS", "EACCES", "EPERM")
    assert error_of(lambda: (mount / ".grantfs" / "README.md").write_text("x")) in (
        "EROFS", "EACCES",
    )  # fmt: skip
    assert error_of(lambda: os.rename(proj / "README.md", mount / "other" / "x")) in (
        "EXDEV", "EROFS",
    )  # fmt: skip
    assert error_of(lambda: os.link(proj / "README.md", mount / "other" / "x")) in (
        "EXDEV", "EROFS",
    )  # fmt: skip
    assert (mount / "other" / "file").read_text() == "file\n"
    readme = (mount / ".grantfs" / "README.md").read_text()
    assert "staged" in readme
    listed = (mount / ".grantfs" / "grants.json").read_text()
    assert str(grantfs.home.parent) not in listed


def test_a_granted_file_is_edited_and_committed(grantfs: Grantfs, source: Path) -> None:
    before = tree(source)
    mount = grantfs.up(source / ".env", "--name", "w")
    assert sorted(os.listdir(mount)) == [".env", ".grantfs"]
    with (mount / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    assert grantfs.status() == {".env": "modified"}
    grantfs.ask("commit", "-y")
    assert (source / ".env").read_bytes() == ENV + b"MORE=1\n"
    after = tree(source)
    del before[".env"], after[".env"]
    assert after == before
