"""Paths and globs of policy: what a pattern covers.

Paths are bytes, absolute and canonical (no empty, `.` or `..` component, no NUL, no slash at the
end but the root's own). Names need not be UTF-8. Matching is by exact bytes: case and Unicode
normalisation count, as they do for the kernel. Nothing here touches the file system, and hostile
text only ever meets RE2, whose time is linear in the path.

The glob language is small on purpose: `?` is one character (or one byte of a name that is not
UTF-8), `*` any run without `/`, `**` any run with `/`. A component that is `**` alone stands for
any number of components, none included, so `/a/**/b` matches `/a/b`, and `/a/**` matches `/a` and
all below it. A backslash takes a special character literally, `\\xHH` is one byte. `[`, `]`, `{`
and `}` are refused unless escaped: other tools give them a meaning, and a rule that silently
matches nothing is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

import re2

MAX_PATTERN_BYTES = 4096
"""Longest path or glob of a policy, in bytes: Linux's own `PATH_MAX`."""

_ESCAPABLE = frozenset(b"*?[]{}\\")
_SETS = frozenset(b"[]{}")
_HEX = frozenset(b"0123456789abcdefABCDEF")
# Any one byte but `/`, or one whole UTF-8 character, so that `?` matches an "é" too.
_ONE = rb"(?:[\xC2-\xDF][\x80-\xBF]|[\xE0-\xEF][\x80-\xBF]{2}|[\xF0-\xF4][\x80-\xBF]{3}|[^/])"
_BELOW = rb"(?:/.*)?"


class PatternError(ValueError):
    """A path, glob or host that policy cannot use; the text says why and what to write instead."""


class _Wild(Enum):
    ONE = "?"
    RUN = "*"
    DEEP = "**"


_Token = int | _Wild
_Component = tuple[_Token, ...]
_DEEP_ALONE: _Component = (_Wild.DEEP,)


def is_canonical(path: bytes) -> bool:
    """Whether `path` has the one form in which this package compares paths."""
    if path == b"/":
        return True
    if not path.startswith(b"/") or path.endswith(b"/") or b"//" in path or b"\0" in path:
        return False
    if b"/." not in path:
        return True
    return not any(part in (b".", b"..") for part in path.split(b"/"))


def canonical(text: str) -> bytes:
    """The bytes of a path written in a policy file, without a slash at its end.

    Raises PatternError for anything that is not absolute and canonical otherwise: `..` is refused,
    not resolved, since only the file system knows what it would mean.
    """
    path = _encoded(text)
    if len(path) > 1 and path.endswith(b"/") and not path.endswith(b"//"):
        path = path[:-1]
    _check_components(path.split(b"/")[1:] if path != b"/" else [])
    return path


def covers(prefix: bytes, path: bytes) -> bool:
    """Whether `path` is `prefix` or lies below it, by component: `/a/b` never covers `/a/bc`.

    Both must be canonical.
    """
    if prefix == b"/":
        return path.startswith(b"/")
    return path.startswith(prefix) and (
        len(path) == len(prefix) or path[len(prefix)] == 0x2F  # "/"
    )


def ancestors(path: bytes) -> Iterable[bytes]:
    """The canonical `path` and every folder above it, the root last."""
    while path != b"/":
        yield path
        path = path[: path.rindex(b"/")] or b"/"
    yield b"/"


@dataclass(frozen=True, slots=True)
class Glob:
    """One parsed glob: absolute, and matched against whole paths.

    `head` is the literal folder that everything it matches lies in (the whole path, when the glob
    has no wildcard).
    """

    components: tuple[_Component, ...]
    head: bytes

    @classmethod
    def parse(cls, text: str) -> Glob:
        """Reads a `pathGlob`. Raises PatternError."""
        raw = _encoded(text)
        if len(raw) > 1 and raw.endswith(b"/") and not raw.endswith(b"//"):
            raw = raw[:-1]
        parts = raw.split(b"/")[1:] if raw != b"/" else []
        _check_components(parts)
        components: list[_Component] = []
        for part in parts:
            component = _tokens(part)
            if component != _DEEP_ALONE or components[-1:] != [_DEEP_ALONE]:
                components.append(component)
        return cls(tuple(components), _head(components))

    def pattern(self, *, below: bool = False) -> bytes:
        """RE2 source for a full match in Latin-1 mode; with `below`, what lies under a match
        too.
        """
        if not self.components:
            return rb"/.*" if below else rb"/"
        source = b""
        # A `**` component writes its own slash, so that it can stand for no component at all.
        slash = b"/"
        for index, component in enumerate(self.components):
            last = index == len(self.components) - 1
            if component != _DEEP_ALONE:
                source += slash + _component_source(component)
                slash = b"/"
            elif last:
                source += rb"/.*" if not source else _BELOW
            else:
                source += slash
                source += rb"(?:.*/)?"
                slash = b""
        if below and self.components[-1] != _DEEP_ALONE:
            source += _BELOW
        return source

    def reaches_below(self, folder: bytes) -> bool:
        """Whether the glob could match anything strictly below `folder`."""
        names = folder.split(b"/")[1:] if folder != b"/" else []
        for index, name in enumerate(names):
            if index >= len(self.components):
                return False
            component = self.components[index]
            if _Wild.DEEP in component:
                return True
            if not matcher([_component_source(component)]).matches(name):
                return False
        return len(self.components) > len(names)


