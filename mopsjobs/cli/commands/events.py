"""`events`: what happened, one event a line, each with a cursor to come back with."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from mopsjobs.app.app import App
from mopsjobs.app.event_feed import EventFeed, event_text
from mopsjobs.cache.queries.events import StoredEvent, cache_id, public_event
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Body, JsonLines, Result, Text
from mopsjobs.console.terminal import styled
from mopsjobs.utils.times import parse_time

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


KIND_STYLES = {"task_failed": "red", "dropped": "yellow", "log": "dim"}


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `events`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="what happened to jobs, one event a line",
        description="Print the events of all jobs, or of one: changes of state, failed tasks, log lines. New ones are "
        "fetched first. Each line of --json has a cursor; --since goes on after it, without loss or repeat.",
        epilog='example:\n  mops-jobs events --json --since "$(cat cursor)" | tee events.ndjson\n'
        "  tail -n 1 events.ndjson | jq -r .cursor > cursor\n",
    )
    parser.add_argument("job", metavar="JOB", nargs="?", help="its id, the only id that begins so, or @latest")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="go on as events come; for one JOB until it has ended"
    )
    parser.add_argument("--since", metavar="CURSOR", help="only events after the one with this cursor")
    parser.add_argument("--json", action="store_true", help="each event as a JSON object in a line of its own")
    parser.add_argument("--offline", action="store_true", help="never use the network; not with --follow")


def run(args: argparse.Namespace, app: App) -> Result:
    """Print events."""
    feed = EventFeed(app, args.job, offline=args.offline, follow=args.follow)
    after = feed.start(args.since)
    show = _printer(args, app)
    if args.follow:
        feed.follow(after, show)
        feed.note_absence()
        return Result()
    feed.sync_if_possible()
    for page in feed.pages(after):
        show(page)
    feed.note_absence()
    return Result()


def _printer(args: argparse.Namespace, app: App) -> Callable[[Sequence[StoredEvent]], None]:
    """What prints a page of events."""

    def show(page: Sequence[StoredEvent]) -> None:
        if args.json:
            cache = app.cache.read_cached(cache_id) or ""
            body: Body = JsonLines(public_event(cache, one) for one in page)
        else:
            body = Text(_line(one.event) for one in page)
        app.out.show(Result(body))

    return show


def _line(event: dict[str, object]) -> list[str]:
    kind = str(event["kind"])
    head = f"{parse_time(str(event['at'])):%Y-%m-%d %H:%M:%SZ}  {event['job_id']}  "
    return [head, styled(kind, KIND_STYLES.get(kind, "bold")), "  ", *event_text(event)]
