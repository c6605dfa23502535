"""A registry full of hostile records, written as a foreign program would, and every reading command over it.

The promises:

- The bad ones are reported by key and reason and stop no command.
- Output, to a terminal or into a pipe, has no character that a terminal obeys or that turns the writing direction.
- JSON, CSV and Prometheus' text are well-formed.
- What a shell completes, it takes as it is.
- The pages have none of the markup.
"""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest import mock

from prometheus_client.parser import text_string_to_metric_families

import mops_jobs
from mopsjobs.errors import MopsJobsError
from mopsjobs.registry import calibration_counts, precision_counts
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.notes import (
    CALIBRATION,
    GROWS,
    LABEL_HISTORY,
    NOTE_HISTORY,
    OWN_WRITE,
    PRECISION,
    STOP_BY,
    SUSPECT,
    WAITS_FOR,
)
from mopsjobs.registry.status import SWEEP
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from reliability.hostile import ledger
from reliability.hostile.readers import EVENT, MANIFEST, RECORD
from reliability.hostile.values import HALVES, NUMBERS, TEXTS, TIMES
from reliability.trial import Figure, Trial, hold
from support.cli import Ran
from support.terminal import TerminalStream

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOUND = "sound"
EXPECTED_CODES = (0, 3, 6, 7, 8)
"""Done, no such job, refused, partly done, not finished. 2 would say that we asked badly, 1 that something crashed."""

_OUR_STYLES = re.compile(r"\x1b\[(?:0|1|2|3[1-6])m|\x1b\[H\x1b\[2J")
"""What a terminal gets from us on purpose. None of the hostile texts holds one of these."""

_MARKUP = re.compile(r"<script>alert|<img src=x|'><b>", re.ASCII)


class Command:
    """The command over the registry in a directory, in this process."""

    def __init__(self, directory: Path, **env: str) -> None:
        self.env = {
            "HOME": str(directory),
            "TERM": "xterm",
            "MOPS_JOBS_REGISTRY": f"sqlite://{directory}/registry.db",
            "MOPS_JOBS_CACHE": str(directory / "cache.db"),
            **env,
        }

    def run(self, *argv: str, terminal: bool = False) -> Ran:
        """Return one run of it."""
        out, err = (TerminalStream() if terminal else io.StringIO() for _ in range(2))
        no_line = mock.patch("mopsjobs.console.progress_line.DELAY_SECONDS", 1e9)  # of work that a busy machine slows
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), no_line:
            code = mops_jobs.main(list(argv), env=self.env, now=lambda: NOW, sleep=_interrupt)
        return Ran(code, out.getvalue(), err.getvalue())


