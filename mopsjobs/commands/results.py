"""`results`: the outputs of a job, listed or fetched."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context
from mopsjobs.errors import EXIT_PARTLY_DONE, MopsJobsError, UsageError
from mopsjobs.job import check_job_id
from mopsjobs.output import JsonLines, Result, Tsv
from mopsjobs.outputs import NAMES_NAME, results_prefix
from mopsjobs.store.base import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `results`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="list the outputs of a job, or fetch them",
        description="List the outputs of a job, or fetch them into DIR/<param_id>/<seed>/<name>.",
    )
    parser.add_argument("job", metavar="JOB", help="its whole id")
    parser.add_argument("--download", metavar="DIR", help="fetch them into this directory")
    parser.add_argument("--json", action="store_true", help="each output as a JSON object in a line of its own")


def run(args: argparse.Namespace, context: Context) -> Result:
    """List or fetch outputs."""
    prefix = results_prefix(check_job_id(args.job))
    outputs = _outputs(context, prefix)
    if args.download is None:
        facts = ((entry.key[len(prefix) :], entry.key, entry.size) for entry in outputs)
        # Printed here, as they come in: there may be millions, and afterwards the store is closed.
        if args.json:
            context.out.show(Result(JsonLines({"name": name, "key": key, "bytes": size} for name, key, size in facts)))
        else:
            context.out.show(Result(Tsv((key, size) for _, key, size in facts)))
        return Result()
    return _download(Path(args.download), prefix, outputs, context)


def _outputs(context: Context, prefix: str) -> Iterator[Entry]:
    return (entry for entry in context.store.scan(prefix) if not entry.key.endswith("/" + NAMES_NAME))


def _download(directory: Path, prefix: str, outputs: Iterator[Entry], context: Context) -> Result:
    fetched, refused = 0, []
    with context.out.progress("files", None) as on_progress:
        for entry in outputs:
            path = directory / entry.key[len(prefix) :]
            # A key is data from elsewhere; what it makes of the path must stay below the directory.
            if not os.path.realpath(path).startswith(os.path.realpath(directory) + os.sep):
                refused.append(f"{entry.key} would lead out of {directory}; left out")
                continue
            found = context.store.get(entry.key)
            if found is None:
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_name(path.name + ".part")
                beside.write_bytes(found.value)
                beside.replace(path)
            except OSError as error:
                raise MopsJobsError(f"Cannot write {path}: {error.strerror}.") from None
            fetched += 1
            if on_progress is not None:
                on_progress(fetched)
    if not fetched and not refused:
        raise UsageError("There are no outputs to fetch yet.")
    exit_code = EXIT_PARTLY_DONE if refused else 0
    return Result(notes=[f"{fetched:,} files in {directory}"], warnings=refused, exit_code=exit_code)
