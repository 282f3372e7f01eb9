"""What paths, globs and hosts of policy match, held against slow and obvious models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.hosts import canonical_host, common_hosts, host_matches, host_pattern
from policies.paths import (
    Glob,
    PatternError,
    ancestors,
    canonical,
    covers,
    escape_glob,
    is_canonical,
    matcher,
)

NAMES = st.lists(
    st.sampled_from([b"a", b"b", b".", b"c\n", "é".encode(), b"\xff", b"*", b"["]),
    min_size=1,
    max_size=3,
).map(b"".join)
PATHS = (
    st.lists(NAMES.filter(lambda n: n not in (b".", b"..")), max_size=4)
    .map(lambda names: b"/" + b"/".join(names))
    .filter(is_canonical)
)
GLOB_PARTS = st.lists(
    st.sampled_from(["a", "b", ".", "é", "?", "*", "**", r"\*", r"\[", r"\xff", r"\x0a"]),
    min_size=1,
    max_size=3,
).map("".join)
GLOBS = st.lists(GLOB_PARTS | st.just("**"), max_size=4).map(lambda parts: "/" + "/".join(parts))


def parsed(text: str) -> Glob | None:
    try:
        return Glob.parse(text)
    except PatternError:
        return None


def glob_matches(text: str, path: bytes, *, below: bool = False) -> bool:
    return matcher([Glob.parse(text).pattern(below=below)]).matches(path)


def obviously_matches(glob: str, path: bytes) -> bool:
    """The language by its description, one character at a time."""
    while "/**/**" in glob:
        glob = glob.replace("/**/**", "/**")
    if path == b"/":
        return glob in ("/", "/**")
    return glob != "/" and _match(glob, path)


def _match(glob: str, rest: bytes) -> bool:
    if not glob:
        return not rest
    if glob == "/**":
        return rest == b"" or rest.startswith(b"/")
    if glob.startswith("/**/"):
        if not rest.startswith(b"/"):
            return False
        slashes = [k for k in range(len(rest)) if rest[k : k + 1] == b"/"]
        return any(_match(glob[3:], rest[k:]) for k in slashes)
    if glob.startswith("**"):
        return any(_match(glob[2:], rest[k:]) for k in range(len(rest) + 1))
    if glob.startswith("*"):
        run = len(rest.split(b"/")[0])
        return any(_match(glob[1:], rest[k:]) for k in range(run + 1))
    if glob.startswith("?"):
        return any(_is_one(rest[:k]) and _match(glob[1:], rest[k:]) for k in (1, 2))
    if glob.startswith("\\x"):
        literal, glob = bytes([int(glob[2:4], 16)]), glob[4:]
    elif glob.startswith("\\"):
        literal, glob = glob[1].encode(), glob[2:]
    else:
        literal, glob = glob[0].encode(), glob[1:]
    return rest.startswith(literal) and _match(glob, rest[len(literal) :])


def _is_one(chunk: bytes) -> bool:
    return chunk == "é".encode() or (len(chunk) == 1 and chunk != b"/")


@given(GLOBS.filter(lambda g: parsed(g) is not None), PATHS)
def test_globs_match_what_the_obvious_model_matches(glob: str, path: bytes) -> None:
    assert glob_matches(glob, path) == obviously_matches(glob, path)


@given(GLOBS.filter(lambda g: parsed(g) is not None), PATHS)
def test_below_takes_exactly_what_lies_under_a_match_along(glob: str, path: bytes) -> None:
    expected = any(obviously_matches(glob, above) for above in ancestors(path))
    assert glob_matches(glob, path, below=True) == expected


@given(GLOBS.filter(lambda g: parsed(g) is not None), PATHS)
def test_no_match_below_a_folder_is_ever_missed(glob: str, path: bytes) -> None:
    if obviously_matches(glob, path):
        for folder in list(ancestors(path))[1:]:
            assert Glob.parse(glob).reaches_below(folder)


@pytest.mark.parametrize(
    ("glob", "folder", "reaches"),
    [
        ("/home/a/*/x", b"/home/a", True),
        ("/home/a/*/x", b"/home/a/q", True),
        ("/home/a/*/x", b"/home/a/q/x", False),
        ("/home/a/*/x", b"/home/b", False),
        ("/home/a/**/x", b"/home/a/q/r/s", True),
        ("/home/a/**/x", b"/srv", False),
        ("/x", b"/", True),
        ("/", b"/", False),
    ],
)
def test_a_glob_reaches_below_no_more_folders_than_it_must(
    glob: str, folder: bytes, reaches: bool
) -> None:
    assert Glob.parse(glob).reaches_below(folder) is reaches


@given(GLOBS.filter(lambda g: parsed(g) is not None), PATHS)
def test_all_that_a_glob_matches_lies_in_its_head(glob: str, path: bytes) -> None:
    if obviously_matches(glob, path):
        assert covers(Glob.parse(glob).head, path)


@given(PATHS, PATHS)
def test_an_escaped_path_matches_itself_alone(path: bytes, other: bytes) -> None:
    glob = escape_glob(path).decode("ascii")
    assert glob_matches(glob, path)
    assert glob_matches(glob, other) == (path == other)


@given(PATHS, PATHS)
def test_prefixes_cover_by_component(prefix: bytes, path: bytes) -> None:
    head = [] if prefix == b"/" else prefix.split(b"/")[1:]
    parts = [] if path == b"/" else path.split(b"/")[1:]
    assert covers(prefix, path) == (parts[: len(head)] == head)
    assert covers(prefix, path) == (prefix in set(ancestors(path)))


@pytest.mark.parametrize(
    ("prefix", "path", "covered"),
    [
        (b"/a/b", b"/a/b", True),
        (b"/a/b", b"/a/b/c", True),
        (b"/a/b", b"/a/bc", False),
        (b"/a/b", b"/a", False),
        (b"/a/b", b"/A/b/c", False),
        (b"/", b"/", True),
        (b"/", b"/a", True),
        ("/caf\u00e9".encode(), "/cafe\u0301/x".encode(), False),
        (b"/a\xff", b"/a\xff/x", True),
    ],
)
def test_covers(prefix: bytes, path: bytes, covered: bool) -> None:
    assert covers(prefix, path) is covered


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/home/a/contracts/**/*.docx", b"/home/a/contracts/x.docx", True),
        ("/home/a/contracts/**/*.docx", b"/home/a/contracts/q/r/x.docx", True),
        ("/home/a/contracts/**/*.docx", b"/home/a/contracts/q/x.docx/y", False),
        ("/home/a/contracts/**/*.docx", b"/home/a/contractsx/x.docx", False),
        ("/home/a/contracts/**/*.docx", b"/prefix/home/a/contracts/x.docx", False),
        ("/home/a/**/.ssh/**", b"/home/a/.ssh", True),
        ("/home/a/**/.ssh/**", b"/home/a/.ssh/id_rsa", True),
        ("/home/a/**/.ssh/**", b"/home/a/p/q/.ssh/x/y", True),
        ("/home/a/**/.ssh/**", b"/home/a/.sshx/id_rsa", False),
        ("/home/a/**/.ssh/**", b"/home/a/x.ssh/id_rsa", False),
        ("/a/*", b"/a/b/c", False),
        ("/a/*", b"/a", False),
        ("/*", b"/", False),
        ("/a/*.txt", b"/a/x\ny.txt", True),
        ("/a/?", "/a/é".encode(), True),
        ("/a/?", b"/a/\xff", True),
        ("/a/?", b"/a//", False),
        ("/a/", b"/a", True),
        ("/a.c", b"/abc", False),
        ("/a/**.key", b"/a/b/c.key", True),
    ],
)
def test_globs(glob: str, path: bytes, matches: bool) -> None:
    assert glob_matches(glob, path) is matches


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b",
        "~/x",
        "/a//b",
        "/a//",
        "/a/../b",
        "/a/./b",
        "/..",
        "/a\0b",
        "/" + "x" * 4096,
        "/\ud800",
    ],
)
def test_paths_that_policy_refuses(text: str) -> None:
    with pytest.raises(PatternError):
        canonical(text)
    with pytest.raises(PatternError):
        Glob.parse(text)


@pytest.mark.parametrize(
    "text", ["/a***", "/[ab]", "/{a,b}", "/a}", "/a\\", "/a\\q", "/a\\x2f", "/a\\x00", "/a\\x9"]
)
def test_globs_that_mean_something_elsewhere_are_refused(text: str) -> None:
    with pytest.raises(PatternError):
        Glob.parse(text)


def test_a_slash_at_the_end_is_dropped_and_the_root_kept() -> None:
    assert canonical("/a/b/") == b"/a/b"
    assert canonical("/") == b"/"


@pytest.mark.parametrize(
    "path", [b"", b"a", b"/a/", b"//a", b"/a//b", b"/.", b"/a/..", b"/a/./b", b"/a\0"]
)
def test_paths_that_are_not_canonical(path: bytes) -> None:
    assert not is_canonical(path)


@pytest.mark.parametrize("path", [b"/", b"/a", b"/.a", b"/a/...", b"/\xff\n", b"/a/b."])
def test_paths_that_are_canonical(path: bytes) -> None:
    assert is_canonical(path)


def test_a_hostile_glob_is_matched_in_linear_time() -> None:
    # Backtracking would need more than a lifetime for this one; the test's time limit is the check.
    assert not glob_matches("/" + "*a" * 200, b"/" + b"a" * 3000 + b"b")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("API.Example.com.", "api.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ],
)
def test_hosts_have_one_form(text: str, host: str) -> None:
    assert canonical_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "a:80",
        "http://a",
        "a/b",
        "127.1",
        "0x7f000001",
        "2130706433",
        "a b",
        "b\u00fccher.de",
        "\u212aube.com",
        "fe80::1%eth0",
        "a.*.com",
        "x" * 64,
        "a@b",
    ],
)
def test_what_is_not_a_host_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        canonical_host(text)
    with pytest.raises(PatternError):
        host_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("example.com", "example.com", True),
        ("example.com", "a.example.com", False),
        ("*.Example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "badexample.com", False),
        ("*.example.com", "example.com.evil.org", False),
        ("*", "anything", True),
    ],
)
def test_host_patterns(pattern: str, host: str, matches: bool) -> None:
    assert host_matches(host_pattern(pattern), host) is matches


@pytest.mark.parametrize("pattern", ["*.1", "*.", "**.a", "*a.com", "*.*.com"])
def test_host_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        host_pattern(pattern)


HOSTS = st.lists(st.sampled_from(["a", "b", "com"]), min_size=1, max_size=3).map(".".join)
PATTERNS = st.frozensets(HOSTS | HOSTS.map(lambda h: f"*.{h}") | st.just("*"), max_size=4)


@given(PATTERNS, PATTERNS, HOSTS)
def test_common_hosts_are_exactly_those_under_both(
    left: frozenset[str], right: frozenset[str], host: str
) -> None:
    def under(patterns: frozenset[str]) -> bool:
        return any(host_matches(pattern, host) for pattern in patterns)

    assert under(common_hosts(left, right)) == (under(left) and under(right))
