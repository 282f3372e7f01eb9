"""A diff turned round, as `git diff -R` has it: what an undo did to the sources.

It knows the form that `patch` writes, no other.
"""

from typing import Any

_KINDS = {"added": "deleted", "deleted": "added"}


def reverse_files(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The objects of `show`, turned round."""
    return [_reverse_file(one) for one in files]


def _reverse_file(one: dict[str, Any]) -> dict[str, Any]:
    renamed = one["from"] is not None
    return {
        "path": one["from"] if renamed else one["path"],
        "kind": _KINDS.get(one["kind"], one["kind"]),
        "from": one["path"] if renamed else None,
        "binary": one["binary"],
        "hunks": [
            {
                "id": hunk["id"],
                "header": _header(hunk["header"].encode()).decode(),
                "lines": [
                    line.decode() for line in _lines([line.encode() for line in hunk["lines"]])
                ],
            }
            for hunk in one["hunks"]
        ],
    }


def _header(header: bytes) -> bytes:
    """`@@ -1,2 +3,4 @@ …` with its sides changed."""
    start, ranges, rest = header.split(b"@@", 2)
    old, new = ranges.split()
    return start + b"@@ -" + new[1:] + b" +" + old[1:] + b" @@" + rest


def _lines(lines: list[bytes]) -> list[bytes]:
    """Lines of a hunk with their sides changed; what goes stands before what comes."""
    found: list[bytes] = []
    going: list[bytes] = []
    coming: list[bytes] = []
    last = found
    for line in lines:
        mark = line[:1]
        if mark == b"-":
            last = coming
            coming.append(b"+" + line[1:])
        elif mark == b"+":
            last = going
            going.append(b"-" + line[1:])
        elif mark == b"\\":
            last.append(line)  # no newline at the end of the line before
        else:
            found += [*going, *coming, line]
            going, coming, last = [], [], found
    return [*found, *going, *coming]


def reverse_patch(patch: bytes) -> bytes:
    """A patch turned round."""
    if not patch:
        return b""
    lines = patch.removesuffix(b"\n").split(b"\n")
    files: list[list[bytes]] = []
    inside = [0, 0]  # lines of the hunk that are still to come, old and new
    for line in lines:
        if inside == [0, 0] and line.startswith(b"diff --git "):
            files.append([])
        files[-1].append(line)
        if inside != [0, 0]:
            inside[0] -= line[:1] in (b"-", b" ")
            inside[1] -= line[:1] in (b"+", b" ")
        elif line.startswith(b"@@ "):
            inside = [int(part.partition(b",")[2] or 1) for part in line.split(b"@@")[1].split()]
    return b"".join(line + b"\n" for file in files for line in _reverse_lines(file))


def _reverse_lines(file: list[bytes]) -> list[bytes]:
    """One file's lines."""
    at = next((n for n, line in enumerate(file) if line.startswith(b"@@ ")), len(file))
    found = _reverse_head(file[:at])
    while at < len(file):
        end = at + 1
        left = [int(part.partition(b",")[2] or 1) for part in file[at].split(b"@@")[1].split()]
        while end < len(file) and (left != [0, 0] or file[end][:1] == b"\\"):
            left[0] -= file[end][:1] in (b"-", b" ")
            left[1] -= file[end][:1] in (b"+", b" ")
            end += 1
        found += [_header(file[at]), *_lines(file[at + 1 : end])]
        at = end
    return found


def _reverse_head(head: list[bytes]) -> list[bytes]:
    """The lines before the hunks."""
    values = {}
    for line in head:
        for key in (b"old mode ", b"new mode ", b"rename from ", b"rename to ", b"--- ", b"+++ "):
            if line.startswith(key):
                values[key] = line.removeprefix(key)
    found = []
    for line in head:
        if line.startswith(b"diff --git ") and b"rename to " in values:
            old, new = values[b"rename to "], values[b"rename from "]
            line = b"diff --git " + _prefixed(old, b"a/") + b" " + _prefixed(new, b"b/")
        elif line.startswith(b"new file mode "):
            line = b"deleted" + line.removeprefix(b"new")
        elif line.startswith(b"deleted file mode "):
            line = b"new" + line.removeprefix(b"deleted")
        elif line.startswith(b"Binary files ") and b" and /dev/null " in line:
            name = line[len(b"Binary files ") : line.index(b" and /dev/null ")]
            line = b"Binary files /dev/null and " + _side(name, b"b/") + b" differ"
        elif line.startswith(b"Binary files /dev/null and "):
            name = line[len(b"Binary files /dev/null and ") : -len(b" differ")]
            line = b"Binary files " + _side(name, b"a/") + b" and /dev/null differ"
        else:
            for key, other in _OTHER.items():
                if line.startswith(key):
                    line = key + _side(values[other], _PREFIXES.get(key, b""))
                    break
        found.append(line)
    return found


_OTHER = {
    b"old mode ": b"new mode ", b"new mode ": b"old mode ",
    b"rename from ": b"rename to ", b"rename to ": b"rename from ",
    b"--- ": b"+++ ", b"+++ ": b"--- ",
}  # fmt: skip
_PREFIXES = {b"--- ": b"a/", b"+++ ": b"b/"}


def _prefixed(name: bytes, prefix: bytes) -> bytes:
    return b'"' + prefix + name[1:] if name.startswith(b'"') else prefix + name


def _side(name: bytes, prefix: bytes) -> bytes:
    """A name that has a prefix, `a/` or `b/`, with this one; `/dev/null` and no prefix as it is."""
    if not prefix or name.startswith(b"/dev/null"):
        return name
    quoted = name.startswith(b'"')
    return _prefixed(b'"' + name[3:] if quoted else name[2:], prefix)
