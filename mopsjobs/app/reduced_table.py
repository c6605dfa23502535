"""The table of what reduce functions left: a row per parameter set, and one of the whole job, with their scalars."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from mopsjobs.app.app import App
from mopsjobs.app.find_job import find_state
from mopsjobs.app.replicates import BEFORE, COUNTS
from mopsjobs.app.results_table import (
    FIRST_COLUMNS,
    LAST_COLUMNS,
    OnProgress,
    describe_problems,
    learn_kinds,
    scalar_names,
)
from mopsjobs.cache.sync.scalars import LEFT_OUT_NUMBER, SCHEMA, CollectedScalars, OutputReader, TaskOutputs
from mopsjobs.cache.temporary import temporary_database
from mopsjobs.errors import NoOutputsError
from mopsjobs.ledger.scalars import may_have_scalars
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.lineage import family_of
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.results import Reduced, outputs_of
from mopsjobs.studies.study import is_output_name
from mopsjobs.studies.tasks_csv import parameter_columns
from mopsjobs.utils.table_files import Column

T = TypeVar("T")

COUNT_COLUMN, _ = COUNTS[0]
"""The number of tasks that a reduction was made of."""


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
        self._reductions: list[list[Reduced]] = [[] for _ in families]
        self.left_out = 0
        """Scalars that the rows lack, since they are too large; counted while the rows are read."""
        reader = OutputReader(collected, on_progress)
        for member, (family, found) in enumerate(zip(families, self._reductions, strict=True)):
            reader.read(store, member, _find_reductions(store, family, found))
        self.output_problems = reader.problems
        """Key and reason of outputs that cannot be read, the first thousand."""
        self._parameter_kinds: dict[str, set[str]] = {}
        for one in itertools.chain.from_iterable(self._reductions):
            learn_kinds(self._parameter_kinds, one.params or {})
        others = [name for name, _ in (*FIRST_COLUMNS, *LAST_COLUMNS, *COUNTS)]
        self._parameters = parameter_columns(list(self._parameter_kinds), others)
        self._scalars = scalar_names(collected.keys, [*self._parameters.values(), COUNT_COLUMN])

    @property
    def columns(self) -> list[Column]:
        """Return the columns of `rows`."""
        return [
            *(Column(name, frozenset({kind})) for name, kind in BEFORE),
            *(Column(column, frozenset(self._parameter_kinds[name])) for name, column in self._parameters.items()),
            Column(COUNT_COLUMN, frozenset({"integer"})),
            *(Column(name, frozenset(self._collected.keys[key].kinds)) for key, name in self._scalars.items()),
        ]

    def rows(self) -> Iterator[list[object]]:
        """Yield the parameter sets in the order of the study, then the whole job, whose id of a set is None."""
        for member, (family, reductions) in enumerate(zip(self._families, self._reductions, strict=True)):
            study = family[0].study
            places: dict[str | None, int] = {one: place for place, one in enumerate(study.sets_by_id())}
            numbered = sorted(enumerate(reductions), key=lambda one: places.get(one[1].param_id, len(places)))
            for number, one in numbered:
                found = self._collected.get(member, number)
                left_out = found.get(LEFT_OUT_NUMBER, 0)
                self.left_out += left_out if isinstance(left_out, int) else 0
                params = one.params or {}
                yield [
                    family[0].job_id,
                    one.param_id,
                    *(params.get(name) for name in self._parameters),
                    one.tasks,
                    *(found.get(self._collected.keys[key].number) for key in self._scalars),
                ]

    def problems(self) -> list[str]:
        """Return what the table lacks, as sentences. Complete after the rows were read."""
        return [
            *(
                _describe_absence(family[0])
                for family, reductions in zip(self._families, self._reductions, strict=True)
                if not reductions
            ),
            *describe_problems(self.output_problems, self.left_out, is_full=self._collected.is_full),
        ]

    @property
    def is_empty(self) -> bool:
        """Return whether no job has outputs of its reduce function."""
        return not any(self._reductions)


def read_reduced_table(
    names: Iterable[str], app: App, view: Callable[[ReducedTable], T], on_progress: OnProgress = None
) -> T:
    """Call `view` with the table of what the reduce functions of some jobs and their ancestors left.

    It costs the listings of `outputs_of` for each job, and the reads.

    Args:
        names: ids, prefixes, or `@latest`. Ancestors of another one of these jobs have no rows of their own.
        app: the run.
        view: reads the table.
        on_progress: called with the number of reductions whose outputs were read.

    Raises:
        JobNotFoundError: if a job does not exist.
        AmbiguousJobError: if several ids begin with a name, and are not all of one family.
        NoManifestError: if mops-jobs did not submit a job.
        NoOutputsError: if none of the jobs has outputs of a reduce function.
        StoreError: if the registry cannot be read.
    """
    job_ids = dict.fromkeys(find_state(name, app).job_id for name in names)
    families = [family_of(app.store, job_id, load_manifest(app.store, job_id)) for job_id in job_ids]
    ancestors = {member.job_id for family in families for member in family[1:]}
    families = [family for family in families if family[0].job_id not in ancestors]
    with temporary_database(SCHEMA) as database:
        table = ReducedTable(families, app.store, CollectedScalars(database), on_progress)
        if table.is_empty:
            raise NoOutputsError(_describe_absence(families[0][0]), job_id=families[0][0].job_id)
        return view(table)


def _find_reductions(store: VersionedStore, family: Sequence[Manifest], found: list[Reduced]) -> Iterator[TaskOutputs]:
    """Yield the outputs of the reductions of a job, with their place in `found`, to which they are appended."""
    if family[0].study.reduce is None:
        return
    pairs = ((one.reduced, one) for one in outputs_of(store, family[0].job_id, family) if one.reduced is not None)
    for reduced, of_reduction in itertools.groupby(pairs, key=operator.itemgetter(0)):
        named = ((one.name.split("/", 2)[2], one.entry) for _, one in of_reduction)
        entries = {name: entry for name, entry in named if is_output_name(name) and may_have_scalars(name)}
        found.append(reduced)
        yield TaskOutputs([len(found) - 1], entries)


def _describe_absence(manifest: Manifest) -> str:
    """Return the sentence for a job without outputs of a reduce function."""
    function = manifest.study.reduce
    what = "names no reduce function" if function is None else f"has no outputs of {function} yet"
    return f"Job {manifest.job_id} {what}."
