"""`progress`: report how many tasks of a job are done."""

from __future__ import annotations

import argparse
import re

from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_full_ids
from mopsjobs.cli.record_flags import report_result, reported_count
from mopsjobs.console.result import Result
from mopsjobs.errors import UsageError

HELP = "report how many tasks of a job are done"

DESCRIPTION = "Report how many tasks of a job are done. The job's status becomes running."

EXAMPLES = (
    "mops-jobs progress nightly-1 5/10",
    "mops-jobs progress nightly-1 9 --failed 1",
)

_PROGRESS = re.compile(r"(\d{1,15})(?:/(\d{1,15}))?", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser)
    parser.add_argument("done", metavar="DONE[/TOTAL]", help="number of tasks done so far, and of all tasks")
    parser.add_argument("--failed", metavar="N", type=reported_count, help="number of tasks that ended in an error")
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Report progress."""
    counts = _PROGRESS.fullmatch(args.done)
    if counts is None:
        raise UsageError(f"invalid progress '{args.done}': expected DONE or DONE/TOTAL, like 5/10.")
    done, total = (None if count is None else int(count) for count in counts.groups())
    if total == 0:
        raise UsageError(f"invalid progress '{args.done}': expected a TOTAL of at least 1, or DONE alone.")
    state = app.registry.update_progress(args.job, done, total, tasks_failed=args.failed, start=True)
    return report_result(args, app, state)