class Registry(Command):
    """Such a registry in a directory, and the command over it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.good: set[str] = set()
        self.bad: set[str] = set()
        self._objects: dict[str, bytes] = {}
        self._fill()
        path = directory / "registry.db"
        with contextlib.closing(SQLiteVersionedStore(path)) as store:
            store.create_if_absent("made", b"")
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            # Not by the store, which would refuse some of the keys: other programs do not ask.
            connection.executemany(
                "INSERT INTO objects VALUES (?, ?, ?)",
                [(key, value, number) for number, (key, value) in enumerate(self._objects.items(), 2)],
            )

    @property
    def size(self) -> int:
        """Return how many keys there are."""
        return len(self._objects)

    @property
    def records(self) -> Iterator[str]:
        """Return the keys where a record lies, sound or not."""
        return (key for key in self._objects if key.startswith("jobs/") and key.endswith("/state.json"))

    def _fill(self) -> None:
        self._job(SOUND, {})
        names = [name for name, value in RECORD.items() if isinstance(value, str) and name not in _FIXED]
        for number, text in enumerate(TEXTS):
            job_id = f"text-{number}"
            lists = {f"{name}_outputs": [text] for name in ("expected", "verified", "missing")}
            steps = [{"status": text, "at": "2026-03-01T10:30:00Z", "id": text}]
            noted = {"suspect": {"reason": text, "since": text}, text: {text: text}}
            fields = dict.fromkeys(names, text) | lists | {"transitions": steps, "metadata": noted, text + "x": text}
            labels = {text or "x": text, SWEEP: text}
            self._job(job_id, {**fields, "labels": labels, "status": "running"})
            self._job(f"member-{number}", {"labels": labels})
            self._job(f"status-{number}", {"status": text}, is_good=0 < len(text) <= 64)
            self._job(text, {}, is_good=_is_id(text))
            self._events(job_id, text)
            self._ledger(job_id, text)
        for name in RECORD.keys() - {"unknown"}:
            for number, value in enumerate(_WRONG):
                fields = ",".join(f'"{one}":{json.dumps(old)}' for one, old in RECORD.items() if one != name)
                job_id = f"wrong-{name}-{number}"
                record = f'{{{fields},"{name}":{value}}}'.replace('"a"', f'"{job_id}"')
                self._objects[f"jobs/{job_id}/state.json"] = record.encode()
        for number, time in enumerate(TIMES):
            self._job(f"time-{number}", {"heartbeat_at": time, "updated_at": time}, is_good=None)
        for number, value in enumerate(_WRONG_NOTES):
            self._noted(f"noted-{number}", value)
        self._spoilt()
        self._submitted()

    def _noted(self, job_id: str, value: str) -> None:
        """Put JSON in each place of metadata that views read."""
        best = {"value": value, "half_width": 0.5, "round": 1, "params": {"x": 1}}
        bests = (best, best | {"value": 1, "half_width": value}, best | {"value": 1, "round": value, "params": value})
        counts = dict.fromkeys(calibration_counts.COUNTS, 1)
        names = (
            (PRECISION, GROWS, SUSPECT, WAITS_FOR, OWN_WRITE, STOP_BY, NOTE_HISTORY, LABEL_HISTORY),
            ("n_deferred_tasks", "n_reused_tasks", "reused_from", "n_parameter_sets"),
        )
        notes: list[dict[str, object]] = [
            *({CALIBRATION: counts | {"best": one}} for one in (*bests, value)),
            {CALIBRATION: dict.fromkeys(counts, value)},
            {CALIBRATION: value},
            {PRECISION: dict.fromkeys((*precision_counts.COUNTS, precision_counts.WIDEST), value)},
            *(dict.fromkeys(some, value) for some in names),
        ]
        for number, metadata in enumerate(notes):
            one = f"{job_id}-{number}"
            fields = {**RECORD, "job_id": one, "metadata": metadata, "labels": {SWEEP: f"sweep-{number}"}}
            record = json.dumps(fields).replace(json.dumps(value), value)
            self._objects[f"jobs/{one}/state.json"] = record.encode()
            self.good.add(one)

    def _job(self, job_id: str, fields: dict[str, object], *, is_good: bool | None = True) -> None:
        key = f"jobs/{job_id}/state.json"
        self._objects[key] = json.dumps({**RECORD, "job_id": job_id, **fields}).encode()
        if is_good is not None:
            (self.good if is_good else self.bad).add(job_id if is_good else key)

    def _events(self, job_id: str, text: str) -> None:
        events: tuple[dict[str, object], ...] = (
            {"kind": "log", "text": text},
            {"kind": "task_failed", "task": text, "error": {"type": text, "message": text}},
            {"kind": "state", "status": text, "tasks_total": text},
            {"kind": "strange", "nested": {text: [text, HALVES[0]]}, text + "x": text},
        )
        lines = "".join(
            json.dumps({**EVENT, **event, "job_id": job_id, "seq": seq}) + "\n" for seq, event in enumerate(events)
        )
        self._objects[f"events/20260301T10/{job_id}/s-000001.ndjson"] = lines.encode()

    def _ledger(self, job_id: str, text: str) -> None:
        sets = [{"params": {text: text if number < 4 else "-", "status": text, "x": number}} for number in range(6)]
        study = {"model": "m", "parameter_sets": sets, "outputs": ["result.json"]}
        manifest = {**MANIFEST, "job_id": job_id, "study": study, "only": None, "parent_job_id": None}
        self._objects[f"jobs/{job_id}/manifest.json"] = json.dumps(manifest).encode()
        self._objects.update(ledger.planted(job_id, text))

    def _spoilt(self) -> None:
        for name, spoil in _SPOILT.items():
            # Sound but for one thing, so that this alone can be what it is refused for.
            value = spoil(json.dumps({**RECORD, "job_id": f"spoilt-{name}"}).encode())
            self._objects[f"jobs/spoilt-{name}/state.json"] = value
            self._objects[f"events/20260301T10/spoilt-{name}/s-000001.ndjson"] = value
            self.bad.add(f"jobs/spoilt-{name}/state.json")
        for text in TEXTS:
            self._objects[f"jobs/{SOUND}/{text}"] = b"beside"
            self._objects[f"changes/202603011200/{text}"] = b"-"
            self._objects[f"events/20260301T10/{text}/s-000002.ndjson"] = b"\n"

    def _submitted(self) -> None:
        study = {"model": "m", "parameter_sets": [{"params": {text: text}, "seed": n} for n, text in enumerate(TEXTS)]}
        manifest = {**MANIFEST, "job_id": SOUND, "study": study, "only": None, "parent_job_id": None}
        self._objects[f"jobs/{SOUND}/manifest.json"] = json.dumps(manifest).encode()
        self._objects.update(dict.fromkeys(ledger.names_of_chunks(SOUND), b"beside"))
        self._objects.update(ledger.spoilt(SOUND) | ledger.odd(SOUND))
        for text in TEXTS:
            self._objects[f"results/{SOUND}/{text}/1/out"] = b"x"
            self._objects[f"results/{SOUND}/p/1/{text}"] = b"x"


_SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda record: b"",
    "list": lambda record: b"[" + record + b"]",
    "utf-16": lambda record: record.decode().encode("utf-16"),
    "bytes": lambda record: record.replace(b'"me"', b'"\xff"'),
    "nul": lambda record: b"\0" + record,
    "cut": lambda record: record[:-1],
    "two": lambda record: record * 2,
    "deep": lambda record: record[:-1] + b',"x":' + b"[" * 200 + b"]" * 200 + b"}",
    "very deep": lambda record: b'{"a":' * 100_000,
    "long": lambda record: record + b" " * (2 * 2**20),
    "twice": lambda record: record[:-1] + b',"owner":"you"}',
    "NaN": lambda record: record[:-1] + b',"x":NaN}',
    "endless": lambda record: record[:-1] + b',"x":1e400}',
    "digits": lambda record: record[:-1] + b',"x":' + b"9" * 5000 + b"}",
    "half": lambda record: record[:-1] + b',"x":"\\ud800"}',
    "other": lambda record: record.replace(b"spoilt-", b"other-"),
    "time": lambda record: record.replace(b"2026-03-01T11:00:00Z", b"2026-03-01T11:00:00." + b"1" * 500_000 + b"Z"),
}
_WRONG_NOTES = (
    "-0.5", "1e22", "-1", "1e-320", "9" * 20, "9" * 400, "9" * 4300, "true", "[[1]]", '{"x":[null]}', '"\\u001b"',
)  # fmt: skip
"""JSON that readers take, of other types and sizes than what mops-jobs writes there."""
_WRONG = ("7.5", "[1]", '{"x":[[]]}', "true", *NUMBERS[:6], *map(json.dumps, HALVES))
_FIXED = ("job_id", "status", "created_at", "updated_at", *(name for name in RECORD if name.endswith("_at")))


def _is_id(text: str) -> bool:
    try:
        return check_job_id(text) == text
    except MopsJobsError:
        return False


def _interrupt(seconds: float) -> None:
    raise KeyboardInterrupt  # what would wait has shown what there is


# --- what is checked -------------------------------------------------------------------------------------------------


COMMANDS = {
    "text": (
        "list --limit 0 --offline", "list -q --limit 0 --offline", "list --stuck --offline", "status JOB",
        "status SOUND", "events JOB", "events SOUND", "logs JOB", "logs SOUND", "events", "summary", "doctor",
        "query --limit 0 'SELECT owner, labels, error_message FROM jobs'", "failures", "diff JOB SOUND",
        "validate SOUND", "wait JOB SOUND", "reconcile", "prune --older-than 1h --dry-run",
        "prune --store --older-than 1h --dry-run", "config show",
    ),
    "json": (
        "list --json --limit 0 --offline", "status JOB --json", "status SOUND --json", "summary --json",
        "query --json --limit 0 'SELECT * FROM jobs'", "doctor --json", "diff JOB SOUND --json",
        "prune --store --older-than 1h --dry-run --json",
    ),
    "jsonl": (
        "list --jsonl --limit 0 --offline", "events JOB --json", "events SOUND --json", "events --json",
        "list --jsonl --limit 0", "watch --json", "results SOUND --json",
    ),
    "tsv": (
        "list --tsv --limit 0 --offline", "watch --interval 1s", "results SOUND",
        "list --tsv --fields job_id,labels,metadata,error_message,owner --limit 0 --offline",
        "query --tsv --limit 0 'SELECT * FROM jobs'",
    ),
    "csv": ("list --csv --limit 0", "query --csv --limit 0 'SELECT * FROM jobs'"),
    "prometheus": ("metrics",),
    "words": ("completion --words jobs ''", "completion --words owners ''"),
}  # fmt: skip
"""Every reading command, by what its output is said to be; `ledger.COMMANDS` has those that show ledgers."""


def commands(job_id: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands for a job, with what their output is said to be."""
    for form, texts in COMMANDS.items():
        for text in texts:
            yield form, shlex.split(text.replace("JOB", job_id).replace("SOUND", SOUND))
    for one in (job_id, SOUND):
        for form, texts in ledger.COMMANDS.items():
            for text in texts:
                yield form, shlex.split(text.replace("JOB", one))


