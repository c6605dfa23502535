"""Find the tasks of a new job that an earlier job has done: by `submit --extend JOB`.

A task is reused if code, model, parameters, seed, names of outputs and environment are the same. A changed file of the
code does not count if the ledger says that the task cannot have read it. The outputs must be complete, and have the
size that the ledger says. The earlier job's ancestors count too, and the jobs whose outputs these reuse. See
docs/decisions/0071-reused-tasks.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import compress
from typing import NamedTuple

from mopsjobs.bundles.bundle import load_bundle
from mopsjobs.bundles.extraction import BundleError, BundleFile, list_files, read_files
from mopsjobs.engines.base import Launch, recorded_launch
from mopsjobs.engines.model_env import model_environment
from mopsjobs.engines.model_process import describe_interpreter
from mopsjobs.errors import InvalidKeyError, JobBusyError, NoManifestError, RecordError, UsageError, command_line
from mopsjobs.ledger.environment import Environment, environment_keys, environment_of_worker, parse_environment
from mopsjobs.ledger.format import FilesOpened
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.adaptive import Values, reusable_tasks
from mopsjobs.studies.lineage import read_later_jobs
from mopsjobs.studies.manifest import MAX_REUSED, MAX_SOURCES, Manifest, Reuse, load_manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.studies.study import FIELDS, Study
from mopsjobs.studies.study_parser import load_study
from mopsjobs.submission.infer_end import LedgerSummary, summarise_ledger
from mopsjobs.submission.session import Session
from mopsjobs.utils.text import join_first, pluralize

STUDY_SUFFIXES = (".json", ".yaml", ".yml")

RULE_FILES = (".gitignore", ".modelopsignore")
"""Files that say what is packed. They are packed too, and are not code."""

MAX_STUDY_BYTES = 16 * 2**20
"""A larger file of a bundle counts as data of the model, and not as a study."""

FACTS = Environment._fields[:4]
"""The facts about an interpreter that must be equal: its version and kind, the platform and the C library."""

CLUSTER_FACTS = ("image", "python", "scheduler", "setup")
"""Options of a launch on a cluster that must be equal, in place of the facts about its interpreter."""


class Extension(NamedTuple):
    """A new job that extends an earlier one."""

    extended: str
    """The job that was named."""
    reused: tuple[Reuse, ...]
    """The tasks that it need not run."""
    reasons: tuple[str, ...]
    """Why tasks of jobs are not reused."""

    @property
    def task_count(self) -> int:
        """Count the reused tasks."""
        return sum(one.task_count for one in self.reused)

    def describe(self, total: int) -> str:
        """Return how many of the tasks are reused, and from which jobs: `900 of 1,000 tasks reused from seir-1`."""
        names = ", ".join(one.job_id for one in self.reused) or self.extended
        return f"{self.task_count:,} of {pluralize(total, 'task')} reused from {names}"


class NewJob(NamedTuple):
    """A job that is to extend an earlier one."""

    study: Study
    bundle: str
    """The digest of its code."""
    load_archive: Callable[[], bytes]
    """Returns the archive of that."""
    is_packed: bool
    """Whether its code is a directory, and not a bundle of the store."""
    engine: str
    launch: Launch


def find_extended(job_id: str, session: Session) -> Manifest:
    """Return the manifest of a job to extend: of the newest job that it was resumed as.

    Args:
        job_id: the full id of the job.
        session: the registry.

    Raises:
        JobNotFoundError: if the job does not exist.
        NoManifestError: if mops-jobs did not submit it.
        JobBusyError: if it has not ended: its tasks would be computed twice.
        StoreError: if the registry cannot be read.
    """
    state = session.registry.require_job(job_id)
    newest = [state, *read_later_jobs(session.registry, state).jobs][-1]
    if not newest.is_terminal:
        raise JobBusyError(
            f"Job {newest.job_id} has not ended: its tasks would be computed twice.",
            job_id=newest.job_id,
            hint=f"Wait for its end, or cancel it: {command_line('wait', newest.job_id)}",
        )
    return load_manifest(session.store, newest.job_id)


def find_reusable(extended: Manifest, new: NewJob, session: Session) -> Extension:
    """Find the tasks of a new job that an earlier one, its ancestors and their sources have done.

    It costs a listing of the outputs of each of these jobs, and their ledgers and notes.

    Args:
        extended: the result of `find_extended`.
        new: the new job.
        session: the registry and the environment.

    Raises:
        UsageError: if more than `MAX_REUSED` are done.
        StoreError: if the registry cannot be read.
    """
    study, environment = new.study, _environment_here(new, session)
    every = range(study.tasks_total)
    left = bytearray([1]) * len(every)
    reused, reasons = list[Reuse](), list[str]()
    values = dict[int, Values | None]()
    for manifest in _sources(session.store, extended):
        if sum(reuse.task_count for reuse in manifest.reused) == manifest.tasks_total:
            continue  # it has run nothing itself
        why_not = study_difference(manifest.study, new.study)
        if why_not is not None:  # manifests cost nothing, all else does
            reasons.append(f"No task of {manifest.job_id} is reused: {why_not}.")
            continue
        ledger = summarise_ledger(session.store, manifest.job_id)
        # The tasks of the new study, with the outputs of the earlier job.
        wanted = dataclasses.replace(manifest, study=study, only=None, reused=())
        found = find_complete_tasks(session.store, wanted, ledger.sizes_of([manifest]), keeps_all=True)
        numbers = list(compress(every, map(int.__and__, found.complete, left)))
        if not numbers:
            if manifest.study.seeds != study.seeds:
                reasons.append(f"No task of {manifest.job_id} is reused: `seeds` of its study differs.")
            continue  # nothing of it is needed, so its code does not matter
        code = _compare_code(manifest, new, _files_opened(manifest, wanted, numbers, ledger), session.store)
        why_not = _difference(manifest, new, code, environment, session)
        if why_not is not None:
            reasons.append(f"No task of {manifest.job_id} is reused: {why_not}.")
            continue
        if code is not None:
            reasons += code.lines
            tasks = zip(numbers, _tasks_of(wanted, numbers), strict=True)
            numbers = [number for number, task in tasks if task in code.untouched]
        reused.append(Reuse.of(manifest.job_id, manifest.bundle, numbers))
        for number in numbers:
            left[number] = 0
            if study.precision is not None:
                values[number] = found.values[number]
    if study.precision is not None:
        is_worth = reusable_tasks(study, values).__getitem__
        reused = [Reuse.of(one.job_id, one.bundle, filter(is_worth, one.numbers())) for one in reused]
        reused = [one for one in reused if one.ranges]
    if not (reused or reasons):
        reasons.append(f"No task of {extended.job_id} is reused: it has complete outputs of no task of the study.")
    extension = Extension(extended.job_id, tuple(reused), tuple(reasons))
    if extension.task_count > MAX_REUSED:
        raise UsageError(f"invalid --extend: {extension.describe(study.tasks_total)}, expected at most {MAX_REUSED:,}.")
    return extension


def _environment_here(new: NewJob, session: Session) -> Environment | None:
    """Return the environment of the model; None if this machine cannot tell it, as on a cluster."""
    if new.engine != "local":
        return None
    try:
        python = new.launch.python or sys.executable
        return environment_of_worker(describe_interpreter(python, model_environment(session.env)))
    except RecordError:  # an interpreter that says nothing
        return None


def _sources(store: VersionedStore, extended: Manifest) -> Iterator[Manifest]:
    """Yield the manifests of a job, its ancestors, and the jobs whose outputs these reuse, as far as they exist."""
    waiting, seen = [extended], {extended.job_id}
    while waiting:
        manifest = waiting.pop(0)
        yield manifest
        for other in (manifest.parent_job_id, *(reuse.job_id for reuse in manifest.reused)):
            if other is not None and other not in seen and len(seen) < MAX_SOURCES:
                seen.add(other)
                with contextlib.suppress(NoManifestError, RecordError):
                    waiting.append(load_manifest(store, other))


class CodeChange(NamedTuple):
    """The difference between the code of an earlier job and that of the new one."""

    files: Sequence[str] | None
    """The files that differ and that a task may have read; None if a bundle cannot be read."""
    untouched: Collection[tuple[str, int]] = ()
    """Parameter id and seed of the tasks that read none of these."""
    lines: Sequence[str] = ()
    """What to say if some are reused all the same."""
    advice: str = ""
    """What to do if none is."""


def _tasks_of(manifest: Manifest, numbers: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield parameter id and seed of tasks of a whole study, by their numbers in ascending order."""
    chosen = bytearray(manifest.tasks_total)
    for number in numbers:
        chosen[number] = 1
    return ((task.param_id, task.seed) for number, task in manifest.tasks() if chosen[number])


