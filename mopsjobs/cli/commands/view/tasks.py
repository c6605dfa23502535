"""`tasks`: list the tasks of a job, with their parameters, how they ended and what they used."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence

from mopsjobs.app.jobs.job_tasks import JobTasks, absence_text, find_tasks
from mopsjobs.app.jobs.job_texts import memory_text
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
    positive_number,
)
from mopsjobs.console.result import Body, Document, RawText, Result, Table, Tsv
from mopsjobs.console.terminal import StyledText, style_text
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import cut_to_length, pluralize, strip_control_characters
from mopsjobs.utils.times import human_seconds

HELP = "list the tasks of a job: parameters, outcome, time, memory, error"

DESCRIPTION = (
    "List the tasks of a job with the parameters that vary, how they ended, and what they used. The first look fetches"
    " the ledger of the job. Of a job without one, the outputs tell which tasks succeeded."
)

EXAMPLES = (
    "mops-jobs tasks @latest --status failed,oom",
    "mops-jobs tasks nightly-1 --param 'beta>0.9' --param mode=exit --slowest 10",
    "mops-jobs tasks nightly-1 --jsonl | jq -r 'select(.outcome == \"failed\") | .task'",
)

MAX_PARAMETERS = 12
"""Parameters that a table has as columns. JSON has all."""

MAX_NAME = 30
"""Characters of a parameter's name in a header."""

MAX_VALUE = 40
"""Characters of a parameter's value in a cell."""

MAX_ERROR = 100
"""Characters of an error in a cell."""

TSV_FIELDS = (
    "task", "outcome", "attempt", "seconds", "cpu_seconds", "max_rss_bytes", "host", "seed", "error_key",
    "error_message",
)  # fmt: skip
"""The columns of TSV. The parameters that vary follow."""

_STYLES = {"succeeded": "green", "cancelled": "magenta", "waiting": "dim", "missing": "yellow", "lost": "yellow"}
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
    how.add_argument(
        "--slowest", metavar="N", type=positive_number, help="show the N tasks that took longest, the slowest first"
    )
    add_form_flags(how, {"ids": "print only numbers of tasks"})
    add_freshness_flags(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """List tasks."""
    check_count(args.param)
    query = TaskQuery(args.status, tuple(args.param), args.sort or Order())
    limit = limit_of(args)
    if args.slowest is not None:
        if args.sort is not None or args.limit is not None:
            raise UsageError("--slowest N contradicts --sort and --limit: it sorts by time and shows N tasks.")
        query = query._replace(order=Order("seconds", is_descending=True), measured_only=True)
        limit = args.slowest
    job = find_tasks(args.job, app, freshness_policy(args))

    def view(tasks: TaskList) -> Result:
        result = _result(args, job, tasks, limit, app)
        result.warnings = job.warnings_with(tasks)
        result.exit_code = job.exit_code
        return result

    return job.read(query, view)


def _result(args: argparse.Namespace, job: JobTasks, tasks: TaskList, limit: int, app: App) -> Result:
    """Return the tasks in a form. Many are printed here, while they are read."""
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
    form, notes = args.form, _notes(job, tasks, _count_text(args, returned, total))
    body: Body | None
    if form is None:
        body = task_table(listed, tasks.ledger) if returned else None
    elif form == "json":
        items = (json.dumps(one.to_json(), allow_nan=False) for one in listed)
        body, notes = Document(job.document_head(tasks, returned, total), items=("tasks", items)), []
    else:
        body = _rows(form, listed, tasks.ledger)
        # These forms have no place for the total.
        notes = notes if returned != total else notes[:-1]
    if is_many and form is not None:
        app.out.show(Result(body))  # here, while the tasks can be read
        body = None
    return Result(body, notes=notes)


def _rows(form: str, listed: Iterator[ListedTask], ledger: Ledger) -> Body:
    """Return what `--jsonl`, `--ids` or `--tsv` prints."""
    if form == "jsonl":
        return RawText(_line(one) for one in listed)
    if form == "ids":
        return Tsv((one.row.task,) for one in listed)
    return Tsv(tsv_row(one, ledger.varying) for one in listed)


def _line(one: ListedTask) -> str:
    return json.dumps(one.to_json(), allow_nan=False, separators=(",", ":")) + "\n"


def _notes(job: JobTasks, tasks: TaskList, counted: str) -> list[str]:
    """Return the notes: on the family, on what is missing, and the count with the age of the data."""
    notes = [*job.family_note(), *job.reuse_note()]
    if (absence := absence_text(job.job, tasks.ledger)) is not None:
        notes.append(f"{job.job_id} {absence}")
    stale = ", stale" if job.is_stale(tasks.ledger) else ""
    return [*notes, f"{counted}, {job.describe_age(tasks.ledger)}{stale}"]


def _count_text(args: argparse.Namespace, returned: int, total: int | None) -> str:
    if args.slowest is not None:  # a task that waits, or that repeats an earlier one, has no time
        return f"the slowest {returned:,} of {pluralize(total or returned, 'measured task')}"
    how = " (--limit 0 shows all)"
    if total is None:
        return f"{pluralize(returned, 'task')} of more{how}"
    return f"{returned:,} of {pluralize(total, 'task')}{how}" if returned < total else pluralize(returned, "task")


def task_table(tasks: Iterable[ListedTask], ledger: Ledger) -> Table:
    """Return a table of tasks, for people."""
    names = ledger.varying[:MAX_PARAMETERS]
    listed = list(tasks)
    parameters = _headers(names)
    # Tasks with the same parameters differ in their seeds.
    has_seed = not names or len({one.row.first_task for one in listed}) < len(listed)
    headers = ("TASK", *parameters, *(("SEED",) if has_seed else ()), "STATUS", "TIME", "MEMORY", "ATTEMPT", "ERROR")
    rows = [
        [
            one.row.task,
            *(_value(one, name) for name in names),
            *((one.row.seed,) if has_seed else ()),
            _status(one.row.outcome),
            _seconds(one.row.seconds),
            memory_text(one.row.max_rss_bytes),
            one.row.attempts or None,
            _error(one),
        ]
        for one in listed
    ]
    drop_order = ("ATTEMPT", "SEED", "MEMORY", *parameters[:0:-1], "TIME")
    return Table(headers, rows, never_cut=("TASK",), drop_order=drop_order, names_dropped=True)


def tsv_row(one: ListedTask, varying: Sequence[str]) -> list[object]:
    """Return a task as a row of `TSV_FIELDS` and the parameters that vary."""
    fields = one.to_json()
    return [*(fields[name] for name in TSV_FIELDS), *(one.params.get(name) for name in varying)]


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
    return cut_to_length(value, MAX_VALUE) if isinstance(value, str) else value


def _status(outcome: str) -> StyledText:
    return style_text(outcome, _STYLES.get(outcome, "red"))


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else human_seconds(seconds)


def _error(one: ListedTask) -> str | None:
    """Return the error on one line: its type, its place and its message."""
    return cut_to_length(strip_control_characters(one.row.error or ""), MAX_ERROR) or None
