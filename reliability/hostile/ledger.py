"""Ledgers, scalars and environments of an attacker: readers of their bytes, and what a hostile registry has of them."""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator

from hypothesis import strategies as st

from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome, error_signature, normalise
from mopsjobs.ledger.environment import encode_environment, environments_prefix, parse_environment
from mopsjobs.ledger.format import ChunkKey, chunk_key, encode_attempts, parse_attempts, parse_chunk_key
from mopsjobs.ledger.scalars import encode_scalars, extract_scalars, is_scalar, parse_scalars
from mopsjobs.registry.keys import NAMES_NAME, PACK
from mopsjobs.registry.keys import OUTPUT as OUTPUT_FORM
from mopsjobs.studies.packs import HEAD, MAGIC, digest_of, encode_pack, parse_index
from mopsjobs.utils.table_files import json_row
from reliability.hostile import values as hostile
from reliability.hostile.readers import READERS, Reader, plain, whole
from reliability.hostile.values import HALVES, NUMBERS, TEXTS
from reliability.trial import hold

JOB, RUN = "a", "ab"
START = 1772359200.0
ENVIRONMENT: dict[str, object] = {
    "version": 1, "python": "3.12.4", "implementation": "cpython", "platform": "linux-x86_64", "libc": "glibc 2.36",
    "mops_jobs": "0.1.0", "packages": {"numpy": "2.0.1", "Foo_Bar": ""},
}  # fmt: skip
OUTPUT: dict[str, object] = {"peak": 0.25, "day": 31, "fit": {"error": 1e-7, "name": "x"}, "is_good": True, "all": [1]}
CSV = b'a,b,"c d",\r\n1,0.5,"x, y",\r\n'


def attempt(task: int, text: str, outcome: Outcome = Outcome.FAILED) -> Attempt:
    """Return an attempt with a text in each place that has one."""
    error = None if outcome is Outcome.SUCCEEDED else AttemptError(text or "key", text or "E", text or None, text)
    return Attempt(task, 1, outcome, START + task, 1.5, 1.0, 0.5, 10**8, text or None, text or None, error, 10)


def _key(kind: str) -> ChunkKey:
    key = parse_chunk_key(chunk_key(JOB, 0, RUN, 0, kind))
    assert key is not None
    return key


_ATTEMPTS_KEY, _SCALARS_KEY = _key("attempts"), _key("scalars")
_ATTEMPTS = encode_attempts(JOB, 0, [attempt(0, "x"), attempt(3, "y", Outcome.SUCCEEDED), attempt(2, "x", Outcome.OOM)])
_SCALARS = (
    encode_scalars(JOB, 0, [(0, {"result.json/x": 1, "result.json/y": "t"}), (3, {"result.json/x": math.nan})]) or b""
)


def _packed(text: bytes) -> bytes:
    """Return the chunk of a text. What is packed already stays."""
    return text if text.startswith(b"\x1f\x8b") else gzip.compress(text, 1, mtime=0)


_PACK_KEY = PACK.key(job=JOB, shard=0, number="000000")
_INDEX = encode_pack(
    JOB, 0, [(OUTPUT_FORM.key(job=JOB, param="0" * 64, seed=seed, output=NAMES_NAME), b'["a"]') for seed in (1, 10, 9)]
)[HEAD.size :]
_HUGE = json.dumps({"version": 1, "job": JOB, "shard": 0, "names": [], "params": 10**300, "rows": 10**300}).encode()


def _attempts_chunk(value: bytes) -> None:
    for one in parse_attempts(_packed(value), _ATTEMPTS_KEY):
        whole(one)
        hold(0 <= one.task < 2**53 and one.attempt >= 1, f"an attempt {one.attempt} at task {one.task}")
        if one.error is not None:
            whole([normalise(one.error.message), error_signature(*one.error[1:])])


def _scalars_chunk(value: bytes) -> None:
    for task, scalars in parse_scalars(_packed(value), _SCALARS_KEY):
        hold(0 <= task < 2**53 and all(map(is_scalar, scalars.values())), f"scalars of task {task}: {scalars}")
        whole(json_row(list(scalars), list(scalars.values())))


def _outputs(value: bytes) -> None:
    """Check that a table reads of a chunk what a runner finds in outputs."""
    scalars = extract_scalars({"result.json": value, "result.csv": value, "a.csv": None, "_x.json": value})
    chunk = encode_scalars(JOB, 0, [(7, scalars)])
    hold(
        chunk is not None and repr(parse_scalars(chunk, _SCALARS_KEY)) == repr([(7, scalars)]),  # NaN differs from NaN
        "scalars come back otherwise",
    )


def _environment(value: bytes) -> None:
    environment = parse_environment(value)
    whole(environment.to_json())
    for text in (*environment[:-1], *environment.packages, *environment.packages.values()):
        plain(text or "")
    parse_environment(encode_environment(JOB, environment)[1])


