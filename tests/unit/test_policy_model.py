"""What a policy file may say, and that all else is refused with its place."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.model import PolicyDocument, json_schema
from policies.parse import MAX_FILE_BYTES, PolicyError, parse_policy

FULL = """
{"policyVersion": "2026-01-01",
 "defaults": {"allowAIFileRead": false, "allowAIFileWrite": false, "allowedNetworkHosts": ["api.corporate.local"], "maxGrantDurationSecs": 3600},
 "rules": [
  {"id": "work-sandbox", "match": {"pathPrefix": "/home/a/sandbox"}, "allow": {"read": true, "write": true}, "maxDuration": 1800},
  {"id": "contracts", "match": {"pathGlob": "/home/a/contracts/**/*.docx"}, "ask": {"read": true}, "redact": "secrets+pii", "reason": "client data"},
  {"id": "no-keys", "match": {"pathGlob": "/home/a/**/.ssh/**"}, "deny": {"read": true, "write": true}, "hide": true},
  {"id": "uploads", "match": {"host": "*.example.com", "method": ["POST"]}, "ask": {"network": true}, "maxBytes": 1000000}]}
"""  # noqa: E501 - the documents of the contract stand as they stand there
SHORT = """
{"policyVersion": "2026-01-01",
 "defaults": {"allowAIFileRead": false, "allowAIFileWrite": false,
              "allowedNetworkHosts": ["api.corporate.local"], "maxGrantDurationSecs": 3600},
 "rules": [{"id": "work", "match": {"pathPrefix": "/home/a/work"},
            "allow": {"read": true, "write": true}, "maxDuration": 1800}]}
