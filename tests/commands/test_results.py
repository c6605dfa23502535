"""`results --download`: names come from the registry, and what writes the registry is not trusted with files."""

from __future__ import annotations

import contextlib
import csv
import os
import sqlite3
from pathlib import Path

import pytest

from mopsjobs.events.writer import record_event
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.studies import results
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.output_directory import MAX_SEGMENT_BYTES
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study import Task
from support.cli import Cli, Ran, add
from support.runs import sets_of, study

TASKS = list(study(sets_of(2)).tasks())
GOOD = "results/job/p/1/good"


def place(task: Task, name: str = "result.json") -> str:
    """Return where an output lies below the directory."""
    return f"{task.param_id}/{task.seed}/{name}"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    """Return the directory of the user, with a file and a repository."""
    made = tmp_path / "into"
    (made / ".git").mkdir(parents=True)
    (made / ".git" / "config").write_text("mine")
    (made / ".bashrc").write_text("mine")
    return made


@pytest.fixture
def submitted(jobs: JobRegistry) -> list[str]:
    """Return a job of two tasks; the keys of its outputs."""
    manifest = Manifest(job_id="job", study=study(sets_of(2)), bundle="sha256:" + "0" * 64)
    jobs.store.create_if_absent(manifest_key("job"), manifest.to_json())
    add(jobs, "job", "running", tasks_total=2)
    return [output_key("job", task, "result.json") for task in TASKS]


def leave(jobs: JobRegistry, cli: Cli, key: str, value: bytes = b"theirs") -> None:
    """Write a key as a foreign program does: the store would refuse some."""
    jobs.store.create_if_absent(GOOD, b"good")
    path = cli.env["MOPS_JOBS_REGISTRY"].removeprefix("sqlite://")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO objects VALUES (?, ?, 99)", (key, value))


def download(cli: Cli, into: Path, job: str = "job") -> Ran:
    return cli("results", job, "--download", str(into))


def contents(top: Path) -> dict[str, str]:
    """Return all files, and what is in them."""
    found = (path for path in sorted(top.rglob("*")) if path.is_file())
    return {path.relative_to(top).as_posix(): path.read_text() for path in found}


BAD_NAMES = {
    "repository": ".git/config",
    "start file": ".bashrc",
    "hidden parameter id": ".git/1/config",
    "hidden seed": "p/.git/config",
    "hidden name": "p/1/.bashrc",
    "draft": "p/1/.mops-jobs.part",
    "two segments": "p/x",
    "four segments": "p/1/a/x",
    "no segment": "p//x",
    "upwards": "p/../x",
    "out": "../../x",
    "control character": "p/1/a\nb",
    "turned direction": "p/1/a\u202eb",
    "too long": "p/1/" + "x" * (MAX_SEGMENT_BYTES + 1),
}


@pytest.mark.claim("The key of an output chooses no file")
@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_key_that_cannot_be_an_output_is_not_downloaded(cli: Cli, jobs: JobRegistry, into: Path, name: str) -> None:
    """It is named with the reason, the exit code is 7, and the rest is downloaded."""
    leave(jobs, cli, f"results/job/{name}")
    before = contents(into)
    ran = download(cli, into)
    assert ran.code == 7
    assert "is not downloaded: invalid name: expected <param_id>/<seed>/<name>" in ran.err
    assert contents(into) == {**before, "p/1/good": "good"}


