"""Placeholders: same length, keyed, unlike the value, known again, and not to be forged."""

import string

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from vfs.redaction import Finding, Masker, find_candidates
from vfs.redaction.views import Unit, widen

MASKER = Masker(b"k" * 32)
OTHER = Masker(b"o" * 32)
ALNUM = (string.ascii_letters + string.digits).encode()

values = st.one_of(
    st.binary(min_size=1, max_size=80),
    st.text(ALNUM.decode() + "-_+/=", min_size=1, max_size=300).map(str.encode),
    st.text(string.digits, min_size=1, max_size=40).map(str.encode),
    st.text("MASKEDmasked" + string.digits, min_size=1, max_size=40).map(str.encode),
)  # fmt: skip


@given(values)
@example(b"MASKEDabcdefghijklmnop")
@example(b"1")
@example(b"\xff" * 20)
def test_form(value: bytes) -> None:
    placeholder = MASKER.placeholder(value)
    assert len(placeholder) == len(value)
    assert all(a != b for a, b in zip(placeholder, value, strict=True))
    assert set(placeholder) <= set(ALNUM)
    assert placeholder == MASKER.placeholder(value)
    if value.isdigit() and value.isascii():
        assert placeholder.isdigit()
        assert placeholder[:1] != b"0"
    head = 0
    letters = any(c > 127 or chr(c).isalpha() for c in value)
    digits = any(chr(c).isdigit() and c < 128 for c in value)
    if len(value) >= 12 and (letters or not digits):
        head = 4 if len(value) < 16 else 6
        assert placeholder[:head].upper() == b"MASKED"[:head]
    for ours, theirs in zip(placeholder[head:], value[head:], strict=True):
        if head and chr(theirs).isascii() and chr(theirs).isalpha():
            assert chr(ours).isalpha()
        if chr(theirs).isascii() and chr(theirs).isdigit():
            assert chr(ours).isdigit()


long_values = values.map(lambda value: (value * 12)[: max(12, len(value))])


@given(long_values, long_values)
def test_distinct_from_twelve_characters_on(one: bytes, two: bytes) -> None:
    assume(one != two)
    assert MASKER.placeholder(one) != MASKER.placeholder(two)


def test_distinct_over_many_similar_values() -> None:
    made = {MASKER.placeholder(b"abcdefgh%04d" % n) for n in range(3000)}
    assert len(made) == 3000


@given(long_values)
def test_another_key_gives_another_placeholder(value: bytes) -> None:
    assert MASKER.placeholder(value) != OTHER.placeholder(value)


@given(st.text(string.ascii_letters, min_size=12, max_size=200).map(str.encode))
def test_own_placeholders_are_known_again_in_text(value: bytes) -> None:
    placeholder = MASKER.placeholder(value)
    text = b"key = " + placeholder + b"\n"
    assert MASKER.live_spans(text) == [(6, 6 + len(value))]
    assert OTHER.live_spans(text) == []


@given(
    st.text(string.ascii_letters + string.digits, min_size=20, max_size=80).map(str.encode),
    st.data(),
)
def test_a_changed_placeholder_is_not_genuine(value: bytes, data: st.DataObject) -> None:
    placeholder = bytearray(MASKER.placeholder(value))
    assume(MASKER.is_genuine(bytes(placeholder)))
    at = data.draw(st.integers(6, len(placeholder) - 1))
    letter = data.draw(st.sampled_from(sorted(ALNUM)))
    assume(placeholder[at] != letter)
    placeholder[at] = letter
    assert not MASKER.is_genuine(bytes(placeholder))
    assert not MASKER.is_genuine(bytes(placeholder[:-1]))


def test_values_wrapped_in_a_marker_are_not_genuine() -> None:
    secrets = [b"MASKED" + b"%026d" % n + b"abcd" for n in range(2000)]
    secrets += [b"MASKEDa" + bytes(ALNUM[(n * k) % 62] for k in range(1, 30)) for n in range(2000)]
    assert not any(MASKER.is_genuine(secret) for secret in secrets)


@pytest.mark.parametrize("unit", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_values_look_equal_to_narrow_ones(unit: Unit) -> None:
    value = b"Tr0ub4dor-and-3-more"
    data = widen(b"k=" + value, unit)
    step = len(data) // (2 + len(value))
    finding = Finding(2 * step, len(data), "r", "credential", unit)
    masked = MASKER.mask(data, [finding])
    assert masked == widen(b"k=" + MASKER.placeholder(value), unit)


def test_a_wide_value_beyond_ascii_is_masked_unit_for_unit() -> None:
    value = "pässwörd-日本-1234"
    data = ("k=" + value).encode("utf-16-le")
    masked = MASKER.mask(data, [Finding(4, len(data), "r", "credential", "utf-16-le")])
    text = masked.decode("utf-16-le")
    assert text.startswith("k=")
    assert text.isascii()
    assert len(text) == 2 + len(value)
    assert all(a != b for a, b in zip(text[2:], value, strict=True))


def test_masking_leaves_all_else_alone() -> None:
    data = b"a=secretsecret b=2"
    masked = MASKER.mask(data, [Finding(2, 14, "r", "credential")])
    assert masked[:2] == data[:2]
    assert masked[14:] == data[14:]
    assert MASKER.mask(data, []) is data


def test_candidates() -> None:
    placeholder = MASKER.placeholder(b"Zq8vN2xLw0pRt5yBc7dF")
    text = b"x=" + placeholder + b" y=" + placeholder[:12] + b" z"
    assert find_candidates(text) == [(2, 22), (25, 37)]


@pytest.mark.parametrize(
    "text",
    [
        b"MaskedArray(masked_values, MASKED_ARRAY, maskedarray, MASKEDARRAYS)",
        b"class MaskedArrayFutureWarning: UNMASKEDNESS = masked",
        b"MASK0000FFFF MASK_ALL MASKING MASKs unmaskable NETMASK255 bitmask64",
        b"mask" * 50,
    ],
)
def test_ordinary_code_has_no_candidates(text: bytes) -> None:
    assert find_candidates(text) == []
    assert MASKER.live_spans(text) == []


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Masker(b"short")
