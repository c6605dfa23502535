"""Run some tasks of a study twice before its submission, and name those whose outputs differ."""

from __future__ import annotations

from mopsjobs.app.run.app import App
from mopsjobs.errors import NotDeterministicError, OptionError
from mopsjobs.runner.run_once import ONE_TRY, place_of, run_once, spread_tasks
from mopsjobs.studies.study import find_varying, task_name
from mopsjobs.submission.submit import PreparedJob
from mopsjobs.utils.cores import usable_cores
from mopsjobs.utils.text import error_line, join_first, pluralize


def check_determinism(prepared: PreparedJob, count: int, app: App) -> None:
    """Run some tasks twice, in new processes and in the opposite order, and compare their outputs byte for byte.

    Args:
        prepared: the job to be submitted.
        count: how many tasks, spread over the study.
        app: the run, for its environment and its messages.

    Raises:
        NotDeterministicError: if outputs of a task differ, or if all tasks failed, so that none has outputs to
            compare. Nothing is submitted.
        OptionError: if the job is not to run on this machine, or the count is not above zero.
        ModelError: if the model cannot be loaded.
    """
    request, launch = prepared.request, prepared.launch
    if request.engine != "local":
        problem = f"check_determinism has no effect with the {request.engine} engine: it runs tasks on this machine."
        raise OptionError(problem, "check_determinism")
    if count < 1:
        raise OptionError(f"invalid check_determinism '{count}': expected 1 or more.", "check_determinism")
    study = request.study
    place = place_of(prepared, prepared.load_archive(app.store), app.env, ONE_TRY.policy)
    tasks = spread_tasks(study, count)
    workers = min(launch.workers or usable_cores(), len(tasks))
    first, second = (run_once(place, some, lambda _task, _line: None, workers=workers) for some in (tasks, tasks[::-1]))
    varying = find_varying(study)
    failed = [task for task in tasks if first[task.number].error and second[task.number].error]
    if failed:
        reason = first[failed[0].number].error or {}
        problem = (
            f"{len(failed):,} of {pluralize(len(tasks), 'task')} failed both times, and left nothing to compare:"
            f" {task_name(failed[0], varying)}: {error_line(reason.get('type'), reason.get('message'))}"
        )
        if len(failed) == len(tasks):
            raise NotDeterministicError(
                f"{problem.rstrip('.')}. Nothing was submitted.", hint="Correct the model, or submit without the check."
            )
        app.out.warn(problem)
    different = [task for task in tasks if task not in failed and first[task.number][:2] != second[task.number][:2]]
    if different:
        names = join_first([task_name(task, varying) for task in different])
        raise NotDeterministicError(
            f"{len(different):,} of {pluralize(len(tasks), 'task')} left other outputs when run twice: {names}."
            " Nothing was submitted.",
            hint="Draw random numbers from the seed alone, or submit without the check.",
        )
    app.out.note(f"{pluralize(len(tasks) - len(failed), 'task')} run twice: equal outputs")