def _files_opened(
    manifest: Manifest, wanted: Manifest, numbers: Sequence[int], ledger: LedgerSummary
) -> dict[tuple[str, int], FilesOpened]:
    """Map tasks of a new study, by their numbers, to the files that they may have opened in an earlier job.

    Tasks are named by parameter id and seed.
    """
    opened: dict[tuple[str, int], FilesOpened] = dict.fromkeys(_tasks_of(wanted, numbers))
    for _, task in manifest.tasks():
        name = (task.param_id, task.seed)
        if name in opened and (files := ledger.files.get(task.number)) is not None:
            opened[name] = files
    return opened


def _compare_code(
    manifest: Manifest, new: NewJob, opened: Mapping[tuple[str, int], FilesOpened], store: VersionedStore
) -> CodeChange | None:
    """Compare the code of an earlier job with that of the new one; None if both have the same.

    A file that changed matters to the tasks that may have opened it. One that was added or removed matters to all,
    since a model may list a directory, or ask whether a file exists. So does a link. A study changes with each
    extension, so it matters only to tasks that have opened it.

    Args:
        manifest: that of the earlier job.
        new: the new job.
        opened: the files that each of the tasks may have opened that are to be reused.
        store: has the bundles.
    """
    changes = {} if manifest.bundle == new.bundle else changed_files(manifest.bundle, new.load_archive, store)
    if not changes:
        return None if changes is not None else CodeChange(None)
    job_id, sets = manifest.job_id, {files for files in opened.values() if files is not None}
    read_by_some = frozenset[str]().union(*sets)
    changes = {name: change for name, change in changes.items() if change is not Change.STUDY or name in read_by_some}
    if not changes:
        return None
    contents = {name for name, change in changes.items() if change in (Change.CONTENT, Change.STUDY)}
    if contents < changes.keys() or not sets:  # those files are named of which each alone matters to all
        files = [name for name in changes if name not in contents or all(name in files for files in sets)]
        is_data = all(changes[name] is Change.ADDED and not name.endswith(".py") for name in files)
        advice = "; list files other than code in .modelopsignore" if new.is_packed and is_data else ""
        is_unknown = not (sets or contents.isdisjoint(files))
        return CodeChange(files, advice=", and the files that its tasks read are not known" if is_unknown else advice)
    files = [name for name in changes if name in read_by_some]
    unread = [name for name in changes if name not in read_by_some]
    unknown = sum(one is None for one in opened.values())
    untouched = {task for task, one in opened.items() if one is not None and contents.isdisjoint(one)}
    said = (
        (unread, f"No task of {job_id} has read {join_first(unread)}, which changed."),
        (files, f"Tasks of {job_id} that may have read {join_first(files)}, which changed, are not reused."),
        (unknown, f"{pluralize(unknown, 'task')} of {job_id} cannot be reused: the files read there are not known."),
    )
    return CodeChange(files, untouched, [line for is_said, line in said if is_said])


