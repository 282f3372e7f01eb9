"""`status`, `diff`, `commit`, `discard`, `log`, `show`: what the agent changed, and what of it
lands."""

import os
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import click

from gateway.cli.context import State, all_forms, confirm, page, pass_state, printable, shared, tell
from gateway.errors import EXIT_CONFLICT, EXIT_FAILED, TOO_LARGE, GrantfsError, UsageError

_MARKS = {
    "added": "A", "modified": "M", "deleted": "D", "renamed": "R", "mode": "m", "symlink": "L",
}  # fmt: skip


def _line(change: dict[str, Any]) -> str:
    name = printable(change["path"])
    if change["from"] is not None:
        name = f"{printable(change['from'])} -> {name}"
    counts = "binary" if change["binary"] else f"+{change['added']} -{change['removed']}"
    words = [f"{_MARKS[change['kind']]} {name}", counts]
    if change["placeholders"]:
        words.append(f"{change['placeholders']} secret(s) to put back")
    if change["flags"]:
        words.append("[" + ", ".join(change["flags"]) + "]")
    if change["conflict"]:
        words.append("CONFLICT: the source changed")
    return "  ".join(words)


def _lines(changes: list[dict[str, Any]]) -> list[str]:
    """A line for each change, but one for all of a tree that a commit leaves out."""
    found = [_line(change) for change in changes if not change["left_out"]]
    trees: dict[str, list[dict[str, Any]]] = {}
    for change in changes:
        if change["left_out"]:
            trees.setdefault(change["left_out"], []).append(change)
    for tree, inside in trees.items():
        flags = Counter(flag for change in inside for flag in change["flags"])
        words = [f"+ {printable(tree)}/", f"{len(inside)} change(s) that .gitignore leaves out"]
        if flags:
            words.append("[" + ", ".join(f"{flag} {n}" for flag, n in flags.items()) + "]")
        conflicts = sum(change["conflict"] for change in inside)
        words += [f"{conflicts} CONFLICT(S)"] if conflicts else []
        found.append("  ".join(words))
    if trees:
        found.append("What .gitignore leaves out is committed by name, or with commit --all.")
    return found


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-s", "--short", is_flag=True, help="A line for each, as git status --short.")
@click.option("--porcelain", is_flag=True, help="The same, for programs: it stays as it is.")
@click.option("-z", "zeros", is_flag=True, help="--porcelain with names as they are, a NUL after.")
@shared
@pass_state
def status(state: State, paths: tuple[str, ...], short: bool, porcelain: bool, zeros: bool) -> None:
    """Show staged changes."""
    as_git = short or porcelain or zeros
    found = state.ask("status", paths=all_forms(paths), exact=as_git)
    exact = found.pop("exact")
    if as_git and not state.json:
        _porcelain(found["changes"], exact, zeros=zeros)
        return

    def text() -> str:
        if not found["changes"]:
            return "nothing is staged"
        return "\n".join(_lines(found["changes"]))

    state.show(found, text)


def _porcelain(
    changes: list[dict[str, Any]], exact: list[tuple[str, str, str | None]], *, zeros: bool
) -> None:
    """Every change in the form of git's porcelain, version 1: staged changes stand for what git
    has in its index, a conflict is unmerged on both sides."""
    from gateway.review.patch import quote_name

    out = sys.stdout.buffer
    for change, (letter, path, origin) in zip(changes, exact, strict=True):
        code = b"UU" if change["conflict"] else letter.encode() + b" "
        name, old = os.fsencode(path), os.fsencode(origin) if origin is not None else None
        if zeros:
            out.write(code + b" " + name + b"\0" + (old + b"\0" if old is not None else b""))
        else:
            names = [quote_name(old), quote_name(name)] if old is not None else [quote_name(name)]
            out.write(code + b" " + b" -> ".join(map(_spaced, names)) + b"\n")
    out.flush()


