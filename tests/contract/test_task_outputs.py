"""The outputs of one task, as a page shows them: listed and read alike on every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.app.tasks import task_outputs
from mopsjobs.app.tasks.results_table import find_cached_results
from mopsjobs.app.tasks.task_outputs import MAX_LISTED, TaskOutput, read_task_output
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.studies.manifest import NAMES_NAME
from mopsjobs.studies.outputs import output_key
from support.cli import REMOTE_URL, Cli
from support.study_jobs import run_study

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore
    from mopsjobs.studies.study import Task

VALUES = {"result.json": b"{}", "b.bin": b"\0" * 150, "a.txt": b"text", NAMES_NAME: b"[]", "odd/name": b"x"}


def test_outputs_of_a_task_are_listed_and_read(
    cli: Cli, store: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that no output may have are left out, and the results of a task come first. A large value is not kept."""
    monkeypatch.setattr(task_outputs, "MAX_OUTPUT_BYTES", 100)
    monkeypatch.setattr("mopsjobs.store.open_store", lambda _url, _env, **_: store)
    cli.env["MOPS_JOBS_REGISTRY"] = REMOTE_URL
    tasks: list[Task] = []

    def succeed(task: Task) -> str:
        tasks.append(task)
        return "succeeded"

    run_study(JobRegistry(store, now=cli.clock.now), "night", [{"x": one} for one in range(3)], succeed, outputs=None)
    for number, names in ((0, ("a.txt",)), (1, VALUES), (2, [f"{one:03}" for one in range(MAX_LISTED + 1)])):
        for name in names:
            store.create_if_absent(output_key("night", tasks[number], name), VALUES.get(name, b"x"))
    app = cli.app()
    app.cache.sync(wait=None)

    def read(number: int, name: str | None = None) -> TaskOutput:
        return read_task_output(find_cached_results("night", app), number, name, app)

    found = read(1)
    assert list(found.sizes) == ["result.json", "a.txt", "b.bin"]
    assert all(size in (None, len(VALUES[name])) for name, size in found.sizes.items())
    assert (found.name, found.value, found.problem, found.has_more) == ("result.json", b"{}", None, False)
    assert read(1, "a.txt").value == b"text"
    assert read(1, "b.bin").problem == "Too large for a page: 150 bytes, of at most 100."
    assert read(1, "c.bin").problem == "The task has no output 'c.bin'."
    assert (len(read(2).sizes), read(2).has_more) == (MAX_LISTED, True)
