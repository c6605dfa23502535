"""Find the job whose outputs a command reads. A job may have outputs alone, without a record."""

from __future__ import annotations

from mopsjobs.app.app import App
from mopsjobs.app.find_job import find_state
from mopsjobs.errors import JobNotFoundError
from mopsjobs.studies.outputs import results_prefix


def find_job_with_outputs(name: str, app: App) -> str:
    """Return the id of a job: as `find_state` finds it, else the name itself if there are outputs of that id.

    Raises:
        JobNotFoundError: if there is neither a record nor an output of the job.
        AmbiguousJobError: if several ids begin with the name, and are not all of one family.
        StoreError: if the registry cannot be read.
    """
    try:
        return find_state(name, app).job_id
    except JobNotFoundError:
        if name.startswith("@") or next(iter(app.store.list_keys(results_prefix(name))), None) is None:
            raise
        return name
