"""`wait`: until jobs end, whatever way."""

from __future__ import annotations

import argparse

from mopsjobs.app.app import App
from mopsjobs.app.wait import StopCondition, wait_for
from mopsjobs.cache.rows import job_json_from_state
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import JsonLines, Result
from mopsjobs.errors import UsageError
from mopsjobs.utils.times import parse_duration

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


MIN_INTERVAL = 0.1
"""Seconds. Looking more often tells nobody more, and a registry may be paid by the request."""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `wait`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="wait until jobs end; the exit code tells how",
        description="Wait until jobs end: succeeded 0, failed 100, cancelled 103, partial 104; 8 if the time is up "
        "before. A registry that does not answer is asked again until then.",
    )
    parser.add_argument("jobs", metavar="JOB", nargs="+", help="an id, the only id that begins so, or @latest")
    parser.add_argument("--timeout", metavar="DURATION", help="give up after this long, like 2h (default: never)")
    parser.add_argument(
        "--interval", metavar="DURATION", help="between two looks (default 5s, 1s for a registry on this machine)"
    )
    until = parser.add_mutually_exclusive_group()
    until.add_argument("--all", action="store_true", help="until every job has ended (default)")
    until.add_argument("--any", action="store_true", help="until one has ended, and tell how that one did")
    parser.add_argument("--fail-fast", action="store_true", help="end as soon as one has not succeeded")
    parser.add_argument("--json", action="store_true", help="each job as a JSON object in a line of its own")


def run(args: argparse.Namespace, app: App) -> Result:
    """Wait for jobs."""
    interval = None if args.interval is None else parse_duration(args.interval)
    if interval is not None and interval < MIN_INTERVAL:
        raise UsageError(f"--interval {args.interval} is too short: use {MIN_INTERVAL:g}s or more.")
    until = StopCondition(
        timeout=None if args.timeout is None else parse_duration(args.timeout),
        first=args.any,
        fail_fast=args.fail_fast,
    )
    waited = wait_for(args.jobs, app, until, interval=interval)
    now = app.now().timestamp()
    jobs = [job_json_from_state(state, now=now) for state in waited.states]
    return Result(JsonLines(jobs) if args.json else None, exit_code=waited.exit_code)
