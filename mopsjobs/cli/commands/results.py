"""`results`: list the outputs of a job, or download them."""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from mopsjobs.app.app import App
from mopsjobs.app.find_job import find_state
from mopsjobs.cli.flags import JOB_HELP
from mopsjobs.console.result import JsonLines, Result, Tsv
from mopsjobs.errors import (
    EXIT_PARTLY_DONE,
    InvalidKeyError,
    JobNotFoundError,
    MopsJobsError,
    NoManifestError,
    NoOutputsError,
)
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.lineage import ancestry
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.output_directory import OutputDirectory, RefusedFileError
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.studies.results import TABLE_BEGINNING, Output, outputs_of, why_not_an_output, write_table
from mopsjobs.utils.text import pluralize

HELP = "list the outputs of a job, or download them"

DESCRIPTION = (
    "List the outputs of a job, or download them to DIRECTORY/<param_id>/<seed>/<name>, and a table of its tasks with"
    " their parameters to DIRECTORY/tasks.csv. A child job has the outputs of its ancestors too. An existing file with"
    " other content is kept and named (exit code 7)."
)

EXAMPLES = (
    "mops-jobs results @latest",
    "mops-jobs results nightly-1 --download out",
)

TABLE = "tasks.csv"

SHOWN_KEYS = 1000
"""Refused keys that are named with the reason. A writer of the registry can create a million."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument("--download", metavar="DIRECTORY", help="download the outputs to this directory")
    parser.add_argument("--json", action="store_true", help="print one JSON object per output and line")


def run(args: argparse.Namespace, app: App) -> Result:
    """List or download outputs."""
    job_id, family = _family(args.job, app)
    outputs = outputs_of(app.store, job_id, family)
    if args.download is not None:
        return _download(OutputDirectory(Path(args.download)), job_id, family, outputs, app)
    first = next(outputs, None)
    if first is None:
        return Result(notes=[f"Job {job_id} has no outputs yet."])
    listed = itertools.chain([first], outputs)
    # Printed as they arrive: there may be millions, and the store is closed after this function.
    if args.json:
        app.out.show(Result(JsonLines(_facts(one) for one in listed)))
    else:
        app.out.show(Result(Tsv((one.entry.key, one.entry.size) for one in listed)))
    return Result()


def _family(name: str, app: App) -> tuple[str, list[Manifest]]:
    """Return the id of the job, and its manifest with those of its ancestors. A job may have outputs alone.

    Raises:
        JobNotFoundError: if there is neither a record nor an output of the job.
    """
    try:
        job_id = find_state(name, app).job_id
    except JobNotFoundError:
        if name.startswith("@") or next(iter(app.store.list_keys(results_prefix(name))), None) is None:
            raise
        job_id = name
    try:
        return job_id, list(ancestry(app.store, load_manifest(app.store, job_id)))
    except NoManifestError:
        return job_id, []


def _facts(one: Output) -> dict[str, object]:
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


def _download(
    directory: OutputDirectory, job_id: str, family: Sequence[Manifest], outputs: Iterator[Output], app: App
) -> Result:
    """Write the outputs that the job may have. Each other key is named with the reason, and does not stop the rest."""
    fetched, count, refused = 0, 0, []
    with app.out.progress("files", None) as on_progress:
        for one in outputs:
            reason = why_not_an_output(one, family)
            try:
                found = None if reason else app.store.get(one.entry.key)
            except InvalidKeyError as error:  # other programs write keys that the store refuses to read
                found, reason = None, error.message.removesuffix(".")
            if found is not None:
                reason = _write(directory, one, found.value, family, app.store)
                fetched += not reason
            if reason:
                count += 1
                if count <= SHOWN_KEYS:
                    refused.append(f"{one.entry.key} is not downloaded: {reason}.")
            elif found is not None and on_progress is not None:
                on_progress(fetched)
    if count > SHOWN_KEYS:
        refused.append(f"{count - SHOWN_KEYS:,} more keys are not downloaded.")
    if not fetched and not refused:
        raise NoOutputsError(f"Job {job_id} has no outputs yet.", job_id=job_id)
    if family and fetched:
        with _writing(directory.path / TABLE):
            try:
                directory.replace(TABLE, TABLE_BEGINNING, lambda path: write_table(path, app.store, family))
            except RefusedFileError as error:
                refused.append(f"The table of tasks was not written: {error}.")
    exit_code = EXIT_PARTLY_DONE if refused else 0
    return Result(notes=[f"{pluralize(fetched, 'file')} in {directory.path}"], warnings=refused, exit_code=exit_code)


def _write(
    directory: OutputDirectory, one: Output, value: bytes, family: Sequence[Manifest], store: VersionedStore
) -> str:
    """Write one output. Returns the reason if it was refused, else an empty text."""
    earlier = (store.get(f"{results_prefix(generation.job_id)}{one.name}") for generation in family[1:])
    with _writing(directory.path / one.name):
        try:
            directory.write(one.name, value, (found.value for found in earlier if found is not None))
        except RefusedFileError as error:
            return str(error)
    return ""


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MopsJobsError(f"Cannot write {path}: {error.strerror}.") from None
