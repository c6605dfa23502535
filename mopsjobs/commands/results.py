"""`results`: the outputs of a job, listed or fetched."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context
from mopsjobs.errors import EXIT_PARTLY_DONE, JobNotFoundError, MopsJobsError, NoManifestError, NoOutputsError
from mopsjobs.naming import find_state
from mopsjobs.output import JsonLines, Result, Tsv
from mopsjobs.outputs import Manifest, results_prefix
from mopsjobs.submit.family import ancestry
from mopsjobs.submit.table import Output, outputs_of, write_table
from mopsjobs.validation import load_manifest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands

TABLE = "tasks.csv"


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `results`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="list the outputs of a job, or fetch them",
        description="List the outputs of a job, or fetch them into DIR/<param_id>/<seed>/<name>, and a table of its "
        "tasks with their parameters into DIR/tasks.csv. A job that completes another one has the outputs of both.",
    )
    parser.add_argument("job", metavar="JOB", help="its id, the only id that begins so, or @latest")
    parser.add_argument("--download", metavar="DIR", help="fetch them into this directory")
    parser.add_argument("--json", action="store_true", help="each output as a JSON object in a line of its own")


def run(args: argparse.Namespace, context: Context) -> Result:
    """List or fetch outputs."""
    job_id, family = _family(args.job, context)
    outputs = outputs_of(context.store, job_id, family)
    if args.download is not None:
        return _download(Path(args.download), job_id, family, outputs, context)
    first = next(outputs, None)
    if first is None:
        return Result(notes=[f"Job {job_id} has no outputs yet."])
    listed = itertools.chain([first], outputs)
    # Printed here, as they come in: there may be millions, and afterwards the store is closed.
    if args.json:
        context.out.show(Result(JsonLines(_facts(one) for one in listed)))
    else:
        context.out.show(Result(Tsv((one.entry.key, one.entry.size) for one in listed)))
    return Result()


def _family(name: str, context: Context) -> tuple[str, list[Manifest]]:
    """The id of the job, and its manifest with those of its ancestors. Outputs need neither a record nor a manifest.

    Raises:
        JobNotFoundError: there is nothing of such a job.
    """
    try:
        job_id = find_state(name, context).job_id
    except JobNotFoundError:
        if name.startswith("@") or next(iter(context.store.list_keys(results_prefix(name))), None) is None:
            raise
        job_id = name
    try:
        return job_id, list(ancestry(context.store, load_manifest(context.store, job_id)))
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
    directory: Path, job_id: str, family: Sequence[Manifest], outputs: Iterator[Output], context: Context
) -> Result:
    fetched, refused = 0, []
    with context.out.progress("files", None) as on_progress:
        for one in outputs:
            path = directory / one.name
            # A key is data from elsewhere; what it makes of the path must stay below the directory.
            if not os.path.realpath(path).startswith(os.path.realpath(directory) + os.sep):
                refused.append(f"{one.entry.key} would lead out of {directory}; left out")
                continue
            found = context.store.get(one.entry.key)
            if found is None:
                continue
            with _writing(path):
                _prepare(directory)
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_name(path.name + ".part")
                beside.write_bytes(found.value)
                beside.replace(path)
            fetched += 1
            if on_progress is not None:
                on_progress(fetched)
    if not fetched and not refused:
        raise NoOutputsError(f"Job {job_id} has no outputs yet.", job_id=job_id)
    if family and fetched:
        with _writing(directory / TABLE):
            write_table(directory / TABLE, context.store, family)
    exit_code = EXIT_PARTLY_DONE if refused else 0
    return Result(notes=[f"{fetched:,} files in {directory}"], warnings=refused, exit_code=exit_code)


def _prepare(directory: Path) -> None:
    """Make the directory, if it is new. git, and a later `submit --auto` from here, then leave what is in it alone."""
    if not directory.exists():
        directory.mkdir(parents=True)
        (directory / ".gitignore").write_text("# Outputs, not code: so that submit --auto does not pack them.\n*\n")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MopsJobsError(f"Cannot write {path}: {error.strerror}.") from None
