"""All views of the jobs of a registry, each brought down to statements that can be compared.

A statement is a fact of a job, such as `status` or `rows`, and its value. Two views that give one fact two values
contradict each other, and so does a view that contradicts the model.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mopsjobs as mj
from reliability.trial import hold
from reliability.views import reading
from reliability.views.commands import Machine, Ran
from reliability.views.model import SUCCEEDED, UNKNOWN, World

LIST_OF_ARCHIVED = "list --label archived=true"
QUERY = "query"


class Views:
    """The views of one machine."""

    def __init__(self, machine: Machine, name: str, world: World, directory: Path) -> None:
        self._machine = machine
        self.name = name
        self._world = world
        self._directory = directory
        self.downloads = 0
        directory.mkdir()

    def sync(self) -> None:
        """Sync the cache."""
        ran = self._machine.look("sync")
        hold(ran.code == 0, f"sync ended with {ran.code}: {ran.err}")

    # --- all jobs at once ------------------------------------------------------------------------------------------

    def lists(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what each list says of each of its jobs, by the list and the id."""
        look = self._machine.look
        columns = "job_id,status,tasks_completed,tasks_total"
        tsv = [line.split("\t") for line in look("list", "--tsv", "--limit", "0", "--fields", columns).out.splitlines()]
        found = {
            "list --json": reading.by_id(look("list", "--json", "--limit", "0").json["jobs"]),
            "list --jsonl": reading.by_id(look("list", "--jsonl", "--limit", "0").objects),
            LIST_OF_ARCHIVED: reading.by_id(
                look("list", "--json", "--limit", "0", "--label", "archived=true", "--status", "done").json["jobs"]
            ),
            "list -q": {job_id: {"id": job_id} for job_id in look("list", "-q", "--limit", "0").out.split()},
            "list --tsv": {
                job_id: {"status": status, "completed": int(done or 0), "total": int(total) if total else None}
                for job_id, status, done, total in tsv
            },
            QUERY: reading.by_id(look("query", "--json", "SELECT * FROM jobs").json["rows"]),
        }
        with self._machine.python() as registry:
            found["Python jobs()"] = reading.by_id(registry.jobs().rows)
        with self._machine.page() as ask:
            found["API jobs"] = reading.by_id(json.loads(ask("/api/v1/jobs?limit=500")[1])["jobs"])
            # Without a filter, a group shows its first jobs, and counts the others.
            pages = [ask(f"/jobs?status={group}")[1] for group in ("active", "done")]
            names = {name for page in pages for name, _ in reading.page_sweeps(page)}
            pages += [
                ask(f"/jobs?status={group}&label=sweep={name}")[1] for name in names for group in ("active", "done")
            ]
            rows = [row for page in pages for row in reading.page_rows(page)]
            found["page /jobs"] = {job_id: facts for job_id, facts in rows if not job_id.startswith("/sweep/")}
        return found

    def sweeps(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what each list for people says of each sweep, by the list and the name."""
        lines = map(reading.sweep_of_list, self._machine.look("list", "--limit", "0").out.splitlines())
        with self._machine.page() as ask:
            counts: dict[str, Counter[str]] = defaultdict(Counter)
            for group in ("active", "done"):
                for name, statuses in reading.page_sweeps(ask(f"/jobs?status={group}")[1]):
                    counts[name].update(dict(statuses))
        return {
            "list": dict(filter(None, lines)),
            "page /jobs": {name: {"statuses": tuple(sorted(found.items()))} for name, found in counts.items()},
        }

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many jobs there are by status, as each view counts them."""
        summary = self._machine.look("summary", "--json").json["by_status"]
        told = re.findall(
            r'^mops_jobs\{namespace="[^"]*",status="(\w+)"\} (\d+)', self._machine.look("metrics").out, re.MULTILINE
        )
        metrics: dict[str, int] = defaultdict(int)
        for status, count in told:
            metrics[status] += int(count)
        query = self._machine.look("query", "--json", "SELECT status, count(*) AS jobs FROM jobs GROUP BY status")
        counted = {
            "summary": summary,
            "metrics": metrics,
            "query": {row["status"]: row["jobs"] for row in query.json["rows"]},
        }
        return {view: {status: count for status, count in found.items() if count} for view, found in counted.items()}

    # --- one job ---------------------------------------------------------------------------------------------------

    def record(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the views of a record, and what each states."""
        look = self._machine.look
        ran = look("status", job_id, "--json")
        yield "status --json", reading.of_ran(ran, "id", lambda ran: reading.with_family(ran.json))
        yield "status", reading.status_facts(look("status", job_id))
        yield "status --exit-status", {"exit code": look("status", job_id, "--exit-status", "-q").code}
        with self._machine.python() as registry:
            yield "Python job()", reading.python(lambda: {"id": registry.job(job_id).id})
            job = mj.Job(registry, job_id)
            yield "Python status()", reading.python(lambda: reading.record_facts(job.status()))
            yield "Python raise_for_status()", {"exit code": reading.exit_code(job)}
        with self._machine.page() as ask:
            facts = reading.of_page(ask(f"/api/v1/jobs/{job_id}"), lambda text: reading.with_family(json.loads(text)))
            yield "API job", facts
            yield "page of the job", reading.of_page(ask(f"/jobs/{job_id}"), reading.page_facts)

    def waits(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what `wait` says, which asks the registry."""
        ran = self._machine.look("wait", job_id, "--timeout", "0s", "--json")
        yield "wait", {"exit code": ran.code, **(reading.record_facts(ran.objects[-1]) if ran.out else {})}

    def inside(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the views of the tasks of a job, and what each states."""
        look, is_search = self._machine.look, self._world.jobs[job_id].search is not None
        for view, (fact, words, of_ran) in COMMANDS.items():
            yield view, reading.of_ran(look(*words.format(job_id).split()), fact, of_ran)
        yield "query of tasks", self._query_tasks(job_id)
        for form in ("csv", "jsonl"):
            ran, listed = self._table(job_id, form)
            is_told = ran.code == reading.EXIT_PARTLY_DONE
            told = {"rows": reading.error(ran)} if listed is None else reading.rows(listed, is_told=is_told)
            yield f"results --table .{form}", told
        ran, listed = self._table(job_id, "csv", "--by", "set")
        yield "results --by set", {"means": reading.error(ran)} if listed is None else reading.means(listed)
        with self._machine.python() as registry:
            for view, (fact, of_job) in PYTHON.items():
                yield view, reading.python(lambda of_job=of_job: of_job(mj.Job(registry, job_id)), fact)  # type: ignore[misc]
        yield from self._by_page(job_id)
        if is_search:
            ran = look("results", job_id, "--json", "--best")
            yield "results --best", {"calibration": reading.calibration(ran.json["calibration"])}
            sets = [(one["value"], one["round"]) for one in ran.json["sets"]]
            yield "sets of results --best", {"best set": sets[0] if sets else (None, None)}
        compared = self._world.contrast(job_id, self.name)
        if compared is None:
            return
        ran = look("results", job_id, "--contrast", compared[0], "--json")
        yield "results --contrast", reading.contrast(ran.json)
        with self._machine.python() as registry:
            document = mj.Job(registry, job_id).results().contrast(compared[0])
            yield "Python contrast()", reading.contrast(document)

    def download(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what a download leaves."""
        directory = self._directory / f"download-{self.downloads}"
        self.downloads += 1
        ran = self._machine.look("results", job_id, "--download", str(directory))
        found = sorted(json.loads(path.read_text())["y"] for path in directory.rglob("result.json"))
        yield "results --download", {"values": tuple(found), **reading.of_ran(ran, "download ended with", lambda _: {})}

    def _query_tasks(self, job_id: str) -> dict[str, Any]:
        """Read the tasks of the ledger in the cache, which has no row for a task without an attempt."""
        sql = f"SELECT job_id, task, outcome FROM tasks WHERE job_id = '{job_id}' ORDER BY task"
        ran = self._machine.look("query", "--json", "--limit", "0", sql)
        failed = [row for row in ran.json["rows"] if row["outcome"] in reading.FAILED]
        return {"failures in the ledger": len(failed)} if self._world.jobs[job_id].study is not None else {}

    def _table(self, job_id: str, form: str, *more: str) -> tuple[Ran, list[dict[str, Any]] | None]:
        """Return the run of `results --table`, and the rows of its file; None if it made none."""
        path = self._directory / f"table.{form}"
        path.unlink(missing_ok=True)
        ran = self._machine.look("results", job_id, "--table", str(path), *more)
        if not path.exists():
            return ran, None
        text = path.read_text()
        return ran, reading.csv_rows(text) if form == "csv" else [*map(json.loads, text.splitlines())]

    def _by_page(self, job_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if job_id in self._world.caches[self.name].pruned or self._world.jobs[job_id].study is None:
            return
        rows = self._world.rows(job_id).items()
        is_whole = not any(self._world.is_deleted(owner, task) for task, (owner, _) in rows)
        with self._machine.page() as ask:
            for view, (path, read) in PAGES.items():
                facts = reading.of_page(ask(path.format(job_id)), read)
                # The server keeps what it read before.
                yield view, {fact: facts[fact] for fact in facts if is_whole or fact not in ("means", "rows")}


COMMANDS: dict[str, tuple[str, str, Callable[[Ran], dict[str, Any]]]] = {
    "tasks --json": ("tasks", "tasks {} --json --limit 0", lambda ran: reading.task_facts(ran.json["tasks"])),
    "tasks --jsonl": ("tasks", "tasks {} --jsonl --limit 0", lambda ran: reading.task_facts(ran.objects)),
    "failures": ("failures", "failures {} --json", lambda ran: reading.failures(ran.json)),
    "results --json": ("outputs", "results {} --json", lambda ran: reading.outputs(ran.objects)),
}
"""Of each view of tasks by a command: the fact that an error is about, the command, and what reads it."""

PYTHON: dict[str, tuple[str, Callable[[mj.Job], dict[str, Any]]]] = {
    "Python tasks()": ("tasks", lambda job: reading.task_facts(job.tasks().rows)),
    "Python failures()": ("failures", lambda job: reading.failures(job.failures())),
    "Python results()": ("rows", lambda job: reading.rows(job.results().rows)),
    "Python results().sets()": ("means", lambda job: reading.means(job.results().sets().rows)),
}

PAGES: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "API tasks": ("/api/v1/tasks?job={}&limit=500", lambda text: reading.task_facts(json.loads(text)["tasks"])),
    "API results": ("/api/v1/results?job={}&limit=500", lambda text: reading.rows(json.loads(text)["rows"])),
    "page results.csv": ("/jobs/{}/results.csv", lambda text: reading.rows(reading.csv_rows(text))),
    "API failures": ("/api/v1/failures?job={}", lambda text: reading.failures(json.loads(text))),
    "page of the tasks": ("/jobs/{}/results?rows=tasks", reading.task_page),
}


# --- statements of the model ------------------------------------------------------------------------------------------


def of_record(world: World, job_id: str, *, is_shown: bool) -> dict[str, Any]:
    """Return what the model states of a record."""
    job = world.jobs[job_id]
    facts = job.record() | {"exit code": job.exit_code}
    if is_shown:
        facts |= {"family": tuple(sorted(world.family(job_id))), "family done": world.family_done(job_id)}
    return facts


def of_inside(world: World, name: str, job_id: str) -> dict[str, Any]:
    """Return what the model states of the tasks of a job."""
    job = world.jobs[job_id]
    if job.study is None:
        return dict.fromkeys(("tasks", "failures", "rows", "means"), reading.NO_LEDGER) | {"outputs": ()}
    rows = world.rows(job_id, name)
    tasks = tuple(sorted(world.ends(job, name).items()))
    is_whole = not any(world.is_deleted(owner, task) for task, (owner, _) in rows.items())
    values: dict[int, list[float]] = {job.study.x(task): [] for task in sorted(rows)}
    for task, (_, end) in rows.items():
        values[job.study.x(task)] += [job.study.value(task)] if end == SUCCEEDED else []
    compared = world.contrast(job_id, name)
    means = tuple((x, len(found), sum(found) / len(found) if found else None) for x, found in sorted(values.items()))
    return {
        "tasks": tasks if is_whole else UNKNOWN,
        "best set": UNKNOWN if job.search is None else tuple([*job.search.counts().values()][-2:]),
        "failures": job.failed,
        "failures in the ledger": len([end for _, end in tasks if end in reading.FAILED]),
        "outputs": world.outputs(job_id),
        "rows": tuple((task, *row) for task, row in sorted(rows.items())) if is_whole else UNKNOWN,
        "means": means if is_whole else UNKNOWN,
        "contrast": compared[1] if is_whole and compared is not None else UNKNOWN,
        "seeds": tuple((task, job.study.seed(task)) for task in sorted(rows))
        if job.study.seeds and (is_whole or job.study.least is None)  # lost outputs of an adaptive study ask for fewer
        else UNKNOWN,
        "values that are missing, and not told": (),
        "values": tuple(sorted(job.study.value(task) for task in world.outputs(job_id))),
    }
