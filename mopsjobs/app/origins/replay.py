"""Run a task of a job once more, here, and compare its outputs with the stored ones, byte for byte.

A replay has the bundle, the parameters and the seed of the task, and an interpreter of this machine. It writes nothing
to the registry. See docs/decisions/0072-replays.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import NamedTuple

from mopsjobs.app.jobs.find_job import find_state
from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.task_outputs import no_such_task_error
from mopsjobs.bundles.bundle import load_bundle
from mopsjobs.engines.model_env import model_environment
from mopsjobs.engines.model_process import describe_interpreter
from mopsjobs.engines.trust import python_of_launch
from mopsjobs.errors import EXIT_DIFFERENT, EXIT_DONE, RecordError
from mopsjobs.ledger.environment import environment_of_worker
from mopsjobs.runner.run_once import Interruption, Place, RunResult, interrupt, run_once
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.lineage import ancestry
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.results import read_outputs
from mopsjobs.studies.study import Study, Task, find_varying, task_name
from mopsjobs.submission.model_check import find_interpreter
from mopsjobs.submission.reuse import environment_difference
from mopsjobs.utils.text import pluralize


class _Source(NamedTuple):
    """The job that has the outputs of a task, or is to make them."""

    job_id: str
    bundle: str
    study: Study
    outputs: Mapping[str, bytes]
    """Those that are stored; empty if there are none."""


class Replay(NamedTuple):
    """A task that was run once more."""

    job_id: str
    source: _Source
    task: Task
    python: str
    result: RunResult
    environment: str | None
    """How the environment differs from that of the job, as the end of a sentence; None if it does not."""
    interruption: Interruption | None = None
    """What came of interruptions, if they were asked for."""

    @property
    def name(self) -> str:
        """Return the name of the task."""
        return task_name(self.task, find_varying(self.source.study))

    @property
    def different(self) -> list[str]:
        """Return the names of the outputs that differ, or that only one side has."""
        stored, made = self.source.outputs, self.result.outputs or {}
        return sorted(name for name in stored.keys() | made.keys() if stored.get(name) != made.get(name))

    @property
    def is_equal(self) -> bool | None:
        """Return whether all outputs are equal; None without outputs here, or without stored ones."""
        if self.result.outputs is None or not self.source.outputs:
            return None
        return not self.different

    @property
    def exit_code(self) -> int:
        """Return the exit code of a command that shows this."""
        if self.interruption is not None and self.is_equal is None:  # no outputs are stored, which may be why it is run
            return EXIT_DONE if self.interruption.is_equal else EXIT_DIFFERENT
        if self.interruption is not None and not self.interruption.is_equal:
            return EXIT_DIFFERENT
        return EXIT_DONE if self.is_equal else EXIT_DIFFERENT

    def to_json(self) -> dict[str, object]:
        """Return the replay as scripts get it; see docs/reference/json.md."""
        task, error = self.task, self.result.error
        return {
            "job_id": self.job_id,
            "task": task.number,
            "param_id": task.param_id,
            "seed": task.seed,
            "params": dict(task.params),
            "done_by": self.source.job_id if self.source.outputs else None,
            "python": self.python,
            "environment": self.environment,
            "equal": self.is_equal,
            "outputs": {name: len(value) for name, value in sorted((self.result.outputs or {}).items())},
            "stored": {name: len(value) for name, value in sorted(self.source.outputs.items())},
            "different": self.different,
            "error": None if error is None else dict(error),
            "interruption": None if self.interruption is None else self.interruption.to_json(),
        }


def replay(name: str, number: int, python: str | None, app: App, interruptions: int = 0) -> Replay:
    """Run a task of a job once more, and read its stored outputs.

    Args:
        name: the job, as `find_job` takes it.
        number: the number of the task in the study.
        python: the interpreter; None: that of the launch from this machine, else that of the active environment.
        app: the run.
        interruptions: how often to interrupt a second run of the task, after its own checkpoints; 0: none is made.

    Raises:
        JobNotFoundError: if the job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        NoManifestError: if mops-jobs did not submit the job.
        UsageError: if the job has no such task.
        OptionError: if the interpreter does not exist.
        ModelError: if the model cannot be loaded.
        BundleError: if the bundle is damaged.
        StoreError: if the registry cannot be read.
    """
    job_id = find_state(name, app).job_id
    manifest = load_manifest(app.store, job_id)
    if not 0 <= number < manifest.study.tasks_total:
        raise no_such_task_error(job_id, number)
    [task] = manifest.study.some_tasks([number])
    source = _find_source(app.store, manifest, task)
    python = find_interpreter(python, app.env) or python_of_launch(source.job_id, app.env)
    place = Place(load_bundle(app.store, source.bundle), source.study, python, job_id, app.env)
    app.out.note(f"Running {task_name(task, find_varying(source.study))} of {source.job_id} with {python}")

    def on_log(_task: int | None, line: str) -> None:
        app.out.note(line)

    result = run_once(place, [task], on_log)[task.number]
    interruption = None
    if interruptions and result.outputs is not None:
        app.out.note(f"Running it again, interrupted up to {pluralize(interruptions, 'time')}")
        interruption = interrupt(place, task, interruptions, result, on_log)
    environment = _environment_difference(source.job_id, python, app)
    return Replay(job_id, source, task, python, result, environment, interruption)


def _find_source(store: VersionedStore, manifest: Manifest, task: Task) -> _Source:
    """Find the job of a family, or a source of it, that has outputs of a task; else the newest one that has the task.

    Raises:
        UsageError: if no job of the family has the task.
    """
    newest: _Source | None = None
    for member in ancestry(store, manifest):
        if not member.positions([task.number]):
            continue
        for one in (member, member.source_of(task.number)):
            if one is not None:
                found = _Source(one.job_id, one.bundle, member.study, _stored(store, one.job_id, member.study, task))
                newest = newest or found
                if found.outputs:
                    return found
    if newest is None:
        raise no_such_task_error(manifest.job_id, task.number)
    return newest


def _stored(store: VersionedStore, job_id: str, study: Study, task: Task) -> dict[str, bytes]:
    """Return the stored outputs of a task."""
    prefix = output_key(job_id, task, "")
    keys = {entry.key.removeprefix(prefix): entry.key for entry in store.scan(prefix)}
    return read_outputs(store, {name: key for name, key in keys.items() if study.keeps_output(name)})


def _environment_difference(job_id: str, python: str, app: App) -> str | None:
    with contextlib.suppress(RecordError):
        ours = environment_of_worker(describe_interpreter(python, model_environment(app.env)))
        return environment_difference(job_id, ours, app.store)
    return None
