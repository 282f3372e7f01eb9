"""The imports are those that the design promises, read from the source of every module.

Imports inside functions and literal `importlib.import_module("…")` calls count like any other: an
edge is an edge. What only shows when a program runs (what a bare start of the command line loads,
whether the core does without FUSE) is tried in a fresh interpreter.
"""

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES_IMPORT = {
    "gateway": {"vfs", "policies"},
    "policies": set(),
    "vfs": set(),
    "winfsp_shim": {"vfs"},
}
"""Each package, and the others that it may import."""

STARTS_THE_SHIM = "gateway.daemon"
"""The package that starts the adapter which `up --adapter` names. Its import of the shim stands in
a function, so that a daemon over pyfuse3 never loads mfusepy."""

FUSE_LIBRARIES = {"pyfuse3": "vfs.fuse", "mfusepy": "winfsp_shim"}
"""Each FUSE library, and the only module or package that may import it."""

WEB_STACK = {
    "aiohttp",
    "bottle",
    "django",
    "fastapi",
    "flask",
    "granian",
    "http.server",
    "hypercorn",
    "jinja2",
    "socketserver",
    "starlette",
    "tornado",
    "uvicorn",
    "wsgiref",
}

USER_INTERFACE = {"click", "keyring", "rich"}

SLOW_TO_LOAD = {
    "cryptography",
    "hyperscan",
    "keyring",
    "mfusepy",
    "pydantic",
    "pydantic_core",
    "pyfuse3",
    "re2",
    "rich",
    "trio",
    "watchfiles",
}
"""What a start of the command line must not load: it should cost little more than Python's own."""


@dataclass(frozen=True, slots=True)
class Import:
    """One import: its module, what it names, its line, and whether it stands in a function."""

    module: str
    target: str
    line: int
    deferred: bool

    def __str__(self) -> str:
        return f"{self.module}, line {self.line}: imports {self.target}"


def within(name: str, package: str) -> bool:
    """Whether the dotted name is the package or lies below it."""
    return name == package or name.startswith(package + ".")


def modules_below(root: Path) -> dict[str, Path]:
    """Every module of the product below a checkout's root, by its dotted name."""
    found = {}
    for package in PACKAGES_IMPORT:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


