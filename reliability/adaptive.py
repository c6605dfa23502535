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
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import ROOT
from mopsjobs.engines.local import runner_pid
from mopsjobs.store import open_store
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.study_parser import parse_study
from reliability.trial import Figure, PromiseBroken, Trial, hold
from support import slurm
from support.dask import Cluster
from support.runs import is_alive, kill

KILLS = 20

REPLICATES = {"min": 4, "max": 60, "until": {"peak": {"confidence": 0.95, "absolute": 2.0}}}

SCATTER = (50.0, 0.1, 0.5, 1.0, 4.0, 1.5, 2.0, 3.0)
"""Of the sets. The first one has `max` replicates. Of two or four shards, the first has most of the tasks."""

FAILING = 3.5
"""Of the set whose sixth replicate fails."""

TASK_SECONDS = 0.2
"""Of a short task, per worker: so kills find tasks at work, also with many workers."""

ENDED = ("succeeded", "partial", "failed", "cancelled")

PATIENCE = 600.0

LOOK_SECONDS = 5.0
"""Without a call of the model, until the job is looked at."""

MODEL = """
import os, random, time

def simulate(params, seed):
    file = os.open({calls!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    shard = int(os.environ.get("MOPS_JOBS_SHARD", 0))
    os.write(file, b"%d %d %d %d\\n" % (os.getpid(), os.getppid(), shard, seed))
    os.close(file)
    value = 100 + params["sd"] * random.Random(seed).gauss(0, 1)
    with open({pace!r}) as file:
        time.sleep(float(file.read()) * (1 if value < 100 else 2))
    if os.path.exists({fails!r}) and str(seed) in open({fails!r}).read().split():
        raise ValueError("as asked")
    return {{"peak": value, "seed": seed}}
"""


class Result(NamedTuple):
    """The outputs of a family of jobs, and the record of its newest member."""

    outputs: dict[str, bytes]
    precision: dict[str, Any]
    counts: tuple[int, int]
    """Tasks that are needed, and those that are complete."""


