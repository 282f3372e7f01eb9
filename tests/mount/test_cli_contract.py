"""The command line's contract, as `cli.md` has it: shapes, exit codes, where words go."""

import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from driving import ENV, PASSWORD, SCRIPT, TOKEN, Grantfs, driving
from mount_fixtures import fill

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

GRANT = {
    "id", "scopes", "path", "mounted_as", "access", "subject", "issued_at", "expires_at", "status",
}  # fmt: skip
LISTED_GRANT = GRANT | {"last_used_at", "uses"}
CHANGE = {
    "path", "kind", "from", "binary", "added", "removed", "conflict", "flags", "placeholders",
}  # fmt: skip
COMMAND_NAMES = [
    "up", "down", "ps", "rm", "grant", "grants", "renew", "revoke", "status", "diff", "commit",
    "discard", "audit", "show", "log", "scan", "doctor",
]  # fmt: skip


@dataclass
class Busy:
    """A workspace with something of everything: staged changes, a commit, an ended grant."""

    grantfs: Grantfs
    source: Path
    mount: Path
    commit: str
    grant: str
    ended: str


@pytest.fixture(scope="module")
def busy(fuse: None) -> Iterator[Busy]:
    """One workspace for all tests that only look."""
    with driving(600) as made:
        source = fill(made.home.parent / "proj")
        other = made.home.parent / "other"
        other.mkdir()
        mount = made.up(source, other, "--name", "w")
        with (mount / "proj" / "README.md").open("a") as file:
            file.write("four\n")
        made.run("commit", "-y", "-m", "first")
        ended = made.ask("revoke", other)[0]["id"]
        proj = mount / "proj"
        with (proj / ".env").open("ab") as file:
            file.write(b"MORE=1\n")
        (proj / "new.bin").write_bytes(b"\0\1\2" * 100)
        (proj / "src" / "tool.sh").unlink()
        os.rename(proj / "README.md", proj / "READ.me")
        (proj / "link").unlink()
        (proj / "link").symlink_to("READ.me")
        (proj / "src" / "main.py").chmod(0o755)
        commit = made.ask("log")[0]["commit"]
        (live,) = made.ask("grants")
        yield Busy(made, source, mount, commit, live["id"], ended)


# -- what is printed where -----------------------------------------------------------------


def looks(busy: Busy) -> dict[str, list[str]]:
    """A call of every command that changes nothing."""
    return {
        "up": ["up", str(busy.source)],
        "ps": ["ps"],
        "grant": ["grants"],
        "grants": ["grants", "--all"],
        "renew": ["renew", busy.grant, "--for", "8h"],
        "status": ["status"],
        "diff": ["diff"],
        "audit": ["audit"],
        "audit verify": ["audit", "verify"],
        "show": ["show", busy.commit],
        "scan": ["scan", str(busy.source)],
        "doctor": ["doctor"],
        "log": ["log"],
    }


def test_json_is_one_document_and_nothing_else_on_standard_output(busy: Busy) -> None:
    for name, words in looks(busy).items():
        done = busy.grantfs.run(*words, "--json")
        if name == "audit":
            for line in done.out.splitlines():
                assert isinstance(json.loads(line), dict)
        else:
            assert json.loads(done.out) is not None, name
            assert done.out.count(b"\n") == 1, name
        for line in done.err.splitlines():
            assert line.startswith("grantfs: "), name


