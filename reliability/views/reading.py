"""What documents, tables, texts and pages state of a job: facts and their values, which can be compared."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import mopsjobs as mj
from mopsjobs.errors import MopsJobsError
from reliability.trial import hold
from reliability.views.commands import Ran
from reliability.views.model import SUCCEEDED, UNKNOWN

NO_LEDGER = "no ledger"
"""What a view of tasks says of a job that mops-jobs did not submit."""
NOT_FOUND = "not found"
FAILED = ("failed", "timeout", "oom", "died", "lost")
EXIT_NO_SUCH_JOB, EXIT_REFUSED, EXIT_PARTLY_DONE = 3, 6, 7

Row = Mapping[str, Any]


class Statements:
    """Facts of one job, as views state them."""

    def __init__(self) -> None:
        self._said: dict[str, dict[Any, list[str]]] = defaultdict(lambda: defaultdict(list))

    def add(self, view: str, facts: Mapping[str, Any]) -> None:
        """Note what a view states. A fact that it leaves open does not count."""
        for fact, value in facts.items():
            if value is not UNKNOWN:
                self._said[fact][value].append(view)

    def contradictions(self) -> Iterator[str]:
        """Yield a text for each fact that has more than one value."""
        for fact, said in self._said.items():
            if len(said) > 1:
                yield f"{fact}: " + "; ".join(f"{value!r} ({', '.join(views)})" for value, views in said.items())


def record_facts(job: Row) -> dict[str, Any]:
    """Return what a job in its JSON form states."""
    metadata = job["metadata"]
    note = (json.loads(metadata) if isinstance(metadata, str) else metadata or {}).get("note")
    labels = job["labels"]
    labels = json.loads(labels) if isinstance(labels, str) else labels or {}
    return {
        "id": job["job_id"],
        "status": job["status"],
        "total": job["tasks_total"],
        "completed": job["tasks_completed"] or 0,
        "failed": job["tasks_failed"] or 0,
        "labels": tuple(sorted(labels.items())),
        "note": note,
        "parent": job["parent_job_id"],
        **({"calibration": calibration(job["calibration"])} if "calibration" in job else {}),
    }


def calibration(counts: Row | None) -> tuple[tuple[str, Any], ...] | None:
    """Return what counts of a calibration state."""
    if counts is None:
        return UNKNOWN
    best = counts["best"] or {"value": None, "round": None}
    told = [(name, counts[name]) for name in ("rounds", "at_most", "inherited", "sets", "failed")]
    return (*told, ("best", best["value"]), ("best in round", best["round"]))


def sweep_of_list(line: str) -> tuple[str, dict[str, Any]] | None:
    """Return name and facts of a line of `list`, if it is that of a sweep."""
    found = re.match(r"sweep=(\S+) +(\d.*?)(?: of \d+ jobs)?(?:;.*?)? +(\d+)/(\d+) ", line + " ")
    return (
        None if found is None else (found[1], {"statuses": statuses(found[2]), "tasks": (int(found[3]), int(found[4]))})
    )


def statuses(text: str) -> tuple[tuple[str, int], ...]:
    """Return counts of jobs, such as `2 failed, 1 running`."""
    return tuple(sorted((status, int(count)) for count, status in re.findall(r"(\d+) (\w+)", text)))


def by_id(jobs: Iterable[Row]) -> dict[str, dict[str, Any]]:
    return {job["job_id"]: record_facts(job) for job in jobs}


def with_family(job: Row) -> dict[str, Any]:
    family = job.get("family")
    members = [job["job_id"]] if family is None else [member["job_id"] for member in family["jobs"]]
    done = UNKNOWN if family is None else (family["tasks_completed"], family["tasks_total"])
    return {**record_facts(job), "family": tuple(sorted(members)), "family done": done}


def error(ran: Ran) -> str:
    if ran.code == EXIT_NO_SUCH_JOB:
        return NOT_FOUND
    if ran.code == EXIT_REFUSED and "has no ledger" in ran.err:
        return NO_LEDGER
    return f"exit {ran.code}: {ran.err.strip()}"


def of_ran(ran: Ran, fact: str, read: Callable[[Ran], dict[str, Any]]) -> dict[str, Any]:
    """Return what a command states; its error as a fact if it failed."""
    return read(ran) if ran.code in (0, EXIT_PARTLY_DONE) else {fact: error(ran)}


def task_facts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what rows of tasks state: how each ended, and which went on from checkpoints."""
    return {
        "tasks": tuple((row["task"], row["outcome"]) for row in rows),
        "resumes": tuple((row["task"], row["resumes"], row["resumed_at"]) for row in rows if row["resumes"]),
    }


def contrast(document: Row) -> dict[str, Any]:
    """Return what a comparison of two values of x states. They have one pair of sets."""
    (pair,) = document["pairs"]
    return {
        "contrast": tuple(pair.get(f"y.{name}") for name in ("n_first", "n_second", "first", "second")),
        "contrast, whole": (repr(sorted(pair.items())), repr(sorted(document["left_out"].items()))),
    }


def failures(document: Row) -> dict[str, Any]:
    by_group = sum(group["count"] for group in document["groups"] if group["tasks"])  # the others count jobs
    hold(by_group == document["failed"], f"groups have {by_group} failures, and the document {document['failed']}")
    return {"failures": by_group + document["failed_without_reason"]}


