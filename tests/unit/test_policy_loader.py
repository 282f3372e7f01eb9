"""Which files make policy, which are refused, and what stays in force when one breaks."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from policies.engine import Query
from policies.files import ManagedFolder, links_of
from policies.loader import PolicyError, PolicySet, builtin_layer, find_problems, load_layers
from policies.parse import MAX_FILE_BYTES, parse_policy

ME = os.getuid()
EMPTY = '{"policyVersion": "2026-01-01"}'


def deny(path: str) -> str:
    rule = {"id": "no", "match": {"pathPrefix": path}, "deny": {"read": True}}
    return json.dumps({"policyVersion": "2026-01-01", "rules": [rule]})


def mine(path: Path) -> ManagedFolder:
    """A managed folder as it is under GRANTFS_HOME: the owner of the process may write there."""
    return ManagedFolder(path, frozenset({0, ME}), ancestors=False)


def folder(path: Path, **files: str) -> Path:
    path.mkdir(mode=0o755, exist_ok=True)
    for name, text in files.items():
        file = path / f"{name}.json"
        file.write_text(text)
        file.chmod(0o644)
    return path


def verdict(policies: PolicySet, path: bytes) -> str:
    return policies.current.decide(Query("read", path), True).verdict


def test_every_file_is_a_layer_in_name_order_and_the_built_in_one_is_last(tmp_path: Path) -> None:
    managed = folder(tmp_path / "m", b=EMPTY, a=EMPTY)
    user = folder(tmp_path / "u", c=EMPTY)
    (user / "notes.txt").write_text("not policy")
    (user / ".#c.json").symlink_to("nowhere")
    workspace = folder(tmp_path / "w", policy=EMPTY) / "policy.json"
    layers = load_layers([mine(managed)], user, workspace)
    assert [(layer.name, layer.file and Path(layer.file).name) for layer in layers] == [
        ("managed", "a.json"),
        ("managed", "b.json"),
        ("user", "c.json"),
        ("workspace", "policy.json"),
        ("built-in", None),
    ]


def test_what_is_not_there_adds_nothing(tmp_path: Path) -> None:
    layers = load_layers([tmp_path / "no"], tmp_path / "no", tmp_path / "no.json")
    assert [layer.name for layer in layers] == ["built-in"]
    assert layers == (builtin_layer(),)


def test_the_protected_paths_are_in_force(tmp_path: Path) -> None:
    assert PolicySet(protected=[b"/srv/state"]).current.hidden(b"/srv/state/x")


def refused(managed: ManagedFolder | Path) -> str:
    with pytest.raises(PolicyError) as caught:
        load_layers([managed])
    return str(caught.value)


def test_a_managed_folder_or_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", a=EMPTY)
    load_layers([mine(path)])
    for mode in (0o775, 0o757, 0o1777):
        path.chmod(mode)
        assert "can be written by others" in refused(mine(path))
    path.chmod(0o755)
    for mode in (0o664, 0o646):
        (path / "a.json").chmod(mode)
        assert "a.json: can be written by others" in refused(mine(path))


def test_a_managed_folder_or_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", a=EMPTY)
    stranger = ManagedFolder(path, frozenset({ME + 1}), ancestors=False)
    assert f"m: belongs to uid {ME}" in refused(stranger)


@pytest.mark.skipif(ME != 0, reason="only root can give files away")
def test_owners_are_checked_for_folder_and_files_alike(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", a=EMPTY)
    os.chown(path / "a.json", 1234, -1)
    assert "a.json: belongs to uid 1234" in refused(mine(path))
    load_layers([ManagedFolder(path, frozenset({0, 1234}), ancestors=False)])
    os.chown(path / "a.json", 0, -1)
    os.chown(path, 1234, -1)
    assert "m: belongs to uid 1234" in refused(mine(path))


def test_a_folder_of_the_system_must_be_safe_all_the_way_up(tmp_path: Path) -> None:
    above = tmp_path / "etc"
    above.mkdir(mode=0o755)
    path = folder(above / "m", a=EMPTY)
    owners = frozenset({0, *(p.stat().st_uid for p in path.parents), ME})
    safe = ManagedFolder(path, owners)
    load_layers([safe])
    above.chmod(0o777)
    assert f"m: can be replaced by others, who can write {above}" in refused(safe)
    above.chmod(0o1777)
    load_layers([safe])
    link = tmp_path / "link"
    link.symlink_to(above)
    assert "is reached through a symlink" in refused(ManagedFolder(link / "m", owners))


@pytest.mark.skipif(ME != 0, reason="only root can make what root would trust")
def test_a_plain_path_is_a_folder_that_only_root_may_write(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", a=EMPTY)
    load_layers([path])
    os.chown(path, 1234, -1)
    assert "belongs to uid 1234" in refused(path)


def test_symlinks_and_things_that_are_no_files_are_refused_everywhere(tmp_path: Path) -> None:
    real = folder(tmp_path / "real", a=EMPTY)
    (tmp_path / "link").symlink_to(real)
    assert "symlink" in refused(mine(tmp_path / "link"))
    assert "is not a folder" in refused(mine(real / "a.json"))

    def problem(name: str) -> str:
        with pytest.raises(PolicyError) as caught:
            load_layers(user_dir=tmp_path / name)
        return str(caught.value)

    (folder(tmp_path / "l") / "x.json").symlink_to(real / "a.json")
    assert "x.json: is a symlink" in problem("l")
    os.mkfifo(folder(tmp_path / "f") / "x.json")
    assert "x.json: is not a regular file" in problem("f")
    (folder(tmp_path / "d") / "x.json").mkdir()
    assert "x.json: is not a regular file" in problem("d")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder(tmp_path / "s") / "x.json"))
        assert "x.json: is not a regular file" in problem("s")
    with pytest.raises(PolicyError, match="is a symlink"):
        load_layers(workspace_file=tmp_path / "l" / "x.json")


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    user = folder(tmp_path / "u", a=EMPTY + " " * (MAX_FILE_BYTES - len(EMPTY)))
    load_layers(user_dir=user)
    folder(user, a=EMPTY + " " * (MAX_FILE_BYTES + 1 - len(EMPTY)))
    with pytest.raises(PolicyError, match=r"a\.json: is larger than"):
        load_layers(user_dir=user)


def test_a_broken_file_stops_the_start_and_is_named(tmp_path: Path) -> None:
    user = folder(tmp_path / "u", a=EMPTY, b="{", c="[]")
    with pytest.raises(PolicyError) as caught:
        PolicySet(user_dir=user)
    assert str(caught.value).startswith(f"{user}/b.json: line 1 column 2: is not JSON")
    assert [Path(p.file).name for p in find_problems(user_dir=user)] == ["b.json", "c.json"]


def test_a_change_comes_into_force_and_counts(tmp_path: Path) -> None:
    user = folder(tmp_path / "u", a=deny("/a"))
    policies = PolicySet(user_dir=user)
    first = policies.current
    assert (policies.generation, policies.changed()) == (1, False)
    folder(user, a=deny("/b"))
    assert policies.changed()
    assert policies.reload() == []
    assert (policies.generation, policies.changed()) == (2, False)
    assert (verdict(policies, b"/a"), verdict(policies, b"/b")) == ("allow", "deny")
    assert first.decide(Query("read", b"/a"), True).verdict == "deny"
    assert policies.reload() == []
    assert policies.generation == 2


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"policyVersion": "2026-01-01", "x": 1}'])
def test_a_file_that_stops_parsing_leaves_its_last_good_policy_in_force(
    tmp_path: Path, broken: str
) -> None:
    user = folder(tmp_path / "u", a=deny("/a"), b=deny("/b"))
    policies = PolicySet(user_dir=user)
    folder(user, a=broken, b=deny("/c"))
    problems = policies.reload()
    assert [Path(problem.file).name for problem in problems] == ["a.json"]
    assert policies.problems == tuple(problems)
    assert verdict(policies, b"/a") == "deny"
    assert (verdict(policies, b"/b"), verdict(policies, b"/c")) == ("allow", "deny")
    folder(user, a=deny("/d"))
    assert policies.reload() == []
    assert policies.problems == ()
    assert (verdict(policies, b"/a"), verdict(policies, b"/d")) == ("allow", "deny")


def test_a_rule_does_not_get_lost_by_renaming_its_file_to_a_broken_one(tmp_path: Path) -> None:
    user = folder(tmp_path / "u", a=deny("/a"))
    policies = PolicySet(user_dir=user)
    (user / "a.json").rename(user / "b.json")
    folder(user, b="{")
    assert policies.reload()
    assert verdict(policies, b"/a") == "deny"
    (user / "b.json").unlink()
    assert policies.reload() == []
    assert verdict(policies, b"/a") == "allow"


def test_a_managed_folder_that_turns_unsafe_keeps_its_last_good_policy(tmp_path: Path) -> None:
    path = folder(tmp_path / "m", a=deny("/a"))
    policies = PolicySet([mine(path)])
    path.chmod(0o777)
    folder(path, a=EMPTY)
    path.chmod(0o777)
    assert "can be written by others" in str(policies.reload()[0])
    assert verdict(policies, b"/a") == "deny"


def test_folders_that_come_later_are_noticed(tmp_path: Path) -> None:
    policies = PolicySet([mine(tmp_path / "m")], tmp_path / "u", tmp_path / "w" / "policy.json")
    assert policies.watched() == (tmp_path / "m", tmp_path / "u", tmp_path / "w")
    assert not policies.changed()
    folder(tmp_path / "u", a=deny("/a"))
    assert policies.changed()
    policies.reload()
    assert verdict(policies, b"/a") == "deny"
    folder(tmp_path / "w", policy=deny("/b"))
    assert policies.changed()
    policies.reload()
    assert verdict(policies, b"/b") == "deny"


def test_a_path_written_through_a_symlink_is_protected_where_it_leads(tmp_path: Path) -> None:
    real = tmp_path / "real" / "keys"
    real.mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "real")
    user = folder(tmp_path / "u", a=deny(f"{tmp_path}/home/keys"))
    policies = PolicySet(user_dir=user)
    for path in (real, tmp_path / "home" / "keys"):
        assert verdict(policies, os.fsencode(path / "x")) == "deny"
    assert verdict(policies, os.fsencode(tmp_path / "real")) == "allow"


def links(*paths: Path) -> list[tuple[str, str, bool]]:
    tree: dict[str, Any] = json.loads(EMPTY)
    tree["rules"] = [
        {"id": str(number), "match": {"pathGlob": f"{path}/**/x"}}
        for number, path in enumerate(paths)
    ]
    document = parse_policy(json.dumps(tree).encode(), "p")
    return [
        (os.fsdecode(link.written), os.fsdecode(link.target), link.trusted)
        for link in links_of(document, "p")
    ]


def test_links_are_followed_one_by_one(tmp_path: Path) -> None:
    base = Path(os.path.realpath(tmp_path))
    (base / "var" / "a").mkdir(parents=True)
    (base / "data").mkdir()
    (base / "home").symlink_to("var")
    (base / "var" / "a" / "p").symlink_to(base / "data")
    found = links(base / "home" / "a" / "p", base / "home" / "a", base / "nowhere" / "x")
    assert [(written, target) for written, target, _ in found] == [
        (f"{base}/home", f"{base}/var"),
        (f"{base}/home/a/p", f"{base}/data"),
    ]
    # The folders above are not all root's alone (the one for temporary files is everybody's).
    assert not any(trusted for _, _, trusted in found)


def test_too_many_links_are_refused(tmp_path: Path) -> None:
    for number in range(65):
        (tmp_path / str(number)).symlink_to("x")
    with pytest.raises(PolicyError, match="symlinks"):
        links(*(tmp_path / str(number) for number in range(65)))


@pytest.mark.skipif(not os.path.islink("/bin"), reason="this system's /bin is a folder")
def test_a_link_of_the_system_is_trusted() -> None:
    assert links(Path("/bin")) == [("/bin", os.path.realpath("/bin"), True)]


def test_messages_are_printable_whatever_a_file_is_called(tmp_path: Path) -> None:
    user = folder(tmp_path / "u")
    with open(os.fsencode(user) + b"/x\xff\n.json", "w") as file:
        file.write("{")
    with pytest.raises(PolicyError) as caught:
        load_layers(user_dir=user)
    assert str(caught.value).isprintable()
