"""`logs`: what a job's tasks have written, line by line."""

from __future__ import annotations

import argparse
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from mopsjobs.cache.events import Stored
from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context
from mopsjobs.errors import UsageError
from mopsjobs.feed import Feed
from mopsjobs.outcome import exit_code_of
from mopsjobs.output import Result, Text, styled
from mopsjobs.times import parse_duration, parse_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `logs`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="what a job's tasks have written",
        description="Print the log lines of a job. With -f from before its first task has started until its end, and "
        "then the exit code tells how it ended: succeeded 0, failed 100, cancelled 103, partial 104.",
    )
    parser.add_argument("job", metavar="JOB", help="its id, the only id that begins so, or @latest")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the job has ended")
    parser.add_argument("--since", metavar="DURATION", help="only lines of the last so long, like 10m")
    parser.add_argument("--tail", metavar="N", type=int, help="of the lines that are there, only the last N")
    parser.add_argument("--grep", metavar="REGEX", help="only lines in which this is found")
    parser.add_argument("--offline", action="store_true", help="never use the network; not with --follow")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Print log lines."""
    wanted = _chosen(args, context)
    if args.tail is not None and args.tail < 0:
        raise UsageError(f"--tail {args.tail} makes no sense: use 0 or more.")
    feed = Feed(context, args.job, offline=args.offline, follow=args.follow)
    assert feed.job_id is not None  # noqa: S101 - the argument is not optional
    live = live_lines(context, feed.job_id)
    if live is not None:
        context.out.show(Result(Text(live)))
        return Result()

    def show(page: Sequence[Stored]) -> None:
        context.out.show(Result(Text(_line(one.event) for one in page if wanted(one))))
        for one in page:
            if one.event["kind"] == "dropped":
                context.out.warn(f"{one.event.get('count')} events are missing: the registry did not answer for long.")

    seen = _show_present(feed, args, wanted, show)
    if not args.follow:
        return Result()
    state = feed.follow(seen, show)
    return Result(exit_code=0 if state is None else exit_code_of({"status": state.status}))


def live_lines(context: Context, job: str) -> Iterator[str] | None:
    """Log lines from where the job runs at this moment; None when only the registry has them.

    The seam for engines that keep logs of their own, such as a cluster while the pod lives. There is none yet.
    """
    return None


def _show_present(
    feed: Feed, args: argparse.Namespace, wanted: Callable[[Stored], bool], show: Callable[[Sequence[Stored]], None]
) -> int:
    """Show the lines that are there already, or the last of them. Returns the number of the last event looked at."""
    if args.follow and args.tail is None:
        return 0
    feed.bring_if_possible()
    last: deque[Stored] = deque(maxlen=args.tail)
    seen = 0
    for page in feed.pages(0):
        seen = page[-1].seq
        if args.tail is None:
            show(page)
        else:
            last.extend(one for one in page if wanted(one))
    show(list(last))
    return seen


def _chosen(args: argparse.Namespace, context: Context) -> Callable[[Stored], bool]:
    """Which events are lines to show."""
    after = None if args.since is None else context.now().timestamp() - parse_duration(args.since)
    try:
        pattern = re.compile(args.grep or "")
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(f"'{args.grep}' is no regular expression: {error}.") from None

    def wanted(one: Stored) -> bool:
        if one.event["kind"] != "log":
            return False
        if after is not None and parse_time(str(one.event["at"])).timestamp() < after:
            return False
        return pattern.search(str(one.event.get("text", ""))) is not None

    return wanted


def _line(event: dict[str, object]) -> list[str]:
    text = str(event.get("text", ""))
    return [text] if event.get("task") is None else [styled(f"[{event['task']}] ", "dim"), text]