def _pack(value: bytes) -> None:
    """Read the index of a pack, behind a head that fits it: only then it is looked into."""
    head = HEAD.pack(MAGIC, len(value), digest_of(value))
    index = parse_index(_PACK_KEY, head + value)
    for place, row in enumerate(index.rows()):
        key = OUTPUT_FORM.key(job=index.job_id, param=row.param_id, seed=row.seed, output=row.name)
        hold(OUTPUT_FORM.parse(key) is not None, f"a pack shows {key!r}")
        hold(index.place_of(*row[:3]) == place, "an output is found at another place")


def _large_packs() -> Iterator[tuple[str, bytes]]:
    rows = [(OUTPUT_FORM.key(job=JOB, param="0" * 64, seed=seed, output="a"), b"") for seed in range(200_000)]
    yield "rows", encode_pack(JOB, 0, rows)[HEAD.size :]
    yield "a text", struct.pack(">I", 2**24) + b'"' + b"x" * 2**24
    yield "counts", struct.pack(">I", len(_HUGE)) + _HUGE


# --- inputs of each --------------------------------------------------------------------------------------------------


def _texts(chunk: bytes) -> Callable[[st.DrawFn], bytes]:
    """Return what makes texts of chunks with one line spoilt."""
    lines = [json.loads(line) for line in gzip.decompress(chunk).splitlines()]

    def make(draw: st.DrawFn) -> bytes:
        place = draw(st.integers(0, len(lines) - 1))
        line = dict(lines[place])
        if "values" in line and draw(st.booleans()):
            spoilt = draw(st.one_of(hostile.values.map(json.dumps), st.sampled_from(NUMBERS)))
            line["values"] = ["spoilt", *line["values"][1:]]
            text = json.dumps(line).replace('"spoilt"', spoilt).encode("utf-8", "replace")
        else:
            text = draw(hostile.json_texts(line))
        whole_text = [json.dumps(one).encode() for one in lines]
        whole_text[place] = text
        return draw(hostile.spoilt_bytes(b"\n".join(whole_text) + b"\n"))

    return make