class Bench:
    """A registry, a model, and commands."""

    def __init__(self, directory: Path, seed: int) -> None:
        """Make the model and an empty registry."""
        self.chance = random.Random(seed)
        self.home, self.code = directory / "home", directory / "code"
        self.calls, self.fails, self.pace = directory / "calls", directory / "fails", directory / "pace"
        for path in (self.home, self.code):
            path.mkdir(parents=True)
        source = MODEL.format(calls=str(self.calls), fails=str(self.fails), pace=str(self.pace))
        (self.code / "model.py").write_text(source)
        url = f"sqlite:///{directory / 'registry.db'}"
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(self.home),
            "MOPS_JOBS_REGISTRY": url,
            "MOPS_JOBS_MAX_LOCAL_WORKERS": "16",  # also on a machine with fewer cores
        }
        self._store = open_store(url, {})

    def run(self, *words: str, allowed: Sequence[int] = (0,)) -> str:
        """Run a command to its end, and return what it printed.

        Raises:
            PromiseBroken: if it ends with an exit code that is not allowed.
        """
        command = [sys.executable, str(ROOT / "mops_jobs.py"), *words]
        ran = subprocess.run(command, cwd=self.code, env=self.env, capture_output=True, text=True, check=False)
        hold(ran.returncode in allowed, f"{' '.join(words)} ended with {ran.returncode}: {ran.stderr[-2000:]}")
        return ran.stdout

    def status(self, job_id: str) -> dict[str, Any]:
        """Return what `status` says of a job, as the engine knows it."""
        return dict(json.loads(self.run("status", job_id, "--refresh", "--json")))

    def submit(self, job_id: str, workers: int, *flags: str) -> None:
        """Submit the study, and let the sixth replicate of the failing set fail."""
        self.pace.write_text(str(workers * TASK_SECONDS))
        sets = [{"sd": sd} for sd in (*SCATTER, FAILING)]
        study = {
            "model": "model:simulate",
            "parameter_sets": sets,
            "n_replicates": REPLICATES,
            "outputs": ["result.json"],
        }
        (self.code / "study.json").write_text(json.dumps(study))
        tasks = list(parse_study(study).tasks())
        self.fails.write_text(str(tasks[len(SCATTER) * REPLICATES["max"] + 5].seed))  # type: ignore[operator]
        self.calls.unlink(missing_ok=True)
        self.run("submit", "study.json", "--auto", "--job-id", job_id, *flags)

    def outputs(self, family: Sequence[str]) -> dict[str, bytes]:
        """Return the outputs of jobs, by their names below these."""
        found: dict[str, bytes] = {}
        for job_id in family:
            reader, prefix = PackedStore(self._store), f"results/{job_id}/"
            for entry in reader.scan(prefix):
                name, value = entry.key.removeprefix(prefix), reader.get_entry(entry)
                hold(name not in found, f"{name} is in two jobs of one family")
                hold(value is not None, f"{name} is listed and cannot be read")
                found[name] = b"" if value is None else value.value
        return found

    def processes(self) -> list[tuple[int, int]]:
        """Return the last processes that called the model, with their parents: those that may be alive."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        pairs = dict.fromkeys(tuple(map(int, line.split()[:2])) for line in lines[-64:])
        return [(pid, parent) for pid, parent in pairs if is_alive(pid)]  # type: ignore[misc]

    def n_calls(self) -> int:
        """Count the calls of the model so far."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    def n_shared(self, shards: int) -> int:
        """Count the calls that another shard made than the one that has the set."""
        study = parse_study(json.loads((self.code / "study.json").read_text()))
        shard_of = {
            seed: place % shards for place, one in enumerate(study.parameter_sets) for seed in study.seeds_of(one)
        }
        calls = (map(int, line.split()) for line in self.calls.read_text().splitlines())
        return sum(shard != shard_of[seed] for _, _, shard, seed in calls)


