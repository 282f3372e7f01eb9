"""What cannot be done is one line that says what to do, the right exit code, nothing half made."""

import os
from pathlib import Path

import pytest
from driving import Grantfs, User, daemons, error_of, fill_disk, mounts, myself, tree


def nothing_made(grantfs: Grantfs, name: str = "w") -> None:
    """No state, no mount, no folder for one, no daemon of a workspace that could not start."""
    assert not grantfs.state(name).exists()
    assert grantfs.ask("ps") == []
    assert mounts(grantfs.home) == []
    assert not (grantfs.home / "mnt" / name).exists()
    assert daemons(grantfs.home) == []
    assert list(grantfs.home.glob("run/*")) == []


BAD_UPS = {
    "a missing path": (["{proj}/nothing"], 1, "no such file"),
    "one good, one missing path": (["{proj}", "{base}/nothing"], 1, "no such file"),
    "a path inside the state folder": (["{home}/state"], 4, "belongs to grantfs"),
    "a path inside the run folder": (["{home}/run"], 4, "belongs to grantfs"),
    "two grants of one name": (["{proj}", "{base}/more/proj"], 2, "--as"),
    "a bad duration": (["{proj}", "--for", "soon"], 2, "30s"),
    "no duration at all": (["{proj}", "--for", ""], 2, "30s"),
    "a negative duration": (["{proj}", "--for", "-5m"], 2, "30s"),
    "an endless duration": (["{proj}", "--for", "999999999d"], 2, "until-revoked"),
    "a bad time to wait": (["{proj}", "--ask-timeout", "x"], 2, "30s"),
    "an unknown profile": (["{proj}", "--redact", "most"], 2, "secrets"),
    "an unknown adapter": (["{proj}", "--adapter", "nfs"], 2, "pyfuse3"),
    "a device": (["/dev/null"], 1, "neither"),
    "a FIFO": (["{base}/fifo"], 1, "neither"),
    "the root": (["/"], 2, "folder or file"),
    "a mountpoint that is not empty": (["{proj}", "--mount", "{base}/full"], 1, "not empty"),
    "a mountpoint that is a file": (["{proj}", "--mount", "{base}/file"], 1, "no folder"),
    "a mountpoint that is a link": (["{proj}", "--mount", "{base}/link"], 1, "no folder"),
    "a mountpoint below a file": (["{proj}", "--mount", "{base}/file/x"], 1, "--mount"),
    "a mountpoint that is busy": (["{proj}", "--mount", "/proc"], 1, "busy"),
    "a mountpoint in the state folder": (["{proj}", "--mount", "{home}/state/x"], 4, "grantfs"),
    "an unknown option": (["{proj}", "--frobnicate"], 2, "--help"),
    "an option without a value": (["{proj}", "--for"], 2, "--help"),
}


@pytest.mark.parametrize("what", BAD_UPS)
def test_up_refuses(grantfs: Grantfs, source: Path, what: str) -> None:
    base = grantfs.home.parent
    (base / "more" / "proj").mkdir(parents=True)
    (base / "full").mkdir()
    (base / "full" / "x").touch()
    (base / "file").touch()
    (base / "link").symlink_to("more")
    os.mkfifo(base / "fifo")
    (grantfs.home / "state").mkdir(mode=0o700)
    (grantfs.home / "run").mkdir(mode=0o700)
    words, code, says = BAD_UPS[what]
    before = tree(base, identity=True)
    filled = [word.format(proj=source, base=base, home=grantfs.home) for word in words]
    done = grantfs.run("up", "--name", "w", *filled, code=code)
    assert done.out == b""
    assert says in done.error
    nothing_made(grantfs)
    after = tree(base, identity=True)
    for name in set(before) - {".", "home", "home/state", "home/run"}:
        assert before[name] == after[name]


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../x", "", ".hidden", "-w", "a b", "a\nb",
                                  "x" * 65, "na\u00efve"])  # fmt: skip
def test_bad_workspace_names(grantfs: Grantfs, source: Path, name: str) -> None:
    if name:
        done = grantfs.run("up", source, f"--name={name}", code=2)
        assert "workspace name" in done.error
        done = grantfs.run("ps", f"--workspace={name}", code=None)
        done = grantfs.run("status", f"--workspace={name}", code=2)
        assert "workspace name" in done.error
    done = grantfs.run("rm", "--", name, code=None)
    assert done.code in (2, 5)
    assert done.error
    nothing_made(grantfs)
    assert sorted(path.name for path in grantfs.home.parent.iterdir()) == ["home", "proj"]


