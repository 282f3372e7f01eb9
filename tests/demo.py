"""`./dev demo [FOLDER]`: grantfs at work on a copy of FOLDER, told as a story on the terminal.

All output of commands is real, and every claim of the story is checked: a line that begins with
`ok` was found to be so, and the first that is not ends the demo with exit code 1. Nothing outside
a temporary folder is touched, and nothing stays mounted, running or on the disk, however it ends.
"""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.demo_copy import Refused, Stand, git_environment, prepare, remove
from tests.demo_tools import NotAsTold, Runner, Teller, interrupts

ROOT = Path(__file__).resolve().parents[1]
USAGE = "usage: ./dev demo [--large] [FOLDER]"
NAME = "demo"
SHOWN_LINES = 12
"""How much of a long output is shown."""


class Demo:
    """One telling. `base` is the temporary folder that holds all of it."""

    def __init__(self, base: Path, stand: Stand, teller: Teller) -> None:
        self._stand = stand
        self._tell = teller
        self._home = base / "home"
        self._mount = self._home / "mnt" / NAME
        self._inside = self._mount / stand.source.name
        self._run = Runner(self._environment(base), teller)
        teller.names = {
            str(self._mount): "$MOUNT",
            str(self._home): "$GRANTFS_HOME",
            str(stand.source): "$SOURCE",
        }

    def _environment(self, base: Path) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "USER") if name in os.environ}
        return {
            **kept,
            **git_environment(base),
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "GRANTFS_HOME": str(self._home),
            # The user's own keyring is not for demos.
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        }

    def _grantfs(self, *arguments: str, show: bool = True, lines: int = SHOWN_LINES) -> str:
        if show:
            words = [_short(argument) for argument in arguments]
            self._tell.command(" ".join(["grantfs", *words]))
        done = self._run.grantfs(arguments)
        if show:
            self._tell.output(done, lines)
        return done

    def _json(self, *arguments: str) -> Any:
        return self._run.grantfs_json(arguments)

    # -- the story -------------------------------------------------------------------------

    def tell(self) -> None:
        """Tell it all. Raises NotAsTold where something is not as told."""
        before = self._tree()
        self._begin()
        self._agent()
        self._log()
        self._review(before)
        self._commit()
        self._revoke()
        self._end()

    def _begin(self) -> None:
        tell = self._tell
        tell.heading("1. A workspace")
        for line in self._stand.told:
            tell.note(line)
        self._grantfs("up", str(self._stand.source), "--name", NAME)
        tell.command("ls -A $MOUNT")
        tell.output("\n".join(sorted(os.listdir(self._mount))))
        tell.check(os.path.ismount(self._mount), "the mount answers")
        shown, there = set(os.listdir(self._inside)), set(os.listdir(self._stand.source))
        if there - shown:
            tell.note(f"Hidden by the built-in policy: {', '.join(sorted(there - shown))}.")
        tell.check(
            shown <= there and self._stand.secrets in shown, "it shows the granted folder's names"
        )

    def _agent(self) -> None:
        stand, tell = self._stand, self._tell
        tell.heading("2. What the agent saw and did, in $MOUNT/" + stand.source.name)
        script = Path(__file__).with_name("demo_agent.sh")
        extra = {
            "SECRETS": stand.secrets, "KEY": stand.key, "SAVED": stand.saved,
            "REMOVED": stand.removed, "MOVED": stand.moved, "WITH_GIT": str(int(stand.has_git)),
        }  # fmt: skip
        told = self._run.script(script, self._inside, extra)
        for heading, command, output in _steps(told):
            if heading:
                tell.step(heading)
            tell.command(command)
            tell.output(output, SHOWN_LINES)
            if command.startswith("cat ") and stand.secrets in command:
                self._check_masked(output)
            if command.startswith("cat ") and stand.key in command:
                refused = "Permission denied" in output
                tell.check(refused, "a file that is a key as a whole is refused, not masked")
            if command == "git status --short":
                self._check_git(output)
        if not stand.has_git:
            tell.note("The folder is not a git repository: the git steps are left out.")
        tell.check(
            (self._inside / "agent/report.txt").exists(), "the agent's files are in the mount"
        )

    def _check_masked(self, output: str) -> None:
        stand, tell = self._stand, self._tell
        leaked = [name for name, value in stand.values.items() if value in output]
        tell.check(not leaked, f"none of the {len(stand.values)} planted secrets is shown")
        original = stand.text.encode()
        tell.check(
            len(output.encode()) == len(original) and "MASKED" in output,
            "each has a placeholder of its own length; all else is as it was",
        )

    def _check_git(self, output: str) -> None:
        changed = [line for line in output.splitlines() if not line.startswith("??")]
        self._tell.check(
            self._stand.secrets not in "".join(changed), "git works as in a plain folder"
        )
        if changed:
            self._tell.note(
                "The files marked M are tracked ones that hold what looks like a secret: git sees"
                " the masked text. This is a known limit."
            )

    def _log(self) -> None:
        tell = self._tell
        tell.heading("3. What the log recorded")
        name = f"{self._stand.source.name}/{self._stand.secrets}"
        opened = self._grantfs("audit", "show", "--path", name, "--event", "open", lines=4)
        tell.check("/cat, pid" in opened, "who opened the settings, and with which program")
        refused = self._grantfs("audit", "show", "--event", "refuse", lines=4)
        tell.check(self._stand.key in refused, "the refusal, with the rule that decided it")
        records = self._run.grantfs_lines(("audit", "show"))
        everything = "\n".join(records)
        tell.note(f"{len(records)} entries in all.")
        tell.check(not self._leaks(everything), "no entry holds a secret")

    def _review(self, before: dict[str, bytes]) -> None:
        stand, tell = self._stand, self._tell
        tell.heading("4. The review")
        tell.check(self._tree() == before, "nothing in the source has changed yet")
        tell.check(not self._leaks_at_rest(), "no secret is in grantfs's own files either")
        shown = self._grantfs("status")
        tell.check("to put back" in shown, "the secrets in the edited settings are known as such")
        patch = self._grantfs("diff", f"{stand.source.name}/{stand.secrets}", lines=20)
        tell.check("+LOG_LEVEL=debug" in patch, "the diff shows the agent's edit")
        tell.check(not self._leaks(patch), "what was masked stays masked in it")

    def _commit(self) -> None:
        stand, tell = self._stand, self._tell
        tell.heading("5. The commit")
        wanted = [stand.secrets, stand.saved, stand.removed, stand.moved, "agent"]
        paths = [f"{stand.source.name}/{one}" for one in wanted]
        self._grantfs("commit", "-y", "-m", "what the agent did", *paths)
        status = self._json("status")
        left = [change["path"] for change in status["changes"]]
        if left:
            tell.note(f"Not named, so still staged: {', '.join(left)}. It can go:")
            self._grantfs("discard", "-y")
        committed = (stand.source / stand.secrets).read_text()
        tell.command(f"cat $SOURCE/{stand.secrets}")
        tell.output(stand.covered(committed))
        tell.note("(The demo covers the invented secrets here; the file has them in plain.)")
        expected = stand.text.replace("LOG_LEVEL=info", "LOG_LEVEL=debug") + "FEATURE_SEARCH=on\n"
        tell.check(committed == expected, "every secret is back, byte for byte, and both edits")
        saved = (stand.source / stand.saved).read_text(errors="surrogateescape")
        tell.check(saved.endswith("A line from the agent.\n"), "the saved file has its new line")
        there = [stand.source / name for name in ("agent/report.txt", stand.moved + ".moved")]
        gone = [stand.source / name for name in (stand.removed, stand.moved)]
        tell.check(
            all(map(Path.exists, there)) and not any(map(Path.exists, gone)),
            "the new file is there, the deleted one gone, the renamed one moved",
        )

    def _revoke(self) -> None:
        stand, tell = self._stand, self._tell
        tell.heading("6. The end of the grant")
        tell.note("A program has a file of the mount open, and another one mapped into memory.")
        fd = os.open(self._inside / stand.saved, os.O_RDONLY)
        mapper = self._run.mapper(self._inside / stand.secrets)
        try:
            tell.check(bool(os.pread(fd, 1, 0)), "both can be read")
            tell.command("ls -A $MOUNT")
            tell.output("\n".join(sorted(os.listdir(self._mount))))
            self._grantfs("revoke", "--all")
            tell.command("ls -A $MOUNT")
            after = sorted(os.listdir(self._mount))
            tell.output("\n".join(after))
            tell.check(after == [".grantfs"], "the granted folder has vanished")
            tell.check(_is_dead(fd), "the open descriptor is dead")
            tell.check(mapper.touch() == -signal.SIGBUS, "the map faults")
        finally:
            mapper.end()
            os.close(fd)

    def _end(self) -> None:
        tell = self._tell
        tell.heading("7. The log, proved")
        verified = self._grantfs("audit", "verify")
        tell.check("the log holds" in verified, "nobody has changed, dropped or moved an entry")
        self._grantfs("down")
        tell.check(not os.path.ismount(self._mount), "nothing is mounted any more")
        tell.check(not self._leaks_at_rest(), "and no secret was left in grantfs's files")

    # -- looking at things -----------------------------------------------------------------

    def _leaks(self, text: str) -> bool:
        return any(value in text for value in self._stand.values.values())

    def _leaks_at_rest(self) -> bool:
        values = [value.encode() for value in self._stand.values.values()]
        for path in (self._home / "state").rglob("*"):
            if path.is_file() and any(value in path.read_bytes() for value in values):
                return True
        return False

    def _tree(self) -> dict[str, bytes]:
        return dict(_files(self._stand.source))

    def close(self) -> None:
        """Leave nothing running or mounted, whatever has happened."""
        self._run.close()
        if (self._home / "state" / NAME).exists():
            self._run.quietly(("down", "-w", NAME, "--force"))
            self._run.quietly(("rm", NAME, "-y"))
        if os.path.ismount(self._mount):
            raise NotAsTold(f"{self._mount} is still mounted")


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            yield str(path), os.fsencode(os.readlink(path))
        elif path.is_file():
            yield str(path), path.read_bytes()


