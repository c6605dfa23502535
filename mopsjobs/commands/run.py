"""`run`: the runner. Works through a job's tasks on this machine; engines start it, and so may anybody."""

from __future__ import annotations

import argparse
import re

from mopsjobs.commands.arguments import PYTHON_HELP, add_command, interpreter, positive
from mopsjobs.context import Context
from mopsjobs.engines.dask_client import scheduler_url
from mopsjobs.engines.local import job_directory
from mopsjobs.errors import EXIT_DONE, EXIT_UNREACHABLE, UsageError
from mopsjobs.output import Result
from mopsjobs.runner.run import PATIENCE_SECONDS, Shard, run_shard
from mopsjobs.times import parse_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mopsjobs.commands import Commands

EXIT_STOPPED = 143
"""As a shell says it of a program that SIGTERM ended: Kubernetes then starts the shard again."""

_SHARD = re.compile(r"(\d{1,6})/(\d{1,6})", re.ASCII)


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `run`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="the runner: work through the tasks of a submitted job, here",
        description="Work through the tasks of a submitted job that are not done yet. Running it again after it was "
        "ended, in whatever way, goes on where it was.",
    )
    parser.add_argument("job", metavar="JOB", help="its whole id")
    parser.add_argument("--shard", metavar="I/N", help="only shard I of N, from 0 (JOB_COMPLETION_INDEX gives the I)")
    parser.add_argument("--shards", metavar="N", type=positive, help="of how many, with JOB_COMPLETION_INDEX")
    parser.add_argument("--workers", metavar="N", type=positive, help="worker processes (default: the cores)")
    parser.add_argument("--python", metavar="PATH", help=PYTHON_HELP)
    parser.add_argument("--task-timeout", metavar="DURATION", help="how long one task may take (default: no limit)")
    parser.add_argument("--scheduler", metavar="URL", help="let the workers of this Dask scheduler run the tasks")
    parser.add_argument(
        "--patience", metavar="DURATION", help="how long to wait for a registry at the end (default 1h)"
    )
    parser.add_argument("--echo", action="store_true", help="say here, too, what the tasks write")


def run(args: argparse.Namespace, context: Context) -> Result:
    """Run a shard."""
    number, of = _which(args, context)
    shard = Shard(
        job_id=args.job,
        number=number,
        of=of,
        workers=args.workers,
        # In a pod nobody reads a usage error: there, the runner brings it into the record. On Dask, it is a path there.
        python=interpreter(args.python, context.env) if args.shards is args.scheduler is None else args.python,
        task_timeout=None if args.task_timeout is None else parse_duration(args.task_timeout),
        echo=args.echo,
        patience=PATIENCE_SECONDS if args.patience is None else parse_duration(args.patience),
        scheduler=None if args.scheduler is None else scheduler_url(args.scheduler, context.env),
    )
    if shard.workers is not None and shard.scheduler is not None:
        raise UsageError("--workers has no effect with a scheduler: the cluster has its own.")
    context.registry.key_of(shard.job_id)  # refuses what is no id, before it becomes a path
    directory = job_directory(shard.job_id, context.env)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    ran = run_shard(shard, context.store, context.registry, directory, on_log=context.out.note, sleep=context.sleep)
    done = f"{ran.completed} tasks done, {ran.failed} failed"
    if not ran.is_done:
        code = EXIT_DONE if ran.status in ("cancelled", "succeeded", "partial", "failed") else EXIT_STOPPED
        return Result(notes=[f"{args.job}: stopped, {done}; {ran.status or 'state unknown'}"], exit_code=code)
    if ran.status is None:
        return Result(notes=[f"{args.job}: {done}; the registry could not be told"], exit_code=EXIT_UNREACHABLE)
    return Result(notes=[f"{args.job}: {ran.status}, {done}"])


def _which(args: argparse.Namespace, context: Context) -> tuple[int, int]:
    if args.shard is not None:
        words = _SHARD.fullmatch(args.shard)
        number, of = (int(words[1]), int(words[2])) if words else (0, 0)
        if number >= of:
            raise UsageError(f"'{args.shard}' is no shard: use I/N with I from 0 to N-1.")
        return number, of
    index = context.env.get("JOB_COMPLETION_INDEX", "")
    if args.shards is None:
        return 0, 1
    if not index.isdigit() or int(index) >= args.shards:
        raise UsageError(
            f"--shards {args.shards} needs JOB_COMPLETION_INDEX from 0 to {args.shards - 1}, not '{index}'."
        )
    return int(index), args.shards
