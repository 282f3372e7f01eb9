"""Hunks, patches and summaries, held to the real git."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.review.hunks import (
    NO_NEWLINE,
    Hunk,
    HunkMismatchError,
    apply_hunks,
    count_lines,
    hunks,
    is_binary,
    split_hunk,
)
from gateway.review.lines import split_lines
from gateway.review.patch import Side, file_patch, quote_name, similarity
from gateway.review.show import diffstat, escape_terminal

FILE, EXEC, LINK = 0o100644, 0o100755, 0o120777
Tree = dict[bytes, Side]

TEXT = st.lists(
    st.sampled_from([b"a", b"b", b"  c", b"", b"-d", b"+e", b"\\ f", b"g\r"]), max_size=24
).flatmap(lambda lines: st.sampled_from([b"\n".join(lines), b"".join(x + b"\n" for x in lines)]))
NAME_BYTES = bytes(ord("s") if n in b"\0/" else n for n in range(256))
ODD_NAMES = [
    b"plain.txt",
    b"with space.txt",
    b"two  spaces/and more",
    b"tab\there",
    b"new\nline",
    b'quo"te',
    b"back\\slash",
    b"caf\xc3\xa9",
    b"\xff\xfe not utf-8",
    b"bell\a\b\v\f\r\x1b\x7f",
    b"dir/--- a/x",
    b"diff --git a/x b/x",
    b" lead and trail ",
    b"a b/b c",
]


class Git:
    """A scratch repository whose settings come from nowhere else."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CEILING_DIRECTORIES": str(root.parent),
            "LC_ALL": "C",
        }
        self("init", "-q")

    def __call__(self, *args: str | bytes, stdin: bytes = b"", ok: tuple[int, ...] = (0,)) -> bytes:
        done = subprocess.run(
            ["git", *args], cwd=self.root, env=self.env, input=stdin, capture_output=True
        )
        assert done.returncode in ok, done.stderr
        return done.stdout

    def write(self, tree: Tree) -> None:
        """Make the working tree and the index hold just ``tree``."""
        for entry in os.scandir(os.fsencode(self.root)):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != b".git":
                    shutil.rmtree(os.fsdecode(entry.path))
            else:
                os.unlink(entry)
        for path, side in tree.items():
            full = os.path.join(os.fsencode(self.root), path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            if side.git_mode == 0o120000:
                os.symlink(side.data, full)
            else:
                with open(full, "wb") as file:
                    file.write(side.data)
                os.chmod(full, side.mode & 0o777)
        self("add", "-A", "-f")

    def read(self) -> Tree:
        tree: Tree = {}
        root = os.fsencode(self.root)
        for folder, folders, files in os.walk(root):
            if b".git" in folders:
                folders.remove(b".git")
            for name in files:
                full = os.path.join(folder, name)
                if os.path.islink(full):
                    side = Side(LINK, os.readlink(full))
                else:
                    with open(full, "rb") as file:
                        side = Side(EXEC if os.access(full, os.X_OK) else FILE, file.read())
                tree[os.path.relpath(full, root)] = side
        return tree


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Git:
    return Git(tmp_path_factory.mktemp("repository"))


def assert_applies(git: Git, before: Tree, after: Tree, patch: bytes) -> None:
    """``git apply`` makes ``after`` of ``before``, and with ``-R`` the other way."""
    git.write(before)
    git("apply", "--check", "-", stdin=patch)
    git("apply", "--whitespace=nowarn", "-", stdin=patch)
    assert git.read() == after
    git("apply", "-R", "--whitespace=nowarn", "-", stdin=patch)
    assert git.read() == before


# Hunks


@settings(max_examples=300)
@given(TEXT, TEXT, st.integers(0, 4))
def test_all_hunks_give_the_new_file_and_none_the_old(old: bytes, new: bytes, context: int) -> None:
    found = hunks(old, new, context)
    assert apply_hunks(old, found) == new
    assert apply_hunks(old, []) == old
    assert len({hunk.id for hunk in found}) == len(found)


@settings(max_examples=300)
@given(TEXT, TEXT, st.integers(0, 2), st.data())
def test_some_hunks_make_their_changes_and_no_others(
    old: bytes, new: bytes, context: int, data: st.DataObject
) -> None:
    found = [part for hunk in hunks(old, new, context) for part in split_hunk(hunk)]
    chosen = [hunk for hunk in found if data.draw(st.booleans())]
    got = apply_hunks(old, chosen)
    # Exactly the lines that were chosen came and went.
    came, went = Counter(split_lines(got)), Counter(split_lines(old))
    for hunk in chosen:
        came.subtract(texts(hunk, b"+"))
        went.subtract(texts(hunk, b"-"))
    assert came == went
    if not chosen:
        assert got == old
    if len(chosen) == len(found):
        assert got == new


def texts(hunk: Hunk, tag: bytes) -> list[bytes]:
    """The lines with this tag as they stand in the file."""
    return [
        line[1:-1] if after == NO_NEWLINE else line[1:]
        for line, after in zip(hunk.lines, (*hunk.lines[1:], b""), strict=True)
        if line[:1] == tag
    ]


def test_each_subset_is_exact_where_places_are_known() -> None:
    lines = [b"line %d\n" % n for n in range(60)]
    old = b"".join(lines)
    places = [3, 20, 37, 54]
    new = b"".join(b"new %d\n" % n if n in places else line for n, line in enumerate(lines))
    found = hunks(old, new)
    assert len(found) == len(places)
    for mask in range(1 << len(places)):
        picked = {places[n] for n in range(len(places)) if mask >> n & 1}
        want = b"".join(b"new %d\n" % n if n in picked else line for n, line in enumerate(lines))
        assert apply_hunks(old, [h for n, h in enumerate(found) if mask >> n & 1]) == want


def test_headers_and_lines_are_those_of_git() -> None:
    (hunk,) = hunks(b"a\nb\nc", b"a\nB\nc\n", context=1)
    assert hunk.header == "@@ -1,3 +1,3 @@"
    assert hunk.lines == (b" a\n", b"-b\n", b"-c\n", NO_NEWLINE, b"+B\n", b"+c\n")
    assert [h.header for h in hunks(b"", b"a\n")] == ["@@ -0,0 +1 @@"]
    assert [h.header for h in hunks(b"a\nb\n", b"")] == ["@@ -1,2 +0,0 @@"]
    assert [h.header for h in hunks(b"a\nb\n", b"a\nb\nc\n", context=0)] == ["@@ -2,0 +3 @@"]


def test_a_large_file_has_the_same_hunks_as_a_small_one_further_down() -> None:
    body = b"".join(b"%d\n" % (n % 50) for n in range(400))
    lead = b"lead\n" * 100_000
    small = hunks(body, body.replace(b"7\n", b"seven\n", 1))
    large = hunks(lead + body + lead, lead + body.replace(b"7\n", b"seven\n", 1) + lead)
    assert [h.lines for h in large] == [h.lines for h in small]
    assert [h.old_start for h in large] == [h.old_start + 100_000 for h in small]
    assert [h.new_start for h in large] == [h.new_start + 100_000 for h in small]
    assert apply_hunks(lead + body, large) == lead + body.replace(b"7\n", b"seven\n", 1)


def test_an_id_names_path_and_content_and_not_the_place() -> None:
    old = b"".join(b"%d\n" % n for n in range(30))
    new = old.replace(b"15\n", b"fifteen\n")
    (here,) = hunks(old, new, path=b"p")
    (further,) = hunks(b"x\n" * 9 + old, b"x\n" * 9 + new, path=b"p")
    assert here.id == further.id
    assert len(here.id) == 32
    others = [
        hunks(old, new, path=b"q"),
        hunks(old, old.replace(b"15\n", b"Fifteen\n"), path=b"p"),
        hunks(old.replace(b"14\n", b"x\n"), new.replace(b"14\n", b"x\n"), path=b"p"),
        hunks(old, new.replace(b"fifteen\n", b"fif\nteen\n"), path=b"p"),
    ]
    assert here.id not in {hunk.id for found in others for hunk in found}


def test_equal_hunks_are_told_apart_and_their_ids_end_with_their_number() -> None:
    block = b"1\n2\n3\n4\n5\n6\n7\n8\n"
    old, new = block * 4, (block.replace(b"4\n", b"four\n") + block) * 2
    found = hunks(old, new)
    assert found[0].lines == found[1].lines
    assert found[0].id != found[1].id
    # With one of them gone the other is no longer one of several, so neither old id can name it.
    (left,) = hunks(apply_hunks(old, found[:1]), new)
    assert left.id not in {hunk.id for hunk in found}


def test_a_hunk_that_does_not_fit_is_refused() -> None:
    old = b"a\nb\nc\nd\ne\n"
    (hunk,) = hunks(old, b"a\nb\nC\nd\ne\n", context=1)
    for other in (
        b"",
        b"a\n",
        b"a\nb\nc\nX\ne\n",
        b"a\nb\nX\nd\ne\n",
        b"0\n" + old,
        b"a\nb\nc\nd",
        b"a\nb\nc\ndd\n",
    ):
        with pytest.raises(HunkMismatchError):
            apply_hunks(other, [hunk])
    with pytest.raises(HunkMismatchError):
        apply_hunks(old, [hunk, hunk])
    (last,) = hunks(b"a\nb", b"a\nc")
    with pytest.raises(HunkMismatchError):
        apply_hunks(b"a\nb\nmore\n", [last])
    (inserted,) = hunks(b"a\nb\n", b"a\nb\nc", context=0)
    with pytest.raises(HunkMismatchError):
        apply_hunks(b"a\nb\nmore\n", [inserted])
    with pytest.raises(HunkMismatchError):
        apply_hunks(b"a\nb", [inserted])


def test_parts_apply_in_any_order() -> None:
    old = b"".join(b"%d\n" % number for number in range(5))
    new = b"first\n" + old.replace(b"3\n", b"three\n")
    (hunk,) = hunks(old, new)
    parts = split_hunk(hunk)
    assert parts[0].old_start == parts[1].old_start  # both begin with the same context
    assert apply_hunks(old, parts) == apply_hunks(old, parts[::-1]) == new


@settings(max_examples=200)
@given(TEXT, TEXT)
def test_split_parts_make_the_whole(old: bytes, new: bytes) -> None:
    for hunk in hunks(old, new):
        parts = split_hunk(hunk, b"p")
        assert apply_hunks(old, parts) == apply_hunks(old, [hunk])
        assert count_lines(parts) == count_lines([hunk])
        assert all(len(split_hunk(part)) == 1 for part in parts)


def test_binary_is_git_s_rule() -> None:
    assert is_binary(b"x" * 7999 + b"\0")
    assert not is_binary(b"x" * 8000 + b"\0")
    assert not is_binary(b"\xff\x01")


# Patches

CASES: dict[str, tuple[Side | None, Side | None]] = {
    "modified": (Side(FILE, b"a\nb\nc\n"), Side(FILE, b"a\nB\nc\n")),
    "no newline": (Side(FILE, b"a\nb"), Side(FILE, b"a\nb\nc")),
    "newline added": (Side(FILE, b"a\nb"), Side(FILE, b"a\nb\n")),
    "added": (None, Side(FILE, b"new\n")),
    "added empty": (None, Side(FILE, b"")),
    "added executable": (None, Side(EXEC, b"#!/bin/sh\n")),
    "deleted": (Side(FILE, b"gone\n"), None),
    "deleted empty": (Side(EXEC, b""), None),
    "emptied": (Side(FILE, b"a\n"), Side(FILE, b"")),
    "mode": (Side(FILE, b"a\n"), Side(EXEC, b"a\n")),
    "mode and text": (Side(EXEC, b"a\nb\n"), Side(FILE, b"a\nc\n")),
    "link added": (None, Side(LINK, b"../tar get")),
    "link changed": (Side(LINK, b"one"), Side(LINK, b"two")),
    "link deleted": (Side(LINK, b"one"), None),
    "file to link": (Side(FILE, b"a\n"), Side(LINK, b"a")),
    "link to file": (Side(LINK, b"a"), Side(EXEC, b"a")),
    "binary added": (None, Side(FILE, bytes(range(256)) * 9)),
    "binary changed": (Side(FILE, b"\0a"), Side(FILE, b"\0b")),
    "binary and mode": (Side(FILE, b"\0a"), Side(EXEC, os.urandom(5000) + b"\0")),
    "binary deleted": (Side(FILE, b"\0"), None),
    "text to binary": (Side(FILE, b"a\n"), Side(FILE, b"\0" * 30)),
    "crlf": (Side(FILE, b"a\r\nb\r\n"), Side(FILE, b"a\r\nc\r\n")),
    "tricky lines": (Side(FILE, b"-- a\n@@ -1 +1 @@\n"), Side(FILE, b"++ b\n\\ No newline\n")),
}


def whole(path: bytes, side: Side | None) -> Tree:
    return {path: side} if side else {}


@pytest.mark.parametrize("case", CASES)
def test_git_applies_a_patch_of_any_change(git: Git, case: str) -> None:
    old, new = CASES[case]
    for name in ODD_NAMES[:2]:
        patch = file_patch(name, None, old, new, binary=True)
        assert_applies(git, whole(name, old), whole(name, new), patch)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_git_applies_a_patch_to_any_name(git: Git, name: bytes) -> None:
    for case in ("modified", "added", "deleted", "file to link", "mode", "binary changed"):
        old, new = CASES[case]
        patch = file_patch(name, None, old, new, binary=True)
        assert_applies(git, whole(name, old), whole(name, new), patch)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("binary", [False, True])
def test_a_patch_reads_as_git_diff_prints_it(git: Git, case: str, binary: bool) -> None:
    for name in ODD_NAMES[:6]:
        old, new = CASES[case]
        shown = shown_by_git(git, whole(name, old), whole(name, new), binary)
        patch = file_patch(name, None, old, new, binary=binary)
        assert comparable(patch) == comparable(shown)
        if b"GIT binary patch" in patch:
            assert ids(patch) == ids(shown)


def test_hunks_join_where_git_joins_them(git: Git) -> None:
    lines = [b"line %d\n" % n for n in range(80)]
    changed = {5, 12, 20, 27, 33, 50, 58}
    new = b"".join(b"new\n" if n in changed else line for n, line in enumerate(lines))
    before, after = Side(FILE, b"".join(lines)), Side(FILE, new)
    shown = shown_by_git(git, {b"f": before}, {b"f": after}, binary=False)
    patch = file_patch(b"f", None, before, after)
    headings = [line.split(b" @@")[0] for line in comparable(shown)]
    assert [line.split(b" @@")[0] for line in comparable(patch)] == headings


def test_binary_patches_of_any_length_apply(git: Git) -> None:
    after = {b"%d" % n: Side(FILE, b"\0" + os.urandom(n)) for n in range(100)}
    patch = b"".join(
        file_patch(name, None, None, side, binary=True) for name, side in after.items()
    )
    assert_applies(git, {}, after, patch)


def ids(patch: bytes) -> list[bytes]:
    return [line for line in patch.split(b"\n") if line.startswith(b"index ")]


def shown_by_git(git: Git, before: Tree, after: Tree, binary: bool) -> bytes:
    git.write(before)
    tree = git("write-tree").strip()
    git.write(after)
    args = ["--binary"] if binary else []
    return git("diff", "--cached", "--no-ext-diff", "-M1%", *args, tree)


def comparable(patch: bytes) -> list[bytes]:
    """The lines without what may differ: ids, the heading of a hunk, how bytes are packed."""
    lines = []
    packed = False
    for line in patch.split(b"\n"):
        packed = packed and not line.startswith(b"diff --git ")
        if not packed and not line.startswith((b"index ", b"similarity index ")):
            lines.append(line)
        packed = packed or line == b"GIT binary patch"
    return [line for line in lines if line]


RENAMES = [
    (Side(FILE, b"same\n"), Side(FILE, b"same\n")),
    (Side(FILE, b"a\nb\nc\nd\n"), Side(FILE, b"a\nb\nX\nd\n")),
    (Side(FILE, b"a\nb\nc\nd\n"), Side(EXEC, b"a\nb\nX\nd\n")),
    (Side(FILE, b"\0" * 90 + b"x"), Side(EXEC, b"\0" * 90 + b"y")),
    (Side(LINK, b"target"), Side(LINK, b"target")),
    (Side(FILE, b"a\n"), Side(LINK, b"a")),
]


@pytest.mark.parametrize(("old", "new"), RENAMES)
def test_renames_apply_and_read_as_git_prints_them(git: Git, old: Side, new: Side) -> None:
    for n, name in enumerate(ODD_NAMES):
        other = b"to/" + ODD_NAMES[n - 1]
        patch = file_patch(other, name, old, new, binary=True)
        assert_applies(git, {name: old}, {other: new}, patch)
        if old.git_mode != 0o120000 and new.git_mode != 0o120000:
            shown = shown_by_git(git, {name: old}, {other: new}, binary=True)
            assert comparable(patch) == comparable(shown)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(min_size=1, max_size=12).map(lambda raw: raw.translate(NAME_BYTES)),
            st.sampled_from([FILE, EXEC]),
            TEXT | st.binary(max_size=60),
            TEXT | st.binary(max_size=60),
            st.sampled_from([FILE, EXEC]),
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[0],
    )
)
def test_git_applies_patches_of_whole_trees(
    git: Git, rows: list[tuple[bytes, int, bytes, bytes, int]]
) -> None:
    before = {b"x" + name: Side(mode, old) for name, mode, old, _, _ in rows}
    after = {b"x" + name: Side(mode, new) for name, _, _, new, mode in rows}
    patch = b"".join(
        file_patch(name, None, before[name], after[name], binary=True) for name in before
    )
    git.write(before)
    if patch:
        assert_applies(git, before, after, patch)
    else:
        assert before == after