def study_difference(earlier: Study, new: Study) -> str | None:
    """Return why no task of a study is one of the new study, as the end of a sentence; None if some may be."""
    if earlier.entrypoint != new.entrypoint:
        return f"it runs {earlier.entrypoint}, and the study runs {new.entrypoint}"
    for name, field in FIELDS.items():
        if field.bars_reuse is not None and field.bars_reuse(getattr(earlier, name), getattr(new, name)):
            return f"`{name}` of its study differs"
    return None


def _difference(
    manifest: Manifest, new: NewJob, code: CodeChange | None, environment: Environment | None, session: Session
) -> str | None:
    """Return why code or environment let no task of a job be reused, as the end of a sentence; None if some may be."""
    if code is not None and not code.untouched:
        return f"its code differs{'' if code.files is None else f' in {join_first(code.files)}'}{code.advice}"
    if new.engine == "local":
        return environment_difference(manifest.job_id, environment, session.store)
    return _cluster_difference(manifest, new, session)


class Change(enum.Enum):
    """The difference of a file in two bundles."""

    ADDED = enum.auto()
    CONTENT = enum.auto()
    """Both are files, and no links."""
    STUDY = enum.auto()
    """It is a study wherever it is."""
    OTHER = enum.auto()


def changed_files(bundle: str, load_archive: Callable[[], bytes], store: VersionedStore) -> dict[str, Change] | None:
    """Return the names of files that differ between a bundle of the store and another archive, and how.

    The rules that say what is packed are left out.

    Returns:
        None if a bundle cannot be read.
    """
    try:
        archives = (load_bundle(store, bundle), load_archive())
        sides = [{file.name: file for file in list_files(archive)} for archive in archives]
    except BundleError:
        return None
    names = {name for name in sides[0].keys() | sides[1].keys() if sides[0].get(name) != sides[1].get(name)}
    contents = [read_files(archive, {*filter(_may_be_study, names)}, MAX_STUDY_BYTES) for archive in archives]
    changes = {}
    for name in sorted(names):
        pairs = zip(sides, contents, strict=True)
        is_study = all(_is_study(name, found.get(name)) for files, found in pairs if name in files)
        if name.rpartition("/")[2] not in RULE_FILES:
            changes[name] = Change.STUDY if is_study else _change_of(sides[0].get(name), sides[1].get(name))
    return changes


