"""`register`: add a job of your own to the registry."""

from __future__ import annotations

import argparse

from mopsjobs.app.run.app import App
from mopsjobs.cli.record_flags import add_record_flags, record_fields, report_result
from mopsjobs.console.result import Result

HELP = "register a job of your own, as pending"

DESCRIPTION = "Register a job of your own, as pending. Scripts and pods then report it with update and progress."

EXAMPLES = (
    "mops-jobs register nightly-1",
    "mops-jobs register nightly-1 --owner me --label exp=7 --total 10",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("job", metavar="JOB", help="id of the new job")
    add_record_flags(parser, with_error=False)
    parser.add_argument("--json", action="store_true", help="print the job as one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Register a job."""
    return report_result(args, app, app.registry.register_job(args.job, **record_fields(args)))