def test_options_are_taken_before_and_after_the_subcommand(busy: Busy) -> None:
    run = busy.grantfs.run
    for words in (
        ["--json", "-w", "w", "status"],
        ["-w", "w", "status", "--json"],
        ["--json", "status", "--workspace", "w"],
        ["--workspace=w", "--no-color", "--debug", "status", "--json"],
        ["status", "--json", "--no-color", "--debug", "-w", "w"],
        ["status", "--json", "-ww"],
    ):
        assert json.loads(run(*words).out)["workspace"] == "w", words
    for name, words in looks(busy).items():
        before = run("--json", "--no-color", "--debug", "-w", "w", *words)
        after = run(*words, "--json", "--no-color", "--debug", "-w", "w")
        if name in ("ps", "status", "diff", "show", "scan", "log"):  # nothing in them moves on
            assert before.out == after.out, name
        assert run("-w", "w", words[0], "--json", *words[1:]).out
    # After a sub-subcommand, and between.
    for words in (["audit", "verify", "--json"], ["audit", "--json", "verify"]):
        assert json.loads(run(*words).out)["ok"] is True
    run("-w", "nobody", "status", code=5)
    run("status", "-w", "nobody", code=5)


def test_the_last_named_workspace_and_the_environment(busy: Busy) -> None:
    run = busy.grantfs.run
    run("status", env={"GRANTFS_WORKSPACE": "nobody"}, code=5)
    run("status", "-w", "w", env={"GRANTFS_WORKSPACE": "nobody"})
    run("-w", "nobody", "status", "-w", "w")


def test_python_m_gateway_is_the_same_program(busy: Busy) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "status", "--json"],
        env=busy.grantfs.environment(),
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["workspace"] == "w"


def test_help_of_every_command_tells_its_options(busy: Busy) -> None:
    text = busy.grantfs.run("--help").out.decode()
    for name in COMMAND_NAMES:
        assert re.search(rf"^  {name} ", text, re.MULTILINE), name
        shown = busy.grantfs.run(name, "--help").out.decode()
        for option in ("--json", "--no-color", "--debug", "-w"):
            assert option in shown, name
    assert busy.grantfs.run("--version").out.startswith(b"grantfs ")


# -- exit codes and errors -----------------------------------------------------------------

ERRORS: dict[str, tuple[list[str], int]] = {
    "no such command": (["frobnicate"], 2),
    "no such option": (["status", "--frobnicate"], 2),
    "an option without its value": (["status", "-w"], 2),
    "a needed argument is missing": (["show"], 2),
    "one argument too many": (["ps", "x"], 2),
    "an unknown action": (["audit", "frobnicate"], 2),
    "an unknown event": (["audit", "--event", "frobnicate"], 2),
    "a bad time": (["audit", "--since", "yesterday"], 2),
    "no such workspace": (["status", "-w", "nobody"], 5),
    "no such grant": (["revoke", "g0000000000"], 5),
    "no such grant to renew": (["renew", "g0000000000"], 5),
    "no such commit": (["show", "c0000000"], 5),
    "no such place": (["status", "/nowhere"], 5),
    "nothing to revoke is named": (["revoke"], 2),
    "both are named": (["revoke", "--all", "x"], 2),
    "no such digest": (["commit", "-y", "--digest", "0" * 64], 3),
    "nobody is here to confirm": (["discard"], 2),
    "nobody is here to confirm a commit": (["commit"], 2),
    "no such path to scan": (["scan", "/nowhere"], 5),
    "no such path to grant": (["grant", "/nowhere"], 1),
    "an ended grant": (["renew", "{ended}"], 5),
    "a running workspace": (["rm", "w"], 1),
}


@pytest.mark.parametrize("what", ERRORS)
def test_an_error_is_one_line_with_its_exit_code(busy: Busy, what: str) -> None:
    words, code = ERRORS[what]
    filled = [word.format(ended=busy.ended) for word in words]
    before = busy.grantfs.ask("status")
    for extra in ([], ["--json"]):
        done = busy.grantfs.run(*filled, *extra, code=code)
        assert done.out == b""
        # What `commit` lists for whoever confirms stands before its error.
        last = done.err.splitlines()[-1]
        assert last.startswith("grantfs: ")
        assert len(last) > len("grantfs: ")
        if what != "nobody is here to confirm a commit":
            assert done.error
    assert busy.grantfs.ask("status") == before


