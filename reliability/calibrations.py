"""A calibration whose coordinator, workers and runner are killed again and again, on an Azurite that goes away.

The same calibration has run before, undisturbed and with other workers. What must hold: the journal is the same, byte
for byte, and so is the best set. Each evaluation was asked and told once, and those that fail are told as failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import azurite
from mopsjobs.engines.local import runner_pid
from mopsjobs.store.base import VersionedStore
from reliability.lab import Lab, patient
from reliability.storm.proxy import Plan, Proxy, faulty
from reliability.trial import Figure, Trial, hold

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
def simulate(params, seed):
    note(seed)
    time.sleep(0.1)
    if params["k"] == 3:
        raise ValueError("as asked")
    noise = random.Random(seed).gauss(0, 0.05)
    return {"loss": (params["x"] - 1) ** 2 + (params["y"] - 2) ** 2 + params["k"] + noise}
"""


class Storm(Lab):
    """Two calibrations in a registry, and what kills the second one."""

    def __init__(self, directory: Path, seed: int, rounds: int, **registry: Any) -> None:
        """Write the model, and the calibration of this number of rounds."""
        super().__init__(directory, MODEL, seed, **registry)
        (self.code / "spec.json").write_text(json.dumps({**SPEC, "rounds": rounds}))
        self.kills: Counter[str] = Counter()

    def begin(self, job_id: str, workers: int) -> subprocess.Popen[str]:
        """Start the coordinator of a new job."""
        flags = ("--job-id", job_id, "--workers", str(workers), "--retries", "100", "--python", sys.executable)
        return self.start("calibrate", "spec.json", "--auto", *flags)

    def finish(self, process: subprocess.Popen[str]) -> dict[str, object]:
        """Wait for the end of a coordinator, and return what it found."""
        out, err = process.communicate(timeout=PATIENCE)
        hold(process.returncode == 0, f"calibrate ended with {process.returncode}: {err[-2000:]}")
        return {line[:9].strip(): line[9:] for line in out.splitlines() if not line.startswith("Job")}

    def strike_at(self, whom: str) -> bool:
        """Kill one of `workers`, or of `runners`, which a coordinator starts again. Return False if there is none."""
        is_hit = self.strike(STORM, whom.removesuffix("s"))
        self.kills[whom] += is_hit
        return is_hit

    def suffer(self, wanted: Counter[str], line: Proxy | None) -> dict[str, object]:
        """Run the second calibration, and kill its processes until enough have died, or it has ended.

        Args:
            wanted: how often to kill coordinators, workers and runners.
            line: the way to the registry, which fails once in the middle; None: it never fails.
        """
        process, end = self.begin(STORM, 2), time.monotonic() + PATIENCE
        while runner_pid(STORM, self.env) is None:
            hold(process.poll() is None and time.monotonic() < end, "the calibration does not begin")
            time.sleep(0.05)
        had_outage = line is None
        while self.kills["coordinators"] < wanted["coordinators"] and process.poll() is None:
            hold(time.monotonic() < end, "the calibration takes too long")
            seen, until = len(self.called()), time.monotonic() + self.chance.uniform(0.5, 4.0)
            struck = self.kills["workers"] * wanted["coordinators"] > self.kills["coordinators"] * wanted["workers"]
            while time.monotonic() < until and process.poll() is None:
                if not struck and len(self.called()) > seen:
                    struck = self.strike_at("workers")
                time.sleep(0.02)
            half = self.kills["coordinators"] * 2 >= wanted["coordinators"]
            if half and not had_outage and line is not None:
                told = len(journal(self.store, STORM))
                while len(journal(self.store, STORM)) < told + 2 and process.poll() is None:
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
            is_watched = self.chance.random() < 0.5
            if is_due and not is_watched:
                self.strike_at("runners")
            process = self.start("calibrate", STORM)
            if is_due and is_watched:
                time.sleep(3.0)  # until the new coordinator waits for tasks
                self.strike_at("runners")
        while self.kills["workers"] < wanted["workers"] and process.poll() is None:
            self.strike_at("workers")
            time.sleep(0.1)
        return self.finish(process)


@patient()
def journal(store: VersionedStore, job_id: str) -> dict[str, bytes]:
    """Return what was asked and told, by the keys below the job."""
    prefix = f"rounds/{job_id}/"
    found = {}
    for key in sorted(store.list_keys(prefix)):
        entry = store.get(key)
        found[key.removeprefix(prefix)] = b"" if entry is None else entry.value
    return found


def compare(storm: Storm, found: Mapping[str, Mapping[str, object]], rounds: int) -> Iterator[Figure]:
    """Compare the two calibrations.

    Raises:
        PromiseBroken: if journals, best sets or numbers of evaluations differ.
    """
    calm, disturbed = journal(storm.store, CALM), journal(storm.store, STORM)
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
    yield Figure("calls of the model: undisturbed, beyond that", f"{n_tasks}, {len(storm.called()) - 2 * n_tasks}")
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
        good = (server.url(container), server.env)
        storm = Storm(trial.directory, trial.seed, rounds, url=bad.url(container), env=bad.env, reader=good)
        found = {CALM: storm.finish(storm.begin(CALM, 1))}
        begun = time.monotonic()
        try:
            found[STORM] = storm.suffer(wanted, line)
        finally:
            storm.strike(STORM, "runner")  # it would wait for its client
        yield from compare(storm, found, rounds)
        yield Figure("seconds of the outage, of all", f"{OUTAGE_SECONDS:g}, {round(time.monotonic() - begun)}")
