"""What happens in a sequence: acts on records, on studies and on caches, by chance and by the theme of the sequence."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping

from mopsjobs.store.base import VersionedStore
from reliability.views.commands import Machine
from reliability.views.model import World
from reliability.views.record_acts import RecordActs
from reliability.views.study_acts import MODEL, StudyActs

AN_HOUR = 3600.0

RARE = ("sync", "act_on_ghost", "kill_command", "kill_runner", "act_in_outage", "describe", "prune", "cancel")
"""Acts of all sequences, if their theme does not say otherwise."""

THEMES: dict[str, dict[str, int]] = {
    "records": {"register": 3, "report": 4, "write_as_foreigner": 3, "act_on_ghost": 2, "prune": 3, "describe": 3},
    "families": {"submit": 2, "resume": 6, "prune": 3, "validate": 1, "describe": 2, "prune_store": 1},
    "reuse": {"submit": 2, "extend": 4, "resume": 2, "delete_output": 3, "validate": 1, "prune_store": 1},
}
"""What sequences are about: their acts, and how often each is chosen beside the others."""


class Acts(RecordActs, StudyActs):
    """The acts of one sequence."""

    def __init__(
        self,
        world: World,
        machines: dict[str, Machine],
        store: VersionedStore,
        chance: random.Random,
        outage: Mapping[str, str] | None,
        theme: str,
    ) -> None:
        super().__init__(world, machines, store, chance, outage)
        self._weights = dict.fromkeys(RARE, 1) | THEMES[theme]
        for machine in machines.values():
            (machine.code / "model.py").write_text(MODEL)

    def step(self) -> None:
        """Do one thing.

        Raises:
            PromiseBroken: if a command ended otherwise than the model says.
        """
        self._world.step = len(self._began)
        self._began.append(time.time())
        acts, weights = zip(*self._weights.items(), strict=True)
        while not getattr(self, self._chance.choices(acts, weights)[0])():
            pass

    def sync(self) -> bool:
        """Sync a cache."""
        machine = self._chance.choice("ab")
        self._run(machine, ["sync", *self._chance.choice(((), ("--full",)))], 0)
        self._world.synced(machine)
        return True

    def prune(self) -> bool:
        """Prune a cache of the jobs that ended before a step."""
        if self._job(lambda job: not job.is_active) is None:
            return False
        step = self._chance.randint(1, len(self._began)) - 1
        machine = self._chance.choice("aaab")
        words = ["prune", "--older-than", "1h", "--yes"]
        self._run(machine, ["sync"], 0)
        self._world.synced(machine)
        self._run(machine, words, 0, at=self._began[step] + AN_HOUR)
        self._world.prune(machine, step)
        return True

    def prune_store(self) -> bool:
        """Prune the events and the ledgers of jobs that have ended from the store, which keeps them by the hour."""
        if self._job(lambda job: not job.is_active) is None:
            return False
        self._run("a", ["prune", "--store", "--older-than", "1h", "--yes"], 0, at=self._began[-1] + 3 * AN_HOUR)
        self._world.prune_store()
        return True
