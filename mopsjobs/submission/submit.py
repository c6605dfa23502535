"""Submit a study: pack or name the code, check the model, and launch the job."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.bundles.bundle import has_bundle, load_bundle, parse_bundle_ref
from mopsjobs.bundles.git_state import read_git_state
from mopsjobs.bundles.packing import MAX_SHOWN, MODELOPS_REGISTRY, PackedBundle, pack, read_archive
from mopsjobs.engines import LOCAL_ENGINES, open_engine
from mopsjobs.engines.base import Launch
from mopsjobs.errors import RecordError, StoreError, UsageError, command_line, shorten
from mopsjobs.registry.job_id import check_new_job_id
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest, Origin
from mopsjobs.studies.study import Study
from mopsjobs.submission.client import SubmitResult, new_job_id, submit_job
from mopsjobs.submission.launch_options import LaunchOptions
from mopsjobs.submission.launching import make_launch
from mopsjobs.submission.model_check import check_functions, project_python
from mopsjobs.submission.reuse import Extension, NewJob, find_extended, find_reusable
from mopsjobs.submission.session import Session
from mopsjobs.utils.text import join_first
from mopsjobs.utils.user_dirs import user_name
from mopsjobs.utils.written_tables import written_tables
from mopsjobs.version import __version__

WIRE_FILES = (".modelops/manifest.json", ".modelops/modelops.toml", "wire.py")
"""Files of a bundle that name its wire function, or have it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """The code of a model, to be packed: a directory, generated files, or both."""

    directory: Path | None
    added: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    """Generated files, by their paths in the bundle."""
    hint_if_not_found: str | None = None
    """What to do if the model imports a module that is not found."""
    leave_out: Collection[str] = ()
    """Paths of files that are not packed, whatever the rules say: the registry and the cache of the caller."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SubmitRequest:
    """A study to run, and how. At most one of `code` and `bundle` is set; one of them, or `extend`."""

    study: Study
    code: Code | None = None
    """The model's code, to be packed and stored."""
    bundle: str | None = None
    """The digest of a bundle in the store, as `sha256:…`. Without code and bundle, that of the job to extend."""
    engine: str = "local"
    """Where the job runs: one of `engines.ENGINES`."""
    options: LaunchOptions = dataclasses.field(default_factory=LaunchOptions)
    """How its runner works."""
    job_id: str | None = None
    """The id of the new job; None: made of the model's name and the time."""
    owner: str | None = None
    """The owner of the job; None: the user of this process."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels of the record."""
    foreground: bool = False
    """Whether the caller works through the tasks itself after `submit`. For `engines.LOCAL_ENGINES` only."""
    without_targets: bool = False
    """Whether to run the simulations of a study with targets, which are not evaluated. Else such a study is refused."""
    extend: str | None = None
    """The full id of an earlier job: its tasks that are also tasks of this study are not run again; None: all run."""
    grows: float | None = None
    """Seconds without a task after which a growing job ends; None: the study has all sets. See `studies.rounds`."""
    calibration: Mapping[str, Any] | None = None
    """The calibration that asks for these sets; see `Manifest.calibration`."""
    study_directory: Path | None = None
    """Where the file of the study is. A warning names it if the model is not in the code."""


class PreparedJob(NamedTuple):
    """A request that has been checked, with its code packed."""

    request: SubmitRequest
    launch: Launch
    bundle: str
    packed: PackedBundle | None
    extension: Extension | None = None
    """The tasks that need not run; None if the job extends no other."""

    @property
    def python(self) -> str | None:
        """Return the interpreter of the model; None where the engine has its own."""
        return self.launch.python or (sys.executable if self.request.engine == "local" else None)

    def counts(self) -> dict[str, int]:
        """Return the counts of its tasks, as scripts get them."""
        study = self.request.study
        return {
            "tasks_total": study.tasks_total,
            "duplicate_tasks": len(study.duplicate_tasks()),
            "reused_tasks": 0 if self.extension is None else self.extension.task_count,
        }

    def load_archive(self, store: VersionedStore) -> bytes:
        """Return the archive of the code: the packed one, else that in the store.

        Raises:
            BundleError: if the bundle in the store is missing or damaged.
            StoreError: if the store cannot be read.
        """
        return load_bundle(store, self.bundle) if self.packed is None else read_archive(self.packed)