def _large_chunks() -> Iterator[tuple[str, bytes]]:
    """Yield texts that a few kilobytes of gzip hold, each with as many values as fit into the bound of a text."""
    size = 60 * 2**20
    head = json.dumps({"version": 1, "job_id": JOB, "shard": 0, "count": 0}).encode() + b"\n"
    column = head + b'{"column":"task","values":['
    yield "lines", b"\n" * size
    yield "objects in lines", b"{}\n" * (size // 3)
    yield "columns", head + b'{"column":"x","values":[]}\n' * (size // 27)
    yield "lists", column + b"[]," * (size // 3) + b"0]}\n"
    yield "lists of lists", column + (b"[" * 90 + b"]" * 90 + b",") * (size // 181) + b"0]}\n"
    yield "numbers", column + b"0.5," * (size // 4) + b"0]}\n"
    yield "a text", column + b'"' + b"x" * size + b'"]}\n'
    yield "an unknown version", b'{"version":' + b"9" * 4_000 + b"}\n"


def _large_outputs() -> Iterator[tuple[str, bytes]]:
    yield from hostile.large_json("x")
    yield "a row of a million cells", b"a," * 500_000 + b"b\n" + b"1," * 500_000 + b"2\n"
    yield "a million quotes", b'"' * 1_000_000
    yield "50,000 names in a row", b",".join(b"n%d" % n for n in range(50_000)) + b"\n" + b"1," * 49_999 + b"1\n"


def _csv_texts(draw: st.DrawFn) -> bytes:
    cells = st.one_of(hostile.texts, st.sampled_from(NUMBERS))
    rows = draw(st.lists(st.lists(cells, max_size=4).map(",".join), max_size=3))
    return draw(hostile.spoilt_bytes("\n".join(rows).encode("utf-8", "replace")))


LEDGER_READERS = (
    Reader(
        "ledger chunk", _attempts_chunk, st.composite(_texts(_ATTEMPTS))(), (gzip.decompress(_ATTEMPTS), _ATTEMPTS),
        _large_chunks,
    ),
    Reader(
        "scalars chunk", _scalars_chunk, st.composite(_texts(_SCALARS))(), (gzip.decompress(_SCALARS), _SCALARS),
        _large_chunks,
    ),
    Reader(
        "outputs of a task", _outputs, st.one_of(hostile.json_texts(OUTPUT), st.composite(_csv_texts)()),
        (json.dumps(OUTPUT).encode(), CSV), _large_outputs,
    ),
    Reader(
        "environment", _environment, hostile.json_texts(ENVIRONMENT), (json.dumps(ENVIRONMENT).encode(),),
        lambda: hostile.large_json("packages"),
    ),
)  # fmt: skip

PACK_READER = Reader(
    "index of a pack", _pack, st.one_of(hostile.spoilt_bytes(_INDEX), st.binary()), (_INDEX,), _large_packs
)

ALL_READERS = (*READERS, *LEDGER_READERS, PACK_READER)

BY_NAME = {reader.name: reader for reader in ALL_READERS}


# --- in a registry ---------------------------------------------------------------------------------------------------


def planted(job_id: str, text: str) -> Iterator[tuple[str, bytes]]:
    """Yield keys and values of a job with a text in its ledger, its scalars and its environment. It has six tasks."""
    attempts = [attempt(number, text) for number in range(4)]
    yield chunk_key(job_id, 0, RUN, 0), encode_attempts(job_id, 0, [*attempts, attempt(4, text, Outcome.SUCCEEDED)])
    step = text.replace("~", "~0").replace("/", "~1")
    names = {f"result.json/{step}": text, "result.json/status": text, "result.json/x": 1}
    scalars = encode_scalars(job_id, 0, [(4, names)])
    yield chunk_key(job_id, 0, RUN, 0, "scalars"), scalars or b""
    note = {**dict.fromkeys(ENVIRONMENT, text), "version": 1, "packages": {text: text}}
    yield f"{environments_prefix(job_id)}{'0' * 16}.json", json.dumps(note).encode()


def spoilt(job_id: str) -> dict[str, bytes]:
    """Return chunks of a job that cannot be read, or not whole, by their keys. Each is refused for one thing."""
    sound = gzip.decompress(encode_attempts(job_id, 0, [attempt(0, "x"), attempt(1, "y")]))

    def changed(old: bytes, new: bytes) -> bytes:
        assert old in sound, old
        return gzip.compress(sound.replace(old, new), mtime=0)

    bad = {
        "nothing": b"",
        "plain": sound,
        "cut": gzip.compress(sound)[:-9],
        "zlib": zlib.compress(sound),
        "a bomb": hostile.gzip_bomb(b"", 2**30),
        "lines": gzip.compress(b"\n" * 2**25),
        "another job": changed(f'"job_id":"{job_id}"'.encode(), b'"job_id":"other"'),
        "another shard": changed(b'"shard":0', b'"shard":1'),
        "a newer version": changed(b'"version":1', b'"version":2'),
        "another count": changed(b'"count":2', b'"count":3'),
        "a task before": changed(b'"task","values":[0,1]', b'"task","values":[-1,1]'),
        "a task beyond": changed(b'"task","values":[0,1]', b'"task","values":[0,1000000]'),
        "a task beyond numbers": changed(b'"task","values":[0,1]', b'"task","values":[0,9007199254740993]'),
        "no number": changed(b'"max_rss_kib","values":[97656,', b'"max_rss_kib","values":[NaN,'),
        "an endless number": changed(b'"max_rss_kib","values":[97656,', b'"max_rss_kib","values":[1e400,'),
        "digits": changed(b'"max_rss_kib","values":[97656,', b'"max_rss_kib","values":[' + b"9" * 5000 + b","),
        "an unknown outcome": changed(b'"failed"', b'"exploded"'),
        "a list of an outcome": changed(b'"failed"', b"[]"),
        "a number of a message": changed(b'"message","values":["x"', b'"message","values":[5'),
        "a column less": gzip.compress(b"\n".join(sound.splitlines()[:-1])),
    }
    return {chunk_key(job_id, 0, "bad", number): value for number, value in enumerate(bad.values())}


def odd(job_id: str) -> dict[str, bytes]:
    """Return chunks of a job that are strange, but can be read."""
    sound = encode_attempts(job_id, 0, [attempt(0, "x"), attempt(1, "y")])
    half = gzip.decompress(sound).replace(b'"x"', json.dumps(HALVES[0]).encode())
    future = [attempt(2, "x")._replace(started_at=9e12, seconds=9e12), attempt(3, "x")._replace(started_at=None)]
    return {
        chunk_key(job_id, 0, "add", 0): sound,
        chunk_key(job_id, 0, "add", 10**12 - 1): sound,
        chunk_key(job_id, 999_999, "add", 0): encode_attempts(job_id, 999_999, [attempt(5, "x" * 10**6)]),
        chunk_key(job_id, 0, "bee", 0): gzip.compress(half),
        chunk_key(job_id, 0, "bee", 1): encode_attempts(job_id, 0, future),
    }


def names_of_chunks(job_id: str) -> Iterator[str]:
    """Yield keys beside the chunks of a job that are not those of chunks."""
    for text in TEXTS:
        for key in (f"ledger/{job_id}/{text}", f"ledger/{job_id}/0.{text}-000000.attempts.gz"):
            if parse_chunk_key(key) is None:
                yield key
        yield f"environments/{job_id}/{text}"


COMMANDS = {
    "text": (
        "tasks JOB", "tasks JOB --status failed --sort -seconds --limit 3", "failures JOB",
        "status JOB",  # with a line about its failures by now
        "logs JOB --failed", "provenance JOB",
    ),
    "json": ("tasks JOB --json", "failures JOB --json", "provenance JOB --json"),
    "jsonl": ("tasks JOB --jsonl",),
    "tsv": ("tasks JOB --tsv",),
    "csv": (
        "results JOB --table -", "results JOB --table - --by set",
        "query --csv \"SELECT * FROM tasks WHERE job_id = 'JOB'\"",
        "query --csv \"SELECT * FROM attempts WHERE job_id = 'JOB'\"",
        "query --csv \"SELECT * FROM ledger_problems WHERE job_id = 'JOB'\"",
    ),
}  # fmt: skip
"""The commands that show them, by what their output is said to be."""
