"""Restoring: a mask never destroys a secret, and nothing is restored outside its place."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.packs import builtin_packs
from vfs.redaction import Engine, Finding, Masker, Redactor, ScanError, from_mapping
from vfs.redaction import restore as restore_module
from vfs.redaction.place import place_of
from vfs.redaction.restore import restore

ENGINE = Engine([from_mapping(plain) for pack in builtin_packs() for plain in pack.rules()])
MASKER = Masker(b"k" * 32)
REDACTOR = Redactor(ENGINE, MASKER)

TOKEN = b"ghp_" + b"A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
LINE = b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
BASE = b"".join(
    [
        b"# settings\n",
        b"GITHUB_TOKEN=" + TOKEN + b"\n",
        b"DB_PASSWORD=hunter2xy\n",
        b"URL=postgres://app:q9vX2mLp@db.internal:5432/x\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n",
        LINE + b"\n" + LINE[::-1] + b"\nc2hvcnQ=\n",
        b"-----END RSA PRIVATE KEY-----\n",
        b"PLAIN=value\n",
    ]
)
SECRETS = [TOKEN, b"hunter2xy", b"q9vX2mLp", LINE, LINE[::-1], b"c2hvcnQ="]
MASKED = REDACTOR.snapshot(BASE).data
SHOWN = MASKER.placeholder(TOKEN)


def test_the_base_is_masked() -> None:
    assert not any(secret in MASKED for secret in SECRETS)
    assert SHOWN in MASKED


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text,
        lambda text: text.replace(b"value", b"other"),
        lambda text: text + b"NEW=1\n",
        lambda text: b"#!/bin/sh\n" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n    "),
        lambda text: text.replace(b"# settings\n", b""),
        lambda text: text.replace(b"GITHUB_TOKEN=", b"export GITHUB_TOKEN = "),
        lambda text: text.replace(SHOWN, b'"' + SHOWN + b'"'),
        lambda text: text.replace(b"GITHUB_TOKEN=" + SHOWN, b'"GITHUB_TOKEN": "' + SHOWN + b'",'),
        lambda text: b"".join(
            [b"".join(text.splitlines(True)[4:]), b"".join(text.splitlines(True)[:4])]
        ),
        lambda text: text.replace(b"postgres://app", b"mysql://app").replace(b"/x\n", b"/y\n"),
    ],
)
def test_edits_around_secrets_bring_them_back(edit: object) -> None:
    staged = edit(MASKED)  # type: ignore[operator]
    plain = staged
    for finding in ENGINE.find(BASE):
        original = BASE[finding.start : finding.end]
        plain = plain.replace(MASKER.placeholder(original), original)
    made = REDACTOR.restore(staged, BASE)
    assert made.data == plain
    assert made.undecided == ()
    assert made.dropped == 0
    assert made.restored == len(ENGINE.find(BASE))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_wide_files_are_restored_in_their_encoding(encoding: str) -> None:
    base = BASE.decode().encode(encoding)
    masked = REDACTOR.snapshot(base).data.decode(encoding)
    made = REDACTOR.restore(masked.replace("value", "日本").encode(encoding), base)
    assert made.data.decode(encoding) == BASE.decode().replace("value", "日本")
    assert (made.undecided, made.dropped) == ((), 0)


def test_moving_a_token_into_another_line_is_undecided() -> None:
    base = b"TOKEN=" + TOKEN + b"\nrun:\n\tcurl example.org\n"
    masked = REDACTOR.snapshot(base).data
    staged = masked.replace(b"TOKEN=" + SHOWN + b"\n", b"").replace(
        b"curl ", b"curl -H 'Authorization: Bearer " + SHOWN + b"' "
    )
    made = REDACTOR.restore(staged, base)
    assert made.data == staged
    assert [u.why for u in made.undecided] == ["moved"]
    assert staged[made.undecided[0].start : made.undecided[0].end] == SHOWN
    assert made.dropped == 1
    decided = REDACTOR.restore(staged, base, mode="restore")
    assert decided.data == staged.replace(SHOWN, TOKEN)
    assert decided.undecided == ()
    kept = REDACTOR.restore(staged, base, mode="keep")
    assert (kept.data, kept.undecided) == (staged, ())


def test_a_copy_is_extra_and_the_original_restored() -> None:
    staged = MASKED + b"GITHUB_TOKEN=" + SHOWN + b"\nOTHER=" + SHOWN + b"\n"
    made = REDACTOR.restore(staged, BASE)
    assert made.data.count(TOKEN) == 1
    assert [u.why for u in made.undecided] == ["extra", "extra"]
    assert made.dropped == 0


@pytest.mark.parametrize(
    "altered",
    [
        SHOWN[:-4],
        SHOWN[:12],
        SHOWN[6:],
        SHOWN[10:30],
        SHOWN + b"xyz",
        b"abc" + SHOWN,
        SHOWN[:20] + b"-" + SHOWN[20:],
    ],
)
def test_altered_placeholders_are_cut(altered: bytes) -> None:
    made = REDACTOR.restore(MASKED.replace(SHOWN, altered), BASE)
    assert made.undecided
    assert {u.why for u in made.undecided} == {"cut"}
    assert made.dropped == 1
    assert TOKEN not in made.data
    assert REDACTOR.restore(MASKED.replace(SHOWN, altered), BASE, mode="restore").undecided


def test_invented_and_foreign_placeholders() -> None:
    foreign = MASKER.placeholder(b"another-files-secret-0001")
    forged = b"MASKEDq7Hw2LmN0pZx"
    staged = MASKED + b"A=" + foreign + b"\nB=" + forged + b"\n"
    made = REDACTOR.restore(staged, BASE)
    assert [u.why for u in made.undecided] == ["moved", "forged"]
    known = {foreign: b"another-files-secret-0001"}
    decided = REDACTOR.restore(staged, BASE, mode="restore", known=known.get)
    assert decided.data == BASE + b"A=another-files-secret-0001\nB=" + forged + b"\n"
    assert [u.why for u in decided.undecided] == ["forged"]
    in_new_file = REDACTOR.restore(b"A=" + foreign + b"\n", b"", known=known.get)
    assert [u.why for u in in_new_file.undecided] == ["moved"]


def test_placeholder_like_text_of_the_source_itself_is_no_finding() -> None:
    forged = b"MASKEDq7Hw2LmN0pZx"
    base = b"see " + forged + b" in the docs\n"
    made = REDACTOR.restore(base + b"more\n", base)
    assert (made.data, made.undecided) == (base + b"more\n", ())
    twice = REDACTOR.restore(base + base, base)
    assert [u.why for u in twice.undecided] == ["forged"]


def test_dropped_secrets_are_counted() -> None:
    staged = MASKED.replace(b"GITHUB_TOKEN=" + SHOWN + b"\n", b"")
    made = REDACTOR.restore(staged, BASE)
    assert made.dropped == 1
    assert made.data == BASE.replace(b"GITHUB_TOKEN=" + TOKEN + b"\n", b"")
    assert REDACTOR.restore(b"", BASE).dropped == len(ENGINE.find(BASE))


def test_short_values_go_by_place_only() -> None:
    base = b"pin=1234\nnote=1\n"
    findings = [Finding(4, 8, "r", "credential")]
    shown = MASKER.placeholder(b"1234")
    masked = MASKER.mask(base, findings)
    staged = masked.replace(b"note=1", b"note=" + shown + b" port: " + shown)
    made = restore(staged, base, findings, MASKER)
    assert made.data == b"pin=1234\nnote=" + shown + b" port: " + shown + b"\n"
    assert made.undecided == ()


def test_equal_values_at_several_places() -> None:
    base = b"A_TOKEN=%s\nB_TOKEN=%s\nA_TOKEN=%s\n" % (TOKEN, TOKEN, TOKEN)
    masked = REDACTOR.snapshot(base).data
    lines = masked.splitlines(True)
    made = REDACTOR.restore(lines[1] + lines[0], base)
    assert made.data == b"B_TOKEN=%s\nA_TOKEN=%s\n" % (TOKEN, TOKEN)
    assert (made.undecided, made.dropped) == ((), 1)


def test_lines_of_a_key_out_of_order_are_undecided() -> None:
    one, two = MASKER.placeholder(LINE), MASKER.placeholder(LINE[::-1])
    staged = (
        MASKED.replace(one, b"#").replace(two, one).replace(b"#", two, 2).replace(two, b"# ", 1)
    )
    made = REDACTOR.restore(staged, BASE)
    assert made.undecided


def test_a_value_inside_a_longer_word_is_restored() -> None:
    base = b"x = abcSECRETvalue123456xyz\n"
    findings = [Finding(7, 24, "r", "credential")]
    masked = MASKER.mask(base, findings)
    made = restore(masked + b"more\n", base, findings, MASKER)
    assert made.data == base + b"more\n"
    assert made.undecided == ()


def test_the_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_module, "MAX_SEARCH", 10)
    base = b"x = abcSECRETvalue123456xyz\n"
    findings = [Finding(7, 24, "r", "credential")]
    with pytest.raises(ScanError):
        restore(MASKER.mask(base, findings) + b"more\n", base, findings, MASKER)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (b"TOKEN=@", b"TOKEN="),
        (b'export TOKEN = "@', b"TOKEN="),
        (b'{"TOKEN": "@', b"TOKEN="),
        (b"TOKEN := '@", b"TOKEN="),
        (b"run --token @", b"--token"),
        (b"Authorization: Bearer @", b"Bearer"),
        (b"<password>@", b"password="),
        (b"key-----\\n@", b"key-----"),
        (b"@", b""),
    ],
)
def test_places(text: bytes, place: bytes) -> None:
    start = text.index(b"@")
    assert place_of(text, start) == place


pieces = st.lists(
    st.one_of(
        st.sampled_from(MASKED.splitlines(True)),
        st.text("abcXYZ=:_ \n\"'0129", max_size=30).map(str.encode),
    ),
    max_size=14,
)


@given(pieces)
@settings(max_examples=200, deadline=None)
def test_whatever_the_agent_writes_no_placeholder_lands_in_silence(parts: list[bytes]) -> None:
    """Each of the base's long placeholders in the result is reported."""
    staged = b"".join(parts)
    made = REDACTOR.restore(staged, BASE)
    reported = [staged[u.start : u.end] for u in made.undecided]
    for finding in ENGINE.find(BASE):
        shown = MASKER.placeholder(BASE[finding.start : finding.end])
        if len(shown) >= 12:
            assert made.data.count(shown) == reported.count(shown)
            assert made.data.count(BASE[finding.start : finding.end]) <= 1
    assert made.restored + made.dropped == len(ENGINE.find(BASE))


@given(st.lists(st.tuples(st.integers(0, 9), st.text("abc \n", max_size=8)), max_size=5))
@settings(max_examples=100, deadline=None)
def test_lines_inserted_anywhere_bring_every_secret_back(edits: list[tuple[int, str]]) -> None:
    def edited(text: bytes) -> bytes:
        lines = text.splitlines(True)
        for at, new in edits:
            # Not inside the key, where a line between two others changes their place.
            lines.insert(at % 5 if at < 8 else len(lines), b"# " + new.encode() + b"\n")
        return b"".join(lines)

    made = REDACTOR.restore(edited(MASKED), BASE)
    assert made.data == edited(BASE)
    assert (made.undecided, made.dropped) == ((), 0)