def test_debug_adds_the_traceback_and_keeps_the_line(busy: Busy) -> None:
    for words in (["--debug", "show", "nocommit"], ["show", "nocommit", "--debug"]):
        done = busy.grantfs.run(*words, code=5)
        assert "Traceback" in done.err
        assert done.err.splitlines()[-1].startswith("grantfs: ")


def test_a_stopped_daemon_is_exit_6(grantfs: Grantfs, source: Path) -> None:
    grantfs.run("status", code=5)  # no workspace at all
    grantfs.up(source, "--name", "w")
    commit = grantfs.ask("log")
    assert commit == []
    grantfs.run("down")
    for words in (
        ["status"], ["diff"], ["commit", "-y"], ["discard", "-y"], ["grants"], ["grant", source],
        ["revoke", "--all"], ["renew", "g1"], ["log"], ["show", "c1"], ["down"],
    ):  # fmt: skip
        done = grantfs.run(*words, code=6)
        assert "grantfs up" in done.error, words
        assert done.out == b""
    # These work without one.
    assert grantfs.ask("audit", "verify")["ok"] is True
    assert grantfs.events()
    assert grantfs.ask("ps")[0]["running"] is False
    assert grantfs.ask("doctor")
    assert grantfs.ask("scan", source / ".env")


def test_a_reader_that_went_away_is_no_error(busy: Busy) -> None:
    script = f'"{SCRIPT}" audit | head -n 1'
    done = subprocess.run(
        ["sh", "-c", script], env=busy.grantfs.environment(), capture_output=True, check=True
    )
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1


# -- shapes --------------------------------------------------------------------------------


def of_shape(found: Any, keys: set[str]) -> None:
    """An object may have more than it promises, not less."""
    assert isinstance(found, dict)
    assert keys <= set(found), keys - set(found)


def a_grant(found: Any, keys: set[str] = GRANT) -> None:
    of_shape(found, keys)
    assert found["access"] in ("list", "read", "write")
    assert found["status"] in ("live", "expired", "revoked")
    assert TIME.fullmatch(found["issued_at"])
    assert found["expires_at"] is None or TIME.fullmatch(found["expires_at"])
    assert all(scope.startswith("file:") for scope in found["scopes"])


def test_shapes_of_what_looks(busy: Busy) -> None:
    ask = busy.grantfs.ask
    up = ask("up", busy.source)
    of_shape(up, {"workspace", "mountpoint", "pid", "grants"})
    a_grant(up["grants"][0])
    (row,) = ask("ps")
    of_shape(row, {"workspace", "running", "mountpoint", "pid", "grants", "changes", "requests"})
    assert (row["workspace"], row["running"], row["grants"]) == ("w", True, 1)
    assert row["changes"] == len(ask("status")["changes"])
    for grant in ask("grants", "--all"):
        a_grant(grant, LISTED_GRANT)
    assert {g["status"] for g in ask("grants", "--all")} == {"live", "revoked"}
    (live,) = ask("grants")
    assert live["uses"] > 0
    assert TIME.fullmatch(live["last_used_at"])
    (commit,) = ask("log")
    of_shape(commit, {"commit", "at", "message", "paths"})
    assert (commit["message"], commit["paths"]) == ("first", ["proj/README.md"])
    assert TIME.fullmatch(commit["at"])
    for check in ask("doctor"):
        of_shape(check, {"check", "ok", "detail", "fix"})


