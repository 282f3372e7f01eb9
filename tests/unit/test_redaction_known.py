"""Known values: what a provider's rule found once is masked wherever else it stands."""

import pytest

from policies.packs import builtin_rules
from vfs.redaction import Engine, KnownValues, Masker, Redactor, from_mapping

ENGINE = Engine(from_mapping(plain, trusted=True) for plain in builtin_rules())
TOKEN = b"ghp_" + b"R4nd0mT0kenOfThirtySixCharacters9zQ1"
WITH_RULE = b"token = " + TOKEN + b"\n"
HEX = b"9f86d081884c7d659a2feaa0c55ad015"
NAMED = b"TWILIO_AUTH_TOKEN=" + HEX + b"\n"
BARE = b"see also " + HEX + b" in the notes\n"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(ENGINE, Masker(b"k" * 32))


def test_a_value_is_masked_without_its_context_once_it_is_known(redactor: Redactor) -> None:
    assert redactor.snapshot(BARE).data == BARE
    version = redactor.version
    shown = redactor.snapshot(NAMED).data
    assert HEX not in shown
    assert redactor.version != version
    masked = redactor.snapshot(BARE).data
    assert HEX not in masked
    assert len(masked) == len(BARE)
    placeholder = masked[len(b"see also ") :][: len(HEX)]
    assert placeholder in shown  # equal values look equal
    version = redactor.version
    redactor.snapshot(NAMED)
    assert redactor.version == version


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32-be"])
def test_in_other_encodings_too(redactor: Redactor, encoding: str) -> None:
    redactor.snapshot(NAMED)
    data = BARE.decode().encode(encoding)
    shown = redactor.snapshot(data).data
    assert HEX.decode() not in shown.decode(encoding)
    assert len(shown) == len(data)


def test_in_large_files_over_the_edges_of_blocks(redactor: Redactor) -> None:
    redactor.snapshot(NAMED)
    data = (b"z" * ((1 << 20) - 10)) + HEX + b"z" * (1 << 20) + HEX
    reader = redactor.reader(lambda at, size: data[at : at + size], len(data))
    shown = b"".join(reader.read(at, 65536) for at in range(0, len(data), 65536))
    assert HEX not in shown
    assert len(shown) == len(data)


def test_what_an_agent_wrote_is_never_learned(redactor: Redactor) -> None:
    """Only what is read of a source teaches; a review scans both sides."""
    redactor.findings(NAMED)
    assert redactor.restore(NAMED, NAMED).data == NAMED
    assert redactor.snapshot(BARE).data == BARE


@pytest.mark.parametrize(
    "data",
    [b"password = 'correct-Horse7battery'\n", b"-----BEGIN RSA PRIVATE KEY-----\n" + b"A" * 64],
)
def test_generic_findings_and_keys_teach_nothing(redactor: Redactor, data: bytes) -> None:
    redactor.snapshot(data)
    assert redactor.known.generation == 0


def test_what_is_kept_is_told_and_taken_up() -> None:
    kept: list[dict[bytes, str]] = []
    first = Redactor(ENGINE, Masker(b"k" * 32), KnownValues({}, kept.append))
    first.snapshot(WITH_RULE + NAMED)
    assert sorted(kept[-1]) == sorted([TOKEN, HEX])
    second = Redactor(ENGINE, Masker(b"k" * 32), KnownValues(kept[-1]))
    assert HEX not in second.snapshot(BARE).data


def test_what_no_rule_or_an_allow_list_stands_behind_is_forgotten(redactor: Redactor) -> None:
    redactor.snapshot(NAMED)
    assert HEX not in redactor.snapshot(BARE).data
    others = [p for p in builtin_rules() if p["id"] != "twilio-auth-token"]
    redactor.use(Engine(from_mapping(plain, trusted=True) for plain in others))
    assert redactor.snapshot(BARE).data == BARE
    redactor.use(ENGINE)
    redactor.snapshot(NAMED)
    rules = [from_mapping(plain, trusted=True) for plain in builtin_rules()]
    redactor.use(Engine(rules, allowed=frozenset({HEX})))
    assert redactor.snapshot(BARE + NAMED).data == BARE + NAMED


def test_live_placeholders_are_left_alone(redactor: Redactor) -> None:
    shown = redactor.snapshot(NAMED).data
    assert redactor.snapshot(shown).data == shown


def test_overlapping_occurrences_and_prefixes() -> None:
    known = KnownValues({b"abcdefghijkl0123": "a", b"ghijkl0123456789": "b"})
    assert sorted(known.spans(b"--abcdefghijkl0123456789--")) == [(2, 18), (8, 24)]


def test_restoring_brings_a_known_value_back(redactor: Redactor) -> None:
    redactor.snapshot(NAMED)
    shown = redactor.snapshot(BARE).data
    edited = shown + b"one line more\n"
    assert redactor.restore(edited, BARE).data == BARE + b"one line more\n"
