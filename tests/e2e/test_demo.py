"""`./dev demo` tells its story, all of it true, and leaves nothing behind, however it ends.

The story is its own test: each claim in it is checked as it is told. Here stand that it is told to
its end, over a repository and over a plain folder, and how it ends when it cannot be.
"""

import contextlib
import ctypes
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PR_SET_CHILD_SUBREAPER = 36

needs_fuse = pytest.mark.skipif(
    not os.access("/dev/fuse", os.R_OK | os.W_OK), reason="/dev/fuse is not open to this user"
)


def _children() -> set[int]:
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended
            found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


def _has_ended(pid: int) -> bool:
    """True for a child that has ended, which is then reaped."""
    return os.waitpid(pid, os.WNOHANG) != (0, 0)


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """The demo's TMPDIR; afterwards nothing is in it or mounted there, and no process is left.

    Processes that lose their parent become children of this one meanwhile, the daemon among them.
    """
    prctl = ctypes.CDLL(None).prctl
    before = _children()
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    folder = tmp_path / "temporary"
    folder.mkdir()
    try:
        yield folder
        assert [pid for pid in _children() - before if not _has_ended(pid)] == []
        assert os.fsencode(folder) not in Path("/proc/self/mountinfo").read_bytes()
        assert list(folder.iterdir()) == []
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.demo", *arguments]


def _environment(temporary: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return kept | {"TMPDIR": str(temporary)} | more


def _run(temporary: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        _command(*arguments), cwd=ROOT, env=_environment(temporary), capture_output=True,
        text=True, check=False,
    )  # fmt: skip


STORY = (
    "none of the 6 planted secrets is shown",
    "each has a placeholder of its own length; all else is as it was",
    "a file that is a key as a whole is refused, not masked",
    "no entry holds a secret",
    "nothing in the source has changed yet",
    "no secret is in grantfs's own files either",
    "what was masked stays masked in it",
    "every secret is back, byte for byte, and both edits",
    "the granted folder has vanished",
    "the open descriptor is dead",
    "the map faults",
    "nobody has changed, dropped or moved an entry",
    "nothing is mounted any more",
)


def _assert_told(done: "subprocess.CompletedProcess[str]", temporary: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    checked = re.findall(r"^ok  (.*)$", done.stdout, re.MULTILINE)
    assert [claim for claim in STORY if claim not in checked] == []
    assert done.stdout.endswith("Nothing is left: no mount, no process, no file.\n")
    assert "\033" not in done.stdout
    assert str(temporary) not in done.stdout, "paths of the temporary folder are in the way"
    assert done.stderr == ""


@needs_fuse
def test_it_tells_its_story_on_a_copy_of_this_repository(temporary: Path) -> None:
    before = _head()
    done = _run(temporary)
    _assert_told(done, temporary)
    assert "$ git status --short" in done.stdout
    assert "ok  git works as in a plain folder" in done.stdout
    assert _head() == before


def _head() -> str:
    command = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


@needs_fuse
def test_it_tells_its_story_on_a_plain_folder_and_leaves_that_alone(
    tmp_path: Path, temporary: Path
) -> None:
    folder = tmp_path / "a folder"
    (folder / ".ssh").mkdir(parents=True)
    (folder / "read me.txt").write_text("hello\n")
    (folder / "out").symlink_to("/etc/hostname")
    (folder / "locked").mkdir(mode=0o500)
    os.mkfifo(folder / "pipe")
    before = sorted(path.name for path in folder.rglob("*"))
    done = _run(temporary, str(folder))
    _assert_told(done, temporary)
    assert "the git steps are left out" in done.stdout
    assert "$ git" not in done.stdout
    assert "Hidden by the built-in policy: .ssh." in done.stdout
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert (folder / "read me.txt").read_text() == "hello\n"


@needs_fuse
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("line", ["1. A workspace", "2. What the agent", "6. The end"])
def test_an_interrupt_leaves_nothing(
    tmp_path: Path, temporary: Path, line: str, number: signal.Signals
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with subprocess.Popen(
        _command(str(folder)), cwd=ROOT, env=_environment(temporary), stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert any(told.startswith(line) for told in process.stdout)
        process.send_signal(number)
        rest = process.stdout.read()
    assert process.returncode == 130, rest
    assert rest.endswith("demo: interrupted\n")


def test_what_cannot_be_copied_is_refused(tmp_path: Path, temporary: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    with (large / "sparse").open("wb") as file:
        file.truncate(201_000_000)
    done = _run(temporary, str(large))
    assert done.returncode == 1
    assert re.fullmatch(r"demo: .* is large: .*, or add --large\n", done.stdout)
    done = _run(temporary, str(tmp_path / "missing"))
    assert done.returncode == 1
    assert re.fullmatch(r"demo: cannot copy .*\n", done.stdout)
    assert _run(temporary, "--unknown").returncode == 2


@pytest.mark.parametrize("no_color", ["", "1"])
def test_colour_is_for_terminals_that_want_it(temporary: Path, no_color: str) -> None:
    ours, theirs = pty.openpty()
    try:
        subprocess.run(
            _command("missing"), cwd=ROOT, env=_environment(temporary, NO_COLOR=no_color),
            stdout=theirs, check=False,
        )  # fmt: skip
        told = os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"demo: " in told
    assert (b"\033[31m" in told) == (not no_color)
