"""What acts: two machines with their caches, whose commands are processes, and the model that is told of all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from mopsjobs.store.base import VersionedStore
from reliability.trial import hold
from reliability.views.commands import Machine, Ran
from reliability.views.model import Job, World

IDS = ("exp-2", "exp-20", "exp-200", "exp", "run-1", "run-10", "run-1.20", "run")
"""Of these, one begins with another."""


WHOLE = 0.2
"""The share of commands that start an interpreter. The others are forked by one that has imported everything."""

EXIT_NO_SUCH_JOB, EXIT_UNREACHABLE, EXIT_REFUSED, EXIT_PARTLY_DONE = 3, 5, 6, 7


class Actor:
    """Runs commands, and notes them."""

    def __init__(
        self,
        world: World,
        machines: dict[str, Machine],
        store: VersionedStore,
        chance: random.Random,
        outage: Mapping[str, str] | None,
    ) -> None:
        self.log: list[str] = []
        """What was done, one line each, with what came of it."""
        self._world = world
        self._machines = machines
        self._store = store
        self._chance = chance
        self._flags = machines["a"].home.parent / "flags"
        self._flags.mkdir(exist_ok=True)
        self._began: list[float] = []
        """When each step began: between two of these, all ends of a step lie."""
        self._seconds = 0.02
        """The duration of the last report or description."""
        self._outage = outage
        """What to set for a command that no server answers."""

    def _run(
        self,
        name: str,
        words: list[str],
        code: int | None,
        *,
        at: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ran:
        """Run a command, and hold its exit code to what the model says; None if it says nothing."""
        is_whole = at is not None or env is not None or self._chance.random() < WHOLE
        begun = time.monotonic()
        ran = self._machines[name].run(*words, at=at, **(env or {})) if is_whole else self._machines[name].fork(*words)
        if not is_whole and words[0] in ("label", "note", "progress", "update"):
            self._seconds = time.monotonic() - begun
        when = "" if at is None else f" at {datetime.fromtimestamp(at, UTC):%H:%M:%S.%f}"
        self.log.append(f"{name}: mops-jobs {' '.join(words)}{when} -> {ran.code}")
        said = f"{ran.out[-500:]}{ran.err[-500:]}"
        hold(code in (None, ran.code), f"mops-jobs {' '.join(words)} ended with {ran.code}, not {code}: {said}")
        hold("Traceback" not in ran.err, f"mops-jobs {' '.join(words)}: {ran.err}")
        return ran

    def _machine(self) -> str:
        return self._chance.choice("aaab")

    def _job(self, fits: Callable[[Job], bool] = lambda job: True) -> Job | None:
        jobs = [job for job in self._world.jobs.values() if fits(job)]
        return self._chance.choice(jobs) if jobs else None
