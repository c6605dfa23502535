"""Who works through a shard's tasks: processes of this machine, or a Dask cluster."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mopsjobs.bundles.bundle import bundle_key, extract_bundle
from mopsjobs.bundles.extraction import BundleError
from mopsjobs.engines.model_env import active_python, model_environment
from mopsjobs.runner.pools.local import OnLog, Pool, WorkerPool
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import ReadableStore
from mopsjobs.utils.files import make_directory, private_opener

WORKER = Path(__file__).with_name("worker.py")


_WORKER_SOURCE = WORKER.read_bytes()
"""Read when a runner starts: the program lies in a cache directory, which may be cleared before a worker starts."""


class PoolOptions(NamedTuple):
    """What a shard asks of its pool."""

    workers: int | None
    python: str | None
    task_timeout: float | None
    scheduler: str | None
    spool: Path
    """A directory of the shard's own: worker.py, and outputs on their way. What an earlier run left is lost."""


def open_pool(
    wanted: PoolOptions,
    manifest: Manifest,
    store: ReadableStore,
    code: Path,
    patience: OutageRetry,
    on_log: OnLog,
    *,
    on_died: Callable[[str], None],
) -> Pool:
    """The pool that a shard asks for; nothing of it is started yet.

    Args:
        wanted: what is asked.
        manifest: the job's.
        store: where its bundle is.
        code: where bundles are unpacked on this machine.
        patience: how long to wait for the store.
        on_log: see `WorkerPool`.
        on_died: see `WorkerPool`; a Dask cluster replaces its workers itself.

    Raises:
        BundleError: the bundle is not there, or cannot be used.
        StoreError: the store cannot be read.
        OSError: this machine's disk does not take what has to be there.
    """
    entrypoint = manifest.study.entrypoint
    root = patience.call(lambda: extract_bundle(store, manifest.bundle, code))
    if wanted.scheduler is not None:
        from mopsjobs.runner.pools.dask_process import DaskProcess

        found = patience.call(lambda: store.get(bundle_key(manifest.bundle)))
        if found is None:
            raise BundleError(f"The bundle {manifest.bundle} is not in the store.")
        return DaskProcess(
            wanted.scheduler,
            found.value,
            entrypoint,
            os.environ,
            python=wanted.python,
            task_timeout=wanted.task_timeout,
            on_log=on_log,
        )
    shutil.rmtree(wanted.spool, ignore_errors=True)
    make_directory(wanted.spool)
    worker = wanted.spool / WORKER.name
    with open(worker, "xb", opener=private_opener) as file:
        file.write(_WORKER_SOURCE)
    return WorkerPool(
        [wanted.python or active_python(os.environ) or sys.executable, "-u", str(worker)],
        {"root": str(root), "entrypoint": entrypoint, "spool": str(wanted.spool)},
        wanted.workers or os.cpu_count() or 1,
        task_timeout=wanted.task_timeout,
        on_log=on_log,
        on_died=on_died,
        env=model_environment(os.environ),
    )
