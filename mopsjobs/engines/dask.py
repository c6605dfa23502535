"""The dask engine: the tasks as futures on an existing Dask scheduler.

The runner is a process of this machine, as with the local engine; it hands its tasks to the scheduler instead of
processes of its own, and takes back their outputs. So a cluster needs neither mops-jobs nor a way to the registry.
"""

from __future__ import annotations

from mopsjobs.engines.base import Launch, Launched
from mopsjobs.engines.dask_client import check_scheduler
from mopsjobs.engines.local import LocalEngine
from mopsjobs.errors import UsageError


class DaskEngine(LocalEngine):
    """Launches a runner that works through a Dask scheduler. Takes the option `scheduler`, its address."""

    name = "dask"

    def launch(self, launch: Launch) -> Launched:
        """See `Engine.launch`.

        Raises:
            UsageError: there is no option `scheduler`.
        """
        scheduler = launch.options.get("scheduler")
        if scheduler is None:
            raise UsageError("The dask engine needs a scheduler.")
        check_scheduler(scheduler, self._env)
        return super().launch(launch)
