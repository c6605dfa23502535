"""`results`: list the outputs of a job, or download them."""

from __future__ import annotations

import argparse
import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from mopsjobs.app.jobs.find_job import find_state
from mopsjobs.app.jobs.find_outputs import JobWithOutputs, download_outputs, find_job_with_outputs
from mopsjobs.app.jobs.job_tasks import JobTasks
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy, rows_document
from mopsjobs.app.tasks.contrasts import MAX_VALUE, find_contrast, parse_contrast, value_text
from mopsjobs.app.tasks.explain import explain_scalar
from mopsjobs.app.tasks.journals import (
    OBJECTIVE,
    FoundCalibration,
    best_columns,
    best_sets,
    explain_journal,
    find_calibration,
    value_name,
)
from mopsjobs.app.tasks.result_sets import ERROR, ResultSets, SetChoice, SetPage, read_result_sets, sets_document
from mopsjobs.app.tasks.results_sql import duckdb_views, run_results_sql
from mopsjobs.app.tasks.results_table import (
    BEFORE,
    OnProgress,
    ResultsTable,
    find_results,
    jobs_with_labels,
    read_results_table,
)
from mopsjobs.app.tasks.series import Series
from mopsjobs.cli.flags import JOB_HELP, add_job_names, argument_type, row_limit
from mopsjobs.cli.sql_rows import CSV, DEFAULT_LIMIT, add_timeout_flag, show_rows
from mopsjobs.console.result import Document, JsonLines, RawText, Result, Table, Text, Tsv
from mopsjobs.console.terminal import style_text
from mopsjobs.engines.model_env import model_environment
from mopsjobs.engines.trust import python_of_launch
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, NoOutputsError, StoreUnavailableError, UsageError, command_line
from mopsjobs.registry.calibration_counts import calibration_text, round_word
from mopsjobs.studies.journal import counts_of
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.output_directory import OutputDirectory
from mopsjobs.studies.results import TABLE, Output, check_same_family, count_tasks, outputs_of
from mopsjobs.utils.intervals import mean_text
from mopsjobs.utils.table_files import Column, Interpreter, Row, check_table_file, csv_pieces, form_of, write_table_file
from mopsjobs.utils.text import cut_to_length, describe_duplicates, out_of, pluralize, short_number
from mopsjobs.utils.times import parse_duration
from mopsjobs.utils.written_tables import note_table

S = TypeVar("S")
Families = Sequence[Sequence[JobTasks]]

INDENT = 2

HELP = "list the outputs of a job, download them, or make a table of results"

DESCRIPTION = (
    "List the outputs of a job, or download them to DIRECTORY/<param_id>/<seed>/<name>, with a table of its tasks. An"
    " existing file with other content is kept (exit code 7). A child job has the outputs of its ancestors too."
    " --table writes a row per task: parameters, status, and the numbers, texts and truth values of JSON outputs and"
    " of CSV outputs with one row. --by set prints a row per parameter set: of each number its mean, standard"
    " deviation and the half-width of the 95 % confidence interval of the mean (Student's t). --best marks the sets"
    " that may be the best, whose intervals overlap that of the first. --contrast pairs parameter sets by all other"
    " parameters, and replicates by seed if both sides have the same seeds. Else they are independent (Welch). RATIO"
    " is how many times the variance of the difference would be as large without pairs. --sql asks the table results,"
    " in DuckDB if this Python has it, else in SQLite. With DuckDB, series('NAME') has a row per task and place of an"
    " array in JSON outputs, or of a column of CSV and Parquet outputs."
)

EXAMPLES = (
    "mops-jobs results nightly-1 --download out",
    "mops-jobs results nightly-1 nightly-2 --best loss --limit 0 --table sets.csv",
    "mops-jobs results nightly-1 --contrast scenario=base,vaccine",
)


BEST = 10

SHOWN = 50
"""Parameter sets that a terminal and JSON show."""

SHOWN_RESULTS = 4
"""Results in the table for people. Other forms have all."""

UNNAMED = ""
"""In place of the result of --best and --explain: the objective of a calibration."""

