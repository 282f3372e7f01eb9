"""Which profile masks a file: that of its grant, and what a policy rule adds to it."""

import json
from pathlib import Path

from driving import TOKEN, Grantfs

EMAIL = b"ada.lovelace@analytical.org"
TEXT = b"write to " + EMAIL + b"\ntoken = " + TOKEN + b"\n"


def rule(grantfs: Grantfs, glob: str, profile: str) -> None:
    folder = grantfs.home / "policy" / "user"
    folder.mkdir(parents=True, exist_ok=True)
    one = {"id": "masked", "match": {"pathGlob": glob}, "redact": profile}
    policy = {"policyVersion": "2026-01-01", "rules": [one]}
    (folder / "masks.json").write_text(json.dumps(policy))


def test_a_rule_adds_to_what_the_grant_masks(grantfs: Grantfs, source: Path) -> None:
    (source / "clients").mkdir()
    for name in ("clients/a.txt", "b.txt"):
        (source / name).write_bytes(TEXT)
    rule(grantfs, f"{source}/clients/**", "secrets+pii")
    proj = grantfs.up(source) / "proj"
    client, other = (proj / "clients/a.txt").read_bytes(), (proj / "b.txt").read_bytes()
    assert (EMAIL in client, TOKEN in client) == (False, False)
    assert (EMAIL in other, TOKEN in other) == (True, False)


def test_nothing_is_unmasked_where_a_rule_masks(grantfs: Grantfs, source: Path) -> None:
    for name in ("masked.txt", "plain.txt"):
        (source / name).write_bytes(TEXT)
    rule(grantfs, f"{source}/masked.txt", "secrets")
    proj = grantfs.up(source, "--redact", "none") / "proj"
    assert TOKEN not in (proj / "masked.txt").read_bytes()
    assert (proj / "plain.txt").read_bytes() == TEXT


def test_the_grant_chooses(grantfs: Grantfs, source: Path) -> None:
    (source / "a.txt").write_bytes(TEXT)
    proj = grantfs.up(source, "--redact", "secrets+pii") / "proj"
    data = (proj / "a.txt").read_bytes()
    assert EMAIL not in data
    assert TOKEN not in data
    assert data.startswith(b"write to ")
