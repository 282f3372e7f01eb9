"""The user's own rule packs and allow-lists, taken up while the workspace runs."""

import contextlib
import json
from pathlib import Path
from typing import Any

from driving import ENV, TOKEN, Grantfs, wait_until

OWN = {
    "format": 1,
    "id": "acme",
    "rules": [
        {
            "id": "acme-token",
            "description": "Acme token",
            "kind": "token",
            "pattern": "\\bacme_(?P<secret>[a-z0-9]{20})\\b",
            "examples": {"match": ["acme_«a1b2c3d4e5f6g7h8i9j0»"]},
        }
    ],
}
ACME = "key: acme_a1b2c3d4e5f6g7h8i9j0\n"


def packs(grantfs: Grantfs) -> Path:
    folder = grantfs.home / "config" / "rules.d"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def put(grantfs: Grantfs, pack: Any) -> None:
    """As an editor does: whole or not at all."""
    text = pack if isinstance(pack, str) else json.dumps(pack, indent=1)
    (packs(grantfs) / ".new").write_text(text)
    (packs(grantfs) / ".new").rename(packs(grantfs) / "acme.json")


def test_a_pack_is_taken_up_changed_and_the_last_good_one_stays(
    grantfs: Grantfs, source: Path
) -> None:
    (source / "acme").write_text(ACME)
    proj = grantfs.up(source, "--name", "w") / "proj"
    opened = (proj / "acme").open("rb", buffering=0)
    assert opened.read() == ACME.encode()
    put(grantfs, OWN)
    wait_until(lambda: "a1b2c3" not in (proj / "acme").read_text(), "the rule is in force")
    assert grantfs.ask("scan", source / "acme")[0]["rule"] == "acme-token"
    # A handle that was open before shows nothing any more that is masked now.
    opened.seek(0)
    with contextlib.suppress(OSError):
        assert b"a1b2c3" not in opened.read()
    opened.close()
    put(grantfs, json.dumps(OWN, indent=1).replace("[a-z0-9]{20}", "[a-z0-9"))
    wait_until(
        lambda: "rule acme-token" in grantfs.run("ps").err, "the bad pack is told with its rule"
    )
    assert "line 5" in grantfs.run("ps").err
    assert "a1b2c3" not in (proj / "acme").read_text()
    grantfs.run("down")
    failed = grantfs.run("up", "--name", "w", code=1).err
    assert "acme.json" in failed
    assert "line 5" in failed
    (packs(grantfs) / "acme.json").unlink()
    grantfs.up("--name", "w")
    assert (proj / "acme").read_text() == ACME


def test_allow_lists_take_values_and_files_out_of_masking(grantfs: Grantfs, source: Path) -> None:
    (source / "fixtures").mkdir()
    (source / "fixtures" / "env").write_bytes(ENV)
    allow = {"values": [TOKEN.decode()], "paths": [f"{source}/fixtures/**"]}
    put(grantfs, {"format": 1, "id": "mine", "allow": allow})
    proj = grantfs.up(source) / "proj"
    assert (proj / "fixtures" / "env").read_bytes() == ENV
    shown = (proj / ".env").read_bytes()
    assert TOKEN in shown
    assert shown != ENV  # its password is still masked


def test_an_id_of_a_shipped_rule_is_refused(grantfs: Grantfs, source: Path) -> None:
    pack = json.loads(json.dumps(OWN).replace("acme-token", "github-token"))
    put(grantfs, pack)
    assert "github-token" in grantfs.run("up", source, code=1).err