def test_of_many_refused_keys_the_first_are_named(
    cli: Cli, jobs: JobRegistry, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer of the registry can make a million; the rest is counted."""
    monkeypatch.setattr(results, "MAX_NAMED_KEYS", 3)
    for number in range(5):
        jobs.store.create_if_absent(f"results/job/p/.{number}/x", b"theirs")
    leave(jobs, cli, "results/job/p/x")
    ran = download(cli, into)
    assert ran.code == 7
    assert ran.err.count(" is not downloaded: ") == 3
    assert "warning: 3 more keys are not downloaded." in ran.err.splitlines()
    assert (into / "p/1/good").read_text() == "good"


@pytest.mark.claim("The key of an output chooses no file")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("p/1/good", "the manifest has no task p/1"),
        (f"{TASKS[0].param_id}/1/result.json", f"the manifest has no task {TASKS[0].param_id}/1"),
        (place(TASKS[0], "other"), "the study does not name this output"),
    ],
)
def test_only_what_the_manifest_has_is_downloaded(
    cli: Cli, jobs: JobRegistry, submitted: list[str], into: Path, name: str, reason: str
) -> None:
    jobs.store.create_if_absent(submitted[0], b"{}")
    jobs.store.create_if_absent(f"results/job/{name}", b"theirs")
    ran = download(cli, into)
    assert ran.code == 7
    assert f"results/job/{name} is not downloaded: {reason}." in ran.err
    assert not (into / name).exists()
    assert (into / place(TASKS[0])).read_text() == "{}"


@pytest.mark.claim("A download follows no links")
@pytest.mark.parametrize("linked", ["p", "p/1"])
def test_a_link_to_another_directory_is_not_followed(cli: Cli, jobs: JobRegistry, into: Path, linked: str) -> None:
    outside = into.parent / "outside"
    (outside / "1").mkdir(parents=True)
    (into / linked).parent.mkdir(exist_ok=True)
    (into / linked).symlink_to(outside)
    jobs.store.create_if_absent(GOOD, b"theirs")
    jobs.store.create_if_absent("results/job/q/1/good", b"good")
    ran = download(cli, into)
    assert (ran.code, contents(outside)) == (7, {})
    assert f"{GOOD} is not downloaded: {into / linked} is not a directory." in ran.err
    assert (into / "q" / "1" / "good").read_text() == "good"


def link(path: Path) -> None:
    path.symlink_to(path.parents[3] / "outside")


@pytest.mark.claim("A download leaves existing files")
@pytest.mark.parametrize("make", [link, os.mkfifo, os.mkdir])
def test_what_is_no_regular_file_is_left_alone(cli: Cli, jobs: JobRegistry, into: Path, make: object) -> None:
    """A link is not followed, and a pipe is not waited at."""
    outside = into.parent / "outside"
    outside.write_text("mine")
    (into / "p" / "1").mkdir(parents=True)
    make(into / "p" / "1" / "good")  # type: ignore[operator]
    (into / "p" / "1" / "good.part").symlink_to(outside)
    jobs.store.create_if_absent(GOOD, b"theirs")
    ran = download(cli, into)
    assert ran.code == 7
    assert f"{GOOD} is not downloaded: good is not a regular file." in ran.err
    assert outside.read_text() == "mine"


@pytest.mark.claim("A download follows no links")
def test_drafts_are_not_written_through_links(cli: Cli, jobs: JobRegistry, into: Path) -> None:
    """The old name of a draft is a user's file like any other; the new one is refused where it is a link."""
    outside = into.parent / "outside"
    outside.write_text("mine")
    (into / "p" / "1").mkdir(parents=True)
    (into / "p" / "1" / "good.part").symlink_to(outside)
    jobs.store.create_if_absent(GOOD, b"good")
    assert download(cli, into).code == 0
    (into / "p" / "1" / "good").unlink()
    (into / ".mops-jobs.part").symlink_to(outside)
    ran = download(cli, into)
    assert (ran.code, outside.read_text()) == (1, "mine")
    assert ran.err.startswith(f"error: Cannot write {into / 'p' / '1' / 'good'}: ")


def test_a_download_goes_on_when_new_outputs_came(
    cli: Cli, jobs: JobRegistry, submitted: list[str], into: Path
) -> None:
    """What is there already stays as it is, and counts."""
    jobs.store.create_if_absent(submitted[0], b"{}")
    assert download(cli, into).code == 0
    path = into / place(TASKS[0])
    there = path.stat()
    jobs.store.create_if_absent(submitted[1], b"[]")
    ran = download(cli, into)
    assert (ran.code, ran.err) == (0, f"2 files in {into}; {into}/tasks.csv has the parameters of each task\n")
    assert path.stat().st_ino == there.st_ino
    assert (into / place(TASKS[1])).read_text() == "[]"
    assert (into / "tasks.csv").read_text().count("complete") == 2


@pytest.mark.claim("A download leaves existing files")
def test_a_file_of_other_content_stays(cli: Cli, jobs: JobRegistry, submitted: list[str], into: Path) -> None:
    """What a user has changed, or another job has left, is named; the others are downloaded."""
    for key in submitted:
        jobs.store.create_if_absent(key, b"{}")
    path = into / place(TASKS[0])
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    ran = download(cli, into)
    assert (ran.code, path.read_text()) == (7, "mine")
    told = f"{submitted[0]} is not downloaded: {path} has other content: remove it, or use another DIRECTORY."
    assert told in " ".join(ran.err.split())
    assert (into / place(TASKS[1])).read_text() == "{}"
    path.unlink()
    assert (download(cli, into).code, path.read_text()) == (0, "{}")


@pytest.mark.claim("A download leaves existing files")
def test_what_a_parent_left_is_replaced_by_its_child(
    cli: Cli, jobs: JobRegistry, submitted: list[str], into: Path
) -> None:
    """A file that equals what an ancestor has by that name came from there: the registry still has it."""
    for key in submitted:
        jobs.store.create_if_absent(key, b"old")
    assert download(cli, into).code == 0
    child = Manifest(
        job_id="job.2", study=study(sets_of(2)), bundle="sha256:" + "0" * 64, only=(1,), parent_job_id="job"
    )
    jobs.store.create_if_absent(manifest_key("job.2"), child.to_json())
    add(jobs, "job.2", "running", parent_job_id="job")
    jobs.store.create_if_absent(output_key("job.2", TASKS[1], "result.json"), b"newer")
    assert download(cli, into, "job.2").code == 0
    assert [(into / place(task)).read_text() for task in TASKS] == ["old", "newer"]


@pytest.mark.claim("A download leaves existing files")
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_table_of_another_program_stays(
    cli: Cli, jobs: JobRegistry, submitted: list[str], into: Path, kind: str
) -> None:
    """The table of tasks is written anew each time, but only over a table of tasks."""
    outside = into.parent / "outside"
    outside.write_text("mine")
    (into / "tasks.csv").symlink_to(outside) if kind == "link" else (into / "tasks.csv").write_text("mine")
    jobs.store.create_if_absent(submitted[0], b"{}")
    ran = download(cli, into)
    assert (ran.code, (into / "tasks.csv").read_text(), outside.read_text()) == (7, "mine", "mine")
    assert "The table of tasks was not written: " in ran.err
    assert (into / place(TASKS[0])).read_text() == "{}"


@pytest.mark.parametrize(
    ("status", "sentence"), [("failed", "has ended (failed) and has no outputs"), ("running", "has no outputs yet")]
)
def test_a_job_without_outputs_is_described_by_its_state(
    cli: Cli, jobs: JobRegistry, into: Path, status: str, sentence: str
) -> None:
    """Outputs of a job that has ended do not come any more."""
    add(jobs, "job", status)
    assert cli.ok("results", "job").err == f"Job job {sentence}.\n"
    ran = download(cli, into)
    assert (ran.code, ran.err) == (6, f"error: Job job {sentence}.\n")


def test_the_table_has_the_last_error_of_each_missing_task(
    cli: Cli, jobs: JobRegistry, submitted: list[str], into: Path
) -> None:
    """It is that of the events, which the cache need not have."""
    jobs.store.create_if_absent(submitted[0], b"{}")
    for number, message in ((0, "was retried"), (1, "first"), (1, "bad x")):
        cli.clock.advance(seconds=1)
        error = {"type": "ValueError", "message": message}
        record_event(jobs.store, "job", "task_failed", now=cli.clock.now, task=number, error=error)
    assert download(cli, into).code == 0
    with (into / "tasks.csv").open(encoding="utf-8", newline="") as file:
        assert [(row["status"], row["error"]) for row in csv.DictReader(file)] == [
            ("complete", ""),
            ("missing", "ValueError: bad x"),
        ]
