"""The secret of every shipped rule's example, through a real mount, in whatever file it stands."""

import codecs
import os
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from driving import Grantfs

from policies.packs import builtin_packs

EXAMPLES = [
    (rule.id, example.text, example.secret)
    for pack in builtin_packs()
    for rule in pack.pack_rules
    for example in rule.examples.match
    if "secrets" in rule.profiles and example.secret is not None
]
NOISE = "a line of plain text that nobody minds, with 12 numbers and signs: {}[]()\n"
TIMES = {"small": 3, "over several pages": 400}

ENCODED: dict[str, Callable[[str], bytes]] = {
    "utf-8": str.encode,
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "utf-16": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16-be, no mark": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
}


def reads(path: Path, size: int, rng: random.Random) -> bytes:
    """The file by reads of random places, sizes and handles, put together."""
    edges = sorted({0, size, *(rng.randrange(size + 1) for _ in range(12))})
    spans = list(pairwise(edges))
    rng.shuffle(spans)
    data = bytearray(size)
    handles = [os.open(path, os.O_RDONLY) for _ in range(3)]
    try:
        for start, end in spans:
            data[start:end] = os.pread(rng.choice(handles), end - start, start)
    finally:
        for handle in handles:
            os.close(handle)
    return bytes(data)


@pytest.mark.parametrize(
    "length", ["small", pytest.param("over several pages", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "encoding",
    [one if one == "utf-8" else pytest.param(one, marks=pytest.mark.slow) for one in ENCODED],
)
def test_no_secret_is_in_any_byte_served(
    grantfs: Grantfs, source: Path, encoding: str, length: str
) -> None:
    rng = random.Random(f"{encoding}{length}")
    encode = ENCODED[encoding]
    written: dict[str, tuple[str, str, bytes]] = {}
    for number, (rule, text, secret) in enumerate(EXAMPLES):
        noise = NOISE * TIMES[length]
        body = encode(f"{noise}\n{text}\n{noise}")
        name = f"{number}.txt"
        (source / name).write_bytes(body)
        written[name] = rule, secret or "", body
    proj = grantfs.up(source) / "proj"
    for name, (rule, secret, body) in written.items():
        served = reads(proj / name, len(body), rng)
        assert len(served) == len(body)
        form = encode(secret).removeprefix(codecs.BOM_UTF16_LE).removeprefix(codecs.BOM_UTF32_LE)
        assert form not in served, rule
        assert served != body, rule
        changed = sum(a != b for a, b in zip(served, body, strict=True))
        assert changed <= len(encode(text_of(name))), rule


def text_of(name: str) -> str:
    return EXAMPLES[int(name.removesuffix(".txt"))][1]


def test_no_secret_is_in_a_file_of_many_blocks(grantfs: Grantfs, source: Path) -> None:
    """All of them in one file of 20 MB, read at random by three handles."""
    rng = random.Random(8)
    parts = []
    for _, text, _ in EXAMPLES:
        parts += [NOISE * rng.randrange(300, 700), "\n", text, "\n"]
    body = "".join(parts).encode()
    assert len(body) > 15 << 20
    (source / "all.txt").write_bytes(body)
    served = reads(grantfs.up(source) / "proj" / "all.txt", len(body), rng)
    assert [rule for rule, _, secret in EXAMPLES if (secret or "").encode() in served] == []
    assert NOISE.encode() in served
