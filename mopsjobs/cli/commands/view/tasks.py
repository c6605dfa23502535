"""`tasks`: list the tasks of a job, with their parameters, how they ended and what they used."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence

from mopsjobs.app.jobs.job_card import memory_text
from mopsjobs.app.jobs.job_tasks import JobTasks, absence_text, find_tasks
from mopsjobs.app.run.app import App
from mopsjobs.cache.queries.ledgers import Ledger
from mopsjobs.cache.queries.task_filters import (
    SORTS,
    STATUSES,
    Order,
    check_count,
    parse_condition,
    parse_order,
    parse_task_statuses,
)
from mopsjobs.cache.queries.tasks import MAX_HELD, ListedTask, TaskList, TaskQuery
from mopsjobs.cli.flags import (
    add_form_flags,
    add_freshness_flags,
    add_job_names,
    add_limit_flag,
    argument_type,
    freshness_policy,
    limit_of,
)
from mopsjobs.console.result import Body, Document, RawText, Result, Table, Tsv
from mopsjobs.console.terminal import style_text
from mopsjobs.utils.text import cut_to_length, pluralize, short_number, strip_control_characters
from mopsjobs.utils.times import human_seconds

HELP = "list the tasks of a job: parameters, outcome, time, memory, error"

DESCRIPTION = (
    "List the tasks of a job with the parameters that vary, how they ended, and what they used. The first look"
    " fetches the ledger of the job. Of a job without one, the outputs tell which tasks succeeded."
)

EXAMPLES = (
    "mops-jobs tasks @latest --status failed,oom",
    "mops-jobs tasks nightly-1 --param 'beta>0.9' --param mode=exit --sort -seconds --limit 10",
    "mops-jobs tasks nightly-1 --jsonl | jq -r 'select(.outcome == \"failed\") | .task'",
)

MAX_PARAMETERS = 12
"""Parameters that a table has as columns. JSON has all."""

MAX_NAME = 30

MAX_VALUE = 40

MAX_ERROR = 100

TSV_FIELDS = (
    "task", "outcome", "attempt", "seconds", "cpu_seconds", "max_rss_bytes", "host", "seed", "error_key",
    "error_message",
)  # fmt: skip
"""The columns of TSV. The parameters that vary follow."""

_STYLES = {
    "succeeded": "green", "cancelled": "magenta", "preempted": "magenta", "waiting": "dim", "missing": "yellow",
    "lost": "yellow",
}  # fmt: skip
"""The styles of outcomes; the others are red."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser)
    which = parser.add_argument_group("filters")
    which.add_argument(
        "-s",
        "--status",
        metavar="STATUS[,STATUS]",
        type=argument_type(parse_task_statuses),
        help=f"select tasks with one of these statuses: {', '.join(STATUSES)}",
    )
    which.add_argument(
        "--param",
        metavar="CONDITION",
        action="append",
        default=[],
        type=argument_type(parse_condition),
        help="select tasks by a parameter, like 'beta>0.9'; with =, !=, <, <=, > or >=; repeat for more",
    )
    how = parser.add_argument_group("output")
    how.add_argument(
        "--sort",
        metavar="COLUMN",
        type=argument_type(parse_order),
        help=f"sort by {', '.join(SORTS)}; - in front for descending (default: task)",
    )
    add_limit_flag(how, "show the first N tasks, 0 for all", "all with --jsonl, --tsv and -q")
    add_form_flags(how, {"ids": "print only numbers of tasks"})
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """List tasks."""
    check_count(args.param)
    query = TaskQuery(args.status, tuple(args.param), args.sort or Order())
    job = find_tasks(args.job, app, freshness_policy(args))

    def view(tasks: TaskList) -> Result:
        result = _result(args, job, tasks, app)
        result.warnings = job.warnings_with(tasks)
        result.exit_code = job.exit_code
        return result

    return job.read(query, view)


