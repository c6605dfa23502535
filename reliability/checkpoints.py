"""Tasks that save checkpoints, while what runs them is killed, stopped, requeued, evicted or lost, at random steps.

What must hold: each end costs a task the steps since its last checkpoint at most. Dask workers and pods may vanish with
their disks. There it is the last one that had come to the runner, or to the store. The outputs are those of tasks that
nothing has disturbed, byte for byte.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench import azurite
from bench.machine import ROOT
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.runner.checkpoints import directory_name
from mopsjobs.store import open_store
from mopsjobs.studies.checkpoints import list_numbers, read_saved
from mopsjobs.studies.study import Study
from reliability.lab import (
    KUBERNETES_FLAGS,
    PATIENCE,
    Lab,
    dask_cluster,
    kubernetes_cluster,
    lose_node,
    slurm_cluster,
    tell_slurm,
)
from reliability.trial import Figure, Trial, hold, in_turn
from support.ledgers import attempts_in

TASKS = 100
STEPS = 80
EVERY = 8
"""Steps between two checkpoints."""

KILLS = 60

BEGUN = 2
"""Steps that a task may have made that has just begun: a worker goes on to its second task when the first has saved."""

MOMENT = 2.0
"""Seconds: what was done longer before the end of an attempt has not ended it."""

QUIET_SECONDS = 5.0
"""After that time without a step, the record is looked at."""

SILENCE_SECONDS = 12
"""After that time without a word of a node, Slurm looks whether it is there."""

MOST_CUTS = 3
"""How often a node of Slurm loses its power: until Slurm has seen it, half a minute passes, and others work on."""

RUNNER_KILLED = f"runner, {signal.SIGKILL.name}"

MODEL = """
sys.path.insert(0, ROOT)
import mopsjobs as mj

