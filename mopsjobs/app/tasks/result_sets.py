"""Parameter sets of some jobs: how their tasks ended, and the mean, spread and interval of each scalar.

One SQLite file has the rows of a table of results and of its parameter sets. Commands, SQL, Python and page all read
it. It lies beside the cache, and is made anew when the ledger of one of its jobs has changed. What does not come from
chunks is not kept. See docs/decisions/0107-the-table-of-parameter-sets.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from mopsjobs.app.jobs.job_tasks import JobTasks
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.tasks.results_table import (
    BEFORE,
    FIRST_COLUMNS,
    LAST_COLUMNS,
    REPEATS,
    SUCCEEDED,
    OnProgress,
    ResultsTable,
    TableRow,
    find_results,
    plain_columns,
    read_results_table,
    state_of_jobs,
)
from mopsjobs.cache.queries import user_sql
from mopsjobs.cache.queries.task_filters import WAITING
from mopsjobs.cache.queries.tasks import TaskQuery, temporary_database
from mopsjobs.errors import UsageError
from mopsjobs.ledger.attempt import FAILED_OUTCOMES, Outcome
from mopsjobs.registry.precision_counts import sets_text
from mopsjobs.studies.adaptive import judge_set
from mopsjobs.studies.precision import PRECISE, VERDICTS, Precision, Target, lacks_text, width_text
from mopsjobs.studies.results import parameter_columns
from mopsjobs.utils.files import atomic_file, make_directory
from mopsjobs.utils.intervals import CONFIDENCE, Summary, careful_interval, summarize
from mopsjobs.utils.scalar_keys import is_called, no_result_has, the_numbers
from mopsjobs.utils.sqlite_file import connect
from mopsjobs.utils.table_files import Column, distinct_name, free_name, identifier, is_numeric, typed_value
from mopsjobs.utils.text import describe_duplicates, error_line, join_first, pluralize
from mopsjobs.utils.times import json_time

T = TypeVar("T")

FORMAT = 7
"""Of the file. One of another format is made anew."""

MAX_FILES = 20
MAX_FILES_BYTES = 2**30
"""Of all tables that are kept, beside the last one."""

SETS_VERSION = 1
"""The `schema_version` of `results --by set --json`."""

COUNTS = ("tasks", "done", "failed", "missing", "waiting")
"""Columns of a parameter set: its tasks, and how many of them succeeded, failed, are missing, or wait for their end."""

STATISTICS = (("n", "integer"), ("n_nan", "integer"), ("mean", "number"), ("sd", "number"), ("half_width", "number"))
"""Columns of each scalar that is a number, after its name and a dot: the fields of `Summary`."""

PRECISION = (("precision", "text"), ("judged", "integer"), ("lacks", "text"))
"""Columns of a set of an adaptive study: the fields `verdict`, `n` and `lacks` of `studies.precision.Judgement`."""

OF_TARGET = (("low", "number"), ("high", "number"), ("precision", "number"))
"""Columns of each scalar that it names: its interval then, and half of that, relative to the mean if the goal is."""

ERROR = "error"
"""The column of the most frequent error of a set, the last of those."""

MAX_COLUMNS = 1_900
"""Of a table of SQLite, which takes 2,000."""

_NAN = "nan"
"""In the file, in place of a number that is not one: SQLite would keep a null."""

_SCHEMA = """
CREATE TABLE about (document TEXT);
CREATE TABLE member (number INTEGER PRIMARY KEY, job_id TEXT);
CREATE TABLE parameter_set (
    number INTEGER PRIMARY KEY, family INTEGER, job_id TEXT, param_id TEXT, params TEXT{parameters},
    UNIQUE (family, param_id)
);
CREATE TABLE task_row (
    number INTEGER PRIMARY KEY, set_number INTEGER, first_task INTEGER, member INTEGER, task INTEGER, seed, status TEXT,
    seconds REAL, error TEXT, error_key TEXT, repeats INTEGER{scalars}
);
CREATE TABLE set_precision (number INTEGER PRIMARY KEY, verdict TEXT, judged INTEGER, lacks TEXT{targets});
"""


class Scalar(NamedTuple):
    """A scalar of a table of results."""

    name: str
    """Of its column in the table of tasks, and before the dot in that of parameter sets."""
    key: str
    """As runners name it: the output and the place in it."""
    kinds: list[str]
    is_number: bool
    is_finite: bool
    """Whether no task has NaN or an infinity."""
    confidence: float | None = None
    """That of its intervals, which an adaptive study looks at repeatedly; None: those of Student's t."""


class Totals(NamedTuple):
    """Sums over all rows of a table of parameter sets."""

    sets: int
    tasks: int
    done: int
    failed: int
    missing: int
    waiting: int


class SetOrder(NamedTuple):
    """The order of parameter sets, by a column. Rows without a value come last."""

    column: str
    is_descending: bool = False
    scalar: str | None = None
    """The scalar whose mean the column is."""
    end: str | None = None
    """What the first set is called, if it is told how sure that is: `best` or `worst`."""


