"""The layer that comes with grantfs: what it keeps from agents, and that ordinary work goes on."""

import pytest

from policies.engine import PolicyEngine, Query
from policies.loader import builtin_layer


@pytest.fixture(scope="module")
def engine() -> PolicyEngine:
    return PolicyEngine([builtin_layer()])


@pytest.mark.parametrize(
    "path",
    [
        b"/home/a/.ssh",
        b"/home/a/.ssh/id_ed25519",
        b"/root/.ssh/authorized_keys",
        b"/home/a/proj/tests/.ssh/config",
        b"/home/a/.gnupg/private-keys-v1.d/x.key",
        b"/home/a/.local/share/keyrings/login.keyring",
        b"/home/a/.password-store/mail.gpg",
        b"/home/a/Documents/vault.kdbx",
        b"/home/a/.mozilla/firefox/x.default/logins.json",
        b"/home/a/.config/google-chrome-beta/Default/Login Data",
        b"/home/a/.bash_history",
        b"/home/a/.local/share/fish/fish_history",
        b"/etc/shadow",
        b"/etc/shadow-",
        b"/etc/ssh/ssh_host_rsa_key",
        b"/proc/self/environ",
        b"/run/user/1000/bus",
        "/home/é\udcff/.ssh/id_rsa".encode("utf-8", "surrogateescape"),
    ],
)
def test_hidden_and_not_to_be_granted(engine: PolicyEngine, path: bytes) -> None:
    assert engine.hidden(path)
    for access in ("list", "read", "write"):
        assert engine.may_grant(access, path, "s").verdict == "deny"
    assert engine.decide(Query("list", path), True).reason


@pytest.mark.parametrize(
    "path", [b"/home/a/keys/id_rsa", b"/p/tests/certs/server.p12", b"/p/x.pfx", b"/p/x.ppk"]
)
def test_a_private_key_is_seen_and_not_read(engine: PolicyEngine, path: bytes) -> None:
    assert engine.decide(Query("list", path), True).verdict == "allow"
    for action in ("read", "write", "delete", "exec"):
        assert engine.decide(Query(action, path), True).verdict == "deny"
    assert not engine.hidden(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/home/a/.aws/credentials",
        b"/home/a/.docker/config.json",
        b"/home/a/.kube/config",
        b"/home/a/.git-credentials",
        b"/home/a/.pgpass",
        b"/home/a/.config/gh/hosts.yml",
        b"/p/android/release.keystore",
    ],
)
def test_credential_files_are_asked_about_and_can_be_granted(
    engine: PolicyEngine, path: bytes
) -> None:
    for action in ("read", "write"):
        decision = engine.decide(Query(action, path), True)
        assert decision.verdict == "ask"
        assert decision.reason
    assert engine.decide(Query("list", path), True).verdict == "allow"
    assert engine.may_grant("write", path, "s").verdict == "allow"


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/home/a",
        b"/home/a/proj/.env",
        b"/home/a/proj/.env.local",
        b"/home/a/proj/.npmrc",
        b"/home/a/.netrc",
        b"/home/a/proj/.netrc",
        b"/home/a/proj/config/secrets.yml",
        b"/home/a/proj/.git/config",
        b"/home/a/proj/.git/index.lock",
        b"/home/a/proj/certs/server.pem",
        b"/home/a/proj/certs/ca.crt",
        b"/home/a/proj/deploy.key",
        b"/home/a/keys/id_rsa.pub",
        b"/home/a/proj/ssh/client.py",
        b"/home/a/proj/src/id_rsa.py",
        b"/home/a/proj/docker/config.json",
        b"/home/a/proj/kube/config",
        b"/home/a/proj/credentials.py",
        b"/home/a/proj/terraform.tfstate",
        b"/home/a/proj/history.txt",
        b"/home/a/proj/.aws/config",
        b"/home/a/proj/logins.json",
        b"/dev/shm/proj/x",
        b"/run/x",
    ],
)
def test_ordinary_files_are_the_grants_affair(engine: PolicyEngine, path: bytes) -> None:
    for action in ("list", "read", "write", "delete", "exec"):
        assert engine.decide(Query(action, path), True).verdict == "allow"
        assert engine.decide(Query(action, path), False).verdict == "deny"
    assert engine.may_grant("write", path, "s").verdict == "allow"
    assert engine.max_duration(path, None).seconds is None


@pytest.mark.parametrize(
    "path",
    [
        b"/p/.git/hooks/pre-commit",
        b"/p/.git/config",
        b"/p/sub/package.json",
        b"/p/.vscode/tasks.json",
        b"/p/.github/workflows/ci.yml",
        b"/p/.venv/lib/python3/site-packages/x.pth",
        b"/home/a/.bashrc",
        b"/home/a/.config/autostart/x.desktop",
        b"/p/.envrc",
        b"/p/__pycache__/x.cpython-311.pyc",
    ],
)
def test_files_that_run_later_are_flagged(engine: PolicyEngine, path: bytes) -> None:
    assert engine.flags(path) == ("runs-later",)


def test_plain_files_carry_no_flag(engine: PolicyEngine) -> None:
    assert engine.flags(b"/p/src/main.py") == ()


def test_grantfs_keeps_its_own_state_to_itself() -> None:
    own = [b"/home/a/.local/state/grantfs", b"/srv/odd\xff [x]*"]
    engine = PolicyEngine([builtin_layer(own)])
    for path in own:
        for below in (path, path + b"/w/audit.log"):
            assert engine.hidden(below)
            assert engine.may_grant("read", below, "s").rule == "grantfs-state"
    assert not engine.hidden(b"/home/a/.local/state/grantfs2")
    assert not engine.hidden(b"/srv/odd\xff [x]y")
    with pytest.raises(ValueError):
        builtin_layer([b"relative"])


def test_the_default_policy_has_no_warnings_and_a_reason_for_every_rule() -> None:
    document = builtin_layer().document
    assert document.warnings() == []
    assert all(rule.reason for rule in document.rules)
