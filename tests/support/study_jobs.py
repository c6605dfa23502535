"""Jobs of studies with ledgers, scalars and log lines, as runners leave them in a store."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from mopsjobs.bundles.bundle import store_bundle
from mopsjobs.bundles.git_state import GitState
from mopsjobs.bundles.packing import pack
from mopsjobs.events.writer import record_event
from mopsjobs.ledger.attempt import AttemptError
from mopsjobs.ledger.environment import Environment, encode_environment
from mopsjobs.ledger.format import chunk_key
from mopsjobs.ledger.scalars import encode_scalars
from mopsjobs.studies.manifest import Origin
from support.cli import START
from support.ledgers import Ledger, add_job, attempt, put_manifest
from support.runs import tree
from support.web import BIDI, HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime
    from pathlib import Path

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.studies.study import Task

LONG = "n" * 500

RTL = "שלום עולם"

OPERATORS = 'a<b>="c"'
"""A name with all that a condition has as signs."""

HOSTILE_NAMES = (HOSTILE + BIDI, RTL, LONG, OPERATORS)

TOO_LARGE = AttemptError("1a2b3c4d5e6f", "ValueError", "model.py:21", "beta is too large")
NO_ROOM = AttemptError("2a2b3c4d5e6f", "MemoryError", "model.py:77", "no room")


def run_study(
    jobs: JobRegistry,
    job_id: str,
    sets: list[dict[str, Any]],
    outcome: Callable[[Task], str | None],
    scalars: Callable[[Task], Mapping[str, object]] | None = None,
    *,
    status: str = "partial",
    error: AttemptError = TOO_LARGE,
    only: Collection[int] | None = None,
    began: float = START.timestamp(),
    **study: Any,
) -> None:
    """Run a study: each task ends as `outcome` says, or stays open for None.

    Args:
        jobs: the registry.
        job_id: the job; that of a child with `only`.
        sets: its parameter sets.
        outcome: how a task ends.
        scalars: the scalars of a task that succeeded.
        status: how the job ends; `running` if it does not.
        error: the error of the tasks that failed.
        only: the tasks that the job has; None for all.
        began: when its first task began, in seconds after 1970.
        study: more fields of the study.
    """
    manifest = add_job(jobs, job_id, [{"params": one} for one in sets], only=only, **study)
    chance = random.Random(job_id)
    tasks = [task for task in manifest.study.tasks() if only is None or task.number in only]
    ended = [(task, end) for task in tasks if (end := outcome(task)) is not None]
    write = Ledger(jobs.store, job_id)
    errors = {"failed": error, "oom": NO_ROOM}
    attempts = [
        attempt(number, end, error=errors.get(end), seconds=1 + chance.random(), started_at=began + number)
        for number, end in ((task.number, end) for task, end in ended)
    ]
    for begin in range(0, len(attempts), 5000):
        write(*attempts[begin : begin + 5000])
    succeeded = [task for task, end in ended if end == "succeeded"]
    if scalars is not None:
        chunk = encode_scalars(job_id, 0, ((task.number, scalars(task)) for task in succeeded))
        assert chunk is not None
        jobs.store.create_if_absent(chunk_key(job_id, 0, "ab", 0, "scalars"), chunk)
    jobs.update_progress(job_id, len(succeeded), tasks_failed=len(ended) - len(succeeded))
    if status != "running":
        jobs.update_status(job_id, status)


def run_grid(jobs: JobRegistry, job_id: str = "grid", side: int = 10, replicates: int = 2, **study: Any) -> None:
    """Run a study over two parameters, of which the tasks with a large `beta` and a large `gamma` fail."""
    chance = random.Random(job_id)

    def scalars(task: Task) -> dict[str, object]:
        return {"result.json/attack_rate": task.params["beta"] + chance.gauss(0, 0.05), "result.json/kind": "x"}

    run_study(
        jobs,
        job_id,
        [{"beta": across / side, "gamma": up / side} for across in range(side) for up in range(side)],
        lambda task: "failed" if min(task.params["beta"], task.params["gamma"]) > 0.65 else "succeeded",
        scalars,
        n_replicates=replicates,
        scenario="base",
        metadata={"title": "Where the model breaks"},
        **study,
    )


def run_hostile(jobs: JobRegistry, job_id: str, now: Callable[[], datetime]) -> None:
    """Run a study whose every name and text holds markup, script, other writing directions and 500 characters.

    The names of scalars have 150, since those of more than 200 are left out.
    """
    markup, rtl, long, operators = HOSTILE_NAMES
    run_study(
        jobs,
        job_id,
        [
            {markup: across / 9, rtl: up, long: LONG if last else HOSTILE, operators: up * across}
            for across in range(10)
            for up in range(10)
            for last in (False, True)
        ],
        lambda task: "failed" if task.params[rtl] > 6 else "succeeded",
        lambda task: {
            f"result.json/{name[:150].replace('~', '~0').replace('/', '~1')}": task.params[rtl] + place
            for place, name in enumerate(HOSTILE_NAMES)
        },
        error=AttemptError("3a2b3c4d5e6f", HOSTILE, HOSTILE, HOSTILE + BIDI + "n" * 300),
        scenario=LONG,
        metadata={"title": HOSTILE + BIDI + LONG},
    )
    record_event(jobs.store, job_id, "log", now=now, text=HOSTILE + BIDI + LONG, task=3)


# --- jobs whose tasks failed at known times, of known owners ---------------------------------------------------------

N_FAILING = 40


def fail(
    jobs: JobRegistry,
    job_id: str,
    errors: Mapping[int, AttemptError],
    at: float,
    *,
    status: str = "partial",
    only: Collection[int] | None = None,
    ended: int = N_FAILING,
    **own: Any,
) -> None:
    """Run a job of 40 tasks, each a minute after the one before, of which some fail.

    Args:
        jobs: the registry.
        job_id: the job; that of a child with `only`.
        errors: the error of each task that fails, by its number.
        at: when task 0 begins, in seconds since 1970.
        status: how the job ends; `running` if it does not.
        only: the tasks that the job has; None for all.
        ended: the number of the first task that has not ended.
        own: fields of the record, such as `owner`.
    """
    sets = [{"params": {"n": number}} for number in range(N_FAILING)]
    manifest = put_manifest(jobs.store, job_id, sets, only=only)
    jobs.register_job(job_id, **manifest.record_fields() | own)
    jobs.update_status(job_id, "running")
    numbers = range(ended) if only is None else only
    ends = {number: "failed" if number in errors else "succeeded" for number in numbers}
    Ledger(jobs.store, job_id)(
        *(attempt(number, end, error=errors.get(number), started_at=at + 60 * number) for number, end in ends.items())
    )
    jobs.update_progress(job_id, len(ends) - len(errors), tasks_failed=len(errors))
    if status != "running":
        jobs.update_status(job_id, status)


# --- jobs to compare: runs of one study that differ in code, parameters, packages and results -----------------------

PEAKS = "def simulate(params, seed):\n    return {'peak': params['beta'] * FACTOR}\nFACTOR = 1\n"


def put_bundle(jobs: JobRegistry, directory: Path, **files: str) -> str:
    """Pack files into a bundle, store that, and return its name. Of a file's name, `_py` is the end `.py`."""
    root = tree(directory, {name.replace("_py", ".py"): text for name, text in files.items()})
    with pack(root) as packed:
        store_bundle(jobs.store, packed)
        return packed.digest


