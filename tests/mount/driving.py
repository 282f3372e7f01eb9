"""Drives the installed `grantfs` console script on real mounts, and sees to it that nothing stays.

Everything a test starts lives under one GRANTFS_HOME of its own; `Grantfs.finish` takes it down
and says what was left behind: a mount, a daemon, or an error in a daemon's log that the test had
not announced.
"""

import contextlib
import errno
import json
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPT = Path(sys.executable).with_name("grantfs")
"""The console script of the environment that runs the tests."""

CALL_SECONDS = 60
"""No call of the command line may take longer; one that does is a hang."""

TOKEN = b"ghp_" + b"16C7e42F292c6912E7710c838347Ae178B4a"
PASSWORD = b"correct-Horse7-battery"
ENV = b"# settings\nGITHUB_TOKEN=" + TOKEN + b"\nDB_PASSWORD=" + PASSWORD + b"\nPORT=8080\n"
"""A file with two secrets, each on a line of its own."""

homes: list[Path] = []
"""Every GRANTFS_HOME of this run: the session's last check looks for mounts below them."""


# -- waiting and looking -------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait for what announces itself by no event; fails after *seconds*, naming *what*."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)


def mounts(below: Path | None = None) -> list[str]:
    """Mountpoints of grantfs workspaces, dead ones included."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        if after.split()[0] == "fuse.grantfs" and (
            below is None or point == str(below) or point.startswith(f"{below}/")
        ):
            found.append(point)
    return found


def alive(pid: int) -> bool:
    """True while a process runs; a zombie has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields.rpartition(")")[2].split()[0] not in ("Z", "X")


