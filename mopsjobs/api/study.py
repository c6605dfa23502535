"""Studies of a Python program: parameter sets as a grid or a list, with the ids and seeds of a study file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mopsjobs.api.cell import Cell
from mopsjobs.errors import UsageError
from mopsjobs.studies import study as studies
from mopsjobs.studies import study_parser


def grid(**values: Iterable[Any]) -> list[dict[str, Any]]:
    """Return all combinations of some values as parameter sets. The last parameter varies fastest.

    Args:
        values: the values of each parameter: a list, a range, an array of numpy.

    Raises:
        UsageError: if a parameter has a text or a number, which is one value, or no value.
    """
    columns = {}
    for name, some in values.items():
        column = _as_list(some)
        if not column or not isinstance(column, list):
            raise UsageError(f"invalid values of {name}: expected a list with at least one value.")
        columns[name] = column
    return [dict(zip(columns, as_plain(row), strict=True)) for row in itertools.product(*columns.values())]


class Study:
    """A model, and the parameter sets to run it with, each with some replicates."""

    def __init__(  # noqa: PLR0913 - all but model and sets by name
        self,
        model: str | Cell,
        sets: Iterable[Mapping[str, Any]],
        *,
        replicates: int | Mapping[str, Any] = 1,
        outputs: Sequence[str] | None = None,
        scenario: str = "baseline",
        targets: Sequence[str] | None = None,
        reduce: str | None = None,
        scratch: bool = False,
        allow_nan: bool = True,
        seeds: str | Sequence[int] | Mapping[str, int] = "mops-jobs",
        packs: bool = True,
        sampling_method: str = "manual",
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the fields. The same fields in a study file give the same ids and seeds.

        Args:
            model: the function, as `module:function`, or a function of the notebook as `cell(function)`, or the name
                of a model for a wire function.
            sets: parameter sets. One of the form `{"params": {…}, "seed": 7}` names its seed, and has one task.
            replicates: the tasks of each other set. They differ in their seeds. Or a precision, as
                `{"min": 10, "max": 500, "until": {"peak": {"confidence": 0.95, "relative": 0.05}}}`: each set gets
                tasks until the interval around the mean of each scalar is so narrow, or around its `quantile`.
            outputs: the files that each task must leave; None for no check.
            scenario: the scenario, for a wire function.
            targets: the targets of the study; see `Registry.submit`.
            reduce: the function, as `module:function`, that is called after the tasks: over those of each parameter
                set, and over all. `Job.reduced` has what it returns.
            scratch: whether the working directory of each task is one of its own, which is removed after it.
            allow_nan: whether a task may leave NaN and infinities. If not, it fails with an error that names the key.
            seeds: the rule of the seeds: `mops-jobs`, `modelops` or `common`. Or the seeds of the replicates, common to
                all sets, as a list or as `{"base": N}`.
            packs: whether small outputs may share objects of the store.
            sampling_method: how the sets were drawn; kept with the study.
            metadata: other facts, kept with the study.

        Raises:
            StudyError: if a field is invalid. The message names each. It is a `UsageError`.
            UsageError: if the model is a function.
        """
        given = {name: as_plain(_as_list(value)) for name, value in locals().items() if name in studies.FIELDS}
        _refuse_function(model)
        self.cell = model if isinstance(model, Cell) else None
        """The function of the notebook, whose file is packed with the code; None if the code has the model."""
        self.definition: studies.Study = study_parser.parse_study(
            {
                **given,
                "model": model.model if isinstance(model, Cell) else model,
                "parameter_sets": _as_list(_rows(sets), _as_dict),
                "n_replicates": as_plain(replicates),
            }
        )
        """The study as the commands use it."""

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Study:
        """Read a study file, JSON or YAML.

        Raises:
            StudyError: if it is invalid. The message names each wrong field.
            UsageError: if the file cannot be read.
        """
        study = cls.__new__(cls)
        study.cell = None
        study.definition = study_parser.read_study(os.fspath(path))
        return study

    @property
    def tasks_total(self) -> int:
        """Return the number of tasks."""
        return self.definition.tasks_total

    def to_dict(self) -> dict[str, Any]:
        """Return the study as its file would have it."""
        return self.definition.to_dict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Study) and (self.definition, self.cell) == (other.definition, other.cell)

    def __hash__(self) -> int:
        return hash((self.definition.model, self.definition.scenario, self.tasks_total))

    def __repr__(self) -> str:
        return f"<Study of {self.definition.entrypoint}: {self.tasks_total:,} tasks>"


def growing_study(model: str | Cell, replicates: int, outputs: Sequence[str] | None) -> Study:
    """Return a study without sets, to which a session adds some.

    Raises:
        StudyError: if a field is invalid.
        UsageError: if the model is a function.
    """
    _refuse_function(model)
    study = Study.__new__(Study)
    study.cell = model if isinstance(model, Cell) else None
    document = {
        "model": model.model if isinstance(model, Cell) else model,
        "parameter_sets": [],
        "n_replicates": replicates,
        "outputs": _as_list(outputs),
    }
    named = {name: value for name, value in document.items() if value is not None}
    study.definition = study_parser.parse_study(named, may_grow=True)
    return study


def _refuse_function(model: object) -> None:
    if callable(model):
        name = getattr(model, "__name__", "f")
        raise UsageError(
            f"invalid model {name}: expected a text like 'module:function'.",
            hint=f"Use cell({name}) for a function of a notebook or a script.",
        )


def check_is_study(study: object) -> None:
    """Refuse another value than a study, such as the path of one.

    Raises:
        UsageError: if it is none.
    """
    if not isinstance(study, Study):
        hint = "Use Study(…), or Study.from_file(path) for a file."
        raise UsageError(f"invalid study of type {type(study).__name__}: expected a Study.", hint=hint)


def _as_list(value: Any, convert: Callable[[Any], Any] = lambda one: one) -> Any:
    """Return a list of the items. A value that has none, a text or a mapping stays, for the error."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Iterable):
        return value
    return [convert(one) for one in value]


def _rows(sets: Any) -> Any:
    """Return the rows of a frame of pandas or polars as parameter sets. An iteration would give names of columns."""
    if hasattr(sets, "to_dicts"):
        return sets.to_dicts()
    return sets.to_dict("records") if hasattr(sets, "to_dict") and hasattr(sets, "columns") else sets


def _as_dict(value: Any) -> Any:
    """Return a dict with the types of JSON. A value that is none stays, for the error."""
    try:
        return as_plain(dict(value))
    except (TypeError, ValueError):
        return value


def as_plain(value: Any) -> Any:
    """Return a value with the types of JSON in place of those of numpy. Other values stay, for the error."""
    if isinstance(value, Mapping):
        return {name: as_plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(one) for one in value]
    to_list = getattr(value, "tolist", None)  # of numbers and arrays of numpy
    return value if to_list is None else to_list()