def _result(args: argparse.Namespace, job: JobTasks, tasks: TaskList, app: App) -> Result:
    """Return the tasks in a form. Many are printed here, while they are read."""
    limit, form = limit_of(args), args.form
    is_many = limit == 0 or limit > MAX_HELD
    total = tasks.count(exact=is_many)
    listed = tasks.tasks(limit)
    if is_many:
        assert total is not None  # noqa: S101 - it was counted exactly
        returned = total if limit == 0 else min(limit, total)
    else:
        held = list(listed)
        returned, listed = len(held), iter(held)
        total = returned if returned < limit else total
    notes = _notes(job, tasks, returned, total)
    if form is None:
        return Result(_table(listed, tasks.ledger) if returned else None, notes=notes)
    if form == "json":
        items = (json.dumps(one.to_json(), allow_nan=False) for one in listed)
        body: Body = Document(job.document_head(tasks, returned, total), items=("tasks", items))
        notes = []
    else:
        body = _rows(form, listed, tasks.ledger)
        notes = notes if returned != total else notes[:-1]  # these forms have no place for the total
    if is_many:
        app.out.show(Result(body))  # here, while the tasks can be read
        return Result(notes=notes)
    return Result(body, notes=notes)


def _rows(form: str, listed: Iterator[ListedTask], ledger: Ledger) -> Body:
    """Return what `--jsonl`, `--ids` or `--tsv` prints."""
    if form == "jsonl":
        return RawText(json.dumps(one.to_json(), allow_nan=False, separators=(",", ":")) + "\n" for one in listed)
    if form == "ids":
        return Tsv((one.row.task,) for one in listed)
    rows = ((one.to_json(), one.params) for one in listed)
    return Tsv([*map(fields.get, TSV_FIELDS), *map(params.get, ledger.varying)] for fields, params in rows)


def _notes(job: JobTasks, tasks: TaskList, returned: int, total: int | None) -> list[str]:
    """Return the notes: on the family, on what is missing, and the count with the age of the data."""
    notes = [*job.family_note(), *job.reuse_note(), *job.record_note(tasks.ledger)]
    if (absence := absence_text(job.job, tasks.ledger)) is not None:
        notes.append(f"{job.job_id} {absence}")
    counted = pluralize(returned, "task")
    if total != returned:
        counted = f"{counted} of more" if total is None else f"{returned:,} of {pluralize(total, 'task')}"
        counted += " (--limit 0 shows all)"
    stale = ", stale" if job.is_stale(tasks.ledger) else ""
    return [*notes, f"{counted}, {job.describe_age(tasks.ledger)}{stale}"]


def _table(tasks: Iterable[ListedTask], ledger: Ledger) -> Table:
    """Return a table of tasks, for people."""
    names = ledger.varying[:MAX_PARAMETERS]
    listed = list(tasks)
    parameters = _headers(names)
    # Tasks with the same parameters differ in their seeds.
    seeds = ("SEED",) if not names or len({one.row.first_task for one in listed}) < len(listed) else ()
    resumed = ("RESUMED",) if any(one.row.resumes for one in listed) else ()
    headers = ("TASK", *parameters, *seeds, "STATUS", "TIME", "MEMORY", "ATTEMPT", *resumed, "ERROR")
    rows = []
    for one in listed:
        row = one.row
        rows.append([
            row.task,
            *(_value(one, name) for name in names),
            *(row.seed for _ in seeds),
            style_text(row.outcome, _STYLES.get(row.outcome, "red")),
            None if row.seconds is None else human_seconds(row.seconds),
            memory_text(row.max_rss_bytes),
            row.attempts or None,
            *(row.resumed for _ in resumed),
            cut_to_length(strip_control_characters(row.error or ""), MAX_ERROR) or None,
        ])  # fmt: skip
    drop_order = ("ATTEMPT", *resumed, "SEED", "MEMORY", *parameters[:0:-1], "TIME")
    return Table(headers, rows, never_cut=("TASK",), drop_order=drop_order, names_dropped=True)


def _headers(names: Sequence[str]) -> list[str]:
    """Return the headers of parameters. A name that is cut or cleaned to that of another one gets a number."""
    headers: list[str] = []
    for name in names:
        header = cut_to_length(strip_control_characters(name), MAX_NAME) or "?"
        headers.append(header if header not in headers else f"{header} ({len(headers) + 1})")
    return headers


def _value(one: ListedTask, name: str) -> object:
    """Return the value of a parameter as a cell; empty if the set lacks it."""
    if name not in one.params:
        return None
    value = one.params[name]
    if value is None:
        return "null"
    return cut_to_length(value, MAX_VALUE) if isinstance(value, str) else short_number(value)
