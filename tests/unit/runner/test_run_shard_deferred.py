"""Tasks that a job leaves to a later resume: no shard runs them, and the job ends `partial`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner.shard import TaskProgress
from mopsjobs.studies.manifest import manifest_key
from support.cli import LineStore
from support.runs import calls, counts, place, record, sets_of, study, work

pytestmark = pytest.mark.usefixtures("quick_runner")


def test_no_shard_runs_a_task_that_is_left_to_a_later_resume(
    line: LineStore, registry: JobRegistry, model: Path, tmp_path: Path
) -> None:
    """A task that repeats one that runs is complete with it."""
    noted = tmp_path / "calls"
    sets = [*sets_of(6, calls=str(noted)), {"x": 1, "calls": str(noted)}]
    manifest = place(line, "job", study(sets), model)
    assert manifest.duplicate_tasks() == {6: 1}
    line.delete(manifest_key("job"))
    chosen = dataclasses.replace(manifest, only=(1, 2, 6), deferred=(0, 3))
    line.create_if_absent(manifest_key("job"), chosen.to_json())
    registry.register_job("job", tasks_total=3)
    shown: list[TaskProgress] = []
    for number in (0, 1):
        work(line, registry, tmp_path / "job", number=number, shards=2, on_progress=shown.append)
    assert calls(noted) == {1: 1, 2: 1}
    assert counts(registry) == ("partial", 3, 0, 3)
    assert record(registry).error_message == "left to a later resume: 2 tasks"