def submit(request: SubmitRequest, session: Session) -> SubmitResult:
    """Submit a study and launch its job.

    Raises:
        UsageError: if the request is not valid, or if the code cannot be packed.
        MopsJobsError: if the submission fails; see `client.submit_job`.
    """
    with prepare(request, session) as prepared:
        return submit_prepared(prepared, session)


@contextlib.contextmanager
def prepare(request: SubmitRequest, session: Session) -> Iterator[PreparedJob]:
    """Check a request and pack its code for the time of the block.

    The registry is only read for a stored bundle, and for a job to extend.

    Raises:
        JobNotFoundError, NoManifestError, JobBusyError, StoreError: see `find_extended`.
        UsageError: if the request or the targets of its study are refused, if the code cannot be packed, or if the
            model cannot be loaded here.
        EngineError: if the library of the engine is not installed.
    """
    check_targets(request.study, session, without_targets=request.without_targets)
    if request.grows is not None:
        _check_growing(request)
    job_id = check_new_job_id(request.job_id or new_job_id(request.study, session.now()))
    options = _options(request, session)
    launch = make_launch(job_id, request.engine, options, session, foreground=request.foreground)
    extended = None if request.extend is None else find_extended(request.extend, session)
    if request.code is None:
        if request.bundle is not None:
            bundle = parse_bundle_ref(request.bundle)
        elif extended is not None:
            bundle = extended.bundle
        else:
            raise UsageError("missing code of the model: expected either a directory or a bundle.")
        _check_stored(request, launch, bundle, session)
        yield _extend(PreparedJob(request, launch, bundle, None), extended, session)
        return
    with pack_code(request.code, session) as packed:
        missing = None
        if request.code.directory is not None:
            warn_about_registry(request.study, request.code.directory, packed, session)
            missing = _check_names(request, packed, request.code.directory)
        hint = request.code.hint_if_not_found
        if missing is not None:
            hint = f"{missing} Submit in the directory of the model, or name the Python that has it: --python PATH."
            if request.engine != "local":
                session.warn(f"{missing} The job fails unless it is installed.")
        load_archive = functools.partial(read_archive, packed)
        check_functions(request.study, request.engine, launch, load_archive, session, hint_if_not_found=hint)
        yield _extend(PreparedJob(request, launch, packed.digest, packed), extended, session)


def _check_growing(request: SubmitRequest) -> None:
    """Refuse a growing job that decides or reduces over all its tasks.

    Raises:
        UsageError: if it is one.
    """
    if request.study.precision is not None:
        raise UsageError(
            "invalid n_replicates of a growing job: its client asks for a number of replicates; expected a number.",
            hint="Give a number. Or submit all sets as a study: that runs replicates until their mean is precise.",
        )
    if request.study.reduce is not None:
        raise UsageError(
            "invalid reduce of a growing job: its sets come one after the other; expected none.",
            hint="Leave it out. Then submit a study of all sets, with reduce and --extend JOB: no task runs twice.",
        )
    if not request.grows or request.grows <= 0:
        raise UsageError(f"invalid idle time {request.grows!r}: expected seconds above 0.")


def _options(request: SubmitRequest, session: Session) -> LaunchOptions:
    """Return the options of a launch: without a named or active Python, with that of a `.venv` of the project."""
    options, directory = request.options, None if request.code is None else request.code.directory
    if options.python is not None or request.study_directory is None or request.engine not in ("local", "slurm"):
        return options
    path = project_python(filter(None, (directory, request.study_directory)), session.env)
    if path is None:
        return options
    session.note(f"The tasks run in the environment beside the project: {path}")
    return dataclasses.replace(options, python=path)


