"""Hostile values, made in code: texts, JSON, YAML, TOML and archives of an attacker."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

TEXTS = (
    "\x1b[41mred", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\link", "\x9b41mred", "\x9d0;title\x9c", "\x90q\x9c",
    "a\x00b", "\x7f", "\b\b\bover", "line\r\nfeed", "line\nfeed", "back\rover", "tab\tbed", "\x0b\x0c\x1c\x85",
    "\u202egnp.exe", "\u2066iso\u2069", "\u200e\u200f\u061c", "zero\u200bwidth", "\u200d\ufeff\u2060", "\u2028\u2029",
    "\U000e0041\U000e007f", "soft\u00adhyphen", "\ufff9a\ufffa", "\ue000", "\ufdd0", "a\u0300\u0301" * 20,
    "=1+1", "+1", "-1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1", "\u200b=1", "\x00=1", " =1",
    "=cmd|' /C calc'!A0", '=HYPERLINK("http://evil","x")', "1,2;3|4", '"quoted"', "'",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"'><b>", "{{ 7 * 7 }}", "{% raw %}", "&lt;", "]]>",
    "$(id)", "`id`", "; id", "| id", "$IFS", "*", "~", "!", "\\", "%s%n", "{0}", "../../etc/passwd", "..", ".", "/",
    "C:\\x", "con", "--help", "-rf", "@latest", "null", "true", "NaN", "1e400", "0x10", "", " ", "\xa0",
)  # fmt: skip
"""For terminals, spreadsheets, browsers, shells and paths."""

HALVES = ("\ud800", "\udfff", "a\udc80b")
"""Halves of surrogate pairs, which JSON can say and UTF-8 cannot."""

NUMBERS = (
    "NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "-0", "-0.0", "1e22", "9007199254740993", "0.1e1",
    "18446744073709551616", "9" * 4300, "9" * 4301, "-" + "9" * 5000, "1." + "9" * 5000, "1E5", "01", "1.", ".5", "+1",
    "0x10", "2.0", "-1", "1e-7",
)  # fmt: skip
"""Number literals that are none, that no type holds, or that readers take differently."""

ODD = ("9" * 400, '"text"', "-1", "[[1]]", *NUMBERS, "true", "null", "{}", "[]", '""', '{"x":[null]}')
"""JSON of each type, and number literals."""

TIMES = (
    "0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "9999-12-31T23:59:59.999999999Z", "2026-06-30T23:59:60Z", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z",
    "2026-01-01T24:00:00Z", "2026-01-01", "20260101T000000Z", "2026-W01-1", "2026-01-01T00:00:00+99:99",
    "2026-01-01 00:00:00", "2026-01-01T00:00:00," + "1" * 50, "2026-01-01T00:00:00." + "1" * 1000 + "Z",
    "\u0662\u0660\u0662\u0666-01-01T00:00:00Z", "2026-01-01T00:00:00\u202eZ", "now", "1767225600", "-1",
)  # fmt: skip

texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=20), st.builds("".join, st.lists(st.sampled_from(TEXTS))))
"""Texts that UTF-8 can hold."""

_members = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), texts, st.sampled_from([*TIMES, *HALVES])
)
values = st.one_of(
    _members, st.lists(_members, max_size=3), st.dictionaries(st.sampled_from(TEXTS), _members, max_size=3)
)
"""JSON values as Python has them, NaN and halves of characters included."""


@st.composite
def json_texts(draw: st.DrawFn, valid: Mapping[str, object]) -> bytes:
    """Return a document like a valid one with one or two of its fields spoilt, as bytes; some are no longer JSON.

    Args:
        draw: of Hypothesis.
        valid: the document.
    """
    members = {name: json.dumps(value) for name, value in valid.items()}
    pairs = list(members.items())
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(members)))
        spoilt = draw(
            st.one_of(
                values.map(json.dumps),
                st.sampled_from(NUMBERS),
                st.sampled_from(TIMES).map(json.dumps),
                texts.map(json.dumps),
                st.integers(90, 110).map(lambda depth: "[" * depth + "]" * depth),
            )
        )
        how = draw(st.sampled_from(("replace", "add", "twice", "drop", "inside", "leaf")))
        if how == "leaf" and isinstance(valid[name], (dict, list)) and valid[name]:
            place = draw(st.sampled_from([*_places(valid[name])]))
            spoilt, how = _with(valid[name], place, spoilt), "replace"
        pairs = [pair for pair in pairs if how not in ("replace", "drop", "inside") or pair[0] != name]
        if how == "inside":
            around = draw(st.sampled_from(("[%s]", '{"x":%s}', '{"x":1,"x":%s}', "[%s,%s]")))
            pairs.append((name, around.replace("%s", spoilt)))
        elif how != "drop":
            pairs.append((draw(texts) if how == "add" else name, spoilt))
    text = "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in pairs) + "}"
    value = draw(st.sampled_from((b"", b"\xef\xbb\xbf"))) + text.encode()
    return draw(spoilt_bytes(value))


def _places(value: object) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of each value within lists and objects."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        yield (name,)
        yield from ((name, *rest) for rest in _places(member))


def spoilt_in_each_place(document: object, values: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield JSON that is like a document but for one place, where it has one of these texts; and the text."""
    for place in _places(document):
        for value in values:
            yield value, _with(document, place, value).encode() + b"\n"


