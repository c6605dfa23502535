"""Tasks that save checkpoints, while their workers and their runner are killed, and told to stop, at random steps.

What must hold: each kill costs a task the steps since its last checkpoint at most, and a request to stop none. The
outputs are those of tasks that nothing has disturbed, byte for byte, and no checkpoint stays.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.machine import ROOT
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_pid
from mopsjobs.store import open_store
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.study_parser import parse_study
from mopsjobs.utils.measurement import read_parents
from reliability.trial import Figure, Trial, hold

TASKS = 100
STEPS = 80
EVERY = 8
"""Steps between two checkpoints."""

KILLS = 60
PATIENCE = 600.0

MODEL = """
import os, random, time
import mopsjobs as mj

def simulate(params, seed):
    steps = os.open("{steps}/%d" % params["x"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    rng, total, ck = random.Random(seed), 0.0, mj.checkpoint()
    if (state := ck.load()) is not None:
        total = state["total"]
        rng.setstate(state["rng"])
    for step in range(ck.at or 0, {count}):
        os.write(steps, b"%d\\n" % step)
        total += rng.random()
        time.sleep(0.002)
        if (step + 1) % {every} == 0 or ck.due():
            ck.save({{"total": total, "rng": rng.getstate()}}, at=step + 1)
    os.close(steps)
    return {{"total": total}}
"""


def run(trial: Trial) -> Iterator[Figure]:
    """Kill workers and runners of one job until enough have died.

    Raises:
        PromiseBroken: more work was lost, or the outputs are others.
    """
    chance, tasks = random.Random(trial.seed), trial.times(TASKS, 6)
    job = _Job(trial.directory, tasks)
    kills: Counter[str] = Counter()
    wanted, made = trial.times(KILLS, 6), 0
    total = tasks * STEPS
    while made < wanted and job.steps() < total:
        job.wait_for_steps(job.steps() + chance.randrange(1, max(2, total // wanted)))
        whom, number = chance.choice(["worker", "runner"]), chance.choice([signal.SIGKILL, signal.SIGTERM])
        if job.strike(whom, number, chance):
            kills[f"{whom}, {number.name}"] += 1
            made += 1
    job.finish()
    lost = job.lost_steps()
    hold(max(lost, default=0) <= EVERY, f"an end cost {max(lost, default=0)} steps of {EVERY}")
    job.check_outputs()
    yield Figure("tasks, of steps", f"{tasks}, {STEPS}")
    for what, count in sorted(kills.items()):
        yield Figure(f"ended by a signal: {what}", count)
    yield Figure("attempts that went on", job.resumed())
    yield Figure("steps that were made again, of all", f"{sum(lost)} of {total}")
    yield Figure(f"the most that one end cost, of {EVERY}", max(lost, default=0))


class _Job:
    """A job of many steps on this machine."""

    def __init__(self, directory: Path, tasks: int) -> None:
        code = directory / "code"
        self._steps = directory / "steps"
        code.mkdir()
        self._steps.mkdir()
        (code / "model.py").write_text(MODEL.format(steps=self._steps, count=STEPS, every=EVERY))
        sets = [{"x": number} for number in range(tasks)]
        study = {"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"]}
        (code / "study.json").write_text(json.dumps(study))
        self._study = parse_study(study)
        self._url = f"sqlite://{directory}/registry.db"
        self._env = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(ROOT)}
        options = ("--workers", "3", "--retries", "100", "--checkpoint-every", "1h", "--python", sys.executable)
        self.id = "job"
        """The job, or its last child."""
        self._command("submit", "study.json", "--auto", "--job-id", "job", *options, cwd=code)

    def _command(self, *words: str, cwd: Path | None = None) -> str:
        command = [sys.executable, str(ROOT / "mops_jobs.py"), *words, "--registry", self._url]
        done = subprocess.run(command, env=self._env, cwd=cwd, capture_output=True, text=True, check=False)
        hold(done.returncode == 0, f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def steps(self) -> int:
        """Count the steps that were made."""
        return sum(path.read_bytes().count(b"\n") for path in self._steps.iterdir())

    def wait_for_steps(self, count: int) -> None:
        """Wait until this many steps were made, or the runner has ended."""
        end = time.monotonic() + PATIENCE
        while self.steps() < count and runner_pid(self.id, self._env) is not None:
            hold(time.monotonic() < end, f"the job has made {self.steps()} steps, and makes no more")
            time.sleep(0.01)

    def strike(self, whom: str, number: signal.Signals, chance: random.Random) -> bool:
        """Send a signal. If the runner has ended, start it again. Return whether there was one to send it to.

        A look at the job infers its end from that of its runner. Then its child goes on.
        """
        pid = runner_pid(self.id, self._env)
        if pid is None:
            if chance.random() < 0.5 and self.has_ended():
                return False
            self.id = self._command("resume", self.id, "--yes").strip() or self.id  # nothing, if all tasks are complete
            return False
        if whom == "worker":
            workers = sorted(child for child, (parent, _) in read_parents().items() if parent == pid)
            if not workers:
                return False
            os.kill(chance.choice(workers), number)
            return True
        os.kill(pid, number)
        end = time.monotonic() + PATIENCE
        while runner_pid(self.id, self._env) is not None:
            hold(time.monotonic() < end, "a runner goes on after a signal")
            time.sleep(0.01)
        return True

    def has_ended(self) -> bool:
        """Return whether the record says so."""
        return bool(json.loads(self._command("status", self.id, "--json"))["status"] == "succeeded")

    def finish(self) -> None:
        """Let the job end."""
        end = time.monotonic() + PATIENCE
        while not self.has_ended():
            hold(time.monotonic() < end, "the job does not end")
            self.strike("worker", signal.SIGCONT, random.Random(0))
            time.sleep(0.1)

    def lost_steps(self) -> list[int]:
        """Return how many steps were made again after each end of an attempt that lost some."""
        lost = []
        for path in self._steps.iterdir():
            made = list(map(int, path.read_text().split()))
            hold(set(made) == set(range(STEPS)), f"task {path.name} has left out steps")
            lost += [before + 1 - step for before, step in itertools.pairwise(made) if step <= before]
        return lost

    def check_outputs(self) -> None:
        """Compare the outputs with those of tasks that nothing has disturbed.

        Raises:
            PromiseBroken: they differ, or checkpoints are left.
        """
        store = open_store(self._url, {})
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
        for job_id in self._family():
            root = JobDir.for_job(job_id, self._env).checkpoints
            left = list(root.rglob("*")) if root.exists() else []
            hold(not left, f"checkpoints are left: {left}")
        store.close()

    def _family(self) -> list[str]:
        return ["job", *(f"job.{number}" for number in range(2, int(self.id.partition(".")[2] or 1) + 1))]

    def resumed(self) -> int:
        """Count the attempts that went on from a checkpoint."""
        from support.ledgers import attempts_in

        store = open_store(self._url, {})
        count = sum(one.resumed is not None for one in attempts_in(store))
        store.close()
        return count
