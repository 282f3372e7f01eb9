"""A granted single file on a real mount: real editors save it, and review shows one change."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import ENV, PASSWORD, Grantfs, error_of

EDITED = b"port is 9090"


def with_vim(file: Path, option: str) -> None:
    edits = ["-c", f"set {option}", "-c", "%s/PORT=8080/port is 9090/", "-c", "wq"]
    command = ["vim", "-N", "-u", "NONE", "-es", *edits, file]
    subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)


def with_sed(file: Path) -> None:
    subprocess.run(["sed", "-i", "s/PORT=8080/port is 9090/", file], check=True, timeout=60)


def with_a_temporary(file: Path) -> None:
    new = file.with_name(f".{file.name}.tmp-1")
    new.write_bytes(file.read_bytes().replace(b"PORT=8080", EDITED))
    fd = os.open(new, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    os.chmod(new, os.stat(file).st_mode & 0o7777)
    os.rename(new, file)


SAVES: dict[str, Callable[[Path], None]] = {
    "vim": lambda file: with_vim(file, "backupcopy=auto"),
    "vim, backup by renaming": lambda file: with_vim(file, "backup backupcopy=no"),
    "vim, backup by copying": lambda file: with_vim(file, "backup backupcopy=yes"),
    "sed": with_sed,
    "temporary": with_a_temporary,
}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_single_file_is_saved_by_an_editor_and_committed(
    grantfs: Grantfs, source: Path, save: Callable[[Path], None]
) -> None:
    (source / ".env").chmod(0o640)
    (source / "other.txt").write_text("another\n")
    mount = grantfs.up(source / ".env", source / "other.txt")
    save(mount / ".env")
    assert grantfs.status() == {".env": "modified"}
    assert (source / ".env").read_bytes() == ENV
    assert PASSWORD not in (mount / ".env").read_bytes()
    change = grantfs.ask("diff")[0]
    assert [line for hunk in change["hunks"] for line in hunk["lines"] if line[0] in "+-"] == [
        "-PORT=8080\n", "+port is 9090\n",
    ]  # fmt: skip
    beside = set(os.listdir(source))
    assert grantfs.ask("commit", "-y")["applied"] == [".env"]
    assert (source / ".env").read_bytes() == ENV.replace(b"PORT=8080", EDITED)
    assert (source / ".env").stat().st_mode & 0o7777 == 0o640
    assert set(os.listdir(source)) == beside
    assert grantfs.status() == {}
    assert PASSWORD not in (mount / ".env").read_bytes()


def test_a_file_under_another_name_is_saved_and_committed(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up("--name", "one", source / "src")
    grantfs.run("grant", source / ".env", "--as", "settings")
    with_sed(mount / "settings")
    assert grantfs.status() == {"settings": "modified"}
    assert grantfs.status("settings") == grantfs.status(source / ".env") == {"settings": "modified"}
    grantfs.run("commit", "-y", mount / "settings")
    assert (source / ".env").read_bytes() == ENV.replace(b"PORT=8080", EDITED)
    os.unlink(mount / "settings")
    assert grantfs.status() == {"settings": "deleted"}
    grantfs.run("discard", "-y", "settings")
    assert EDITED in (mount / "settings").read_bytes()


def test_the_end_of_the_grant_takes_the_temporaries_along(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(source / ".env", source / "README.md")
    swap = mount / "..env.swp"
    swap.write_bytes(b"swap")
    with swap.open("rb") as held:
        assert sorted(os.listdir(mount)) == ["..env.swp", ".env", ".grantfs", "README.md"]
        grantfs.run("revoke", source / ".env")
        assert sorted(os.listdir(mount)) == [".grantfs", "README.md"]
        assert error_of(swap.read_bytes) == "ENOENT"
        assert error_of(held.read) in ("ESTALE", "EACCES")


def test_an_ordinary_users_file_is_saved_by_that_user(as_someone: Grantfs, tmp_path: Path) -> None:
    file = as_someone.home.parent / "notes.txt"
    file.write_bytes(ENV)
    os.chown(file, as_someone.user.uid, as_someone.user.gid)
    mount = as_someone.up(file)
    command = ["sed", "-i", "s/PORT=8080/port is 9090/", mount / "notes.txt"]
    subprocess.run(command, check=True, timeout=60, **as_someone.user.popen)
    assert as_someone.status() == {"notes.txt": "modified"}
    as_someone.run("commit", "-y")
    assert file.read_bytes() == ENV.replace(b"PORT=8080", EDITED)
