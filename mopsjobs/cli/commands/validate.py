"""`validate`: are the outputs of a job there?"""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.app.find_job import find_state
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.studies.validation import validate

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `validate`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="compare a job's outputs with what it should leave, and end it by that",
        description="Compare a job's outputs with its manifest, by one listing: all there, succeeded; some, partial; "
        "none, failed. A job that has ended is only compared.",
    )
    parser.add_argument("job", metavar="JOB", help="its id, the only id that begins so, or @latest")
    parser.add_argument("--json", action="store_true", help="the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Validate a job."""
    job_id = find_state(args.job, app).job_id
    found = validate(app.store, app.registry, job_id)
    if args.json:
        return Result(Document(job_json_from_state(found.state, now=app.now().timestamp())))
    line = f"{job_id}: {found.tasks_verified:,} of {found.tasks_total:,} tasks verified; {found.state.status}"
    return Result(Text([line]))
