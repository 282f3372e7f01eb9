"""A workspace's daemon from start to end: terminals, signals, crashes, a second `up`, `rm`."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from driving import Grantfs, alive, daemons, error_of, mounts, tree, wait_until


def test_up_again_adds_grants_and_leaves_known_ones(grantfs: Grantfs, source: Path) -> None:
    other = grantfs.home.parent / "other"
    other.mkdir()
    mount = grantfs.up(source)
    pid = grantfs.pid()
    (first,) = grantfs.ask("grants")
    assert grantfs.up(source, "--read", other) == mount
    assert grantfs.pid() == pid
    assert sorted(os.listdir(mount)) == [".grantfs", "other", "proj"]
    listed = {grant["mounted_as"]: grant for grant in grantfs.ask("grants")}
    assert listed["proj"]["id"] == first["id"]
    assert listed["proj"]["expires_at"] == first["expires_at"]
    assert listed["other"]["access"] == "read"
    assert error_of(lambda: (mount / "other" / "x").write_text("x")) == "EROFS"


def test_up_without_a_path_reopens_with_the_live_grants(grantfs: Grantfs, source: Path) -> None:
    other = grantfs.home.parent / "other"
    other.mkdir()
    mount = grantfs.up(source, other, "--name", "w", "--for", "until-revoked")
    grantfs.run("revoke", other)
    (mount / "proj" / "new").write_text("new\n")
    before = grantfs.ask("grants")
    grantfs.run("down")
    assert mounts(grantfs.home) == []
    assert grantfs.up(cwd=other) == mount
    assert sorted(os.listdir(mount)) == [".grantfs", "proj"]
    after = grantfs.ask("grants")
    assert [grant["id"] for grant in after] == [grant["id"] for grant in before]
    assert (mount / "proj" / "new").read_text() == "new\n"


def test_up_with_nothing_makes_one_for_the_current_folder(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(cwd=source)
    assert mount == grantfs.home / "mnt" / "proj"
    assert (mount / "proj" / "README.md").exists()


def test_inode_numbers_and_times_hold_across_restart_and_copy_up(
    grantfs: Grantfs, source: Path
) -> None:
    proj = grantfs.up(source) / "proj"
    numbers = {path.name: path.lstat().st_ino for path in proj.rglob("*")}
    (proj / "README.md").write_text("x")
    os.rename(proj / "src" / "main.py", proj / "src" / "moved.py")
    numbers["moved.py"] = numbers.pop("main.py")
    assert {path.name: path.lstat().st_ino for path in proj.rglob("*")} == numbers
    grantfs.run("down")
    grantfs.up()
    assert {path.name: path.lstat().st_ino for path in proj.rglob("*")} == numbers


def test_the_daemon_outlives_whoever_started_it_and_the_terminal(
    grantfs: Grantfs, source: Path
) -> None:
    import pty

    controller, terminal = pty.openpty()
    shell = grantfs.start(
        "up", source, "--json", stdin=terminal, start_new_session=True, close_fds=True
    )
    out, _err = shell.communicate(timeout=60)
    assert shell.returncode == 0
    os.close(terminal)
    os.close(controller)  # the terminal hangs up
    pid = json.loads(out)["pid"]
    assert os.getsid(pid) == pid
    assert os.getpgid(pid) == pid
    for number in (0, 1):
        assert os.readlink(f"/proc/{pid}/fd/{number}") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert (Path(json.loads(out)["mountpoint"]) / "proj" / "README.md").exists()
    assert grantfs.pid() == pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly(grantfs: Grantfs, source: Path, number: int) -> None:
    mount = grantfs.up(source, "--name", "w")
    (mount / "proj" / "new").write_text("new\n")
    pid = grantfs.pid()
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), "the daemon ends")
    assert mounts(grantfs.home) == []
    assert list((grantfs.home / "run").iterdir()) == []
    assert not mount.exists()
    (row,) = grantfs.ask("ps")
    assert row == {
        "workspace": "w", "running": False, "mountpoint": str(mount), "pid": None,
        "grants": 1, "changes": 1, "requests": 0, "stage_bytes": 4096, "stage_limit": 16 << 30,
    }  # fmt: skip
    done = grantfs.run("status", code=6)
    assert "up" in done.error
    grantfs.up()
    assert grantfs.status() == {"proj/new": "added"}
    assert grantfs.ask("audit", "verify")["ok"] is True


def test_down_waits_for_nobody_who_has_files_open(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(source)
    child = subprocess.Popen(["sleep", "1000"], cwd=mount / "proj" / "src")
    try:
        done = grantfs.ask("down")
        assert done == {"workspace": "proj", "unmounted": str(mount)}
        assert mounts(grantfs.home) == []
    finally:
        child.kill()
        child.wait()


def test_foreground_stays_until_interrupted(grantfs: Grantfs, source: Path) -> None:
    call = grantfs.start("up", source, "--foreground", "--json")
    assert call.stdout is not None
    assert call.stderr is not None
    line = call.stdout.readline()
    info = json.loads(line)
    assert (Path(info["mountpoint"]) / "proj" / "README.md").exists()
    assert call.poll() is None
    call.send_signal(signal.SIGINT)
    assert call.wait(timeout=60) == 0
    call.stdout.close()
    call.stderr.close()
    assert mounts(grantfs.home) == []
    assert daemons(grantfs.home) == []


def test_down_all_and_the_choice_of_a_workspace(grantfs: Grantfs, source: Path) -> None:
    other = grantfs.home.parent / "other"
    other.mkdir()
    one = grantfs.up(source, "--name", "one")
    two = grantfs.up(other, "--name", "two")
    done = grantfs.run("status", code=2)
    assert "-w" in done.error
    for folder, name in ((source, "one"), (one / "proj", "one"), (other, "two"), (two, "two")):
        assert grantfs.ask("status", cwd=folder)["workspace"] == name
    assert grantfs.ask("status", env={"GRANTFS_WORKSPACE": "two"})["workspace"] == "two"
    assert grantfs.ask("status", "-w", "one", cwd=other)["workspace"] == "one"
    grantfs.run("status", "-w", "three", code=5)
    rows = {row["workspace"]: row["running"] for row in grantfs.ask("ps")}
    assert rows == {"one": True, "two": True}
    assert len(grantfs.ask("down", "--all")) == 2
    assert daemons(grantfs.home) == []
    grantfs.run("down", "-w", "one", code=6)


def test_state_is_private(grantfs: Grantfs, source: Path) -> None:
    os.umask(0)
    try:
        mount = grantfs.up(source, "--name", "w")
    finally:
        os.umask(0o022)
    (mount / "proj" / ".env").write_text("new\n")
    (mount / "proj" / "run.sh").write_text("x\n")
    (mount / "proj" / "run.sh").chmod(0o755)
    grantfs.run("commit", "-y")
    for path in [grantfs.home / "state", *(grantfs.home / "state").rglob("*")]:
        status = path.lstat()
        wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
        assert status.st_mode & 0o777 == wanted, (path, oct(status.st_mode))
    run = grantfs.home / "run"
    assert run.stat().st_mode & 0o777 == 0o700
    assert (run / "w.sock").stat().st_mode & 0o777 == 0o600


def test_the_daemon_is_closed_to_others(grantfs: Grantfs, source: Path) -> None:
    """Promise 9: no core, not dumpable, nothing of a secret in its arguments."""
    grantfs.up(source)
    pid = grantfs.pid()
    limits = Path(f"/proc/{pid}/limits").read_text()
    (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert core.split()[4:6] == ["0", "0"]
    # The files of a process that is not dumpable belong to root, whoever runs it.
    assert os.stat(f"/proc/{pid}/environ").st_uid == 0
    status = Path(f"/proc/{pid}/status").read_text()
    assert "CoreDumping:\t0" in status


def test_the_daemon_holds_no_descriptor_of_what_is_closed(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    pid = grantfs.pid()
    if not os.access(f"/proc/{pid}/fd", os.R_OK | os.X_OK):
        pytest.skip("only root may look at the descriptors of a daemon")

    def use() -> None:
        for number in range(50):
            (proj / f"file{number}").write_text("x")
            (proj / f"file{number}").read_text()
            (proj / "README.md").read_text()
        for number in range(50):
            (proj / f"file{number}").unlink()

    def held() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    use()
    grantfs.run("status")
    before = held()
    use()
    # A release is sent after close returns: the daemon hears of it a moment later.
    wait_until(lambda: held() <= before + 2, "descriptors are closed")
    # An inode is forgotten when the kernel gets round to it, and its body goes with it.
    bodies = grantfs.state("proj") / "bodies"
    wait_until(lambda: not list(bodies.iterdir()), "bodies of what was deleted are gone")


def test_rm_wants_a_stopped_workspace_and_says_what_would_be_lost(
    grantfs: Grantfs, source: Path
) -> None:
    mount = grantfs.up(source, "--name", "w")
    (mount / "proj" / "new").write_text("new\n")
    assert "down" in grantfs.run("rm", "w", code=1).error
    assert "down" in grantfs.run("rm", "w", "-y", code=1).error
    grantfs.run("down")
    done = grantfs.run("rm", "w", code=1)
    assert "1 staged" in done.err
    assert grantfs.state("w").exists()
    assert grantfs.ask("rm", "w", "-y") == {"removed": "w"}
    assert not grantfs.state("w").exists()
    assert not mount.exists()
    assert grantfs.ask("ps") == []
    grantfs.run("rm", "w", code=5)
    # Without staged changes nothing has to be said.
    grantfs.up(source, "--name", "w")
    grantfs.run("down")
    grantfs.run("rm", "w")


def test_the_socket_hears_its_owner_alone(grantfs: Grantfs, source: Path) -> None:
    grantfs.up(source, "--name", "w")
    path = grantfs.home / "run" / "w.sock"

    def say(line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))

    for line in (b"\n", b"{}\n", b"\xff\xfe\n", b'{"op":"info","x":1}\n', b'{"op":"nothing"}\n',
                 b'{"op":"commit","paths":"all"}\n', b"[" * 100000 + b"\n"):  # fmt: skip
        answer = json.loads(say(line))
        assert answer["ok"] is False
    assert json.loads(say(b'{"op":"info"}\n'))["ok"] is True
    # A client that hangs keeps nobody waiting.
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        silent.sendall(b'{"op":')
        assert grantfs.ask("status")["changes"] == []


def test_requests_from_another_namespace_are_refused(
    grantfs: Grantfs, source: Path, root: None
) -> None:
    """Promise 11: whoever stands in a sandbox has no voice, though it is the owner's uid."""
    mount = grantfs.up(source)
    (mount / "proj" / "new").write_text("new\n")
    for words in (("commit", "-y"), ("revoke", "--all"), ("grant", "/etc"), ("down",)):
        for kind in ("--mount", "--pid"):
            prefix = ["unshare", kind] + (["--fork"] if kind == "--pid" else [])
            done = grantfs.run(*words, prefix=prefix, code=4)
            assert "sandbox" in done.error
    assert not (source / "new").exists()


