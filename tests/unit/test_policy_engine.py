"""Decisions: a table of them, an obvious model of them, and what no policy can do."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine import Decision, Duration, PolicyEngine, Query
from policies.parse import parse_policy
from policies.rulebook import LAYER_NAMES, Layer, LayerName, Link

FULL: dict[str, Any] = {
    "policyVersion": "2026-01-01",
    "defaults": {
        "allowAIFileRead": False,
        "allowAIFileWrite": False,
        "allowedNetworkHosts": ["api.corporate.local"],
        "maxGrantDurationSecs": 3600,
    },
    "rules": [
        {
            "id": "work-sandbox",
            "match": {"pathPrefix": "/home/a/sandbox"},
            "allow": {"read": True, "write": True},
            "maxDuration": 1800,
        },
        {
            "id": "contracts",
            "match": {"pathGlob": "/home/a/contracts/**/*.docx"},
            "ask": {"read": True},
            "redact": "secrets+pii",
            "reason": "client data",
        },
        {
            "id": "no-keys",
            "match": {"pathGlob": "/home/a/**/.ssh/**"},
            "deny": {"read": True, "write": True},
            "hide": True,
        },
        {
            "id": "uploads",
            "match": {"host": "*.example.com", "method": ["POST"]},
            "ask": {"network": True},
            "maxBytes": 1000000,
        },
    ],
}
STRENGTH = {"allow": 0, "ask": 1, "deny": 2}


def layer(
    *rules: dict[str, Any],
    name: LayerName = "user",
    file: str = "p.json",
    links: tuple[Link, ...] = (),
    **defaults: Any,
) -> Layer:
    named = [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]
    tree = {"policyVersion": "2026-01-01", "defaults": defaults, "rules": named}
    return Layer(name, file, parse_policy(json.dumps(tree).encode(), file), links)


def full() -> PolicyEngine:
    return PolicyEngine([Layer("user", "p.json", parse_policy(json.dumps(FULL).encode(), "p"))])


def verdict(engine: PolicyEngine, action: Any, path: bytes = b"/a/x", **query: Any) -> str:
    return engine.decide(Query(action, path, **query), True).verdict


@pytest.mark.parametrize(
    ("action", "path", "verdict", "rule"),
    [
        ("list", b"/home/a/sandbox", "allow", "work-sandbox"),
        ("read", b"/home/a/sandbox/x", "allow", "work-sandbox"),
        ("write", b"/home/a/sandbox/x", "allow", "work-sandbox"),
        ("delete", b"/home/a/sandbox/x", "allow", "work-sandbox"),
        ("exec", b"/home/a/sandbox/x", "allow", "work-sandbox"),
        ("read", b"/home/a/sandboxes/x", "deny", "defaults.allowAIFileRead"),
        ("list", b"/home/a", "deny", "defaults.allowAIFileRead"),
        ("write", b"/home/a/x", "deny", "defaults.allowAIFileWrite"),
        ("delete", b"/home/a/x", "deny", "defaults.allowAIFileWrite"),
        ("list", b"/home/a/contracts/x.docx", "allow", None),
        ("read", b"/home/a/contracts/q/x.docx", "ask", "contracts"),
        ("exec", b"/home/a/contracts/q/x.docx", "ask", "contracts"),
        ("write", b"/home/a/contracts/q/x.docx", "deny", "defaults.allowAIFileWrite"),
        ("read", b"/home/a/contracts/x.txt", "deny", "defaults.allowAIFileRead"),
        ("list", b"/home/a/sandbox/.ssh", "deny", "no-keys"),
        ("read", b"/home/a/sandbox/.ssh/id_rsa", "deny", "no-keys"),
    ],
)
def test_the_full_document_decides_files(
    action: Any, path: bytes, verdict: str, rule: str | None
) -> None:
    decision = full().decide(Query(action, path, subject="s"), True)
    assert (decision.verdict, decision.rule) == (verdict, rule)
    assert decision.hide == (b"/.ssh" in path)


@pytest.mark.parametrize(
    ("host", "method", "verdict", "rule"),
    [
        ("API.corporate.local.", "GET", "allow", None),
        ("corporate.local", "GET", "deny", "defaults.allowedNetworkHosts"),
        ("up.example.com", "POST", "ask", "uploads"),
        ("up.example.com", "post", "ask", "uploads"),
        ("up.example.com", "GET", "deny", "defaults.allowedNetworkHosts"),
        ("up.example.com", None, "deny", "defaults.allowedNetworkHosts"),
        ("2130706433", "GET", "deny", "defaults.badQuery"),
    ],
)
def test_the_full_document_decides_network(
    host: str, method: str | None, verdict: str, rule: str | None
) -> None:
    decision = full().decide(Query("network", host=host, method=method), True)
    assert (decision.verdict, decision.rule) == (verdict, rule)


def test_a_decision_carries_what_the_rules_add() -> None:
    engine = full()
    contract = engine.decide(Query("read", b"/home/a/contracts/x.docx"), True)
    assert contract == Decision(
        "ask", "contracts", "user", "client data", redact="secrets+pii", file="p.json"
    )
    upload = engine.decide(Query("network", host="a.example.com", method="POST"), True)
    assert upload.max_bytes == 1_000_000


def test_nothing_without_a_live_grant() -> None:
    engine = PolicyEngine([layer({"match": {"pathPrefix": "/a"}, "allow": {"read": True}})])
    assert verdict(engine, "read") == "allow"
    for action in ("list", "read", "write", "delete", "exec"):
        decision = engine.decide(Query(action, b"/a/x"), False)
        assert (decision.verdict, decision.rule) == ("deny", "defaults.noGrant")
    assert engine.decide(Query("network", host="a"), False).verdict == "deny"
    assert PolicyEngine([]).decide(Query("read", b"/a"), False).verdict == "deny"
    asking = PolicyEngine([layer({"match": {"pathPrefix": "/a"}, "ask": {"read": True}})])
    assert asking.decide(Query("read", b"/a"), False).verdict == "deny"


@pytest.mark.parametrize(
    "query",
    [
        Query("read"),
        Query("read", b"a"),
        Query("read", b"/a/../b"),
        Query("read", b"/a/"),
        Query("read", host="a"),
        Query("network", b"/a"),
        Query("network", host="a:80"),
        Query("fly", b"/a"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_judged_is_denied_and_hidden(query: Query) -> None:
    decision = PolicyEngine([]).decide(query, True)
    assert (decision.verdict, decision.rule, decision.hide) == ("deny", "defaults.badQuery", True)


def test_deny_beats_ask_beats_allow_within_a_file_and_across() -> None:
    rules = {
        word: {"id": word, "match": {"pathPrefix": "/a"}, word: {"read": True}}
        for word in ("allow", "ask", "deny")
    }
    for words, winner in [
        (("allow",), "allow"),
        (("allow", "ask"), "ask"),
        (("ask", "allow"), "ask"),
        (("deny", "ask", "allow"), "deny"),
        (("allow", "ask", "deny"), "deny"),
    ]:
        one = PolicyEngine([layer(*(rules[word] for word in words))])
        many = PolicyEngine(
            [layer(rules[word], name=LAYER_NAMES[n]) for n, word in enumerate(words)]
        )
        for engine in (one, many):
            decision = engine.decide(Query("read", b"/a/x"), True)
            assert (decision.verdict, decision.rule) == (winner, winner)


def test_of_rules_that_say_the_same_the_first_by_layer_file_and_id_is_named() -> None:
    def denying(name: str) -> dict[str, Any]:
        return {"id": name, "match": {"pathPrefix": "/a"}, "deny": {"read": True}}

    def named(*some: Layer) -> str | None:
        return PolicyEngine(some).decide(Query("read", b"/a"), True).rule

    assert named(layer(denying("y"), denying("x"))) == "x"
    assert named(layer(denying("x"), denying("y"))) == "x"
    assert named(layer(denying("x"), file="q"), layer(denying("y"), file="p")) == "y"
    assert named(layer(denying("x")), layer(denying("y"), name="managed")) == "y"
    assert named(layer(denying("x"), name="built-in"), layer(allowAIFileRead=False)) == "x"


def test_deny_inside_allow_and_allow_inside_deny() -> None:
    engine = PolicyEngine(
        [
            layer(
                {"match": {"pathPrefix": "/a"}, "allow": {"read": True, "write": True}},
                {"match": {"pathPrefix": "/a/b"}, "deny": {"read": True}},
                {"match": {"pathPrefix": "/a/b/c"}, "allow": {"read": True}},
                allowAIFileRead=False,
            )
        ]
    )
    assert verdict(engine, "read", b"/a/x") == "allow"
    assert verdict(engine, "read", b"/a/b") == "deny"
    assert verdict(engine, "read", b"/a/b/c") == "deny"


def test_no_layer_makes_up_for_what_another_one_refuses() -> None:
    shut = layer(name="managed", allowAIFileRead=False, allowedNetworkHosts=[])
    open_ = layer(
        {"match": {"pathPrefix": "/"}, "allow": {"read": True, "write": True}},
        {"match": {"host": "*"}, "allow": {"network": True}},
        name="user",
        allowAIFileRead=True,
        allowAIFileWrite=True,
        allowedNetworkHosts=["*"],
    )
    engine = PolicyEngine([open_, shut])
    decision = engine.decide(Query("read", b"/a"), True)
    assert (decision.verdict, decision.layer) == ("deny", "managed")
    assert engine.decide(Query("network", host="a"), True).layer == "managed"
    two_files = PolicyEngine(
        [shut, layer({"match": {"pathPrefix": "/"}, "allow": {"read": True}}, name="managed")]
    )
    assert verdict(two_files, "read") == "deny"


def test_no_reading_means_no_writing_either_unless_a_rule_says_so() -> None:
    only_read = layer(
        {"match": {"pathPrefix": "/a"}, "allow": {"read": True}}, allowAIFileRead=False
    )
    assert verdict(PolicyEngine([only_read]), "read") == "allow"
    assert verdict(PolicyEngine([only_read]), "write") == "deny"
    assert verdict(PolicyEngine([only_read]), "delete") == "deny"
    no_write = PolicyEngine([layer(allowAIFileWrite=False)])
    assert verdict(no_write, "read") == "allow"
    assert verdict(no_write, "write") == "deny"


def test_a_false_under_allow_withholds_until_another_rule_of_the_file_allows() -> None:
    home = {"match": {"pathPrefix": "/a"}, "allow": {"read": True, "write": False}}
    project = {"match": {"pathPrefix": "/a/p"}, "allow": {"write": True}}
    engine = PolicyEngine([layer(home, project)])
    assert verdict(engine, "read", b"/a/x") == "allow"
    assert verdict(engine, "write", b"/a/x") == "deny"
    assert verdict(engine, "delete", b"/a/x") == "deny"
    assert verdict(engine, "write", b"/a/p/x") == "allow"
    assert verdict(engine, "write", b"/b") == "allow"
    elsewhere = PolicyEngine([layer(home), layer(project, file="q.json")])
    assert verdict(elsewhere, "write", b"/a/p/x") == "deny"
    unlisted = PolicyEngine([layer({"match": {"pathPrefix": "/a"}, "allow": {"list": False}})])
    assert {verdict(unlisted, action) for action in ("list", "read", "write")} == {"deny"}


def test_a_false_under_ask_or_deny_says_nothing() -> None:
    rule = {"match": {"pathPrefix": "/a"}, "ask": {"read": False}, "deny": {"write": False}}
    engine = PolicyEngine([layer(rule)])
    assert engine.decide(Query("read", b"/a"), True) == Decision("allow")
    assert engine.decide(Query("write", b"/a"), True) == Decision("allow")


def test_exec_follows_read_and_delete_follows_write_unless_named() -> None:
    rule = {
        "match": {"pathPrefix": "/a"},
        "deny": {"read": True, "write": True, "delete": False},
    }
    engine = PolicyEngine([layer(rule)])
    assert verdict(engine, "exec") == "deny"
    assert verdict(engine, "delete") == "allow"
    assert verdict(engine, "list") == "allow"


def test_what_may_not_be_listed_may_not_be_used() -> None:
    engine = PolicyEngine([layer({"match": {"pathPrefix": "/a"}, "deny": {"list": True}})])
    for action in ("list", "read", "write", "delete", "exec"):
        assert verdict(engine, action) == "deny"
    assert not engine.hidden(b"/a")


def test_what_is_hidden_takes_all_below_it_along() -> None:
    engine = PolicyEngine([layer({"match": {"pathGlob": "/a/*.d"}, "hide": True})])
    assert engine.hidden(b"/a/x.d")
    assert engine.hidden(b"/a/x.d/y/z")
    assert not engine.hidden(b"/a/x")
    assert verdict(engine, "read", b"/a/x.d/y") == "deny"


def test_every_key_of_a_match_must_hold() -> None:
    rule = {
        "match": {"pathPrefix": "/a", "pathGlob": ["/**/*.k", "/**/*.j"], "subject": ["s", "t"]},
        "deny": {"read": True},
    }
    engine = PolicyEngine([layer(rule)])
    assert verdict(engine, "read", b"/a/x.k", subject="s") == "deny"
    assert verdict(engine, "read", b"/a/x.j", subject="t") == "deny"
    assert verdict(engine, "read", b"/b/x.k", subject="s") == "allow"
    assert verdict(engine, "read", b"/a/x.l", subject="s") == "allow"
    assert verdict(engine, "read", b"/a/x.k", subject="u") == "allow"


def test_a_rule_on_the_subject_alone_holds_for_files_and_network() -> None:
    rule = {"match": {"subject": "s"}, "deny": {"read": True, "network": True}}
    engine = PolicyEngine([layer(rule)])
    assert verdict(engine, "read", subject="s") == "deny"
    assert engine.decide(Query("network", host="a", subject="s"), True).verdict == "deny"
    assert verdict(engine, "read", subject="t") == "allow"


@pytest.mark.parametrize(
    ("match", "known", "other"),
    [
        ({"subject": "s"}, {"subject": "s"}, {"subject": "t"}),
        ({"exe": "/usr/bin/c*"}, {"exe": b"/usr/bin/curl"}, {"exe": b"/usr/bin/git"}),
        (
            {"sensitivity": ["pii", "secrets"]},
            {"sensitivity": frozenset({"pii", "x"})},
            {"sensitivity": frozenset()},
        ),
    ],
)
def test_what_is_not_known_counts_against_the_caller(
    match: dict[str, Any], known: dict[str, Any], other: dict[str, Any]
) -> None:
    denying = PolicyEngine([layer({"match": match, "deny": {"read": True}})])
    assert verdict(denying, "read", **known) == "deny"
    assert verdict(denying, "read", **other) == "allow"
    assert verdict(denying, "read") == "deny"
    if "exe" not in match:
        allowing = layer({"match": match, "allow": {"read": True}}, allowAIFileRead=False)
        assert verdict(PolicyEngine([allowing]), "read", **known) == "allow"
        assert verdict(PolicyEngine([allowing]), "read", **other) == "deny"
        assert verdict(PolicyEngine([allowing]), "read") == "deny"


def test_a_method_nobody_can_see_counts_as_any() -> None:
    rule = {"match": {"host": "a.com", "method": "POST"}, "deny": {"network": True}}
    engine = PolicyEngine([layer(rule)])
    assert engine.decide(Query("network", host="a.com"), True).verdict == "deny"
    assert engine.decide(Query("network", host="a.com", method="GET"), True).verdict == "allow"


def test_a_rule_on_the_program_never_opens_what_a_default_shuts() -> None:
    rule = {"match": {"exe": "/usr/bin/git", "pathPrefix": "/a"}, "ask": {"read": True}}
    engine = PolicyEngine([layer(rule, allowAIFileRead=False)])
    assert verdict(engine, "read", exe=b"/usr/bin/git") == "deny"


def test_redaction_adds_up_and_the_smallest_size_wins() -> None:
    engine = PolicyEngine(
        [
            layer({"match": {"pathPrefix": "/a"}, "redact": "pii", "maxBytes": 10}),
            layer({"match": {"pathPrefix": "/a/x"}, "redact": "x+secrets", "maxBytes": 5,
                   "flag": "f"},
                  name="managed"),
            layer({"match": {"pathPrefix": "/a"}, "maxBytes": 7, "flag": "e"}, name="workspace"),
        ]
    )  # fmt: skip
    decision = engine.decide(Query("read", b"/a/x"), True)
    assert (decision.redact, decision.max_bytes) == ("secrets+pii+x", 5)
    assert engine.flags(b"/a/x") == ("e", "f")
    assert engine.decide(Query("read", b"/a/y"), True).redact == "pii"


def test_a_grant_by_hand() -> None:
    engine = full()
    assert engine.may_grant("write", b"/home/a/sandbox", "s").verdict == "allow"
    assert engine.may_grant("read", b"/home/a", "s").rule == "defaults.allowAIFileRead"
    assert engine.may_grant("write", b"/home/a/contracts/x.docx", "s").verdict == "deny"
    asked = engine.may_grant("read", b"/home/a/contracts/x.docx", "s")
    assert (asked.verdict, asked.rule, asked.reason) == ("allow", "contracts", "client data")
    hidden = engine.may_grant("list", b"/home/a/sandbox/.ssh", "s")
    assert (hidden.verdict, hidden.hide) == ("deny", True)
    assert engine.may_grant("read", b"relative", "s").verdict == "deny"
    upload = engine.may_grant("network", None, "s", host="a.example.com", method="post")
    assert upload.verdict == "allow"
    assert engine.may_grant("network", None, "s", host="b.com", method="GET").verdict == "deny"
    assert PolicyEngine([]).may_grant("write", b"/a", "s").verdict == "allow"


def test_a_write_grant_needs_reading_to_be_allowed_too() -> None:
    drop_box = {"match": {"pathPrefix": "/a"}, "allow": {"write": True}}
    engine = PolicyEngine([layer(drop_box, allowAIFileRead=False)])
    assert engine.may_grant("write", b"/a", "s").verdict == "deny"
    assert engine.may_grant("list", b"/a", "s").verdict == "allow"


def test_rules_on_program_and_contents_wait_for_the_access() -> None:
    engine = PolicyEngine(
        [
            layer(
                {"match": {"exe": "/usr/bin/curl"}, "deny": {"read": True}},
                {"match": {"sensitivity": "pii"}, "deny": {"read": True}},
            )
        ]
    )
    assert engine.may_grant("read", b"/a", "s").verdict == "allow"
    assert verdict(engine, "read") == "deny"


@pytest.mark.parametrize(
    ("path", "requested", "expected"),
    [
        (b"/home/a/sandbox/x", None, Duration(1800, "work-sandbox", "user")),
        (b"/home/a/sandbox", 60, Duration(60, None, None)),
        (b"/home/a", None, Duration(1800, "work-sandbox", "user")),
        (b"/srv", None, Duration(3600, "defaults.maxGrantDurationSecs", "user")),
        (b"/srv", 3600, Duration(3600, None, None)),
        (b"/srv", 3601, Duration(3600, "defaults.maxGrantDurationSecs", "user")),
    ],
)
def test_the_shortest_duration_wins(path: bytes, requested: int | None, expected: Duration) -> None:
    assert full().max_duration(path, requested) == expected


def test_durations_for_globs_subjects_and_hosts() -> None:
    engine = PolicyEngine(
        [
            layer({"match": {"pathGlob": "/a/*/k"}, "maxDuration": 50}),
            layer({"match": {"subject": "s"}, "maxDuration": 70}, name="managed"),
            layer({"match": {"host": "*.b.com"}, "maxDuration": 30}, name="workspace"),
        ]
    )
    assert engine.max_duration(b"/a", None, subject="t") == (50, "r0", "user")
    assert engine.max_duration(b"/a/q/k", None, subject="t") == (50, "r0", "user")
    assert engine.max_duration(b"/a/q/l", None, subject="t") == (None, None, None)
    assert engine.max_duration(b"/a/q/l", None, subject="s") == (70, "r0", "managed")
    assert engine.max_duration(b"/a/q/l", None) == (70, "r0", "managed")
    assert engine.max_duration(None, None, subject="t", host="x.b.com").seconds == 30
    assert engine.max_duration(None, None, subject="t", host="b.com").seconds is None


def test_allowed_hosts_are_those_of_all_layers() -> None:
    assert PolicyEngine([]).allowed_hosts() is None
    assert full().allowed_hosts() == ("*.example.com", "api.corporate.local")
    both = PolicyEngine(
        [
            layer(name="managed", allowedNetworkHosts=["*.a.com", "b.com"]),
            layer(allowedNetworkHosts=["x.a.com", "*.y.a.com", "c.com"]),
        ]
    )
    assert both.allowed_hosts() == ("*.y.a.com", "x.a.com")
    assert PolicyEngine([layer(allowedNetworkHosts=[])]).allowed_hosts() == ()


def test_the_version_is_of_what_the_layers_say() -> None:
    one, two = layer(name="managed"), layer({"match": {"pathPrefix": "/a"}, "hide": True})
    assert PolicyEngine([one, two]).version == PolicyEngine([two, one], 7).version
    assert PolicyEngine([one]).version != PolicyEngine([two]).version
    moved = Layer("workspace", two.file, two.document)
    assert PolicyEngine([two]).version != PolicyEngine([moved]).version
    assert PolicyEngine([one], 7).generation == 7


def test_rules_hold_behind_a_symlink_too_but_allow_only_behind_a_trusted_one() -> None:
    rules = (
        {"match": {"pathPrefix": "/home/a/k"}, "deny": {"read": True}},
        {"match": {"pathGlob": r"/home/a/\[x\]/*.t"}, "deny": {"read": True}},
        {"match": {"pathPrefix": "/home/a/w"}, "allow": {"read": True}},
    )
    for trusted, allowed in ((True, "allow"), (False, "deny")):
        link = Link(b"/home", b"/var/ho*me", trusted)
        engine = PolicyEngine([layer(*rules, links=(link,), allowAIFileRead=False)])
        assert verdict(engine, "read", b"/var/ho*me/a/w/x") == allowed
        assert verdict(engine, "read", b"/home/a/w/x") == "allow"
        loose = PolicyEngine([layer(*rules, links=(link,))])
        for path in (b"/var/ho*me/a/k", b"/home/a/k", b"/var/ho*me/a/[x]/y.t", b"/home/a/[x]/y.t"):
            assert verdict(loose, "read", path) == "deny"
        assert verdict(loose, "read", b"/var/hoXme/a/k") == "allow"


def test_more_globs_than_one_automaton_takes_are_still_all_in_force() -> None:
    rules = [
        {
            "match": {"pathGlob": [f"/{r}/{g}/**/{'?' * 60}x" for g in range(60)]},
            "deny": {"read": True},
        }
        for r in range(40)
    ]
    engine = PolicyEngine([layer(*rules)])
    assert verdict(engine, "read", b"/39/59/q/" + b"y" * 60 + b"x") == "deny"
    assert verdict(engine, "read", b"/39/60/q/" + b"y" * 60 + b"x") == "allow"


PATHS = st.lists(st.sampled_from(["a", "b", "ab", "c.k"]), max_size=3).map(
    lambda names: "/" + "/".join(names)
)
BLOCKS = st.dictionaries(
    st.sampled_from(["list", "read", "write", "delete", "exec"]), st.booleans(), max_size=3
)
MATCHES = st.fixed_dictionaries(
    {},
    optional={
        "pathPrefix": PATHS,
        "pathGlob": st.sampled_from(["/**/b", "/a/**", "/*/b", "/**/*.k", "/**"]),
        "subject": st.sampled_from(["s", "t"]),
        "exe": st.sampled_from(["/e", "/f"]),
        "sensitivity": st.sampled_from(["pii", "x"]),
    },
).filter(bool)
RULES = st.fixed_dictionaries(
    {"match": MATCHES},
    optional={
        "allow": BLOCKS,
        "ask": BLOCKS,
        "deny": BLOCKS,
        "hide": st.booleans(),
        "redact": st.sampled_from(["secrets", "pii", "x+pii"]),
        "maxDuration": st.integers(1, 9),
        "maxBytes": st.integers(0, 9),
    },
)
DEFAULTS = st.fixed_dictionaries(
    {},
    optional={
        "allowAIFileRead": st.booleans(),
        "allowAIFileWrite": st.booleans(),
        "maxGrantDurationSecs": st.integers(1, 9),
    },
)


@st.composite
def layers(draw: st.DrawFn, number: int = 0) -> Layer:
    """Any valid layer, built by leaving out the rules that the parser refuses."""
    rules: list[dict[str, Any]] = []
    for rule in draw(st.lists(RULES, max_size=4)):
        try:
            layer(rule)
        except Exception:
            continue
        rules.append(rule)
    name = draw(st.sampled_from(LAYER_NAMES))
    return layer(*rules, name=name, file=f"{number}.json", **dict[str, Any](draw(DEFAULTS)))


QUERIES = st.builds(
    Query,
    st.sampled_from(["list", "read", "write", "delete", "exec"]),
    PATHS.map(str.encode),
    subject=st.sampled_from([None, "s", "t"]),
    exe=st.sampled_from([None, b"/e", b"/g"]),
    sensitivity=st.sampled_from([None, frozenset(), frozenset({"pii"})]),
)


def limits(profile: str | None) -> set[str]:
    return set() if profile is None else set(profile.split("+"))


@given(st.lists(layers(), max_size=3), layers(9), QUERIES, st.booleans())
def test_adding_a_layer_never_loosens(
    some: list[Layer], more: Layer, query: Query, granted: bool
) -> None:
    less, stricter = PolicyEngine(some), PolicyEngine([more, *some])
    before, after = less.decide(query, granted), stricter.decide(query, granted)
    assert STRENGTH[after.verdict] >= STRENGTH[before.verdict]
    assert after.hide >= before.hide
    assert limits(after.redact) >= limits(before.redact)
    if before.max_bytes is not None:
        assert after.max_bytes is not None
        assert after.max_bytes <= before.max_bytes
    for access in ("list", "read", "write"):
        if less.may_grant(access, query.path, query.subject).verdict == "deny":
            assert stricter.may_grant(access, query.path, query.subject).verdict == "deny"
    shorter = stricter.max_duration(query.path, 5, subject=query.subject).seconds
    longer = less.max_duration(query.path, 5, subject=query.subject).seconds
    assert shorter is not None
    assert longer is not None
    assert shorter <= longer <= 5


@given(st.tuples(layers(0), layers(1), layers(2)), st.randoms(use_true_random=False), QUERIES)
def test_neither_the_order_of_rules_nor_of_layers_matters(
    some: tuple[Layer, ...], random: Any, query: Query
) -> None:
    def shuffled(one: Layer) -> Layer:
        rules = list(one.document.rules)
        random.shuffle(rules)
        return Layer(one.name, one.file, one.document.model_copy(update={"rules": tuple(rules)}))

    other = [shuffled(one) for one in some]
    random.shuffle(other)
    first, second = PolicyEngine(some), PolicyEngine(other)
    assert first.decide(query, True) == second.decide(query, True)
    assert first.max_duration(query.path, None) == second.max_duration(query.path, None)


@given(layers(), QUERIES)
def test_knowing_less_never_loosens(one: Layer, query: Query) -> None:
    engine = PolicyEngine([one])
    known = engine.decide(query, True).verdict
    for less in (
        query._replace(subject=None),
        query._replace(exe=None),
        query._replace(sensitivity=None),
    ):
        assert STRENGTH[engine.decide(less, True).verdict] >= STRENGTH[known]


@given(st.lists(layers(), max_size=3), QUERIES)
def test_a_grant_by_hand_is_refused_only_where_no_access_under_it_would_pass(
    some: list[Layer], query: Query
) -> None:
    engine = PolicyEngine(some)
    if query.action in ("list", "read") and engine.decide(query, True).verdict != "deny":
        assert engine.may_grant(query.action, query.path, query.subject).verdict == "allow"


def obvious(some: list[Layer], query: Query) -> str:
    """The verdict by the words of docs/policy.md, over rules on pathPrefix and subject alone."""
    verdicts = {"allow"}
    for one in some:
        defaults = one.document.defaults
        barred = defaults.allow_ai_file_read is False or (
            query.action in ("write", "delete") and defaults.allow_ai_file_write is False
        )
        permitted = False
        for rule in one.document.rules:
            prefix = ((rule.match.path_prefix or ("/",))[0]).rstrip("/")
            path = (query.path or b"").decode().rstrip("/")
            if path != prefix and not path.startswith(prefix + "/"):
                continue
            if rule.match.subject and query.subject not in rule.match.subject:
                continue
            said = {
                word: {
                    name: getattr(part, name)
                    for name in ("list", "read", "write", "delete", "exec")
                    if part and getattr(part, name) is not None
                }
                for word, part in (("allow", rule.allow), ("ask", rule.ask), ("deny", rule.deny))
            }
            for words in said.values():
                if "read" in words:
                    words.setdefault("exec", words["read"])
                if "write" in words:
                    words.setdefault("delete", words["write"])
            if rule.hide or said["deny"].get("list") or said["deny"].get(query.action):
                verdicts.add("deny")
            if said["ask"].get(query.action):
                verdicts.add("ask")
            if said["allow"].get("list") is False or said["allow"].get(query.action) is False:
                barred = True
            for word in ("allow", "ask"):
                used = [name for name, value in said[word].items() if value]
                permitted |= query.action in used or (query.action == "list" and bool(used))
        if barred and not permitted:
            verdicts.add("deny")
    return max(verdicts, key=STRENGTH.__getitem__)


def is_simple(one: Layer) -> bool:
    return all(
        set(rule.match.stated()) <= {"path_prefix", "subject"} for rule in one.document.rules
    )


@given(
    st.lists(layers().filter(is_simple), max_size=3),
    QUERIES.filter(lambda query: query.subject is not None),
)
def test_verdicts_are_those_of_an_obvious_model(some: list[Layer], query: Query) -> None:
    assert PolicyEngine(some).decide(query, True).verdict == obvious(some, query)