@settings(max_examples=30, deadline=None)
@given(TEXT, TEXT, st.integers(0, 3))
def test_git_applies_hunks_with_any_context(git: Git, old: bytes, new: bytes, context: int) -> None:
    if old == new:
        return
    patch = file_patch(b"f", None, Side(FILE, old), Side(FILE, new), context=context)
    git.write({b"f": Side(FILE, old)})
    git("apply", "--unidiff-zero", "--whitespace=nowarn", "-", stdin=patch)
    assert git.read() == {b"f": Side(FILE, new)}


def test_nothing_changed_is_no_patch() -> None:
    assert file_patch(b"f", None, Side(FILE, b"a"), Side(FILE, b"a")) == b""
    # git keeps no more of a mode than whether the owner may execute.
    assert file_patch(b"f", None, Side(0o100600, b"a"), Side(0o100664, b"a")) == b""
    assert file_patch(b"f", None, None, None) == b""


def test_binary_files_are_only_named_unless_asked_for() -> None:
    patch = file_patch(b"f", None, None, Side(FILE, b"\0secret"))
    assert patch.endswith(b"Binary files /dev/null and b/f differ\n")
    assert b"index" not in patch


@pytest.mark.parametrize("name", [b"", b"/etc/passwd", b"a\0b"])
def test_a_name_that_cannot_stand_in_a_patch_is_refused(name: bytes) -> None:
    side = Side(FILE, b"a\n")
    with pytest.raises(ValueError, match="name"):
        file_patch(name, None, None, side)
    with pytest.raises(ValueError, match="name"):
        file_patch(b"x", name, side, side)


