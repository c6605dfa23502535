"""`run`: the runner. It works through the tasks of a job on this machine. Engines start it, or a user by hand."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from mopsjobs.app.following.follow import run_here, stopped_code
from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import add_full_ids, positive_number
from mopsjobs.cli.launch_flags import add_options
from mopsjobs.console.result import Result
from mopsjobs.engines.base import STOPS_AT
from mopsjobs.engines.dask import scheduler_url
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import EXIT_DONE, EXIT_REFUSED, EXIT_UNREACHABLE, UsageError
from mopsjobs.registry.status import TERMINAL, JobStatus
from mopsjobs.runner.shard import DEFAULT_OUTAGE_SECONDS, Shard
from mopsjobs.submission.launch_options import RUNNER_OPTIONS, read_options
from mopsjobs.submission.model_check import find_interpreter
from mopsjobs.utils.text import parse_whole_number, pluralize
from mopsjobs.utils.times import parse_duration

HELP = "run the tasks of a submitted job, here"

DESCRIPTION = (
    "Run the unfinished tasks of a submitted job on this machine. Engines start this command. If it is stopped, run it"
    " again: it continues with the tasks that are left."
)

EXAMPLES = (
    "mops-jobs run seir-20260301-120000-1a2b --workers 4",
    "mops-jobs run seir-20260301-120000-1a2b --shard 0/8 --echo",
)

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_full_ids(parser)
    parser.add_argument(
        "--shard",
        metavar="INDEX/COUNT",
        help="run only this shard, INDEX from 0 (default: JOB_COMPLETION_INDEX/--shards)",
    )
    parser.add_argument(
        "--shards",
        metavar="COUNT",
        type=positive_number,
        help="number of shards, with JOB_COMPLETION_INDEX (default: 1)",
    )
    add_options(parser, RUNNER_OPTIONS)
    parser.add_argument(
        "--scheduler",
        metavar="URL",
        help="run the tasks on the workers of this Dask scheduler (default: on this machine)",
    )
    parser.add_argument(
        "--patience",
        metavar="DURATION",
        help="time to wait at the end for a registry that does not answer (default: 1h)",
    )
    parser.add_argument(
        "--file-drop",
        metavar="DIR",
        help="report by files in this directory, where the code is too (default: to the registry)",
    )
    parser.add_argument("--echo", action="store_true", help="also print here what the tasks write")


def run(args: argparse.Namespace, app: App) -> Result:
    """Run a shard."""
    number, of = _shard_number(args, app)
    options = read_options(vars(args))
    is_in_pod = args.shards is not None
    # In a pod, the runner writes a wrong path into the record instead. With Dask, the path is one on the workers.
    python = args.python if is_in_pod or args.scheduler is not None else find_interpreter(args.python, app.env)
    shard = Shard(
        job_id=args.job,
        number=number,
        shards=of,
        wait_for_manifest=is_in_pod,
        stops_at=parse_whole_number(app.env.get(STOPS_AT, ""), 1, 2**40),
        drop=None if args.file_drop is None else Path(args.file_drop),
        echo=args.echo,
        outage_seconds=DEFAULT_OUTAGE_SECONDS if args.patience is None else parse_duration(args.patience),
        scheduler=None if args.scheduler is None else scheduler_url(args.scheduler, app.env),
        **options.of_tasks() | {"python": python},
    )
    try:
        result = run_here(shard, app)
    except ModelError as error:
        if is_in_pod:
            error.exit_code = EXIT_REFUSED  # the record has ended, and another pod could not load the model either
        raise
    counts = f"{pluralize(result.completed, 'task')} done, {result.failed} failed"
    if result.saved:
        counts += f", {result.saved} saved"
    if not result.is_done:
        has_ended = result.is_cut or result.status in TERMINAL
        code = _ended_code(result.status, is_in_pod=is_in_pod) if has_ended else stopped_code(result)
        return Result(notes=[f"{args.job}: stopped, {counts}; {result.status or 'state unknown'}"], exit_code=code)
    if result.status is None:
        return Result(notes=[f"{args.job}: {counts}; the registry does not answer"], exit_code=EXIT_UNREACHABLE)
    return Result(notes=[f"{args.job}: {result.status}, {counts}"])


def _ended_code(status: str | None, *, is_in_pod: bool) -> int:
    """Return the exit code of a run whose job has ended. By it, a cluster knows that no other pod has to try."""
    return EXIT_REFUSED if is_in_pod and status != JobStatus.SUCCEEDED else EXIT_DONE


def _shard_number(args: argparse.Namespace, app: App) -> tuple[int, int]:
    """Return the number of the shard, and how many there are."""
    if args.shard is not None:
        match = _SHARD.fullmatch(args.shard)
        number, of = (int(match[1]), int(match[2])) if match else (0, 0)
        if number >= of:
            raise UsageError(f"invalid shard '{args.shard}': expected I/N with I from 0 to N-1.")
        return number, of
    if args.shards is None:
        return 0, 1
    text = app.env.get("JOB_COMPLETION_INDEX", "")
    index = parse_whole_number(text, 0, args.shards - 1)
    if index is None:
        raise UsageError(
            f"invalid JOB_COMPLETION_INDEX '{text}': expected 0 to {args.shards - 1} with --shards {args.shards}."
        )
    return index, args.shards
