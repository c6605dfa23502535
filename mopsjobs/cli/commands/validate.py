"""`validate`: check the outputs of a job."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.app.validate_job import validate_job
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_full_ids
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.utils.text import pluralize

HELP = "check a job's outputs, and end the job accordingly unless its runner is at work"

DESCRIPTION = (
    "Compare a job's outputs with its manifest. If all exist, the job is succeeded; if some do, partial; if none does,"
    " failed. If the study names a reduce function, its outputs have to exist too."
    " The status of a job does not change if it has ended, or if its runner has reported within a minute."
)

EXAMPLES = (
    "mops-jobs validate @latest",
    "mops-jobs validate nightly-1 --json | jq .missing_outputs",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser, takes_latest=True)
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Validate a job."""
    found, is_at_work = validate_job(args.job, app)
    state = found.state
    notes = [f"The runner of {state.job_id} is at work, and will end the job."] if is_at_work else []
    if args.json:
        return Result(Document(job_json_from_state(state, now=app.now().timestamp())), notes=notes)
    verified = f"{found.tasks_verified:,} of {found.tasks_total:,} tasks"
    if found.reductions:
        verified += f", {found.reductions_verified:,} of {pluralize(found.reductions, 'reduction')}"
    line = f"{state.job_id}: {verified} verified; {state.status}"
    return Result(Text([line], indent=2), notes=notes)
