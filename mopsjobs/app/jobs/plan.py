"""The plan of a job before its submission: what its tasks will cost, as ranges, and what these rest on.

The costs of tasks come from the ledgers of earlier jobs of the model. Or they come from a probe: some tasks run here,
and are not stored. Without either, they are unknown. See docs/decisions/0121-plans.md.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mopsjobs.app.jobs.job_tasks import mirror_ledger
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.cache.queries.costs import RESOLUTION, Costs, EarlierJob, costs_of, earlier_jobs, span_of
from mopsjobs.cache.rows import study_of
from mopsjobs.engines.model_errors import ModelError
from mopsjobs.errors import MopsJobsError, OptionError, StoreUnavailableError
from mopsjobs.ledger.retry_policy import retry_policy
from mopsjobs.ledger.scalars import LEFT_OUT, extract_scalars
from mopsjobs.runner.requests import Load, Requests, count_requests
from mopsjobs.runner.run_once import place_of, run_once, spread_tasks
from mopsjobs.studies.costs import MeasuredSet, PlannedSet, Range, beyond, estimate_total
from mopsjobs.studies.seeds import MOPS_JOBS, describe_seeds
from mopsjobs.studies.study import Task, find_varying, task_name
from mopsjobs.submission.reuse import Change, changed_files
from mopsjobs.utils.cores import usable_cores
from mopsjobs.utils.scalar_keys import lacking_targets, path_of
from mopsjobs.utils.sizes import human_size
from mopsjobs.utils.text import error_line, join_first, pluralize
from mopsjobs.utils.times import human_range

if TYPE_CHECKING:
    from mopsjobs.app.run.app import App
    from mopsjobs.app.run.prices import Prices
    from mopsjobs.submission.submit import PreparedJob

PLAN_VERSION = 1
"""The `schema_version` of `submit --dry-run --json`."""

MAX_JOBS = 5
"""Earlier jobs whose ledgers count."""

MAX_BUNDLES = 3
"""Bundles of earlier jobs that are compared with the code, file by file."""

LEDGERS, PROBE = "ledgers", "probe"

SHORT = 600.0
"""Seconds of processor time. Less is not shown in hours."""

CENT = 0.01
"""Of a currency. A lower price is not shown in words."""

NOTHING = Range(0.0, 0.0)


class Basis(NamedTuple):
    """The evidence for a plan."""

    kind: str | None
    """`LEDGERS`, `PROBE`, or None if nothing was measured."""
    costs: Costs = Costs([], [], [], 0.0)
    jobs: tuple[str, ...] = ()
    """The earlier jobs, the newest first."""
    same_code: bool | None = None
    """Whether these had the code that is submitted."""
    same_engine: bool | None = None
    """Whether they ran on the engine of the job."""
    start_up: Range | None = None
    """Seconds besides those of the tasks, from the submission to the end; None if no earlier job tells."""
    same_seeds: bool = True
    """Whether the first tasks of a set are the measured ones, and no others."""

    def describe(self, engine: str) -> str:
        """Return what was measured, and where."""
        tasks = pluralize(self.costs.tasks, "task")
        if self.kind == PROBE:
            return f"from {tasks} on this machine"
        code = "the same code" if self.same_code else "other code"
        place = "" if self.same_engine else f", another engine than {engine}"
        return f"from {tasks} of {join_first(self.jobs)} with {code}{place}"


class Price(NamedTuple):
    """The price of a job. None: no price is known."""

    currency: str
    cores: Range | None
    storage_month: Range | None
    """For its outputs, per month."""

    def describe(self) -> str:
        """Return the price in words."""
        parts = ((self.cores, ""), (self.storage_month, " per month for storage"))
        known = ((one.describe() if one.high >= CENT else f"below {CENT}", what) for one, what in parts if one)
        return ", and ".join(f"{text} {self.currency}{what}" for text, what in known)

    def to_json(self) -> dict[str, object]:
        """Return the price as scripts get it."""
        return {"currency": self.currency, "cores": _json(self.cores), "storage_month": _json(self.storage_month)}


class Plan(NamedTuple):
    """The plan of a job. Ranges that nothing tells are None."""

    tasks: Range
    """How many tasks run."""
    reused: int
    """How many need not run."""
    basis: Basis
    cpu_seconds: Range | None = None
    """Processor time, of all attempts."""
    core_seconds: Range | None = None
    """How long cores are held: that time, or how long tasks take if that is longer."""
    workers: int | None = None
    """Tasks that run at once, at most; None if the cluster decides."""
    wall_seconds: Range | None = None
    """From the submission to the end, without any wait for a cluster."""
    output_bytes: Range | None = None
    requests: Requests | None = None
    """Those to a store across a network."""
    price: Price | None = None
    """By the prices of the user."""
    beyond: tuple[str, ...] = ()
    """Parameters with values that are below or above all measured ones."""


def make_plan(prepared: PreparedJob, app: App, *, probe: int | None = None) -> Plan:
    """Return the plan of a prepared job.

    Args:
        prepared: the job.
        app: the run: its cache, its settings and its messages.
        probe: how many tasks to run here as the basis; None to take earlier jobs.

    Raises:
        OptionError: if the number of tasks is not above zero.
        ModelError: if tasks are to run here, and the model cannot be loaded, or all of them fail.
        BundleError, StoreError: if they are, and the code cannot be read.
    """
    if probe is not None and probe < 1:
        raise OptionError(f"invalid probe '{probe}': expected 1 or more.", "probe")
    left = _left(prepared)
    needed = _needed(prepared, left)
    tasks = Range(needed.count(1), left.count(1))
    reused = 0 if prepared.extension is None else prepared.extension.task_count
    workers = _workers(prepared, app)
    if not tasks.high:
        return Plan(tasks, reused, Basis(None), NOTHING, NOTHING, workers, NOTHING, NOTHING)
    basis = _from_ledgers(prepared, app) if probe is None else _from_probe(prepared, left, probe, workers, app)
    costs = basis.costs
    sets = _planned_sets(prepared, left, left)
    fewest = sets if needed is left else _planned_sets(prepared, left, needed)
    if not basis.same_seeds:
        sets, fewest = ([one._replace(done=costs.tasks) for one in some] for some in (sets, fewest))
    unit = RESOLUTION if basis.kind == LEDGERS else 0.0
    cpu = _between(costs.cpu, fewest, sets, resolution=2 * unit)
    seconds = _between(costs.seconds, fewest, sets, resolution=unit)
    size = _between(costs.size, fewest, sets, run_spread=0.0)
    if seconds is None:
        return Plan(tasks, reused, basis, workers=workers)
    core = seconds if cpu is None else Range(*map(max, cpu, seconds))
    wall = None if workers is None else _wall(seconds, min(workers, round(tasks.high)), basis)
    requests = None
    if wall is not None and size is not None and not app.settings.is_local:
        study = prepared.request.study
        outputs = 1 if study.outputs is None else len(study.outputs)
        requests = count_requests(Load(tasks, wall, size, outputs, study.packs, prepared.launch.shards))
    price = None if app.settings.prices is None else _price(app.settings.prices[0], core, size)
    outside = tuple(beyond(costs.seconds, sets))
    return Plan(tasks, reused, basis, cpu, core, workers, wall, size, requests, price, outside)


def _left(prepared: PreparedJob) -> bytearray:
    """Return a 1 for each task of the study that runs: not those that are reused, or that repeat an earlier one."""
    study = prepared.request.study
    left = bytearray([1]) * study.tasks_total
    for number in study.duplicate_tasks():
        left[number] = 0
    for reuse in () if prepared.extension is None else prepared.extension.reused:
        for first, end in reuse.ranges:
            left[first:end] = bytes(end - first)
    return left


def _needed(prepared: PreparedJob, left: bytearray) -> bytearray:
    """Return those of the tasks that run in any case: if a precision decides, the first replicates of each set."""
    study = prepared.request.study
    if study.precision is None:
        return left
    needed, first = left[:], 0
    for one in study.parameter_sets:
        end = first + study.replicates(one)
        begin = min(end, first + study.precision.min)
        needed[begin:end] = bytes(end - begin)
        first = end
    return needed


def _between(
    measured: Sequence[MeasuredSet], fewest: Sequence[PlannedSet], most: Sequence[PlannedSet], **limits: float
) -> Range | None:
    """Return the range from the least that the fewest tasks cost to the most that all cost; None if unknown."""
    total = estimate_total(measured, most, **limits)
    least = total if fewest == most else estimate_total(measured, fewest, **limits)
    return None if total is None or least is None else Range(least.low, total.high)


def _planned_sets(prepared: PreparedJob, left: bytearray, running: bytearray) -> list[PlannedSet]:
    """Return the parameter sets with tasks that run, of all that are left. Those with the same parameters are one."""
    study, first = prepared.request.study, 0
    duplicates = study.duplicate_tasks()
    sets: dict[str, PlannedSet] = {}
    for one in study.parameter_sets:
        end = first + study.replicates(one)
        tasks = running.count(1, first, end)
        done = end - first - left.count(1, first, end)
        if duplicates:
            done -= sum(number in duplicates for number in range(first, end))
        known = sets.get(one.param_id, PlannedSet(one.param_id, one.params, 0))
        sets[one.param_id] = known._replace(tasks=known.tasks + tasks, done=known.done + done)
        first = end
    return [one for one in sets.values() if one.tasks]


def _workers(prepared: PreparedJob, app: App) -> int | None:
    """Return how many tasks run at once; None if the cluster decides."""
    launch, engine = prepared.launch, prepared.request.engine
    if engine == "dask":
        return None
    if engine == "kubernetes":
        from mopsjobs.engines.kubernetes.options import read_cpu

        return launch.shards * (launch.workers or read_cpu(launch.options)[1])
    if engine == "slurm":
        from mopsjobs.engines.slurm.options import workers

        return launch.shards * workers(launch)
    limit = app.settings.local_workers
    return min(launch.workers or limit, limit)


def _wall(seconds: Range, workers: int, basis: Basis) -> Range:
    """Return how long workers take for tasks, in any order: at most their share, and a longest task after it.

    That is Graham's bound for lists (1969).
    """
    start_up = basis.start_up or NOTHING
    last = basis.costs.longest * (1 - 1 / workers)
    return Range(start_up.low + seconds.low / workers, start_up.high + seconds.high / workers + last)


def _price(prices: Prices, core_seconds: Range, output_bytes: Range | None) -> Price:
    cores = None if prices.core_hour is None else core_seconds.times(prices.core_hour / 3600)
    month = None
    if prices.gib_month is not None and output_bytes is not None:
        month = output_bytes.times(prices.gib_month / 2**30)
    return Price(prices.currency, cores, month)


# --- what was measured --------------------------------------------------------------------------------------------


def _from_ledgers(prepared: PreparedJob, app: App) -> Basis:
    """Return what earlier jobs of the model measured: those with the same code and engine, if there are any.

    Else those with the same code count, else those on the same engine, else any.

    A registry across a network is asked for the ledgers of these alone, not for jobs that the cache does not know.
    """
    study = prepared.request.study
    named = study_of({"model": study.model, "scenario": study.scenario})
    known = _read(app, lambda connection: earlier_jobs(connection, named or "")) or []
    is_same = _code_comparison(prepared, known, app)
    seeds = None if study.seeds == MOPS_JOBS else describe_seeds(study.seeds)
    jobs = [((is_same(job.bundle), job.engine == prepared.request.engine), job) for job in known]
    jobs.sort(key=lambda pair: pair[0], reverse=True)  # it keeps the newest first
    for (same_code, same_engine), alike in itertools.groupby(jobs, key=lambda pair: pair[0]):
        some = [job for _, job in itertools.islice(alike, MAX_JOBS)]
        _mirror(some, app)
        ids = [job.job_id for job in some]
        costs = app.cache.read_cached(functools.partial(costs_of, job_ids=ids))
        if costs is not None and costs.seconds:
            start_up = _start_up(some, app) if same_engine else None
            same_seeds = all(job.seeds == seeds for job in some) and all(
                one.seed is None for one in study.parameter_sets
            )
            return Basis(LEDGERS, costs, tuple(ids), same_code, same_engine, start_up, same_seeds)
    return Basis(None)


def _mirror(jobs: Sequence[EarlierJob], app: App) -> None:
    """Bring the ledgers of jobs into the cache, as far as the registry answers."""
    for job in jobs:
        try:
            mirror_ledger(job.job_id, app, FreshnessPolicy())
        except StoreUnavailableError:
            return
        except MopsJobsError:
            continue


def _read(app: App, view: Callable[[sqlite3.Connection], list[EarlierJob]]) -> list[EarlierJob] | None:
    with contextlib.suppress(MopsJobsError):
        if app.settings.is_local and app.embedded.missing_path() is None:
            return app.cache.read(lambda connection, _age: view(connection), FreshnessPolicy())
        return app.cache.read_cached(view)
    return None


def _code_comparison(prepared: PreparedJob, jobs: Sequence[EarlierJob], app: App) -> Callable[[str | None], bool]:
    """Return what tells whether a bundle has the code of the job: the same files, but for studies.

    Files are compared only if no earlier job has the very bundle, since bundles then have to be downloaded.
    """
    load_archive = functools.cache(lambda: prepared.load_archive(app.store))
    compared: dict[str | None, bool] = {prepared.bundle: True}
    most = 1 if any(job.bundle == prepared.bundle for job in jobs) else 1 + MAX_BUNDLES

    def is_same(bundle: str | None) -> bool:
        nonlocal most
        if bundle in compared or not isinstance(bundle, str) or len(compared) >= most:
            return compared.get(bundle, False)
        compared[bundle] = False
        try:
            changes = changed_files(bundle, load_archive, app.store)
            compared[bundle] = changes is not None and all(one is Change.STUDY for one in changes.values())
        except StoreUnavailableError:
            most = 0
        except MopsJobsError:
            pass
        return compared[bundle]

    return is_same


def _start_up(jobs: Sequence[EarlierJob], app: App) -> Range | None:
    """Return what jobs took besides their tasks: from the least of them to twice the most."""

    def view(connection: sqlite3.Connection) -> list[float]:
        spans = ((job.seconds, span_of(connection, job.job_id)) for job in jobs)
        return [max(0.0, seconds - span) for seconds, span in spans if span is not None]

    found = app.cache.read_cached(view)
    return Range(min(found), 2 * max(found)) if found else None


def _from_probe(prepared: PreparedJob, left: bytearray, count: int, workers: int | None, app: App) -> Basis:
    """Run some of the tasks here, at equal distances in the study, and return what they cost. Nothing is stored."""
    study, launch = prepared.request.study, prepared.launch
    place = place_of(prepared, prepared.load_archive(app.store), app.env, retry_policy(launch.retries, launch.retry_on))
    tasks = spread_tasks(study, count, left)
    at_once = min(workers or 1, usable_cores(), len(tasks))
    results = run_once(place, tasks, lambda _task, _line: None, workers=at_once)
    failed = [task for task in tasks if results[task.number].error]
    if failed:
        error = results[failed[0].number].error or {}
        reason = error_line(error.get("type"), error.get("message"))
        name = task_name(failed[0], find_varying(study))
        problem = f"{len(failed):,} of {pluralize(len(tasks), 'task')} of the probe failed: {name}: {reason}"
        if len(failed) == len(tasks):
            raise ModelError(f"{problem.rstrip('.')}. There is no plan.", hint="Correct the model, and plan again.")
        app.out.warn(problem)
    pairs = [(task, results[task.number]) for task in tasks]
    if study.precision is not None:
        found = [extract_scalars(result.outputs or {}) for _, result in pairs]
        numbers = {
            key for of in found for key, value in of.items() if key != LEFT_OUT and isinstance(value, int | float)
        }
        names = {key: ".".join(path_of(key)[1]) for key in sorted(numbers)}
        for sentence in lacking_targets((one.scalar for one in study.precision.until), names):
            app.out.warn(sentence)
    costs = Costs(
        _measured((task, result.cpu_seconds) for task, result in pairs),
        _measured((task, result.seconds) for task, result in pairs),
        _measured((task, sum(map(len, (result.outputs or {}).values()))) for task, result in pairs),
        max(result.seconds for _, result in pairs),
    )
    return Basis(PROBE, costs)


def _measured(values: Iterable[tuple[Task, float | None]]) -> list[MeasuredSet]:
    sets: dict[str, tuple[Task, list[float]]] = {}
    for task, value in values:
        if value is not None:
            sets.setdefault(task.param_id, (task, []))[1].append(value)
    found = []
    for task, some in sets.values():
        mean = sum(some) / len(some)
        squares = sum((value - mean) ** 2 for value in some)
        found.append(MeasuredSet(task.param_id, task.params, len(some), mean, squares))
    return found


# --- what is shown ------------------------------------------------------------------------------------------------


def plan_document(prepared: PreparedJob, plan: Plan) -> dict[str, object]:
    """Return a plan as scripts get it, with what would be submitted; see docs/reference/json.md."""
    launch, packed, basis = prepared.launch, prepared.packed, plan.basis
    return {
        "schema_version": PLAN_VERSION,
        "job_id": launch.job_id,
        **prepared.counts(),
        "bundle": prepared.bundle,
        "engine": prepared.request.engine,
        "bundle_files": None if packed is None else packed.files,
        "bundle_bytes": None if packed is None else packed.bytes,
        "python": prepared.python,
        "dry_run": True,
        "tasks": {"low": int(plan.tasks.low), "high": int(plan.tasks.high)},
        "cpu_hours": _json(plan.cpu_seconds, 3600),
        "wall_seconds": _json(plan.wall_seconds),
        "workers": plan.workers,
        "start_up_seconds": _json(basis.start_up),
        "output_bytes": _json(plan.output_bytes),
        "requests": plan.requests and {name: one.to_json() for name, one in plan.requests._asdict().items()},
        "price": plan.price and plan.price.to_json(),
        "basis": {
            "kind": basis.kind,
            "jobs": list(basis.jobs),
            "same_code": basis.same_code,
            "same_engine": basis.same_engine,
            "tasks": basis.costs.tasks,
            "parameter_sets": len(basis.costs.seconds),
            "beyond": list(plan.beyond),
        },
    }


def plan_lines(plan: Plan, engine: str, app: App) -> list[str]:
    """Return the plan in lines for people."""
    reused = f", {plan.reused:,} reused" if plan.reused else ""
    lines = [f"Tasks    {_count_text(plan.tasks)} to run{reused}"]
    if plan.core_seconds is None:
        sync = "" if app.settings.is_local else ", or sync first"
        return [*lines, f"CPU      unknown: no ended job of this model is known here. Add --probe 3{sync}"]
    if not plan.tasks.high:
        return lines
    basis = plan.basis.describe(engine)
    lines.append(f"CPU      {_cpu_text(plan.cpu_seconds)}, {basis}")
    if plan.wall_seconds is not None:
        without = "" if plan.basis.start_up else ", and the start of the engine"
        lines.append(
            f"Time     {human_range(*plan.wall_seconds)} with {pluralize(plan.workers or 0, 'worker')}{without}"
        )
    if plan.output_bytes is not None:
        sizes = [human_size(round(size)) for size in plan.output_bytes]
        lines.append(f"Storage  {' to '.join(dict.fromkeys(sizes))}")
    if plan.requests is not None:
        counts = (f"{_count_text(count)} {name}" for name, count in plan.requests._asdict().items())
        lines.append(f"Requests {', '.join(counts)}")
    if plan.price is not None:
        lines.append(f"Price    {plan.price.describe()}")
    return lines


def plan_warnings(plan: Plan, budget: float | None) -> list[str]:
    """Return why the ranges may be wrong, and that the job may reach its budget of CPU-hours."""
    warnings = []
    if plan.basis.kind == LEDGERS and plan.beyond:
        names = join_first(plan.beyond)
        warnings.append(f"Values of {names} lie beyond those that were measured. To measure some tasks: --probe 5")
    if budget is not None and plan.cpu_seconds is not None and plan.cpu_seconds.high > budget * 3600:
        verb = "may" if plan.cpu_seconds.low <= budget * 3600 else "will"
        warnings.append(f"The budget of {budget:g} CPU-hours {verb} end the job before its last task.")
    return warnings


def _json(one: Range | None, unit: float = 1.0) -> dict[str, float] | None:
    return None if one is None else one.times(1 / unit).to_json()


def _cpu_text(cpu: Range | None) -> str:
    if cpu is None:
        return "unknown"
    text = f"{cpu.describe()} seconds" if cpu.high < SHORT else f"{cpu.times(1 / 3600).describe()} hours"
    return f"{text} (90 %)"


def _count_text(count: Range) -> str:
    return " to ".join(dict.fromkeys(f"{round(number):,}" for number in count))