OF_SETS = ("best", "worst", "sort", "limit")
"""Flags that ask for rows of parameter sets, as --by set does."""

_FILES = ("download", "duckdb")

CONTRADICTIONS = {
    "sql": ("explain", "by set", "by task", *OF_SETS[:-1], "table", *_FILES),
    "contrast": ("sql", "explain", "by set", "by task", *OF_SETS[:-1], *_FILES),
    "explain": ("by set", "by task", *OF_SETS, "table", "tsv", "csv", *_FILES),
    "by task": OF_SETS,
    "download": ("by set", "by task", *OF_SETS, "offline"),
    "duckdb": ("by set", "by task", *OF_SETS, "offline"),
}
"""Flags that cannot be told together: each with the others. Those of one group of argparse are not here."""

_ROWS = ("table", "by set", *OF_SETS, "sql", "explain", "contrast")
_NEED_ROWS = "--table FILE, --by set, --sql, --explain or --contrast"

NEEDS = (
    ("tsv", ("by set", *OF_SETS, "sql", "contrast"), "--tsv needs --by set, --contrast or --sql."),
    ("csv", ("by set", *OF_SETS, "sql", "contrast"), "--csv needs --by set, --contrast or --sql."),
    ("by task", ("table",), "--by task needs --table FILE."),
    ("label", _ROWS, f"--label needs {_NEED_ROWS}."),
    ("several jobs", _ROWS, f"Several jobs need {_NEED_ROWS}."),
    ("offline", _ROWS, f"--offline needs {_NEED_ROWS}: the cache has no outputs."),
)
"""Flags that need one of others, and what to say without it."""

MAX_ERROR = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, "jobs", "*", f"{JOB_HELP}; several with --table, --by set or --contrast")
    parser.add_argument(
        "-l", "--label", metavar="KEY[=VALUE]", action="append", default=[],
        help="take the jobs with this label, for a table; repeat for more labels",
    )  # fmt: skip
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--download", metavar="DIRECTORY", help="download the outputs to this directory")
    how.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per output and line; one document with --by set, --contrast or --sql",
    )
    how.add_argument(
        "--tsv", action="store_true", help="by set or with --sql, print tab-separated values without a header"
    )
    how.add_argument("--csv", action="store_true", help=f"by set or with --sql, {CSV['csv']}")
    how.add_argument(
        "--table",
        metavar="FILE",
        help="write a table of results to a file that ends in .csv, .jsonl or .parquet; - for CSV on stdout",
    )
    how.add_argument(
        "--duckdb", metavar="DIRECTORY", help="print views of DuckDB over this directory, to which --download wrote"
    )
    table = parser.add_argument_group("table")
    table.add_argument("--by", choices=("task", "set"), help="a row per task, or per parameter set (default: task)")
    first = table.add_mutually_exclusive_group()
    first.add_argument(
        "--best",
        metavar="RESULT",
        nargs="?",
        const=UNNAMED,
        help="print the parameter sets with the lowest mean of a result; =-RESULT: highest; without RESULT, or with"
        " objective: those of a calibration",
    )
    first.add_argument("--worst", metavar="RESULT", help="print the parameter sets with the highest mean of a result")
    first.add_argument(
        "--sort", metavar="COLUMN", help="sort parameter sets by a result or a column; - in front for descending"
    )
    usual = (
        f"{BEST} with --best and --worst, all with --tsv, --csv and --table, {DEFAULT_LIMIT} with --sql, else {SHOWN}"
    )
    table.add_argument(
        "-n", "--limit", metavar="N", type=row_limit,
        help=f"print at most N parameter sets, or rows of --sql, 0 for all (default: {usual})",
    )  # fmt: skip
    table.add_argument(
        "--explain",
        metavar="RESULT",
        nargs="?",
        const=UNNAMED,
        help="print which parameters separate the lowest twentieth of a result from the rest; =-RESULT: highest;"
        " without RESULT, or with objective: that of a calibration",
    )
    table.add_argument(
        "--contrast",
        metavar="NAME=A,B",
        type=argument_type(parse_contrast),
        help="print by how much results are larger with the second value of a parameter, a label or the scenario of a"
        " study than with the first, or in the second job (job=A,B)",
    )
    table.add_argument("--offline", action="store_true", help="never use the network: write what the cache has")
    sql = parser.add_argument_group("SQL")
    sql.add_argument(
        "--sql",
        metavar="SELECT",
        help="run a query over the table results, which has a row per task, and with DuckDB over series('NAME')",
    )
    add_timeout_flag(sql)


