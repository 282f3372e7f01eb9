"""What the agent reads is masked, by whatever way it reads (promises 3, 8 and 9)."""

import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from driving import ENV, PASSWORD, TOKEN, Grantfs, error_of, tree


def masked(data: bytes) -> None:
    """Check that *data* is the file of secrets, masked, with everything else as it is."""
    assert TOKEN not in data
    assert PASSWORD not in data
    assert len(data) == len(ENV)
    for shown, real in zip(data.splitlines(), ENV.splitlines(), strict=True):
        key = real.partition(b"=")[0]
        assert shown.startswith(key)
        if TOKEN not in real and PASSWORD not in real:
            assert shown == real
        else:
            values = shown.partition(b"=")[2], real.partition(b"=")[2]
            assert all(a != b for a, b in zip(*values, strict=True))


def out(*command: str | Path) -> bytes:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True).stdout


def by_map(path: Path, flags: int = mmap.MAP_SHARED) -> bytes:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as mapped,
    ):
        return bytes(mapped)


def by_pread(path: Path, step: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        return b"".join(os.pread(fd, step, at) for at in range(0, size, step))
    finally:
        os.close(fd)


def by_pread_backwards(path: Path, step: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        places = range(0, os.fstat(fd).st_size, step)
        return b"".join(reversed([os.pread(fd, step, at) for at in reversed(places)]))
    finally:
        os.close(fd)


def without_cache(path: Path) -> bytes:
    """By O_DIRECT, which a file system may refuse or serve, but never with other bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = mmap.mmap(-1, 4096)
        done = os.readv(fd, [buffer])
        return buffer[:done]
    finally:
        os.close(fd)


READERS: dict[str, Callable[[Path], bytes]] = {
    "read": Path.read_bytes,
    "map": by_map,
    "private map": lambda path: by_map(path, mmap.MAP_PRIVATE),
    "byte by byte": lambda path: by_pread(path, 1),
    "seven at a time": lambda path: by_pread(path, 7),
    "backwards": lambda path: by_pread_backwards(path, 13),
    "dd of 3": lambda path: out("dd", f"if={path}", "bs=3", "status=none"),
    "dd from the middle of a secret": lambda path: (
        out("dd", f"if={path}", "bs=1", "count=30", "status=none")
        + out("dd", f"if={path}", "bs=1", "skip=30", "status=none")
    ),
    "O_DIRECT": without_cache,
    "grep": lambda path: out("grep", "-a", "", path),
}


@pytest.mark.parametrize("adapter", ["pyfuse3", "mfusepy"])
def test_every_way_of_reading_gives_masked_bytes(
    grantfs: Grantfs, source: Path, adapter: str
) -> None:
    proj = grantfs.up(source, "--adapter", adapter) / "proj"
    for name, read in READERS.items():
        if (adapter, name) == ("mfusepy", "map"):
            continue  # the kernel refuses shared maps of files that are served past its cache
        data = read(proj / ".env")
        try:
            masked(data)
        except AssertionError as error:
            raise AssertionError(f"{name}: {data!r}") from error
    assert (source / ".env").read_bytes() == ENV


def test_copies_links_and_renames_of_a_masked_file_stay_masked(
    grantfs: Grantfs, source: Path
) -> None:
    before = tree(source, identity=True)
    proj = grantfs.up(source) / "proj"
    first = (proj / ".env").read_bytes()
    masked(first)
    out("cp", proj / ".env", proj / "copied")
    out("cp", "-a", "--reflink=auto", proj / ".env", proj / "copied-a")
    os.link(proj / ".env", proj / "linked")
    os.rename(proj / ".env", proj / "renamed")
    with (proj / "renamed").open("rb") as old, (proj / "ranged").open("wb") as new:
        assert os.copy_file_range(old.fileno(), new.fileno(), 1000) == len(ENV)
    with (proj / "renamed").open("rb") as old, (proj / "sent").open("wb") as new:
        assert os.sendfile(new.fileno(), old.fileno(), 0, 1000) == len(ENV)
    for name in ("copied", "copied-a", "linked", "renamed", "ranged", "sent"):
        assert (proj / name).read_bytes() == first, name
        assert out("cat", proj / name) == first, name
    assert tree(source, identity=True) == before


def test_a_secret_across_the_borders_of_blocks_and_pages_is_masked(
    grantfs: Grantfs, source: Path
) -> None:
    line = b"x" * 80 + b"\n"
    data = bytearray(line * (600 * 1024 // len(line)))
    places = [4096, 65536, 131072, 262144, 524288]
    for place in places:
        at = place - 20
        secret = b"\ntoken = " + TOKEN + b"\n"
        data[at : at + len(secret)] = secret
    (source / "large.log").write_bytes(data)
    proj = grantfs.up(source) / "proj"
    for read in (Path.read_bytes, by_map, lambda path: by_pread(path, 4096)):
        seen = read(proj / "large.log")
        assert len(seen) == len(data)
        assert TOKEN not in seen
        assert TOKEN[4:20] not in seen
    # The first touch of a file may be of the middle of a secret.
    (source / "again.log").write_bytes(data)
    fd = os.open(proj / "again.log", os.O_RDONLY)
    try:
        for place in places:
            assert os.pread(fd, 16, place + 2) not in TOKEN
    finally:
        os.close(fd)


def test_equal_secrets_look_equal_and_others_differ(grantfs: Grantfs, source: Path) -> None:
    (source / "twice.env").write_bytes(b"A_TOKEN=" + TOKEN + b"\n")
    other = TOKEN[:4] + TOKEN[4:][::-1]
    (source / "other.env").write_bytes(b"A_TOKEN=" + other + b"\n")
    proj = grantfs.up(source) / "proj"
    shown = (proj / ".env").read_bytes().splitlines()[1].partition(b"=")[2]
    assert (proj / "twice.env").read_bytes() == b"A_TOKEN=" + shown + b"\n"
    assert (proj / "other.env").read_bytes() != b"A_TOKEN=" + shown + b"\n"


def test_no_secret_is_in_the_state_or_any_output(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source, "--name", "w") / "proj"
    with (proj / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    out("sed", "-i", "s/8080/9090/", proj / ".env")
    shown = b""
    for words in (
        ("status",), ("diff",), ("diff", "--json"), ("scan", ".env"), ("audit",),
        ("audit", "--json"), ("commit", "-y", "-m", "edit"), ("log",),
    ):  # fmt: skip
        done = grantfs.run(*words, cwd=source)
        shown += done.out + done.err.encode()
    commit = grantfs.ask("log")[0]["commit"]
    shown += grantfs.run("show", commit).out
    assert (source / ".env").read_bytes() == ENV.replace(b"8080", b"9090") + b"MORE=1\n"
    assert TOKEN not in shown
    assert PASSWORD not in shown
    grantfs.run("down")
    for path in grantfs.home.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert TOKEN not in data, path
            assert PASSWORD not in data, path


def test_a_link_whose_target_holds_a_secret_is_not_read(grantfs: Grantfs, source: Path) -> None:
    (source / "tolink").symlink_to("a/" + TOKEN.decode())
    (source / "fine").symlink_to("README.md")
    proj = grantfs.up(source) / "proj"
    assert error_of(lambda: os.readlink(proj / "tolink")) == "EACCES"
    assert os.readlink(proj / "fine") == "README.md"
    os.rename(proj / "tolink", proj / "moved")
    assert error_of(lambda: os.readlink(proj / "moved")) == "EACCES"
    told = grantfs.run("diff").out + grantfs.run("status", "--json").out
    assert TOKEN not in told
    assert TOKEN.decode() not in str(grantfs.events())
    # What the agent links to itself is its own.
    os.symlink("a/" + TOKEN.decode(), proj / "own")
    assert os.readlink(proj / "own") == "a/" + TOKEN.decode()


def test_an_entry_whose_name_holds_a_secret_is_not_shown_and_confirms_no_guess(
    grantfs: Grantfs, source: Path
) -> None:
    name = TOKEN.decode() + ".txt"
    (source / name).write_text("what it is for\n")
    (source / ("d-" + TOKEN.decode())).mkdir()
    proj = grantfs.up(source) / "proj"
    assert not [one for one in os.listdir(proj) if "ghp_" in one]
    assert error_of(lambda: os.stat(proj / name)) == "ENOENT"
    # A right guess is made, and is refused nothing, as a wrong one is.
    wrong = name.replace("1", "2")
    for guess in (wrong, name):
        (proj / guess).write_text("mine\n")
        assert (proj / guess).read_text() == "mine\n"
        os.rename(proj / guess, proj / "elsewhere")
        os.rename(proj / "elsewhere", proj / guess)
        os.unlink(proj / guess)
        assert error_of(lambda g=guess: os.stat(proj / g)) == "ENOENT"  # type: ignore[misc]
    assert grantfs.status() == {}
    (proj / name).write_text("mine\n")
    done = grantfs.run("commit", "-y", "--json", code=None).json
    assert done["conflicts"] == ["proj/" + name]
    assert (source / name).read_text() == "what it is for\n"
