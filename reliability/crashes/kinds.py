"""`kill -9` at random instants, to whatever writes: syncs, prunes, writers, runners, submissions.

Each kill takes the whole process group of a real process of the command, at an instant within the time that the command
takes. After each, everything that a user could look at is looked at, and the next command has to heal it.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bench import azurite
from mopsjobs.registry.job_state import JobState
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from reliability.crashes.cache import JOBS, Mirrored, kill_prunes, kill_syncs
from reliability.crashes.jobs import Jobs, kill_runners, kill_submissions
from reliability.crashes.processes import Ended, Forker, Killed, Script, check_leftovers, forker, killing
from reliability.trial import Figure, Trial, hold

STEPS = (
    ("register", "JOB", "--owner", "ada", "--label", "kind=crash"),
    ("update", "JOB", "running"),
    ("progress", "JOB", "1/10"),
    ("progress", "JOB", "5/10"),
    ("update", "JOB", "failed", "--error-code", "OOM", "--error", "killed at 12 GiB"),
)
"""One command after the other, each acknowledged by its exit code."""

Told = tuple[str, int, str | None]

STATES: tuple[Told | None, ...] = (
    None,
    ("pending", 0, None),
    ("running", 0, None),
    ("running", 1, None),
    ("running", 5, None),
    ("failed", 5, "OOM"),
)
"""The content of the record after this many of them."""


class Writers:
    """Writers of one registry, and what they were told to have written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._first = path
        self._number = 0
        self.acknowledged = 0
        """Writes that were acknowledged before a kill, and found again."""
        self._jobs: dict[str, int] = {}
        """How many steps of each job have landed."""

    def script(self) -> Script:
        """Return the writes of a job of its own."""
        return [[self._job if word == "JOB" else word for word in (*step, *self._where)] for step in STEPS]

    def prepare(self) -> None:
        """Take another job, every third time in a registry that is still to be made."""
        if self._number % 3 == 0:
            self.check_all()
            self._jobs = {}
            # One that was there and is not would be missed.
            self.path = self._first.parent / str(self._number) / self._first.name
            self.path.parent.mkdir(parents=True)
        self._number += 1

    def look(self, ended: Ended) -> None:
        """Check that what was acknowledged is there; of what was under way, all or nothing.

        Raises:
            PromiseBroken: not so.
        """
        hold(set(ended.codes) <= {0}, f"a write was refused: {ended.codes} {ended.out}")
        acknowledged = len(ended.codes)
        found = self._told(self._job)
        possible = STATES[acknowledged : acknowledged + 2]
        hold(found in possible, f"{acknowledged} writes were acknowledged, and the record says {found}")
        if ended.is_killed:
            self.acknowledged += acknowledged
        self._jobs[self._job] = STATES.index(found)
        check_leftovers(self.path)

    def check_all(self) -> None:
        """Check that the file is sound, and that what landed earlier is there still, after every kill.

        Raises:
            PromiseBroken: not so.
        """
        if not self.path.exists():
            hold(not any(self._jobs.values()), "the registry is gone")
            return
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            (sound,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        hold(sound == "ok", f"the registry is damaged: {sound}")
        for job, steps in self._jobs.items():
            hold(self._told(job) == STATES[steps], f"{job} had {steps} writes, and says {self._told(job)} later")

    @property
    def _job(self) -> str:
        return f"job-{self._number}"

    @property
    def _where(self) -> tuple[str, ...]:
        return ("--registry", f"sqlite://{self.path}")

    def _told(self, job: str) -> Told | None:
        with contextlib.closing(SQLiteVersionedStore(self.path)) as store:
            found = store.get(f"jobs/{job}/state.json")
        if found is None:
            return None
        state = JobState.from_json(found.value)
        return (str(state.status), state.tasks_completed, state.error_code)


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
    """Kill writers of an embedded registry, and look for what they had written.

    Raises:
        PromiseBroken: if an acknowledged write is missing, a half one is there, the file is damaged or locked.
    """
    chance = random.Random(f"{trial.seed} writers")
    writers = Writers(trial.directory / "written" / "registry.db")
    killed = killing(forker, writers.script, chance, wanted, prepare=writers.prepare, look=writers.look)
    writers.check_all()
    yield _killed("register, update, progress", killed)
    yield Figure("writes acknowledged before a kill, and found again", writers.acknowledged)


def jobs(trial: Trial, forker: Forker, env: dict[str, str], wanted: int) -> Iterator[Figure]:
    """Kill runners and submissions."""
    chance = random.Random(f"{trial.seed} jobs")
    with contextlib.closing(Jobs(Path(trial.directory, "jobs"), env)) as made:
        yield _killed("run, then resume", kill_runners(made, forker, chance, wanted))
        yield Figure("outputs there after the kill of a runner, each whole", made.stored)
        yield _killed("submit --auto, then resume", kill_submissions(made, forker, chance, wanted))
        yield Figure("attempts in the ledgers of these jobs, none missing or doubled", made.attempts)


def _killed(what: str, killed: Killed) -> Figure:
    return Figure(f"{what}: killed inside, healed (of kills tried)", f"{killed.landed} ({killed.tried})")
