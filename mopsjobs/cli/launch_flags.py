"""Arguments of the commands that start a runner, and what they mean: shared by submit, resume and run."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mopsjobs.app.app import App
from mopsjobs.app.job_arguments import positive_number
from mopsjobs.bundles.packing import MAX_SHOWN, PackedBundle, pack
from mopsjobs.engines.model_env import model_environment
from mopsjobs.errors import UsageError
from mopsjobs.runner.pools import active_python
from mopsjobs.utils.times import parse_duration


class Runner(NamedTuple):
    """How a runner works: the fields of a `Launch`."""

    workers: int | None
    python: str | None
    task_timeout: float | None


SCHEDULER_HELP = "the Dask scheduler (DASK_SCHEDULER_ADDRESS)"


def add_runner_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say how a runner works through its tasks, the same wherever one is started."""
    parser.add_argument("--workers", metavar="N", type=positive_number, help="worker processes (default: the cores)")
    parser.add_argument(
        "--python",
        metavar="PATH",
        help="the model's interpreter (default: the active environment's; with dask, a path there, and the workers')",
    )
    parser.add_argument("--task-timeout", metavar="DURATION", help="how long one task may take (default: no limit)")


def interpreter(text: str | None, env: Mapping[str, str]) -> str | None:
    """The interpreter that `--python` names, by its whole path: the runner may be in another directory.

    A name without a slash is looked for on the PATH. Links stay as they are: that of a virtual environment leads to an
    interpreter without its packages.

    Raises:
        UsageError: there is no such program, or it is no Python.
    """
    if text is None:
        return None
    found = shutil.which(text, path=env.get("PATH"))
    if found is None:
        where = "" if "/" in text else " on the PATH"
        raise UsageError(f"--python: there is no program {text}{where}.")
    path = os.path.abspath(found)
    if not _is_python(path, env):
        raise UsageError(f"--python: {path} is no Python.")
    return path


