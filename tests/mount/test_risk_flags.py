"""What a person must not overlook is said of each change, whatever else it does."""

from pathlib import Path

import pytest
from driving import ENV, Grantfs

from gateway.review.flags import exposes, is_confusable, runs_later

OWN = b"ghp_" + b"Kq7ZtX4wB7h2Rm9LcV3nJd8YfG5sPe1UoAiT"


def flags(grantfs: Grantfs) -> dict[str, set[str]]:
    return {one["path"]: set(one["flags"]) for one in grantfs.ask("status")["changes"]}


def test_secrets_that_come_or_are_shown_to_more(grantfs: Grantfs, source: Path) -> None:
    for name in ("moved.env", "opened.env", "edited.env", "kept.env"):
        (source / name).write_bytes(ENV)
        (source / name).chmod(0o600)
    (source / "public").mkdir()
    (source / "plain.txt").write_bytes(b"nothing\n")
    proj = grantfs.up(source) / "proj"
    (proj / "moved.env").rename(proj / "public" / "moved.env")
    (proj / "opened.env").chmod(0o644)
    (proj / "edited.env").write_bytes((proj / "edited.env").read_bytes() + b"NEW=1\n")
    (proj / "edited.env").chmod(0o640)
    (proj / "kept.env").rename(proj / "kept-too.env")
    (proj / "plain.txt").rename(proj / "public" / "plain.txt")
    (proj / "own.txt").write_bytes(b"token = " + OWN + b"\n")
    (proj / "guess.env").write_bytes(ENV)
    found = flags(grantfs)
    assert "secret-exposed" in found["proj/public/moved.env"]
    assert "secret-exposed" in found["proj/opened.env"]
    assert "secret-exposed" in found["proj/edited.env"]
    assert "secret-exposed" not in found["proj/kept-too.env"]
    assert "secret-exposed" not in found["proj/public/plain.txt"]
    assert "secret-added" in found["proj/own.txt"]
    assert "secret-added" in found["proj/guess.env"]  # right or wrong, a guess is one
    assert "secret-added" not in found["proj/edited.env"]


def test_names_that_look_like_others(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    (proj / "pаyment.py").write_bytes(b"x")  # its second letter is Cyrillic
    (proj / "сору.py").write_bytes(b"x")  # all four are Cyrillic
    (proj / "größe.py").write_bytes(b"x")
    (proj / "письмо.txt").write_bytes(b"x")
    found = flags(grantfs)
    assert "confusable-name" in found["proj/pаyment.py"]
    assert "confusable-name" in found["proj/сору.py"]
    assert "confusable-name" not in found["proj/größe.py"]
    assert "confusable-name" not in found["proj/письмо.txt"]


@pytest.mark.parametrize(
    "path",
    [
        "a/.git/hooks/pre-commit", ".github/workflows/ci.yml", ".zprofile",
        "web/.vscode/tasks.json", ".claude/settings.json", "AGENTS.md", "pyproject.toml",
        "build.gradle", ".cargo/config.toml", "lib/rules.mk", "x/__pycache__/a.pyc",
        "venv/bin/python", ".config/fish/config.fish", ".config/autostart/x.desktop",
        "etc/cron.d/job", "Rakefile",
    ],
)  # fmt: skip
def test_what_runs_later(path: str) -> None:
    assert runs_later(path)


def test_what_does_not() -> None:
    for path in ("src/main.py", "README.md", "git/hooks.txt", "docs/package.json.md", "config/a"):
        assert not runs_later(path)
    assert not is_confusable("a/b.py")
    assert not exposes(b"a/x", b"a/y", 0o600, 0o600)
    assert exposes(b"b/x", b"a/x", 0o600, 0o600)
    assert exposes(b"a/x", b"a/x", 0o600, 0o604)
    assert not exposes(b"a/x", None, None, 0o644)
