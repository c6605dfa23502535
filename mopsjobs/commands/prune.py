"""`prune`: old jobs leave the local cache. The registry keeps them."""

from __future__ import annotations

import argparse
import sqlite3

from mopsjobs.commands.arguments import add_command
from mopsjobs.context import Context
from mopsjobs.output import Result, counted
from mopsjobs.times import from_timestamp, json_time, parse_duration, whole_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.cache.pruning import Prunable, Pruned
    from mopsjobs.commands import Commands


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `prune`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="remove old jobs from the local cache",
        description="Remove jobs that ended long ago from the local cache, with their events. The registry keeps them: "
        "a sync leaves them out until their records change, and `status JOB` still asks for one.",
        epilog="example, for cron:\n  mops-jobs prune --older-than 90d --yes -q\n",
    )
    parser.add_argument(
        "--older-than", metavar="DURATION", required=True, help="that ended longer ago than this, like 90d"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--dry-run", action="store_true", help="say what it would remove, and remove nothing")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Remove old jobs from the cache."""
    from mopsjobs.cache import pruning

    before = context.now().timestamp() - parse_duration(args.older_than)
    found = context.peek(lambda cache: pruning.prunable(cache, before))
    if found is None or not found.jobs:
        return Result(notes=["No job in the cache ended so long ago; nothing was removed."])
    limit = whole_seconds(json_time(from_timestamp(before)))
    if args.dry_run:
        return Result(notes=[f"Would remove {_counted(found)}, of jobs that ended before {limit}."])
    question = f"Remove {_counted(found)} from the cache, of jobs that ended before {limit}?"
    declined = context.out.confirm(question, yes=args.yes)
    if declined is not None:
        return declined

    def prune(cache: sqlite3.Connection) -> Pruned:
        return pruning.prune(cache, before)

    pruned = context.change(prune)
    notes = [f"Removed {_counted(pruned)} from the cache."]
    if pruned.problem is not None:
        return Result(notes=notes, warnings=[f"The file stays as large as it was for now: {pruned.problem}."])
    return Result(notes=notes)


def _counted(found: Prunable | Pruned) -> str:
    return f"{counted(found.jobs, 'job')} and {counted(found.events, 'event')}"