# -- crashes -------------------------------------------------------------------------------


def test_a_dead_mount_is_cleaned_up_and_nothing_staged_is_lost(
    grantfs: Grantfs, source: Path
) -> None:
    before = tree(source, identity=True)
    mount = grantfs.up(source)
    proj = mount / "proj"
    (proj / "new").write_text("new\n")
    (proj / "README.md").unlink()
    os.rename(proj / "src", proj / "lib")
    with (proj / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    shown = tree(proj)
    grantfs.kill()
    assert error_of(lambda: os.listdir(mount)) in ("ENOTCONN", "ECONNABORTED")
    (row,) = grantfs.ask("ps")
    assert (row["running"], row["pid"], row["grants"]) == (False, None, 1)
    grantfs.run("status", code=6)
    assert grantfs.up() == mount
    assert tree(proj) == shown
    assert tree(source, identity=True) == before
    assert grantfs.ask("audit", "verify")["ok"] is True
    assert "daemon.recovered" in [event["event"] for event in grantfs.events()]
    assert grantfs.ask("commit", "-y")["remaining"] == []


def test_down_force_and_rm_clean_up_after_a_crash(grantfs: Grantfs, source: Path) -> None:
    grantfs.up(source, "--name", "w")
    grantfs.kill()
    grantfs.run("down", code=6)
    assert len(mounts(grantfs.home)) == 1
    grantfs.run("down", "--force")
    assert mounts(grantfs.home) == []
    grantfs.up()
    grantfs.kill()
    grantfs.run("rm", "w", "-y")
    assert mounts(grantfs.home) == []
    assert not (grantfs.home / "mnt" / "w").exists()


WRITER = """
import os, sys
folder, number = sys.argv[1], 0
while True:
    name = f"{folder}/f{number}"
    try:
        with open(name + ".tmp", "w") as file:
            file.write(f"{number}\\n" * 500)
            file.flush()
            os.fsync(file.fileno())
        os.rename(name + ".tmp", name)
    except OSError:
        break
    print(number, flush=True)
    number += 1
"""


def _write_until_killed(grantfs: Grantfs, folder: Path, count: int) -> int:
    """Have an agent save files one after another, kill the daemon in the middle; how many saves
    had returned."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) == count:
            break
    grantfs.kill()
    rest = writer.stdout.read().split()
    writer.stdout.close()
    writer.wait(timeout=30)
    return int(rest[-1]) if rest else count


@pytest.mark.parametrize("count", [5, 60])
def test_kill_9_while_the_agent_writes_loses_nothing_that_had_returned(
    grantfs: Grantfs, source: Path, count: int
) -> None:
    proj = grantfs.up(source) / "proj"
    done = _write_until_killed(grantfs, proj, count)
    assert grantfs.up() / "proj" == proj
    for number in range(done + 1):
        assert (proj / f"f{number}").read_text() == f"{number}\n" * 500, number
    assert grantfs.ask("audit", "verify")["ok"] is True
    landed = grantfs.ask("commit", "-y")
    assert landed["remaining"] == []
    assert (source / f"f{done}").read_text() == f"{done}\n" * 500


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_many_kills_in_a_row(grantfs: Grantfs, source: Path) -> None:
    for round_number in range(15):
        proj = grantfs.up(source, "--name", "w") / "proj"
        folder = proj / f"round{round_number}"
        folder.mkdir()
        done = _write_until_killed(grantfs, folder, 1 + round_number * 7 % 40)
        grantfs.up()
        for number in range(done + 1):
            assert (folder / f"f{number}").read_text() == f"{number}\n" * 500
        verified = grantfs.ask("audit", "verify")
        assert verified["ok"] is True, verified
        grantfs.run("down")


@pytest.mark.slow
def test_down_force_ends_a_daemon_that_answers_nobody(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(source)
    (mount / "proj" / "new").write_text("new\n")
    pid = grantfs.pid()
    os.kill(pid, signal.SIGSTOP)
    grantfs.run("down", "--force")
    assert not alive(pid)
    assert mounts(grantfs.home) == []
    grantfs.up()
    assert grantfs.status() == {"proj/new": "added"}


def test_compiled_rules_are_shared_by_workspaces_and_taken_from_no_folder_of_others(
    grantfs: Grantfs, source: Path
) -> None:
    cache = grantfs.home / "cache"
    for path in cache.iterdir():
        path.unlink()
    proj = grantfs.up(source, "--name", "one") / "proj"
    shown = (proj / ".env").read_bytes()
    (made,) = cache.iterdir()
    assert made.stat().st_mode & 0o777 == 0o600
    grantfs.run("down", "-w", "one")
    # Damaged, or for others to write: made anew, or done without; never a word less masked.
    made.write_bytes(made.read_bytes()[:-1] + b"x")
    proj = grantfs.up(source, "--name", "two") / "proj"
    assert len((proj / ".env").read_bytes()) == len(shown)
    assert (proj / ".env").read_bytes() != (source / ".env").read_bytes()
    grantfs.run("down", "-w", "two")
    grantfs.announce("no cache of compiled rules")
    cache.chmod(0o777)
    proj = grantfs.up(source, "--name", "three") / "proj"
    assert (proj / ".env").read_bytes() != (source / ".env").read_bytes()
    assert grantfs.run("up", cache, "--name", "four", code=None).code != 0