def run(args: argparse.Namespace, app: App) -> Result:
    """List or download outputs, or make a table of results."""
    _check(args)
    if (calibration := _find_calibration(args, app)) is not None:
        return _of_calibration(calibration, args, app)
    is_by_set = args.by == "set" or (args.sql is None and any(getattr(args, name) is not None for name in OF_SETS))
    if args.label:
        args.jobs = jobs_with_labels(args.label, app, FreshnessPolicy(offline=args.offline))
    if args.sql is not None:
        return _read(args, app, read_results_table, _sql)
    sets = _contrast if args.contrast is not None else _sets if is_by_set else None
    try:
        if args.table is not None:
            args.python = check_table_file(args.table, _model_pythons(args, app))
        if sets is not None or args.explain is not None:
            return _read(args, app, read_result_sets, sets or _explain)
        if args.table is not None:
            return _read(args, app, read_results_table, _table)
    except StoreUnavailableError as outage:
        if not args.offline:
            outage.hint = outage.hint or "To write what the cache has, add --offline."
        raise
    job = find_job_with_outputs(args.jobs[0], app)
    job_id = job.job_id
    if args.download is not None or args.duckdb is not None:
        return _views(job_id, Path(args.duckdb), app) if args.duckdb else _download(job, Path(args.download), app)
    return _list(job, args, app)


def _find_calibration(args: argparse.Namespace, app: App) -> FoundCalibration | None:
    """Return the calibration whose objective --best or --explain names; None if they name a result of tasks."""
    named = args.explain if args.best is None else args.best
    if named not in (UNNAMED, OBJECTIVE):
        return None
    is_other = len(args.jobs) != 1 or args.table is not None or args.by == "task"
    if named == UNNAMED and is_other:
        flag = "--explain" if args.best is None else "--best"
        raise UsageError(f"{flag} without RESULT takes one calibration, --limit, --json, --tsv, --csv and --offline.")
    try:
        return None if is_other else find_calibration(args.jobs[0], app, offline=args.offline)
    except UsageError:  # another job may have a result of this name
        if named == UNNAMED:
            raise
        return None


def _of_calibration(calibration: FoundCalibration, args: argparse.Namespace, app: App) -> Result:
    """Print the best sets of a calibration, or say what they have in common."""
    journal, job_id = calibration.journal, calibration.job_id
    if args.best is None:
        explained = explain_journal(job_id, journal, calibration.age)
        body = Document(explained.to_json(app)) if args.json else Text(explained.lines(), indent=INDENT)
        return Result(body, notes=explained.notes(), warnings=calibration.warnings)
    cut = 0 if args.tsv or args.csv else BEST
    limit = cut if args.limit is None else args.limit
    found = [*best_sets(journal, limit)]
    note = f"{job_id}: {calibration_text(counts_of(journal))}"
    result = Result(notes=[note], warnings=calibration.warnings)
    if args.json:
        result.body = Document(calibration.document(found, app))
    elif not _write_flat(*best_columns(journal, found), [], args, app) and found:
        names = round_word(counts_of(journal)), value_name(journal)
        headers = ("RANK", *(name.upper() for name in names), "REPLICATES", "PARAMETERS")
        result.body = Table(headers, [one.row(journal) for one in found])
        if any(one.may_be_best for one in found):
            result.notes = ["* may be the best: its interval overlaps that of the first.", note]
    return result


