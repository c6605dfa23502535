"""Keep the provenance of the jobs that pages have compared last: studies, files and environments.

The syncer reads them (`job_reads`), by the function of `provenance`. A page reads what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mopsjobs.app.origins.provenance import Provenance, read_provenance
from mopsjobs.app.run.app import App
from mopsjobs.errors import MopsJobsError, command_line
from mopsjobs.studies.study import Study
from mopsjobs.web.drawings.axes import ValueSummary, summarize_values

MAX_JOBS = 10
"""Jobs whose provenance is kept: two pages of five."""

MAX_SETS = 20_000
"""Parameter sets of a job that is kept: they take some 12 MB. `diff` has no such limit."""

MAX_PARAMETERS = 200
"""Parameters whose values are compared, the first ones of a study."""


class KeptProvenance(NamedTuple):
    """The provenance of a job, of one moment."""

    provenance: Provenance
    """Without the archive of the bundle."""
    parameters: Mapping[str, ValueSummary]
    """The values of each parameter; empty if mops-jobs did not submit the job."""

    @property
    def study(self) -> Study | None:
        """Return the study; None if mops-jobs did not submit the job, or if its manifest cannot be read."""
        manifest = self.provenance.manifest
        return None if manifest is None else manifest.study

    def is_current(self, job: Mapping[str, Any]) -> bool:
        """Return whether nothing can have come to it since: manifest and bundle never change, notes are added."""
        status = self.provenance.job["status"]
        return bool(status == job["status"] and (self.provenance.environments or not job["is_active"]))


def provenance_to_keep(job_id: str, app: App) -> KeptProvenance:
    """Read the provenance of a job.

    Args:
        job_id: the full id of a job that the cache has.
        app: the run.

    Raises:
        MopsJobsError: if it cannot be read, or is too large for a page.
    """
    found = read_provenance(job_id, app, with_hosts=False)._replace(archive=None)
    sets = () if found.manifest is None else found.manifest.study.parameter_sets
    if len(sets) > MAX_SETS:
        command = command_line("diff", job_id, "OTHER")
        raise MopsJobsError(f"The page does not compare more than {MAX_SETS:,} parameter sets. Use: {command}")
    return KeptProvenance(found, _summarize([one.params for one in sets]))


def _summarize(sets: Iterable[Mapping[str, Any]]) -> dict[str, ValueSummary]:
    sets = list(sets)
    names = list(dict.fromkeys(name for params in sets for name in params))[:MAX_PARAMETERS]
    return {name: summarize_values(name, sets) for name in names}
