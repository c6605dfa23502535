"""The dask engine: run tasks as futures of an existing Dask scheduler.

The runner is a process of this machine, as with the local engine. It sends tasks to the scheduler instead of its own
workers, and stores their outputs. So the cluster needs neither mops-jobs nor access to the registry.
"""

from __future__ import annotations

import dataclasses

from mopsjobs.engines.base import Launch, LaunchResult
from mopsjobs.engines.dask_client import check_scheduler, scheduler_url
from mopsjobs.engines.local import LocalEngine


class DaskEngine(LocalEngine):
    """Launches a runner whose tasks run on a Dask cluster. Takes the option `scheduler`."""

    name = "dask"

    def launch(self, launch: Launch) -> LaunchResult:
        """See `Engine.launch`.

        Raises:
            UsageError: if neither the option `scheduler` nor the environment has a valid address.
        """
        url = scheduler_url(launch.options.get("scheduler"), self._env)
        check_scheduler(url, self._env)
        return super().launch(dataclasses.replace(launch, options={**launch.options, "scheduler": url}))