def _is_python(path: str, env: Mapping[str, str]) -> bool:
    """Whether a program runs a line of Python. One that takes very long is not judged: its runner will see."""
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile() as said:
        script = os.path.join(directory, "script.py")  # started as a worker is: a wrapper may know no other way
        Path(script).write_text("print(42)\n")
        words = [path, "-u", script]
        try:
            # Into a file: a wrapper may leave something behind that would hold a pipe open.
            subprocess.run(  # noqa: S603 - the user's own choice
                words,
                env=model_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                timeout=20,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        except OSError:
            return False
        said.seek(0)
        return b"42" in said.read(1000).split()


def task_timeout(text: str | None) -> float | None:
    """The seconds that `--task-timeout` names.

    Raises:
        UsageError: it is no duration, or none at all.
    """
    seconds = None if text is None else parse_duration(text)
    if seconds == 0:
        raise UsageError(f"--task-timeout {text} leaves a task no time: leave it out for no limit.")
    return seconds


def launched_as(args: argparse.Namespace, engine: str, env: Mapping[str, str], told: Mapping[str, str]) -> Runner:
    """How a runner is to work: as the flags say, else as an earlier launch was told.

    On this machine, where neither says which interpreter has the model's packages, it is the active environment's:
    the record then tells it to whoever resumes the job from a terminal where another is active.

    Args:
        args: the flags.
        engine: where it will be.
        env: the environment.
        told: see `engines.base.noted`; empty for a first launch.

    Raises:
        UsageError: a flag makes no sense, or there is no such interpreter, or none any more.
    """
    workers, timeout, python = told.get("workers", ""), told.get("task_timeout"), args.python
    if engine == "local":
        python = interpreter(python, env) or _recorded_interpreter(told.get("python"), env) or active_python(env)
    return Runner(
        args.workers or (int(workers) if workers.isascii() and workers.isdigit() else None) or None,
        python or told.get("python"),
        task_timeout(args.task_timeout or (f"{timeout}s" if timeout else None)),
    )


def _recorded_interpreter(path: str | None, env: Mapping[str, str]) -> str | None:
    if path is not None and shutil.which(path, path=env.get("PATH")) is None:
        raise UsageError(
            f"The job ran with the interpreter {path}, which is not on this machine.",
            hint="Name the one that has the model's packages: --python PATH.",
        )
    return path


def packed_here(app: App) -> PackedBundle:
    """The code of the current directory, packed, while somebody may watch; what was left out as a secret is told.

    Raises:
        UsageError: it cannot be packed.
    """
    with app.out.progress("files", None) as on_progress:
        packed = pack(Path.cwd(), leave_out=app.own_files(), on_progress=on_progress)
    if packed.withheld:
        shown = ", ".join(packed.withheld[:MAX_SHOWN])
        more = len(packed.withheld) - MAX_SHOWN
        app.out.warn(
            f"Left out of the bundle, for it may hold secrets: {shown}{f' and {more} more' if more > 0 else ''}. Name"
            f" it in .modelopsignore to say so yourself, or with ! before it to have it packed, for all who may read"
            " the registry."
        )
    return packed


def dask_options(args: argparse.Namespace, app: App, recorded: object = None) -> dict[str, str]:
    """What the dask engine is to be told: its scheduler, as given, else as a record has it, else of the environment.

    Raises:
        UsageError: there is none, it is no address, or a flag stands there that has no effect.
        EngineError: the library is not installed.
    """
    from mopsjobs.engines.dask_client import check_installed, scheduler_url

    if args.workers is not None:
        raise UsageError("--workers has no effect with the dask engine: the cluster has its own.")
    url = scheduler_url(args.scheduler or (recorded if isinstance(recorded, str) else None), app.env)
    check_installed()
    return {"scheduler": url}


TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping


CLUSTER_OPTIONS = {
    "image": ("IMAGE", "what the pods run (default: MOPS_JOBS_IMAGE)"),
    "namespace": ("NS", "where (default: that of the kubeconfig)"),
    "cpu": ("CORES", "cores a shard gets (default: 1)"),
    "memory": ("SIZE", "memory a shard gets, like 4Gi (default: the cluster's)"),
    "secret": ("NAME", "a secret whose keys become the pods' environment"),
    "service_account": ("NAME", "a service account, for workload identity"),
    "parallelism": ("N", "shards that run at a time (default: all)"),
    "context": ("NAME", "a context of the kubeconfig (default: the current one)"),
}
"""Flags that only the kubernetes engine understands, by the names of its options."""


def add_cluster_options(parser: argparse._ArgumentGroup) -> None:
    """Declare those flags."""
    for option, (metavar, text) in CLUSTER_OPTIONS.items():
        parser.add_argument("--" + option.replace("_", "-"), metavar=metavar, help=text)


def cluster_options(args: argparse.Namespace, engine: str) -> dict[str, str]:
    """Those that were given. A flag that would have no effect is refused, not ignored.

    Raises:
        UsageError: one was given, and another engine is meant.
    """
    given = {name: getattr(args, name) for name in CLUSTER_OPTIONS if getattr(args, name) is not None}
    if engine != "kubernetes":
        for name in [*given, *(["shards"] if args.shards is not None else [])]:
            raise UsageError(f"--{name.replace('_', '-')} has no effect with the {engine} engine.")
    return given


def recorded_options(namespace: str | None, told: Mapping[str, str]) -> dict[str, str]:
    """The options of an earlier launch, as far as its record tells: see `engines.base.noted`."""
    found = {name: told[name] for name in CLUSTER_OPTIONS if name in told}
    return {**found, "namespace": namespace} if namespace else found


def recorded_shards(told: Mapping[str, str]) -> int | None:
    """The number of shards of an earlier launch; None where its record does not tell."""
    text = told.get("shards", "")
    return int(text) if text.isascii() and text.isdigit() else None