def test_shape_of_status(busy: Busy) -> None:
    status = busy.grantfs.ask("status")
    of_shape(status, {"workspace", "digest", "changes"})
    changes = {one["path"]: one for one in status["changes"]}
    for change in changes.values():
        of_shape(change, CHANGE)
        assert isinstance(change["flags"], list)
    kinds = {path: (one["kind"], one["from"]) for path, one in changes.items()}
    assert kinds == {
        "proj/.env": ("modified", None),
        "proj/READ.me": ("renamed", "proj/README.md"),
        "proj/link": ("symlink", None),
        "proj/new.bin": ("added", None),
        "proj/src/main.py": ("mode", None),
        "proj/src/tool.sh": ("deleted", None),
    }
    env = changes["proj/.env"]
    assert (env["added"], env["removed"], env["placeholders"]) == (1, 0, 2)
    assert changes["proj/new.bin"]["binary"] is True
    assert changes["proj/src/tool.sh"]["flags"] != []
    # PATH arguments: of the host, of the mount, relative to the mount's root, to the folder.
    for path, options in (
        (busy.source / "src", {}), (busy.mount / "proj" / "src", {}), ("proj/src", {}),
        ("src", {"cwd": busy.source}), (".", {"cwd": busy.mount / "proj" / "src"}),
    ):  # fmt: skip
        chosen = busy.grantfs.ask("status", path, **options)["changes"]
        assert [one["path"] for one in chosen] == ["proj/src/main.py", "proj/src/tool.sh"], path
    assert busy.grantfs.ask("status")["digest"] == status["digest"]


def test_shape_of_diff_and_show(busy: Busy) -> None:
    for words in (["diff"], ["show", busy.commit]):
        for one in busy.grantfs.ask(*words):
            of_shape(one, {"path", "kind", "from", "hunks"})
            for hunk in one["hunks"]:
                of_shape(hunk, {"id", "header", "lines"})
                assert hunk["header"].startswith("@@ ")
    names = busy.grantfs.run("diff", "--name-only").out.decode().splitlines()
    assert names == [one["path"] for one in busy.grantfs.ask("status")["changes"]]
    stat = busy.grantfs.run("diff", "--stat").out.decode()
    assert "proj/.env" in stat
    assert busy.grantfs.run("diff", "proj/.env").out.endswith(b"+MORE=1\n")
    shown = busy.grantfs.run("show", busy.commit[:6]).out
    assert shown.endswith(b" three\n+four\n")


def test_shape_of_the_log(busy: Busy) -> None:
    events = busy.grantfs.events()
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    for one in events:
        of_shape(
            one,
            {"seq", "time", "event", "outcome", "subject", "actor", "path", "grant", "detail"},
        )
        assert TIME.fullmatch(one["time"])
        if one["actor"] is not None:
            of_shape(one["actor"], {"pid", "uid", "exe"})
    kinds = {one["event"] for one in events}
    assert {"grant", "open", "stage", "commit", "revoke", "workspace.up"} <= kinds
    assert {one["event"] for one in busy.grantfs.events("--event", "revoke")} == {"revoke"}
    by_path = busy.grantfs.events("--path", str(busy.source / ".env"))
    assert {one["path"] for one in by_path} == {"proj/.env"}
    assert busy.grantfs.events("--path", str(busy.mount / "proj" / ".env")) == by_path
    assert busy.grantfs.events("--path", "proj/.env") == by_path
    assert busy.grantfs.events("--since", "8h") != []
    assert len(busy.grantfs.events("tail")) == 10
    of_shape(busy.grantfs.ask("audit", "verify"), {"ok"})


def test_shape_of_scan(busy: Busy) -> None:
    for path in (busy.source / ".env", busy.mount / "proj" / ".env", "proj/.env"):
        found = busy.grantfs.ask("scan", path)
        assert len(found) == 2
        for one in found:
            of_shape(one, {"path", "rule", "kind", "start", "end", "line"})
            assert ENV[one["start"] : one["end"]] in (TOKEN, PASSWORD)
        assert [one["line"] for one in found] == [2, 3]