class Storm:
    """One job that is killed again and again, and restarted."""

    def __init__(self, bench: Bench, job_id: str, workers: int, flags: Sequence[str], again: Sequence[str]) -> None:
        """Submit the job.

        Args:
            bench: the registry.
            job_id: the id of the job.
            workers: how many tasks run at once.
            flags: of its submission.
            again: flags of `resume`.
        """
        self.bench, self.family, self._again = bench, [job_id], again
        self.restarts = 0
        bench.submit(job_id, workers, *flags)

    def kill_worker(self) -> bool:
        """Kill a process that runs tasks; False if none does."""
        alive = self.bench.processes()
        if not alive:
            return False
        kill(self.bench.chance.choice(alive)[0])
        return True

    def kill_runner(self) -> bool:
        """Kill a runner, and restart the job."""
        pid = runner_pid(self.family[-1], self.bench.env)
        alive = [pid] if pid is not None else [parent for _, parent in self.bench.processes() if parent > 1]
        if not alive:
            return False
        kill(self.bench.chance.choice(alive))
        self.restart()
        return True

    def await_end(self) -> dict[str, Any]:
        """Wait until the newest job has ended."""
        end = time.monotonic() + PATIENCE
        while (state := self.bench.status(self.family[-1]))["status"] not in ENDED:
            hold(time.monotonic() < end, f"{self.family[-1]} does not end: {state['status']}")
            time.sleep(0.5)
        return state

    def restart(self) -> None:
        """Resume the job whose runner was killed, as soon as that is known."""
        end = time.monotonic() + PATIENCE
        while not self.resume(allowed=(0, 2, 6)):
            hold(time.monotonic() < end, f"{self.family[-1]} cannot be resumed")
            self.bench.status(self.family[-1])  # it asks the engine, and ends the job if that knows its end

    def resume(self, *, allowed: Sequence[int] = (0,)) -> bool:
        """Resume the newest job. Return False if its runner is at work."""
        said = self.bench.run("resume", self.family[-1], "--json", *self._again, allowed=allowed)
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
            seen, end = self.bench.n_calls(), time.monotonic() + PATIENCE
            while self.bench.n_calls() < seen + 4:
                time.sleep(0.1)
                if time.monotonic() < end - PATIENCE + LOOK_SECONDS:
                    continue  # most likely, a runner starts
                hold(time.monotonic() < end, "the model is not called any more")
                state = self.bench.status(self.family[-1])
                if state["status"] in ENDED and state["tasks_total"] - state["tasks_completed"] <= 1:
                    return done
                if state["status"] in ENDED:
                    self.resume()
            done += bool(deeds[number % len(deeds)]())
        return done

    def settle(self) -> Result:
        """Bring the job to where only the failing replicate is missing."""
        for _ in range(8):
            state = self.await_end()
            if state["tasks_total"] - state["tasks_completed"] <= 1:
                break
            self.resume()
        return self.look(state)

    def repair(self) -> Result:
        """Repair the failing replicate, and bring the job to its end."""
        self.bench.fails.write_text("")
        self.resume()
        state = self.await_end()
        hold(state["status"] == "succeeded", f"{self.family[-1]} is {state['status']}: {state['error_message']}")
        return self.look(state)

    def look(self, state: dict[str, Any]) -> Result:
        """Return what there is, if the views of the newest job agree."""
        job, outputs = self.family[-1], self.bench.outputs(self.family)
        counts = state["tasks_total"], state["tasks_completed"]
        tasks = json.loads(self.bench.run("tasks", job, "--json", "--limit", "0"))["tasks"]
        validated = json.loads(self.bench.run("validate", job, "--json", allowed=(0, 7, 104)))
        views = {
            "status": counts,
            "outputs": (counts[0], len(outputs)),
            "tasks": (len(tasks), sum(task["outcome"] == "succeeded" for task in tasks)),
            "validate": (validated["tasks_total"], validated["tasks_verified"]),
        }
        hold(len(set(views.values())) == 1, f"views of {job} count differently: {views}")
        precision = {name: count for name, count in state["metadata"]["precision"].items() if name != "shards"}
        return Result(outputs, precision, counts)


Deeds = Callable[[Storm], Sequence[Callable[[], object]]]


def usual_deeds(storm: Storm) -> Sequence[Callable[[], object]]:
    """Return the kills on an engine whose runners start the workers."""
    return storm.kill_worker, storm.kill_runner


class Engine(NamedTuple):
    """The flags of commands for an engine, and the kills there."""

    submit: Sequence[str]
    resume: Sequence[str]
    deeds: Deeds = usual_deeds
    shards: int = 1
    shares: bool = False
    """Whether shards run tasks of each other."""


@contextlib.contextmanager
def on_local(workers: int, _bench: Bench, _directory: Path) -> Iterator[Engine]:
    """Yield the local engine."""
    yield Engine(["--workers", str(workers)], ["--workers", str(workers)])


@contextlib.contextmanager
def on_dask(workers: int, _bench: Bench, directory: Path) -> Iterator[Engine]:
    """Yield a Dask cluster. Its own workers are killed too."""
    own = directory / f"dask{workers}"
    own.mkdir()
    with contextlib.closing(Cluster(own, workers)) as cluster:
        numbers = itertools.count(1)

        def kill_cluster_worker() -> bool:
            cluster.kill(next(numbers))
            cluster.add_worker()
            return True

        flags = ["--scheduler", cluster.url]
        yield Engine(
            ["--engine", "dask", *flags],
            flags,
            lambda storm: (storm.kill_worker, storm.kill_runner, kill_cluster_worker),
        )


