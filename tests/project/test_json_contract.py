"""What `--json` prints is a promise: it fits the schema that ships, fields are only added, times end in `Z`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mopsjobs.cache.job_json import job_fields
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.ledger.environment import encode_environment, environment_of_worker
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import JobStatus
from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardUsage
from support.calibrated import put_calibration
from support.cli import Cli, Remote, add, foreign, key
from support.ledgers import BUNDLE, Ledger, add_job, attempt, leave_scalars
from support.runs import code, place, sets_of, study

JOB_FIELDS = [*job_fields()]

PROMISED_JOB_FIELDS = [
    "job_id", "status", "created_at", "updated_at", "k8s_name", "k8s_namespace", "k8s_uid", "tasks_total",
    "tasks_completed", "error_message", "error_code", "results_path", "expected_outputs", "verified_outputs",
    "missing_outputs", "tasks_verified", "validation_started_at", "validation_completed_at", "validation_attempts",
    "last_validation_error", "metadata", "write_id", "revision", "transitions", "tasks_failed", "heartbeat_at",
    "shards", "owner", "labels", "engine", "parent_job_id", "usage", "forecast", "progress", "is_active",
    "status_since", "started_at", "ended_at",
    "duration_seconds", "queued_seconds", "run_seconds", "max_cpu_hours", "precision", "calibration", "suspect",
    "cpu_seconds", "task_seconds", "held_core_seconds", "saved_seconds", "cpu_efficiency", "max_rss_bytes",
    "eta_earliest", "eta_latest", "eta_basis", "stragglers", "time_limit_at",
]  # fmt: skip
"""As of version 1, in their order. The schema may have more; none may go, and none may move."""

ONLY_FIELDS = ["engine_says", "engine_stop", "family"]
"""Fields of a job that one command alone prints, and that only when it has something to say in them."""
LIST_FIELDS = [
    "schema_version", "generated_at", "synced_at", "age_seconds", "stale", "foreign_writes_known_to", "registry",
    "registry_from", "total",
    "returned", "jobs",
]  # fmt: skip
SYNC_FIELDS = [
    "schema_version", "already_running", "mode", "synced_at", "seconds", "seen", "added", "changed", "unchanged",
    "removed", "fetched", "problems", "events_added", "attempts_added",
]  # fmt: skip
RUNNING_FIELDS = ["running_since", "running_pid", "progress_at", "stalled"]
"""What `sync` tells of another one, behind the first two fields, when that is at work."""
TASKS_FIELDS = [
    "schema_version", "generated_at", "synced_at", "age_seconds", "stale", "registry", "registry_from", "job_id",
    "status", "basis", "complete", "problems", "varying", "tasks_total", "total", "returned", "tasks",
]  # fmt: skip
TASK_FIELDS = [
    "task", "params", "seed", "param_id", "shard", "outcome", "attempt", "started_at", "seconds", "cpu_seconds",
    "max_rss_bytes", "host", "output_bytes", "error_key", "error_message", "error_type", "error_where",
    "resumed_at", "resumed_seconds", "resumes",
]  # fmt: skip
SUMMARY_FIELDS = [
    "schema_version", "generated_at", "synced_at", "age_seconds", "stale", "foreign_writes_known_to", "registry",
    "registry_from", "total",
    "by_status", "by_owner", "by_day", "failure_rate", "queue_seconds", "run_seconds", "oldest_active",
    "usage", "budget",
]  # fmt: skip
FAILURES_FIELDS = [
    "schema_version", "generated_at", "synced_at", "age_seconds", "stale", "foreign_writes_known_to", "registry",
    "registry_from", "jobs", "jobs_without_error", "failed", "failed_without_reason", "more_groups", "groups",
]  # fmt: skip
QUERY_FIELDS = [
    "schema_version", "synced_at", "age_seconds", "stale", "foreign_writes_known_to", "results", "columns",
    "returned", "truncated", "rows",
]  # fmt: skip
PLAN_FIELDS = [
    "schema_version", "job_id", "tasks_total", "duplicate_tasks", "reused_tasks", "bundle", "engine", "bundle_files",
    "bundle_bytes", "python", "dry_run", "tasks", "cpu_hours", "wall_seconds", "workers", "start_up_seconds",
    "output_bytes", "requests", "price", "basis",
]  # fmt: skip
DOCTOR_FIELDS = ["schema_version", "checks", "problems"]
PRUNE_FIELDS = [
    "schema_version", "dry_run", "ended_before", "jobs", "chunks", "ledger_chunks", "checkpoints", "announcements",
    "refused", "without_record", "claims", "offers",
]  # fmt: skip
PRUNED_CACHE_FIELDS = ["events", "kept", "local_checkpoints"]
VERSION_FIELDS = [
    "schema_version", "version", "build", "file", "directory", "python_version", "python_implementation",
    "python_executable", "platform", "sqlite_version", "libraries",
]  # fmt: skip
"""As of version 1, in their order. A name may be added to these lists; none may go, and none may move."""


@pytest.fixture
def everything(cli: Cli, remote: Remote) -> None:
    """Register jobs in every state, of two programs, with all fields and with the fewest, and a bad record."""
    for status in JobStatus:
        add(remote.jobs, f"ours-{status}", status, owner="ada", labels={"exp": "7"}, tasks_total=3)
        remote.put(key(f"theirs-{status}"), foreign(f"theirs-{status}", status))
    remote.jobs.update_progress("ours-running", 1)
    full = {name: f"a {name}" for name in ("k8s_uid", "error_message", "error_code", "results_path", "owner", "engine")}
    more: dict[str, object] = {"heartbeat_at": "2026-03-01T10:00:00+02:00", "validation_started_at": "2026-03-01 10:00"}
    outputs = {"missing_outputs": ["a", {"b": 1}], "expected_outputs": [1], "validation_attempts": 2}
    more |= {"tasks_total": 2.0, "unknown": {"x": 1}}
    remote.put(key("full"), foreign("full", "hibernating", **full, **more, **outputs))
    least = {"job_id": "least", "status": "failed", "created_at": "2026-03-01T10:00:00", "updated_at": "2026-03-01"}
    remote.put(key("least"), json.dumps(least))
    remote.put(key("nulls"), json.dumps({**dict.fromkeys(JOB_FIELDS[:30]), **least, "job_id": "nulls"}))
    remote.put(key("bad"), "{")
    remote.put("jobs/full/notes.txt", "")
    assert cli("sync", "-q").code == 7


def _check(cli: Cli, name: str, document: object, fields: list[str] | None = None) -> None:
    """Compare a document with its schema, and its fields with those that were promised."""
    assert fields is None or (isinstance(document, dict) and list(document) == fields)
    schema = cli.ok("schema", name).json
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    assert "date-time" in checker.checkers
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(document)


@pytest.mark.parametrize("flags", [(), ("--status", "failed"), ("--limit", "1"), ("--param", "x>9"), ("--offline",)])
def test_tasks_keeps_its_promise(cli: Cli, remote: Remote, flags: tuple[str, ...]) -> None:
    """`tasks --json` fits its schema, with tasks of every outcome and with none; `--jsonl` has the same tasks."""
    add_job(remote.jobs, "job", sets_of(10))
    attempts = [attempt(number, str(outcome)) for number, outcome in enumerate(Outcome)]
    Ledger(remote.store.inner)(*attempts, attempt(8, started_at=None, seconds=None, user_seconds=None, host=None))
    cli.ok("tasks", "job")
    document = cli.ok("tasks", "job", "--json", *flags).json
    _check(cli, "tasks", document, TASKS_FIELDS)
    assert all(list(task) == TASK_FIELDS for task in document["tasks"])
    assert cli.ok("tasks", "job", "--jsonl", *flags).objects == document["tasks"]


def test_plans_keep_their_promise(cli: Cli, remote: Remote) -> None:
    """`submit --dry-run --json` fits its schema, with nothing measured, and with all that a plan can tell."""
    code(Path.cwd() / "desk")
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    words = ("submit", "study.json", "--bundle", BUNDLE, "--dry-run", "--json")
    config = Path(cli.env["HOME"], ".config", "mops-jobs", "config.toml")
    config.parent.mkdir(parents=True)
    config.write_text('[prices]\ncurrency = "EUR"\ncore_hour = 0.05\ngib_month = 0.02\n')
    document = cli.ok(*words).json
    _check(cli, "plan", document)
    assert (list(document), document["cpu_hours"]) == (PLAN_FIELDS, None)
    add_job(remote.jobs, "job", sets_of(3))
    remote.jobs.report_shard("job", 0, 1, ShardReport(3, 0, is_done=True, usage=ShardUsage(6.0, 7.0, 8.0, None)))
    remote.jobs.update_status("job", "succeeded")
    Ledger(remote.store.inner)(*(attempt(number) for number in range(3)))
    cli.ok("sync")
    document = cli.ok(*words).json
    _check(cli, "plan", document, PLAN_FIELDS)
    assert None not in document["price"].values()
    assert None not in document["requests"].values()


def test_prune_keeps_its_promise(cli: Cli, remote: Remote) -> None:
    """`prune --json` fits its schema, with nothing to remove and with something, before and after."""
    prune = ("prune", "--store", "--older-than", "30d", "--json")
    for flags in (("--dry-run",), ("--yes",)):
        _check(cli, "prune", cli.ok(*prune, *flags).json)
    add(remote.jobs, "job", "succeeded")
    cli.clock.advance(days=41)
    for flags in (("--dry-run",), ("--yes",)):
        document = cli.ok(*prune, *flags).json
        _check(cli, "prune", document, PRUNE_FIELDS)
        assert document["announcements"]["count"] > 0
    for flags in (("--dry-run",), ("--yes",), ("--yes",)):
        document = cli.ok("prune", "--older-than", "30d", "--json", *flags).json
        _check(cli, "prune", document, [*PRUNE_FIELDS[:4], *PRUNED_CACHE_FIELDS])


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize(
    ("name", "fields", "argv"),
    [
        ("list", LIST_FIELDS, ["list"]),
        ("list", LIST_FIELDS, ["list", "--limit", "0"]),
        ("list", LIST_FIELDS, ["list", "--status", "partial"]),
        ("list", LIST_FIELDS, ["list", "--owner", "eve"]),
        ("list", LIST_FIELDS, ["list", "--refresh"]),
        ("summary", SUMMARY_FIELDS, ["summary"]),
        ("summary", SUMMARY_FIELDS, ["summary", "--status", "active"]),
        ("summary", SUMMARY_FIELDS, ["summary", "--owner", "eve"]),
        ("summary", SUMMARY_FIELDS, ["summary", "--refresh"]),
        ("query", QUERY_FIELDS, ["query", "SELECT * FROM jobs"]),
        ("query", QUERY_FIELDS, ["query", "SELECT 1 WHERE false"]),
        ("query", QUERY_FIELDS, ["query", "SELECT 1.5 AS a, x'00' AS b, NULL AS c"]),
        ("version", VERSION_FIELDS, ["version"]),
    ],
)
def test_a_document_keeps_its_promise(cli: Cli, name: str, fields: list[str], argv: list[str]) -> None:
    """It fits its schema, with many jobs or rows, with few and with none. All its fields are there in their order."""
    document = cli.ok(*argv, "--json").json
    _check(cli, name, document, fields)
    if name == "list":
        assert document["returned"] == len(document["jobs"]) <= document["total"]


def test_no_field_of_a_job_goes_or_moves() -> None:
    """The fields of version 1 are there, in their order."""
    assert [name for name in JOB_FIELDS if name in PROMISED_JOB_FIELDS] == PROMISED_JOB_FIELDS


@pytest.mark.usefixtures("everything")
def test_status_prints_the_job_itself(cli: Cli) -> None:
    """`status --json` is the very object that the list has."""
    for job in cli.ok("list", "--json", "--limit", "0").json["jobs"]:
        assert cli.ok("status", job["job_id"], "--json").json == job


def test_failures_keeps_its_promise(cli: Cli, remote: Remote) -> None:
    """`failures --json` fits its schema, with groups, with a condition, and without jobs."""
    _check(cli, "failures", cli.ok("failures", "--json").json)
    add_job(remote.jobs, "job", [{"params": {"n": number}} for number in range(40)])
    attempts = [
        attempt(number, "failed" if number > 30 else "oom" if number < 2 else "succeeded") for number in range(40)
    ]
    Ledger(remote.store.inner)(*attempts)
    document = cli.ok("failures", "job", "--json").json
    _check(cli, "failures", document, FAILURES_FIELDS)
    assert [group["count"] for group in document["groups"]] == [9, 2]
    assert [one["condition"] for one in document["groups"][0]["separates"]] == ["n > 30"]
    add_job(remote.jobs, "few", [{"params": {"n": number % 5 * 10, "m": number // 5}} for number in range(20)])
    Ledger(remote.store.inner, "few")(
        *(attempt(task, "failed" if task % 5 > 1 and task > 9 else "succeeded") for task in range(20))
    )
    document = cli.ok("failures", "few", "--json").json
    _check(cli, "failures", document)
    assert [one["failed_sets"] for one in document["groups"][0]["suspected"]] == [6]


def test_explanations_keep_their_promise(cli: Cli, remote: Remote) -> None:
    """`results --explain --json` fits its schema, with a condition, and without a number."""
    add_job(remote.jobs, "job", [{"params": {"n": number}} for number in range(100)], attempts=map(attempt, range(100)))
    leave_scalars(remote.jobs, "job", {number: {"loss": number} if number else {"x": 1} for number in range(100)})
    document = cli.ok("results", "job", "--explain", "loss", "--json").json
    _check(cli, "explain", document)
    assert [one["condition"] for one in document["separates"]] == ["n <= 10"]
    assert document["left_out"]["not_finite"] == 1


def test_calibrations_keep_their_promise(cli: Cli, remote: Remote) -> None:
    """`results --best --json` and `--explain --json` of a calibration fit their schemas, with sets and with none."""
    put_calibration(remote.jobs, "cal", 20)
    put_calibration(remote.jobs, "new", 0)
    cli.ok("sync")
    for job_id in ("cal", "new"):
        _check(cli, "calibration", cli.ok("results", job_id, "--best", "--json").json)
        _check(cli, "explain", cli.ok("results", job_id, "--explain", "--json").json)


@pytest.mark.usefixtures("everything")
def test_lines_of_watch_and_list_keep_the_promise_of_a_job(cli: Cli) -> None:
    """Each of their lines fits the schema of a job, and has every field, in the order of the schema."""

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    cli.clock.on_sleep = stop
    watched, listed = cli("watch", "--json").objects, cli.ok("list", "--jsonl", "--limit", "0").objects
    assert (len(watched) > 0, len(listed)) == (True, 21)
    for job in [*watched, *listed]:
        _check(cli, "job", job, JOB_FIELDS)


@pytest.mark.usefixtures("everything")
def test_sync_keeps_its_promise(cli: Cli) -> None:
    """`sync --json` fits its schema, with problems, and all its fields are there in their order."""
    document = cli("sync", "--json", "--full").json
    _check(cli, "sync", document, SYNC_FIELDS)
    assert [problem["kind"] for problem in document["problems"]] == ["unreadable", "not_a_record", "unknown_status"]


@pytest.mark.usefixtures("everything")
def test_doctor_keeps_its_promise(cli: Cli, remote: Remote) -> None:
    """`doctor --json` fits its schema, in good times and in bad."""
    document = cli("doctor", "--json").json
    _check(cli, "doctor", document, DOCTOR_FIELDS)
    remote.store.down = True
    _check(cli, "doctor", cli("doctor", "--json").json)


def test_every_command_that_prints_a_job_keeps_its_promise(cli: Cli, jobs: JobRegistry) -> None:
    """`register`, `progress`, `update`, `note`, `label`, `status`, `wait` and `cancel` print the same object."""
    for argv in (
        ("register", "a", "--owner", "ada", "--total", "4"), ("progress", "a", "1/4", "--failed", "1"),
        ("update", "a", "--label", "x=y"), ("note", "a", "x"), ("label", "a", "x-"), ("status", "a"),
        ("cancel", "a"), ("wait", "a"),
    ):  # fmt: skip
        job = cli(*argv, "--json").json
        _check(cli, "job", job)
        more = ["engine_stop"] if argv[0] == "cancel" else []
        assert list(job) == [*JOB_FIELDS, *more], argv


def test_a_job_of_which_only_its_engine_tells_keeps_the_promise(cli: Cli, remote: Remote) -> None:
    """What only the record tells is null then, and only then: the schema holds a record that was read to its values."""
    directory = JobDir.for_job("mine", cli.env).path
    directory.mkdir(parents=True)
    (directory / "runner.json").write_text("{}")
    remote.store.down = True
    job = cli.ok("status", "mine", "--json").json
    assert (job["status"], job["created_at"], job["tasks_total"], job["labels"]) == (None, None, None, None)
    _check(cli, "job", job)
    del job["engine_says"]
    with pytest.raises(jsonschema.ValidationError):
        _check(cli, "job", job)


@pytest.mark.usefixtures("everything")
def test_times_are_utc_with_a_z(cli: Cli) -> None:
    """Whatever form a record's writer chose, each time that leaves is RFC 3339 in UTC and ends in `Z`."""
    (job,) = cli.ok("list", "--json", "--match", "^full$").json["jobs"]
    assert job["heartbeat_at"] == "2026-03-01T08:00:00Z"
    assert job["validation_started_at"] == "2026-03-01T10:00:00Z"
    document = cli.ok("list", "--json", "--limit", "0").json
    for text in _times(document):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", text), text