def test_shapes_of_what_changes(grantfs: Grantfs, source: Path) -> None:
    other = grantfs.home.parent / "other"
    other.mkdir()
    proj = grantfs.up(source, "--for", "1h") / "proj"
    (grant,) = grantfs.ask("grant", other, "--access", "read", "--as", "o", "--for", "2h",
                           "--subject", "bot", "--reason", "why not")  # fmt: skip
    a_grant(grant)
    assert (grant["mounted_as"], grant["access"], grant["subject"]) == ("o", "read", "bot")
    assert grant["scopes"] == [f"file:list:{other}", f"file:read:{other}"]
    renewed = grantfs.ask("renew", grant["id"], "--for", "7d")
    a_grant(renewed)
    assert renewed["expires_at"] > grant["expires_at"]
    endless = grantfs.ask("renew", grant["id"], "--for", "until-revoked")
    assert endless["expires_at"] is None
    (revoked,) = grantfs.ask("revoke", "o")
    assert set(revoked) == {"id", "revoked_at"}
    (proj / "one").write_text("1\n")
    (proj / "two").write_text("2\n")
    done = grantfs.ask("commit", "-y", "-m", "m", "proj/one")
    of_shape(done, {"commit", "applied", "conflicts", "undecided", "remaining"})
    assert (done["applied"], done["remaining"]) == (["proj/one"], ["proj/two"])
    assert grantfs.ask("discard", "-y") == {"discarded": ["proj/two"]}
    down = grantfs.ask("down")
    assert set(down) == {"workspace", "unmounted"}
    assert grantfs.ask("rm", "proj") == {"removed": "proj"}
    assert grantfs.ask("ps") == []


# -- terminals -----------------------------------------------------------------------------


def on_terminal(grantfs: Grantfs, *words: str, env: dict[str, str] | None = None) -> str:
    """What a call prints where standard output is a terminal."""
    controller, terminal = pty.openpty()
    call = subprocess.Popen(
        [SCRIPT, *words],
        env=grantfs.environment({"TERM": "xterm", "PAGER": "cat", **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(terminal)
    shown = b""
    try:
        while select.select([controller], [], [], 60)[0]:
            try:
                part = os.read(controller, 65536)
            except OSError:  # the other end is closed
                break
            shown += part
    finally:
        os.close(controller)
        assert call.wait(timeout=60) == 0
    return shown.decode()


def test_colour_only_on_a_terminal_that_wants_it(busy: Busy) -> None:
    assert b"\x1b" not in busy.grantfs.run("diff").out
    assert "\x1b[32m+MORE=1" in on_terminal(busy.grantfs, "diff")
    assert "\x1b" not in on_terminal(busy.grantfs, "diff", env={"NO_COLOR": "1"})
    assert "\x1b" not in on_terminal(busy.grantfs, "diff", "--no-color")
    assert "\x1b" not in on_terminal(busy.grantfs, "--no-color", "diff")
    paged = on_terminal(busy.grantfs, "diff", "--no-color", env={"PAGER": "sed s/^/paged:/"})
    assert "paged:+MORE=1" in paged
    paged = on_terminal(busy.grantfs, "diff", env={"PAGER": "false", "GIT_PAGER": "sed s/^/git:/",
                                                   "NO_COLOR": "1"})  # fmt: skip
    assert "git:+MORE=1" in paged


def test_confirmation_takes_no_for_an_answer(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(source)
    (mount / "proj" / "new").write_text("new\n")
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        controller, terminal = pty.openpty()
        call = grantfs.start("commit", stdin=terminal)
        os.close(terminal)
        os.write(controller, answer)
        _out, err = call.communicate(timeout=60)
        os.close(controller)
        assert call.returncode == code, err
        assert b"proj/new" in err
        assert (source / "new").exists() is (code == 0)


def test_hostile_names_do_not_reach_the_terminal(grantfs: Grantfs, source: Path) -> None:
    mount = grantfs.up(source)
    (mount / "proj" / "a\x1b]0;x\x07\nb").write_text("\x1b[2Jhidden\n")
    for words in (["status"], ["diff"], ["diff", "--name-only"], ["diff", "--stat"], ["audit"]):
        shown = on_terminal(grantfs, *words, env={"NO_COLOR": "1"})
        assert "\x1b" not in shown, words
        assert "\x07" not in shown, words
