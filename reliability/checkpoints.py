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
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import azurite
from bench.machine import ROOT
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_pid
from mopsjobs.runner.checkpoints import directory_name
from mopsjobs.store import open_store
from mopsjobs.studies.checkpoints import list_numbers, read_saved
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.study_parser import parse_study
from reliability.trial import Figure, PromiseBroken, Trial, hold
from support import slurm
from support.cli import command
from support.dask import Cluster
from support.kubernetes import kubeconfig
from support.runs import is_alive
from support.stand_in import POD_GC_SECONDS, StandIn

TASKS = 100
STEPS = 80
EVERY = 8
"""Steps between two checkpoints."""

KILLS = 60
PATIENCE = 600.0

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
import os, random, sys, time
sys.path.insert(0, {root!r})
import mopsjobs as mj

def simulate(params, seed):
    with open("{calls}", "a") as calls:
        calls.write("%d %d\\n" % (os.getpid(), os.getppid()))
    steps = os.open("{steps}/%d" % params["x"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    rng, total, ck = random.Random(seed), 0.0, mj.checkpoint()
    if (state := ck.load()) is not None:
        total = state["total"]
        rng.setstate(state["rng"])
    for step in range(ck.at or 0, {count}):
        os.write(steps, b"%d %f\\n" % (step, time.time()))
        total += rng.random()
        time.sleep({pause})
        if (step + 1) % {every} == 0 or ck.due():
            ck.save({{"total": total, "rng": rng.getstate()}}, at=step + 1)
    os.close(steps)
    return {{"total": total}}
"""


class Engine(NamedTuple):
    """A place where a job runs, and what happens to it there."""

    flags: Sequence[str]
    deeds: Mapping[str, Callable[[], bool]]
    """Each returns whether there was something to do it to."""
    pause: float
    """Seconds that a step takes."""
    is_far: bool = False
    """Whether the disk of a task may vanish with it."""
    gentle: Collection[str] = ()
    """Deeds that leave tasks the time to save: they cost no steps."""


@contextlib.contextmanager
def on_local(job: _Job) -> Iterator[Engine]:
    """Yield this machine."""
    yield Engine(["--workers", "3"], job.signals(), 0.002)


@contextlib.contextmanager
def on_slurm(job: _Job) -> Iterator[Engine]:
    """Yield a Slurm. Its shards are also requeued, preempted by a partition of higher priority, and lose their node."""
    with slurm.running(job.directory / "slurm", silence=SILENCE_SECONDS) as cluster:
        job.env |= cluster.env
        shards, nodes, cuts = itertools.cycle((0, 1)), itertools.cycle(cluster.nodes), itertools.count()

        def tried(*words: str) -> bool:
            with contextlib.suppress(RuntimeError):  # the shard has ended, or does not run yet
                cluster.run(*words)
                return True
            return False

        def requeue() -> bool:
            array = job.status()["metadata"].get("slurm_job_id")  # type: ignore[union-attr]
            return tried("scontrol", "requeue", f"{array}_{next(shards)}")

        def preempt() -> bool:
            words = ("--partition=urgent", "--exclusive", "--nodes=1", "--output=/dev/null", "--wrap=sleep 2")
            return tried("sbatch", *words)

        def lose_node() -> bool:
            node = next(nodes)
            is_down = tried("scontrol", "update", f"nodename={node}", "state=down", "reason=trial")
            time.sleep(2)
            tried("scontrol", "update", f"nodename={node}", "state=resume")
            return is_down

        def cut_power() -> bool:
            if next(cuts) >= MOST_CUTS:
                return False
            cluster.cut_power(next(nodes))
            return True

        own = {"requeued": requeue, "preempted": preempt, "node set down": lose_node, "node without power": cut_power}
        flags = ["--engine", "slurm", "--shards", "2", "--workers", "2", "--requeue"]
        yield Engine(flags, {**job.signals(), **own}, 0.04)


@contextlib.contextmanager
def on_dask(job: _Job) -> Iterator[Engine]:
    """Yield a Dask cluster of three workers. They are killed too, and others come."""
    (job.directory / "dask").mkdir()
    with contextlib.closing(Cluster(job.directory / "dask", 3)) as cluster:
        numbers = itertools.count(1)

        def kill_cluster_worker() -> bool:
            cluster.kill(next(numbers))
            cluster.add_worker()
            return True

        deeds = {**job.signals(), "Dask worker, SIGKILL": kill_cluster_worker}
        yield Engine(["--engine", "dask", "--scheduler", cluster.url], deeds, 0.02, is_far=True)


@contextlib.contextmanager
def on_kubernetes(job: _Job) -> Iterator[Engine]:
    """Yield the stand-in for a cluster. Its pods, each with a disk of its own, are evicted, and lose their nodes."""
    pods = job.directory / "pods"
    pods.mkdir()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(azurite.running(job.directory, collects_garbage=False))
        program = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        cluster = stack.enter_context(contextlib.closing(StandIn(pods, {"mops-jobs": command()}, program)))
        cluster.secrets["registry"] = server.env
        job.env |= {**server.env, "KUBECONFIG": str(kubeconfig(job.directory, cluster.url, namespace="models"))}
        job.url = f"azure://{azurite.new_container()}"
        shards = itertools.cycle((0, 1))
        name_of = functools.cache(lambda _job_id: str(job.status()["k8s_name"]))

        def to(act: Callable[[str, int], object], *, both: bool = False) -> Callable[[], bool]:
            def on_pods() -> bool:
                name, shard = name_of(job.id), next(shards)
                alive = cluster.running_indexes(name) & ({0, 1} if both else {shard})
                for index in alive:
                    act(name, index)
                return bool(alive)

            return on_pods

        def lose_node(name: str, index: int) -> None:
            cluster.lose_node(name, index)
            cluster.remove_node(name, index)
            cluster.pass_seconds(POD_GC_SECONDS)

        deeds = {
            "evicted, with grace": to(cluster.evict),
            "preempted, with grace": to(lambda name, index: cluster.evict(name, index, "PreemptionByScheduler")),
            "node of both drained": to(cluster.evict, both=True),
            "evicted by its node, without grace": to(
                lambda name, index: cluster.press_node(name, index, "The node was low on resource: memory.")
            ),
            "node lost": to(lose_node),
        }
        flags = ["--engine", "kubernetes", "--image", "sims:1", "--secret", "registry", "--shards", "2"]
        flags += ["--workers", "2", "--grace", "30s"]
        gentle = [name for name in deeds if "with grace" in name or "drained" in name]
        yield Engine(flags, {**job.signals(), **deeds}, 0.05, is_far=True, gentle=gentle)


ENGINES = {"local": on_local, "Slurm": on_slurm, "Dask": on_dask, "Kubernetes": on_kubernetes}


def run(trial: Trial) -> Iterator[Figure]:
    """Disturb one job on each engine.

    Raises:
        PromiseBroken: more work was lost, or the outputs are others.
    """
    broken = []
    for name in ENGINES:
        try:
            for figure in over(trial, name):
                yield Figure(f"{name}: {figure.what}", figure.count)
        except PromiseBroken as error:
            yield Figure(f"{name}: BROKEN", str(error))
            broken.append(f"{name}: {error}")
    hold(not broken, "; ".join(broken))


def over(trial: Trial, name: str) -> Iterator[Figure]:
    """Disturb one job on an engine until it has suffered enough.

    Raises:
        PromiseBroken: more work was lost, or the outputs are others.
    """
    chance, tasks = random.Random(trial.seed), trial.times(TASKS, 6)
    job = _Job(trial.directory / name, tasks, chance)
    done: Counter[str] = Counter()
    wanted, total = trial.times(KILLS, 6), tasks * STEPS
    with ENGINES[name](job) as engine:
        job.submit(engine)
        while done.total() < wanted and job.steps() < total:
            job.wait_for_steps(job.steps() + chance.randrange(1, max(2, total // wanted)))
            deed = chance.choice(list(engine.deeds))
            job.note_known()
            job.deeds.append((time.time(), deed))
            done[deed] += engine.deeds[deed]()
        job.finish()
        lost = job.losses()
        limit = max((loss.steps for loss in lost if not (engine.is_far and loss.is_known)), default=0)
        hold(limit <= EVERY, f"an end cost {limit} steps of {EVERY}")
        gently = [loss.steps for loss in lost if loss.deeds and loss.deeds <= set(engine.gentle)]
        hold(max(gently, default=0) <= BEGUN, f"ends with a grace period cost {gently} steps")
        job.check_outputs()
        yield Figure("tasks, of steps", f"{tasks}, {STEPS}")
        for what, count in sorted(done.items()):
            yield Figure(f"ends: {what}", count)
        yield Figure("attempts that went on", job.resumed())
        hold(job.left() <= sum(done.values()), f"{job.left()} tasks have left checkpoints")
        yield Figure("tasks that left checkpoints, for `prune`", job.left())
        if engine.gentle:
            yield Figure("tasks that had just begun at an end with a grace period", len(gently))
        yield Figure("steps that were made again, of all", f"{sum(loss.steps for loss in lost)} of {total}")
        most = max(lost, default=_Loss(0, 0.0, 0.0, is_known=True, deeds=set()))
        yield Figure(f"the most that one end cost, in steps of {engine.pause:g} s", most.steps)
        yield Figure(
            "the most that one end cost, in seconds", round(max((loss.seconds for loss in lost), default=0.0), 2)
        )
        ways = sorted(loss.way for loss in lost)
        yield Figure(
            "the longest that a lost save had been on its way, in seconds", round(ways[-1] if ways else 0.0, 2)
        )


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


class _Job:
    """A job of many steps."""

    def __init__(self, directory: Path, tasks: int, chance: random.Random) -> None:
        self.directory, self._chance = directory, chance
        self._code, self._steps, self._calls = directory / "code", directory / "steps", directory / "calls"
        self._code.mkdir(parents=True)
        self._steps.mkdir()
        self._sets = [{"x": number} for number in range(tasks)]
        study = {"model": "model:simulate", "parameter_sets": self._sets, "outputs": ["result.json"]}
        (self._code / "study.json").write_text(json.dumps(study))
        self._study = parse_study(study)
        self.url = f"sqlite://{directory}/registry.db"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT)}
        self.id = "job"
        """The job, or its last child."""
        self.deeds: list[tuple[float, str]] = []
        """What was done, and when it was done."""
        self._known: list[tuple[float, dict[str, int]]] = []
        """The steps of the last checkpoints on the machine of the runner, by the names of tasks, at different times."""

    def submit(self, engine: Engine) -> None:
        """Submit it to an engine."""
        text = MODEL.format(
            root=str(ROOT), calls=self._calls, steps=self._steps, count=STEPS, every=EVERY, pause=engine.pause
        )
        (self._code / "model.py").write_text(text)
        options = ("--retries", "100", "--checkpoint-every", "1h", "--python", sys.executable, *engine.flags)
        self._command("submit", "study.json", "--auto", "--job-id", "job", *options)

    def _command(self, *words: str) -> str:
        argv = [sys.executable, str(ROOT / "mops_jobs.py"), *words, "--registry", self.url]
        done = subprocess.run(argv, env=self.env, cwd=self._code, capture_output=True, text=True, check=False)
        hold(done.returncode in (0, 6), f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def status(self) -> dict[str, object]:
        """Return what `status` says of it, as the engine knows it."""
        return dict(json.loads(self._command("status", self.id, "--refresh", "--json")))

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
        status = self.status()["status"]
        if status in ("failed", "partial"):
            self.id = self._command("resume", self.id, "--yes").strip() or self.id  # nothing, if all are complete
        return status == "succeeded"

    def finish(self) -> None:
        """Let the job end."""
        end = time.monotonic() + PATIENCE
        while not self.has_ended():
            hold(time.monotonic() < end, "the job does not end")
            time.sleep(0.5)

    def signals(self) -> dict[str, Callable[[], bool]]:
        """Return what can be done to processes on each engine."""
        return {
            f"{whom}, {number.name}": lambda whom=whom, number=number: self._strike(whom, number)  # type: ignore[misc]
            for whom in ("worker", "runner")
            for number in (signal.SIGKILL, signal.SIGTERM)
        }

    def _strike(self, whom: str, number: signal.Signals) -> bool:
        """Send a signal to a process that runs tasks, or to a runner, and wait for its end."""
        lines = self._calls.read_text().splitlines()[-64:] if self._calls.exists() else []
        alive = [pair for pair in {tuple(map(int, line.split())) for line in lines} if is_alive(pair[0])]
        pid = runner_pid(self.id, self.env)
        if whom == "worker" or (pid is None and not self.env.keys().isdisjoint(("SLURM_CONF", "KUBECONFIG"))):
            pid = self._chance.choice(sorted(alive))[whom == "runner"] if alive else None
        if pid is None or pid == 1:
            return False
        os.kill(pid, number)
        end = time.monotonic() + PATIENCE
        while whom == "runner" and is_alive(pid):
            hold(time.monotonic() < end, "a runner goes on after a signal")
            time.sleep(0.01)
        return True

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
        """Yield the directories of tasks with checkpoints in the store, and where these were saved."""
        if self.url.startswith("sqlite:"):
            return  # it gets none
        with contextlib.closing(open_store(self.url, self.env)) as store:
            for job_id in self._family():
                for param_id, seed, number in list(list_numbers(store, job_id)):
                    if (saved := read_saved(store, job_id, param_id, seed, number)) is not None:
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
        store = open_store(self.url, self.env)
        found = {}
        packed = PackedStore(store)
        for task in self._study.tasks():
            rng, total = random.Random(task.seed), 0.0
            for _ in range(STEPS):
                total += rng.random()
            values = [
                value.value
                for job_id in self._family()
                if (value := packed.get(f"results/{job_id}/{task.param_id}/{task.seed}/result.json")) is not None
            ]
            found[task.number] = values == [json.dumps({"total": total}).encode()]
        wrong = [number for number, is_right in found.items() if not is_right]
        hold(not wrong, f"tasks {wrong} have other outputs than undisturbed ones")
        store.close()

    def left(self) -> int:
        """Count the tasks of which a runner left checkpoints: it was killed just after their outputs were stored."""
        return len(
            {path.name for root in self._roots() for path in root.glob("*")} | {name for name, _ in self._in_store()}
        )

    def _roots(self) -> Iterator[Path]:
        """Yield the directories of checkpoints on this machine."""
        directory = JobDir.for_job("job", self.env)
        return (one.checkpoints for job_id in self._family() for one in directory.of_other(job_id))

    def _family(self) -> list[str]:
        return ["job", *(f"job.{number}" for number in range(2, int(self.id.partition(".")[2] or 1) + 1))]

    def resumed(self) -> int:
        """Count the attempts that went on from a checkpoint."""
        from support.ledgers import attempts_in

        store = open_store(self.url, self.env)
        count = sum(one.resumed is not None for one in attempts_in(store))
        store.close()
        return count
