"""The table of what reduce functions left: a row per parameter set, and one of the whole job, with their scalars."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from mopsjobs.app.jobs.find_job import find_state
from mopsjobs.app.run.app import App
from mopsjobs.app.tasks.replicates import BEFORE, COUNTS
from mopsjobs.app.tasks.results_table import (
    FIRST_COLUMNS,
    LAST_COLUMNS,
    OnProgress,
    count_left_out,
    describe_problems,
    learn_kinds,
    plain_columns,
    scalar_names,
)
from mopsjobs.cache.queries.tasks import temporary_database
from mopsjobs.cache.sync.scalars import SCHEMA, CollectedScalars, OutputReader, TaskOutputs
from mopsjobs.errors import MopsJobsError, NoOutputsError
from mopsjobs.ledger.scalars import may_have_scalars
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.output_directory import RefusedFileError
from mopsjobs.studies.reductions import ReducedOutputs, find_all_reduced, find_reduced
from mopsjobs.studies.results import count_tasks, parameter_columns, read_output
from mopsjobs.studies.study import param_id
from mopsjobs.utils.table_files import Column
from mopsjobs.utils.text import pluralize

T = TypeVar("T")

COUNT_COLUMN, _ = COUNTS[0]
"""The number of tasks that a reduction was made of."""


class ReducedRow(NamedTuple):
    """A reduction in the table."""

    job_id: str
    """The job that made it."""
    param_id: str | None
    """The parameter set; None: the whole job."""
    params: Mapping[str, Any]
    tasks: int
    """Of how many tasks it was made."""


class ReducedTable:
    """The reductions of some jobs, and the scalars of their outputs. It is read within `read_reduced_table`."""

    def __init__(
        self,
        families: Sequence[Sequence[Manifest]],
        store: VersionedStore,
        collected: CollectedScalars,
        on_progress: OnProgress,
    ) -> None:
        """Read the outputs, and learn the columns."""
        self._families = families
        self._collected = collected
        self._reductions: list[list[ReducedRow]] = [[] for _ in families]
        self.left_out = 0
        """Scalars that the rows lack, since they are too large; counted while the rows are read."""
        reader = OutputReader(collected.replace, on_progress)
        for member, (family, found) in enumerate(zip(families, self._reductions, strict=True)):
            reader.read(store, member, _add_rows(store, family, found))
        self.output_problems = reader.problems
        """Key and reason of outputs that cannot be read, the first thousand."""
        self._parameter_kinds: dict[str, set[str]] = {}
        for one in itertools.chain.from_iterable(self._reductions):
            learn_kinds(self._parameter_kinds, one.params)
        others = [name for name, _ in (*FIRST_COLUMNS, *LAST_COLUMNS, *COUNTS)]
        self._parameters = parameter_columns(list(self._parameter_kinds), others)
        self._scalars = scalar_names(collected.keys, [*self._parameters.values(), COUNT_COLUMN])

    @property
    def columns(self) -> list[Column]:
        """Return the columns of `rows`."""
        return [
            *plain_columns(BEFORE),
            *(Column(column, frozenset(self._parameter_kinds[name])) for name, column in self._parameters.items()),
            *plain_columns(COUNTS[:1]),
            *(Column(name, frozenset(self._collected.keys[key].kinds)) for key, name in self._scalars.items()),
        ]

    def rows(self) -> Iterator[list[object]]:
        """Yield the parameter sets in the order of the study, then the whole job, whose id of a set is None."""
        for member, reductions in enumerate(self._reductions):
            for number, one in enumerate(reductions):
                found = self._collected.get(member, number) or {}
                self.left_out += count_left_out(found)
                yield [
                    one.job_id,
                    one.param_id,
                    *(one.params.get(name) for name in self._parameters),
                    one.tasks,
                    *(found.get(self._collected.keys[key].number) for key in self._scalars),
                ]

    def problems(self) -> list[str]:
        """Return what the table lacks, as sentences. Complete after the rows were read."""
        return self.lacking + describe_problems(self.output_problems, self.left_out, self._collected)

    @property
    def tasks(self) -> tuple[int, int]:
        """Return how many tasks the jobs have, and how many of them repeat an earlier one."""
        counts = [count_tasks(family) for family in self._families]
        return sum(tasks for tasks, _ in counts), sum(repeated for _, repeated in counts)

    @property
    def lacking(self) -> list[str]:
        """Return a sentence for each family whose sets or whole job are not all reduced over their complete tasks."""
        pairs = zip(self._families, self._reductions, strict=True)
        return [sentence for family, rows in pairs if (sentence := _describe_lacking(family[0], rows))]

    @property
    def is_empty(self) -> bool:
        """Return whether no job was reduced."""
        return not any(self._reductions)


def read_reduced_table(
    names: Iterable[str], app: App, view: Callable[[ReducedTable], T], on_progress: OnProgress = None
) -> T:
    """Call `view` with the table of what the reduce functions of some jobs and their ancestors left.

    Jobs of one family have a row per reduction, the last one. It costs the listings of `find_all_reduced` for each
    family, and the reads.

    Args:
        names: the jobs, as `find_job` takes them.
        app: the run.
        view: reads the table.
        on_progress: called with the number of reductions whose outputs were read.

    Raises:
        JobNotFoundError: if a job does not exist.
        AmbiguousJobError: if several ids begin with a short name, and are not all of one family.
        NoManifestError: if mops-jobs did not submit a job.
        NoOutputsError: if none of the jobs was reduced.
        StoreError: if the registry cannot be read.
    """
    families = _find_families(names, app)
    with temporary_database(SCHEMA) as database:
        table = ReducedTable(families, app.store, CollectedScalars(database), on_progress)
        if table.is_empty:
            raise NoOutputsError(_describe_absence(families[0][0]), job_id=families[0][0].job_id)
        return view(table)


def _find_families(names: Iterable[str], app: App) -> list[list[Manifest]]:
    """Find jobs and their ancestors. Return them by family, as `find_results` does, the newest job of each first."""
    states = {state.job_id: state for state in (find_state(name, app) for name in names)}
    lineages = [family_of(app.store, job_id, load_manifest(app.store, job_id)) for job_id in states]
    families: dict[str, dict[str, Manifest]] = {lineage[-1].job_id: {} for lineage in lineages}
    for lineage in sorted(lineages, key=lambda one: (states[one[0].job_id].created_at, one[0].job_id)):
        families[lineage[-1].job_id].update({one.job_id: one for one in reversed(lineage)})
    return [list(reversed(family.values())) for family in families.values()]


def _add_rows(store: VersionedStore, family: Sequence[Manifest], rows: list[ReducedRow]) -> Iterator[TaskOutputs]:
    """Add the rows of a family, and yield the outputs of each with its place among them."""
    study = family[0].study
    if study.reduce is None:
        return
    sets = study.sets_by_id()
    for set_id, found in find_all_reduced(store, family):
        if found is not None:
            params: Mapping[str, Any] = {} if set_id is None else sets[set_id][0][1].params
            entries = {name: entry for name, entry in found.entries.items() if may_have_scalars(name)}
            rows.append(ReducedRow(found.job_id, set_id, params, found.tasks))
            yield TaskOutputs([len(rows) - 1], entries)


def _describe_lacking(manifest: Manifest, rows: Sequence[ReducedRow]) -> str:
    """Return the sentence that counts the parameter sets of a job that are not reduced; empty if all are."""
    if not rows:
        return _describe_absence(manifest)
    total = len(manifest.study.sets_by_id())
    is_whole = rows[-1].param_id is None
    lacking = total - len(rows) + is_whole
    kind = "parameter set" if total == len(manifest.study.parameter_sets) else "different parameter set"
    sets = f"{lacking:,} of {pluralize(total, kind)} of job {manifest.job_id}"
    if lacking and not is_whole:
        return f"{sets}, and the whole job, are not reduced."
    if lacking:
        return f"{sets} {'is' if lacking == 1 else 'are'} not reduced."
    return "" if is_whole else f"Job {manifest.job_id} is not reduced as a whole."


def _describe_absence(manifest: Manifest) -> str:
    """Return the sentence for a job without outputs of a reduce function."""
    function = manifest.study.reduce
    what = "names no reduce function" if function is None else f"has no outputs of {function}"
    return f"Job {manifest.job_id} {what}."


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
        what = "names no reduce function" if function is None else f"has no outputs of {function} for that"
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
