"""Every event has a sentence, and no name in it can play with the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.audit import Actor, Event, Record, sentence
from gateway.audit.events import VOCABULARY
from gateway.audit.sentences import visible

NASTY = "a\x1b[2Jb\nc\u202ed\u200be\u2028f\x9bg\U000e0041"
DOCUMENT = Path(__file__).parents[2] / "docs" / "audit.md"


def record(event: Event, **given: object) -> Record:
    fields: dict[str, object] = {
        "seq": 1,
        "time": 0,
        "event": event,
        "outcome": "ok",
        "subject": "agent",
        "actor": None,
        "raw_path": b"proj/a.py",
        "grant": "g1",
        "detail": {},
    }
    return Record(**(fields | given))  # type: ignore[arg-type]


def full(event: Event, text: str) -> dict[str, str | int | bool]:
    samples: dict[type, str | int | bool] = {str: text, bytes: text, int: 3, bool: True}
    return {name: samples[kind] for name, kind in VOCABULARY[event].fields.items()}


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("outcome", ["ok", "refused", "failed"])
def test_a_sentence_is_one_safe_line(event: Event, outcome: str) -> None:
    for path in (NASTY.encode(), b"\xff\x1b[2J", b"", None):
        for detail in ({}, full(event, NASTY)):
            text = sentence(
                record(
                    event,
                    outcome=outcome,
                    subject=NASTY,
                    grant=NASTY,
                    raw_path=path,
                    actor=Actor(1, 2, NASTY),
                    detail=detail,
                )
            )
            assert visible(text) == text
            assert text.endswith(".")
            assert text[0] == text[0].upper()
    bare = sentence(record(event, subject=None, grant=None, raw_path=None))
    assert "  " not in bare
    assert "None" not in bare


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            record(
                Event.OPEN,
                actor=Actor(4711, 1000, "/bin/cat"),
                detail={"access": "reading", "masked": 2},
            ),
            "Agent opened proj/a.py for reading, 2 findings masked (/bin/cat, pid 4711, uid 1000).",
        ),
        (
            record(Event.REFUSE, outcome="refused", detail={"action": "write", "rule": "no-keys"}),
            "Agent was refused write of proj/a.py by rule no-keys.",
        ),
        (
            record(Event.GAP, outcome="failed", raw_path=None, detail={"dropped": 1}),
            "1 event is missing here.",
        ),
        (
            record(Event.REVOKE, detail={"handles": 1}),
            "Grant g1 was revoked, and ended 1 open handle.",
        ),
        (
            record(Event.STAGE, detail={"action": "rename", "from": "b"}),
            "Agent staged proj/a.py: rename from b.",
        ),
        (
            record(Event.LOG_RECOVERED, detail={"unsigned": 2}),
            "The log had not been closed in order; 2 entries before this one had no signature yet.",
        ),
    ],
)
def test_the_words(given: Record, words: str) -> None:
    assert sentence(given) == words


def test_visible_escapes_what_can_not_be_seen_and_keeps_the_rest() -> None:
    assert visible(NASTY) == r"a\x1b[2Jb\nc\u202ed\u200be\u2028f\x9bg\U000e0041"
    assert visible("naïve/日本語/a b.txt") == "naïve/日本語/a b.txt"


def test_the_reference_lists_the_vocabulary() -> None:
    """docs/audit.md names every event with its meaning and its details, and no others."""
    rows = re.findall(r"^\| `([a-z.]+)` \| (.+?) \| (.*?) \|$", DOCUMENT.read_text(), re.MULTILINE)
    documented = {
        name: (meaning, set(re.findall(r"`(\w+)`", rest))) for name, meaning, rest in rows
    }
    assert documented == {
        event.value: (declared.meaning, set(declared.fields))
        for event, declared in VOCABULARY.items()
    }
