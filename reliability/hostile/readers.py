"""The readers of what others have written, each as one function of bytes that checks what the reader promises.

A reader gives a value that can be shown and written again, or an error of the project with one sentence. Anything else
that comes out of `Reader.check` is a defect.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import json
import os
import stat
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import strategies as st

from mopsjobs import modelops
from mopsjobs.app.following.event_feed import event_text
from mopsjobs.app.run import config
from mopsjobs.bundles.extraction import extract
from mopsjobs.cache.queries.events import StoredEvent, public_event
from mopsjobs.cache.rows import MirroredJob, job_json_from_state, to_row
from mopsjobs.errors import MAX_MESSAGE, MopsJobsError
from mopsjobs.events.format import parse_chunk
from mopsjobs.registry import announcements
from mopsjobs.registry.calibration_counts import calibration_counts, calibration_text
from mopsjobs.registry.job_state import JobState
from mopsjobs.store.azure import listing
from mopsjobs.store.base import Entry, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.calibration import SpecError, parse_calibration
from mopsjobs.studies.journal import (
    Journal,
    Round,
    calibration_of,
    counts_of,
    decode_journal,
    encode_journal,
    parse_told,
)
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.rounds import END, encode_round, parse_round
from mopsjobs.studies.study_parser import load_study, read_document
from mopsjobs.utils.csv_safe import csv_text
from mopsjobs.utils.text import strip_control_characters
from reliability.hostile import values as hostile
from reliability.trial import PromiseBroken, hold

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

RECORD: dict[str, object] = {
    "job_id": "a", "status": "running", "created_at": "2026-03-01T10:00:00+00:00",
    "updated_at": "2026-03-01T11:00:00+00:00", "k8s_name": "k", "k8s_namespace": "n", "k8s_uid": "u", "tasks_total": 4,
    "tasks_completed": 1, "error_message": "e", "error_code": "E", "results_path": "r", "expected_outputs": ["o"],
    "verified_outputs": [], "missing_outputs": ["o"], "tasks_verified": 0,
    "validation_started_at": "2026-03-01T11:00:00", "validation_completed_at": None, "validation_attempts": 1,
    "last_validation_error": "l", "metadata": {"suspect": {"reason": "r", "since": "s"}}, "write_id": "w",
    "revision": 3, "transitions": [{"status": "running", "at": "2026-03-01T10:30:00Z", "id": "i"}], "tasks_failed": 0,
    "heartbeat_at": "2026-03-01T11:00:00Z", "shards": {"0": [1, 0, 0]}, "owner": "me", "labels": {"exp": "7"},
    "engine": "local", "parent_job_id": "b", "unknown": {"x": [1]},
}  # fmt: skip
EVENT: dict[str, object] = {
    "at": "2026-03-01T10:00:00Z", "job_id": "a", "kind": "log", "source": "s", "seq": 1, "text": "t", "task": 1,
    "error": {"type": "E", "message": "m"}, "count": 2, "status": "running", "tasks_total": 1,
}  # fmt: skip
STUDY: dict[str, object] = {
    "model": "m:f", "scenario": "baseline", "parameter_sets": [{"params": {"x": 1}, "seed": 2}, {"y": [1.5, "z"]}],
    "sampling_method": "grid", "n_replicates": 3, "outputs": ["o"], "targets": ["t"], "reduce": "m:f",
    "metadata": {"k": "v"},
}  # fmt: skip
MANIFEST: dict[str, object] = {
    "version": 1, "job_id": "a", "bundle": "sha256:" + "0" * 64, "study": STUDY, "only": [0, 2],
    "parent_job_id": "b", "engine": "local", "owner": "me", "labels": {"exp": "7"},
}  # fmt: skip
CALIBRATION: dict[str, object] = {
    "model": "m:f", "n_replicates": 2, "outputs": ["o"],
    "parameters": {"x": {"uniform": [0, 2]}, "k": {"choice": [1, "a"]}},
    "fixed": {"y": 1}, "objective": {"loss": {"observed": 1.5, "sd": 2}}, "rounds": 3, "sets_per_round": 2,
    "sampler": "random", "options": {}, "seed": 4, "stop_below": 0.1, "metadata": {"k": "v"},
}  # fmt: skip
ROUND: dict[str, object] = {"version": 1, "sets": [{"params": {"x": 1.5, "k": "a", "y": 1}}, {"params": {"x": 1}}]}
TOLD: dict[str, object] = {
    "version": 1,
    "results": [{"values": [0.5], "n": 2, "half_width": 0.25}, {"values": None, "n": 1, "error": "ValueError"}],
}
GROWING: dict[str, object] = {
    **MANIFEST, "only": None, "study": {**STUDY, "parameter_sets": [], "reduce": None}, "grows": {"idle": 60},
    "calibration": {"spec": CALIBRATION, "extends": "b"},
}  # fmt: skip
CONFIG = b'registry = "sqlite:jobs.db"\ncache = "cache/c.db"\ncolor = "never"\nstale_after = "15m"\n'
YAML = (
    b"# a comment\nmodel: m:f\nscenario: 'b'\nparameter_sets:\n- &a {x: 0x10, y: 0o17, w: !!float '1'}\n"
    b"- {<<: *a, x: 2}\n- {params: {x: .5}, seed: 1}\n- x: |\n    text\nn_replicates: 2\noutputs: [o]\n"
)


@dataclass(frozen=True)
class Reader:
    """A reader: what it is tried with, and what must hold of each input."""

    name: str
    read: Callable[[bytes], None]
    """Reads and checks what was read; an error of the project is as good."""
    inputs: st.SearchStrategy[bytes]
    """Hypothesis' way of making inputs."""
    seeds: tuple[bytes, ...]
    """Sound inputs, which have to be taken."""
    large: Callable[[], Iterator[tuple[str, bytes]]] = lambda: iter(())
    """Inputs that are large in one way each, by name."""

    @property
    def document(self) -> object:
        """Return its first sound input as JSON has it; None if it reads something else."""
        try:
            return json.loads(self.seeds[0])
        except ValueError:
            return None

    def check(self, value: bytes) -> bool:
        """Read the bytes; whether they were taken.

        Raises:
            PromiseBroken: the error says nothing, or too much.
        """
        try:
            self.read(value)
        except MopsJobsError as error:
            said = strip_control_characters(str(error))
            if not said.strip() or len(str(error)) > MAX_MESSAGE + 3:
                raise PromiseBroken(f"{self.name}: {type(error).__name__} says {said[:200]!r}") from error
            return False
        return True


