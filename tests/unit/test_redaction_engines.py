"""The engine without hyperscan finds what the one with it does."""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.diagnosis import checks
from gateway.places import Places
from policies.packs import builtin_packs, builtin_rules
from vfs.redaction import Engine, ScanError, from_mapping, propose, propose_slow

CORPUS = Path(__file__).parents[3] / "shared" / "corpus" / "dev.jsonl.gz"
PROFILES = ("secrets", "secrets+pii", "strict")


def engine() -> Engine:
    return Engine(from_mapping(plain, trusted=True) for plain in builtin_rules())


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setattr(propose, "hyperscan", None)
    made = engine()
    for profile in PROFILES:
        made.find(b"", profile)
    return made


FAST = engine()


def texts() -> Iterator[bytes]:
    """What the packs say themselves, and the development corpus where it lies beside us."""
    for pack in builtin_packs():
        for rule in pack.pack_rules:
            for example in (*rule.examples.match, *rule.examples.no_match):
                yield example.text.encode()
    if CORPUS.exists():
        for line in gzip.decompress(CORPUS.read_bytes()).splitlines():
            yield json.loads(line)["text"].encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("profile", PROFILES)
def test_both_engines_give_the_same_spans(slow: Engine, profile: str) -> None:
    FAST.find(b"", profile)
    different = []
    everything = b""
    for text in texts():
        everything += text + b"\n"
        if slow.find(text, profile) != FAST.find(text, profile):
            different.append(text)
    assert not different, different[:3]
    assert len(everything) > 20_000
    assert slow.find(everything, profile) == FAST.find(everything, profile)


SHORT = b"abcdefghijklmnopqrstuvwxyz  \n\t-_=\"':;.,/0123456789(){}"


def test_whatever_stands_between_them_both_engines_hide_the_same(slow: Engine) -> None:
    """Vectorscan 5.4.12 overlooked ` -Password VMware1!` some forty characters into a text."""
    rng = random.Random(12)
    samples = [b" -Password VMware1!", b" --token a8f7d6e5c4b3 ", b'admin pass = "tr0ub4dor&3"']
    samples += [
        example.text.encode()
        for pack in builtin_packs()
        for rule in pack.pack_rules
        for example in rule.examples.match
    ]
    for _ in range(4000):
        parts = []
        for _ in range(rng.randrange(1, 4)):
            size = rng.randrange(60)
            plain = bytes(rng.choices(SHORT, k=size))
            parts += [plain if rng.random() < 0.6 else plain[:1] * size]
            parts += [rng.choice(samples[:3] if rng.random() < 0.1 else samples)]
        text = b"".join(parts)
        assert hidden(slow, text) == hidden(FAST, text), text


def hidden(made: Engine, text: bytes) -> set[int]:
    """The places of what is masked, whichever rule's name it bears."""
    return {at for one in made.find(text) for at in range(one.start, one.end)}


def test_a_library_that_misses_matches_counts_as_none() -> None:
    class Deaf:
        def __getattr__(self, name: str) -> Any:
            return getattr(propose.hyperscan, name)

        class Database:
            def __init__(self, **_kwargs: object) -> None:
                self.size = 0

            def compile(self, **_kwargs: object) -> None: ...

            def scan(self, text: bytes, match_event_handler: Any, scratch: object) -> None:
                if len(text) < 40:
                    match_event_handler(0, 0, len(text), 0, None)

        def Scratch(self, _database: object) -> None: ...

    assert propose.sound(propose.hyperscan)
    assert not propose.sound(Deaf())


def test_each_keyword_stands_in_its_rules_examples() -> None:
    for pack in builtin_packs():
        for rule in pack.pack_rules:
            for example in rule.examples.match:
                assert any(word.lower() in example.text.lower() for word in rule.keywords), rule.id


def test_the_slow_engine_gives_up_loudly(slow: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propose_slow, "MAX_MATCHES", 3)
    with pytest.raises(ScanError, match="too many"):
        slow.find(b"AKIA" + b"Q" * 16 + b" " + b"token = 'a1b2c3d4e5f6g7h8'\n" * 10)


def test_doctor_says_so(slow: Engine) -> None:
    assert slow.find(b"AKIAQ2W3E4R5T6Y7U8I9")
    (row,) = (one for one in checks(Places.from_environment()) if one["check"] == "scanner")
    assert row["ok"]
    assert "pip install hyperscan" in row["detail"]


def test_the_findings_of_one_engine_are_not_taken_for_the_others(slow: Engine) -> None:
    assert slow.version != FAST.version
