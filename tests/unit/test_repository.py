"""Rules for every file of the repository, for the lock, and for the commands CI stands on."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("build", "dev", "lock")

# A class of one letter in each pattern keeps this file from matching itself.
REGISTRY_HOST = re.compile(rb"pythonhoste[d]|pypi\.or[g]|registry\.npmj[s]|deb\.debia[n]")
# Only where the path begins: a folder of that name elsewhere (/home/a/work/x) is no finding. The
# superuser's key stores are where they are on every machine, and the policies are about them.
MACHINE_PATH = re.compile(
    rb"(?<![\w.~})*>-])/(?:wor[k]/|tmp/scratc[h]/|roo[t]/(?!\.(?:ssh|gnupg|aws|kube)\b))"
)

VERBS = ("setup", "demo", "check", "test", "bench", "soak", "grantfs", "lock")


def repository_files() -> list[Path]:
    """Every file that git tracks or would track."""
    # Safe whoever owns the checkout: a listing runs nothing that the repository configures.
    command = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false"]
    command += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    paths = (ROOT / name.decode() for name in listing.split(b"\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def lines_with(pattern: re.Pattern[bytes]) -> list[str]:
    """Where the pattern occurs in the repository, as `file:line`."""
    return [
        f"{path.relative_to(ROOT)}:{number}"
        for path in repository_files()
        for number, line in enumerate(path.read_bytes().splitlines(), 1)
        if pattern.search(line)
    ]


def is_shell_script(path: Path) -> bool:
    if path.suffix in (".sh", ".bash"):
        return True
    with path.open("rb") as file:
        return re.match(rb"#!.*\b(?:ba)?sh\b", file.readline(200)) is not None


def locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """The requirements of a lock file by canonical name, each with its number of hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text().replace("\\\n", " ")
    found: dict[str, tuple[Requirement, int]] = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), line
            parsed = Requirement(requirement)
            found[canonicalize_name(parsed.name)] = (parsed, len(hashes))
    return found


def declared(name: str) -> list[Requirement]:
    """What pyproject.toml asks for in the parts that a lock file is written from."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if name == "dev":
        project = document["project"]
        extras = project["optional-dependencies"].values()
        wanted = [*project["dependencies"], *(each for extra in extras for each in extra)]
    else:
        wanted = list(document["dependency-groups"][name])
    if name == "build":
        wanted += document["build-system"]["requires"]
    return [Requirement(each) for each in wanted]


def test_no_registry_address_is_committed() -> None:
    assert lines_with(REGISTRY_HOST) == []


def test_no_path_of_one_machine_is_committed() -> None:
    """Paths in examples and tests are those of a made-up user: /home/a/…"""
    assert lines_with(MACHINE_PATH) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b'open("/wor' + b'k/main/x")', True),
        (b"cd /roo" + b"t/.cache", True),
        (b"/home/a/wor" + b"k/x", False),
        (b"{tmp}/roo" + b"t/x", False),
        (b"/roo" + b"t/.sshd", True),
        (b"/roo" + b"t/.ssh/id_ed25519", False),
    ],
)
def test_a_path_of_one_machine_is_told_from_others(line: bytes, found: bool) -> None:
    assert (MACHINE_PATH.search(line) is not None) is found


def test_shell_scripts_parse() -> None:
    scripts = [path for path in repository_files() if is_shell_script(path)]
    assert {ROOT / "dev", ROOT / ".ci/run"} <= set(scripts)
    for script in scripts:
        done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_is_pinned_and_hashed(name: str) -> None:
    requirements = locked(name)
    assert requirements
    for requirement, hashes in requirements.values():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert hashes > 0, requirement


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_index_and_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    assert re.findall(r"://|--(?:extra-)?index|--find-links| @ ", text) == []


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_what_the_project_asks_for(name: str) -> None:
    requirements = locked(name)
    for wanted in declared(name):
        assert canonicalize_name(wanted.name) in requirements, f"{wanted}: run ./dev lock"
        pinned, _ = requirements[canonicalize_name(wanted.name)]
        version = next(iter(pinned.specifier)).version
        assert wanted.specifier.contains(version), f"{wanted}, locked {version}: run ./dev lock"


def test_locks_that_share_an_environment_agree() -> None:
    build, dev = locked("build"), locked("dev")
    for name in build.keys() & dev.keys():
        assert build[name][0].specifier == dev[name][0].specifier


def test_dev_without_a_verb_lists_the_verbs() -> None:
    done = subprocess.run([ROOT / "dev"], capture_output=True, text=True, check=True)
    for verb in VERBS:
        assert re.search(rf"^  {verb}\b", done.stdout, re.MULTILINE), verb


def test_dev_refuses_an_unknown_verb() -> None:
    done = subprocess.run([ROOT / "dev", "tset"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown verb tset" in done.stderr


def test_ci_runs_the_commands_that_the_readme_names() -> None:
    readme, ci = (ROOT / "README.md").read_text(), (ROOT / ".ci/run").read_text()
    assert re.search(r"^\./dev demo$", readme, re.MULTILINE)
    assert re.search(r"^\./dev test$", readme, re.MULTILINE)
    for command in ("./dev check", "./dev test", "./dev test --slow"):
        assert re.search(rf"^\s*step {re.escape(command)}$", ci, re.MULTILINE), command