def _is_dead(fd: int) -> bool:
    try:
        os.pread(fd, 1, 0)
    except OSError:
        return True
    return False


def _short(argument: str) -> str:
    return f"'{argument}'" if " " in argument else argument


def _steps(told: str) -> Iterator[tuple[str, str, str]]:
    """(heading, command, output) of each command in what the agent's script printed; the heading
    is empty but at the first command of a step."""
    heading = ""
    for record in told.split("\x1e")[1:]:
        first, _, output = record.partition("\n")
        if first.startswith("# "):
            heading = first[2:]
        else:
            yield heading, first[2:], output
            heading = ""


# -- the program ---------------------------------------------------------------------------


def _arguments(arguments: list[str]) -> tuple[Path, bool] | None:
    large = "--large" in arguments
    names = [argument for argument in arguments if argument != "--large"]
    if len(names) > 1 or any(name.startswith("-") for name in names):
        return None
    return Path(names[0] if names else ROOT), large


def main(arguments: list[str]) -> int:
    """Tell the story; 0 if all of it was as told, 1 if not, 2 for bad usage, 130 if interrupted."""
    chosen = _arguments(arguments)
    if chosen is None:
        print(f"{USAGE}\n  --large  also where more than 200 MB have to be copied", file=sys.stderr)
        return 2
    folder, large = chosen
    teller = Teller(sys.stdout)
    interrupts.take()
    demo: Demo | None = None
    base: Path | None = None
    code = 1
    try:
        with interrupts.held():
            base = Path(os.path.realpath(tempfile.mkdtemp(prefix="grantfs-demo-")))
        stand = prepare(folder, base, large=large)
        demo = Demo(base, stand, teller)
        demo.tell()
        interrupts.off()
        code = 0
    except (Refused, NotAsTold) as error:
        teller.failure(str(error))
    except KeyboardInterrupt:
        teller.failure("interrupted")
        code = 130
    finally:
        interrupts.off()
        try:
            if demo is not None:
                demo.close()
            if base is not None:
                remove(base)
        except (NotAsTold, OSError) as error:
            teller.failure(f"could not clean up {base}: {error}")
            code = 1
    if code == 0:
        teller.end("All of it was as told. Nothing is left: no mount, no process, no file.")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