def _with(value: Any, place: tuple[str | int, ...], text: str) -> str:
    """Return JSON of a value that has this text at a place."""
    if not place:
        return text
    members = value.items() if isinstance(value, dict) else enumerate(value)
    parts = {name: _with(one, place[1:], text) if name == place[0] else json.dumps(one) for name, one in members}
    if isinstance(value, list):
        return f"[{','.join(parts.values())}]"
    return f"{{{','.join(f'{json.dumps(name)}:{one}' for name, one in parts.items())}}}"


@st.composite
def spoilt_bytes(draw: st.DrawFn, value: bytes) -> bytes:
    """Return the bytes, now and then cut, doubled, with strange bytes in them, or in another encoding."""
    how = draw(st.sampled_from((*["as it is"] * 8, "cut", "insert", "twice", "utf-16")))
    place = draw(st.integers(0, len(value)))
    if how == "cut":
        return value[:place]
    if how == "insert":
        strange = draw(st.sampled_from((b"\x00", b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\n")))
        return value[:place] + strange + value[place:]
    if how == "twice":
        return value + value
    return value.decode("utf-8", "replace").encode("utf-16") if how == "utf-16" else value


# --- what is large ---------------------------------------------------------------------------------------------------


def large_json(member: str) -> Iterator[tuple[str, bytes]]:
    """Yield documents that are large or deep in one way each, named. `member` is a field with any value."""
    head = b'{"' + member.encode() + b'":'
    many = b",".join(b'"k%d":0' % (number % 50_000) for number in range(100_000))
    yield "100,000 lists in each other", head + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "100,000 objects in each other", head + b'{"a":' * 100_000 + b"0" + b"}" * 100_000 + b"}"
    yield "lists in each other without an end", b"[" * 1_000_000
    yield "a number of 100,000 digits", head + b"9" * 100_000 + b"}"
    yield "a fraction of 100,000 digits", head + b"0." + b"9" * 100_000 + b"}"
    yield "50,000 names twice", b"{" + many + b"}"
    yield "50,000 names twice, inside", head + b"{" + many + b"}}"
    yield "a name of 900,000 characters", b'{"' + b"n" * 900_000 + b'":0}'
    yield "a text of 100 MB", head + b'"' + b"x" * 100_000_000 + b'"}'
    yield "900,000 bytes that are not UTF-8", head + b'"' + b"\xff" * 900_000 + b'"}'
    yield "300,000 halves of characters", head + b'"' + b"\\ud800" * 150_000 + b'"}'
    yield "900,000 blanks", b" " * 900_000
    yield "300,000 empty lists", head + b"[" + b"[]," * 300_000 + b"[]]}"


def large_yaml() -> Iterator[tuple[str, bytes]]:
    """Yield YAML whose values are far more than its bytes, and other ways of keeping its reader busy."""

    def laughs(pattern: bytes) -> bytes:
        lines = [b"a0: &a0 " + (b"{x: 1}" if b"<<" in pattern else b"[x]")]
        lines += [pattern % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 13)]
        return b"\n".join([*lines, b"model: m:f", b"parameter_sets:", b"- x: *a12", b""])

    head = b"model: m:f\nparameter_sets:\n- x: "
    yield "a billion laughs", laughs(b"a%d: &a%d [%s]")
    yield "a billion laughs by merging", laughs(b"a%d: &a%d {<<: [%s]}")
    yield "100,000 lists in each other", head + b"[" * 100_000
    yield "100,000 indents", head + b"".join(b"\n" + b" " * min(n, 200) + b"- " for n in range(2, 5_000))
    yield "a list that holds itself", head + b"&a [*a]"
    yield "a number in base 60 of 100,000 places", head + b"1" + b":59" * 100_000
    yield "a hexadecimal number of 100,000 places", head + b"0x" + b"f" * 100_000
    yield "a text of 100 MB", head + b"x" * 100_000_000


def large_toml() -> Iterator[tuple[str, bytes]]:
    """Yield TOML that keeps its reader busy."""
    yield "100,000 lists in each other", b"color = " + b"[" * 100_000
    yield "3,000 lists in each other", b"color = " + b"[" * 3_000
    yield "a number of 5,000 digits", b"color = " + b"9" * 5_000
    yield "a name of 20,000 parts", b".".join([b"a"] * 20_000) + b" = 1"
    yield "a name of 4,000 parts", b".".join([b"a"] * 4_000) + b" = 1"
    yield "a text of 100 MB", b'color = "' + b"x" * 100_000_000 + b'"'


def large_names() -> Iterator[tuple[str, bytes]]:
    """Yield names of keys, by lines."""
    yield "a name of 100 MB", b"x" * 100_000_000
    yield "100,000 names", b"\n".join(b"job-%d" % n for n in range(100_000))


ZEROS = 64 * 2**20
"""Bytes of zeros in one piece of a bomb."""


def gzip_bomb(head: bytes, size: int) -> bytes:
    """Return a gzip file of `head` and `size` zeros: members one after the other, as gzip allows."""
    piece = gzip.compress(bytes(ZEROS), 9, mtime=0)
    return gzip.compress(head, mtime=0) + piece * (size // ZEROS)


def zlib_bomb(size: int) -> bytes:
    """Return a zlib stream of `size` zeros. Blocks after a full flush are independent, so one is repeated."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(ZEROS)) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * (size // ZEROS) + packer.flush()


def tar_header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> bytes:
    """Return the header of one member, as it is, whatever it says."""
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname, member.mode = size, kind, link, mode
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")  # which has no bound on sizes


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a tar.gz of these."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    """Return a member of an archive."""
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made