"""
TREE: dict[str, Any] = json.loads(FULL)


def parse(tree: object) -> PolicyDocument:
    return parse_policy(json.dumps(tree).encode(), "p.json")


def refusal(tree: object) -> tuple[str, str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(tree if isinstance(tree, bytes) else json.dumps(tree).encode(), "p.json")
    return caught.value.where, caught.value.reason


def with_rule(**keys: object) -> dict[str, object]:
    rule = {"id": "r", "match": {"pathPrefix": "/a"}, **keys}
    return {"policyVersion": "2026-01-01", "rules": [rule]}


@pytest.mark.parametrize("text", [FULL, SHORT])
def test_the_documents_of_the_contract_are_valid_as_they_stand(text: str) -> None:
    document = parse_policy(text.encode(), "p.json")
    assert document.as_json() == {
        **json.loads(text),
        "rules": [_bare(rule) for rule in json.loads(text)["rules"]],
    }
    assert parse(document.as_json()) == document
    assert document.warnings() == []


def _bare(rule: dict[str, Any]) -> dict[str, Any]:
    method = rule["match"].get("method")
    return rule if method is None else {**rule, "match": {**rule["match"], "method": method[0]}}


def test_the_examples_of_the_documentation_are_valid_and_name_every_key() -> None:
    text = (Path(__file__).parents[2] / "docs" / "policy.md").read_text()
    examples = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert len(examples) >= 3
    for example in examples:
        assert parse_policy(example.encode(), "policy.md").warnings() == []
    schema = json_schema()
    for part in (schema, *schema["$defs"].values()):
        for key in part["properties"]:
            assert f"`{key}`" in text


def test_every_key_but_the_version_is_optional_and_so_are_all_of_a_rule_but_two() -> None:
    assert parse({"policyVersion": "2026-01-01"}).rules == ()
    assert parse(with_rule()).rules[0].allow is None
    assert parse({"policyVersion": "2026-01-01", "$schema": "./schema.json"})


def test_a_match_takes_one_value_or_several() -> None:
    document = parse(with_rule(match={"pathGlob": ["/a/*", "/b"], "subject": "s"}))
    assert document.rules[0].match.path_glob == ("/a/*", "/b")
    assert document.rules[0].match.subject == ("s",)


def test_documents_are_frozen() -> None:
    with pytest.raises(ValueError):
        parse(TREE).policy_version = "2027-01-01"


def test_a_rule_that_changes_nothing_is_warned_about() -> None:
    assert parse(with_rule()).warnings()
    assert parse(with_rule(deny={"read": False}, ask={}, hide=False)).warnings()
    assert not parse(with_rule(allow={"read": False})).warnings()
    assert not parse(with_rule(flag="x")).warnings()


@pytest.mark.parametrize(
    ("rule", "where"),
    [
        ({"id": ""}, "rules[0].id"),
        ({"id": "a\nb"}, "rules[0].id"),
        ({"id": "defaults.x"}, "rules[0].id"),
        ({"id": 3}, "rules[0].id"),
        ({"colour": "red"}, "rules[0].colour"),
        ({"match": {}}, "rules[0].match"),
        ({"match": "x"}, "rules[0].match"),
        ({"match": {"path": "/a"}}, "rules[0].match.path"),
        ({"match": {"pathPrefix": "a"}}, "rules[0].match.pathPrefix"),
        ({"match": {"pathPrefix": "/a/../b"}}, "rules[0].match.pathPrefix"),
        ({"match": {"pathPrefix": 1}}, "rules[0].match.pathPrefix"),
        ({"match": {"pathPrefix": []}}, "rules[0].match.pathPrefix"),
        ({"match": {"pathPrefix": ["/a", 1]}}, "rules[0].match.pathPrefix[1]"),
        ({"match": {"pathGlob": "*.docx"}}, "rules[0].match.pathGlob"),
        ({"match": {"pathGlob": ["/a", "/{b,c}"]}}, "rules[0].match.pathGlob[1]"),
        ({"match": {"host": "a.com:443"}}, "rules[0].match.host"),
        ({"match": {"host": "a.com", "pathPrefix": "/a"}}, "rules[0].match"),
        ({"match": {"method": "post"}}, "rules[0].match.method"),
        ({"match": {"exe": "curl"}}, "rules[0].match.exe"),
        ({"match": {"sensitivity": "P I I"}}, "rules[0].match.sensitivity"),
        ({"match": {"subject": ""}}, "rules[0].match.subject"),
        ({"allow": {"read": 1}}, "rules[0].allow.read"),
        ({"allow": {"read": "true"}}, "rules[0].allow.read"),
        ({"allow": {"fly": True}}, "rules[0].allow.fly"),
        ({"allow": ["read"]}, "rules[0].allow"),
        ({"allow": {"network": True}}, "rules[0].allow.network"),
        ({"match": {"host": "a"}, "deny": {"read": True}}, "rules[0].deny.read"),
        ({"match": {"host": "a"}, "hide": True}, "rules[0].hide"),
        ({"match": {"host": "a"}, "redact": "pii"}, "rules[0].redact"),
        ({"match": {"exe": "/bin/x"}, "allow": {"read": True}}, "rules[0].allow"),
        ({"match": {"exe": "/bin/x"}, "hide": True}, "rules[0].hide"),
        ({"match": {"sensitivity": "pii"}, "hide": True}, "rules[0].hide"),
        ({"allow": {"read": True}, "hide": True}, "rules[0].allow"),
        ({"allow": {"read": True, "list": False}}, "rules[0].allow.list"),
        ({"hide": 1}, "rules[0].hide"),
        ({"hide": None}, "rules[0].hide"),
        ({"redact": "none"}, "rules[0].redact"),
        ({"redact": "Secrets"}, "rules[0].redact"),
        ({"maxDuration": -1}, "rules[0].maxDuration"),
        ({"maxDuration": 0}, "rules[0].maxDuration"),
        ({"maxDuration": True}, "rules[0].maxDuration"),
        ({"maxDuration": 1.0}, "rules[0].maxDuration"),
        ({"maxDuration": "60"}, "rules[0].maxDuration"),
        ({"maxDuration": 10**30}, "rules[0].maxDuration"),
        ({"maxBytes": -1}, "rules[0].maxBytes"),
        ({"maxBytes": False}, "rules[0].maxBytes"),
        ({"reason": "x\u202ey"}, "rules[0].reason"),
        ({"reason": "x" * 501}, "rules[0].reason"),
        ({"flag": "Runs Later"}, "rules[0].flag"),
    ],
)
def test_a_bad_rule_is_refused_at_its_place(rule: dict[str, object], where: str) -> None:
    assert refusal(with_rule(**rule))[0] == where


@pytest.mark.parametrize(
    ("tree", "where"),
    [
        ({}, "policyVersion"),
        ({"policyVersion": "2026-13-01"}, "policyVersion"),
        ({"policyVersion": "20260101"}, "policyVersion"),
        ({"policyVersion": 20260101}, "policyVersion"),
        ({**TREE, "extra": 1}, "extra"),
        ({**TREE, "rules": {}}, "rules"),
        ({**TREE, "rules": [TREE["rules"][0]] * 2}, "rules[1].id"),
        ({**TREE, "rules": [{"match": {"pathPrefix": "/"}}]}, "rules[0].id"),
        ({**TREE, "rules": [{"id": "x"}]}, "rules[0].match"),
        ({**TREE, "defaults": {"allowAiFileRead": False}}, "defaults.allowAiFileRead"),
        ({**TREE, "defaults": {"allowAIFileRead": 0}}, "defaults.allowAIFileRead"),
        ({**TREE, "defaults": {"allowedNetworkHosts": "a"}}, "defaults.allowedNetworkHosts"),
        (
            {**TREE, "defaults": {"allowedNetworkHosts": ["a", "b:1"]}},
            "defaults.allowedNetworkHosts[1]",
        ),
        ({**TREE, "defaults": {"maxGrantDurationSecs": 0}}, "defaults.maxGrantDurationSecs"),
        ([], ""),
        (b"null", ""),
        (b'{"policyVersion": "2026-01-01",}', "line 1 column 32"),
        (b'{\n"policyVersion" "2026-01-01"}', "line 2 column 17"),
        (b'{"policyVersion": "2026-01-01", "policyVersion": "2026-01-02"}', "policyVersion"),
        (b'{"rules": [{"match": {"host": "a", "host": "b"}}]}', "rules[0].match.host"),
        (b'{"a\xff": 1}', "line 1"),
        (b'{"defaults": {"maxGrantDurationSecs": NaN}}', ""),
        (b"[" * 100_000, ""),
        (b'{"a":' * 100_000, ""),
        (b"9" * 5_000, ""),
        (b" " * (MAX_FILE_BYTES + 1), ""),
        (b'{"policyVersion": "\\ud800"}', "policyVersion"),
        (b"", "line 1 column 1"),
    ],
)
def test_a_bad_document_is_refused_at_its_place(tree: object, where: str) -> None:
    assert refusal(tree)[0] == where


def test_an_error_names_file_place_and_reason_in_one_line() -> None:
    with pytest.raises(PolicyError) as caught:
        parse(with_rule(match={"pathGlob": "*.docx"}))
    assert str(caught.value) == (
        "p.json: rules[0].match.pathGlob: must be an absolute path, beginning with /"
    )
    with pytest.raises(PolicyError) as caught:
        parse(with_rule(**{"x\n\x1b[31m" + "y" * 1000: 1}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["/a", "/**/x", "/[", "*.a.com", "POST", "secrets", "2026-01-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "match", "pathGlob", "allow", "read", "deny", "x"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    keys = range(len(tree)) if isinstance(tree, list) else list(tree)
    found: list[tuple[Any, Any]] = [(tree, key) for key in keys]
    for key in keys:
        if isinstance(tree[key], dict | list):
            found += _places(tree[key])
    return found


def parsed_or_refused(data: bytes) -> PolicyDocument | None:
    """Anything but a document or a PolicyError that can be shown fails the test."""
    refused: PolicyError | None = None
    try:
        return parse_policy(data, "p.json")
    except PolicyError as error:
        refused = error
    assert str(refused).startswith("p.json: ")
    assert str(refused).isprintable()
    return None


@given(st.data(), VALUES)
def test_a_mutated_tree_is_a_document_or_a_policy_error(data: st.DataObject, value: Any) -> None:
    tree = copy.deepcopy(TREE)
    container, key = data.draw(
        st.sampled_from(range(len(_places(tree)))).map(_places(tree).__getitem__)
    )
    container[key] = value
    document = parsed_or_refused(json.dumps(tree).encode())
    assert document is None or parse(document.as_json()) == document


@given(st.data())
def test_mutated_bytes_are_a_document_or_a_policy_error(data: st.DataObject) -> None:
    raw = bytearray(FULL.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    parsed_or_refused(bytes(raw))


def test_the_json_schema_knows_every_key_and_refuses_others() -> None:
    schema = json_schema()
    places = schema["$defs"]
    assert set(schema["properties"]) == {"$schema", "policyVersion", "defaults", "rules"}
    assert schema["required"] == ["policyVersion"]
    assert places["Rule"]["required"] == ["id", "match"]
    assert set(places["Match"]["properties"]) == {
        "pathPrefix", "pathGlob", "host", "method", "subject", "exe", "sensitivity",
    }  # fmt: skip
    assert set(places["Actions"]["properties"]) == {
        "list", "read", "write", "delete", "exec", "network",
    }  # fmt: skip
    for part in (schema, *places.values()):
        assert part["additionalProperties"] is False
    assert "null" not in json.dumps(schema)