def raw(text: str, *, but: str = "\n") -> str:
    """Return the characters that must not be in what is printed, in the order of their coming."""
    text = _OUR_STYLES.sub("", text).translate(dict.fromkeys(map(ord, but)))
    return "" if text.isprintable() else "".join(char for char in text if not char.isprintable())


def check(form: str, ran: Ran, what: str, codes: Collection[int] = EXPECTED_CODES) -> None:
    """Hold what a command printed against what its output is said to be."""
    hold(
        ran.code in codes or (ran.code == 130 and what.startswith(("watch", "wait"))),
        f"{what} ended with {ran.code}: {ran.err[-500:]}",
    )
    hold(not raw(ran.err), f"{what} said raw {raw(ran.err)[:20]!r} on stderr")
    hold("Unexpected" not in ran.err and "Traceback" not in ran.err, f"{what}: {ran.err[-500:]}")
    found = raw(ran.out, but="\n\t" if form == "tsv" else "\n")
    hold(not found, f"{what} printed raw {found[:20]!r}")
    if form in ("json", "jsonl"):
        hold(ran.out.isascii(), f"{what} printed JSON that is not ASCII")
        for text in ran.out.splitlines() if form == "jsonl" else [ran.out]:
            json.loads(text, parse_constant=_no_json)
    elif form == "csv":
        rows = list(csv.reader(io.StringIO(ran.out)))
        hold(len({len(row) for row in rows}) == 1, f"{what} printed rows of different lengths")
        for cell in (cell for row in rows for cell in row):
            is_number = re.fullmatch(r"-?[0-9.e+-]+", cell) is not None
            hold(is_number or not cell.lstrip().startswith(tuple("=+-@＝＋－＠")), f"{what}: a formula, {cell!r}")  # noqa: RUF001
    elif form == "tsv":
        hold(len({line.count("\t") for line in ran.out.splitlines()}) <= 1, f"{what} printed rows of different lengths")
    elif form == "prometheus":
        found_families = text_string_to_metric_families(ran.out)
        samples = [(one.name, *sorted(one.labels.items())) for family in found_families for one in family.samples]
        hold(len(samples) == len(set(samples)), f"{what} printed a series twice")
    elif form == "words":
        for word in ran.out.splitlines():
            hold(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@+-]*", word) is not None, f"{what} offers {word!r} to a shell")


