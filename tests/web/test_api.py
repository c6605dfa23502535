"""The API of `serve`: the documents of the commands, page by page, and the OpenAPI document about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.web.api import api
from mopsjobs.web.site.kept import read_results
from mopsjobs.web.site.memo import LastUsed
from support.cli import Cli, Remote, add
from support.ledgers import Ledger, add_job, attempt, leave_scalars
from support.web import Web


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return a few jobs of each kind, mirrored; the tasks of `night` and `resumed` too."""
    add(remote.jobs, "running-1", "running", owner="ada", labels={"exp": "7"}, tasks_total=4)
    add(remote.jobs, "failed-1", "failed", owner="grace", labels={"exp": "8"})
    sets = [{"params": {"beta": number / 10, "mode": "xy"[number % 2]}} for number in range(30)]
    add_job(remote.jobs, "night", sets)
    write = Ledger(remote.store.inner, "night")
    write(*(attempt(number, seconds=float(number % 5), max_rss_bytes=None) for number in range(20)))
    write(*(attempt(number, "failed") for number in range(20, 26)))
    remote.jobs.update_progress("night", 20, tasks_failed=6)
    add_job(remote.jobs, "twice", [{"params": {"beta": 1.0}}], n_replicates=4)
    other = Ledger(remote.store.inner, "twice", run="cd")
    other(attempt(0, "failed"), attempt(1), attempt(0, "lost", attempt=2))
    cli.ok("sync", "-q")
    for job in ("night", "twice"):
        cli.ok("tasks", job)
    web = Web(cli, capsys)
    for job in ("night", "twice"):
        web.site.results.put(job, read_results(job, web.app))
    return web


def pages(web: Web, path: str) -> list[Any]:
    """Return the documents of all pages, by their links."""
    found = []
    while path:
        answer = web.get(path)
        assert answer.status_code == 200, answer.text
        found.append(answer.get_json())
        path = answer.headers.get("Link", "").removeprefix("<").partition(">")[0]
        assert len(found) < 100
    return found


def test_the_api_tells_what_the_commands_print(web: Web, cli: Cli) -> None:
    """The same documents, from the same moment."""
    for query, flags in (("", ()), ("?status=failed", ("--status", "failed")), ("?limit=1", ("--limit", "1"))):
        assert web.get(f"/api/v1/jobs{query}").get_json() == cli.ok("list", "--json", *flags).json
    assert web.get("/api/v1/jobs/running-1").get_json() == cli.ok("status", "running-1", "--json").json


@pytest.mark.parametrize(
    ("query", "flags"),
    [
        ("", ()),
        ("&status=failed,waiting&limit=3", ("--status", "failed,waiting", "-n", "3")),
        (
            "&param=beta>0.9&param=mode=x",
            ("--param", "beta>0.9", "--param", "mode=x"),
        ),
    ],
)
def test_tasks_of_the_api_are_those_of_the_command(web: Web, cli: Cli, query: str, flags: tuple[str, ...]) -> None:
    """The same document; a prefix of the id is not one."""
    assert web.get(f"/api/v1/tasks?job=nig{query}").status_code == 404
    assert web.get(f"/api/v1/tasks?job=night{query}").get_json() == cli.ok("tasks", "night", "--json", *flags).json