def note_environment(jobs: JobRegistry, job_id: str, python: str = "3.12.4", **packages: str) -> None:
    """Note the environment of a job, as its runner does."""
    environment = Environment(python, "cpython", "linux-x86_64", "glibc 2.36", "1.0", packages)
    jobs.store.create_if_absent(*encode_environment(job_id, environment))


def run_compared(jobs: JobRegistry, directory: Path) -> None:
    """Run three jobs: `base`, `faster` with other code and a newer numpy, and `wider` with more parameter sets."""
    old = put_bundle(jobs, directory / "old", model_py=PEAKS, data_py="rows = 3\n")
    new = put_bundle(jobs, directory / "new", model_py=PEAKS.replace("= 1", "= 2"), data_py="rows = 3\n", fast_py="")
    for job_id, bundle, size, shift, numpy in (
        ("base", old, 10, 0.0, "1.26.4"),
        ("faster", new, 10, 0.5, "2.1.0"),
        ("wider", old, 15, 0.0, "1.26.4"),
    ):
        _run_one(jobs, job_id, bundle, size, shift)
        note_environment(jobs, job_id, numpy=numpy, scipy="1.14.0", pandas="2.2.2")


def _run_one(jobs: JobRegistry, job_id: str, bundle: str, size: int, shift: float) -> None:
    def scalars(task: Task) -> dict[str, object]:
        noise = random.Random(task.seed).gauss(0, 0.1)
        return {
            "result.json/peak": round(task.params["beta"] * 10 + shift * task.params["beta"] + noise, 6),
            "result.json/population": 1000,
        }

    run_study(
        jobs,
        job_id,
        [{"beta": number / 10, "gamma": 0.25} for number in range(1, size + 1)],
        lambda task: "failed" if job_id == "wider" and task.params["beta"] > 1.3 else "succeeded",
        scalars,
        status="partial" if job_id == "wider" else "succeeded",
        n_replicates=4,
        bundle=bundle,
        origin=Origin("1.0", GitState(("b" if job_id == "faster" else "a") * 40, is_dirty=False)),
        scenario="fast" if job_id == "faster" else "base",
        metadata={"title": "How high the peak is"},
    )