@pytest.mark.parametrize("mode", [0o040755, 0o010644, 0o020644, 0o140755])
def test_a_type_that_git_does_not_keep_is_refused(mode: int) -> None:
    with pytest.raises(ValueError, match="type"):
        file_patch(b"x", None, None, Side(mode, b""))


@given(st.binary(min_size=1, max_size=30))
def test_a_quoted_name_is_one_printable_line(name: bytes) -> None:
    assert all(0x20 <= byte < 0x7F for byte in quote_name(name))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_similarity_is_a_percentage_and_100_only_for_equal(old: bytes, new: bytes) -> None:
    assert 0 <= similarity(old, new) <= 100
    assert (similarity(old, new) == 100) == (old == new)
    assert similarity(old, new) == similarity(new, old)


def test_similarity_measures_what_is_shared() -> None:
    lines = [b"a line that has the number %03d\n" % n for n in range(100)]
    old = b"".join(lines)
    assert similarity(old, b"".join(lines[::-1])) == 99
    assert similarity(old, b"".join(lines[:75])) == 75
    assert similarity(old, b"other\n" * 500) == 0
    assert similarity(old, b"") == 0
    large = bytes(5 << 20)
    assert similarity(large, large[: len(large) // 2]) == 50


# Summaries and the terminal


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text("abcé/ ", min_size=1, max_size=60).map(
                lambda name: name.strip("/").replace("//", "/_").encode() or b"x"
            ),
            st.integers(0, 400),
            st.integers(0, 400),
            st.sampled_from([False, False, True]),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda row: row[0],
    ),
    st.sampled_from([20, 30, 40, 60, 80, 132]),
)
def test_a_summary_is_that_of_git(
    git: Git, rows: list[tuple[bytes, int, int, bool]], width: int
) -> None:
    before: Tree = {}
    after: Tree = {}
    files = []
    for n, (name, added, removed, binary) in enumerate(sorted(rows)):
        name = b"%d" % n + name.replace(b"/", b"/%d" % n)
        if binary:
            before[name] = Side(FILE, b"\0" * removed)
            after[name] = Side(FILE, b"\0" + b"x" * (added - 1) if added else b"")
        else:
            before[name] = Side(FILE, b"".join(b"old %d\n" % k for k in range(removed)))
            after[name] = Side(FILE, b"".join(b"new %d\n" % k for k in range(added)))
        if before[name] != after[name]:
            files.append((name, added, removed, binary and bool(added or removed)))
    git.write(before)
    tree = git("write-tree").strip()
    git.write(after)
    shown = git("diff", "--cached", "--no-renames", f"--stat={width}", tree).decode()
    assert diffstat(sorted(files), width) == shown


