"""A calibration whose coordinator, workers and runner are killed again and again, on an Azurite that goes away.

The same calibration has run before, undisturbed and with other workers. What must hold: the journal is the same, byte
for byte, and so is the best set. Each evaluation was asked and told once, and those that fail are told as failed.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import azurite
from bench.machine import ROOT
from mopsjobs.engines.local import runner_pid
from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from reliability.storm.proxy import Plan, Proxy, faulty
from reliability.trial import Figure, Trial, hold
from support.runs import is_alive, kill

KILLS = 100
"""Of coordinators, and as many of workers."""

RUNNER_KILLS = 10

ROUNDS = 60

OUTAGE_SECONDS = 12.0

REFUSALS = Plan(1.0, ("busy", "throttled", "gateway", "lost", "cut"))
"""All requests fail. Of some, the server has done what was asked."""

PATIENCE = 900.0

CALM, STORM = "calm", "storm"

SPEC: dict[str, Any] = {
    "model": "model:simulate",
    "n_replicates": {"min": 2, "max": 5, "until": {"loss": {"absolute": 0.1}}},
    "outputs": ["result.json"],
    "parameters": {"x": {"uniform": [-3, 3]}, "y": {"log": [0.1, 10]}, "k": {"integer": [0, 3]}},
    "objective": "loss",
    "sets_per_round": 4,
    "sampler": "optuna",
    "seed": 7,
}

MODEL = """
import os, random, time

