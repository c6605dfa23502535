"""`validate`: check the outputs of a job."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.app.find_job import find_state
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import JOB_HELP
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.studies.validation import validate

HELP = "check a job's outputs, and end the job accordingly"

DESCRIPTION = (
    "Compare a job's outputs with its manifest. If all exist, the job is succeeded; if some do, partial; if none does,"
    " failed. The status of a job that has ended does not change."
)

EXAMPLES = (
    "mops-jobs validate @latest",
    "mops-jobs validate nightly-1 --json | jq .missing_outputs",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Validate a job."""
    job_id = find_state(args.job, app).job_id
    found = validate(app.store, app.registry, job_id)
    if args.json:
        return Result(Document(job_json_from_state(found.state, now=app.now().timestamp())))
    line = f"{job_id}: {found.tasks_verified:,} of {found.tasks_total:,} tasks verified; {found.state.status}"
    return Result(Text([line], indent=2))
