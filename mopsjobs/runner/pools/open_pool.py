"""Open the pool that runs the tasks of a shard."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from mopsjobs.bundles.bundle import extract_bundle, load_bundle
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.model_env import JOB_VARIABLES, active_python, model_environment, python_here
from mopsjobs.engines.model_process import describe_interpreter, write_reduce_worker, write_worker
from mopsjobs.ledger.environment import EnvironmentNotes
from mopsjobs.runner.checkpoints import EVERY_VARIABLE, EXIT_CODE, EXIT_VARIABLE, Checkpoints
from mopsjobs.runner.pools.base import Feed, OnLog, Pool, SeenFiles
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import DEFAULT_CHECKPOINT_SECONDS, Shard
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.utils.cores import thread_limits, usable_cores
from mopsjobs.utils.file_watch import FileWatch
from mopsjobs.utils.files import make_directory
from mopsjobs.utils.scratch import scratch_directory


def open_pool(  # noqa: PLR0913 - four by name
    shard: Shard,
    manifest: Manifest,
    store: ReadableStore,
    directory: JobDir,
    retry: OutageRetry,
    on_log: OnLog,
    *,
    notes: EnvironmentNotes,
    feed: Feed | None = None,
    checkpoints: Checkpoints | None = None,
    waker: int | None = None,
) -> Pool:
    """Unpack the bundle of a job and return a pool for its tasks. The pool starts nothing yet.

    Args:
        shard: how to run the tasks.
        manifest: the manifest of the job.
        store: where the bundle is.
        directory: the job's on this machine, where its bundle is unpacked. The spool of the shard is emptied first.
        retry: how long to wait for the store.
        on_log: see `WorkerPool`.
        notes: describes the interpreter of the tasks.
        feed: the outputs for reductions, which run beside the runner; None: a pool for tasks.
        checkpoints: those of the tasks.
        waker: see `WorkerPool`.

    Raises:
        BundleError: if the bundle is missing or cannot be used.
        StoreError: if the store cannot be read.
        OSError: if a file cannot be written on this machine.
    """
    study, python = manifest.study, shard.python or active_python(os.environ) or sys.executable
    root = retry.call(lambda: extract_bundle(store, manifest.bundle, directory.code))
    job_env = dict(zip(JOB_VARIABLES, (manifest.job_id, str(shard.number)), strict=True))
    if checkpoints is not None:
        every = shard.checkpoint_every or DEFAULT_CHECKPOINT_SECONDS
        job_env |= {EVERY_VARIABLE: f"{every:g}", EXIT_VARIABLE: str(EXIT_CODE)}
    if shard.scheduler is None:
        notes.describe(lambda: describe_interpreter(python, model_environment(os.environ)))
    elif feed is None:
        from mopsjobs.runner.pools.dask import DaskProcess

        assert checkpoints is not None  # noqa: S101 - it is a pool for tasks
        bundle = retry.call(lambda: load_bundle(store, manifest.bundle))
        return DaskProcess(
            shard.scheduler,
            bundle,
            study.setup,
            {**os.environ, **job_env},
            checkpoints,
            shard.python,
            shard.limits,
            on_log,
            notes.note,
        )
    else:  # this machine is not that of the tasks
        python, shard = python_here(shard.python, os.environ), dataclasses.replace(shard, workers=1)
    spool = directory.spool(shard.number)
    shutil.rmtree(spool, ignore_errors=True)
    make_directory(spool)
    script = (write_worker if feed is None else write_reduce_worker)(spool)
    own = {"reduce": study.reduce} if feed else {**study.setup, "task_root": str(_task_root(spool, os.environ))}
    if checkpoints is not None:
        own["checkpoints"] = str(checkpoints.root)
    cores = usable_cores()
    limit = cores if shard.cores is None else shard.cores.limit
    workers = shard.workers or limit
    if shard.cores is not None:
        workers = min(workers, limit)
    env = model_environment(os.environ)
    return WorkerPool(
        [python, "-u", str(script)],
        {"root": str(root), "spool": str(spool), **own},
        workers,
        shard.limits,
        shard.cores,
        on_log,
        {**env, **thread_limits(env, cores // workers), **job_env},
        feed,
        FileWatch(str(root)) if feed is None else SeenFiles(),
        checkpoints,
        waker,
    )


def _task_root(spool: Path, env: Mapping[str, str]) -> Path:
    """Return where tasks get their directories: on the disk of the node, if Slurm or its site names one.

    The spool of a shard on Slurm lies in a file system that all nodes share.
    """
    for name in ("SLURM_TMPDIR", "TMPDIR") if "SLURM_JOB_ID" in env else ():
        if os.path.isabs(place := env.get(name, "")):
            with contextlib.suppress(OSError):
                root = contextlib.ExitStack()
                atexit.register(root.close)
                return Path(root.enter_context(scratch_directory(place)))
    return spool