class Standing(NamedTuple):
    """Facts that tell how sure the first set of an order by a scalar is."""

    limit: float | None
    """The end of its interval that others must not reach to be surely behind; None if it has no interval."""
    others: int
    """Sets beside it whose intervals overlap its own."""
    without_interval: int
    """Sets with one value, so without an interval."""
    without_value: int
    """Sets without a finite value."""
    is_finite: bool = True
    """Whether no task has NaN or an infinity, which are in no mean and in no interval."""
    confidence: float = CONFIDENCE
    """That of the intervals."""

    def sentences(self, end: str, scalar: str) -> list[str]:
        """Return what it says, as sentences."""
        told, percent = [], f"{100 * self.confidence:g} %"
        if self.limit is not None and self.others:
            its = f"its {percent} interval overlaps" if self.others == 1 else f"their {percent} intervals overlap"
            told.append(f"{pluralize(self.others, 'more set')} may be the {end}: {its} that of the first.")
        elif self.limit is not None:
            but = "" if self.is_finite else f"; NaN and infinities of {scalar} are in none"
            none = "No" if but else f"No other set may be the {end}: no"
            told.append(f"{none} other {percent} interval overlaps that of the first{but}.")
        if self.without_interval:
            have = "has" if self.without_interval == 1 else "have"
            sets = f"{pluralize(self.without_interval, 'set')} {have} one value of {scalar}"
            told.append(f"{sets}, so no interval: how sure the order is there is not known.")
        if self.without_value:
            have, come = ("has", "comes") if self.without_value == 1 else ("have", "come")
            value = "value" if self.is_finite else "finite value"
            told.append(f"{pluralize(self.without_value, 'set')} {have} no {value} of {scalar}, and {come} last.")
        return told


class SetChoice(NamedTuple):
    """Wishes of a user: which parameter sets, and in which order."""

    sort: str | None = None
    """A scalar, for its mean, or a column; `-` in front for descending."""
    best: str | None = None
    """A scalar: the lowest means first, or with `-` in front the highest."""
    worst: str | None = None
    """A scalar: the highest means first."""
    limit: int = 0
    """How many, 0 for all."""


class SetPage(NamedTuple):
    """Some parameter sets, in order."""

    columns: list[Column]
    rows: Iterator[list[object]]
    order: SetOrder | None
    standing: Standing | None
    """None if no scalar was asked for by `best` or `worst`."""
    total: int
    """How many sets there are."""
    notes: list[str]
    """What the numbers leave out, and how sure the order is, as sentences."""