def _times(value: Any, name: str = "") -> list[str]:
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in _times(item, key)]
    if isinstance(value, list):
        return [text for item in value for text in _times(item)]
    return [value] if isinstance(value, str) and (name == "at" or name.endswith(("_at", "_since"))) else []


@pytest.mark.usefixtures("everything")
def test_what_is_not_known_is_null(cli: Cli) -> None:
    """A field that a record lacks, or has as null, is there: null, or the empty value of its type."""
    for name in ("least", "nulls"):
        job = cli.ok("status", name, "--json").json
        assert {job[field] for field in ("k8s_name", "error_code", "owner", "write_id", "heartbeat_at")} == {None}
        assert (job["tasks_total"], job["labels"], job["transitions"], job["progress"]) == (0, {}, [], None)
        assert (job["queued_seconds"], job["run_seconds"]) == (None, None)


@pytest.mark.usefixtures("everything")
def test_fields_that_are_unknown_here_stay_inside(cli: Cli) -> None:
    """What another program added to its record is carried along, but no part of this promise."""
    assert "unknown" not in cli.ok("status", "full", "--json").json


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("job", [*JOB_FIELDS, *ONLY_FIELDS]),
        ("list", LIST_FIELDS),
        ("sync", [*SYNC_FIELDS, *RUNNING_FIELDS]),
        ("doctor", DOCTOR_FIELDS),
        ("prune", [*PRUNE_FIELDS, *PRUNED_CACHE_FIELDS]),
        ("version", VERSION_FIELDS),
        ("plan", PLAN_FIELDS),
    ],
)
def test_the_schema_describes_every_field(cli: Cli, name: str, fields: list[str]) -> None:
    """Each field that is printed is in the schema with a description, and the schema allows more to come."""
    schema = cli.ok("schema", name).json
    assert list(schema["properties"]) == fields
    assert all(described.get("description") for described in schema["properties"].values())
    assert schema.get("additionalProperties", True) is True
    assert set(schema["required"]) <= set(fields)


