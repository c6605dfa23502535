"""Read the outputs of a reduction of a job: of a parameter set, or of the whole job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mopsjobs.app.run.app import App
from mopsjobs.errors import MopsJobsError, NoOutputsError
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.reductions import ReducedOutputs, find_reduced
from mopsjobs.studies.results import read_output
from mopsjobs.studies.study import param_id


def read_reduced(job_id: str, params: Mapping[str, Any] | None, app: App) -> dict[str, bytes]:
    """Return the outputs of a reduction by their names. It costs a listing per member of the family, and the reads.

    Args:
        job_id: the full id of the job.
        params: the parameters of a set; None for the whole job.
        app: the run.

    Raises:
        NoOutputsError: if there are none.
        NoManifestError: if mops-jobs did not submit the job.
        StoreError: if the registry cannot be read.
        MopsJobsError: if the store does not send an output.
    """
    function, found = find_reduced_of_job(job_id, app, params)
    if found is None:
        what = "names no reduce function" if function is None else f"has no outputs of {function} for that yet"
        raise NoOutputsError(f"Job {job_id} {what}.", job_id=job_id)
    outputs = {}
    for name, entry in found.entries.items():
        try:
            one = read_output(app.store, entry.key)
        except RefusedFileError as error:
            raise MopsJobsError(f"{entry.key} cannot be read: {error}.") from None
        if one is not None:
            outputs[name] = one.value
    return outputs


def find_reduced_of_job(
    job_id: str, app: App, params: Mapping[str, Any] | None = None
) -> tuple[str | None, ReducedOutputs | None]:
    """Return the reduce function that the study of a job names, and its last outputs. Either may be missing.

    Args:
        job_id: the full id of the job.
        app: the run.
        params: the parameters of a set; None for the whole job.

    Raises:
        NoManifestError: if mops-jobs did not submit the job.
        StoreError: if the registry cannot be read.
    """
    manifest = load_manifest(app.store, job_id)
    function = manifest.study.reduce
    if function is None:
        return None, None
    family = family_of(app.store, job_id, manifest)
    return function, find_reduced(app.store, family, None if params is None else param_id(params))
