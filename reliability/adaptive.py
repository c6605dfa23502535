"""One adaptive study with any number of workers, on each engine, while runners and workers are killed.

Its sets stop at different looks, one has `max` replicates, and one has a replicate that fails until it is repaired. A
job is restarted by what a user has: `resume`, and Slurm's own requeue. After all kills only that replicate is missing.
Then it is repaired, and the job resumed once more.

Before and after the repair, this must hold: the counts of replicates and the outputs, byte for byte, are those of the
undisturbed run. Records and views tell the same.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.studies.study import Study
from mopsjobs.studies.study_parser import parse_study
from reliability.lab import PATIENCE, Lab, dask_cluster, slurm_cluster, tell_slurm
from reliability.trial import Figure, Trial, hold, in_turn

KILLS = 20

REPLICATES = {"min": 4, "max": 60, "until": {"peak": {"confidence": 0.95, "absolute": 2.0}}}

SCATTER = (50.0, 0.1, 0.5, 1.0, 4.0, 1.5, 2.0, 3.0)
"""Of the sets. The first one has `max` replicates. Of two or four shards, the first has most of the tasks."""

FAILING = 3.5
"""Of the set whose sixth replicate fails."""

TASK_SECONDS = 0.2
"""Of a short task, per worker: so kills find tasks at work, also with many workers."""

ENDED = ("succeeded", "partial", "failed", "cancelled")

LOOK_SECONDS = 5.0
"""Without a call of the model, until the job is looked at."""

MODEL = """
def simulate(params, seed):
    note(seed)
    value = 100 + params["sd"] * random.Random(seed).gauss(0, 1)
    with open(PACE) as file:
        time.sleep(float(file.read()) * (1 if value < 100 else 2))
    if os.path.exists(FAILS) and str(seed) in open(FAILS).read().split():
        raise ValueError("as asked")
    return {"peak": value, "seed": seed}
