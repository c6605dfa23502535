"""The dask engine: run tasks as futures of an existing Dask scheduler.

The runner is a process of this machine, as with the local engine. It sends tasks to the scheduler instead of its own
workers, and stores their outputs. So the cluster needs neither mops-jobs nor access to the registry.
"""

from __future__ import annotations

from mopsjobs.engines.base import Launch, Launched
from mopsjobs.engines.dask_client import check_scheduler
from mopsjobs.engines.local import LocalEngine
from mopsjobs.errors import UsageError


class DaskEngine(LocalEngine):
    """Launches a runner whose tasks run on a Dask cluster. Takes the option `scheduler`, its address."""

    name = "dask"

    def launch(self, launch: Launch) -> Launched:
        """See `Engine.launch`.

        Raises:
            UsageError: if the option `scheduler` is missing.
        """
        scheduler = launch.options.get("scheduler")
        if scheduler is None:
            raise UsageError("The dask engine needs a scheduler.")
        check_scheduler(scheduler, self._env)
        return super().launch(launch)
