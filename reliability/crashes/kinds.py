"""`kill -9` at random instants, to whatever writes: syncs, prunes, writers, runners, submissions.

Each kill takes the whole process group of a real process of the command, at an instant within the time that the command
takes. After each, everything that a user could look at is looked at, and the next command has to heal it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

from bench import azurite
from reliability.crashes.cache import JOBS, Mirrored, kill_prunes, kill_syncs
from reliability.crashes.jobs import Jobs, kill_runners, kill_submissions
from reliability.crashes.processes import Forker, Instants, forker
from reliability.crashes.writers import kill_writers
from reliability.trial import Figure, Trial

KILLS = 200
"""Of each kind, in the whole trial."""


def run(trial: Trial) -> Iterator[Figure]:
    """Kill everything, `KILLS` times each, and tell of each kind at its end.

    Raises:
        PromiseBroken: something that a killed command left was wrong.
    """
    wanted = trial.times(KILLS)
    with contextlib.ExitStack() as stack:
        # Hours of writes lie before the last kills.
        server = stack.enter_context(azurite.running(trial.directory, collects_garbage=False))
        home = trial.directory / "home"
        home.mkdir()
        env = {"HOME": str(home), **server.env}
        made = stack.enter_context(forker(trial.directory, env))
        yield from syncs(trial, made, "embedded", f"sqlite://{trial.directory}/mirrored.db", env, wanted)
        yield from syncs(trial, made, "Azurite", server.url(azurite.new_container()), env, wanted)
        yield from writes(trial, made, wanted)
        yield from jobs(trial, made, env, wanted)


def syncs(
    trial: Trial, forker: Forker, name: str, url: str, env: dict[str, str], wanted: int, jobs: int = JOBS
) -> Iterator[Figure]:
    """Kill syncs of one registry, of all kinds, and prunes of its cache."""
    chance = random.Random(f"{trial.seed} {name}")
    mirrored = Mirrored(url, env, trial.directory / f"cache-{name}.db", chance, jobs)
    with contextlib.closing(mirrored):
        yield _killed(f"sync, delta, {name}", kill_syncs(mirrored, forker, chance, wanted, full=False))
        yield _killed(f"sync --full, {name}", kill_syncs(mirrored, forker, chance, wanted, full=True))
        yield _killed(f"first sync, {name}", kill_syncs(mirrored, forker, chance, wanted, full=False, fresh=True))
        if name == "embedded":
            yield _killed("prune", kill_prunes(mirrored, forker, chance, wanted))


def writes(trial: Trial, forker: Forker, wanted: int) -> Iterator[Figure]:
    """Kill writers of an embedded registry."""
    chance = random.Random(f"{trial.seed} writers")
    instants, writers = kill_writers(trial.directory / "written" / "registry.db", forker, chance, wanted)
    yield _killed("register, update, progress", instants)
    yield Figure("writes acknowledged before a kill, and found again", writers.acknowledged)


def jobs(trial: Trial, forker: Forker, env: dict[str, str], wanted: int) -> Iterator[Figure]:
    """Kill runners and submissions."""
    chance = random.Random(f"{trial.seed} jobs")
    with contextlib.closing(Jobs(Path(trial.directory, "jobs"), env)) as made:
        yield _killed("run, then resume", kill_runners(made, forker, chance, wanted))
        yield Figure("outputs there after the kill of a runner, each whole", made.stored)
        yield _killed("submit --auto, then resume", kill_submissions(made, forker, chance, wanted))
        yield Figure("attempts in the ledgers of these jobs, none missing or doubled", made.attempts)


def _killed(what: str, instants: Instants) -> Figure:
    return Figure(f"{what}: killed inside, healed (of kills tried)", f"{instants.landed} ({instants.tried})")
