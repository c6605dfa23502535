"""`replay`: run a task of a job once more, here, and compare its outputs with the stored ones."""

from __future__ import annotations

import argparse

from mopsjobs.app.jobs.log_selection import MAX_TASK
from mopsjobs.app.origins.replay import Replay, replay
from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_job_names
from mopsjobs.console.result import Document, Result, Text
from mopsjobs.console.terminal import TITLE_WIDTH, title_text
from mopsjobs.errors import UsageError
from mopsjobs.utils.text import join_first, parse_whole_number, pluralize

HELP = "run a task of a job once more, here, and compare its outputs"

DESCRIPTION = (
    "Run one task of a job once more on this machine, and compare its outputs with the stored ones, byte for byte."
    " The registry is not changed. The exit code is 0 if all outputs are equal, and 9 if some differ or there is"
    " nothing to compare. With --interrupt, say whether the task leaves other outputs when it goes on from"
    " checkpoints, and why."
)

EXAMPLES = (
    "mops-jobs replay nightly-1 17",
    "mops-jobs replay @latest 0 --python .venv/bin/python --json | jq .different",
    "mops-jobs replay nightly-1 17 --interrupt 3",
)

MAX_INTERRUPTIONS = 100

Line = str | list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_job_names(parser)
    parser.add_argument("task", metavar="TASK", help="number of the task, as tasks shows it")
    parser.add_argument(
        "--python",
        metavar="PATH",
        help="the model's interpreter (default: that of the launch from this machine, else the active environment's)",
    )
    parser.add_argument(
        "--interrupt",
        metavar="N",
        help=f"also run it interrupted after N of its checkpoints, 1 to {MAX_INTERRUPTIONS} (default: no such run)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace, app: App) -> Result:
    """Replay a task."""
    task = parse_whole_number(args.task, 0, MAX_TASK)
    if task is None:
        raise UsageError(f"invalid task '{args.task}': expected a number, as tasks shows it.")
    interruptions = 0
    if args.interrupt is not None:
        interruptions = parse_whole_number(args.interrupt, 1, MAX_INTERRUPTIONS) or 0
        if not interruptions:
            raise UsageError(f"invalid --interrupt '{args.interrupt}': expected 1 to {MAX_INTERRUPTIONS}.")
    found = replay(args.job, task, args.python, app, interruptions)
    body = Document(found.to_json()) if args.json else Text(_lines(found), indent=TITLE_WIDTH)
    return Result(body, exit_code=found.exit_code)


def _lines(found: Replay) -> list[Line]:
    source, made = found.source, found.result.outputs
    facts = [("Task", found.name), ("Done by", source.job_id if source.outputs else "none: no outputs are stored")]
    if found.result.error is not None:
        facts.append(("Error", f"{found.result.error['type']}: {found.result.error['message']}"))
    if found.is_equal:
        facts.append(("Outputs", f"equal: {', '.join(sorted(source.outputs))}"))
    for name in () if found.is_equal else found.different:
        sizes = (f"{len(of[name]):,} bytes" if name in of else "none" for of in (source.outputs, made or {}))
        facts.append(("Different", f"{name}: {' stored, '.join(sizes)} here"))
    if found.environment is not None and not found.is_equal:
        facts.append(("Python", found.environment))
    if (interrupted := found.interruption) is not None:
        went_on = f"and went on at {join_first(interrupted.at)}" if interrupted.at else "since it saved no checkpoint"
        facts.append(("Interrupt", f"{len(interrupted.at)} of {pluralize(interrupted.wanted, 'time')}, {went_on}"))
        if interrupted.error is not None:
            facts.append(("Error", f"{interrupted.error['type']}: {interrupted.error['message']}"))
        facts += [("Different", f"{name} {how}") for name, how in interrupted.different.items()]
        if interrupted.is_equal:
            facts.append(("Outputs", "equal to those of the run before"))
        if interrupted.cause is not None:
            facts.append(("Cause", interrupted.cause))
    return [[title_text(title), text] for title, text in facts]