def test_no_state_of_a_workspace_where_a_folder_of_its_name_stands(
    grantfs: Grantfs, source: Path
) -> None:
    grantfs.state("w").mkdir(parents=True)
    (grantfs.state("w") / "mine").touch()
    assert "move it away" in grantfs.run("up", source, "--name", "w", code=1).error
    assert (grantfs.state("w") / "mine").exists()


def test_grants_that_a_running_workspace_refuses(grantfs: Grantfs, source: Path) -> None:
    base = grantfs.home.parent
    (base / "more" / "proj").mkdir(parents=True)
    mount = grantfs.up(source, "--name", "w")
    before = grantfs.ask("grants", "--all")
    cases = [
        ([base / "more" / "proj"], 2, "--as"),
        ([mount / "proj"], 4, "inside the grantfs mount"),
        ([mount / "proj" / "src"], 4, "inside the grantfs mount"),
        ([mount], 4, "inside the grantfs mount"),
        ([grantfs.state("w")], 4, "belongs to grantfs"),
        ([base / "nothing"], 1, "no such file"),
        ([base / "more", "--as", ".grantfs"], 2, "--as"),
        ([base / "more", "--as", "a/b"], 2, "bad name"),
        ([base / "more", "--as", ".."], 2, "bad name"),
        ([base / "more", "--as", "x" * 256], 2, "bad name"),
        ([base / "more", base / "more" / "proj", "--as", "x"], 2, "--as"),
        ([base / "more", "--access", "all"], 2, "write"),
        ([base / "more", "--for", "1y"], 2, "30s"),
        ([base / "more", base / "more" / "proj"], 2, "--as"),
        ([], 2, "PATH"),
    ]
    for words, code, says in cases:
        done = grantfs.run("grant", *words, code=code)
        assert says in done.error, words
    assert grantfs.ask("grants", "--all") == before
    assert sorted(os.listdir(mount)) == [".grantfs", "proj"]
    # With a name of its own the second one is welcome.
    grantfs.run("grant", base / "more" / "proj", "--as", "second")
    assert sorted(os.listdir(mount)) == [".grantfs", "proj", "second"]


def test_state_inside_a_granted_folder_is_not_shown(grantfs: Grantfs, source: Path) -> None:
    """A grant never covers the workspace's own state or mount (promise 2)."""
    mount = grantfs.up(grantfs.home.parent, "--name", "w", "--mount", source / "mnt")
    top = mount / grantfs.home.parent.name
    assert (top / "proj" / "README.md").exists()
    listed = [name for _folder, folders, files in os.walk(top) for name in folders + files]
    assert "w" not in listed
    assert "workspace.json" not in listed
    assert not (top / "home" / "state").exists() or not os.listdir(top / "home" / "state")
    assert not (top / "proj" / "mnt" / top.name).exists()


def test_a_second_workspace_cannot_take_the_mountpoint_or_grant_the_mount_of_the_first(
    grantfs: Grantfs, source: Path
) -> None:
    mount = grantfs.up(source, "--name", "one")
    done = grantfs.run("up", source, "--name", "two", "--mount", mount, code=1)
    assert "busy" in done.error
    done = grantfs.run("up", mount / "proj", "--name", "two", code=4)
    assert "inside the grantfs mount" in done.error
    done = grantfs.run("up", source, "--name", "two", "--mount", mount / "proj" / "src", code=4)
    assert "mount" in done.error
    assert not grantfs.state("two").exists()
    assert (mount / "proj" / "README.md").exists()
    assert grantfs.status() == {}
    done = grantfs.run("up", source, "--name", "one", "--mount", source.parent / "x", code=2)
    assert "mounted at" in done.error


# -- a machine that lacks something --------------------------------------------------------


def inside(script: str) -> list[str]:
    """A prefix that runs the command line in a mount namespace made by *script*."""
    return ["unshare", "--mount", "sh", "-ec", f'{script}; exec "$@"', "sh"]


NO_FUSE = {
    "is missing": "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
    " && mknod -m 666 /dev/urandom c 1 9",
    "is an empty file": "touch {base}/empty && mount --bind {base}/empty /dev/fuse",
    "is closed to everybody": "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3"
    " && mknod -m 666 /dev/urandom c 1 9 && mknod /dev/fuse c 10 250",
}


