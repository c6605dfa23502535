"""`events`: print what happened, one event per line, each with a cursor to continue from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mopsjobs.app.following.event_feed import EventFeed, event_text, parse_kinds
from mopsjobs.app.run.app import App
from mopsjobs.cache.queries.events import StoredEvent, cache_id, public_event
from mopsjobs.cli.flags import JOB_HELP, add_job_names, argument_type
from mopsjobs.console.result import Body, JsonLines, Result, Text
from mopsjobs.console.terminal import style_text
from mopsjobs.events.format import DROPPED, KINDS, LOG, TASK_FAILED
from mopsjobs.utils.times import parse_time

HELP = "print what happened to jobs, one event per line"

DESCRIPTION = (
    "Print the events of all jobs, or of one: changes of state, failed tasks, log lines. They come in the order in"
    " which this machine received them, which may differ from their times. Each line of --json has a cursor. --since"
    " CURSOR continues after that event, without loss or repeat."
)

EXAMPLES = (
    "mops-jobs events nightly-1 --follow --kind task_failed,runner",
    "mops-jobs events --json > events.ndjson",
    'mops-jobs events --json --since "$(tail -n 1 events.ndjson | jq -r .cursor)" >> events.ndjson',
)

KIND_STYLES = {TASK_FAILED: "red", DROPPED: "yellow", LOG: "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser, nargs="?", help_text=f"{JOB_HELP} (default: all jobs)")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="print new events as they come; for one job, until it has ended"
    )
    parser.add_argument("--since", metavar="CURSOR", help="print only the events after the one with this cursor")
    parser.add_argument(
        "--kind",
        metavar="KIND[,KIND]",
        type=argument_type(parse_kinds),
        action="append",
        help=f"print only events of one of these kinds, like {', '.join(KINDS)}; repeat for more",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per event and line")
    parser.add_argument("--offline", action="store_true", help="never use the network; not with --follow")


def run(args: argparse.Namespace, app: App) -> Result:
    """Print events."""
    kinds = frozenset().union(*args.kind) if args.kind else None
    feed = EventFeed(app, args.job, offline=args.offline, follow=args.follow, kinds=kinds)
    after, has_shown = feed.start(args.since), False

    def show(page: Sequence[StoredEvent]) -> None:
        nonlocal has_shown
        has_shown = has_shown or bool(page)
        if args.json:
            cache = app.cache.read_cached(cache_id) or ""
            body: Body = JsonLines(public_event(cache, one) for one in page)
        else:
            body = Text((_line(one.event) for one in page), indent=4)
        app.out.show(Result(body))

    if args.follow:
        feed.follow(after, show)
    else:
        feed.sync_if_possible()
        for page in feed.pages(after):
            show(page)
    if not has_shown and args.since is None:
        of_kind = f" of kind {' or '.join(sorted(kinds))}" if kinds else ""
        if feed.is_pruned():
            app.out.note(f"There are no events of job {feed.job_id}{of_kind}. It was pruned from this cache.")
        elif kinds:
            app.out.note(f"There are no events{of_kind}.")
    return Result()


def _line(event: dict[str, object]) -> list[str]:
    kind = str(event["kind"])
    head = f"{parse_time(str(event['at'])):%Y-%m-%d %H:%M:%SZ}  {event['job_id']}  "
    return [head, style_text(kind, KIND_STYLES.get(kind, "bold")), "  ", *event_text(event)]
