"""What was parseable stays parseable: placeholders fit where the secret stood."""

import json
import random
import tomllib
from typing import Any

import pytest
import yaml

from policies.packs import builtin_packs, builtin_rules
from vfs.redaction import Engine, Masker, Redactor, from_mapping
from vfs.redaction.rules import Rule

REDACTOR = Redactor(
    Engine(from_mapping(plain, trusted=True) for plain in builtin_rules()), Masker(b"k" * 32)
)
NAMES = ("password", "api_key", "client_secret", "access_token")


def values() -> list[str]:
    """The secrets of the packs' own examples."""
    found = {
        example.secret
        for pack in builtin_packs()
        for rule in pack.pack_rules
        for example in rule.examples.match
        if example.secret and "personal" not in rule.kind
    }
    return sorted(found)


VALUES = values()


def masked(text: str, encoding: str = "utf-8") -> str:
    data = REDACTOR.snapshot(text.encode(encoding)).data
    assert len(data) == len(text.encode(encoding))
    return data.decode(encoding)


def shape(value: Any) -> Any:
    """Keys and types of a document, and its other numbers. What is all digits may be read as a
    number or as a text (YAML takes `0648` for a text and `3648` for a number)."""
    if isinstance(value, dict):
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value]
    if isinstance(value, str):
        return "digits" if value.isdigit() else "text"
    return "digits" if isinstance(value, int) and value > 1 << 32 else value


def document(name: str, value: str) -> dict[str, Any]:
    return {"host": "db.example.org", "port": 5432, "auth": {name: value, "on": True}, "a": [1, 2]}


DUMPS: dict[str, Any] = {
    "json": (lambda d: json.dumps(d, indent=2), json.loads),
    "json in one line": (lambda d: json.dumps(d, separators=(",", ":")), json.loads),
    "yaml": (lambda d: yaml.safe_dump(d, allow_unicode=True, width=10_000), yaml.safe_load),
    "yaml quoted": (lambda d: yaml.safe_dump(d, default_style='"', width=10_000), yaml.safe_load),
    "json in json": (
        lambda d: json.dumps({"config": json.dumps(d)}),
        lambda text: json.loads(json.loads(text)["config"]),
    ),
}


def toml(name: str, value: str) -> str:
    return (
        f'host = "db.example.org"\nport = 5432\n[auth]\n{name} = {json.dumps(value)}\non = true\n'
    )


@pytest.mark.parametrize("how", DUMPS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_documents_keep_their_shape(how: str, encoding: str) -> None:
    dump, load = DUMPS[how]
    changed = 0
    for number, value in enumerate(VALUES):
        plain = document(NAMES[number % len(NAMES)], value)
        text = dump(plain)
        hidden = masked(text, encoding)
        changed += hidden != text
        assert shape(load(hidden)) == shape(plain), (text, hidden)
    assert changed > 0.85 * len(VALUES)


def test_toml_keeps_its_shape() -> None:
    changed = 0
    for number, value in enumerate(VALUES):
        text = toml(NAMES[number % len(NAMES)], value)
        hidden = masked(text)
        changed += hidden != text
        assert shape(tomllib.loads(hidden)) == shape(tomllib.loads(text)), (text, hidden)
    assert changed > 0.85 * len(VALUES)


def test_dotenv_lines_keep_their_shape() -> None:
    def parse(text: str) -> dict[str, str]:
        return dict(line.split("=", 1) for line in text.splitlines() if line)

    for value in VALUES:
        if any(c in value for c in "\n\r\"' "):
            continue
        for quote in ("", '"', "'"):
            text = f"HOST=db\nDB_PASSWORD={quote}{value}{quote}\nPORT=1\n"
            hidden = parse(masked(text))
            assert shape(hidden) == shape(parse(text))
            assert (hidden["HOST"], hidden["PORT"]) == ("db", "1")
            secret = hidden["DB_PASSWORD"]
            assert secret[: len(quote)] == secret[len(secret) - len(quote) :] == quote


def test_urls_keep_their_parts() -> None:
    from urllib.parse import quote, urlsplit

    for value in VALUES:
        if "\n" in value:
            continue
        text = f"postgres://app:{quote(value, safe='')}@db.example.org:5432/app?ssl=1"
        before, after = urlsplit(text), urlsplit(masked(text))
        assert (after.scheme, after.hostname, after.port, after.path, after.query) == (
            before.scheme, before.hostname, before.port, before.path, before.query,
        )  # fmt: skip
        assert after.username == "app"
        quote(after.password or "").encode("ascii")


def test_a_number_stays_one() -> None:
    """JSON knows no number that begins with a zero."""
    rng = random.Random(3)
    for number in (rng.randrange(10**17, 10**18) for _ in range(400)):
        text = json.dumps({"client_id": number, "port": 1})
        hidden = masked(text)
        assert hidden != text
        assert json.loads(hidden)["port"] == 1
        assert isinstance(json.loads(hidden)["client_id"], int)


def test_what_covers_a_whole_object_is_masked_within_its_texts() -> None:
    pattern = r'(?s)"account":[ ]?(?P<secret>[{\[].{4,600}?[}\]])[,}]'
    made = Redactor(Engine([Rule("account", "credential", pattern)]), Masker(b"k" * 32))
    for value in ({"type": "service", "k\n": 'a\n"b\\', "n": 5, "on": None}, ["x", {"y": "ü" * 9}]):
        text = json.dumps({"account": value, "next": "as it was"})
        hidden = made.snapshot(text.encode()).data.decode()
        assert shape(json.loads(hidden)) == shape(json.loads(text))
        assert not any(one in hidden for one in ("service", '"x"', "\\u00fc"))
        assert json.loads(hidden)["next"] == "as it was"
    broken = made.snapshot(b'"account": {"a": "secret, }, ').data
    assert b"secret" not in broken
