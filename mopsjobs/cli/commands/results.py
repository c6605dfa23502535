"""`results`: list the outputs of a job, or download them."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from mopsjobs.app.app import App
from mopsjobs.app.find_outputs import JobWithOutputs, find_job_with_outputs, read_task_errors
from mopsjobs.cli.flags import JOB_HELP
from mopsjobs.console.result import JsonLines, Result, Tsv
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, NoOutputsError
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.results import Output, count_tasks, download, outputs_of
from mopsjobs.studies.task_table import TABLE
from mopsjobs.utils.text import describe_duplicates, pluralize

HELP = "list the outputs of a job, or download them"

DESCRIPTION = (
    "List the outputs of a job, or download them to DIRECTORY/<param_id>/<seed>/<name>, and a table of its tasks with"
    " their parameters to DIRECTORY/tasks.csv. A child job has the outputs of its ancestors too. An existing file with"
    " other content is kept and named (exit code 7). A directory with the outputs of another family is refused."
)

EXAMPLES = (
    "mops-jobs results @latest",
    "mops-jobs results nightly-1 --download out",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument("--download", metavar="DIRECTORY", help="download the outputs to this directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object per output and line")


def run(args: argparse.Namespace, app: App) -> Result:
    """List or download outputs."""
    job = find_job_with_outputs(args.job, app)
    job_id = job.job_id
    if args.download is not None:
        return _download(job, Path(args.download), app)
    family = family_of(app.store, job_id)
    outputs = outputs_of(app.store, job_id, family)
    first = next(outputs, None)
    if first is None:
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


def _output_json(one: Output) -> dict[str, object]:
    task = one.task
    return {
        "name": one.name,
        "key": one.entry.key,
        "bytes": one.entry.size,
        "task": None if task is None else task.number,
        "param_id": None if task is None else task.param_id,
        "seed": None if task is None else task.seed,
        "params": None if task is None else dict(task.params),
    }


def _download(job: JobWithOutputs, directory: Path, app: App) -> Result:
    """Download the outputs, and name the keys that were refused."""
    errors = read_task_errors(job, app)
    with app.out.progress("files") as on_progress:
        try:
            done = download(app.store, job.job_id, directory, on_progress=on_progress, errors=errors)
        except NoOutputsError as error:
            raise NoOutputsError(job.describe_absence(), job_id=error.job_id) from None
    warnings = [f"{key} is not downloaded: {reason}." for key, reason in done.reasons]
    if (more := done.refused - len(done.reasons)) > 0:
        warnings.append(f"{more:,} more keys are not downloaded.")
    if done.table_problem is not None:
        warnings.append(f"The table of tasks was not written: {done.table_problem}.")
    has_table = done.files and done.tasks and done.table_problem is None
    note = f"{pluralize(done.files, 'file')} in {directory}"
    if has_table:
        note += f"; {directory / TABLE} has the parameters of each task"
    return Result(
        notes=[note, *_duplicates_note(done.tasks, done.duplicate_tasks)],
        warnings=warnings,
        exit_code=EXIT_PARTLY_DONE if warnings else EXIT_DONE,
    )