def whole(value: object) -> None:
    """Check that a value that scripts get is strict JSON, and UTF-8 can hold its texts."""
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def plain(text: str) -> None:
    """Check that a text that is shown has nothing in it that a terminal obeys."""
    hold(text.isprintable(), f"shown as {text!r}")


# --- the readers -----------------------------------------------------------------------------------------------------


def _record(value: bytes) -> None:
    state = JobState.from_json(value)
    written = state.to_json()  # without empty fields of mops-jobs
    hold(JobState.from_json(written).to_json() == written, "a record that was written again reads otherwise")
    whole(job_json_from_state(state, now=NOW.timestamp()))
    row = to_row("jobs/a/state.json", "a", value, VersionToken("1"), 2)
    if isinstance(row, MirroredJob):
        hold(row.row.key == "jobs/a/state.json", "the row of another key")
        _cells(list(job_json_from_state(state, now=NOW.timestamp()).values()))


def _cells(row: list[object]) -> None:
    """Check that no cell of CSV begins a formula, whatever a spreadsheet trims, and that a reader gets one row."""
    text = csv_text([row])
    hold(all(char.isprintable() or char == "\n" for char in text), f"CSV with control characters: {text!r}")
    back = list(csv.reader(io.StringIO(text)))
    hold(len(back) == 1 and len(back[0]) == len(row), f"{len(back)} rows of CSV from one")
    for cell, value in zip(back[0], row, strict=True):
        is_number = isinstance(value, (int, float))
        hold(is_number or not cell.lstrip().startswith(tuple("=+-@＝＋－＠")), f"a formula: {cell!r}")  # noqa: RUF001


def _document(value: bytes) -> None:
    store = InMemoryVersionedStore()
    store.create_if_absent("k", value)
    whole(modelops.update_with_retry(store, "k", lambda document: document))


def _chunk(value: bytes) -> None:
    for event in parse_chunk(value, job_id="a"):
        whole(public_event("0" * 12, StoredEvent(1, event)))
        plain("".join(strip_control_characters(piece) for piece in event_text(event)))


def _study(value: bytes, source: str) -> None:
    study = load_study(value, source)
    whole(study.to_dict())
    for task in itertools.islice(study.tasks(), 20):
        whole([task.number, task.param_id, task.seed, dict(task.params)])
    again = load_study(json.dumps(study.to_dict()).encode(), "again.json")
    hold(again.tasks_total == study.tasks_total, "a study that was written again has other tasks")


def _study_json(value: bytes) -> None:
    _study(value, "s.json")


def _study_yaml(value: bytes) -> None:
    _study(value, "s.yaml")


def _manifest(value: bytes) -> None:
    manifest = Manifest.from_json(value, key="jobs/a/manifest.json")
    whole(manifest.record_fields())
    again = Manifest.from_json(manifest.to_json())
    hold(again.only == manifest.only and again.job_id == manifest.job_id, "a manifest written again reads otherwise")
    hold(again.grows == manifest.grows, "a manifest written again waits for another time")
    if (calibration := calibration_of(manifest)) is not None:
        whole(calibration.to_dict())
    if manifest.tasks_total <= 10_000:
        store = InMemoryVersionedStore()
        hold(find_complete_tasks(store, manifest).count == 0, "tasks complete without outputs")
        hold(len(list(manifest.tasks())) == manifest.tasks_total, "a manifest with tasks that its study has not")


