"""`results`: list the outputs of a job, or download them."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from mopsjobs.app.jobs.find_outputs import JobWithOutputs, download_outputs, find_job_with_outputs
from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.app.tasks.results_table import (
    ReducedTable,
    ReplicateTable,
    ResultsTable,
    Statistics,
    find_results,
    parse_quantiles,
    read_reduced_table,
    read_results_table,
)
from mopsjobs.cli.flags import JOB_HELP, add_job_names, argument_type
from mopsjobs.console.result import JsonLines, RawText, Result, Tsv
from mopsjobs.errors import (
    EXIT_DONE,
    EXIT_PARTLY_DONE,
    NoOutputsError,
    StoreUnavailableError,
    UsageError,
)
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.results import TABLE, Output, count_tasks, outputs_of
from mopsjobs.utils.table_files import check_table_file, csv_pieces, write_table_file
from mopsjobs.utils.text import describe_duplicates, join_first, pluralize

HELP = "list the outputs of a job, download them, or make a table of results"

DESCRIPTION = (
    "List the outputs of a job, or download them to DIRECTORY/<param_id>/<seed>/<name>, and a table of its tasks with"
    " their parameters to DIRECTORY/tasks.csv. Those of a reduce function have reduced-<tasks> in place of the seed."
    " A child job has the outputs of its ancestors too. An existing file with"
    " other content is kept and named (exit code 7). A directory with the outputs of another family is refused. --table"
    " writes a table with a row per task, of the jobs and their ancestors: parameters, status, and the numbers, texts"
    " and truth values of JSON outputs and of CSV outputs with one row. With --reduced, it has those that a reduce"
    " function left instead: a row per parameter set, and one of the whole job, without param_id."
    " Sets that are not reduced are counted (exit code 7)."
)

EXAMPLES = (
    "mops-jobs results nightly-1 --download out",
    "mops-jobs results nightly-1 nightly-2 --table - --mean --quantile 0.1,0.9",
    "mops-jobs results nightly-1 --reduced --table means.csv",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, "jobs", "+", f"{JOB_HELP}; several with --table")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--download", metavar="DIRECTORY", help="download the outputs to this directory")
    how.add_argument("--json", action="store_true", help="print one JSON object per output and line")
    how.add_argument(
        "--table",
        metavar="FILE",
        help="write a table of results to a file that ends in .csv, .jsonl or .parquet; - for CSV on stdout",
    )
    table = parser.add_argument_group("table")
    table.add_argument("--mean", action="store_true", help="a row per parameter set, with the mean of each number")
    table.add_argument(
        "--quantile",
        metavar="Q[,Q]",
        type=argument_type(parse_quantiles),
        help="a row per parameter set, with quantiles of each number, like 0.1,0.9",
    )
    table.add_argument(
        "--reduced",
        action="store_true",
        help="a row per parameter set and of the job, with what a reduce function left",
    )
    table.add_argument("--offline", action="store_true", help="never use the network: write what the cache has")


def run(args: argparse.Namespace, app: App) -> Result:
    """List or download outputs, or make a table of results."""
    if args.table is not None:
        try:
            return _table(args, app)
        except StoreUnavailableError as outage:
            if not (args.offline or args.reduced):
                outage.hint = outage.hint or "To write what the cache has, add --offline."
            raise
    if args.mean or args.quantile or args.reduced or len(args.jobs) > 1:
        what = "Several jobs" if len(args.jobs) > 1 else "--mean, --quantile and --reduced"
        raise UsageError(f"{what} need --table FILE.")
    if args.offline:
        raise UsageError("--offline needs --table FILE: the cache has no outputs.")
    job = find_job_with_outputs(args.jobs[0], app)
    job_id = job.job_id
    if args.download is not None:
        return _download(job, Path(args.download), app)
    family = family_of(app.store, job_id)
    outputs = outputs_of(app.store, job_id, family)
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


def _duplicates_note(tasks: int, duplicates: int) -> list[str]:
    """Return the line that says why there are fewer outputs than tasks; none if no tasks share their outputs."""
    return [pluralize(tasks, "task") + describe_duplicates(duplicates)] if duplicates else []


def _table(args: argparse.Namespace, app: App) -> Result:
    """Write the table of results."""
    check_table_file(args.table)
    if args.reduced:
        return _reduced_table(args, app)
    policy = FreshnessPolicy(offline=args.offline)
    families = find_results(args.jobs, app, policy)

    def view(results: ResultsTable) -> Result:
        table: ResultsTable | ReplicateTable = results
        if args.mean or args.quantile:
            table = ReplicateTable(results, Statistics(args.mean, args.quantile or ()))
        note = _write_rows(args.table, table, app)
        notes = [f"{note}; data: {results.describe_age()}" if args.offline else note]
        if isinstance(table, ReplicateTable) and table.left_out_columns:
            notes.insert(0, f"Not numbers, so without statistics: {join_first(table.left_out_columns)}.")
        if isinstance(table, ReplicateTable) and (counts := table.not_finite):
            left_out = join_first([f"{name} ({count:,})" for name, count in counts.items()])
            notes.insert(0, f"NaN or infinite, so left out of means and quantiles, see n and n_nan: {left_out}.")
        if (some := results.simulations) is not None:
            how = "means and quantiles count each once" if isinstance(table, ReplicateTable) else "see column repeats"
            notes = [f"{line}; {how}" for line in _duplicates_note(some.tasks, some.repeated)] + notes
        exit_code = EXIT_PARTLY_DONE if results.is_partial else EXIT_DONE
        return Result(notes=notes, warnings=results.problems(), exit_code=exit_code)

    with app.out.progress("tasks") as on_progress:
        result = read_results_table(families, app, view, policy, on_progress)
    result.warnings = [
        *(warning for family in families for job in family for warning in job.warnings),
        *result.warnings,
    ]
    return result


def _reduced_table(args: argparse.Namespace, app: App) -> Result:
    """Write the table of what reduce functions left."""
    if args.mean or args.quantile:
        raise UsageError("--reduced has a row per parameter set: it takes neither --mean nor --quantile.")
    if args.offline:
        raise UsageError("--reduced does not work with --offline: the cache has no outputs.")

    def view(table: ReducedTable) -> Result:
        notes = [_write_rows(args.table, table, app)]
        notes = [f"{line}; reductions count each once" for line in _duplicates_note(*table.tasks)] + notes
        exit_code = EXIT_PARTLY_DONE if table.output_problems or table.lacking else EXIT_DONE
        return Result(notes=notes, warnings=table.problems(), exit_code=exit_code)

    with app.out.progress("reductions") as on_progress:
        return read_reduced_table(args.jobs, app, view, on_progress)


def _write_rows(path: str, table: ResultsTable | ReplicateTable | ReducedTable, app: App) -> str:
    """Write a table, and return the note about it."""
    count = itertools.count()
    rows = (row for row in table.rows() if next(count) >= 0)
    if path == "-":
        app.out.show(Result(RawText(csv_pieces(table.columns, rows))))  # here, while the tasks can be read
    else:
        write_table_file(path, table.columns, rows)
    return pluralize(next(count), "row") + ("" if path == "-" else f" in {path}")


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