def _list(job: JobWithOutputs, args: argparse.Namespace, app: App) -> Result:
    """List the outputs of a job."""
    family = family_of(app.store, job.job_id)
    outputs = outputs_of(app.store, job.job_id, family)
    first = next(outputs, None)
    if first is None:
        if job.tasks_lost:
            return Result(warnings=[job.describe_absence()], exit_code=EXIT_PARTLY_DONE)
        return Result(notes=[job.describe_absence()])
    listed = itertools.chain([first], outputs)
    # Printed as they arrive: there may be millions, and the store is closed after this function.
    if args.json:
        app.out.show(Result(JsonLines(_output_json(one) for one in listed)))
    else:
        app.out.show(Result(Tsv((one.entry.key, one.entry.size) for one in listed)))
    return Result(notes=_duplicates_note(*count_tasks(family)))


def _check(args: argparse.Namespace) -> None:
    """Refuse flags that contradict each other, or that have no effect.

    Raises:
        UsageError: if there are some.
    """
    if not args.jobs and not args.label:
        raise UsageError("Name a JOB, or select jobs by --label.")
    if args.jobs and args.label:
        raise UsageError("A JOB contradicts --label, which selects jobs.")
    given = [name for name, value in vars(args).items() if not (value is None or value is False or value == [])]
    typed = [*given, *([] if args.by is None else [f"by {args.by}"]), *(["several jobs"] if len(args.jobs) > 1 else [])]
    for flag, others in CONTRADICTIONS.items():
        for other in others:
            if flag in typed and other in typed:
                raise UsageError(f"--{flag} contradicts --{other}: leave out one of them.")
    if args.sql is not None:
        parse_duration(args.timeout)
    if args.table is not None:
        form_of(args.table)
    for flag, needed, sentence in NEEDS:
        if flag in typed and not any(one in typed for one in needed):
            raise UsageError(sentence)


def _read(
    args: argparse.Namespace,
    app: App,
    read: Callable[[Families, App, Callable[[S], Result], FreshnessPolicy, OnProgress], Result],
    view: Callable[[S, argparse.Namespace, App, Families, OnProgress], Result],
) -> Result:
    """Return what a view makes of the results of the jobs, with the warnings about these in front."""
    policy = FreshnessPolicy(offline=args.offline)
    families = find_results(args.jobs, app, policy)
    with app.out.progress("tasks") as on_progress:
        result = read(families, app, lambda found: view(found, args, app, families, on_progress), policy, on_progress)
    result.warnings = [
        *(warning for family in families for job in family for warning in job.warnings),
        *result.warnings,
    ]
    return result


def _sets(sets: ResultSets, args: argparse.Namespace, app: App, families: Families, _: OnProgress) -> Result:
    """Print or write the table of parameter sets."""
    has_end = args.best is not None or args.worst is not None
    cut = 0 if args.table is not None or args.tsv or args.csv else SHOWN
    limit = args.limit if args.limit is not None else BEST if has_end else cut
    page = sets.page(SetChoice(args.sort, args.best, args.worst, limit))
    notes = list(page.notes)
    result = _result_of_sets(sets)
    if not _write_flat(page.columns, page.rows, notes, args, app):
        if args.json:
            result.body = Document(sets_document(sets, page, app))
        else:
            result.body = sets_table(sets, page, page.rows)
            notes += _hidden_note(sets.numbers)
    shown = min(page.total, limit or page.total)
    if shown < page.total:
        notes.append(f"The first {shown:,} of {pluralize(page.total, 'parameter set')} (--limit 0 shows all).")
    age = f"data: {sets.age}"
    result.notes = [*notes[:-1], f"{notes[-1]}; {age}"] if args.offline and notes else notes
    return result


def _contrast(sets: ResultSets, args: argparse.Namespace, app: App, families: Families, _: OnProgress) -> Result:
    """Print or write by how much results differ."""
    is_whole = args.table is not None or args.tsv or args.csv
    limit = args.limit if args.limit is not None else 0 if is_whole else SHOWN
    contrast = find_contrast(sets, families, args.contrast)
    notes, total = contrast.notes(), len(contrast.compared.pairs)
    result = _result_of_sets(sets)
    if not _write_flat(contrast.columns, itertools.islice(contrast.rows(), limit or None), notes, args, app):
        if args.json:
            result.body = Document(contrast.to_json(app, limit))
        else:
            result.body = Table(*contrast.table(contrast.scalars[:SHOWN_RESULTS], limit))
            notes += _hidden_note(contrast.scalars)
    if 0 < limit < total:
        notes.append(f"The first {limit:,} of {pluralize(total, 'pair')} of sets (--limit 0 shows all).")
    result.notes = [*notes, f"Data: {sets.age}"] if args.offline else notes
    return result


