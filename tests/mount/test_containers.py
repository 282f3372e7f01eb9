"""Archives and documents in a mount: served where nothing in them is secret, refused where not."""

import gzip
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
from driving import ENV, TOKEN, Grantfs, error_of


@pytest.fixture
def archives(source: Path) -> Path:
    with zipfile.ZipFile(source / "clean.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "nothing\n" * 100)
    with zipfile.ZipFile(source / "secret.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app/.env", ENV)
    (source / "log.gz").write_bytes(gzip.compress(b"x\n" + ENV))
    return source


def test_an_archive_with_a_secret_is_not_read_one_without_is(
    grantfs: Grantfs, archives: Path
) -> None:
    proj = grantfs.up(archives) / "proj"
    assert (proj / "clean.zip").read_bytes() == (archives / "clean.zip").read_bytes()
    for name in ("secret.zip", "log.gz"):
        assert error_of((proj / name).read_bytes) == "EACCES"
        assert error_of(lambda n=name: os.open(proj / n, os.O_RDWR)) == "EACCES"  # type: ignore[misc]
        assert error_of(lambda n=name: shutil.copy(proj / n, proj / "copy")) == "EACCES"  # type: ignore[misc]
        assert error_of(lambda n=name: os.truncate(proj / n, 20)) == "EACCES"  # type: ignore[misc]
        with (proj / name).open("wb"):  # writing over it shows nothing
            pass
    refused = [one for one in grantfs.events("--event", "refuse") if one["path"] == "proj/log.gz"]
    assert refused
    assert "secrets-in-containers" in json.dumps(refused)
    assert TOKEN.decode() not in json.dumps(grantfs.events())


def test_an_archive_that_gets_a_secret_is_refused_from_then_on(
    grantfs: Grantfs, archives: Path
) -> None:
    proj = grantfs.up(archives) / "proj"
    with (proj / "clean.zip").open("rb") as opened:
        assert opened.read(2) == b"PK"
        shutil.copy(archives / "secret.zip", archives / "clean.zip")
        assert error_of((proj / "clean.zip").read_bytes) == "EACCES"
        assert error_of(lambda: os.pread(opened.fileno(), 10, 1 << 20)) in ("EACCES", "")


def test_renaming_and_deleting_one_shows_nothing_and_works(
    grantfs: Grantfs, archives: Path
) -> None:
    proj = grantfs.up(archives) / "proj"
    os.rename(proj / "secret.zip", proj / "moved.txt")
    assert error_of((proj / "moved.txt").read_bytes) == "EACCES"
    os.unlink(proj / "log.gz")
    assert grantfs.status() == {"proj/moved.txt": "renamed", "proj/log.gz": "deleted"}
    grantfs.ask("commit", "-y")
    assert (archives / "moved.txt").read_bytes().startswith(b"PK")
