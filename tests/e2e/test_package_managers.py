"""npm, venv and pip in a mount, without a network."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from both_places import Both, both, needs, sh
from driving import Grantfs, tree
from wheels import tiny_wheel


@pytest.fixture
def places(grantfs: Grantfs, source: Path) -> Both:
    (source / ".env").unlink()
    return both(grantfs, source)


def _npm_package(folder: Path, name: str, needs: dict[str, str], **more: object) -> Path:
    """A package as the registry would serve it, made by hand."""
    content = folder / name
    content.mkdir()
    about = {"name": name, "version": "1.0.0", "main": "index.js", "dependencies": needs, **more}
    (content / "package.json").write_text(json.dumps(about))
    (content / "index.js").write_text(f"module.exports = () => '{name} works';\n")
    (content / "cli.js").write_text(
        f"#!/usr/bin/env node\nconsole.log(require('{next(iter(needs), './index')}')());\n"
    )
    (content / "cli.js").chmod(0o755)
    for number in range(60):
        part = content / "lib" / f"part{number % 6}" / f"m{number}.js"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(f"module.exports = {number};\n" * number)
    path = folder / f"{name}.tgz"
    with tarfile.open(path, "w:gz") as packing:
        packing.add(content, arcname="package")
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_npm_installs_a_small_tree(places: Both) -> None:
    needs("npm", "node")
    base = places.grantfs.home.parent / "packages"
    (base / "home").mkdir(parents=True)
    _npm_package(base, "leaf", {})
    _npm_package(base, "stem", {"leaf": "1.0.0"}, bin={"stem": "cli.js"})
    script = "node -e \"require('fs').writeFileSync('built', 'yes')\""
    _npm_package(base, "root", {"stem": "1.0.0"}, scripts={"postinstall": script})
    packages = "../packages/leaf.tgz ../packages/stem.tgz ../packages/root.tgz"
    npm = "npm --offline --no-audit --no-fund --no-update-notifier --loglevel=error"
    places.run(
        f"""
        mkdir app packages; cp {base}/*.tgz packages; cd app
        echo '{{"name": "app", "version": "1.0.0"}}' > package.json
        {npm} install {packages} > /dev/null; ls node_modules; cat node_modules/root/built
        node -e "console.log(require('root')())"; node_modules/.bin/stem
        {npm} ls --all | tail -n +2; rm -rf node_modules; {npm} ci > /dev/null
        cat node_modules/root/built
        find node_modules -type f | wc -l; {npm} uninstall root > /dev/null; ls -A; ls node_modules
        {npm} prune > /dev/null; readlink node_modules/.bin/stem
        """,
        HOME=str(base / "home"),
        npm_config_cache=str(base / "home" / "cache"),
    )  # fmt: skip
    places.check()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_virtual_environment_with_a_package(grantfs: Grantfs, source: Path) -> None:
    (source / ".env").unlink()
    wheel = tiny_wheel(grantfs.home.parent)
    proj = grantfs.up(source) / "proj"
    before = tree(source, identity=True)
    python = "env/bin/python -m pip --disable-pip-version-check"
    pip = f"{python} -q"
    found = sh(
        f"""
        {sys.executable} -m venv env
        {pip} install --no-index {wheel}; env/bin/tiny; {pip} check
        {pip} install --no-index --force-reinstall {wheel}; {python} show -f tiny | grep table.csv
        {pip} uninstall -y tiny; {python} list | grep -c tiny || true
        {pip} install --no-index {wheel}
        """,
        proj,
        PIP_CONFIG_FILE="/dev/null",
    )
    assert found.split() == ["tiny", "works", "tiny/data/table.csv", "0"]
    assert tree(source, identity=True) == before
    done = grantfs.ask("commit", "-y")
    assert done["conflicts"] == done["undecided"] == done["remaining"] == []
    # Its scripts name the mount's Python, so what has landed is run through its own.
    (command,) = (source / "env").glob("lib/python3*/site-packages/tiny/__init__.py")
    landed = subprocess.run(
        [source / "env/bin/python", "-c", "import tiny; tiny.main(); print(tiny.__file__)"],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    assert landed.stdout.split() == ["tiny", "works", str(command)]
    sh("rm -r env", proj)
    assert set(grantfs.status().values()) == {"deleted"}