def submit_prepared(prepared: PreparedJob, session: Session) -> SubmitResult:
    """Store, register and launch a prepared job.

    Raises:
        MopsJobsError: if the submission fails; see `client.submit_job`.
    """
    request = prepared.request
    packed, extension = prepared.packed, prepared.extension
    manifest = Manifest(
        job_id=prepared.launch.job_id,
        study=request.study,
        bundle=prepared.bundle,
        engine=request.engine,
        owner=request.owner or user_name(session.env),
        labels=request.labels,
        origin=Origin(__version__, None if packed is None else packed.git),
        reused=() if extension is None else extension.reused,
        grows=request.grows,
        calibration=request.calibration,
    )
    engine = open_engine(request.engine, session.env)
    return submit_job(engine, session, manifest, prepared.launch, packed, request.options.notify or ())


def pack_code(code: Code, session: Session) -> PackedBundle:
    """Pack the code of a model, note its git commit, and warn about files left out because they may hold secrets.

    Raises:
        UsageError: if the directory cannot be packed.
    """
    with session.progress() as on_progress:
        packed = pack(
            code.directory,
            added=code.added,
            leave_out=code.leave_out,
            tables=written_tables(session.env),
            on_progress=on_progress,
        )
    if packed.written:
        session.note(
            f"Left out of the bundle, as written by mops-jobs: {join_first(packed.written)}. To pack one, add it to"
            " .modelopsignore with ! in front."
        )
    if packed.withheld:
        names = ", ".join(packed.withheld[:MAX_SHOWN])
        more = len(packed.withheld) - MAX_SHOWN
        session.warn(
            f"Left out of the bundle, because it may hold secrets: {names}{f' and {more} more' if more > 0 else ''}."
            " To confirm this, add it to .modelopsignore. To pack it, add it with ! in front: everyone with read access"
            " to the registry can then read it."
        )
    if code.directory is None:
        return packed
    return packed._replace(git=read_git_state(code.directory, packed.blobs, session.env))


def _extend(job: PreparedJob, extended: Manifest | None, session: Session) -> PreparedJob:
    """Find the tasks of a job that an earlier one has done, and note how many."""
    if extended is None:
        return job
    study, load_archive = job.request.study, functools.cache(lambda: job.load_archive(session.store))
    new = NewJob(study, job.bundle, load_archive, job.packed is not None, job.request.engine, job.launch)
    extension = find_reusable(extended, new, session)
    for line in (*extension.reasons, extension.describe(study.tasks_total)):
        session.note(line)
    return job._replace(extension=extension)


def _check_stored(request: SubmitRequest, launch: Launch, bundle: str, session: Session) -> None:
    """Check the code in a bundle of the store. Whether the store has the bundle, the submission itself finds out."""
    with contextlib.suppress(StoreError):
        if request.engine in LOCAL_ENGINES and has_bundle(session.store, bundle):
            load_archive = functools.partial(load_bundle, session.store, bundle)
            hint = "The code is that of an earlier job. To pack this directory: --auto. Another Python: --python PATH."
            check_functions(request.study, request.engine, launch, load_archive, session, hint_if_not_found=hint)


def _check_names(request: SubmitRequest, packed: PackedBundle, directory: Path) -> str | None:
    """Check that the packed code can have the model of the study, if it has no wire function.

    Returns:
        A sentence if it has not: module or wire function may be installed in the model's interpreter. Else None.

    Raises:
        UsageError: if the model names a file instead of a module.
    """
    if wired := [name for name in WIRE_FILES if name in packed.names]:
        if request.code is not None and request.code.added:
            raise UsageError(f"{directory} has {wired[0]}, whose function would be called in place of the given one.")
        return None
    model = request.study.model
    module, _, function = model.partition(":")
    if not (function and module):
        return (
            f"The model {shorten(model, 100)!r} names no function, and {directory} has none of {', '.join(WIRE_FILES)}."
        )
    if module.endswith(".py"):
        name = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UsageError(
            f"invalid model {shorten(model, 100)!r}: expected package.module:function, not a file. Did you mean"
            f" {shorten(f'{name}:{function}', 100)!r}?"
        )
    package = module.partition(".")[0]
    if any(name.startswith((f"{package}/", f"{package}.")) for name in packed.names):
        return None
    beside = request.study_directory
    where = f"; the study is in {beside}" if beside not in (None, directory.resolve()) else ""
    return f"The model's module {package} is not in {directory}, which was packed{where}."


