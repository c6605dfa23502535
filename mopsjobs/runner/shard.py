"""A shard, through which a runner works, and the result of that."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

from mopsjobs.engines.base import TaskOptions
from mopsjobs.ledger.retry_policy import retry_policy
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shard(TaskOptions):
    """A shard of a job, and how to work through it."""

    job_id: str
    number: int = 0
    """Which shard, from 0."""
    shards: int = 1
    """How many shards the job has."""
    outage_seconds: float = DEFAULT_OUTAGE_SECONDS
    """How long to wait for a registry that does not answer."""
    scheduler: str | None = None
    """The address of a Dask scheduler, whose workers run the tasks; None: processes of this machine."""
    wait_for_manifest: bool = False
    """Whether to wait for a missing manifest: in a pod, since an offline submission keeps it on its machine."""
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
        policy = retry_policy(self.retries, self.retry_on)
        return TaskLimits(self.task_timeout, self.task_memory, policy, self.attempt_timeout)

    @property
    def grace_seconds(self) -> float:
        """Return the seconds that tasks may take to save, when a stop is requested."""
        return self.grace or DEFAULT_GRACE_SECONDS

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
    is_cut: bool = False
    """Whether the job ends at once, whatever its shards have left: its last shard ends it."""