def _calibration(value: bytes) -> None:
    calibration = parse_calibration(read_document(value, "c.json", SpecError))
    whole(calibration.to_dict())
    again = parse_calibration(calibration.to_dict())
    hold(again.to_dict() == calibration.to_dict(), "a calibration written again reads otherwise")


def _round(value: bytes) -> None:
    sets = parse_round(value, "r")
    if sets is not None:
        again = encode_round(sets)
        hold(encode_round(parse_round(again, "r") or ()) == again, "a round written again reads otherwise")


def _told(value: bytes) -> None:
    """Check what a journal with it says, and that its record is told as it is."""
    told = parse_told(value, "t").results
    sets = tuple({"x": number, "k": "a"} for number in range(len(told)))
    journal = Journal(parse_calibration(CALIBRATION), (Round("a", 1, sets, told),))
    again = decode_journal(encode_journal(journal))
    whole(counts := counts_of(again))
    shown = calibration_counts({"calibration": counts})
    hold(shown == counts, f"a record has {counts}, and is shown as {shown}")
    plain(strip_control_characters(calibration_text(counts)))


def _names(value: bytes) -> None:
    """Check what a task says of the names of its outputs."""
    document = {**MANIFEST, "only": None, "study": {"model": "m", "parameter_sets": [{"params": {}, "seed": 1}]}}
    manifest = Manifest.from_json(json.dumps(document).encode())
    task = next(manifest.study.tasks())
    store = InMemoryVersionedStore()
    store.create_if_absent(f"results/a/{task.param_id}/{task.seed}/_outputs.json", value)
    find_complete_tasks(store, manifest)


def _config(value: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, config.PROJECT_FILE).write_bytes(value)
        settings = config.load({}, {"HOME": directory}, directory)
        for setting in settings.by_name().values():
            plain(setting.value)


def _packed(value: bytes) -> None:
    """Check the value that metadata of Azure hold, said to be so long as it says itself."""
    for size in (0, 1, 100, listing.MAX_INLINE_BYTES, 10 * 2**30):
        md5 = base64.b64encode(hashlib.md5(b"x" * 100, usedforsecurity=False).digest()).decode()
        found = listing.unpack(value.decode("latin-1"), size, md5)
        hold(found in (None, b"x" * 100), "a value that is not that of the blob")


class _Listing(InMemoryVersionedStore):
    def __init__(self, keys: list[str]) -> None:
        super().__init__()
        self._names = keys

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        return iter([prefix + name for name in self._names])

    def scan(self, prefix: str = "") -> Iterator[Entry]:
        raise NotImplementedError


def _announcements(value: bytes) -> None:
    names = value.decode("utf-8", "surrogateescape").split("\n")
    for name in announcements.announced_jobs(_Listing(names), NOW, NOW) or ():
        plain(name)
        hold(not {"", ".", ".."} & set(name.split("/")), f"announced: {name!r}")


def _bundle(value: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        outside = Path(directory, "outside")
        outside.mkdir()
        root = Path(directory, "root")
        root.mkdir()
        refused = None
        try:
            extract(value, str(root))
        except MopsJobsError as error:
            refused = error
        is_alone = sorted(os.listdir(directory)) == ["outside", "root"] and not os.listdir(outside)
        hold(is_alone, "a bundle has written outside of its directory")
        for place, folders, files in os.walk(root):
            for name in (*folders, *files):
                _inside(Path(place, name))
    if refused is not None:
        raise refused


def _inside(path: Path) -> None:
    mode = path.lstat().st_mode
    hold(stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), f"{path.name!r} is a device or pipe")
    if not stat.S_ISLNK(mode):
        hold(mode & 0o7077 == 0, f"{path.name!r} has mode {mode:o}")
        hold(path.lstat().st_nlink == 1 or stat.S_ISDIR(mode), f"{path.name!r} is a hard link")


# --- inputs of each --------------------------------------------------------------------------------------------------


def _lines(draw: st.DrawFn) -> bytes:
    lines = draw(st.lists(hostile.json_texts(EVENT), min_size=1, max_size=3))
    return b"\n".join(lines) + draw(st.sampled_from((b"\n", b"\n", b"\n", b"", b"\r\n", b"\n\n")))


_PATHS = st.one_of(
    hostile.texts,
    st.lists(st.sampled_from(("a", "A", "..", ".", "", "b", "dir")), max_size=4).map("/".join),
    st.sampled_from(("/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a" * 300, "x/" * 200, "//x", "a/")),
)
_KINDS = st.sampled_from([bytes([kind]) for kind in b"0000000055522121234567SLKxgX"])