def _explain(sets: ResultSets, args: argparse.Namespace, app: App, *_: object) -> Result:
    """Say which parameters go with the lowest or highest values of a scalar."""
    explained = explain_scalar(sets, args.explain)
    result = _result_of_sets(sets)
    if args.json:
        result.body = Document(explained.to_json(app))
    else:
        result.body = Text(explained.lines(), indent=INDENT)
        result.notes = [*explained.notes(), f"Data: {sets.age}"]
    return result


def _result_of_sets(sets: ResultSets) -> Result:
    return Result(warnings=sets.problems, exit_code=EXIT_PARTLY_DONE if sets.is_partial else EXIT_DONE)


def _hidden_note(results: Sequence[object]) -> list[str]:
    """Return the note about results that the table for people leaves out."""
    hidden = len(results) - SHOWN_RESULTS
    return [f"{pluralize(hidden, 'more result')}: --csv and --json have all."] if hidden > 0 else []


def _duplicates_note(tasks: int, duplicates: int) -> list[str]:
    """Return the line that says why there are fewer outputs than tasks; none if no tasks share their outputs."""
    return [pluralize(tasks, "task") + describe_duplicates(duplicates)] if duplicates else []


def _table(table: ResultsTable, args: argparse.Namespace, app: App, *_: object) -> Result:
    """Write the table of results."""
    note = _write_rows(args.table, table.columns, table.rows(), app, args.python)
    notes = [*table.notes(), f"{note}; data: {table.describe_age()}" if args.offline else note]
    exit_code = EXIT_PARTLY_DONE if table.is_partial else EXIT_DONE
    return Result(notes=notes, warnings=table.problems(), exit_code=exit_code)


def _sql(results: ResultsTable, args: argparse.Namespace, app: App, _: Families, on_progress: OnProgress) -> Result:
    """Run SQL over the tasks."""
    args.form = next((form for form in ("json", "tsv", "csv") if getattr(args, form)), None)
    seconds = parse_duration(args.timeout)
    series = Series(list(results.members), results.open_store, f"{app.cache.path}-series", on_progress)
    with run_results_sql(results, args.sql, seconds=seconds, series=series, monotonic=app.monotonic) as answer:
        head, columns = {"schema_version": 1, **answer.counts}, answer.result.columns
        result = show_rows(
            args,
            app,
            answer.result,
            lambda rows, is_cut: head | rows_document(columns, rows, is_cut=is_cut),
            f"data: {results.describe_age()}",
        )
    result.notes = [*result.notes, *results.notes(), *answer.notes]
    result.warnings = [*results.problems(), *series.problems]
    result.exit_code = EXIT_PARTLY_DONE if results.is_partial or series.problems else EXIT_DONE
    return result


def _model_pythons(args: argparse.Namespace, app: App) -> Iterator[Interpreter]:
    """Yield the interpreters of the models of the jobs on this machine, which may have the packages for a table."""
    env = model_environment(app.env)
    for name in args.jobs:
        yield Interpreter(python_of_launch(name if args.offline else find_state(name, app).job_id, app.env), env)


def _write_flat(
    columns: Sequence[Column], rows: Iterable[Row], notes: list[str], args: argparse.Namespace, app: App
) -> bool:
    """Write a table as --table, --csv or --tsv ask, and add the note about it; return False if none of them does."""
    if args.table is not None:
        notes.append(_write_rows(args.table, columns, rows, app, args.python))
    elif args.csv:
        _write_rows("-", columns, rows, app)
    elif args.tsv:
        app.out.show(Result(Tsv(rows)))
    return args.table is not None or args.csv or args.tsv