def daemons(home: Path) -> list[int]:
    """Pids of the daemons that serve workspaces below *home*."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"gateway.daemon" not in words or not alive(int(folder.name)):
                continue
            # A daemon's memory is closed to its own user as well, root may look.
            if f"GRANTFS_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def tree(folder: Path, *, identity: bool = False) -> dict[str, tuple[Any, ...]]:
    """Everything below a folder by relative name: kind, mode and content.

    With *identity* also inode number, modification and change time: equal means untouched.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            content: Any = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        else:
            content = None
        entry: tuple[Any, ...] = (stat.filemode(status.st_mode), content)
        if identity:
            entry += (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        found[str(path.relative_to(folder))] = entry
    return found


def differences(
    found: Mapping[str, tuple[Any, ...]], wanted: Mapping[str, tuple[Any, ...]]
) -> list[str]:
    """In what two trees differ, a line each: far shorter than the trees."""
    lines = []
    for name in sorted({*found, *wanted}):
        if found.get(name) != wanted.get(name):
            here, there = str(found.get(name))[:150], str(wanted.get(name))[:150]
            lines.append(f"{name}: {here} is not {there}")
    return lines


def error_of(operation: Callable[[], object]) -> str:
    """The name of the errno that an operation ends with, "" if it succeeds."""
    try:
        operation()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def fill_disk(folder: Path, leave: int = 0) -> Path:
    """Fill the file system but for *leave* bytes."""
    filler = folder / "filler"
    space = os.statvfs(folder)
    left = max(0, space.f_bavail * space.f_frsize - leave)
    with filler.open("wb", buffering=0) as file:
        # A daemon at work may take some of it first.
        piece = bytes(4096)
        while left > 0 and not error_of(lambda: file.write(piece)):
            left -= len(piece)
    return filler


# -- users ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class User:
    """A Unix user that tests can be."""

    uid: int
    gid: int
    name: str

    @property
    def popen(self) -> dict[str, Any]:
        """What `subprocess` needs to be this user."""
        if self.uid == os.getuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def myself() -> User:
    """The user that runs the tests."""
    entry = pwd.getpwuid(os.getuid())
    return User(entry.pw_uid, entry.pw_gid, entry.pw_name)


# -- the command line ----------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """How one call of the command line ended."""

    arguments: tuple[str, ...]
    code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        """Standard output as the one JSON document that it is."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line of an error, without the program's name."""
        lines = self.err.splitlines()
        assert len(lines) == 1, f"an error is one line: {self.err!r}"
        assert lines[0].startswith("grantfs: "), self.err
        return lines[0].removeprefix("grantfs: ")


_compiled: dict[str, bytes] = {}


class Grantfs:
    """The command line with a GRANTFS_HOME of its own, for one user."""

    def __init__(self, base: Path, user: User | None = None) -> None:
        self.user = user or myself()
        self.home = base / "home"
        self.home.mkdir(mode=0o700)
        if self.user.uid != os.getuid():
            os.chown(self.home, self.user.uid, self.user.gid)
        homes.append(self.home)
        self._hand_on_rules()
        self._announced: list[re.Pattern[str]] = []
        self._bad_lines: list[str] = []
        self._pids: set[int] = set()
        self._killed = False

    def _hand_on_rules(self) -> None:
        """To compile the rules takes seconds: a new home gets what the ones before it made."""
        cache = self.home / "cache"
        cache.mkdir(mode=0o700)
        for name, data in _compiled.items():
            (cache / name).write_bytes(data)
        if self.user.uid != os.getuid():
            for path in (cache, *cache.iterdir()):
                os.chown(path, self.user.uid, self.user.gid)

    def _keep_rules(self) -> None:
        for path in (self.home / "cache").glob("rules-*.hsdb"):
            if path.name not in _compiled:
                _compiled[path.name] = path.read_bytes()

    # -- calling ---------------------------------------------------------------------------

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of a call: this user's, and nothing of grantfs's but the home."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("GRANTFS_")}
        for name in ("PYTHONPATH", "NO_COLOR", "PAGER", "GIT_PAGER"):
            kept.pop(name, None)
        return kept | {
            "GRANTFS_HOME": str(self.home),
            "HOME": str(self.home.parent),
            "USER": self.user.name,
            "LOGNAME": self.user.name,
            **(extra or {}),
        }

    def start(self, *arguments: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
        """Start a call and do not wait for it."""
        extra = options.pop("env", None)
        return subprocess.Popen(
            [SCRIPT, *map(str, arguments)],
            env=self.environment(extra),
            cwd=options.pop("cwd", self.home.parent),
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **self.user.popen,
            **options,
        )

    def run(
        self,
        *arguments: str | Path,
        code: int | None = 0,
        input: bytes | None = None,
        prefix: Sequence[str | Path] = (),
        **options: Any,
    ) -> Done:
        """One call to its end; *code* is the exit code that it must have, None for any.

        *prefix* is a command that runs it, such as one that makes a mount namespace. Whatever the
        call, standard error holds lines of grantfs's own and never a traceback.
        """
        extra = options.pop("env", None)
        words = tuple(map(str, arguments))
        if words[:1] == ("rm",):
            self._read_logs()
        done = subprocess.run(
            [*map(str, prefix), str(SCRIPT), *words],
            env=self.environment(extra),
            cwd=options.pop("cwd", self.home.parent),
            input=input or b"",
            capture_output=True,
            timeout=CALL_SECONDS,
            check=False,
            **self.user.popen,
            **options,
        )
        err = done.stderr.decode(errors="surrogateescape")
        result = Done(words, done.returncode, done.stdout, err)
        shown = f"grantfs {' '.join(words)}: exit {done.returncode}\n{done.stdout!r}\n{err}"
        if code is not None:
            assert done.returncode == code, shown
        if "--debug" not in words:
            assert "Traceback" not in err, shown
        return result

    def ask(self, *arguments: str | Path, code: int = 0, **options: Any) -> Any:
        """One call with `--json`: its document."""
        return self.run(*arguments, "--json", code=code, **options).json

    def up(self, *arguments: str | Path, **options: Any) -> Path:
        """`up`; the mountpoint."""
        info = self.ask("up", *arguments, **options)
        self._pids.add(info["pid"])
        return Path(info["mountpoint"])

    def pid(self, name: str | None = None) -> int:
        """Pid of the (named) running daemon."""
        found = [
            row["pid"]
            for row in self.ask("ps")
            if row["running"] and name in (None, row["workspace"])
        ]
        assert len(found) == 1, found
        return int(found[0])

    def kill(self) -> None:
        """`kill -9` for the running daemon, and wait until it is gone."""
        pid = self.pid()
        self._killed = True
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid), "the killed daemon is gone")

    def status(self, *paths: str | Path) -> dict[str, str]:
        """Staged changes: path and kind."""
        return {one["path"]: one["kind"] for one in self.ask("status", *paths)["changes"]}

    def events(self, *arguments: str) -> list[dict[str, Any]]:
        """The log."""
        lines = self.run("audit", *arguments, "--json").out.splitlines()
        return [json.loads(line) for line in lines]

    def state(self, name: str) -> Path:
        """A workspace's state folder."""
        return self.home / "state" / name

    # -- looking after ---------------------------------------------------------------------

    def announce(self, pattern: str) -> None:
        """Say that the daemon's log will hold an error that matches *pattern*."""
        self._announced.append(re.compile(pattern))

    def _read_logs(self) -> None:
        """Keep every error, with its traceback, that was not announced."""
        for path in self.home.glob("state/*/daemon.log"):
            for entry in re.split(r"^(?=\d{4}-)", path.read_text(errors="replace"), flags=re.M):
                bad = re.search(r" (ERROR|CRITICAL|WARNING) |^Traceback|Warning:", entry, re.M)
                if bad and not any(pattern.search(entry) for pattern in self._announced):
                    self._bad_lines.append(entry)

    def force_end(self) -> None:
        """End every daemon at once, so that whoever waits for its mount goes on."""
        for pid in {*self._pids, *daemons(self.home)}:
            if alive(pid) and b"gateway.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def finish(self) -> list[str]:
        """Take everything down; what was wrong or left behind."""
        wrong = []
        try:
            # A daemon that the test killed leaves its mount; all others unmount by themselves.
            done = self.run("down", "--all", *["--force"] * self._killed, code=None)
            if done.code:
                wrong.append(f"down --all: {done.code}: {done.err}")
        except (subprocess.TimeoutExpired, AssertionError) as error:
            wrong.append(f"down --all: {error}")
        self._read_logs()
        wrong += [f"in a daemon's log: {line}" for line in self._bad_lines]
        left = {pid for pid in self._pids if alive(pid)} | set(daemons(self.home))
        wrong += [f"daemon {pid} still runs" for pid in left]
        self.force_end()
        for point in mounts(self.home.parent):
            wrong.append(f"{point} is still mounted")
            subprocess.run(["umount", "-l", point], check=False)
        return wrong


@contextlib.contextmanager
def driving(seconds: float, user: User | None = None) -> Iterator[Grantfs]:
    """A `Grantfs` in a new folder under the system's temporary one, open to *user*.

    After *seconds* its daemons are killed: a call that waits for a wedged mount cannot be
    interrupted, and this lets it end with an error.
    """
    before = set(os.listdir("/proc/self/fd"))
    base = Path(tempfile.mkdtemp(prefix="grantfs-test-"))
    if user is not None and user.uid != os.getuid():
        os.chown(base, user.uid, user.gid)
    made = Grantfs(base, user)
    watchdog = threading.Timer(seconds, made.force_end)
    watchdog.daemon = True
    watchdog.start()
    try:
        yield made
    finally:
        watchdog.cancel()
        wrong = made.finish()
        made._keep_rules()
        watchdog.join()
        shutil.rmtree(base, ignore_errors=True)
    left = set(os.listdir("/proc/self/fd")) - before
    for number in left:
        with contextlib.suppress(OSError):  # the listing's own is gone by now
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith(str(base)):
                wrong.append(f"descriptor of {target} left open")
    assert not wrong, "\n".join(wrong)