def _archives(draw: st.DrawFn) -> bytes:
    members = [
        (hostile.member(draw(_PATHS), draw(_KINDS), draw(_PATHS), draw(st.sampled_from((0o644, 0o4755, 0o7777, 0)))),
         draw(st.binary(max_size=20)))
        for _ in range(draw(st.integers(1, 5)))
    ]  # fmt: skip
    try:
        return draw(hostile.spoilt_bytes(hostile.archive(*members)))
    except (ValueError, OverflowError):  # tarfile refuses to write it, such as a name with half a character
        return b""


_SCALARS = (*hostile.NUMBERS, *hostile.TIMES)
_TAGS = ("int", "float", "bool", "timestamp", "binary", "set", "omap", "pairs", "null", "str", "seq", "map")
_MISFITS = ('""', "_", "x", "[1]", "{a: b}", "-", "0b", "0x", "2026-13-01", "&a [*a]", "1:99")
_YAML_PLACES = ("- x: %s", "- %s", "- ? %s\n  : 1", "- <<: %s", "- {params: {x: %s}}")
_TOML_NAMES = ("registry", "cache", "color", "stale_after", "other", "a.b", '"\\u0000"', "[table]")


def _tomls(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(_TOML_NAMES))
    as_json = st.one_of(hostile.texts, hostile.values).map(json.dumps)
    value = draw(st.one_of(as_json, st.sampled_from(_SCALARS)))
    text = CONFIG if draw(st.booleans()) else f"{name} = {value}\n".encode("utf-8", "replace")
    return draw(hostile.spoilt_bytes(text))


def _yamls(draw: st.DrawFn) -> bytes:
    tagged = st.builds("!!{} {}".format, st.sampled_from(_TAGS), st.sampled_from(_MISFITS))
    value = draw(st.one_of(hostile.values.map(json.dumps), st.sampled_from(_SCALARS), tagged))
    text = draw(st.sampled_from(_YAML_PLACES)).replace("%s", value)
    return draw(hostile.spoilt_bytes(f"model: m\nparameter_sets:\n{text}\n".encode("utf-8", "replace")))


def _packings(draw: st.DrawFn) -> bytes:
    value = draw(st.sampled_from((b"", b"x" * 100, b"x" * 99, bytes(10**6), b"y" * 100)))
    packed = base64.b64encode(zlib.compress(value))
    return draw(hostile.spoilt_bytes(packed))


def _json(document: dict[str, object]) -> bytes:
    return json.dumps(document).encode()


def _large(member: str, end: bytes = b"") -> Callable[[], Iterator[tuple[str, bytes]]]:
    return lambda: ((name, value + end) for name, value in hostile.large_json(member))


_BUNDLE = hostile.archive((hostile.member("a/b"), b"x"), (hostile.member("l", tarfile.SYMTYPE, "a/b"), b""))
_ANNOUNCED = st.lists(hostile.texts).map(lambda names: "\n".join(names).encode())

READERS = (
    Reader("record", _record, hostile.json_texts(RECORD), (_json(RECORD),), _large("metadata")),
    Reader("document", _document, hostile.json_texts(RECORD), (_json(RECORD),), _large("x")),
    Reader("event chunk", _chunk, st.composite(_lines)(), (_json(EVENT) + b"\n",), _large("text", b"\n")),
    Reader("bundle", _bundle, st.composite(_archives)(), (_BUNDLE,)),
    Reader("study", _study_json, hostile.json_texts(STUDY), (_json(STUDY),), _large("metadata")),
    Reader("study in YAML", _study_yaml, st.composite(_yamls)(), (YAML,), hostile.large_yaml),
    Reader("config", _config, st.composite(_tomls)(), (CONFIG,), hostile.large_toml),
    Reader("manifest", _manifest, hostile.json_texts(MANIFEST), (_json(MANIFEST),), _large("study")),
    Reader("growing manifest", _manifest, hostile.json_texts(GROWING), (_json(GROWING),)),
    Reader("calibration", _calibration, hostile.json_texts(CALIBRATION), (_json(CALIBRATION),), _large("options")),
    Reader("round", _round, hostile.json_texts(ROUND), (_json(ROUND), END), _large("sets")),
    Reader("told round", _told, hostile.json_texts(TOLD), (_json(TOLD),), _large("results")),
    Reader("names of outputs", _names, hostile.json_texts({"x": 1}), (b'["a"]',), _large("x")),
    Reader("packed value", _packed, st.composite(_packings)(), (base64.b64encode(zlib.compress(b"x" * 100)),)),
    Reader("announcements", _announcements, _ANNOUNCED, (b"a\nb/c\n",), hostile.large_names),
)
"""The seeds are what an honest writer writes. `ledger.py` has the readers of ledgers."""
