"""`diff`: name what differs between two jobs."""

from __future__ import annotations

import argparse

from mopsjobs.app.origins.compare_jobs import compare_jobs, difference_lines
from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_job_names
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import TITLE_WIDTH
from mopsjobs.errors import EXIT_DONE, EXIT_PARTLY_DONE, read_job_name

HELP = "name what differs between two jobs: code, study, packages, results"

DESCRIPTION = (
    "Name what differs between two jobs: code, study, Python and packages, image, and the outputs of the tasks that"
    " both have, by parameter set and seed. The exit code does not tell whether the jobs differ."
)

EXAMPLES = (
    "mops-jobs diff nightly-1 nightly-2",
    "mops-jobs diff nightly-1 nightly-2 --code --without-results",
    "mops-jobs diff nightly-1 @latest --json | jq .environment.packages",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, "first")
    parser.add_argument(
        "second", metavar="OTHER", type=read_job_name, help="the job to compare with, named in the same way"
    )
    parser.add_argument("--code", action="store_true", help="print the changed lines of the code")
    parser.add_argument("--without-results", action="store_true", help="leave out the outputs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Compare two jobs."""
    parts = {"with_lines": args.code, "with_results": not args.without_results}
    with app.out.progress("tasks") as on_progress:
        found = compare_jobs(args.first, args.second, app, **parts, on_progress=on_progress)
    warnings = list(dict.fromkeys([*found.first.problems, *found.second.problems]))
    body = Document(found.to_json()) if args.json else Text(difference_lines(found), indent=TITLE_WIDTH)
    return Result(body, warnings=warnings, exit_code=EXIT_PARTLY_DONE if warnings else EXIT_DONE)