MAX_REGISTRY_BYTES = 2**20

MAX_NAMES = 200
"""Characters of names in a message."""


def check_targets(study: Study, session: Session, *, without_targets: bool) -> None:
    """Refuse a study with targets; with `without_targets`, warn that they are not evaluated.

    Raises:
        UsageError: if it has targets, and `without_targets` is False.
    """
    if not study.targets:
        return
    if not without_targets:
        raise UsageError(
            f"invalid study: mops-jobs does not evaluate targets: {_join(study.targets)}.",
            hint="To run the simulations alone, add --without-targets. After the job, evaluate the targets on"
            f" {command_line('results', 'JOB', '--download DIR')}.",
        )
    session.warn(f"The targets of the study are not evaluated: {_join(study.targets)}.")


def warn_about_registry(study: Study, directory: Path, packed: PackedBundle, session: Session) -> None:
    """Warn about targets, missing models and missing files of the registry in packed code, if there is one.

    Targets compare the outputs of a parameter set with observed data. mops-jobs does not evaluate them. So a study with
    targets is refused, unless its caller wants the simulations alone. For every other study, ModelOps evaluates the
    targets in the registry: a warning names those.

    ModelOps' wire function finds a model by the registry. If it finds none, every task fails. So a warning names what
    it would not find.
    """
    if MODELOPS_REGISTRY not in packed.names:
        return
    document = _read(directory / MODELOPS_REGISTRY, session)
    models, targets = _entries(document, "models"), _entries(document, "targets")
    entrypoints = [str(entry.get("entrypoint")) for entry in models.values()]
    if not any(entrypoint == study.model or entrypoint.startswith(f"{study.model}:") for entrypoint in entrypoints):
        known = f"; it has {_join(entrypoints)}" if entrypoints else ""
        session.warn(f"{MODELOPS_REGISTRY} has no model {shorten(study.model, 100)!r}{known}.")
    files = {path for entry in (*models.values(), *targets.values()) for path in _files(entry)}
    if missing := sorted(files - packed.names):
        session.warn(
            f"{MODELOPS_REGISTRY} names files that are not packed: {_join(missing)}."
            " If a rule of .gitignore leaves them out, add them to .modelopsignore with ! in front."
        )
    if targets and not study.targets:  # which take precedence in ModelOps
        session.warn(f"mops-jobs does not evaluate the targets in {MODELOPS_REGISTRY}: {_join(targets)}.")


def _read(path: Path, session: Session) -> object:
    from mopsjobs.utils.yaml_strict import read_yaml

    try:
        with path.open("rb") as file:
            return read_yaml(file.read(MAX_REGISTRY_BYTES))
    except (OSError, RecordError) as error:
        session.warn(f"{MODELOPS_REGISTRY} is not checked, since it cannot be read: {shorten(str(error), MAX_NAMES)}")
        return None


def _entries(document: object, name: str) -> dict[str, Mapping[str, Any]]:
    found = document.get(name) if isinstance(document, dict) else None
    return {key: entry for key, entry in found.items() if isinstance(entry, dict)} if isinstance(found, dict) else {}


def _files(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files that a model or a target needs."""
    for name in ("data", "code"):
        if isinstance(entry.get(name), list):
            yield from (str(path) for path in entry[name])
    if isinstance(entry.get("path"), str):
        yield entry["path"]


def _join(names: Iterable[str]) -> str:
    return shorten(", ".join(names), MAX_NAMES)