class _Collector(ast.NodeVisitor):
    def __init__(self, module: str, path: Path, modules: dict[str, Path]) -> None:
        self._module = module
        self._package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self._modules = modules
        self._depth = 0
        self.imports: list[Import] = []

    def _add(self, target: str, line: int) -> None:
        self.imports.append(Import(self._module, target, line, self._depth > 0))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        relative = "." * node.level + (node.module or "")
        base = importlib.util.resolve_name(relative, self._package)
        for alias in node.names:
            # A name may be a module (`from http import server`) or not: what is ours is known, and
            # for the rest the longer form is as good, since packages are compared by prefix.
            name = f"{base}.{alias.name}"
            ours = base.partition(".")[0] in PACKAGES_IMPORT
            self._add(base if ours and name not in self._modules else name, node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func.attr if isinstance(node.func, ast.Attribute) else None
        if isinstance(node.func, ast.Name):
            function = node.func.id
        if function in ("import_module", "__import__") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                self._add(importlib.util.resolve_name(name.value, self._package), node.lineno)
        self.generic_visit(node)

    def _visit_function(self, node: ast.AST) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    visit_FunctionDef = _visit_function
    visit_AsyncFunctionDef = _visit_function
    visit_Lambda = _visit_function


def imports_below(root: Path) -> list[Import]:
    """Every import in the product's modules below a checkout's root."""
    modules = modules_below(root)
    found = []
    for module, path in modules.items():
        collector = _Collector(module, path, modules)
        collector.visit(ast.parse(path.read_bytes(), str(path)))
        found += collector.imports
    return found


def crossing_imports(root: Path) -> Iterator[Import]:
    """Imports from one package to another that it may not import."""
    for each in imports_below(root):
        source, target = each.module.partition(".")[0], each.target.partition(".")[0]
        if target == source or target not in PACKAGES_IMPORT or target in PACKAGES_IMPORT[source]:
            continue
        if target == "winfsp_shim" and within(each.module, STARTS_THE_SHIM) and each.deferred:
            continue
        yield each


def strayed_fuse_imports(root: Path) -> Iterator[Import]:
    """Imports of a FUSE library outside its one adapter."""
    for each in imports_below(root):
        owner = FUSE_LIBRARIES.get(each.target.partition(".")[0])
        if owner is not None and not within(each.module, owner):
            yield each


def foreign_imports(root: Path, packages: set[str], unwanted: set[str]) -> Iterator[Import]:
    """Imports of unwanted libraries that stand in the packages or in anything that these import."""
    by_module: dict[str, list[Import]] = {}
    for each in imports_below(root):
        by_module.setdefault(each.module, []).append(each)
    modules = modules_below(root)
    waiting = [name for name in modules if any(within(name, package) for package in packages)]
    seen = set(waiting)
    while waiting:
        for each in by_module.get(waiting.pop(), []):
            if any(within(each.target, library) for library in unwanted):
                yield each
            # Importing a module runs the packages that it lies in, too.
            parts = each.target.split(".")
            names = {".".join(parts[: count + 1]) for count in range(len(parts))}
            reached = (names & modules.keys()) - seen
            seen |= reached
            waiting += reached


def run_python(code: str) -> str:
    """What a fresh interpreter at the root of the checkout prints when it runs the code."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def listed(imports: Iterator[Import]) -> list[str]:
    return sorted(str(each) for each in imports)


class TestThisCheckout:
    def test_packages_import_one_way(self) -> None:
        assert listed(crossing_imports(ROOT)) == []

    def test_each_fuse_library_stays_in_its_adapter(self) -> None:
        assert listed(strayed_fuse_imports(ROOT)) == []

    def test_the_daemon_and_all_it_loads_are_free_of_a_web_stack(self) -> None:
        if not any(within(name, "gateway.daemon") for name in modules_below(ROOT)):
            pytest.skip("gateway/daemon holds no module yet")
        unwanted = WEB_STACK | {"gateway.centre"}
        assert listed(foreign_imports(ROOT, {"gateway.daemon"}, unwanted)) == []

    def test_core_and_policies_know_no_user_interface(self) -> None:
        unwanted = WEB_STACK | USER_INTERFACE
        assert listed(foreign_imports(ROOT, {"vfs", "policies"}, unwanted)) == []

    def test_core_and_policies_load_where_there_is_no_fuse_library(self) -> None:
        names = sorted(
            name
            for name in modules_below(ROOT)
            if (within(name, "vfs") or within(name, "policies")) and not within(name, "vfs.fuse")
        )
        blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in FUSE_LIBRARIES)
        imports = "".join(f"import {name}\n" for name in names)
        run_python(f"import sys\n{blocked}{imports}")

    def test_a_start_of_the_command_line_loads_nothing_slow(self) -> None:
        if "gateway.cli" not in modules_below(ROOT):
            pytest.skip("gateway/cli holds no module yet")
        loaded = run_python("import sys, gateway.cli\nprint(*sys.modules, sep='\\n')").split()
        assert "gateway.cli" in loaded
        slow = {name for name in loaded if name.partition(".")[0] in SLOW_TO_LOAD}
        web = {name for name in loaded if any(within(name, library) for library in WEB_STACK)}
        assert slow | web == set()


class TestTheRules:
    """Each rule refuses what it is there to refuse."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        for name in (
            "gateway",
            "gateway/daemon",
            "gateway/centre",
            "policies",
            "vfs",
            "winfsp_shim",
        ):
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").touch()
        (tmp_path / "vfs/nodes.py").touch()
        (tmp_path / "winfsp_shim/serve.py").touch()
        return tmp_path

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("vfs/nodes.py", "import gateway"),
            ("vfs/nodes.py", "from policies import engine"),
            ("vfs/nodes.py", "def late():\n    import gateway.cli"),
            (
                "vfs/nodes.py",
                "from importlib import import_module\nimport_module('policies.engine')",
            ),
            ("vfs/nodes.py", "if TYPE_CHECKING:\n    from gateway.daemon import serve"),
            ("policies/engine.py", "import vfs.nodes"),
            ("winfsp_shim/serve.py", "from gateway import daemon"),
            ("gateway/cli.py", "def late():\n    import winfsp_shim"),
            ("gateway/daemon/serve.py", "import winfsp_shim"),
        ],
    )
    def test_a_crossing_import_is_found(self, tree: Path, path: str, code: str) -> None:
        (tree / path).write_text(code)
        assert [each.module.replace(".", "/") + ".py" for each in crossing_imports(tree)] == [path]

    @pytest.mark.parametrize(
        ("path", "code"),
        [
            ("gateway/daemon/serve.py", "import vfs.nodes, policies\nfrom .. import daemon"),
            ("gateway/daemon/serve.py", "def late():\n    from winfsp_shim import serve"),
            ("winfsp_shim/serve.py", "from vfs import nodes"),
            ("vfs/names.py", "from . import nodes\nfrom .nodes import Node"),
        ],
    )
    def test_an_allowed_import_is_left_alone(self, tree: Path, path: str, code: str) -> None:
        (tree / path).write_text(code)
        assert listed(crossing_imports(tree)) == []

    @pytest.mark.parametrize(
        ("path", "code", "strays"),
        [
            ("vfs/fuse.py", "import pyfuse3", False),
            ("vfs/nodes.py", "from pyfuse3 import FUSEError", True),
            ("gateway/daemon/serve.py", "def late():\n    import pyfuse3", True),
            ("winfsp_shim/serve.py", "import mfusepy", False),
            ("winfsp_shim/serve.py", "import pyfuse3", True),
            ("vfs/fuse.py", "import mfusepy", True),
        ],
    )
    def test_a_fuse_library_outside_its_adapter_is_found(
        self, tree: Path, path: str, code: str, strays: bool
    ) -> None:
        (tree / path).write_text(code)
        assert bool(listed(strayed_fuse_imports(tree))) is strays

    @pytest.mark.parametrize(
        "code",
        [
            "from http import server",
            "import http.server",
            "from starlette.applications import Starlette",
        ],
    )
    def test_a_web_stack_is_found_behind_other_modules(self, tree: Path, code: str) -> None:
        (tree / "gateway/daemon/serve.py").write_text("def late():\n    from vfs import nodes")
        (tree / "vfs/nodes.py").write_text("import policies.engine")
        (tree / "policies/__init__.py").write_text(code)
        (tree / "gateway/centre/app.py").write_text("import uvicorn")
        found = list(foreign_imports(tree, {"gateway.daemon"}, WEB_STACK))
        assert [each.module for each in found] == ["policies"]
