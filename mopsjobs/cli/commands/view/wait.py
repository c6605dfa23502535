"""`wait`: wait until jobs end."""

from __future__ import annotations

import argparse

from mopsjobs.app.following.wait import StopCondition, wait_for
from mopsjobs.app.run.app import App
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_job_names, parse_interval
from mopsjobs.console.result import JsonLines, Result
from mopsjobs.utils.times import parse_duration

HELP = "wait until jobs end; the exit code tells how"

DESCRIPTION = (
    "Wait until jobs end. The exit code tells how: succeeded 0, failed 100, cancelled 103, partial 104, and 8 if the"
    " timeout passes first. If the registry does not answer, wait tries again until the timeout, and says so"
    " every 10 minutes."
)

EXAMPLES = (
    "mops-jobs wait @latest --timeout 2h",
    "mops-jobs wait nightly-1 nightly-2 --fail-fast",
    "mops-jobs wait nightly-1 && mops-jobs results nightly-1 --download out",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, "jobs", "+")
    parser.add_argument("--timeout", metavar="DURATION", help="give up after this time, like 2h (default: never)")
    parser.add_argument(
        "--interval",
        metavar="DURATION",
        help="time between two polls (default: 5s, or 1s for a registry on this machine)",
    )
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--all", action="store_true", help="wait until every job has ended (the default)")
    until.add_argument("--any", action="store_true", help="wait until one job has ended, and exit with its code")
    parser.add_argument("--fail-fast", action="store_true", help="exit as soon as one job has ended without success")
    parser.add_argument("--json", action="store_true", help="print one JSON object per job and line")


def run(args: argparse.Namespace, app: App) -> Result:
    """Wait for jobs."""
    interval = None if args.interval is None else parse_interval(args.interval)
    until = StopCondition(
        timeout=None if args.timeout is None else parse_duration(args.timeout),
        first=args.any,
        fail_fast=args.fail_fast,
    )
    waited = wait_for(args.jobs, app, until, interval=interval)
    now = app.now().timestamp()
    jobs = [job_json_from_state(state, now=now) for state in waited.states]
    return Result(JsonLines(jobs) if args.json else None, notes=waited.notes, exit_code=waited.exit_code)
