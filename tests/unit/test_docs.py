"""The documents say what the code is: modules, commands, options, exit codes, files and links."""

import re
from pathlib import Path
from typing import get_args

import click
import pytest

from gateway import errors
from gateway.cli.app import app
from vfs.redaction.restore import Why

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PACKAGES = ("vfs", "gateway", "policies", "winfsp_shim")
SHARED = {"--workspace", "--json", "--no-color", "--debug", "--help"}
"""Options that every command takes; the reference describes them once."""


def _modules() -> set[str]:
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def _named_modules(text: str) -> set[str]:
    pattern = rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)*)`"
    return set(re.findall(pattern, text))


def test_the_architecture_names_every_module_and_no_other() -> None:
    named = {
        name if name in _modules() else name.rpartition(".")[0]
        for name in _named_modules((DOCS / "architecture.md").read_text())
        if not name.endswith(".Gate")
    }
    assert sorted(_modules() - named) == [], "not in docs/architecture.md"
    assert sorted(named - _modules()) == [], "not in the tree"


def _long_options(command: click.Command) -> set[str]:
    found = set()
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            found.add(max([*parameter.opts, *parameter.secondary_opts], key=len))
    return found


def _commands() -> dict[str, click.Command]:
    context = click.Context(app)
    found = {}
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        assert command is not None
        found[name] = command
    return found


def _sections(text: str) -> dict[str, str]:
    """Bodies of the reference's `### grantfs NAME` sections, by name."""
    parts = re.split(r"^(?=#{2,3} )", text, flags=re.MULTILINE)
    found = {}
    for part in parts:
        match = re.match(r"### `grantfs (\w+)", part)
        if match:
            found[match[1]] = part
    return found


def _described_options(section: str) -> set[str]:
    return set(re.findall(r"^\| `(?:-\w`, `)?(--?\w[\w-]*)", section, re.MULTILINE))


def test_the_reference_describes_every_command() -> None:
    assert _sections((DOCS / "reference.md").read_text()).keys() == _commands().keys()


@pytest.mark.parametrize("name", sorted(_commands()))
def test_the_reference_describes_every_option(name: str) -> None:
    section = _sections((DOCS / "reference.md").read_text())[name]
    assert _described_options(section) == _long_options(_commands()[name]) - SHARED


@pytest.mark.parametrize("name", sorted(_commands()))
def test_the_reference_names_arguments_as_the_help_does(name: str) -> None:
    heading = _sections((DOCS / "reference.md").read_text())[name].partition("\n")[0]
    command = _commands()[name]
    context = click.Context(command, info_name=name)
    pieces = [
        parameter.make_metavar(context)
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    words = " ".join(pieces)
    assert heading == f"### `grantfs {name}{' ' + words if words else ''}`"


def test_every_command_takes_the_shared_options() -> None:
    for command in _commands().values():
        assert _long_options(command) | {"--help"} >= SHARED
    text = (DOCS / "reference.md").read_text()
    assert [option for option in SHARED if f"`{option}" not in text] == []


def test_the_reference_lists_the_exit_codes() -> None:
    known = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    text = (DOCS / "reference.md").read_text()
    section = text.partition("## Exit codes")[2].partition("\n## ")[0]
    listed = {int(code) for code in re.findall(r"^\| `(\d)` \|", section, re.MULTILINE)}
    assert listed == known | {0}


def test_the_risk_flags_of_the_reference_are_those_of_the_code() -> None:
    sources = ("gateway/review/flags.py", "gateway/daemon/review.py")
    code = "".join((ROOT / source).read_text() for source in sources)
    used = set(re.findall(r'append\("([a-z-]+)"\)', code))
    used |= {f"placeholder-{why}" for why in get_args(Why)}
    text = (DOCS / "reference.md").read_text()
    section = text.partition("## Risk flags")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z-]+)` \|", section, re.MULTILINE)) == used


def test_environment_variables_are_described() -> None:
    used = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            used |= set(re.findall(r'environ(?:\.get\(|\[)"(\w+)"', path.read_text()))
            used |= set(re.findall(r'_xdg\("(\w+)"', path.read_text()))
    text = (DOCS / "reference.md").read_text()
    assert [name for name in sorted(used) if f"`{name}`" not in text and name != "PWD"] == []


def _documents() -> list[Path]:
    return [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]


def _name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.mark.parametrize("document", _documents(), ids=_name)
def test_links_and_named_files_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    broken = []
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not (document.parent / target).exists():
            broken.append(target)
    for name in re.findall(r"`(tests/[\w/]+\.py)`", text):
        if not (ROOT / name).exists():
            broken.append(name)
    assert broken == []


def test_the_index_names_every_document() -> None:
    index = (DOCS / "README.md").read_text()
    others = [path.name for path in DOCS.glob("*.md") if path.name != "README.md"]
    assert [name for name in others if f"]({name})" not in index] == []


@pytest.mark.parametrize("document", _documents(), ids=_name)
def test_commands_in_the_documents_exist(document: Path) -> None:
    """What stands as `grantfs WORD` at the beginning of a line of a code block is a command."""
    known = _commands()
    wrong = []
    for block in re.findall(r"^```(?:sh)?\n(.*?)^```", document.read_text(), re.M | re.S):
        for line in block.splitlines():
            match = re.match(r"(?:\.venv/bin/|\./dev )?grantfs ([a-z]+)(.*)", line)
            if match is None:
                continue
            if match[1] not in known:
                wrong.append(line)
                continue
            options = set(re.findall(r"(?<!\S)--[a-z][\w-]*", match[2].partition("#")[0]))
            allowed = _long_options(known[match[1]]) | SHARED
            if options - allowed:
                wrong.append(line)
    assert wrong == []
