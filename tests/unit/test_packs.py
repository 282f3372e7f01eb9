"""Rule packs: shipped ones keep what their examples say, bad ones are refused with the place."""

import json
from pathlib import Path
from typing import Any

import pytest

from policies.packs import VALIDATORS, PackError, PackRule, builtin_packs, builtin_rules, load_pack
from vfs.redaction import Engine, Rule, from_mapping
from vfs.redaction.validators import NAMES

RULES = [(rule, plain) for pack in builtin_packs() for rule, plain in zip(
    pack.pack_rules, pack.rules(), strict=True
)]  # fmt: skip
ALL = Engine([from_mapping(plain) for _, plain in RULES])

GOOD: dict[str, Any] = {
    "id": "acme-token",
    "description": "Acme token",
    "kind": "token",
    "pattern": r"\bacme_(?P<secret>[a-z0-9]{20})",
    "examples": {"match": ["acme_«a1b2c3d4e5f6g7h8i9j0»"]},
}


@pytest.mark.parametrize(("rule", "plain"), RULES, ids=lambda value: getattr(value, "id", ""))
def test_examples_of_shipped_rules(rule: PackRule, plain: dict[str, Any]) -> None:
    alone = Engine([from_mapping(plain)])
    profile = {"secrets": "secrets", "pii": "secrets+pii", "strict": "strict"}[rule.profiles[0]]
    for example in rule.examples.match:
        data = example.text.encode()
        assert any(word in example.text.lower() for word in map(str.lower, rule.keywords))
        found = alone.find(data, profile)
        assert found, example.text
        if example.secret is not None:
            start = data.index(example.secret.encode())
            hidden = {at for f in ALL.find(data, profile) for at in range(f.start, f.end)}
            assert hidden.issuperset(range(start, start + len(example.secret.encode())))
    for example in rule.examples.no_match:
        assert not alone.find(example.text.encode(), profile), example.text


def test_every_shipped_rule_says_what_it_must_not_match_or_is_new() -> None:
    assert all(rule.keywords for rule, _ in RULES)
    assert sum(bool(rule.examples.no_match) for rule, _ in RULES) > len(RULES) * 0.9


def test_shipped_rules_are_the_same_unchecked() -> None:
    fast = [from_mapping(plain, trusted=True) for plain in builtin_rules()]
    assert fast == [from_mapping(plain) for _, plain in RULES]


def test_validator_names_are_those_of_the_engine() -> None:
    assert VALIDATORS == NAMES


def test_rule_ids_are_unique_over_all_packs() -> None:
    ids = [rule.id for rule, _ in RULES]
    assert len(ids) == len(set(ids))


def write(tmp_path: Path, *rules: Any, **more: Any) -> Path:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"format": 1, "id": "own", "rules": rules} | more, indent=1))
    return path


def test_a_users_pack_becomes_rules(tmp_path: Path) -> None:
    pack = load_pack(write(tmp_path, GOOD))
    rule = from_mapping(pack.rules()[0])
    assert isinstance(rule, Rule)
    found = Engine([rule]).find(b"x acme_a1b2c3d4e5f6g7h8i9j0")
    assert [(f.start, f.end, f.rule) for f in found] == [(7, 27, "acme-token")]


def test_joined_example_parts() -> None:
    rule = PackRule.model_validate(GOOD | {"examples": {"match": [["acme_«a1b2c3d4e5", "f6»"]]}})
    assert rule.examples.match[0].text == "acme_a1b2c3d4e5f6"
    assert rule.examples.match[0].secret == "a1b2c3d4e5f6"


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        ({"keywords": ["other"]}, "rule second", "none of the keywords"),
        ({"pattern": "(a"}, "pattern", "missing )"),
        ({"pattern": r"(a)\1"}, "pattern", "RE2"),
        ({"pattern": "ä"}, "pattern", "ASCII"),
        ({"pattern": "(?P<key>a)"}, "pattern", "secret"),
        ({"validators": ["luck"]}, "validators", "unknown validator"),
        ({"kind": "thing"}, "kind", "credential"),
        ({"id": "Not An Id"}, "id", "pattern"),
        ({"window": 1 << 20}, "window", "16384"),
        ({"speed": "fast"}, "speed", "Extra"),
        ({"examples": {"match": []}}, "examples", "at least 1"),
    ],
)
def test_a_bad_rule_is_refused_with_its_line(
    tmp_path: Path, change: dict[str, Any], where: str, reason: str
) -> None:
    path = write(tmp_path, GOOD, GOOD | {"id": "second"} | change)
    with pytest.raises(PackError) as caught:
        load_pack(path)
    line = int(caught.value.where.split(",")[0].removeprefix("line "))
    lines = path.read_text().splitlines()
    assert lines[line - 1].strip() == "{"
    assert json.loads(f'"{lines[line].split(chr(34))[3]}"') == change.get("id", "second")
    assert where in caught.value.where
    assert reason in caught.value.reason
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"format": 1,\n "id": "own",\n "rules": [}', "line 3"),
        ('{"format": 2, "id": "own", "rules": []}', "format"),
        ('{"id": "own", "rules": []}', "format"),
        ("[]", "file"),
        ("[" * 200_000, "file"),
        ('{"format": 1, "id": "own", "rules": [5]}', "line 1, rule 0"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(PackError) as caught:
        load_pack(path)
    assert caught.value.where == where


def test_two_rules_of_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="acme-token"):
        load_pack(write(tmp_path, GOOD, GOOD))


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackError, match="No such file"):
        load_pack(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"id": "\xff"}')
    with pytest.raises(PackError, match="UTF-8"):
        load_pack(tmp_path / "latin.json")