@dataclass(frozen=True, slots=True)
class Matcher:
    """Any of several patterns, compiled to one automaton."""

    compiled: re2._Regexp

    def matches(self, path: bytes) -> bool:
        """Whether the whole of `path` matches one of the patterns."""
        return self.compiled.fullmatch(path) is not None


def matcher(sources: Sequence[bytes]) -> Matcher:
    """Compiles RE2 sources to one matcher. Raises PatternError when they are too much for RE2."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    options.never_capture = True
    options.log_errors = False
    try:
        return Matcher(re2.compile(b"|".join(b"(?:" + s + b")" for s in sources), options))
    except re2.error as error:
        raise PatternError("too many or too long patterns in one rule; split the rule") from error


def escape_glob(path: bytes) -> bytes:
    """A literal path as glob source, for `Glob.parse` after decoding as ASCII."""
    return b"".join(
        b"\\" + bytes((c,))
        if c in _ESCAPABLE
        else bytes((c,))
        if 0x20 <= c < 0x7F
        else b"\\x%02x" % c
        for c in path
    )


def _encoded(text: str) -> bytes:
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise PatternError(
            "is not valid Unicode; write a byte of a name as \\xHH in a pathGlob"
        ) from None
    if not raw.startswith(b"/"):
        hint = "; ~ is not expanded here" if raw.startswith(b"~") else ""
        raise PatternError(f"must be an absolute path, beginning with /{hint}")
    if b"\0" in raw:
        raise PatternError("holds a NUL")
    if len(raw) > MAX_PATTERN_BYTES:
        raise PatternError(f"is longer than {MAX_PATTERN_BYTES} bytes")
    return raw


def _check_components(parts: Iterable[bytes]) -> None:
    for part in parts:
        if not part:
            raise PatternError("has an empty component (//)")
        if part in (b".", b".."):
            raise PatternError(f"has a {part.decode()} component; write the path it stands for")


def _tokens(part: bytes) -> _Component:
    tokens: list[_Token] = []
    at = 0
    while at < len(part):
        char = part[at]
        if char == ord("\\"):
            byte, at = _escaped(part, at + 1)
            tokens.append(byte)
            continue
        if char == ord("*"):
            end = at
            while end < len(part) and part[end] == ord("*"):
                end += 1
            if end - at > 2:
                raise PatternError("has *** in it; write * or **")
            tokens.append(_Wild.DEEP if end - at == 2 else _Wild.RUN)
            at = end
            continue
        if char in _SETS:
            raise PatternError(
                f"sets and alternatives are not part of this language: write \\{chr(char)} for the"
                " character itself, or list several globs"
            )
        tokens.append(_Wild.ONE if char == ord("?") else char)
        at += 1
    return tuple(tokens)


def _escaped(part: bytes, at: int) -> tuple[int, int]:
    """The byte that an escape stands for, and where the text goes on."""
    if at < len(part) and part[at] in _ESCAPABLE:
        return part[at], at + 1
    digits = part[at + 1 : at + 3]
    if part[at : at + 1] == b"x" and len(digits) == 2 and all(d in _HEX for d in digits):
        byte = int(digits, 16)
        if byte in (0, ord("/")):
            raise PatternError("an escape may not stand for / or NUL")
        return byte, at + 3
    raise PatternError("a backslash takes one of * ? [ ] { } \\ or xHH after it")


def _head(components: Sequence[_Component]) -> bytes:
    head = b""
    for component in components:
        if any(isinstance(token, _Wild) for token in component):
            break
        head += b"/" + bytes(token for token in component if isinstance(token, int))
    return head or b"/"


def _component_source(component: _Component) -> bytes:
    if all(token is _Wild.RUN for token in component):
        return rb"[^/]+"
    source = b""
    for token in component:
        if token is _Wild.ONE:
            source += _ONE
        elif token is _Wild.RUN:
            source += rb"[^/]*"
        elif token is _Wild.DEEP:
            source += rb".*"
        else:
            source += rb"\x%02x" % token
    return source