def _write_rows(
    path: str, columns: Sequence[Column], rows: Iterable[Row], app: App, python: Interpreter | None = None
) -> str:
    """Write a table, and return the note about it."""
    count = itertools.count()
    counted = (row for row in rows if next(count) >= 0)
    if path == "-":
        app.out.show(Result(RawText(csv_pieces(columns, counted))))  # here, while the tasks can be read
    else:
        write_table_file(path, columns, counted, python)
        note_table(path, app.env)
    return pluralize(next(count), "row") + ("" if path == "-" else f" in {path}")


def sets_table(sets: ResultSets, page: SetPage, rows: Iterable[Sequence[object]]) -> Table:
    """Return the table of parameter sets for people: parameters that vary, ends of tasks, and means with intervals."""
    names = [column.name for column in page.columns]
    varying = sets.varying()
    chosen = [one for one in sets.numbers if page.order is not None and one.name == page.order.scalar]
    numbers = (chosen + [one for one in sets.numbers if one not in chosen])[:SHOWN_RESULTS]
    means = [(one.name, names.index(sets.column_of(one.name, "mean"))) for one in numbers]
    has_end = page.standing is not None
    cells: list[list[object]] = []
    for row in rows:
        of = dict(zip(names, row, strict=True))
        mark = [style_text("*", "bold") if of[names[len(BEFORE)]] else ""] if has_end else []
        cells.append(
            [
                *mark,
                *([of["job_id"]] if len(sets.job_ids) > 1 else []),
                *(cut_to_length(value_text(short_number(of[name])), MAX_VALUE) for name in varying),
                out_of(int(str(of["done"])), int(str(of["tasks"]))),
                *([] if sets.targets is None else [sets.precision_text(of)]),
                *(_cell(row, place, of["done"]) for _, place in means),
                cut_to_length(str(of[ERROR] or ""), MAX_ERROR),
            ]
        )
    shown = [name for name, _ in means]
    job = ["JOB"] if len(sets.job_ids) > 1 else []
    precision = [] if sets.targets is None else ["PRECISION"]
    headers = [*(["?"] if has_end else []), *job, *varying, "DONE", *precision, *shown, "ERROR"]
    return Table(headers, cells, drop_order=["ERROR", *shown[:0:-1]])


def _cell(row: Sequence[object], place: int, done: object) -> str:
    """Return a mean with its interval, and of how many values it is if not of all tasks that are done."""
    n = row[place - 2]
    return mean_text(row[place], row[place + 2]) + (f" (n={n})" if n and n != done else "")


def _views(job_id: str, directory: Path, app: App) -> Result:
    """Print the views of a downloaded directory."""
    check_same_family(OutputDirectory(directory), app.store, job_id, family_of(app.store, job_id))
    statements, table = duckdb_views(directory)
    if table is not None:
        return Result(RawText(statements))
    command = command_line(f"results {job_id} --table {shlex.quote(str(directory / 'results.parquet'))}")
    return Result(RawText(statements), notes=[f"results has no scalars. To have them, run `{command}` first."])


def _output_json(one: Output) -> dict[str, object]:
    task, of = one.task, one.task or one.reduced
    params = None if of is None else of.params
    return {
        "name": one.name,
        "key": one.entry.key,
        "bytes": one.entry.size,
        "task": None if task is None else task.number,
        "param_id": None if of is None else of.param_id,
        "seed": None if task is None else task.seed,
        "params": None if params is None else dict(params),
        "reduced": None if one.reduced is None else one.reduced.tasks,
    }


def _download(job: JobWithOutputs, directory: Path, app: App) -> Result:
    """Download the outputs, and name the keys that were refused."""
    with app.out.progress("files") as on_progress:
        try:
            done = download_outputs(job, directory, app, on_progress)
        except NoOutputsError as error:
            raise NoOutputsError(job.describe_absence(), job_id=error.job_id) from None
    has_table = done.files and done.tasks and done.table_problem is None
    note = f"{pluralize(done.files, 'file')} in {directory}"
    if has_table:
        note += f"; {directory / TABLE} has the parameters of each task"
    return Result(
        notes=[note, *_duplicates_note(done.tasks, done.duplicate_tasks)],
        warnings=done.problems,
        exit_code=EXIT_PARTLY_DONE if done.problems else EXIT_DONE,
    )