def test_a_summary_names_every_file() -> None:
    files = [(b"f%05d" % n, 1, 0, False) for n in range(3000)]
    assert diffstat(files).count("\n") == 3001
    assert diffstat([]) == ""


def test_every_control_and_format_character_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character in "\t\n" or unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp"):
            continue
        shown = escape_terminal(character.encode())
        assert shown.startswith("\\"), hex(code)
        assert shown.isascii()


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"plain\ttext\n", "plain\ttext\n"),
        ("grüße 漢字 👍\n".encode(), "grüße 漢字 👍\n"),
        (b"\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        (b"\r\n\0\x7f", "\\r\n\\0\\x7f"),
        (b"\x9b31m \xc2\x9b", "\\x9b31m \\u009b"),
        (b"\xff\xc0\x80 \xed\xa0\x80", "\\xff\\xc0\\x80 \\xed\\xa0\\x80"),
        ("a\u202eb\u2066c\u200b".encode(), "a\\u202eb\\u2066c\\u200b"),
        ("\U000e0041\U000e0100\ufeff".encode(), "\\U000e0041\\U000e0100\\ufeff"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_shown(data: bytes, shown: str) -> None:
    assert escape_terminal(data) == shown


@given(st.binary(max_size=80))
def test_an_escaped_text_can_always_be_printed(data: bytes) -> None:
    shown = escape_terminal(data)
    shown.encode()
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in shown if c not in "\t\n")