PROVENANCE_FIELDS = [
    "schema_version", "job_id", "parent_job_id", "status", "owner", "engine", "created_at", "started_at", "ended_at",
    "submitted_by", "study", "calibration", "from_calibration", "bundle", "reused", "git_commit", "git_dirty",
    "files", "files_read", "environments", "old_checkpoints", "image", "image_digest", "hosts",
]  # fmt: skip
DIFF_FIELDS = ["schema_version", "first", "second", "code", "study", "environment", "image", "results"]


def test_provenance_and_diff_keep_their_promises(remote: Remote, cli: Cli, tmp_path: Path) -> None:
    """With a manifest and an environment, and of a job that was only reported."""
    for job_id, source in (("a", "x = 1\n"), ("b", "x = 2\n"), ("reported", None)):
        add(remote.jobs, job_id, "succeeded")
        remote.put(f"results/{job_id}/p/1/out", job_id)
        if source is not None:
            place(remote.store, job_id, study(sets_of(2), scenario=f"of {job_id}"), code(tmp_path / job_id, source))
            answer = {"python": "3.12.4", "packages": {"numpy": job_id}}
            remote.put(*encode_environment(job_id, environment_of_worker(answer)))
    for job_id in ("a", "reported"):
        document = cli.ok("provenance", job_id, "--json").json
        _check(cli, "provenance", document, PROVENANCE_FIELDS)
        for flags in ([], ["--code"], ["--without-results"]):
            document = cli.ok("diff", job_id, "b", "--json", *flags).json
            _check(cli, "diff", document, DIFF_FIELDS)
