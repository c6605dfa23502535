"""`download` for a Python program: what it writes, and what it returns about the rest."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mopsjobs.errors import MopsJobsError, UsageError
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.results import DownloadResult, TableSummary, download
from mopsjobs.studies.study import Task
from support.runs import sets_of, study

TASKS = list(study(sets_of(2)).tasks())


@pytest.fixture
def store() -> InMemoryVersionedStore:
    """Yield a store with the manifests of a job of two tasks, and of a child with the second one."""
    made = InMemoryVersionedStore()
    for job_id, only, parent in (("job", None, None), ("job.2", (1,), "job")):
        manifest = Manifest(
            job_id=job_id, study=study(sets_of(2)), bundle="sha256:" + "0" * 64, only=only, parent_job_id=parent
        )
        made.create_if_absent(manifest_key(job_id), manifest.to_json())
    return made


def file_of(directory: Path, task: Task) -> Path:
    return directory / task.param_id / str(task.seed) / "result.json"


def test_a_child_has_the_files_of_its_family(store: InMemoryVersionedStore, tmp_path: Path) -> None:
    """Each file is counted once, and reported as progress. The table has both tasks."""
    store.create_if_absent(output_key("job", TASKS[0], "result.json"), b"parent")
    store.create_if_absent(output_key("job.2", TASKS[1], "result.json"), b"child")
    counts: list[int] = []
    expected = DownloadResult(2, 0, (), None, 2, 0, TableSummary(2, 2, []))
    assert download(store, "job.2", tmp_path, on_progress=counts.append) == expected
    assert counts == [1, 2]
    assert [file_of(tmp_path, task).read_text() for task in TASKS] == ["parent", "child"]
    assert (tmp_path / "tasks.csv").read_text().count("complete") == 2


def test_a_directory_that_cannot_be_written_is_an_error(store: InMemoryVersionedStore, tmp_path: Path) -> None:
    """The error names the file."""
    store.create_if_absent(output_key("job", TASKS[0], "result.json"), b"{}")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(MopsJobsError, match=r"Cannot write .*/out/.*: Not a directory\."):
        download(store, "job", tmp_path / "out")


def _rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "tasks.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_names_job_bundle_and_error_of_each_task(store: InMemoryVersionedStore, tmp_path: Path) -> None:
    """A complete task is of the job that left its outputs, and has no error. A missing one is of the last job."""
    store.create_if_absent(output_key("job", TASKS[0], "result.json"), b"{}")
    download(store, "job.2", tmp_path, errors={0: "OSError: once", 1: "ValueError: bad x"})
    told = [tuple(row[name] for name in ("status", "job_id", "bundle", "error")) for row in _rows(tmp_path)]
    bundle = "sha256:" + "0" * 64
    assert told == [("complete", "job", bundle, ""), ("missing", "job.2", bundle, "ValueError: bad x")]


@pytest.mark.parametrize(("first", "second"), [("job", "job.2"), ("job.2", "job"), ("job", "job")])
def test_a_directory_takes_the_outputs_of_one_family(
    store: InMemoryVersionedStore, tmp_path: Path, first: str, second: str
) -> None:
    """In any order, also if the rows of the table are those of the child alone."""
    store.create_if_absent(output_key("job", TASKS[0], "result.json"), b"{}")
    store.create_if_absent(output_key("job.2", TASKS[1], "result.json"), b"{}")
    for job_id in (first, second):
        assert download(store, job_id, tmp_path).table_problem is None


@pytest.mark.parametrize("has_manifest", [True, False])
def test_outputs_of_another_job_are_not_mixed_in(
    store: InMemoryVersionedStore, tmp_path: Path, *, has_manifest: bool
) -> None:
    """Of a job with the same study too: its files have the same names. Nothing is written."""
    if has_manifest:
        other = Manifest(job_id="other", study=study(sets_of(2)), bundle="sha256:" + "1" * 64)
        store.create_if_absent(manifest_key("other"), other.to_json())
    store.create_if_absent(output_key("job", TASKS[0], "result.json"), b"{}")
    store.create_if_absent(output_key("other", TASKS[1], "result.json"), b"{}")
    download(store, "job.2", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"has the outputs of job job, which is not of the family of other\."):
        download(store, "other", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
