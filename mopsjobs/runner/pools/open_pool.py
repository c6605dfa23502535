"""Open the pool that runs the tasks of a shard."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mopsjobs.bundles.bundle import extract_bundle, load_bundle
from mopsjobs.engines import CLUSTER_ENGINES
from mopsjobs.engines.model_env import JOB_VARIABLES, active_python, model_environment, python_here
from mopsjobs.engines.model_errors import ModelError, load_error
from mopsjobs.engines.model_process import describe_interpreter, first_answer, write_reduce_worker, write_worker
from mopsjobs.runner.environment_notes import EnvironmentNotes
from mopsjobs.runner.pools.base import Feed, OnLog, Pool, TaskLimits
from mopsjobs.runner.pools.local import WorkerPool
from mopsjobs.runner.pools.shared_cores import SharedCores
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.store.base import ReadableStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.utils.cores import thread_limits, usable_cores
from mopsjobs.utils.files import make_directory


class PoolOptions(NamedTuple):
    """The options by which a shard runs its tasks; see `Shard`."""

    workers: int | None
    python: str | None
    limits: TaskLimits
    scheduler: str | None
    cores: SharedCores | None
    spool: Path
    """A directory of the shard's own, for the worker's script and large outputs. It is emptied first."""
    shard: int


def open_pool(
    options: PoolOptions,
    manifest: Manifest,
    store: ReadableStore,
    code: Path,
    retry: OutageRetry,
    on_log: OnLog,
    *,
    notes: EnvironmentNotes,
    feed: Feed | None = None,
) -> Pool:
    """Unpack the bundle of a job and return a pool for its tasks. The pool starts nothing yet.

    Args:
        options: how to run the tasks.
        manifest: the manifest of the job.
        store: where the bundle is.
        code: where bundles are unpacked on this machine.
        retry: how long to wait for the store.
        on_log: see `WorkerPool`.
        notes: describes the interpreter of the tasks.
        feed: the outputs for reductions, which run beside the runner; None: a pool for tasks.

    Raises:
        BundleError: if the bundle is missing or cannot be used.
        ModelError: if the reduce function of a job on a cluster cannot be loaded.
        StoreError: if the store cannot be read.
        OSError: if a file cannot be written on this machine.
    """
    entrypoint, outputs = manifest.study.entrypoint, manifest.study.outputs
    root = retry.call(lambda: extract_bundle(store, manifest.bundle, code))
    job_env = dict(zip(JOB_VARIABLES, (manifest.job_id, str(options.shard)), strict=True))
    if options.scheduler is not None and feed is None:
        from mopsjobs.runner.pools.dask_process import DaskProcess

        bundle = retry.call(lambda: load_bundle(store, manifest.bundle))
        pool = DaskProcess(
            options.scheduler,
            bundle,
            entrypoint,
            {**os.environ, **job_env},
            outputs=outputs,
            python=options.python,
            limits=options.limits,
            on_log=on_log,
        )
        pool.on_environment = notes.note
        return pool
    python = options.python or active_python(os.environ) or sys.executable
    paths = {"root": str(root), "spool": str(options.spool)}
    of_tasks = {**paths, "entrypoint": entrypoint, "outputs": outputs}
    of_reductions = {**paths, "reduce": manifest.study.reduce}
    if feed is not None and options.scheduler is not None:  # this machine is not that of the tasks
        python, options = python_here(options.python, os.environ), options._replace(workers=1)
    if options.scheduler is None:
        notes.describe(lambda: describe_interpreter(python, model_environment(os.environ)))
    if feed is None and options.shard == 0 and manifest.study.reduce and manifest.engine in CLUSTER_ENGINES:
        _check_reduce(python, of_reductions, job_env, options.spool, retry)  # elsewhere, the submission has done so
    return _open_local(options, python, of_tasks if feed is None else of_reductions, job_env, on_log, feed=feed)


def _check_reduce(
    python: str, setup: Mapping[str, object], job_env: Mapping[str, str], spool: Path, retry: OutageRetry
) -> None:
    """Load the reduce function of a study before the tasks run, unless that takes long.

    Raises:
        ModelError: if it cannot be loaded.
    """
    shutil.rmtree(spool, ignore_errors=True)
    make_directory(spool)
    command = [python, "-u", str(write_reduce_worker(spool))]
    answer = None
    with contextlib.suppress(ModelError):  # of the interpreter, which the pool starts several times
        answer = first_answer(command, setup, {**os.environ, **job_env}, is_over=lambda: retry.is_stopping)
    if answer is not None and "broken" in answer:
        raise load_error(answer["broken"], "reduce function")


def _open_local(
    options: PoolOptions,
    python: str,
    setup: Mapping[str, object],
    job_env: Mapping[str, str],
    on_log: OnLog,
    *,
    feed: Feed | None,
) -> WorkerPool:
    """Return a pool of worker processes of this machine."""
    shutil.rmtree(options.spool, ignore_errors=True)
    make_directory(options.spool)
    script = write_worker(options.spool) if feed is None else write_reduce_worker(options.spool)
    cores = usable_cores()
    limit = cores if options.cores is None else options.cores.limit
    workers = options.workers or limit
    if options.cores is not None:
        workers = min(workers, limit)
    env = model_environment(os.environ)
    return WorkerPool(
        [python, "-u", str(script)],
        setup,
        workers,
        limits=options.limits,
        cores=options.cores,
        on_log=on_log,
        env={**env, **thread_limits(env, cores // workers), **job_env},
        feed=feed,
    )
