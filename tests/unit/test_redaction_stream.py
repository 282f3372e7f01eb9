"""Scan what is served: any split of reads equals one read, and no window lets a secret through."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.packs import builtin_packs
from vfs.redaction import Engine, MaskedReader, Masker, Redactor, ScanError, from_mapping, stream

ENGINE = Engine([from_mapping(plain) for pack in builtin_packs() for plain in pack.rules()])
MASKER = Masker(b"k" * 32)
REDACTOR = Redactor(ENGINE, MASKER)
BLOCK, MARGIN = stream.BLOCK, stream.MARGIN

TOKEN = b"ghp_" + b"A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
FILL = b"def plain(self, other): return self.other(plain)\n"


def reader(data: bytes) -> MaskedReader:
    made = REDACTOR.reader(lambda offset, size: data[offset : offset + size], len(data))
    assert isinstance(made, MaskedReader)
    return made


def filler(size: int) -> bytes:
    return (FILL * (size // len(FILL) + 1))[:size]


BIG = bytearray(filler(3 * BLOCK + 12345))
for place in (100, BLOCK - 20, BLOCK - 60, 2 * BLOCK + MARGIN, 2 * BLOCK - 3, len(BIG) - 60):
    BIG[place - 8 : place + 41] = b"\ntoken= " + TOKEN + b"\n"
BIG_BYTES = bytes(BIG)
WHOLE = reader(BIG_BYTES).read(0, len(BIG_BYTES))


def test_no_token_survives_at_any_block_edge() -> None:
    assert len(WHOLE) == len(BIG_BYTES)
    assert BIG_BYTES.count(TOKEN) == 5
    assert TOKEN not in WHOLE
    assert WHOLE.count(MASKER.placeholder(TOKEN)) == 5


@pytest.mark.parametrize("cut", range(0, 41, 5))
def test_a_secret_across_the_edge_has_one_placeholder(cut: int) -> None:
    data = filler(BLOCK - 7 - cut) + b"\nkey = " + TOKEN + b"\n" + filler(BLOCK)
    masked = reader(data).read(0, len(data))
    assert masked == data.replace(TOKEN, MASKER.placeholder(TOKEN))


@given(st.lists(st.tuples(st.integers(0, len(BIG_BYTES)), st.integers(0, 300_000)), max_size=6))
@settings(max_examples=15, deadline=None)
def test_any_split_of_reads_equals_one_read(reads: list[tuple[int, int]]) -> None:
    served = reader(BIG_BYTES)
    for offset, size in reads:
        assert served.read(offset, size) == WHOLE[offset : offset + size]


def test_small_and_large_files_mask_alike() -> None:
    data = filler(5000) + b"\ntoken = " + TOKEN + b"\n"
    assert REDACTOR.snapshot(data).data == reader(data).read(0, len(data))


def long_key(size: int) -> bytes:
    line = b"MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"
    body = (line * (size // len(line) + 1))[:size]
    return b"-----BEGIN RSA PRIVATE KEY-----\n" + body + b"\n-----END RSA PRIVATE KEY-----\n"


@pytest.mark.parametrize("lead", [10, BLOCK - MARGIN - 40, BLOCK + 5])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 0, 4, 1]])
def test_a_key_longer_than_the_margin_does_not_leak_its_tail(lead: int, order: list[int]) -> None:
    data = filler(lead) + b"\n" + long_key(3 * BLOCK) + filler(BLOCK // 2)
    served = reader(data)
    body = data.index(b"-----\n", lead) + 6
    end = data.index(b"\n-----END")
    for block in order:
        start = block * BLOCK
        masked = served.read(start, BLOCK)
        low = max(start, body)
        high = max(low, min(start + len(masked), end))
        plain = data[low:high].replace(b"\n", b"")
        shown = masked[low - start : high - start].replace(b"\n", b"")
        assert len(shown) == len(plain)
        assert all(a != b for a, b in zip(shown, plain, strict=True))
        after = max(start, end + 40)
        assert masked[after - start :] == data[after : start + len(masked)]


def test_a_token_longer_than_the_margin_does_not_leak_its_tail() -> None:
    token = b"eyJhbGciOiJIUzI1NiJ9.eyJ" + b"Zm9vYmFy" * (BLOCK // 4) + b".c2lnbmF0dXJl"
    data = b"jwt: " + token + b"\n" + filler(BLOCK)
    for offset in (0, BLOCK, len(token) - 20):
        masked = reader(data).read(offset, 20_000)
        plain = data[offset : offset + 20_000]
        first = max(0, 5 - offset)
        last = min(len(plain), 5 + len(token) - offset)
        same = [a == b for a, b in zip(masked[first:last], plain[first:last], strict=True)]
        assert not any(same)
    whole = reader(data).read(0, len(data))
    assert whole == b"".join(reader(data).read(at, 777_777) for at in range(0, len(data), 777_777))


def test_a_long_file_of_base64_that_is_no_key_stays_as_it_is() -> None:
    data = (
        b"data:\n" + b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2\n" * 50_000
    )
    assert reader(data).read(2 * BLOCK + 5, 5000) == data[2 * BLOCK + 5 : 2 * BLOCK + 5005]


def test_a_middle_too_far_from_its_beginning_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "MAX_CARRY", BLOCK)
    data = b"QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2\n" * 80_000
    with pytest.raises(ScanError, match="too long"):
        reader(data).read(4 * BLOCK, 10)
    served = reader(data)
    assert b"".join(served.read(at, BLOCK) for at in range(0, len(data), BLOCK)) == data


def test_a_sparse_file_costs_no_walk_back() -> None:
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(offset)
        return bytes(size)

    served = MaskedReader(read, 1 << 40, ENGINE, MASKER)
    assert served.read(1 << 39, 4096) == bytes(4096)
    assert min(asked) >= (1 << 39) - MARGIN


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_wide_text_over_several_blocks(encoding: str) -> None:
    text = BIG_BYTES[: BLOCK + 4000].decode()
    data = text.encode(encoding)
    masked = reader(data).read(0, len(data)).decode(encoding)
    assert masked == text.replace(TOKEN.decode(), MASKER.placeholder(TOKEN).decode())


def test_a_source_that_shrinks_gives_a_short_read() -> None:
    data = filler(BLOCK + 50)
    served = MaskedReader(lambda o, n: data[o : o + n], 3 * BLOCK, ENGINE, MASKER)
    assert served.read(0, 3 * BLOCK) == data


def test_partial_reads_of_the_source_are_joined() -> None:
    served = MaskedReader(
        lambda o, n: BIG_BYTES[o : o + min(n, 70_001)], len(BIG_BYTES), ENGINE, MASKER
    )
    assert served.read(0, len(BIG_BYTES)) == WHOLE


def test_a_failed_scan_fails_the_read(monkeypatch: pytest.MonkeyPatch) -> None:
    served = reader(BIG_BYTES)

    def broken(*args: object, **kwargs: object) -> object:
        raise ScanError("broken")

    monkeypatch.setattr(ENGINE, "scan", broken)
    with pytest.raises(ScanError):
        served.read(0, 10)
    monkeypatch.undo()
    assert served.read(0, 10) == WHOLE[:10]


def test_findings_and_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "CACHED", 2)
    served = reader(BIG_BYTES)
    assert served.findings_count == 0
    found = served.findings_in(0, len(BIG_BYTES))
    assert [BIG_BYTES[f.start : f.end] for f in found].count(TOKEN) == 5
    assert served.findings_count == len(found)
    assert len(served._blocks) == 2
    assert found == REDACTOR.findings(BIG_BYTES)
    assert served.findings_in(50, 150) == [f for f in found if 50 <= f.start < 150]


def test_a_second_read_scans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    served = reader(BIG_BYTES)
    first = served.read(500, 5000)
    monkeypatch.setattr(ENGINE, "scan", None)
    assert served.read(500, 5000) == first


def test_threads_share_a_reader() -> None:
    served = reader(BIG_BYTES)
    got: list[bool] = []

    def work(seed: int) -> None:
        for step in range(12):
            at = (seed * 7919 + step * 524_287) % len(BIG_BYTES)
            got.append(served.read(at, 100_000) == WHOLE[at : at + 100_000])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [True] * 36


def test_large_files_are_restored_from_the_path_that_served_them() -> None:
    staged = WHOLE.replace(b"\n", b"\n ", 50) + b"more\n"
    made = REDACTOR.restore(staged, BIG_BYTES)
    assert made.data == BIG_BYTES.replace(b"\n", b"\n ", 50) + b"more\n"
    assert made.undecided == ()


def test_profile_none_serves_the_bytes_as_they_are() -> None:
    data = b"token = " + TOKEN
    assert REDACTOR.snapshot(data, "none").data == data
    served = REDACTOR.reader(lambda o, n: data[o : o + n], len(data), "none")
    assert served.read(3, 100) == data[3:]
    assert served.findings_in(0, 100) == []
    with pytest.raises(KeyError):
        REDACTOR.reader(lambda o, n: b"", 0, "unknown")