@pytest.mark.parametrize(
    "query",
    [
        "job=night", "job=night&status=succeeded,lost", "job=night&param=beta>=1",
        "job=night&param=mode=x&status=waiting,failed", "job=twice", "job=twice&param=beta=1&status=waiting,lost",
    ],
)  # fmt: skip
def test_pages_of_tasks_have_each_task_once(web: Web, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """By their numbers, whether the limit or the size of the answer ends a page."""
    path = f"/api/v1/tasks?{query}"
    whole = web.get(f"{path}&limit=1000").get_json()
    assert whole["returned"] == whole["total"] > 0
    for limit, most in ((1, 10**6), (1000, 1), (4, 10**6)):
        with monkeypatch.context() as patch:
            patch.setattr(api, "MAX_ANSWER_BYTES", most)
            found = pages(web, f"{path}&limit={limit}")
        assert [task for page in found for task in page["tasks"]] == whole["tasks"]
        assert {page["total"] for page in found} == {whole["total"]}


def test_a_page_of_tasks_goes_on_where_the_last_one_ended(web: Web, cli: Cli, remote: Remote) -> None:
    """Tasks that end meanwhile move no other task to another page."""
    path = "/api/v1/tasks?job=night&limit=10&status=succeeded"
    first = web.get(path)
    Ledger(remote.store.inner, "night", run="ef")(*(attempt(number, seconds=9.0) for number in range(26, 30)))
    cli.ok("tasks", "night")
    link = first.headers["Link"].removeprefix("<").partition(">")[0]
    rest = [task for page in pages(web, link) for task in page["tasks"]]
    assert sorted(task["task"] for task in [*first.get_json()["tasks"], *rest]) == [*range(20), *range(26, 30)]


def test_results_of_the_api_are_the_rows_of_the_table(web: Web, cli: Cli, remote: Remote, tmp_path: Path) -> None:
    """As `results --table FILE.jsonl` writes them, page by page, with names and types of the columns."""
    leave_scalars(remote.jobs, "night", {number: {"peak": number / 3, "day": number} for number in range(20)})
    web.site.results.put("night", read_results("night", web.app))
    cli.ok("results", "night", "--table", str(tmp_path / "out.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 30
    whole = web.get("/api/v1/results?job=night").get_json()
    assert whole["rows"] == rows
    assert {one["name"]: one["type"] for one in whole["columns"]} == {
        "job_id": "text", "task": "integer", "param_id": "text", "beta": "number", "mode": "text", "seed": "unsigned",
        "status": "text", "seconds": "number", "error": "text", "day": "integer", "peak": "number",
    }  # fmt: skip
    for limit in (1, 7, 30):
        found = pages(web, f"/api/v1/results?job=night&limit={limit}")
        assert [row for page in found for row in page["rows"]] == rows
        assert {(page["total"], page["stale"]) for page in found} == {(30, False)}
    assert web.get("/api/v1/results?job=night&after=29").get_json()["rows"] == []


def test_results_that_were_not_read_are_read_for_the_next_request(web: Web, remote: Remote) -> None:
    """Between syncs, as for a page; the request itself asks the registry nothing."""
    web.site.results = LastUsed(10)
    web.site.reads = web.site.make_reads()
    before = dict(remote.store.calls)
    answer = web.get("/api/v1/results?job=twice")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.get_json()["detail"] == "The results of twice: Being read from the registry."
    assert remote.store.calls == before
    assert web.site.reads.run_next(0)
    assert web.get("/api/v1/results?job=twice").get_json()["returned"] == 4


@pytest.mark.parametrize("kind", ["tasks", "failures", "results"])
def test_a_job_of_another_program_is_not_asked_for_again(web: Web, kind: str) -> None:
    """A 503 would say that its tasks may be there later."""
    answer = web.get(f"/api/v1/{kind}?job=running-1")
    assert (answer.status_code, "did not submit this job" in answer.get_json()["detail"]) == (404, True)


def test_failures_of_the_api_are_those_of_the_command(
    web: Web, cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of named jobs and of filtered ones, also reported ones; what was compared is kept for the next view."""
    add(remote.jobs, "theirs", "failed", error_code="E", error_message="bad")
    cli.ok("sync", "-q")
    for query, flags in (("job=theirs", ["theirs"]), ("", ["--limit", "100"])):
        document = web.get(f"/api/v1/failures?{query}").get_json()
        assert document == cli.ok("failures", *flags, "--json").json
        assert document["groups"][-1]["jobs"] == ["theirs"]
    assert web.get("/api/v1/failures?job=night").get_json() == cli.ok("failures", "night", "--json").json
    assert web.get("/api/v1/failures?name=nig*").get_json() == cli.ok("failures", "--name", "nig*", "--json").json
    [group] = web.get("/api/v1/failures?job=night").get_json()["groups"]
    assert [one["condition"] for one in group["separates"]] == ["beta > 1.9"]
    whole = web.get("/api/v1/failures?job=night&job=twice").get_json()
    monkeypatch.setattr(api, "MAX_ANSWER_BYTES", 1)
    found = pages(web, "/api/v1/failures?job=night&job=twice")
    assert [group for page in found for group in page["groups"]] == whole["groups"]
    assert web.get("/api/v1/failures?job=night&after=nope").status_code == 400


def test_a_job_whose_ledger_was_never_synced_is_told(web: Web, cli: Cli, remote: Remote) -> None:
    """With the command that syncs it; no request asks the registry. Filters count a job by its record."""
    add_job(remote.jobs, "unseen", [{"params": {"beta": 1.0}}])
    cli.ok("sync")
    before = dict(remote.store.calls)
    for path in ("tasks", "failures"):
        answer = web.get(f"/api/v1/{path}?job=unseen")
        assert answer.status_code == 503
        assert answer.get_json()["hint"] == "Run: mops-jobs tasks unseen"
        assert web.get(f"/api/v1/{path}?job=nope").status_code == 404
    assert web.get("/api/v1/failures?status=failed").get_json()["jobs"] == ["failed-1"]
    assert remote.store.calls == before


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("tasks", "missing job: expected the id of a job"),
        ("tasks?job=night&param=beta", "invalid condition 'beta'"),
        ("results?job=night&after=x", "invalid after 'x': expected the number of a task"),
        ("failures?job=night&owner=ada", "Jobs and filters contradict each other"),
        (f"failures?{'&'.join(['job=night'] * 101)}", "too many jobs (101)"),
    ],
)
def test_a_bad_query_about_tasks_is_told(web: Web, path: str, sentence: str) -> None:
    """It is 400, with the words that the command has for it."""
    answer = web.get(f"/api/v1/{path}")
    assert answer.status_code == 400
    assert sentence in answer.get_json()["detail"]


def test_events_of_the_api_are_those_of_the_command(cli: Cli, jobs: JobRegistry, capsys: Any) -> None:
    """Line by line, and from a cursor on."""
    cli.ok("register", "a", "-q")
    cli.ok("progress", "a", "1/2", "-q")
    cli.ok("sync", "-q")
    printed = cli.ok("events", "--json").lines
    web = Web(cli, capsys)
    lines = web.ok("/api/v1/events").splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(line) for line in printed]
    cursor = json.loads(lines[0])["cursor"]
    assert web.ok(f"/api/v1/events?since={cursor}&job=a").splitlines() == lines[1:]
    assert web.get("/api/v1/events").mimetype == "application/x-ndjson"


def test_a_scrape_gets_what_the_command_prints(web: Web, cli: Cli) -> None:
    """The same text, under the type that Prometheus knows it by."""
    answer = web.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert answer.text == cli.ok("metrics").out


def test_schemathesis_finds_nothing(web: Web, pytestconfig: pytest.Config) -> None:
    """Whatever the OpenAPI document allows is answered as it says; and so is what it does not allow.

    With `--long`, twice as many requests are drawn.
    """
    import hypothesis
    import schemathesis
    from hypothesis import strategies
    from schemathesis import checks

    document = web.get("/api/v1/openapi.json").get_json()
    schema = schemathesis.openapi.from_dict(document)
    found: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy(), job=strategies.sampled_from((None, "night", "twice")))
        @hypothesis.settings(
            max_examples=10 * (1 + pytestconfig.option.long),
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def ask(case: Any, job: str | None) -> None:
            if job is not None and "job" in (case.query or {}):  # a drawn id is hardly that of a job
                case.query["job"] = job
            plain = {"Accept-Encoding": "identity"}  # schemathesis does not unpack what a WSGI application returns
            response = case.call(app=web.client.application, base_url="http://localhost", headers=plain)
            case.validate_response(
                response,
                checks=[
                    checks.not_a_server_error,
                    checks.CHECKS.get_one("status_code_conformance"),
                    checks.CHECKS.get_one("content_type_conformance"),
                    checks.CHECKS.get_one("response_schema_conformance"),
                ],
            )
            found.append(case.path)

        ask()
    assert set(found) == set(document["paths"])
    assert len(document["paths"]) == 8


def test_the_openapi_document_is_valid(web: Web) -> None:
    """Its schemas are JSON Schemas, each path in it is answered, and the page of the API has it."""
    document = web.get("/api/v1/openapi.json").get_json()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert document["openapi"] == "3.1.0"
    page = web.ok("/api")
    for path, operation in document["paths"].items():
        needed = [one["name"] for one in operation["get"].get("parameters", ()) if one.get("required")]
        query = "?job=night" if "job" in needed else ""
        assert web.get(path.replace("{job_id}", "running-1") + query).status_code == 200
        assert path in page
