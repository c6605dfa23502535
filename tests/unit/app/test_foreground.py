"""`run_here` for a Python program: what it refuses before a runner starts."""

from __future__ import annotations

import pytest

from mopsjobs.app.app import App
from mopsjobs.app.foreground import run_here
from mopsjobs.errors import JobNotFoundError, NoManifestError, OptionError
from mopsjobs.runner.shard import Shard


def test_workers_of_a_scheduler_are_refused(app: App) -> None:
    """The workers of a Dask cluster are its own. The error names the field of the shard."""
    with pytest.raises(OptionError, match=r"^workers has no effect with a scheduler: the cluster has its own\.$"):
        run_here(Shard("job", workers=2, scheduler="tcp://127.0.0.1:1"), app)


def test_an_unknown_job_is_not_found(app: App) -> None:
    """A job that was only reported has no manifest; one without a record does not exist."""
    with pytest.raises(JobNotFoundError, match=r"Job job not found\."):
        run_here(Shard("job"), app)
    app.registry.register_job("job")
    with pytest.raises(NoManifestError):
        run_here(Shard("job"), app)
