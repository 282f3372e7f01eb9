"""git in a mount: clone, status that is clean without hashing, commit, branches, review."""

import os
import subprocess
from pathlib import Path

import pytest
from both_places import both, needs, sh
from driving import ENV, TOKEN, Grantfs, differences, tree


@pytest.fixture
def repository(source: Path) -> Path:
    """The small folder as a git repository of three commits; `.env` is not tracked."""
    needs("git")
    sh(
        """
        git init -q -b main; echo .env > .gitignore; git add .; git commit -qm first
        for n in 1 2; do echo $n >> README.md; git commit -qam "edit $n"; done
        git branch side; git switch -q side; echo side > side.txt; git add .; git commit -qm side
        git switch -q main; git gc -q; git status
        """,
        source,
    )
    return source


def test_status_is_clean_right_after_up_without_reading_a_file(
    grantfs: Grantfs, repository: Path
) -> None:
    """What stat shows is what git's index holds, so that nothing has to be hashed anew."""
    # An entry as young as the index itself is hashed in any folder (git's "racy" entries).
    past = os.stat(repository).st_mtime - 100
    for path in repository.rglob("*"):
        if ".git" not in path.parts and not path.is_symlink():
            os.utime(path, (past, past))
    sh("git update-index -q --refresh", repository)
    proj = grantfs.up(repository) / "proj"
    env = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_GLOBAL": "/dev/null"}
    # The folder's owner is the same, so is its inode's device, which git does not compare.
    done = subprocess.run(
        ["git", "status", "--porcelain"], cwd=proj, env=env, capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    opened = {
        event["path"] for event in grantfs.events("--event", "open") if event["outcome"] == "ok"
    }
    tracked = {f"proj/{name}" for name in sh("git ls-files", repository).split()}
    assert opened & tracked <= {"proj/.gitignore"}
    assert "proj/.git/index" in opened
    assert grantfs.status() == {}


def test_work_with_commits_branches_and_stashes(grantfs: Grantfs, repository: Path) -> None:
    places = both(grantfs, repository)
    places.run(
        """
        git status --porcelain; echo more >> README.md; git diff; git add .; git commit -qm more
        git switch -q side; git log --oneline | wc -l; git switch -q -c third; git rm -q side.txt
        git mv README.md READ.me; git commit -qm moved; git merge -q main -m merged || true
        git switch -q -f main; echo stash >> src/main.py; git stash -q; git stash pop -q
        git checkout -q -- src/main.py; git tag v1; git rev-parse HEAD side third v1; git gc -q
        git fsck --strict; git status --porcelain; git worktree list | wc -l
        git log --format=%H --all | sort
        """
    )
    for place in (places.plain, places.mounted):
        # Times and inode numbers are the place's own.
        (place / ".git" / "index").unlink()
        for log in place.glob(".git/logs/**/*"):
            if log.is_file():
                log.unlink()
        for name in ("ORIG_HEAD", "gc.log"):
            (place / ".git" / name).unlink(missing_ok=True)
    trees = [
        {name: one for name, one in tree(place).items() if ".git/" not in name and name != ".env"}
        for place in (places.mounted, places.plain)
    ]
    assert differences(*trees) == []
    assert differences(tree(repository, identity=True), places.before) == []
    assert (repository / ".env").read_bytes() == ENV
    done = grantfs.ask("commit", "-y")
    assert done["conflicts"] == done["undecided"] == []
    assert sh("git fsck --strict; git rev-parse HEAD third", repository) == sh(
        "git fsck --strict; git rev-parse HEAD third", places.plain
    )
    assert (repository / ".env").read_bytes() == ENV


def test_rebase_conflicts_worktrees_and_cleaning(grantfs: Grantfs, repository: Path) -> None:
    places = both(grantfs, repository)
    places.run(
        """
        for n in 1 2 3; do echo "$n" > "file$n"; git add .; git commit -qm "file $n"; done
        git switch -q side; git rebase -q main; git log --format=%s
        git cherry-pick -x main~1 || true
        git cherry-pick --skip 2>/dev/null || true; git switch -q main
        git switch -q -c clash main~2; echo clash > file2; echo mine > README.md; git add .
        git commit -qm clash; ! git merge -q main 2>/dev/null; git status --porcelain
        cat file2; git checkout -q --ours file2; git add .; git commit -qm resolved
        ! git rebase -q main 2>/dev/null; git rebase --abort; git rev-parse HEAD
        GIT_SEQUENCE_EDITOR='sed -i 2s/pick/squash/' GIT_EDITOR=true git rebase -q -i main~3 main
        git log --format='%s %T' ; git stash list; echo s >> file1; echo u > untracked
        git stash push -q -u; git status --porcelain; git stash pop -q; git status --porcelain
        git clean -qfd; git reset -q --hard HEAD~1; git status --porcelain
        git worktree add -q ../proj/wt side; git -C wt status --porcelain; git worktree remove wt
        git bisect start HEAD HEAD~2 > /dev/null 2>&1; git bisect reset 2>&1
        git repack -q -adf; git pack-refs --all; git reflog expire --expire=now --all
        git gc -q --prune=now; git fsck --strict --no-dangling; git rev-parse main side clash
        git count-objects -v | grep -v size; git for-each-ref
        """
    )
    places.check(ignore=(".git", ".env"), applies=False)
    heads = "git fsck --strict --no-dangling; git rev-parse main side clash; git status --porcelain"
    assert sh(heads, places.source) == sh(heads, places.plain)


def test_clone_into_the_mount_and_from_it(grantfs: Grantfs, repository: Path) -> None:
    work = grantfs.home.parent / "work"
    work.mkdir()
    mount = grantfs.up(work, "--read", repository)
    sh(f"git clone -q --no-hardlinks {repository} a; git clone -q {repository} b", mount / "work")
    sh(f"git -c safe.directory='*' clone -q file://{mount}/proj c", mount / "work")
    heads = sh("git rev-parse HEAD", repository)
    for name in "abc":
        clone = mount / "work" / name
        assert sh("git rev-parse HEAD; git fsck --strict; git status --porcelain", clone) == heads
        assert not (clone / ".env").exists()
    sh(
        "git clone -q a d; cd d; echo x > x; git add x; git commit -qm x;"
        " git push -q origin HEAD:refs/heads/new",
        mount / "work",
    )
    assert sh("git log -1 --format=%s new", mount / "work" / "a") == "x\n"
    assert list(work.iterdir()) == []
    done = grantfs.ask("commit", "-y")
    assert done["conflicts"] == done["undecided"] == []
    assert done["remaining"] == []
    for name in "abcd":
        assert differences(tree(work / name), tree(mount / "work" / name)) == []
        assert sh("git fsck --strict --no-dangling; git status --porcelain", work / name) == ""


def test_a_masked_file_stays_masked_through_git(grantfs: Grantfs, repository: Path) -> None:
    proj = grantfs.up(repository) / "proj"
    shown = (proj / ".env").read_bytes()
    found = sh(
        "git add -f .env; git show :.env; git commit -qm env; git cat-file -p HEAD:.env", proj
    )
    assert TOKEN.decode() not in found
    assert found.encode() == shown * 2
    assert (repository / ".env").read_bytes() == ENV


def test_the_diff_of_a_session_is_what_git_says(grantfs: Grantfs, repository: Path) -> None:
    """`grantfs diff` applied to the source's copy gives the tree that git sees in the mount."""
    places = both(grantfs, repository)
    for script in (
        "seq 1000 > numbers; echo > empty-line; : > empty",
        "sed -i 5d README.md; printf 'no newline' >> README.md; printf 'a\\r\\nb\\r\\n' > crlf",
        "mv src/main.py 'src/with space.py'; printf '\\0\\1' > binary; chmod +x README.md",
    ):
        places.run(script)
    assert (places.mounted / ".env").read_bytes() != ENV
    places.check(ignore=(".git", ".env"))
