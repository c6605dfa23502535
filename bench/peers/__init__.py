"""Many tasks by mops-jobs and by its peers: whole commands in turn, each from an environment of its own.

The program of a peer is named after its package. It prints how many results it has, and when the first one came.
HyperQueue and Ray listen on all addresses of the machine, behind their tokens, for as long as they run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bench import tools
from bench.machine import FILE, Setup
from bench.measure import Case, in_turn, progress
from bench.peers.work import WORKERS
from bench.report import Goal, Line

PROGRAMS = Path(__file__).resolve().parent
OURS = "mops-jobs"
ERROR_CHARS = 300
FULL_JOBS = 10_000
"""With as many `--jobs`, the numbers of tasks are those below; with fewer, as many fewer."""


class Peer(NamedTuple):
    """A tool that runs many tasks."""

    name: str
    package: str
    """What is installed, after which its program is called; "" for mops-jobs."""
    keeps: str
    """What is on the disk at the end."""


PEERS = (
    Peer(OURS, "", "record, ledger, outputs, code"),
    Peer("HyperQueue", "hyperqueue", "stdout and stderr of each task"),
    Peer("Parsl (HTEX)", "parsl", "logs"),
    Peer("Dask", "distributed", "temporary files"),
    Peer("Ray", "ray", "logs and sockets"),
    Peer("joblib", "joblib", "temporary files"),
)


class Work(NamedTuple):
    """Tasks to do."""

    what: str
    tasks: int
    function: str
    """Of work.py, by which a peer does a task."""
    study: dict[str, Any]
    """How the study of mops-jobs says the same."""
    task_seconds: float = 0.0
    """What a task waits."""


FIRST = Work("start to first result", 1, "nothing", {"model": "work:nothing"})
MANY = (
    Work("Python tasks of nothing", 5_000, "nothing", {"model": "work:nothing"}),
    Work("Python tasks of 50 ms", 1_000, "sleep", {"model": "work:sleep"}, task_seconds=0.05),
    Work("programs `true`", 10_000, "program", {"model": "work:program"}),
)


@dataclass
class _Entry:
    """A peer at some work: its process, and what the runs told."""

    peer: Peer
    case: Case
    firsts: list[float] = field(default_factory=list)
    """Seconds to the first result of each run, the warm-up too. None from mops-jobs, which tells its end alone."""
    kept: str = ""

    def seconds(self, *, to_first: bool) -> list[float]:
        """Return the seconds of each round: to the first result, or to the end of the process."""
        ends = [sample.seconds for sample in self.case.samples]
        return self.firsts[-len(ends) :] if to_first and self.firsts else ends


def run(setup: Setup) -> list[Line]:
    """Do each work by all peers in turn. A peer that fails is not run again there, and its line has the error."""
    if not FILE.is_file():
        raise RuntimeError(f"there is no {FILE.name}: ./build.sh")
    starts: dict[str, float] = {}
    lines = []
    try:
        for work in (FIRST, *MANY):
            tasks = max(1, work.tasks * setup.jobs // FULL_JOBS)
            entries = [_entry(setup, peer, work, tasks) for peer in PEERS]
            what = work.what if work is FIRST else f"{tasks:,} {work.what}"
            progress(f"{what}, by {len(entries)} peers, {setup.runs} rounds")
            in_turn([entry.case for entry in entries], setup.runs, setup.directory, warms_up=work is FIRST)
            lines += _lines(what, entries, starts, tasks * work.task_seconds / WORKERS)
    finally:
        _end_leftovers(_directory(setup))
    return lines


def _lines(what: str, entries: list[_Entry], starts: dict[str, float], ideal: float) -> Iterator[Line]:
    """Yield a line for each peer.

    Args:
        what: the work.
        entries: the peers at it.
        starts: seconds to the first result, by peer; if it is empty, the work tells them.
        ideal: seconds that the tasks wait, spread over the workers; 0.0 if they do not.
    """
    is_first = not starts
    times = {entry.peer.name: entry.seconds(to_first=is_first) for entry in entries if not entry.case.error}
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    if is_first:
        starts.update(medians)
    for entry in entries:
        name = entry.peer.name
        label = f"{what}: {name} {tools.version(entry.peer.package)}".rstrip()
        if entry.case.error:
            yield Line(label, _one_line(entry.case.error), "", None)
            continue
        after = None if is_first or name not in starts else max(0.0, medians[name] - starts[name])
        overheads = [100 * (seconds / ideal - 1) for seconds in (medians[name], after) if ideal and seconds is not None]
        line = Line(
            label, f"{medians[name]:.2f} s", "", None,
            after_start="" if after is None else f"{after:.2f} s",
            overhead=", ".join(f"{percent:.1f} %" for percent in overheads),
            kept=entry.kept,
        )  # fmt: skip
        if name == OURS:
            line = replace(line, goal=Goal("the first", medians[name] == min(medians.values())))
        elif OURS in medians:
            ratio = statistics.median(theirs / ours for theirs, ours in zip(times[name], times[OURS], strict=True))
            line = replace(line, against=f"{OURS}, {medians[OURS]:.2f} s", ratio=ratio)
        yield line


def _entry(setup: Setup, peer: Peer, work: Work, tasks: int) -> _Entry:
    """Return a peer at some work, in a home of its own that each run finds empty."""
    home = _directory(setup) / peer.name.partition(" ")[0]
    environment = tools.environment(peer.package)
    env = setup.env | {
        "PATH": os.pathsep.join([str(environment / "bin"), setup.env["PATH"]]),
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": "" if peer.name == OURS else str(PROGRAMS),
        "MOPS_JOBS_UNPACK": str(setup.directory / "unpacked"),
    }
    argv, cwd = [str(PROGRAMS / f"with_{peer.package}.py"), work.function, str(tasks)], home
    if peer.name == OURS:
        argv, cwd = _submission(setup, work, tasks, home)
    entry = _Entry(peer, Case([str(environment / "bin" / "python"), *argv], env, cwd=cwd, may_fail=True))

    def prepare() -> None:
        _end_leftovers(_directory(setup))
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)

    def check(output: str) -> None:
        told = json.loads(output.strip().rpartition("\n")[2])  # HyperQueue prints more before it
        if told["tasks_total"] != tasks or told.get("status", "succeeded") != "succeeded":
            raise RuntimeError(f"not {tasks} tasks that succeeded: {output}")
        entry.firsts += [told["first_seconds"]] if "first_seconds" in told else []
        sizes = [path.lstat().st_size for path in home.rglob("*") if not path.is_dir()]
        entry.kept = f"{peer.keeps}: {len(sizes):,} files, {sum(sizes) / 1e6:.1f} MB"

    entry.case.prepare, entry.case.check = prepare, check
    return entry


def _submission(setup: Setup, work: Work, tasks: int, home: Path) -> tuple[list[str], Path]:
    """Return the words that submit the work to an embedded registry, and the directory with the model."""
    code = setup.directory / "peers-model"
    code.mkdir(exist_ok=True)
    shutil.copy(PROGRAMS / "work.py", code)
    study = setup.directory / f"peers-{work.function}-{tasks}.json"
    sets = [{"x": number} for number in range(tasks)]
    study.write_text(json.dumps({**work.study, "parameter_sets": sets, "outputs": ["result.json"]}))
    place = ("--registry", f"sqlite://{home}/registry.db", "--workers", str(WORKERS))
    return [str(FILE), "submit", str(study), "--auto", "--job-id", "job", "--wait", "--json", *place], code


def _directory(setup: Setup) -> Path:
    return setup.directory / "peers"


def _one_line(error: str) -> str:
    """Return the end of an error, which has what the peer printed, as text in a cell."""
    return f"error: {' '.join(error.split())[-ERROR_CHARS:]}".replace("|", "\\|")


def _end_leftovers(directory: Path) -> None:
    """End each process that a peer has left behind: its HOME is in this directory."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if f"HOME={directory}{os.sep}".encode() in environ.read_bytes():
                os.kill(int(environ.parent.name), signal.SIGKILL)
