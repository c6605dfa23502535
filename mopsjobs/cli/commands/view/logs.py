"""`logs`: print what the tasks of a job wrote, line by line, or search the lines of several jobs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from mopsjobs.app.following.log_source import LogRequest, read_logs
from mopsjobs.app.jobs.log_selection import LogLine, parse_tasks
from mopsjobs.app.run.app import App
from mopsjobs.app.run.job_arguments import DEFAULT_LIMIT
from mopsjobs.cli.flags import (
    add_filter_flags,
    add_job_names,
    add_limit_flag,
    add_trust,
    argument_type,
    check_jobs_or_filters,
    filter_of,
    tail_count,
)
from mopsjobs.console.result import Result, Text
from mopsjobs.console.terminal import style_text
from mopsjobs.errors import UsageError, command_line
from mopsjobs.utils.times import parse_duration

HELP = "print what a job's tasks wrote, or search the lines of several jobs"

DESCRIPTION = (
    "Print the log lines of a job, with the traceback of each failed task. -f follows until the job ends. The exit"
    " code then tells how: succeeded 0, failed 100, cancelled 103, partial 104. Without a JOB, --grep or --failed"
    " reads the lines of the jobs that the filters select (default: all)."
)

EXAMPLES = (
    "mops-jobs logs nightly-1 -f",
    "mops-jobs logs nightly-1 --task 3,17 --tail 20",
    "mops-jobs logs --grep 'singular matrix' --hours 48",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, nargs="*")
    parser.add_argument("-f", "--follow", action="store_true", help="print new lines until the job has ended")
    parser.add_argument("--since", metavar="DURATION", help="print only lines newer than this, like 10m")
    parser.add_argument(
        "--tail",
        metavar="N",
        type=tail_count,
        help="print only the last N of the lines so far, of each job",
    )
    parser.add_argument("--grep", metavar="REGEX", help="print only lines that contain a match")
    parser.add_argument(
        "--task",
        metavar="N[,N]",
        type=argument_type(parse_tasks),
        action="append",
        help="print only lines and tracebacks of these tasks; repeat for more",
    )
    parser.add_argument("--failed", action="store_true", help="print only lines and tracebacks of tasks that failed")
    parser.add_argument("--offline", action="store_true", help="never use the network; not with --follow")
    add_filter_flags(parser, with_since=False)
    add_limit_flag(parser, "without a JOB, read the N jobs that changed last and active ones, 0 for all")
    add_trust(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Print log lines."""
    check_jobs_or_filters(args, with_since=False)
    if not (args.job or args.grep is not None or args.failed):
        hint = f"For the last job, write: {command_line('logs', '@latest')}"
        raise UsageError("logs needs a JOB; without one, --grep or --failed.", hint=hint)
    is_single = len(args.job) == 1
    if args.follow and not is_single:
        raise UsageError("--follow needs one JOB.")
    request = LogRequest(
        jobs=args.job,
        follow=args.follow,
        since=None if args.since is None else parse_duration(args.since),
        tail=args.tail,
        pattern=args.grep,
        offline=args.offline,
        trust=args.trust,
        tasks=frozenset().union(*args.task) if args.task else None,
        failed=args.failed,
        job_filter=filter_of(args, app.now()),
        limit=DEFAULT_LIMIT if args.limit is None else args.limit,
    )

    def show(job_id: str, lines: Iterable[LogLine]) -> None:
        head = [] if is_single else [style_text(f"{job_id}  ", "cyan")]
        app.out.show(Result(Text([*head, *_line_cells(line)] for line in lines)))

    return Result(exit_code=read_logs(request, app, show))


def _line_cells(line: LogLine) -> list[str]:
    mark = [] if line.task is None else [style_text(f"[{line.task}] ", "dim")]
    return [*mark, line.text]
