"""Tasks as rows of a table and of TSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mopsjobs.app.jobs.job_texts import memory_text
from mopsjobs.cache.queries.ledgers import Ledger
from mopsjobs.cache.queries.tasks import ListedTask
from mopsjobs.console.result import Table
from mopsjobs.console.terminal import StyledText, style_text
from mopsjobs.utils.text import cut_to_length, strip_control_characters

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
    return None if seconds is None else f"{seconds:,.1f} s" if seconds < 1000 else f"{seconds:,.0f} s"


def _error(one: ListedTask) -> str | None:
    """Return the error on one line: its type, its place and its message."""
    return cut_to_length(strip_control_characters(one.row.error or ""), MAX_ERROR) or None
