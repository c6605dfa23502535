"""`update`: change the status or the fields of a job."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_full_ids
from mopsjobs.cli.record_flags import add_record_flags, record_fields, report_result
from mopsjobs.console.result import Result
from mopsjobs.errors import UsageError
from mopsjobs.registry.status import JobStatus, parse_status

HELP = "change the status or the fields of a job"

DESCRIPTION = (
    "Change the status or the fields of a job. Skipped statuses are filled in. Backward moves are refused. After its"
    " end, only labels and the note can change."
)

EXAMPLES = (
    "mops-jobs update nightly-1 running",
    "mops-jobs update nightly-1 failed --error-code OOM --error 'killed at 12 GiB'",
    "mops-jobs update nightly-1 --label paper=fig2 --note 'used in the second draft'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser)
    parser.add_argument(
        "status", metavar="STATUS", nargs="?", help=f"new status: {', '.join(JobStatus)} (default: as it is)"
    )
    add_record_flags(parser)
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Change a job."""
    fields = record_fields(args)
    if args.status is not None:
        return report_result(args, app, app.registry.update_status(args.job, parse_status(args.status), **fields))
    if not fields:
        raise UsageError("Nothing to update.", hint="Add a status, or a flag that sets a field.")
    return report_result(args, app, app.registry.update_fields(args.job, **fields))