def _spaced(name: bytes) -> bytes:
    # git quotes a name with spaces here, too: the arrow of a rename stands between spaces.
    return b'"' + name + b'"' if b" " in name and not name.startswith(b'"') else name


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--stat", "stat_", is_flag=True, help="A summary, as git diff --stat.")
@click.option("--name-only", is_flag=True, help="Names alone.")
@click.option("--binary", is_flag=True, help="Binary files as patches too.")
@shared
@pass_state
def diff(state: State, paths: tuple[str, ...], stat_: bool, name_only: bool, binary: bool) -> None:
    """Show staged changes as a diff that `git apply` takes; what is masked stays masked."""
    parts = state.parts("diff", paths=all_forms(paths), binary=binary)
    if state.json:
        state.show([one for part in parts for one in part["files"]], str)
    elif name_only:
        for part in parts:
            for one in part["stat"]:
                click.echo(printable(one["path"]))
    elif stat_:
        from gateway.review.show import diffstat

        rows = [
            (one["path"].encode("utf-8", "surrogateescape"), one["added"], one["removed"],
             one["binary"])
            for part in parts for one in part["stat"]
        ]  # fmt: skip
        click.echo(diffstat(rows), nl=False)
    else:
        _show_patch(state, (part["patch"].encode("latin-1") for part in parts))


def _show_patch(state: State, patches: Iterable[bytes]) -> None:
    """Patches as they are for programs; escaped, coloured and paged for people."""
    if not sys.stdout.isatty():
        for patch in patches:
            sys.stdout.buffer.write(patch)
        sys.stdout.buffer.flush()
        return
    from gateway.review.show import escape_terminal

    texts = (escape_terminal(patch) for patch in patches)
    page("\n".join(map(_colour, text.split("\n"))) if state.color else text for text in texts)


def _colour(line: str) -> str:
    if line.startswith("@@"):
        return click.style(line, fg="cyan")
    if line.startswith("+") and not line.startswith("+++"):
        return click.style(line, fg="green")
    if line.startswith("-") and not line.startswith("---"):
        return click.style(line, fg="red")
    if line.startswith(("diff ", "+++", "---", "new ", "deleted ", "rename ", "old ")):
        return click.style(line, bold=True)
    return line


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("-p", "pick", is_flag=True, help="Choose hunk by hunk.")
@click.option("--hunk", "hunks", multiple=True, metavar="ID", help="Only this hunk of `diff`.")
@click.option("-m", "message", default="", metavar="MSG", help="What the commit is for.")
@click.option("-y", "yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--merge", is_flag=True, help="Merge with what the source has got since.")
@click.option("--force-overwrite", is_flag=True, help="Overwrite what the source has got since.")
@click.option("--all", "everything", is_flag=True, help="What .gitignore leaves out, too.")
@click.option("--digest", metavar="D", help="Only if the stage is what `status` gave this for.")
@click.option(
    "--placeholders",
    type=click.Choice(["restore", "keep"]),
    help="Decide for cut, forged or carried placeholders in the PATHs named.",
)
@shared
@pass_state
def commit(
    state: State,
    paths: tuple[str, ...],
    pick: bool,
    hunks: tuple[str, ...],
    message: str,
    yes: bool,
    merge: bool,
    force_overwrite: bool,
    everything: bool,
    digest: str | None,
    placeholders: str | None,
) -> int:
    """Put staged changes into the sources, masked secrets put back."""  # fmt: skip
    if placeholders and not paths:
        raise UsageError("--placeholders decides for the paths that you name: name them")
    if pick and hunks:
        raise UsageError("-p chooses hunks, and so does --hunk: take one of them")
    if merge and force_overwrite:
        raise UsageError("--merge keeps what --force-overwrite gives up: take one of them")
    wanted = all_forms(paths)
    wish: dict[str, Any] = {"hunks": list(hunks)}
    if pick:
        wish, digest = _pick(state, wanted, digest)
        if not wish:
            tell("nothing was chosen")
            return 0
    elif not yes:
        found = state.ask("status", paths=wanted)
        if not found["changes"]:
            tell("nothing is staged")
        for line in _lines(found["changes"]):
            click.echo(line, err=True)
        if force_overwrite:
            for change in found["changes"]:
                if change["conflict"]:
                    tell(f"the source's own changes of {printable(change['path'])} will be lost")
        confirm("Commit this?", yes)
        digest = digest or (found["digest"] if not paths else None)
    wish["on_conflict"] = "merge" if merge else "overwrite" if force_overwrite else "refuse"
    wish |= {"paths": wanted, "message": message, "digest": digest}
    wish |= {"placeholders": placeholders or "ask", "everything": everything}
    try:
        done = state.ask("commit", **wish, without_undo=yes)
    except GrantfsError as error:
        if yes or not error.message.startswith(TOO_LARGE):
            raise
        tell(error.message)
        confirm("Commit it without?", yes)
        done = state.ask("commit", **wish, without_undo=True)
    reasons = done.pop("reasons", {})
    for path, why in reasons.items():
        tell(f"{printable(path)} stays staged: {why}")
    for path in done.get("overwritten", ()):
        tell(
            f"what the source had got in {printable(path)} is overwritten:"
            f" `grantfs undo {done['commit']}` brings it back"
        )

    def text() -> str:
        if done["commit"] is None:
            return "nothing was committed"
        lines = [f"committed {done['commit']}: {len(done['applied'])} change(s)"]
        if done["remaining"]:
            lines.append(f"{len(done['remaining'])} change(s) stay staged")
        return "\n".join(lines)

    state.show(done, text)
    if done["conflicts"] or done["undecided"]:
        return EXIT_CONFLICT
    return EXIT_FAILED if done.get("failed") else 0


