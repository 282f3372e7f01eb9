"""The engine: proposes, confirms, never answers with less than it should."""

import string
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.packs import builtin_packs
from vfs.redaction import (
    Engine,
    Masker,
    Redactor,
    Rule,
    RuleError,
    ScanError,
    from_mapping,
    propose,
)
from vfs.redaction import engine as engine_module
from vfs.redaction.propose import Proposer
from vfs.redaction.views import views

RULES = [from_mapping(plain) for pack in builtin_packs() for plain in pack.rules()]
ENGINE = Engine(RULES)
REDACTOR = Redactor(ENGINE, Masker(b"k" * 32))

GITHUB = b"ghp_" + b"A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
LINE = b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj"
SAMPLES = {
    b"GITHUB_TOKEN=%s\n": GITHUB,
    b"url: postgres://app:%s@db.internal/x\n": b"q9vX2mLp",
    b'{"password": "%s"}\n': b"tr0ub4dor&3",
    b"export DB_PASSWORD=%s\n": b"hunter2xy",
    b"login %s end\n": b"sk_" + b"live_4eC39HqLyjWDarjtT1zdp7dc",
}


def hidden(data: bytes, engine: Engine = ENGINE) -> bytes:
    """The data with dots where it is not masked."""
    out = bytearray(b"." * len(data))
    for f in engine.find(data):
        out[f.start : f.end] = data[f.start : f.end]
    return bytes(out)


@pytest.mark.parametrize(("frame", "secret"), SAMPLES.items())
@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings(frame: bytes, secret: bytes, encoding: str, newline: str) -> None:
    text = (frame % secret).decode().replace("\n", newline)
    masked = REDACTOR.snapshot(text.encode(encoding)).data.decode(encoding)
    start = text.index(secret.decode())
    assert masked[:start] == text[:start]
    assert masked[start + len(secret) :] == text[start + len(secret) :]
    pairs = zip(masked[start:], secret.decode(), strict=False)
    assert all(ours != theirs for ours, theirs in pairs)


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_wide_text_inside_a_binary_file(encoding: str, shift: int) -> None:
    data = b"\x7fELF" + bytes(shift) + b"\x90\x91" + ("t: " + GITHUB.decode()).encode(encoding)
    masked = REDACTOR.snapshot(data + b"\x93\x94").data
    # A character of a misaligned string may be lost at its edge, never the string.
    assert GITHUB.decode()[:-1].encode(encoding)[1:-1] not in masked
    assert REDACTOR.snapshot(data).findings


def test_key_lines_are_masked_and_armour_stays() -> None:
    key = b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,AB12\n\n"
    tail = b"\n-----END RSA PRIVATE KEY-----\n"
    data = b"x\n" + key + LINE + b"\n" + LINE + b"\nab==" + tail
    masked = REDACTOR.snapshot(data).data
    assert masked.startswith(b"x\n" + key)
    assert masked.endswith(tail)
    assert masked.count(b"\n") == data.count(b"\n")
    assert LINE not in masked
    assert b"ab==" not in masked


@pytest.mark.parametrize("label", [b"", b"EC ", b"OPENSSH ", b"DSA ", b"ENCRYPTED "])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\\n", b"\\r\\n", b'\\n" +\n  "', b"\n# "])
def test_key_forms(label: bytes, newline: bytes) -> None:
    lines = [b"-----BEGIN " + label + b"PRIVATE KEY-----", LINE, LINE[::-1], b"c2hvcnQ="]
    data = newline.join([*lines, b"-----END " + label + b"PRIVATE KEY-----"])
    masked = REDACTOR.snapshot(data).data
    kept = masked.split(newline)
    assert len(kept) == 5
    assert kept[0] == lines[0]
    assert all(a != b for ours, line in zip(kept[1:4], lines[1:], strict=True)
               for a, b in zip(ours, line, strict=True))  # fmt: skip


def test_a_key_without_its_end_and_the_words_behind_it() -> None:
    data = (
        b"-----BEGIN PRIVATE KEY-----\n" + LINE + b"\n" + LINE + b"\n\nplain words (follow) here\n"
    )
    masked = REDACTOR.snapshot(data).data
    assert LINE not in masked
    assert masked.endswith(b"(follow) here\n")
    mention = b'if "-----BEGIN PRIVATE KEY-----" in text and other in words: pass\n'
    assert REDACTOR.snapshot(mention).data == mention


