"""How the demo runs programs and how it talks: its runner and its teller."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from gateway.audit.sentences import visible

WIDTH = 88


class NotAsTold(Exception):
    """Something is not as the story says."""


class Interrupts:
    """SIGINT, SIGTERM and SIGHUP as one KeyboardInterrupt, at a moment that leaves nothing behind:
    while a program is being started, or must come to its end, they wait. After the first, or
    after `off`, none breaks off anything."""

    def __init__(self) -> None:
        self._holds = 0
        self._waiting = False
        self._over = False

    def take(self) -> None:
        """Become the handler of these signals."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    def off(self) -> None:
        """From here on the signals do nothing."""
        self._over = True

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._waiting = True
        self._raise()

    def _raise(self) -> None:
        if self._waiting and not self._holds and not self._over:
            self._over = True
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the signals wait until the end of the block."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        self._raise()


interrupts = Interrupts()


class Teller:
    """Prints the story. Colour only on a terminal and never under NO_COLOR; what came from files
    or programs is escaped, and the paths in `names` are shown by their short names."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = out.isatty() and not os.environ.get("NO_COLOR")
        self.names: dict[str, str] = {}

    def _print(self, text: str, style: str = "") -> None:
        for path in sorted(self.names, key=len, reverse=True):
            text = text.replace(path, self.names[path])
        if style and self._colour:
            text = f"\033[{style}m{text}\033[0m"
        self._out.write(text + "\n")
        self._out.flush()

    def heading(self, text: str) -> None:
        """Begin a section."""
        self._print("")
        self._print(text, "1")
        self._print("-" * len(text), "1")

    def step(self, text: str) -> None:
        """Begin a step of the agent's."""
        self._print("")
        self._print(text, "3")

    def note(self, text: str) -> None:
        """Say something in plain words."""
        for path, name in self.names.items():
            text = text.replace(path, name)
        self._print(textwrap.fill(visible(text), WIDTH))

    def command(self, text: str) -> None:
        """Show a command that is run."""
        self._print(f"$ {visible(text)}", "36")

    def output(self, text: str, lines: int = 20) -> None:
        """Show what a command printed, its first *lines* lines."""
        found = text.splitlines()
        for line in found[:lines]:
            self._print(f"  {visible(line)}".rstrip())
        if len(found) > lines:
            self._print(f"  ... and {len(found) - lines} more lines", "2")

    def check(self, holds: bool, claim: str) -> None:
        """State a claim that was checked. Raises NotAsTold if it does not hold."""
        if not holds:
            raise NotAsTold(f"this is not so: {claim}")
        self._print(f"ok  {claim}", "32")

    def failure(self, text: str) -> None:
        """Say that and why the demo ends here."""
        self._print(f"demo: {visible(text)}", "31")

    def end(self, text: str) -> None:
        """The last words."""
        self._print("")
        self._print(text, "1")


class Runner:
    """Runs programs, each in a session of its own: an interrupt is the demo's to handle, so that
    a command that brings up a daemon always comes to its end (`finish`)."""

    def __init__(self, environment: dict[str, str], teller: Teller) -> None:
        self._environment = environment
        self._tell = teller
        self._grantfs = Path(sys.executable).with_name("grantfs")
        self._mappers: list[Mapper] = []

    def _run(
        self, command: Sequence[str], *, finish: bool, merge: bool, cwd: Path | None = None,
        extra: dict[str, str] | None = None,
    ) -> tuple[int, str, str]:  # fmt: skip
        process: subprocess.Popen[str] | None = None
        with interrupts.held() if finish else nullcontext():
            try:
                with interrupts.held():
                    process = subprocess.Popen(
                        command, cwd=cwd, env=self._environment | (extra or {}),
                        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT if merge else subprocess.PIPE, text=True,
                        errors="surrogateescape",
                    )  # fmt: skip
                out, err = process.communicate()
            except BaseException:
                if process is not None:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
                raise
        return process.returncode, out, err or ""

    def grantfs(self, arguments: Sequence[str]) -> str:
        """Run grantfs; its output, messages last. Raises NotAsTold if it fails."""
        command = [str(self._grantfs), *arguments]
        code, out, err = self._run(command, finish=True, merge=False)
        if code:
            raise NotAsTold(f"grantfs {arguments[0]} ended with {code}: {(err or out).strip()}")
        return out + err

    def grantfs_json(self, arguments: Sequence[str]) -> Any:
        """Run grantfs with --json; the document."""
        return json.loads(self.grantfs_lines(arguments)[0])

    def grantfs_lines(self, arguments: Sequence[str]) -> list[str]:
        """Run grantfs with --json; the lines that it printed."""
        command = [str(self._grantfs), *arguments, "--json"]
        code, out, err = self._run(command, finish=True, merge=False)
        if code:
            raise NotAsTold(f"grantfs {arguments[0]} ended with {code}: {err.strip()}")
        return out.splitlines()

    def quietly(self, arguments: Sequence[str]) -> None:
        """Run grantfs for cleaning up, whatever it says."""
        self._run([str(self._grantfs), *arguments], finish=True, merge=True)

    def script(self, path: Path, folder: Path, extra: dict[str, str]) -> str:
        """Run a shell script in a folder; all that it printed."""
        code, out, _err = self._run(
            ["bash", str(path)], finish=False, merge=True, cwd=folder, extra=extra
        )
        if code:
            raise NotAsTold(f"{path.name} ended with {code}: {out[-500:]}")
        return out

    def mapper(self, path: Path) -> "Mapper":
        """A process that has a file mapped."""
        with interrupts.held():
            mapper = Mapper(path, self._environment)
            self._mappers.append(mapper)
        return mapper

    def close(self) -> None:
        """End what is still running."""
        for mapper in self._mappers:
            mapper.end()


class Mapper:
    """A process that maps a file, reads from the map, and reads again when told."""

    _CODE = """
import mmap, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with open(sys.argv[1], "rb") as file:
    pages = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
pages[0]
print("mapped", flush=True)
sys.stdin.readline()
pages[0]
"""

    def __init__(self, path: Path, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._CODE, str(path)], env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "mapped\n":
            self.end()
            raise NotAsTold(f"{path.name} could not be mapped")

    def touch(self) -> int:
        """Read from the map again; the exit code of the process."""
        self._process.communicate("\n")
        return self._process.returncode

    def end(self) -> None:
        """End the process and close its pipes."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
