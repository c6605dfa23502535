"""A shard, through which a runner works, and the result of that."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from mopsjobs.ledger.retry_policy import RetryPolicy
from mopsjobs.runner.pools.base import TaskLimits
from mopsjobs.runner.pools.shared_cores import SharedCores
from mopsjobs.utils.forecast import Forecast

DEFAULT_OUTAGE_SECONDS = 3600.0
"""How long a runner waits for a registry that does not answer, before it leaves the rest to a restart."""

DEFAULT_CHECKPOINT_SECONDS = 600.0

DEFAULT_GRACE_SECONDS = 20.0
"""Kubernetes grants 30 s in all, by default."""

DROP_SECONDS = 10.0
"""Seconds between two reports into a drop. Each is a file on the shared file system, and is delivered much later."""


class Shard(NamedTuple):
    """A shard of a job, and how to work through it."""

    job_id: str
    number: int = 0
    """Which shard, from 0."""
    shards: int = 1
    """How many shards the job has."""
    workers: int | None = None
    """Worker processes, at most; None: one per core."""
    python: str | None = None
    """The model's interpreter; None: the active environment's."""
    task_timeout: float | None = None
    """Seconds a task may take, in all attempts that went on from each other; None: no limit."""
    attempt_timeout: float | None = None
    """Seconds an attempt at a task may take; None: no limit."""
    checkpoint_every: float = DEFAULT_CHECKPOINT_SECONDS
    """Seconds after which a task saves a checkpoint, if its model can."""
    allow_old_checkpoints: bool = False
    """Whether tasks may go on from checkpoints of other code."""
    grace: float = DEFAULT_GRACE_SECONDS
    """Seconds that tasks may take to save, when a stop is requested."""
    task_memory: int | None = None
    """Bytes of memory a task may have; None: no limit."""
    policy: RetryPolicy = RetryPolicy()
    """Which attempts at a task are followed by another one."""
    outage_seconds: float = DEFAULT_OUTAGE_SECONDS
    """How long to wait for a registry that does not answer."""
    scheduler: str | None = None
    """The address of a Dask scheduler, whose workers run the tasks; None: processes of this machine."""
    wait_for_manifest: bool = False
    """Whether to wait for a missing manifest: in a pod, since an offline submission keeps it on its machine."""
    first: int | None = None
    """Tasks that run before the others; None: by default, see `fail_early.canary_size`."""
    max_failures: str | None = None
    """The limit of failed tasks of the job, like `10` or `10%`; None: no limit."""
    max_cpu_hours: float | None = None
    """The processor time that the tasks of the job may use, in hours; None: no limit."""
    echo: bool = False
    """Whether lines of the model also go to `on_log`, not only into events: a cluster's logs then have them."""
    drop: Path | None = None
    """The drop through which the shard reports, in place of a registry; see `submission.shard_drop`. Other shards do
    not see its record."""
    cores: SharedCores | None = None
    """The cores of this machine that its jobs share, a worker each; None: no other job matters."""
    stops_at: float | None = None
    """When its cluster stops the shard, in seconds since 1970; None: at no time that is known."""

    @property
    def limits(self) -> TaskLimits:
        """Return the limits of each attempt at a task."""
        return TaskLimits(self.task_timeout, self.task_memory, self.policy, self.attempt_timeout)

    @property
    def report_seconds(self) -> float | None:
        """Return the seconds between two reports, and two chunks of events, at least; None for the usual ones."""
        return None if self.drop is None else DROP_SECONDS


class TaskProgress(NamedTuple):
    """Progress of a runner with the tasks of its shard."""

    done: int
    """Tasks that have ended, also in earlier runs."""
    total: int
    """All tasks of the shard."""
    has_begun: bool
    """Whether a task was begun: before, workers start and load the model."""
    is_waiting: bool = False
    """Whether no task runs, since other jobs use all cores of this machine."""
    left: Forecast | None = None
    """The range of the time left; None while too few tasks have finished."""


class ShardResult(NamedTuple):
    """The result of a run."""

    status: str | None
    """The status of the record at the end; None if the registry did not answer."""
    completed: int
    failed: int
    is_done: bool
    """Whether nothing is left to a restart: each task of the shard was run, each output delivered."""
    signal: int | None = None
    """The signal that stopped the run, if one did."""
    saved: int = 0
    """How many tasks have saved and go on in a restart."""