def test_a_key_of_crumbs_does_not_leak() -> None:
    crumbs = b"\n".join(b"%c%c" % (65 + n % 26, 97 + n % 25) for n in range(20_000))
    data = b"-----BEGIN PRIVATE KEY-----\n" + crumbs + b"\n-----END PRIVATE KEY-----\n"
    found = ENGINE.find(data)
    # Crumbs are no key that any program reads; a carried body of them is masked as a whole.
    carried = ENGINE.scan(crumbs, carry="pem").findings
    assert found == []
    assert sum(f.end - f.start for f in carried) == len(crumbs)


def test_long_tokens_are_hidden_to_their_end() -> None:
    token = b"eyJhbGciOiJIUzI1NiJ9.eyJ" + b"Zm9vYmFy" * 9000 + b"." + b"c2ln" * 3000
    data = b"jwt " + token + b" end"
    assert hidden(data).strip(b".") == token.strip(b".")
    masked = REDACTOR.snapshot(data).data
    assert masked.startswith(b"jwt ")
    assert masked.endswith(b" end")


@given(st.lists(st.sampled_from(sorted(SAMPLES)), max_size=8), st.text(max_size=40))
@settings(max_examples=60, deadline=None)
def test_findings_are_sorted_disjoint_and_masking_twice_changes_nothing(
    frames: list[bytes], noise: str
) -> None:
    data = noise.encode().join(frame % SAMPLES[frame] for frame in frames)
    found = ENGINE.find(data)
    assert all(a.end <= b.start for a, b in pairwise(found))
    long = [f for f in found if f.end - f.start >= 12]
    masked = REDACTOR.masker.mask(data, long)
    again = ENGINE.find(masked, live=REDACTOR.masker.live_spans)
    spans = {(f.start, f.end) for f in long}
    assert not any(s < f.end and f.start < e for f in again for s, e in spans)


def test_a_look_alike_is_scanned_like_any_text() -> None:
    genuine = REDACTOR.masker.placeholder(GITHUB)
    for value in (b"MASKEDa" + GITHUB[4:], b"ghp_MASKEDx" + b"A1b2C3d4E5f6G7h8I9j0K1l2M"):
        data = b"GITHUB_TOKEN=" + value + b"\n"
        assert REDACTOR.snapshot(data).findings, value
    both = b'password = "hunter-2-hunter' + genuine + b'"\n'
    masked = REDACTOR.snapshot(both).data
    assert b"hunter-2-hunter" not in masked
    alone = b"GITHUB_TOKEN=" + genuine + b"\n"
    assert REDACTOR.snapshot(alone).data == alone


def test_what_a_refused_match_hides_is_still_found() -> None:
    rule = Rule("r", "token", r"k=(?P<secret>[a-z=]{4,8}[0-9]?)", validators=("mixed",))
    assert hidden(b"k=aaaaak=bbbb1 ", Engine([rule])) == b".........bbbb1."


def test_profiles_and_versions(tmp_path: Path) -> None:
    card = Rule("card", "personal", r"\d{16}", validators=("luhn",), profiles=frozenset({"pii"}))
    engine = Engine([card], tmp_path)
    data = b"pay 4111111111111111 or 4111111111111112"
    assert engine.find(data) == []
    assert [(f.start, f.end) for f in engine.find(data, "secrets+pii")] == [(4, 20)]
    with pytest.raises(KeyError):
        engine.find(data, "everything")
    assert engine.version == Engine([card]).version
    assert engine.version != ENGINE.version
    assert ENGINE.version == Engine(reversed(RULES)).version


@pytest.mark.parametrize(
    "fields",
    [
        {"pattern": "(a"},
        {"pattern": "a", "validators": ["luck"]},
        {"pattern": "a", "validators": ["entropy:x"]},
        {"pattern": "a", "window": 1},
        {"pattern": "a", "kind": "thing"},
        {"pattern": "a", "extend": "far"},
        {"pattern": "a", "extend": "pem"},
        {"pattern": "a", "more": 1},
    ],
)
def test_bad_rules_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(RuleError):
        from_mapping({"id": "r", "kind": "token"} | fields)


def test_a_long_value_is_masked_in_pieces_of_fixed_places() -> None:
    """So every window over a large file that sees a part of it makes the same placeholders."""
    rule = Rule("r", "token", "abc[0-9]", extend="word")
    value = b"abc1" + b"xyz" * 4000
    found = Engine([rule]).scan(b"- " + value, origin=1000).findings
    assert [f.start + 1000 for f in found] == [1002, 4096, 8192, 12288]
    assert found[-1].end == 2 + len(value)
    later = Engine([rule]).scan(value[4096 - 1002 :], origin=4096, carry="word").findings
    assert [f.start + 4096 for f in later] == [4096, 8192, 12288]