def simulate(params, seed):
    note(params["x"])
    steps = os.open("%s/%d" % (STEPS, params["x"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    rng, total, ck = random.Random(seed), 0.0, mj.checkpoint()
    if (state := ck.load()) is not None:
        total = state["total"]
        rng.setstate(state["rng"])
    for step in range(ck.at or 0, params["count"]):
        os.write(steps, b"%d %f\\n" % (step, time.time()))
        total += rng.random()
        time.sleep(params["pause"])
        if (step + 1) % params["every"] == 0 or ck.due():
            ck.save({"total": total, "rng": rng.getstate()}, at=step + 1)
    os.close(steps)
    return {"total": total}
"""


class Engine(NamedTuple):
    """A place where a job runs, and what happens to it there."""

    flags: Sequence[str]
    deeds: Mapping[str, Callable[[], bool]]
    """Those besides signals. Each returns whether there was something to do it to."""
    pause: float
    """Seconds that a step takes."""
    is_far: bool = False
    """Whether the disk of a task may vanish with it."""
    gentle: Collection[str] = ()
    """Deeds that leave tasks the time to save: they cost no steps."""


@contextlib.contextmanager
def on_local(_job: _Job) -> Iterator[Engine]:
    """Yield this machine."""
    yield Engine(["--workers", "3"], {}, 0.002)


@contextlib.contextmanager
def on_slurm(job: _Job) -> Iterator[Engine]:
    """Yield a Slurm. Its shards are also requeued, preempted by a partition of higher priority, and lose their node."""
    with slurm_cluster(job, job.directory / "slurm", SILENCE_SECONDS) as cluster:
        shards, nodes, cuts = itertools.cycle((0, 1)), itertools.cycle(cluster.nodes), itertools.count()
        tell = partial(tell_slurm, cluster)

        def requeue() -> bool:
            array = job.record(job.id)["metadata"].get("slurm_job_id")
            return tell("scontrol", "requeue", f"{array}_{next(shards)}")

        def preempt() -> bool:
            words = ("--partition=urgent", "--exclusive", "--nodes=1", "--output=/dev/null", "--wrap=sleep 2")
            return tell("sbatch", *words)

        def lose() -> bool:
            node = next(nodes)
            is_down = tell("scontrol", "update", f"nodename={node}", "state=down", "reason=trial")
            time.sleep(2)
            tell("scontrol", "update", f"nodename={node}", "state=resume")
            return is_down

        def cut_power() -> bool:
            if next(cuts) >= MOST_CUTS:
                return False
            cluster.cut_power(next(nodes))
            return True

        own = {"requeued": requeue, "preempted": preempt, "node set down": lose, "node without power": cut_power}
        flags = ["--engine", "slurm", "--shards", "2", "--workers", "2", "--requeue"]
        yield Engine(flags, own, 0.04)


@contextlib.contextmanager
def on_dask(job: _Job) -> Iterator[Engine]:
    """Yield a Dask cluster of three workers. They are killed too, and others come."""
    with dask_cluster(job.directory / "dask", 3) as (flags, kill_worker):
        yield Engine(["--engine", "dask", *flags], {"Dask worker, SIGKILL": kill_worker}, 0.02, is_far=True)


@contextlib.contextmanager
def on_kubernetes(job: _Job) -> Iterator[Engine]:
    """Yield the stand-in for a cluster. Its pods, each with a disk of its own, are evicted, and lose their nodes."""
    with (
        azurite.running(job.directory, collects_garbage=False) as server,
        kubernetes_cluster(job, server.env) as cluster,
    ):
        job.move(server)
        shards = itertools.cycle((0, 1))
        name_of = functools.cache(lambda job_id: str(job.status(job_id)["k8s_name"]))

        def to(act: Callable[[str, int], object], *, both: bool = False) -> Callable[[], bool]:
            def on_pods() -> bool:
                name, shard = name_of(job.id), next(shards)
                alive = cluster.running_indexes(name) & ({0, 1} if both else {shard})
                for index in alive:
                    act(name, index)
                return bool(alive)

            return on_pods

        gentle = {
            "evicted, with grace": to(cluster.evict),
            "preempted, with grace": to(lambda name, index: cluster.evict(name, index, "PreemptionByScheduler")),
            "node of both drained": to(cluster.evict, both=True),
        }
        low = "The node was low on resource: memory."
        others = {
            "evicted by its node, without grace": to(lambda name, index: cluster.press_node(name, index, low)),
            "node lost": to(partial(lose_node, cluster)),
        }
        flags = [*KUBERNETES_FLAGS, "--shards", "2", "--workers", "2", "--grace", "30s"]
        yield Engine(flags, {**gentle, **others}, 0.05, is_far=True, gentle=gentle.keys())


ENGINES = {"local": on_local, "Slurm": on_slurm, "Dask": on_dask, "Kubernetes": on_kubernetes}


def run(trial: Trial) -> Iterator[Figure]:
    """Disturb one job on each engine.

    Raises:
        PromiseBroken: if more work was lost, or the outputs are others.
    """
    yield from in_turn((name, partial(over, trial, name)) for name in ENGINES)


def over(trial: Trial, name: str) -> Iterator[Figure]:
    """Disturb one job on an engine until it has suffered enough.

    Raises:
        PromiseBroken: if more work was lost, or the outputs are others.
    """
    tasks, wanted = trial.times(TASKS, 6), trial.times(KILLS, 6)
    job, done, total = _Job(trial.directory / name, trial.seed), Counter[str](), tasks * STEPS
    with ENGINES[name](job) as engine:
        deeds = {
            f"{whom}, {number.name}": partial(job.strike_newest, whom, number)
            for whom in ("worker", "runner")
            for number in (signal.SIGKILL, signal.SIGTERM)
        } | dict(engine.deeds)
        job.begin(tasks, engine)
        while done.total() < wanted and job.steps() < total:
            job.wait_for_steps(job.steps() + job.chance.randrange(1, max(2, total // wanted)))
            deed = job.chance.choice(list(deeds))
            job.note_known()
            job.deeds.append((time.time(), deed))
            done[deed] += deeds[deed]()
        job.finish()
        lost = job.losses()
        limit = max((loss.steps for loss in lost if not (engine.is_far and loss.is_known)), default=0)
        hold(limit <= EVERY, f"an end cost {limit} steps of {EVERY}")
        gently = [loss.steps for loss in lost if loss.deeds and loss.deeds <= set(engine.gentle)]
        hold(max(gently, default=0) <= BEGUN, f"ends with a grace period cost {gently} steps")
        job.check_outputs()
        hold(job.left() <= done.total(), f"{job.left()} tasks have left checkpoints")
        yield Figure("tasks, of steps", f"{tasks}, {STEPS}")
        for what, count in sorted(done.items()):
            yield Figure(f"ends: {what}", count)
        yield Figure("attempts that went on", sum(one.resumed is not None for one in attempts_in(job.store)))
        yield Figure("tasks that left checkpoints, for `prune`", job.left())
        if engine.gentle:
            yield Figure("tasks that had just begun at an end with a grace period", len(gently))
        yield Figure("steps that were made again, of all", f"{sum(loss.steps for loss in lost)} of {total}")
        yield Figure(f"the most that one end cost, in steps of {engine.pause:g} s", max(lost, default=_NOTHING).steps)
        yield Figure(
            "the most that one end cost, in seconds", round(max((one.seconds for one in lost), default=0.0), 2)
        )
        way = max((loss.way for loss in lost), default=0.0)
        yield Figure("the longest that a lost save had been on its way, in seconds", round(way, 2))


class _Loss(NamedTuple):
    """The cost of one end of an attempt."""

    steps: int
    """Those that were made again."""
    seconds: float
    """How long they had taken."""
    way: float
    """How long ago the first checkpoint was saved that is lost; 0: none is."""
    is_known: bool
    """Whether it went on from the last checkpoint that the runner or the store had, or a later one."""
    deeds: set[str]
    """What was done from a moment before the end until the task went on."""


_NOTHING = _Loss(0, 0.0, 0.0, is_known=True, deeds=set())


class _Job(Lab):
    """A job of many steps."""

    _study: Study

    def __init__(self, directory: Path, seed: int) -> None:
        self._steps = directory / "steps"
        self._steps.mkdir(parents=True)
        super().__init__(directory, MODEL, seed, ROOT=str(ROOT), STEPS=str(self._steps))
        self.id = "job"
        """The job, or its last child."""
        self.deeds: list[tuple[float, str]] = []
        """What was done, and when it was done."""
        self._known: list[tuple[float, dict[str, int]]] = []
        """The steps of the last checkpoints on the machine of the runner, by the names of tasks, at different times."""

    def move(self, server: azurite.Azurite) -> None:
        """Have the registry on a server: there, the store gets checkpoints."""
        url = server.url(azurite.new_container())
        self.env |= {**server.env, "MOPS_JOBS_REGISTRY": url}
        self.store = open_store(url, server.env)

    def begin(self, tasks: int, engine: Engine) -> None:
        """Submit it to an engine."""
        options = ("--retries", "100", "--checkpoint-every", "1h", "--python", sys.executable, *engine.flags)
        fixed = {"count": STEPS, "every": EVERY, "pause": engine.pause}
        self._study = self.submit("job", [{"x": number, **fixed} for number in range(tasks)], *options)

    def strike_newest(self, whom: str, number: signal.Signals) -> bool:
        """Send a signal to a process of it."""
        return self.strike(self.id, whom, number)

    def steps(self) -> int:
        """Count the steps that were made."""
        return sum(path.read_bytes().count(b"\n") for path in self._steps.iterdir())

    def wait_for_steps(self, count: int) -> None:
        """Wait until this many steps were made, or all tasks have ended."""
        end = time.monotonic() + PATIENCE
        seen, seen_at = self.steps(), time.monotonic()
        while (steps := self.steps()) < count:
            if steps > seen:
                seen, seen_at = steps, time.monotonic()
            if time.monotonic() - seen_at > QUIET_SECONDS:
                if self.has_ended():
                    return
                seen_at = time.monotonic()
            hold(time.monotonic() < end, f"the job has made {steps} steps, and makes no more")
            time.sleep(0.01)

    def has_ended(self) -> bool:
        """Return whether all tasks are complete. If the job has ended without that, its child goes on."""
        status = self.status(self.id)["status"]
        if status in ("failed", "partial"):
            # It names no child if all are complete.
            self.id = self.run("resume", self.id, "--yes", allowed=(0, 6)).strip() or self.id
        return status == "succeeded"

    def finish(self) -> None:
        """Let the job end."""
        end = time.monotonic() + PATIENCE
        while not self.has_ended():
            hold(time.monotonic() < end, "the job does not end")
            time.sleep(0.5)

    def note_known(self) -> None:
        """Note which checkpoints the machine of the runner has, or the store."""
        known: dict[str, int] = {}
        for name, at in self._in_store():
            known[name] = max(known.get(name, 0), at)
        for root in self._roots():
            for path in root.glob("*/.kept/*/header.json"):
                with contextlib.suppress(FileNotFoundError):
                    if (path.parent / "content").exists():
                        name = path.parent.parent.parent.name
                        known[name] = max(known.get(name, 0), int(json.loads(path.read_text())["at"]))
        self._known.append((time.time(), known))

    def _in_store(self) -> Iterator[tuple[str, int]]:
        """Yield the directories of tasks with checkpoints in the store, and where these were saved.

        An embedded registry gets none.
        """
        for job_id in self._family():
            for param_id, seed, number in list(list_numbers(self.store, job_id)):
                if (saved := read_saved(self.store, job_id, param_id, seed, number)) is not None:
                    yield directory_name((param_id, seed)), int(saved.at)

    def losses(self) -> list[_Loss]:
        """Return what each end of an attempt has cost that cost something.

        Steps do not count that an attempt makes after its runner was killed. On Dask it goes on for a moment.
        """
        lost = []
        for task in self._study.tasks():
            made = [line.split() for line in (self._steps / str(task.params["x"])).read_text().splitlines()]
            pairs = [(int(step), float(at)) for step, at in made]
            hold({step for step, _ in pairs} == set(range(STEPS)), f"task {task.number} has left out steps")
            name = directory_name((task.param_id, task.seed))
            for place, ((before, ended_at), (step, begun_at)) in enumerate(itertools.pairwise(pairs), 1):
                if step > before:
                    continue
                first = next(number for number in reversed(range(place)) if pairs[number][0] == step)
                kills = [at for at, deed in self.deeds if deed == RUNNER_KILLED and pairs[first][1] <= at <= begun_at]
                again = [pair for pair in pairs[first:place] if pair[1] <= min([ended_at, *kills])]
                saved = [at for _, at in again[EVERY : EVERY + 1]]
                known = [found.get(name, 0) for at, found in self._known if at < begun_at]
                loss = _Loss(
                    len(again),
                    again[-1][1] - again[0][1] if again else 0.0,
                    again[-1][1] - saved[0] if saved else 0.0,
                    is_known=step >= max(known, default=0),
                    deeds={deed for at, deed in self.deeds if ended_at - MOMENT <= at <= begun_at},
                )
                lost += [loss] if again else []
        return lost

    def check_outputs(self) -> None:
        """Compare the outputs with those of tasks that nothing has disturbed.

        Raises:
            PromiseBroken: if they differ.
        """
        expected = {}
        for task in self._study.tasks():
            rng, total = random.Random(task.seed), 0.0
            for _ in range(STEPS):
                total += rng.random()
            expected[f"{task.param_id}/{task.seed}/result.json"] = json.dumps({"total": total}).encode()
        found = self.outputs(*self._family())
        wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        hold(not wrong, f"{len(wrong)} outputs are not those of undisturbed tasks: {wrong[:3]}")

    def left(self) -> int:
        """Count the tasks of which a runner left checkpoints: it was killed just after their outputs were stored."""
        names = {path.name for root in self._roots() for path in root.glob("*")}
        return len(names | {name for name, _ in self._in_store()})

    def _roots(self) -> Iterator[Path]:
        """Yield the directories of checkpoints on this machine."""
        directory = JobDir.for_job("job", self.env)
        return (one.checkpoints for job_id in self._family() for one in directory.of_other(job_id))

    def _family(self) -> list[str]:
        return ["job", *(f"job.{number}" for number in range(2, int(self.id.partition(".")[2] or 1) + 1))]