def _pick(
    state: State, wanted: list[list[str]], digest: str | None
) -> tuple[dict[str, Any], str | None]:
    """What a person chooses, as the request has it, and the digest of what was shown."""
    from gateway.cli.picking import Picker, from_exact

    if not sys.stdin.isatty():
        raise UsageError("nobody is here to choose: name hunks by --hunk")
    status = state.ask("status", paths=wanted)
    parts = state.parts("diff", paths=wanted, exact=True)
    exact = from_exact([one for part in parts for one in part["exact"]])
    changes = [one for one in status["changes"] if wanted or not one["left_out"]]

    def ask(question: str) -> str:
        return str(click.prompt(question, prompt_suffix="", default="?", show_default=False))

    picked = Picker(changes, exact, ask, lambda text: click.echo(text), _line).run()
    if not picked:
        return {}, digest
    if not wanted:
        digest = digest or status["digest"]
    return {
        "hunks": picked.hunks, "edited": picked.edited, "also": [[one] for one in picked.whole],
    }, digest  # fmt: skip


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--hunk", "hunks", multiple=True, metavar="ID", help="Only this hunk of `diff`.")
@click.option("-y", "yes", is_flag=True, help="Do not ask for confirmation.")
@shared
@pass_state
def discard(state: State, paths: tuple[str, ...], hunks: tuple[str, ...], yes: bool) -> None:
    """Drop staged changes: the agent sees the sources again."""
    some = paths or hunks
    confirm("Drop these staged changes?" if some else "Drop all staged changes?", yes)
    dropped = state.ask("discard", paths=all_forms(paths), hunks=list(hunks))
    state.show(dropped, lambda: f"dropped {len(dropped['discarded'])} change(s)")


@click.command()
@shared
@pass_state
def log(state: State) -> None:
    """List commits, newest first."""
    found = state.ask("log")

    def line(one: dict[str, Any]) -> str:
        words = [one["commit"], one["at"], f"{len(one['paths'])} file(s)"]
        words += [printable(text) for text in (one["subject"], one["message"]) if text]
        return "  ".join(words)

    state.show(found, lambda: "\n".join(map(line, found)) or "no commits yet")


@click.command()
@click.argument("commit_id", metavar="[COMMIT]", required=False)
@shared
@pass_state
def undo(state: State, commit_id: str | None) -> int:
    """Put the sources back as they were before a commit: the newest one, or COMMIT.

    Where a source has changed since, nothing is done. An undo is a commit of its own, which
    `grantfs log` shows, and which `grantfs undo` of its id takes back.
    """
    done = state.ask("undo", commit=commit_id)
    for path in done["conflicts"]:
        tell(f"{printable(path)} changed since that commit")

    def text() -> str:
        if done["undone"] is None:
            return "nothing was undone"
        return f"undone {done['undone']}: {len(done['restored'])} change(s), as {done['commit']}"

    state.show(done, text)
    return EXIT_CONFLICT if done["conflicts"] else 0


@click.command()
@click.argument("commit_id", metavar="COMMIT")
@shared
@pass_state
def show(state: State, commit_id: str) -> None:
    """Show a commit as a diff, in masked form."""
    found = state.ask("show", commit=commit_id)
    patch = found.pop("patch").encode("latin-1")
    if state.json:
        state.show(found["files"], str)
        return
    head = [f"commit {found['commit']}"]
    if found["grants"]:
        head.append(f"Subject: {printable(found['subject'])} ({', '.join(found['grants'])})")
    head += [f"Date: {found['at']}", "", f"    {printable(found['message'])}", ""]
    click.echo("\n".join(head))
    sys.stdout.flush()
    _show_patch(state, [patch])
