"""The same script in a plain folder and in a mount: what it prints and leaves must be equal."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from driving import Grantfs, differences, tree

SECONDS = 90

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
    "SOURCE_DATE_EPOCH": "1767225600",
    "LC_ALL": "C.UTF-8",
}


def needs(*programs: str) -> None:
    """Skip, visibly, where a program is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def sh(script: str, cwd: Path, **variables: str) -> str:
    """What a shell script prints; fails, with what it said, where one of its commands does."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env=os.environ | GIT | variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass
class Both:
    """A source that is mounted, and a plain copy of what it was."""

    grantfs: Grantfs
    source: Path
    plain: Path
    mounted: Path
    before: dict[str, tuple[Any, ...]]

    def run(self, script: str, **variables: str) -> str:
        """Run a script in both places; its output there, which must be the same."""
        wanted = sh(script, self.plain, **variables)
        found = sh(script, self.mounted, **variables)
        assert found.replace(str(self.mounted), "@") == wanted.replace(str(self.plain), "@")
        return found

    def check(self, *, ignore: tuple[str, ...] = (), applies: bool = True) -> None:
        """Both places are equal, and the source is untouched; then the whole way on: `git apply`
        takes the diff (of what is not git's own), a commit lands all, and the source is what the
        mount showed."""

        def shown(folder: Path) -> dict[str, tuple[Any, ...]]:
            return {
                name: entry
                for name, entry in tree(folder).items()
                if name != "." and not any(part in ignore for part in Path(name).parts)
            }

        wanted = shown(self.plain)
        assert differences(shown(self.mounted), wanted) == []
        assert differences(tree(self.source, identity=True), self.before) == []
        patch = self.grantfs.run("diff", "--binary").out
        if patch and applies:
            copy = self.grantfs.home.parent / "patched"
            copy.mkdir()
            subprocess.run(["cp", "-a", self.source, copy / "proj"], check=True)
            apply = ["git", "apply", "--check", "--whitespace=nowarn", "-"]
            applied = subprocess.run(apply, input=patch, cwd=copy, capture_output=True, check=False)
            assert applied.returncode == 0, applied.stderr
        done = self.grantfs.ask("commit", "-y")
        assert done["conflicts"] == done["undecided"] == done["remaining"] == []
        assert differences(shown(self.source), wanted) == []
        assert differences(shown(self.mounted), wanted) == []
        assert self.grantfs.ask("status")["changes"] == []


def both(grantfs: Grantfs, source: Path) -> Both:
    """Mount *source* as it is now, beside a plain copy."""
    plain = grantfs.home.parent / "plain" / "proj"
    plain.parent.mkdir()
    subprocess.run(["cp", "-a", source, plain], check=True)
    before = tree(source, identity=True)
    return Both(grantfs, source, plain, grantfs.up(source) / "proj", before)
