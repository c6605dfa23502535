"""The outputs of the reduce function of the whole job, as the page of its results shows them."""

from __future__ import annotations

from typing import NamedTuple

from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.reduced_table import find_reduced_of_job
from mopsjobs.app.tasks.task_outputs import MAX_OUTPUT_BYTES
from mopsjobs.errors import NoManifestError, command_line
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.results import read_output
from mopsjobs.utils.text import pluralize
from mopsjobs.web.site.previews import Preview, preview

MAX_SHOWN = 5
"""Outputs that are shown. They are kept in memory, with the results of the job."""


class ReducedOutput(NamedTuple):
    """An output of the reduce function."""

    name: str
    size: str
    preview: Preview


class ReducedJob(NamedTuple):
    """Outputs of the reduce function of a whole job."""

    function: str
    tasks: int
    """Of how many tasks it was made."""
    outputs: list[ReducedOutput]
    left_out: int
    """How many outputs are not shown."""
    command: str
    """Downloads all."""


def read_reduced_job(job_id: str, app: App) -> ReducedJob | None:
    """Read the outputs of the whole job, as far as they are shown. It costs up to seven requests.

    Returns:
        None if there are none, or if the study names no reduce function. That costs the read of a manifest.

    Raises:
        StoreError: if the registry cannot be read.
    """
    try:
        function, found = find_reduced_of_job(job_id, app)
    except NoManifestError:
        return None
    if function is None or found is None:
        return None
    shown = list(found.entries.items())[:MAX_SHOWN]
    outputs = [ReducedOutput(name, _size(entry.size), _read(name, entry.key, entry.size, app)) for name, entry in shown]
    command = command_line("results", job_id, "--download DIRECTORY")
    return ReducedJob(function, found.tasks, outputs, len(found.entries) - len(shown), command)


def _read(name: str, key: str, size: int | None, app: App) -> Preview:
    if (size or 0) > MAX_OUTPUT_BYTES:
        return Preview(note=f"Too large for a page, of at most {MAX_OUTPUT_BYTES:,} bytes.")
    try:
        found = read_output(app.store, key)
    except RefusedFileError as error:
        return Preview(note=f"The output cannot be read: {error}.")
    if found is None or len(found.value) > MAX_OUTPUT_BYTES:
        return Preview(note="It was deleted." if found is None else "Too large for a page.")
    shown = preview(name, found.value)
    return shown if shown.image is None else Preview(note="An image: download it to see it.")


def _size(size: int | None) -> str:
    return "" if size is None else pluralize(size, "byte")