def test_a_failing_scan_is_an_error_never_no_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propose, "MAX_EVENTS", 10)
    rule = Rule("r", "token", "[ab]c", window=16)
    with pytest.raises(ScanError, match="too many"):
        Engine([rule]).find(b"ac" * 100)
    monkeypatch.setattr(propose, "MAX_EVENTS", 10_000)
    monkeypatch.setattr(engine_module, "MAX_ATTEMPTS", 10)
    with pytest.raises(ScanError, match="too many"):
        Engine([rule]).find(b"ac" * 100)
    monkeypatch.setattr(engine_module, "MAX_SCAN", 10)
    with pytest.raises(ScanError, match="too many for one scan"):
        Engine([rule]).find(b"a" * 11)


def test_an_error_inside_the_library_is_a_scan_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Proposer) -> object:
        raise propose.hyperscan.ScratchInUseError("secret text")

    engine = Engine([Rule("r", "token", "abc")])
    monkeypatch.setattr(Proposer, "_scratch", broken)
    with pytest.raises(ScanError) as caught:
        engine.find(b"abc")
    assert "secret text" not in str(caught.value)


def test_near_misses_stay_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes handed to the confirming search grow with the data, not with its square."""
    searched = 0
    windows = engine_module._windows

    def counted(*args: object) -> list[tuple[int, int]]:
        nonlocal searched
        spans = list(windows(*args))  # type: ignore[arg-type]
        searched += sum(high - low for low, high in spans)
        return spans

    monkeypatch.setattr(engine_module, "_windows", counted)
    near = b"token=self.token password=none ghp_ -----BEGIN eyJ0.ey secret_key: name "
    ENGINE.find(near * 500)
    first, searched = searched, 0
    ENGINE.find(near * 1000)
    assert searched < 2.2 * first
    assert searched < 10 * len(near * 1000)
    searched = 0
    dense = Engine([Rule("r", "token", "ab[0-9]{0,9}c", anchor="ab", window=64)])
    dense.find((b"ab" + b" " * 70) * 1000)
    assert searched <= 72_000


def test_the_cache_is_used_and_a_damaged_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = Rule("r", "token", "abc[0-9]")
    Engine([rule], tmp_path).find(b"x")
    cached = list(tmp_path.glob("*.hsdb"))
    assert len(cached) == 1
    assert cached[0].stat().st_mode & 0o777 == 0o600
    compiled: list[object] = []
    real = propose._compile
    monkeypatch.setattr(propose, "_compile", lambda p: (compiled.append(p), real(p))[1])
    assert len(Engine([rule], tmp_path).find(b"abc1")) == 1
    assert compiled == []
    stored = bytearray(cached[0].read_bytes())
    stored[-1] ^= 1
    cached[0].write_bytes(stored)
    assert len(Engine([rule], tmp_path).find(b"abc1")) == 1
    assert len(compiled) == 1


def test_threads_share_an_engine() -> None:
    data = b"".join(frame % secret for frame, secret in SAMPLES.items()) * 200
    expected = ENGINE.find(data)
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(ENGINE.find(data))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_any_bytes_can_be_scanned(data: bytes) -> None:
    snapshot = REDACTOR.snapshot(data)
    assert len(snapshot.data) == len(data)
    for finding in snapshot.findings:
        assert 0 <= finding.start < finding.end <= len(data)


@given(st.text(string.printable, max_size=200), st.sampled_from(sorted(SAMPLES)))
@settings(max_examples=100, deadline=None)
def test_a_secret_on_its_own_line_is_found_in_any_surroundings(noise: str, frame: bytes) -> None:
    lines = noise.replace("\x0b", "").replace("\x0c", "").encode()
    secret = SAMPLES[frame]
    if b"-----BEGIN" in lines or b"MASK" in lines.upper():
        return
    data = lines + b"\n\n" + frame % secret + b"\n"
    start = data.rindex(secret)
    covered = {at for f in ENGINE.find(data) for at in range(f.start, f.end)}
    assert covered.issuperset(range(start, start + len(secret)))


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_wide_string_between_other_bytes_is_seen_whole(encoding: str, shift: int) -> None:
    data = b"\x90" * (4 + shift) + "k=Secret1".encode(encoding) + b"\x90" * 4
    assert any(b"k=Secret1" in view.text for view in views(data)[1:])