def simulate(params, seed):
    file = os.open({calls!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, b"%d\\n" % os.getpid())
    os.close(file)
    time.sleep({seconds})
    if params["k"] == 3:
        raise ValueError("as asked")
    noise = random.Random(seed).gauss(0, 0.05)
    return {{"loss": (params["x"] - 1) ** 2 + (params["y"] - 2) ** 2 + params["k"] + noise}}
"""


class Storm:
    """Two calibrations in a registry, and what kills the second one.

    Args:
        directory: where the code and the home lie.
        url: the registry, as commands open it.
        env: further variables of commands.
        seed: where chance comes from.
        rounds: of each calibration.
    """

    def __init__(self, directory: Path, url: str, env: dict[str, str], seed: int, rounds: int) -> None:
        """Write the model and the calibration."""
        self._chance = random.Random(seed)
        self.code, self.calls = directory / "code", directory / "calls"
        home = directory / "home"
        for path in (self.code, home):
            path.mkdir(parents=True)
        (self.code / "model.py").write_text(MODEL.format(calls=str(self.calls), seconds=0.1))
        (self.code / "spec.json").write_text(json.dumps({**SPEC, "rounds": rounds}))
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "MOPS_JOBS_REGISTRY": url, **env}
        self.kills: Counter[str] = Counter()

    def start(self, job_id: str, *words: str) -> subprocess.Popen[str]:
        """Start a coordinator: of a new job, or of one that goes on."""
        command = [sys.executable, str(ROOT / "mops_jobs.py"), "calibrate", *(words or (job_id,))]
        return subprocess.Popen(
            command, cwd=self.code, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def begin(self, job_id: str, workers: int) -> subprocess.Popen[str]:
        """Start the coordinator of a new job."""
        flags = ("--job-id", job_id, "--workers", str(workers), "--retries", "100", "--python", sys.executable)
        return self.start(job_id, "spec.json", "--auto", *flags)

    def finish(self, process: subprocess.Popen[str]) -> dict[str, object]:
        """Wait for the end of a coordinator, and return what it found."""
        out, err = process.communicate(timeout=PATIENCE)
        hold(process.returncode == 0, f"calibrate ended with {process.returncode}: {err[-2000:]}")
        return {line[:9].strip(): line[9:] for line in out.splitlines() if not line.startswith("Job")}

    def n_calls(self) -> int:
        """Count the calls of the model so far."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0

    def kill_worker(self) -> bool:
        """Kill a process that runs tasks; False if none does."""
        lines = self.calls.read_text().split()[-16:] if self.calls.exists() else []
        alive = sorted({pid for pid in map(int, lines) if is_alive(pid)})
        if not alive:
            return False
        kill(self._chance.choice(alive))
        self.kills["workers"] += 1
        return True

    def kill_runner(self) -> None:
        """Kill the runner. A coordinator starts it again, at its own start or when no task ends."""
        pid = runner_pid(STORM, self.env)
        if pid is not None:
            kill(pid)
            self.kills["runners"] += 1

    def suffer(self, wanted: Counter[str], store: VersionedStore, line: Proxy | None) -> dict[str, object]:
        """Run the second calibration, and kill its processes until enough have died, or it has ended.

        Args:
            wanted: how often to kill coordinators, workers and runners.
            store: the registry, without the line.
            line: the way to the registry, which fails once in the middle; None: it never fails.
        """
        process, end = self.begin(STORM, 2), time.monotonic() + PATIENCE
        while runner_pid(STORM, self.env) is None:
            hold(process.poll() is None and time.monotonic() < end, "the calibration does not begin")
            time.sleep(0.05)
        had_outage = line is None
        while self.kills["coordinators"] < wanted["coordinators"] and process.poll() is None:
            hold(time.monotonic() < end, "the calibration takes too long")
            seen, until = self.n_calls(), time.monotonic() + self._chance.uniform(0.5, 4.0)
            struck = self.kills["workers"] * wanted["coordinators"] > self.kills["coordinators"] * wanted["workers"]
            while time.monotonic() < until and process.poll() is None:
                if not struck and self.n_calls() > seen:
                    struck = self.kill_worker()
                time.sleep(0.02)
            half = self.kills["coordinators"] * 2 >= wanted["coordinators"]
            if half and not had_outage and line is not None:
                told = len(journal(store, STORM))
                while len(journal(store, STORM)) < told + 2 and process.poll() is None:
                    time.sleep(0.05)  # until this coordinator works
                line.follow(REFUSALS)
                time.sleep(OUTAGE_SECONDS)
                line.calm()
                had_outage = True
            if process.poll() is not None:
                break
            process.kill()
            process.communicate()
            self.kills["coordinators"] += 1
            is_due = self.kills["runners"] * wanted["coordinators"] < self.kills["coordinators"] * wanted["runners"]
            is_watched = self._chance.random() < 0.5
            if is_due and not is_watched:
                self.kill_runner()
            process = self.start(STORM)
            if is_due and is_watched:
                time.sleep(3.0)  # until the new coordinator waits for tasks
                self.kill_runner()
        while self.kills["workers"] < wanted["workers"] and process.poll() is None:
            self.kill_worker()
            time.sleep(0.1)
        return self.finish(process)


def journal(store: VersionedStore, job_id: str) -> dict[str, bytes]:
    """Return what was asked and told, by the keys below the job."""
    prefix = f"rounds/{job_id}/"
    found = {}
    for key in sorted(store.list_keys(prefix)):
        entry = store.get(key)
        found[key.removeprefix(prefix)] = b"" if entry is None else entry.value
    return found


def compare(storm: Storm, store: VersionedStore, found: dict[str, dict[str, object]], rounds: int) -> Iterator[Figure]:
    """Compare the two calibrations.

    Raises:
        PromiseBroken: if journals, best sets or numbers of evaluations differ.
    """
    calm, disturbed = journal(store, CALM), journal(store, STORM)
    others = sorted(key for key in {*calm, *disturbed} if calm.get(key) != disturbed.get(key))
    hold(not others, f"the journals differ in {others[:3]}")
    hold(found[CALM] == found[STORM], f"the results differ: {found}")
    told = {key: json.loads(value)["results"] for key, value in calm.items() if "told" in key}
    results = [row for rows in told.values() for row in rows]
    sets = [one for key, value in calm.items() if key not in told for one in json.loads(value).get("sets", ())]
    further = sum("seed" in one for one in sets)
    n_tasks = SPEC["n_replicates"]["min"] * (len(sets) - further) + further
    hold(len(told) == rounds, f"{len(told)} told rounds instead of {rounds}")
    precise = Counter(row.get("precise") for row in results)
    hold(further > 0 and len(precise) == 3, f"sets that are precise, that are not, and that failed: {precise}")
    failed = sum(row["values"] is None for row in results)
    hold(len(results) == 4 * rounds and failed > 0, f"{len(results)} evaluations, {failed} of which failed")
    yield Figure("coordinators, workers, runners killed", ", ".join(
        str(storm.kills[name]) for name in ("coordinators", "workers", "runners")
    ))  # fmt: skip
    yield Figure("evaluations, each told once", len(results))
    yield Figure("of these told as failed", failed)
    yield Figure("calls of the model: undisturbed, beyond that", f"{n_tasks}, {storm.n_calls() - 2 * n_tasks}")
    yield Figure("of these further replicates, for precision", further)
    yield Figure("objects of the journal, the same byte for byte", len(calm))


def run(trial: Trial) -> Iterator[Figure]:
    """Kill a calibration on an Azurite that goes away once.

    Raises:
        PromiseBroken: if its journal is not that of the undisturbed one.
    """
    wanted = Counter(
        coordinators=trial.times(KILLS, 3), workers=trial.times(KILLS, 3), runners=trial.times(RUNNER_KILLS)
    )
    rounds = trial.times(ROUNDS, 8)
    with azurite.running(trial.directory) as server, faulty(server.port, Plan(0.0)) as line:
        container, bad = azurite.new_container(), azurite.Azurite(line.port)
        storm = Storm(trial.directory, bad.url(container), bad.env, trial.seed, rounds)
        found = {CALM: storm.finish(storm.begin(CALM, 1))}
        begun = time.monotonic()
        store = open_store(server.url(container), server.env)
        try:
            found[STORM] = storm.suffer(wanted, store, line)
        finally:
            if (pid := runner_pid(STORM, storm.env)) is not None:
                kill(pid)  # it would wait for its client
        yield from compare(storm, store, found, rounds)
        yield Figure("seconds of the outage, of all", f"{OUTAGE_SECONDS:g}, {round(time.monotonic() - begun)}")