def _no_json(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def check_sync(registry: Registry, ran: Ran) -> int:
    """Return each bad record is reported by its key and a reason, and every good one is there; how many were bad."""
    check("json", ran, "sync --json")
    problems = {one["key"]: one for one in json.loads(ran.out)["problems"]}
    for key in registry.bad:
        hold(key in problems and 0 < len(problems[key]["reason"]) <= 510, f"{key!r} is not reported")
    listed = {json.loads(line)["job_id"] for line in registry.run("list", "--jsonl", "--limit", "0").out.splitlines()}
    missing = registry.good - listed
    hold(not missing, f"not shown: {sorted(missing)[:5]}")
    unreadable = {key for key, one in problems.items() if one["kind"] == "unreadable"}
    for key in registry.records:
        is_listed = key.removeprefix("jobs/").removesuffix("/state.json") in listed
        hold(is_listed != (key in unreadable) or key in problems.keys() - unreadable, f"{key!r} is lost, or told twice")
    return len(unreadable)


def check_chunks(registry: Registry) -> int:
    """Check that each bad chunk of a ledger is reported by its key and a reason, and that the others count."""
    registry.run("tasks", SOUND)
    ran = registry.run("query", "--json", "--limit", "0", f"SELECT * FROM ledger_problems WHERE job_id = '{SOUND}'")
    problems = {one["key"]: one["reason"] for one in json.loads(ran.out)["rows"]}
    bad = ledger.spoilt(SOUND).keys()
    hold(problems.keys() == bad and all(problems.values()), f"not reported: {sorted(bad ^ problems.keys())[:5]}")
    lines = registry.run("tasks", SOUND, "--jsonl", "--status", "failed").out.splitlines()
    hold([json.loads(line)["task"] for line in lines] == [0, 1, 2, 3, 5], f"failed are {len(lines)} tasks")
    return len(bad)


def run(trial: Trial) -> list[Figure]:
    """Fill it, sync it, look at it in every way."""
    (directory := trial.directory / "hostile-registry").mkdir()
    registry = Registry(directory)
    bad, count = check_sync(registry, registry.run("sync", "--json")), 0
    for number in range(0, len(TEXTS), max(1, len(TEXTS) // trial.times(len(TEXTS), 2))):
        for form, argv in commands(f"text-{number}"):
            for terminal in (False, True):
                # For a person JSON is indented: it is one document all the same.
                check(form, registry.run(*argv, terminal=terminal), " ".join(argv))
                count += 1
        os.utime(directory / "registry.db", (0, 0))  # views of the other texts find no write to sync
    chunks = check_chunks(registry)
    pages = served(registry)
    return [
        Figure("hostile registry: keys", registry.size),
        Figure("hostile registry: unreadable records reported by key and reason", bad),
        Figure("hostile registry: unreadable chunks of a ledger reported by key and reason", chunks),
        Figure("hostile registry: commands run over it", count),
        Figure("hostile registry: pages fetched", pages),
    ]


def served(registry: Registry) -> int:
    """Fetch the pages and check them; how many."""
    ids = [SOUND, *(job_id for job_id in sorted(registry.good) if not job_id.isalnum())]
    paths = ["/jobs", "/jobs?status=active", "/charts", "/api/v1/jobs", "/api/v1/events", "/metrics"]
    paths += [f"/jobs/{urllib.parse.quote(job_id, safe='')}" for job_id in ids]
    env = {**registry.env, "PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    with subprocess.Popen(
        [sys.executable, mops_jobs.__file__, "serve", "--port", "0"], stdout=-1, stderr=-1, env=env, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = urllib.parse.urlsplit(process.stdout.readline().strip())
            for path in paths:
                _fetch(str(url.hostname), int(url.port or 0), path)
        finally:
            process.terminate()
            _, err = process.communicate()
    hold("Traceback" not in err and not raw(err), f"the server said {err[-500:]!r}")
    return len(paths)


def _fetch(host: str, port: int, path: str) -> None:
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=120)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode()
    hold(answer.status in (200, 308, 400, 404), f"{path} was answered with {answer.status}")
    found = raw(text, but="\n")
    hold(not found, f"{path} has raw {found[:20]!r}")
    if "html" in str(answer.getheader("Content-Type")):
        marked = _MARKUP.search(text)
        hold(marked is None, f"{path} has markup of a record")
