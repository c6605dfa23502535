"""Name a task in messages by what tells it apart from the others: `task 2 (mode=exit, seed 4194589890)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mopsjobs.studies.study import Study, Task
from mopsjobs.utils.text import cut_to_length, strip_control_characters

MAX_PARAMETERS = 3

MAX_VALUE_CHARACTERS = 20


class Varying(NamedTuple):
    """Differences between the tasks of a study."""

    parameters: tuple[str, ...]
    """Names of the parameters that differ between parameter sets, in the order of the study."""
    has_replicates: bool
    """Whether several tasks share their parameters."""


def find_varying(study: Study) -> Varying:
    """Return what differs between the tasks of a study. It looks at each parameter set."""
    constant = dict(study.parameter_sets[0].params) if study.parameter_sets else {}
    param_ids = set()
    for parameter_set in study.parameter_sets:
        param_ids.add(parameter_set.param_id)
        params = parameter_set.params
        for name in [name for name, value in constant.items() if name not in params or params[name] != value]:
            del constant[name]
    parameters = tuple(name for name in study.parameters if name not in constant)
    return Varying(parameters, len(param_ids) < study.tasks_total)


def task_name(task: Task, varying: Varying) -> str:
    """Return the name of a task: its number, up to three of the parameters that vary, its seed if tasks share those."""
    parts = _shown_parameters(task.params, varying)
    if varying.has_replicates:
        parts.append(f"seed {task.seed}")
    return f"task {task.number} ({', '.join(parts)})" if parts else f"task {task.number}"


def set_name(params: Mapping[str, Any] | None, varying: Varying) -> str:
    """Return the name of a parameter set: up to three of its parameters that vary. None stands for the whole job."""
    if params is None:
        return "the whole job"
    return ", ".join(_shown_parameters(params, varying)) or "the parameter set"


def _shown_parameters(params: Mapping[str, Any], varying: Varying) -> list[str]:
    shown = [name for name in varying.parameters if name in params][:MAX_PARAMETERS]
    return [f"{_shorten(name)}={_shorten(params[name])}" for name in shown]


def _shorten(value: object) -> str:
    return cut_to_length(strip_control_characters(str(value)), MAX_VALUE_CHARACTERS)