@pytest.mark.parametrize("how", NO_FUSE)
def test_up_where_dev_fuse(grantfs: Grantfs, source: Path, root: None, how: str) -> None:
    prefix = inside(NO_FUSE[how].format(base=grantfs.home.parent))
    done = grantfs.run("up", source, "--name", "w", prefix=prefix, code=1)
    assert "cannot mount" in done.error
    assert "doctor" in done.error
    nothing_made(grantfs)
    doctor = grantfs.run("doctor", "--json", prefix=prefix, code=None)
    if how != "is an empty file":
        assert doctor.code == 1
        (device,) = [one for one in doctor.json if one["check"] == "/dev/fuse"]
        assert device["ok"] is False
        assert device["fix"]


def test_an_ordinary_user_without_access_to_dev_fuse(
    as_someone: Grantfs, someone: User, root: None
) -> None:
    base = as_someone.home.parent
    source = base / "proj"
    source.mkdir()
    os.chown(source, someone.uid, someone.gid)
    # A device of its own, in a namespace of its own: other runs use the machine's.
    closed = f"mknod -m 600 {base}/fuse c 10 229 && mount --bind {base}/fuse /dev/fuse"
    become = ["setpriv", f"--reuid={someone.uid}", f"--regid={someone.gid}", "--clear-groups"]
    as_someone.user, owner = myself(), as_someone.user
    done = as_someone.run("up", source, "--name", "w", prefix=[*inside(closed), *become], code=1)
    as_someone.user = owner
    assert "/dev/fuse: Permission denied" in done.error
    nothing_made(as_someone)


@pytest.mark.parametrize("leave", [0, 8192, 65536, 1 << 20])
def test_up_on_a_full_disk(grantfs: Grantfs, source: Path, small_disk: Path, leave: int) -> None:
    filler = fill_disk(small_disk, leave)
    grantfs.announce(r"cannot|No space left|OperationalError|database or disk is full")
    done = grantfs.run("up", source, "--name", "w", code=None)
    if done.code:
        assert done.code == 1
        assert done.error
        nothing_made(grantfs)
    filler.unlink()
    assert (grantfs.up(source, "--name", "w") / "proj" / "README.md").exists()


def test_a_disk_that_fills_up_at_work_loses_nothing_staged(
    grantfs: Grantfs, source: Path, small_disk: Path
) -> None:
    proj = grantfs.up(source, "--name", "w") / "proj"
    (proj / "early").write_text("early\n")
    filler = fill_disk(small_disk)
    grantfs.announce(r"No space left|disk is full|log|audit")
    # Which of them depends on what got full first: the stage, or the log (no log, no access).
    refused = error_of(lambda: (proj / "late").write_bytes(bytes(8 << 20)))
    assert refused in ("ENOSPC", "EDQUOT", "EIO", "EACCES")
    assert error_of((proj / "early").read_bytes) in ("", "EACCES")
    done = grantfs.run("status", "--json", code=None)
    if done.code == 0:
        assert "proj/early" in [one["path"] for one in done.json["changes"]]
    filler.unlink()
    grantfs.run("down")
    grantfs.up()
    assert (proj / "early").read_text() == "early\n"
    assert grantfs.ask("audit", "verify")["ok"] is True
    assert "proj/early" in grantfs.ask("commit", "-y")["applied"]
    assert (source / "early").read_text() == "early\n"


def test_damaged_settings_are_one_line_too(grantfs: Grantfs, source: Path) -> None:
    grantfs.up(source, "--name", "w")
    grantfs.run("down")
    settings = grantfs.state("w") / "workspace.json"
    whole = settings.read_text()
    settings.write_text(whole[:40])
    for words in (("up",), ("status",), ("audit", "verify"), ("ps",)):
        done = grantfs.run(*words, code=None)
        assert done.code in (1, 6), words
        assert "workspace.json" in done.err or done.code == 6
    settings.write_text(whole)
    grantfs.up()


def test_a_missing_key_is_refused_and_never_made_anew(grantfs: Grantfs, source: Path) -> None:
    grantfs.up(source, "--name", "w")
    grantfs.run("down")
    (key,) = grantfs.state("w").glob("*.key")
    kept = key.read_bytes()
    key.unlink()
    done = grantfs.run("up", code=1)
    assert "key" in done.error
    assert not key.exists()
    key.write_bytes(kept)
    key.chmod(0o600)
    grantfs.up()


def test_a_policy_that_does_not_parse_stops_up_and_says_where(
    grantfs: Grantfs, source: Path
) -> None:
    folder = grantfs.home / "policy" / "user"
    folder.mkdir(parents=True)
    (folder / "bad.json").write_text('{"policyVersion": "2026-01-01", "rulez": []}')
    done = grantfs.run("up", source, "--name", "w", code=1)
    assert "bad.json" in done.error
    nothing_made(grantfs)