@contextlib.contextmanager
def on_slurm(workers: int, bench: Bench, directory: Path, *more: str) -> Iterator[Engine]:
    """Yield a Slurm, with up to four shards. They are requeued too."""
    n_shards = min(workers, 4)
    with slurm.running(directory / f"slurm{workers}{len(more)}") as cluster:
        bench.env |= cluster.env
        shards = itertools.cycle(range(n_shards))

        def deeds(storm: Storm) -> Sequence[Callable[[], object]]:
            def requeue() -> bool:
                array = bench.status(storm.family[-1])["metadata"].get("slurm_job_id")
                with contextlib.suppress(RuntimeError):  # the shard has ended, or does not run yet
                    cluster.run("scontrol", "requeue", f"{array}_{next(shards)}")
                    return True
                return False

            workers_die = [storm.kill_worker] * 3
            return *workers_die, requeue, *workers_die, storm.kill_runner, requeue

        flags = ["--shards", str(n_shards), "--workers", str(workers // n_shards), "--cpu", "1", *more]
        shares = n_shards > 1 and not more
        yield Engine(["--engine", "slurm", *flags, "--requeue"], flags, deeds, n_shards, shares)


@contextlib.contextmanager
def with_drop(workers: int, bench: Bench, directory: Path) -> Iterator[Engine]:
    """Yield a Slurm whose shards report by files."""
    with on_slurm(workers, bench, directory, "--file-drop") as engine:
        yield engine


ENGINES = {"local": on_local, "Dask": on_dask, "Slurm": on_slurm, "Slurm with a drop of files": with_drop}

WORKERS = (1, 2, 16)

CASES = {f"{name}, workers: {workers}": (on, workers) for name, on in ENGINES.items() for workers in WORKERS}


def run(trial: Trial) -> Iterator[Figure]:
    """Run the study undisturbed, and then in each case with kills.

    Raises:
        PromiseBroken: if counts or outputs differ.
    """
    bench = Bench(trial.directory / "bench", trial.seed)
    calm = Storm(bench, "calm", 1, ["--workers", "4"], [])
    expected = calm.settle(), calm.repair()
    yield Figure("undisturbed: tasks needed and complete, with the failing replicate", str(expected[0].counts))
    yield Figure("undisturbed: after it was repaired", str(expected[1].counts))
    yield Figure("precision", json.dumps(expected[1].precision))
    broken: list[str] = []
    for name in CASES:
        begun = time.monotonic()
        try:
            yield over(trial, name, bench, expected)
        except PromiseBroken as error:
            yield Figure(f"{name}: BROKEN", str(error))
            broken.append(f"{name}: {error}")
        yield Figure(f"{name}: seconds", round(time.monotonic() - begun))
    hold(not broken, "; ".join(broken))


def over(trial: Trial, name: str, bench: Bench, expected: tuple[Result, Result]) -> Figure:
    """Run one case, and compare it with the undisturbed run of one shard.

    Raises:
        PromiseBroken: if counts or outputs differ.
    """
    open_engine, workers = CASES[name]
    with open_engine(workers, bench, trial.directory) as engine:
        storm = Storm(bench, f"job-{[*CASES].index(name)}", workers, engine.submit, engine.resume)
        kills = storm.suffer(trial.times(KILLS), engine.deeds(storm))
        found = storm.settle(), storm.repair()
        shared = bench.n_shared(engine.shards)
    hold((shared > 0) == engine.shares, f"shards ran {shared} tasks of others")
    hold(found[0] == expected[0], f"with the failing replicate: {differences(found[0], expected[0])}")
    hold(found[1] == expected[1], f"after it was repaired: {differences(found[1], expected[1])}")
    told = f"{kills}, {storm.restarts}, {len(storm.family)}, {shared}"
    return Figure(f"{name}: kills, restarts, jobs, tasks of other shards", told)


def differences(found: Result, expected: Result) -> str:
    """Return how two runs differ."""
    names = found.outputs.keys() | expected.outputs.keys()
    differing = sorted(name for name in names if found.outputs.get(name) != expected.outputs.get(name))
    return f"{found.counts} {found.precision}, not {expected.counts} {expected.precision}; {len(differing)} outputs"