def outputs(rows: Iterable[Row]) -> dict[str, Any]:
    return {"outputs": tuple(sorted(row["task"] for row in rows))}


def csv_rows(text: str) -> list[dict[str, Any]]:
    return [*csv.DictReader(io.StringIO(text))]


def number(value: object) -> float | None:
    return None if value in (None, "") else float(str(value))


def rows(rows: Sequence[Row], *, is_told: bool = True) -> dict[str, Any]:
    """Return what a table of results states: its rows, the means that follow, and values that are silently missing."""
    listed = sorted((int(row["task"]), row["job_id"], row["status"], row["x"], number(row.get("y"))) for row in rows)
    values: dict[int, list[float]] = {int(float(str(x))): [] for _, _, _, x, _ in listed}
    for *_, x, value in listed:
        values[int(float(str(x)))] += [] if value is None else [value]
    lost = [task for task, _, status, _, value in listed if status == SUCCEEDED and value is None]
    return {
        "rows": tuple((task, owner, status) for task, owner, status, *_ in listed),
        "seeds": tuple(sorted((int(row["task"]), int(row["seed"])) for row in rows)),
        "means": tuple(
            (x, len(found), sum(found) / len(found) if found else None) for x, found in sorted(values.items())
        ),
        "values that are missing, and not told": () if is_told else tuple(lost),
    }


def means(rows: Iterable[Row]) -> dict[str, Any]:
    """Return by x how many values were read, and their mean."""
    listed = sorted((int(float(str(row["x"]))), int(row.get("y.n") or 0), number(row.get("y.mean"))) for row in rows)
    return {"means": tuple(listed)}


def python(look: Callable[[], dict[str, Any]], fact: str = "id") -> dict[str, Any]:
    try:
        return look()
    except mj.JobNotFoundError:
        return {fact: NOT_FOUND}
    except MopsJobsError as error:
        return {fact: NO_LEDGER if "has no ledger" in str(error) else f"{type(error).__name__}: {error}"}


def exit_code(job: mj.Job) -> object:
    try:
        job.raise_for_status()
    except MopsJobsError as error:
        return error.exit_code
    return 0


def status_facts(ran: Ran) -> dict[str, Any]:
    """Return what the text of `status` states."""
    if ran.code:
        return {"id": error(ran)}
    fields = {
        match[1]: match[2]
        for match in re.finditer(r"^([A-Z]\w+) +(\S.*)$", ran.out.split("\nTimeline")[0], re.MULTILINE)
    }
    facts: dict[str, Any] = {"id": fields["Job"], "status": re.split(r"[, ]", fields["Status"])[0]}
    if done := re.search(r"(\d+)/(\d+) tasks", fields.get("Progress", "")):
        facts |= {"completed": int(done[1]), "total": int(done[2])}
        failed = re.search(r"(\d+) failed", fields["Progress"])
        facts["failed"] = int(failed[1]) if failed else 0
    if "Note" in fields:
        facts["note"] = fields["Note"]
    if "Parent" in fields:
        facts["parent"] = fields["Parent"]
    return facts


def of_page(answer: tuple[int, str], read: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    status, text = answer
    if status == 404:
        return {}
    return read(text) if status == 200 else {"id": f"answer {status}: {text[:300]}"}


def bar_facts(text: str) -> dict[str, Any]:
    done = re.search(r'aria-label="([\d,]+) of ([\d,]+) tasks?([^"]*)"', text)
    if done is None:
        return {}
    failed = re.search(r"(\d+) failed", done[3])
    return {"completed": int(done[1]), "total": int(done[2]), "failed": int(failed[1]) if failed else 0}


def page_facts(text: str) -> dict[str, Any]:
    title = re.search(r"<h1>(.*?)</h1>", text)
    state = re.search(r'<section id="state".*?</section>', text, re.DOTALL)
    status = re.search(r'<span class="status (\w+)', state[0]) if state else None
    return {
        "id": html.unescape(title[1]) if title else "no title",
        "status": status[1] if status else "no status",
        **(bar_facts(state[0]) if state else {}),
        **family_facts(text),
    }


def family_facts(text: str) -> dict[str, Any]:
    """Return what the page of a job states of its family; a job alone has no such section."""
    section = re.search(r'<section id="family".*?</section>', text, re.DOTALL)
    if section is None:
        return {}
    sums = bar_facts(section[0])
    members = [html.unescape(one) for one in re.findall(r'<a href="/jobs/[^"]+">([^<]+)</a>', section[0])]
    done = (sums["completed"], sums["total"]) if sums else UNKNOWN
    return {"family": tuple(sorted(members)), "family done": done}


def page_sweeps(text: str) -> Iterator[tuple[str, Any]]:
    for name, counts in re.findall(r'<a href="[^"]*" title="([^"]*)">sweep=([^<]+)</a>', text):
        yield counts, statuses(name.partition(" of ")[0].partition(";")[0])


def page_rows(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for job_id, row in re.findall(r'<tr data-key="([^"]+)"(.*?)</tr>', text, re.DOTALL):
        status = re.search(r'<span class="status (\w+)', row)
        yield html.unescape(job_id), {"status": status[1] if status else "no status", **bar_facts(row)}


def task_page(text: str) -> dict[str, Any]:
    found = re.findall(r'<tr data-key="(\d+)".*?<span class="status [^>]*>(\w+)', text, re.DOTALL)
    return {"tasks": tuple((int(task), status) for task, status in found)}