class ResultSets:
    """The parameter sets of some jobs, and their tasks. It is read within `read_result_sets`."""

    def __init__(self, database: sqlite3.Connection) -> None:
        """Take an open file."""
        self._database = database
        about: dict[str, Any] = json.loads(database.execute("SELECT document FROM about").fetchone()[0])
        self.job_ids: list[str] = about["job_ids"]
        """The newest job of each family."""
        self.parameters = [(name, Column(column, frozenset(kinds))) for name, column, kinds in about["parameters"]]
        """The parameters, and their columns."""
        self.scalars = [Scalar(*one) for one in about["scalars"]]
        self.left_out_scalars: int = about["left_out_scalars"]
        """Scalars that are not in the table, since it has too many."""
        self.repeated: int = about["repeated"]
        """Tasks that repeat another one, and are not counted."""
        self.targets: list[str] | None = about["targets"]
        """The columns of the scalars whose precision studies ask for; None if no study is adaptive."""
        self._goals: dict[str, dict[str, tuple[str, bool]]] = about["goals"]
        """What the study of each job wants to be precise, in words, by the column, and whether its goal is relative."""
        self.problems: list[str] = about["problems"]
        """What the table lacks, as sentences."""
        self.is_partial: bool = about["is_partial"]
        self.age: str = about["age"]
        self.is_stale: bool = about["is_stale"]
        """Whether more is known by now."""

    @property
    def numbers(self) -> list[Scalar]:
        """Return the scalars that have statistics."""
        return [one for one in self.scalars if one.is_number]

    @property
    def columns(self) -> list[Column]:
        """Return the columns of `rows`."""
        return [column for column, _ in self._columns()]

    def column_of(self, scalar: str, statistic: str = "mean") -> str:
        """Return the name of the column of a statistic of a scalar."""
        columns = self.columns[len(BEFORE) + len(self.parameters) + len(COUNTS) + 1 :]
        place = [one.name for one in self.numbers].index(scalar) * len(STATISTICS)
        return columns[place + [name for name, _ in STATISTICS].index(statistic)].name

    def confidence_of(self, scalar: str) -> float:
        """Return the confidence of the intervals of a scalar that is a number."""
        return next(one.confidence for one in self.numbers if one.name == scalar) or CONFIDENCE

    def varying(self) -> list[str]:
        """Return the columns of the parameters that do not have the same value in all sets."""
        names = [column.name for column, sql in self._columns() if sql.startswith("p") and sql[1:].isdigit()]
        counts = ", ".join(f"count(DISTINCT p{place}) + (count(p{place}) < count(*))" for place in range(len(names)))
        row = self._database.execute(f"SELECT {counts or 'count(*)'} FROM parameter_set").fetchone()  # noqa: S608 - names of our own
        return [name for name, count in zip(names, row, strict=False) if count > 1]

    def totals(self) -> Totals:
        """Count sets and tasks."""
        sums = ", ".join(f"coalesce(sum({name}), 0)" for name in COUNTS)
        return Totals(*self._database.execute(f"SELECT count(*), {sums} FROM set_row").fetchone())  # noqa: S608 - constant names

    def document_head(self, version: int, app: App) -> dict[str, object]:
        """Return the head of a document."""
        return {
            "schema_version": version,
            "generated_at": json_time(app.now()),
            "data": self.age,
            "stale": self.is_stale,
            "registry": app.settings.registry_id,
            "jobs": self.job_ids,
            "confidence": CONFIDENCE,
        }

    def document(self) -> dict[str, Any]:
        """Return which tasks the numbers have, and what they leave out."""
        counts = self.totals()._asdict() | {"repeated": self.repeated}
        return {"tasks": counts, "complete": not self.is_partial, "problems": self.problems, "notes": self.notes()}

    def rows(
        self, order: SetOrder | None = None, limit: int = 0, offset: int = 0, *, standing: Standing | None = None
    ) -> Iterator[list[object]]:
        """Yield parameter sets as rows of `columns`: all if the limit is 0.

        With the standing of the first set, there is a column after `BEFORE`: whether a set may be the first.
        """
        columns, marks = self._columns(), ""
        if standing is not None:
            assert order is not None  # noqa: S101 - it is the standing of one
            marks = f"{self._ends(order)[0]} <= ?, "
        by, direction = "number", ""
        if order is not None:
            value = next(sql for column, sql in columns if column.name == order.column)
            direction = " DESC" if order.is_descending else ""
            by = f"{value} IS NULL, {value}{direction}, number"
        statistics = ", ".join(sql for _, sql in columns[len(BEFORE) + len(self.parameters) :])
        rows = self._database.execute(
            f"SELECT job_id, param_id, params, {marks}{statistics} FROM set_row AS s"  # noqa: S608 - names of our own
            " JOIN parameter_set USING (number) LEFT JOIN set_precision USING (number)"
            f" ORDER BY {by} LIMIT {limit or -1:d} OFFSET {offset:d}",
            () if standing is None else (standing.limit,),
        )
        for job_id, set_id, params, *numbers in rows:
            mark = numbers[:1] if marks else []
            told = [None if one is None else bool(one) for one in mark]
            yield [job_id, set_id, *told, *json.loads(params), *numbers[len(mark) :]]

    def find_scalar(self, name: str) -> Scalar:
        """Return the scalar that is a number and has this name: that of its column, or a short one that no other has.

        Raises:
            UsageError: if there is none, or if several have it.
        """
        numbers = [one.name for one in self.numbers]
        if not numbers:
            raise UsageError(f"invalid scalar '{name}': no task has left a number so far.")
        found = [one for one in self.scalars if one.name == name] or [
            one for one in self.scalars if is_called(one.key, name)
        ]
        if not found:
            raise UsageError(f"invalid scalar '{name}': {no_result_has(name, numbers)}")
        if len(found) > 1:
            which = join_first([one.name for one in found])
            raise UsageError(f"invalid scalar '{name}': several results have it. Name one of: {which}.")
        if not found[0].is_number:
            raise UsageError(f"invalid scalar '{name}': its values are not numbers. {the_numbers(numbers)}")
        return found[0]

    def values_of(self, scalar: Scalar) -> Iterator[tuple[str, str, str, float | str | None]]:
        """Yield parameter id, parameters as a JSON list, status and value of each simulation, set by set."""
        place = self.scalars.index(scalar)
        return self._database.execute(
            f"SELECT param_id, params, status, s{place} FROM task_row JOIN parameter_set"  # noqa: S608 - a name of our own
            " ON parameter_set.number = set_number WHERE repeats IS NULL ORDER BY set_number, task_row.number"
        )

    def simulations(self) -> Iterator[tuple[Any, ...]]:
        """Yield job, parameter id, parameters as a JSON list, seed, status and all numbers of each task, set by set.

        Also of a task that repeats another one.
        """
        columns = "".join(f", s{place}" for place, one in enumerate(self.scalars) if one.is_number)
        return self._database.execute(
            f"SELECT job_id, param_id, params, seed, status{columns} FROM task_row JOIN parameter_set"  # noqa: S608 - names of our own
            " ON parameter_set.number = set_number ORDER BY set_number, task_row.number"
        )

    def page(self, choice: SetChoice) -> SetPage:
        """Return the parameter sets that were asked for.

        Raises:
            UsageError: if a scalar or a column has another name.
        """
        order = self.order_of(choice)
        columns, rows, standing = self.columns, self.rows(order, choice.limit), None
        if order is not None and order.end is not None:
            standing = self.standing(order)
            columns.insert(len(BEFORE), Column(f"may_be_{order.end}", frozenset({"boolean"})))
            rows = self.rows(order, choice.limit, standing=standing)
        notes = [] if standing is None or order is None else standing.sentences(str(order.end), str(order.scalar))
        return SetPage(columns, rows, order, standing, self.totals().sets, notes + self.notes())

    def order_of(self, choice: SetChoice) -> SetOrder | None:
        """Return the order that was asked for.

        Raises:
            UsageError: if a scalar or a column has another name.
        """
        if choice.best is not None or choice.worst is not None:
            name, end = (choice.best, "best") if choice.best is not None else (str(choice.worst), "worst")
            is_negated = name.startswith("-")
            found = self.find_scalar(name.removeprefix("-")).name
            return SetOrder(self.column_of(found), is_negated == (end == "best"), found, end)
        if choice.sort is None:
            return None
        names = {column.name for column in self.columns}
        is_descending = choice.sort.startswith("-") and choice.sort not in names
        name = choice.sort[is_descending:]
        if name in names:
            return SetOrder(name, is_descending)
        found = self.find_scalar(name).name
        return SetOrder(self.column_of(found), is_descending, found)

    def notes(self) -> list[str]:
        """Return what the numbers leave out, as sentences."""
        totals = self.totals()
        notes = [] if self.targets is None else [f"{sets_text(self._verdicts())}."]
        ends = (("failed", totals.failed), ("missing", totals.missing), ("waiting", totals.waiting))
        if left := [f"{count:,} {what}" for what, count in ends if count]:
            which = " and ".join(filter(None, [", ".join(left[:-1]), left[-1]]))
            notes.append(f"{which} of {pluralize(totals.tasks, 'task')}: the means leave them out.")
        places = [place for place, one in enumerate(self.numbers) if not one.is_finite]
        sums = ", ".join(f"total(x{place})" for place in places) or "count(*)"
        counts = self._database.execute(f"SELECT {sums} FROM set_row").fetchone()  # noqa: S608 - names of our own
        found = [(self.numbers[place].name, int(count)) for place, count in zip(places, counts, strict=False) if count]
        if found:
            named = join_first([f"{name} ({count:,})" for name, count in found])
            notes.append(f"NaN or infinite, so counted as n_nan and in no mean: {named}.")
        if others := [one.name for one in self.scalars if not one.is_number]:
            notes.append(f"Not numbers, so without statistics: {join_first(others)}.")
        if self.left_out_scalars:
            notes.append(f"{pluralize(self.left_out_scalars, 'more result')}: `--table` without `--by set` has all.")
        if self.repeated:
            repeats = describe_duplicates(self.repeated, len(self.job_ids))
            notes.append(f"{pluralize(totals.tasks + self.repeated, 'task')}{repeats}; each is counted once.")
        return notes

    def _verdicts(self) -> dict[str, int]:
        """Count the sets of adaptive studies, and those with a final verdict, as the record of a job does."""
        sql = "SELECT verdict, count(*) FROM set_precision JOIN set_row USING (number) GROUP BY verdict"
        found = dict(self._database.execute(sql).fetchall())  # a set whose tasks all repeat others has no row
        return {"sets": sum(found.values())} | {name: found.get(one, 0) for name, one in VERDICTS.items()}

    def precision_text(self, row: Mapping[str, object]) -> str:
        """Return the verdict on a set of an adaptive study, with what it has reached: `more: peak ± 8.1 %`."""
        verdict, _, lacks = (row[name] for name, _ in PRECISION)
        if verdict in (PRECISE, None) or self.targets is None:
            return str(verdict or "")
        if lacks is not None:
            return f"{verdict}: {lacks_text(lacks)}"
        goals = self._goals.get(str(row["job_id"]), {})
        found = [(row[f"{name}.{OF_TARGET[2][0]}"], *goals[name]) for name in self.targets if name in goals]
        told = [f"{what} {width_text(width, is_relative=of)}" for width, what, of in found if isinstance(width, float)]
        return ": ".join([str(verdict), *filter(None, [", ".join(told)])])

    def copy(self) -> ResultSets:
        """Return the sets without their tasks in memory, to be read later and by several threads."""
        memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        for name in ("about", "parameter_set", "set_row", "set_precision"):
            (create,) = self._database.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            memory.execute(create)
            rows = self._database.execute(f"SELECT * FROM {name}")  # noqa: S608 - constant names
            memory.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows.description))})", rows)  # noqa: S608 - constant names
        copied = ResultSets(memory)
        weakref.finalize(copied, memory.close)  # when no reader has them any more
        return copied

    @property
    def held(self) -> int:
        """Return the bytes that the database takes."""
        pages, size = (self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
        return int(pages * size)

    def standing(self, order: SetOrder) -> Standing:
        """Tell how sure the first set of an order by a scalar is."""
        place, sign = self._place(order), -1 if order.is_descending else 1
        certainty = self.numbers[place].is_finite, self.numbers[place].confidence or CONFIDENCE
        mean, half = f"m{place}", f"h{place}"
        near, far = self._ends(order)
        counts = f"SELECT total({mean} IS NULL), total({mean} IS NOT NULL AND {half} IS NULL) FROM set_row"  # noqa: S608 - names of our own
        without_value, without_interval = map(int, self._database.execute(counts).fetchone())
        first = self._database.execute(
            f"SELECT {far}, number FROM set_row WHERE {mean} IS NOT NULL"  # noqa: S608 - names of our own
            f" ORDER BY {sign} * {mean}, number LIMIT 1"
        ).fetchone()
        if first is None or first[0] is None:
            return Standing(None, 0, without_interval, without_value, *certainty)
        others = self._database.execute(
            f"SELECT count(*) FROM set_row WHERE {near} <= ? AND number != ?",  # noqa: S608 - names of our own
            first,
        ).fetchone()[0]
        return Standing(first[0], others, without_interval, without_value, *certainty)

    def _place(self, order: SetOrder) -> int:
        """Return the place of the scalar of an order among the numbers."""
        return next(place for place, one in enumerate(self.numbers) if one.name == order.scalar)

    def _ends(self, order: SetOrder) -> tuple[str, str]:
        """Return the SQL of both ends of an interval, the nearer to the first set and the other, so that less is first.

        The mean need not be in the middle of the interval of an adaptive study.
        """
        place, sign = self._place(order), "-" if order.is_descending else ""
        middle = f"m{place}" if self.numbers[place].confidence is None else f"(m{place} + e{place})"
        return f"({sign}{middle} - h{place})", f"({sign}{middle} + h{place})"

    def open_views(self, cache: str, names: Iterable[str]) -> sqlite3.Connection:
        """Return the connection, with the views `results` and `result_sets`, and those of the cache.

        Args:
            cache: the path of the cache.
            names: its views.
        """
        self._database.execute("ATTACH DATABASE ? AS cache", (cache,))
        for name, select in {**{name: f"SELECT * FROM cache.{name}" for name in names}, **self._views()}.items():  # noqa: S608 - names of our own
            self._database.execute(f"CREATE TEMP VIEW {name} AS {select}")
        return self._database

    def _views(self) -> dict[str, str]:
        """Return the SELECT of the views `results` and `result_sets`, in the study's own names."""
        tasks = [
            *plain_columns(FIRST_COLUMNS),
            *(column for _, column in self.parameters),
            *plain_columns(LAST_COLUMNS),
            *([Column(REPEATS, frozenset({"integer"}))] if self.repeated else []),
            *(Column(one.name, frozenset(one.kinds)) for one in self.scalars),
        ]
        values = [
            "member.job_id", "task", "param_id", *(f"p{place}" for place in range(len(self.parameters))),
            "seed", "status", "seconds", "t.error", *(["repeats"] if self.repeated else []),
            *(f"s{place}" if one.is_finite else f"iif(s{place} = '{_NAN}', NULL, s{place})"
              for place, one in enumerate(self.scalars)),
        ]  # fmt: skip
        of_sets = [(column.name, sql) for column, sql in self._columns()]
        return {
            "results": _select([(column.name, sql) for column, sql in zip(tasks, values, strict=True)])
            + " FROM task_row AS t JOIN member ON member.number = t.member"
            " JOIN parameter_set ON parameter_set.number = set_number",
            "result_sets": _select(of_sets)
            + " FROM set_row AS s JOIN parameter_set USING (number) LEFT JOIN set_precision USING (number)",
        }

    def _columns(self) -> list[tuple[Column, str]]:
        """Return the columns of `rows`, each with its SQL."""
        others = [name for name, _ in (*FIRST_COLUMNS, *LAST_COLUMNS)] + list(COUNTS)
        others += [name for name, _ in PRECISION if self.targets is not None]
        names = parameter_columns([column.name for _, column in self.parameters], others)
        columns = [(column, column.name) for column in plain_columns(BEFORE)]
        columns += [(Column(names[one.name], one.kinds), f"p{place}") for place, (_, one) in enumerate(self.parameters)]
        columns += [(column, column.name) for column in plain_columns((name, "integer") for name in COUNTS)]
        columns.append((Column(ERROR, frozenset({"text"})), "s.error"))
        taken = {column.name for column, _ in columns}
        for place, scalar in enumerate(self.numbers):
            for (suffix, kind), sql in zip(STATISTICS, _statistic_names(place), strict=True):
                name = free_name(f"{scalar.name}.{suffix}", "result", taken)
                columns.append((Column(name, frozenset({kind})), sql))
        if self.targets is not None:
            columns += zip(plain_columns(PRECISION), ("verdict", "judged", "lacks"), strict=True)
        for place, target in enumerate(self.targets or ()):
            for (suffix, kind), sql in zip(OF_TARGET, _target_names(place), strict=True):
                columns.append((Column(free_name(f"{target}.{suffix}", "result", taken), frozenset({kind})), sql))
        return columns


def sets_document(sets: ResultSets, page: SetPage, app: App) -> dict[str, object]:
    """Return the document of `results --by set --json`."""
    names = [column.name for column in page.columns]
    order, standing = page.order, page.standing
    rows = [dict(zip(names, row, strict=True)) for row in page.rows]
    return {
        **sets.document_head(SETS_VERSION, app),
        "sorted_by": None if order is None else order.column,
        "descending": order is not None and order.is_descending,
        "may_be_first": None if standing is None or standing.limit is None else standing.others,
        **sets.document(),
        "parameters": [column.name for _, column in sets.parameters],
        "results": [
            {
                "name": one.name,
                "key": one.key,
                "is_number": one.is_number,
                "confidence": sets.confidence_of(one.name) if one.is_number else None,
            }
            for one in sets.scalars
        ],
        "notes": page.notes,  # with how sure the order is
        "total": page.total,
        "returned": len(rows),
        "columns": names,
        "sets": rows,
    }


def read_result_sets(
    families: Sequence[Sequence[JobTasks]],
    app: App,
    view: Callable[[ResultSets], T],
    policy: FreshnessPolicy,
    on_progress: OnProgress = None,
) -> T:
    """Call `view` with the parameter sets of some jobs. It may be called twice: see `CacheAccess`.

    Takes arguments and raises errors as `read_results_table` does.
    """
    file = locate_sets(families, app)
    with contextlib.suppress(sqlite3.DatabaseError), _open_kept(*file) as kept:  # a power cut may have damaged it
        if kept is not None:
            sets, newest = ResultSets(kept), families[0][0]
            sets.age, sets.is_stale = newest.read(
                TaskQuery(), lambda tasks: (newest.describe_age(tasks.ledger), newest.is_stale(tasks.ledger))
            )
            return view(sets)
    return read_results_table(families, app, lambda table: make_sets(table, *file, view), policy, on_progress)


def locate_sets(families: Sequence[Sequence[JobTasks]], app: App) -> tuple[str, str]:
    """Return the path of the file with the sets of some jobs, and the state of their ledgers that it has to be of."""
    jobs = [[job.job for job in family] for family in families]
    ids = [[job.job_id for job in family] for family in families]
    state = app.cache.read_cached(lambda cache: [state_of_jobs(cache, one) for one in jobs])
    name = hashlib.sha256(json.dumps([app.settings.registry_id, ids]).encode()).hexdigest()[:16]
    return os.path.join(f"{app.cache.path}-results", f"{name}.sqlite"), json.dumps([FORMAT, state])


def query_results(
    names: Iterable[str],
    app: App,
    view: Callable[[sqlite3.Connection, dict[str, Any]], T],
    policy: FreshnessPolicy,
) -> T:
    """Call `view` with a connection that has the views of the cache, and `results` and `result_sets` of some jobs.

    Args:
        names: the jobs, as `find_job` takes them.
        app: the run.
        view: reads the views, and gets the document of what they have; may be called twice: see `CacheAccess`.
        policy: whether the network may be used.

    Raises:
        JobNotFoundError: if a job does not exist.
        NoManifestError: if mops-jobs did not submit a job.
        StoreError: if the registry cannot be read; offline, if the cache lacks the results.
    """
    views = app.cache.read_cached(user_sql.views) or {}
    families = find_results(names, app, policy)

    def view_sets(sets: ResultSets) -> T:
        has = sets.document()  # before the query, which may read views alone
        return view(sets.open_views(app.cache.path, views), has)

    return read_result_sets(families, app, view_sets, policy)


@contextlib.contextmanager
def _open_kept(path: str, state: str) -> Iterator[sqlite3.Connection | None]:
    """Open a file that is of this state; yield None if there is none."""
    with contextlib.ExitStack() as stack:
        kept = None
        with contextlib.suppress(OSError, sqlite3.Error):
            if os.path.exists(path):
                with contextlib.suppress(PermissionError):
                    os.utime(path)  # the files that were used last are kept
                database = stack.enter_context(contextlib.closing(_open(path)))
                found = database.execute("SELECT json_extract(document, '$.state') FROM about").fetchone()
                kept = database if found == (state,) else None
        yield kept


def make_sets(table: ResultsTable, path: str, state: str, view: Callable[[ResultSets], T]) -> T:
    """Make the file of a table, call `view` with it, and keep it if a later look would find the same."""
    with contextlib.ExitStack() as stack:
        try:
            make_directory(os.path.dirname(path))
            part = stack.enter_context(atomic_file(path, 0o600, is_durable=False))
            with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as database:
                database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN")
                _fill(table, database, state)
            if table.is_of_chunks:
                _forget_old(os.path.dirname(path))
                os.replace(part, path)
                part = path
            database = stack.enter_context(contextlib.closing(_open(part)))
        except (OSError, sqlite3.OperationalError):  # a directory that takes no files, or a full disk: nothing is kept
            database = stack.enter_context(temporary_database(""))
            _fill(table, database, state)
        return view(ResultSets(database))


def _open(path: str) -> sqlite3.Connection:
    return connect(path, writable=False, busy_seconds=0, synchronous="OFF")


def _forget_old(directory: str) -> None:
    """Remove the tables that were not used for longest."""
    kept = 0
    with contextlib.suppress(OSError):
        files = [entry for entry in os.scandir(directory) if entry.name.endswith(".sqlite")]
        newest_first = sorted(files, key=lambda entry: entry.stat().st_mtime, reverse=True)
        for place, entry in enumerate(newest_first):
            kept += entry.stat().st_size
            if place >= MAX_FILES - 1 or kept > MAX_FILES_BYTES:
                os.unlink(entry.path)


def _fill(table: ResultsTable, database: sqlite3.Connection, state: str) -> None:
    """Write the tasks of a table, their parameter sets, and the statistics of these. A transaction is open."""
    numbers = sum(is_numeric(one.column.kinds) for one in table.scalar_columns)
    scalars = [
        Scalar(one.column.name, one.name, sorted(one.column.kinds), is_numeric(one.column.kinds), one.is_finite)
        for one in table.scalar_columns
    ]
    room = (MAX_COLUMNS - len(table.parameters)) // len(STATISTICS)
    if numbers > room:
        scalars = scalars[: max(0, room)]
    targets = _find_targets(table, scalars)
    scalars = [
        one
        if (target := targets.get(one.name)) is None
        else one._replace(
            is_number=one.is_number or one.kinds == ["boolean"],  # their mean is a proportion
            confidence=target.confidence if target.quantile is None else None,
        )
        for one in scalars
    ]
    parameters = "".join(f", p{place}" for place in range(len(table.parameters)))
    columns = "".join(f", s{place}" for place in range(len(scalars)))
    of_targets = "".join(f", {name}" for place in range(len(targets)) for name in _target_names(place))
    for statement in _SCHEMA.format(parameters=parameters, scalars=columns, targets=of_targets).split(";\n"):
        database.execute(statement)
    statistics = [one for one in scalars if one.is_number]
    names = [name for place in range(len(statistics)) for name in _statistic_names(place)]
    # How far the middle of an interval is from the mean.
    names += [f"e{place}" for place, one in enumerate(statistics) if one.confidence is not None]
    database.execute(f"CREATE TABLE set_row ({', '.join(['number INTEGER PRIMARY KEY', *COUNTS, 'error', *names])})")
    _fill_tasks(table, database, scalars)
    is_active = any(bool(member.job.job["is_active"]) for member in table.members)
    _fill_sets(database, scalars, is_active=is_active)
    is_adaptive = any(table.precisions)
    goals = [{} if one is None else _targets_of(one, scalars) for one in table.precisions]
    if is_adaptive:
        _fill_precision(table, database, scalars, list(targets), goals)
    simulations = table.simulations
    document = {
        "state": state,
        "job_ids": table.family_ids,
        "parameters": [(name, column.name, sorted(column.kinds)) for name, column in table.parameters],
        "scalars": scalars,
        "left_out_scalars": len(table.scalar_columns) - len(scalars),
        "repeated": 0 if simulations is None else simulations.repeated,
        "targets": list(targets) if is_adaptive else None,
        "goals": {
            job_id: {column: (one._replace(scalar=column).name, one.relative is not None) for column, one in of.items()}
            for job_id, of in zip(table.family_ids, goals, strict=True)
        },
        "problems": table.problems(),
        "is_partial": table.is_partial,
        "age": table.describe_age(),
        "is_stale": table.is_stale,
    }
    database.execute("INSERT INTO about VALUES (?)", (json.dumps(document),))
    database.execute("COMMIT")


def _fill_tasks(table: ResultsTable, database: sqlite3.Connection, scalars: Sequence[Scalar]) -> None:
    """Write the tasks and their parameter sets."""
    members: dict[str, int] = {}
    kinds = [column.kinds for _, column in table.parameters]
    places = range(len(scalars))
    insert = f"INSERT INTO task_row VALUES ({', '.join('?' * (11 + len(scalars)))})"  # noqa: S608 - constant words
    insert_set = f"INSERT INTO parameter_set VALUES ({', '.join('?' * (5 + len(kinds)))})"  # noqa: S608 - constant words
    last: tuple[tuple[int, str], int] | None = None

    def number_of(row: TableRow) -> int:
        nonlocal last
        name = (row.family, row.task.param_id)
        if last is None or last[0] != name:  # the tasks of a set follow each other, mostly
            sql = "SELECT number FROM parameter_set WHERE family = ? AND param_id = ?"
            found = database.execute(sql, name).fetchone()
            if found is None:
                values = table.parameters_of(row)
                typed = [_sql_value(of, value) for of, value in zip(kinds, values, strict=True)]
                parts = (None, row.family, table.family_ids[row.family], row.task.param_id, json.dumps(values), *typed)
                found = (database.execute(insert_set, parts).lastrowid,)
            last = (name, int(found[0]))
        return last[1]

    def rows() -> Iterator[tuple[object, ...]]:
        for row in table.tasks():
            task, values = row.task.row, table.scalars_of(row)
            yield (
                None,
                number_of(row),
                task.first_task,
                members.setdefault(row.member.job.job_id, len(members)),
                task.task,
                task.seed,
                table.outcome_of(row),
                task.seconds,
                error_line(task.error_type, task.error_message),
                task.error_key,
                table.repeated_by(row),
                *(_scalar_value(scalars[place], values[place]) for place in places),
            )

    database.executemany(insert, rows())
    database.executemany("INSERT INTO member VALUES (?, ?)", [(number, job_id) for job_id, number in members.items()])


def _fill_sets(database: sqlite3.Connection, scalars: Sequence[Scalar], *, is_active: bool) -> None:
    """Write what the tasks of each parameter set tell. A task that repeats another one is left out.

    A preempted task of an active job is started again.
    """
    numbers = [one for one in scalars if one.is_number]
    columns = "".join(f", s{place}" for place, one in enumerate(scalars) if one.is_number)
    tasks = database.execute(
        f"SELECT set_number, status, error_key, error{columns} FROM task_row"  # noqa: S608 - names of our own
        " WHERE repeats IS NULL ORDER BY set_number, number"
    )

    def rows() -> Iterator[tuple[object, ...]]:
        for number, of_set in groupby(tasks, key=lambda row: row[0]):
            _, statuses, error_keys, errors, *values = zip(*of_set, strict=True)
            ends = Counter(statuses)
            failed = sum(ends[outcome] for outcome in FAILED_OUTCOMES)
            done, waiting = ends[SUCCEEDED], ends[WAITING] + is_active * ends[str(Outcome.PREEMPTED)]
            counts = (len(statuses), done, failed, len(statuses) - done - failed - waiting, waiting)
            statistics: list[object] = []
            shifts: list[object] = []
            for one, column in zip(numbers, values, strict=True):
                found = [float(value) for value in column if value is not None]
                summary, shift = _summarize(found, one.confidence)
                statistics += summary
                shifts += [] if one.confidence is None else [shift]
            yield (number, *counts, _worst_error(error_keys, errors), *statistics, *shifts)

    width = 2 + len(COUNTS) + len(numbers) * len(STATISTICS) + sum(one.confidence is not None for one in numbers)
    database.executemany(f"INSERT INTO set_row VALUES ({', '.join('?' * width)})", rows())  # noqa: S608 - names of our own


def _summarize(values: Sequence[float], confidence: float | None) -> tuple[Summary, float]:
    """Summarize some numbers. With a confidence, the interval is that of the rule of adaptive studies.

    How far its middle is from the mean is the second value.
    """
    summary = summarize(values)
    if confidence is None or summary.n < 2:
        return summary, 0.0
    interval = careful_interval([value for value in values if math.isfinite(value)], confidence)
    half_width = interval and _finite(interval.half_width)
    middle = 0.0 if interval is None or half_width is None else interval.low + half_width - interval.mean
    return summary._replace(half_width=half_width), middle


def _find_targets(table: ResultsTable, scalars: Sequence[Scalar]) -> dict[str, Target]:
    """Map names of columns to what adaptive studies ask of them: the first one, if several do."""
    targets: dict[str, Target] = {}
    for precision in filter(None, table.precisions):
        targets = _targets_of(precision, scalars) | targets
    return targets


def _targets_of(precision: Precision, scalars: Sequence[Scalar]) -> dict[str, Target]:
    """Map names of columns to what a study asks of them. A scalar that no task has is left out."""
    targets: dict[str, Target] = {}
    for target in precision.until:
        names = [one.name for one in scalars if is_called(one.key, target.scalar)]
        if names:
            targets.setdefault(names[0] if len(names) == 1 else target.scalar, target)
    return targets


def _fill_precision(
    table: ResultsTable,
    database: sqlite3.Connection,
    scalars: Sequence[Scalar],
    columns: Sequence[str],
    goals: Sequence[Mapping[str, Target]],
) -> None:
    """Judge the sets of adaptive studies as their runners do, by the values of all their tasks.

    The intervals are those of the goals of the set's own study, by the columns of all.
    """
    tasks = database.execute(
        f"SELECT set_number, family, first_task, task, status{''.join(f', s{place}' for place in range(len(scalars)))}"  # noqa: S608 - names of our own
        " FROM task_row JOIN parameter_set ON parameter_set.number = set_number ORDER BY set_number, first_task"
    )

    def rows() -> Iterator[tuple[object, ...]]:
        judged = None
        for (number, family, first), of_set in groupby(tasks, key=lambda row: row[:3]):
            replicates, precision = list(of_set), table.precisions[family]
            if precision is None or number == judged or len(replicates) == 1:  # one that names its seed is one task
                continue
            judged = number
            values: dict[int, dict[str, object] | None] = {}
            for *_, task, status, of_task in ((*row[:5], row[5:]) for row in replicates):
                if status == SUCCEEDED:
                    values[task] = {
                        one.key: _value_of(one, value)
                        for one, value in zip(scalars, of_task, strict=True)
                        if value is not None
                    }
                elif status in FAILED_OUTCOMES and status != Outcome.LOST:  # that one was not decided
                    values[task] = None
            judgement = judge_set(precision, first, values)
            intervals: list[object] = []
            for column in columns:
                target = goals[family].get(column)
                interval = target and judgement.intervals.get(target.scalar)
                known = () if not (target and interval) else (interval.low, interval.high, target.reached(interval))
                intervals += map(_finite, known) if known else [None] * len(OF_TARGET)
            yield (number, judgement.verdict, judgement.n, judgement.lacks, *intervals)

    marks = ", ".join("?" * (1 + len(PRECISION) + len(OF_TARGET) * len(columns)))
    database.executemany(f"INSERT INTO set_precision VALUES ({marks})", rows())  # noqa: S608 - constant words


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _target_names(place: int) -> list[str]:
    """Return the columns of `set_precision` for a scalar that adaptive studies name: those of `OF_TARGET`."""
    return [f"{suffix}{place}" for suffix, _ in OF_TARGET]


def _worst_error(keys: Iterable[str | None], errors: Iterable[str | None]) -> str | None:
    """Return the last of the errors that are most frequent."""
    found = [(key, error) for key, error in zip(keys, errors, strict=True) if error is not None]
    if not found:
        return None
    ((most, _),) = Counter(key for key, _ in reversed(found)).most_common(1)
    return next(error for key, error in reversed(found) if key == most)


def _statistic_names(place: int) -> list[str]:
    """Return the columns of `set_row` for a scalar: those of `STATISTICS`."""
    return [f"{letter}{place}" for letter in "nxmdh"]


def _sql_value(kinds: frozenset[str], value: object) -> object:
    """Return a value as SQL has it: of one type per column, as a Parquet file has, but for 64 bits with a sign."""
    if value is None:
        return None
    typed = typed_value(kinds, value)
    return str(typed) if isinstance(typed, int) and typed >= 2**63 else typed


def _value_of(scalar: Scalar, value: object) -> object:
    """Return a value in a table as the task has left it: among values of several kinds, a number is a text there."""
    if not scalar.is_number and len(scalar.kinds) > 1 and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _scalar_value(scalar: Scalar, value: object) -> object:
    if not scalar.is_number:
        return _sql_value(frozenset(scalar.kinds), value)
    if isinstance(value, float) and math.isnan(value):
        return _NAN
    return float(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def _select(columns: Iterable[tuple[str, str]]) -> str:
    """Return a SELECT of columns by their names."""
    taken: set[str] = set()
    names = ((distinct_name(name.replace("\0", "\ufffd"), taken), sql) for name, sql in columns)
    return f"SELECT {', '.join(f'{sql} AS {identifier(name)}' for name, sql in names)}"