"""


class Result(NamedTuple):
    """The outputs of a family of jobs, and the record of its newest member."""

    outputs: dict[str, bytes]
    precision: dict[str, Any]
    counts: tuple[int, int]
    """Tasks that are needed, and those that are complete."""


class Storm:
    """One job that is killed again and again, and restarted."""

    def __init__(self, lab: Lab, job_id: str, workers: int, flags: Sequence[str], again: Sequence[str]) -> None:
        """Submit the job. The sixth replicate of the failing set fails.

        Args:
            lab: the registry.
            job_id: the id of the job.
            workers: how many tasks run at once.
            flags: of its submission.
            again: flags of `resume`.
        """
        self.lab, self.family, self._again = lab, [job_id], again
        self.restarts = 0
        lab.calls.unlink(missing_ok=True)
        (lab.home / "pace").write_text(str(workers * TASK_SECONDS))
        sets = [{"sd": sd} for sd in (*SCATTER, FAILING)]
        self.study = _study(sets)
        fails = [*self.study.tasks()][len(SCATTER) * int(str(REPLICATES["max"])) + 5].seed
        (lab.home / "fails").write_text(str(fails))
        lab.submit(job_id, sets, *flags, n_replicates=REPLICATES)

    def strike(self, whom: str) -> bool:
        """Kill a worker or a runner, and restart the job of the latter. Return False if there is none."""
        is_hit = self.lab.strike(self.family[-1], whom)
        if is_hit and whom == "runner":
            end = time.monotonic() + PATIENCE
            while not self.resume(allowed=(0, 2, 6)):
                hold(time.monotonic() < end, f"{self.family[-1]} cannot be resumed")
                self.lab.status(self.family[-1])  # it asks the engine, and ends the job if that knows its end
        return is_hit

    def await_end(self) -> dict[str, Any]:
        """Wait until the newest job has ended."""
        end = time.monotonic() + PATIENCE
        while (state := self.lab.status(self.family[-1]))["status"] not in ENDED:
            hold(time.monotonic() < end, f"{self.family[-1]} does not end: {state['status']}")
            time.sleep(0.5)
        return state

    def resume(self, *, allowed: Sequence[int] = (0,)) -> bool:
        """Resume the newest job. Return False if its runner is at work."""
        said = self.lab.run("resume", self.family[-1], "--json", *self._again, allowed=allowed)
        if not said.strip():
            return False
        child = json.loads(said)["job_id"]
        self.restarts += 1
        if child is not None and child not in self.family:
            self.family.append(child)
        return True

    def suffer(self, kills: int, deeds: Sequence[Callable[[], object]]) -> int:
        """Kill this often, each time after some calls of the model. Return how often."""
        done = 0
        for number in range(kills):
            seen, end = len(self.lab.called()), time.monotonic() + PATIENCE
            while len(self.lab.called()) < seen + 4:
                time.sleep(0.1)
                if time.monotonic() < end - PATIENCE + LOOK_SECONDS:
                    continue  # most likely, a runner starts
                hold(time.monotonic() < end, "the model is not called any more")
                state = self.lab.status(self.family[-1])
                if state["status"] in ENDED and _lacking(state) <= 1:
                    return done
                if state["status"] in ENDED:
                    self.resume()
            done += bool(deeds[number % len(deeds)]())
        return done

    def settle(self) -> Result:
        """Bring the job to where only the failing replicate is missing."""
        for _ in range(8):
            if _lacking(self.await_end()) <= 1:
                break
            self.resume()
        return self.look()

    def repair(self) -> Result:
        """Repair the failing replicate, and bring the job to its end."""
        (self.lab.home / "fails").write_text("")
        self.resume()
        state = self.await_end()
        hold(state["status"] == "succeeded", f"{self.family[-1]} is {state['status']}: {state['error_message']}")
        return self.look()

    def look(self) -> Result:
        """Return what there is, if the views of the newest job agree."""
        outputs = self.lab.outputs(*self.family)
        state = self.lab.hold_views(self.family[-1], {"outputs": len(outputs)})
        precision = {name: count for name, count in state["metadata"]["precision"].items() if name != "shards"}
        return Result(outputs, precision, (state["tasks_total"], state["tasks_completed"]))

    def n_shared(self, shards: int) -> int:
        """Count the calls that another shard made than the one that has the set."""
        sets = enumerate(self.study.parameter_sets)
        shard_of = {seed: place % shards for place, one in sets for seed in self.study.seeds_of(one)}
        return sum(shard != shard_of[seed] for _, _, shard, seed in self.lab.called())


def make_lab(directory: Path, seed: int) -> Lab:
    """Return a registry with the model."""
    home = directory / "home"
    # Many workers also on a machine with fewer cores.
    env = {"MOPS_JOBS_MAX_LOCAL_WORKERS": "16"}
    return Lab(directory, MODEL, seed, env=env, FAILS=str(home / "fails"), PACE=str(home / "pace"))


def _study(sets: list[dict[str, float]]) -> Study:
    document = {"model": "model:simulate", "parameter_sets": sets, "n_replicates": REPLICATES}
    return parse_study({**document, "outputs": ["result.json"]})


def _lacking(state: dict[str, Any]) -> int:
    return int(state["tasks_total"] - state["tasks_completed"])


class Engine(NamedTuple):
    """The flags of commands for an engine, and the kills there."""

    submit: Sequence[str]
    resume: Sequence[str]
    deeds: Callable[[Storm], Sequence[Callable[[], object]]]
    shards: int = 1
    shares: bool = False
    """Whether shards run tasks of each other."""


def _strikes(storm: Storm) -> list[Callable[[], object]]:
    """Return the kills on an engine whose runners start the workers."""
    return [lambda: storm.strike("worker"), lambda: storm.strike("runner")]


@contextlib.contextmanager
def on_local(workers: int, _lab: Lab, _directory: Path) -> Iterator[Engine]:
    """Yield the local engine."""
    yield Engine(["--workers", str(workers)], ["--workers", str(workers)], _strikes)


@contextlib.contextmanager
def on_dask(workers: int, _lab: Lab, directory: Path) -> Iterator[Engine]:
    """Yield a Dask cluster. Its own workers are killed too."""
    with dask_cluster(directory / f"dask{workers}", workers) as (flags, kill_cluster_worker):
        yield Engine(["--engine", "dask", *flags], flags, lambda storm: [*_strikes(storm), kill_cluster_worker])


@contextlib.contextmanager
def on_slurm(workers: int, lab: Lab, directory: Path, *more: str) -> Iterator[Engine]:
    """Yield a Slurm, with up to four shards. They are requeued too."""
    n_shards = min(workers, 4)
    with slurm_cluster(lab, directory / f"slurm{workers}{len(more)}") as cluster:
        shards = itertools.cycle(range(n_shards))

        def deeds(storm: Storm) -> Sequence[Callable[[], object]]:
            def requeue() -> bool:
                array = lab.record(storm.family[-1])["metadata"].get("slurm_job_id")
                return tell_slurm(cluster, "scontrol", "requeue", f"{array}_{next(shards)}")

            kill_worker, kill_runner = _strikes(storm)
            return *[kill_worker] * 3, requeue, *[kill_worker] * 3, kill_runner, requeue

        flags = ["--shards", str(n_shards), "--workers", str(workers // n_shards), "--cpu", "1", *more]
        shares = n_shards > 1 and not more
        yield Engine(["--engine", "slurm", *flags, "--requeue"], flags, deeds, n_shards, shares)


@contextlib.contextmanager
def with_drop(workers: int, lab: Lab, directory: Path) -> Iterator[Engine]:
    """Yield a Slurm whose shards report by files."""
    with on_slurm(workers, lab, directory, "--file-drop") as engine:
        yield engine


ENGINES = {"local": on_local, "Dask": on_dask, "Slurm": on_slurm, "Slurm with a drop of files": with_drop}

CASES = {f"{name}, workers: {workers}": (on, workers) for name, on in ENGINES.items() for workers in (1, 2, 16)}


def calm(lab: Lab) -> tuple[Result, Result]:
    """Return what the undisturbed run of one shard leaves, with the failing replicate and after its repair."""
    storm = Storm(lab, "calm", 1, ["--workers", "4"], [])
    return storm.settle(), storm.repair()


def run(trial: Trial) -> Iterator[Figure]:
    """Run the study undisturbed, and then in each case with kills.

    Raises:
        PromiseBroken: if counts or outputs differ.
    """
    lab = make_lab(trial.directory / "bench", trial.seed)
    expected = calm(lab)
    yield Figure("undisturbed: tasks needed and complete, with the failing replicate", str(expected[0].counts))
    yield Figure("undisturbed: after it was repaired", str(expected[1].counts))
    yield Figure("precision", json.dumps(expected[1].precision))
    yield from in_turn((name, partial(over, trial, name, lab, expected)) for name in CASES)


def over(trial: Trial, name: str, lab: Lab, expected: tuple[Result, Result]) -> Iterator[Figure]:
    """Run one case, and compare it with the undisturbed run.

    Raises:
        PromiseBroken: if counts or outputs differ.
    """
    open_engine, workers = CASES[name]
    with open_engine(workers, lab, trial.directory) as engine:
        storm = Storm(lab, f"job-{[*CASES].index(name)}", workers, engine.submit, engine.resume)
        kills = storm.suffer(trial.times(KILLS), engine.deeds(storm))
        found = storm.settle(), storm.repair()
        shared = storm.n_shared(engine.shards)
    hold((shared > 0) == engine.shares, f"shards ran {shared} tasks of others")
    for when, one, other in zip(("with the failing replicate", "after it was repaired"), found, expected, strict=True):
        names = one.outputs.keys() | other.outputs.keys()
        differing = sum(one.outputs.get(name) != other.outputs.get(name) for name in names)
        counts = f"{one.counts} {one.precision}, not {other.counts} {other.precision}"
        hold(one == other, f"{when}: {counts}; {differing} outputs differ")
    yield Figure(
        "kills, restarts, jobs, tasks of other shards", f"{kills}, {storm.restarts}, {len(storm.family)}, {shared}"
    )
