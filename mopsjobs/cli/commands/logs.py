"""`logs`: print what a job's tasks wrote, line by line."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from mopsjobs.app.app import App
from mopsjobs.app.log_source import LogLine, LogRequest, read_logs
from mopsjobs.cli.flags import JOB_HELP
from mopsjobs.cli.trust_flags import add_trust
from mopsjobs.console.result import Result, Text
from mopsjobs.console.terminal import style_text
from mopsjobs.utils.times import parse_duration

HELP = "print what a job's tasks wrote"

DESCRIPTION = (
    "Print the log lines of a job, with the traceback of each failed task. -f starts before the first task and follows"
    " until the job ends. The exit code then tells how: succeeded 0, failed 100, cancelled 103, partial 104."
)

EXAMPLES = (
    "mops-jobs logs @latest --tail 20",
    "mops-jobs logs nightly-1 -f",
    "mops-jobs logs nightly-1 --since 10m --grep 'error|warning'",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("job", metavar="JOB", help=JOB_HELP)
    parser.add_argument("-f", "--follow", action="store_true", help="print new lines until the job has ended")
    parser.add_argument("--since", metavar="DURATION", help="print only lines newer than this, like 10m")
    parser.add_argument("--tail", metavar="N", type=int, help="print only the last N of the lines so far")
    parser.add_argument("--grep", metavar="REGEX", help="print only lines that contain a match")
    parser.add_argument("--offline", action="store_true", help="never use the network; not with --follow")
    add_trust(parser)


def run(args: argparse.Namespace, app: App) -> Result:
    """Print log lines."""
    request = LogRequest(
        job=args.job,
        follow=args.follow,
        since=None if args.since is None else parse_duration(args.since),
        tail=args.tail,
        pattern=args.grep,
        offline=args.offline,
        trust=args.trust,
    )

    def show(lines: Iterable[LogLine]) -> None:
        app.out.show(Result(Text(_line_cells(line) for line in lines)))

    return Result(exit_code=read_logs(request, app, show))


def _line_cells(line: LogLine) -> list[str]:
    mark = [] if line.task is None else [style_text(f"[{line.task}] ", "dim")]
    return [*mark, line.text]
