"""`note`: note something about a job."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_full_ids
from mopsjobs.cli.record_flags import report_result
from mopsjobs.console.result import Result
from mopsjobs.registry.notes import MAX_NOTE

HELP = "note something about a job, also after its end"

DESCRIPTION = "Note something about a job, also after its end. status shows all notes, with their times and authors."

EXAMPLES = (
    "mops-jobs note nightly-1 'used in the second draft'",
    "mops-jobs note nightly-1 'wrong prior for beta, see nightly-2' --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser)
    parser.add_argument("text", metavar="TEXT", help=f"the note, of up to {MAX_NOTE:,} characters")
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Note something about a job."""
    return report_result(args, app, app.registry.add_note(args.job, args.text), change="noted")