def _change_of(before: BundleFile | None, after: BundleFile | None) -> Change:
    if before is None:
        return Change.ADDED
    return Change.CONTENT if before.sha256 and after is not None and after.sha256 else Change.OTHER


def _may_be_study(name: str) -> bool:
    return name.lower().endswith(STUDY_SUFFIXES)


def _is_study(name: str, content: bytes | None) -> bool:
    try:
        load_study(content or b"", name)
    except UsageError:
        return False
    return True


def environment_difference(job_id: str, ours: Environment | None, store: VersionedStore) -> str | None:
    """Return how the environments of a job differ from that of the model here; None if they do not.

    Packages that only one side has do not count: most of them have nothing to do with the model.
    """
    if ours is None:
        return "the model's interpreter does not say what it is"
    keys = list(environment_keys(store, job_id))
    if not keys:
        return "its environment was not noted"
    for key in keys:
        theirs = None
        with contextlib.suppress(RecordError, InvalidKeyError):
            found = store.get(key)
            theirs = None if found is None else parse_environment(found.value)
        if theirs is None:
            return f"{key} cannot be read"
        for name in FACTS:
            if getattr(theirs, name) != getattr(ours, name):
                return _clause(name, getattr(theirs, name), getattr(ours, name))
        for name in sorted(theirs.packages.keys() & ours.packages.keys()):
            if theirs.packages[name] != ours.packages[name]:
                return _clause(name, theirs.packages[name], ours.packages[name])
    return None


def _cluster_difference(manifest: Manifest, new: NewJob, session: Session) -> str | None:
    """Return how the launch of a job on a cluster differs from the new one in what decides the environment."""
    state = session.registry.get_job(manifest.job_id)
    if state is None or state.engine != new.engine:
        return f"it did not run on {new.engine}"
    theirs = recorded_launch(state.metadata, new.engine)
    ours = {**new.launch.options, "python": new.launch.python}
    if new.engine == "kubernetes":
        from mopsjobs.engines.kubernetes.options import IMAGE_VARIABLE

        ours["image"] = ours.get("image") or session.env.get(IMAGE_VARIABLE)
    for name in CLUSTER_FACTS:
        if theirs.get(name) != ours.get(name):
            return _clause(name, theirs.get(name), ours.get(name))
    return None


def _clause(name: str, theirs: str | None, ours: str | None) -> str:
    return f"its {name} was {theirs or 'not given'}, and is {ours or 'not given'} here"
