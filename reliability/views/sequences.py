"""Seeded sequences of commands, after each of which all views of each job agree with one another and with the model.

A sequence has a registry, a cache and a second cache of its own. Its commands are processes. The same seed gives the
same sequences.
"""

from __future__ import annotations

import contextlib
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from mopsjobs.store import network, open_store
from mopsjobs.studies.packed_store import show_packs
from reliability.crashes.processes import Forker, forker
from reliability.places import STORES, Place, running_store
from reliability.trial import Figure, PromiseBroken, Trial
from reliability.views.acts import THEMES, Acts
from reliability.views.commands import LIMIT_SECONDS, Machine
from reliability.views.looking import LIST_OF_ARCHIVED, QUERY, Views, of_inside, of_record
from reliability.views.model import World
from reliability.views.reading import Statements

STEPS = 2000
"""Of each store, in the whole trial."""
LENGTH = 20
"""Steps of a sequence: its last steps look at some ten jobs."""
AGAIN = 0.2
"""The share of unchanged jobs of which all views are looked at again, after a step that did something else."""


class Found(NamedTuple):
    """A contradiction: what to run to have it again, and what was said."""

    sequence: str
    text: str


def run(trial: Trial) -> Iterator[Figure]:
    """Run the sequences over each store.

    Raises:
        PromiseBroken: views contradicted each other or the model.
    """
    broken: list[Found] = []
    for store in trial.stores or STORES:
        counts: Counter[str] = Counter()
        steps = trial.steps or trial.times(STEPS)
        found = []
        for one in over(trial, store, steps, counts):
            yield Figure(f"{store}: {one.sequence}", one.text)
            found.append(one)
        broken += found
        for what, count in counts.items():
            yield Figure(f"{store}: {what}", count)
        yield Figure(f"{store}: contradictions", len(found))
    if broken:
        raise PromiseBroken(f"{len(broken)} sequences ended in a contradiction: {[one.sequence for one in broken]}")


def over(trial: Trial, store: str, steps: int, counts: Counter[str], length: int = LENGTH) -> Iterator[Found]:
    """Run sequences over one store, and yield the contradiction of each that ended in one."""
    patience = mock.patch.object(network, "BUDGET_SECONDS", LIMIT_SECONDS)  # also on a busy machine
    with patience, running_store(store, trial.directory) as new_place, forker(trial.directory, {}) as forks:
        for number in range((steps + length - 1) // length):
            directory = trial.directory / f"{store}-{number}"
            directory.mkdir()
            chance = random.Random(f"{trial.seed} {store} {number}")
            theme = [*THEMES][number % len(THEMES)]
            made = Sequence(directory, new_place(directory), forks, chance, counts, theme)
            with contextlib.closing(made) as sequence:
                try:
                    for _ in range(min(length, steps - number * length)):
                        sequence.step()
                except PromiseBroken as error:
                    where = f"seed {trial.seed}, sequence {number}, step {sequence.steps}"
                    yield Found(where, f"{error}\n{sequence.history}")
            shutil.rmtree(directory, ignore_errors=True)


class Sequence:
    """One sequence over one registry."""

    def __init__(
        self,
        directory: Path,
        place: Place,
        forks: Forker,
        chance: random.Random,
        counts: Counter[str],
        theme: str,
    ) -> None:
        self.steps = 0
        self._looked: dict[tuple[str, str], str] = {}
        """What a cache and the model had of a job when all of its views were last looked at."""
        self._counts = counts
        self._chance = chance
        self._world = World()
        self._is_local = place.outage is None
        self._closing = contextlib.ExitStack()
        self._store = self._closing.enter_context(contextlib.closing(show_packs(open_store(place.url, place.env))))
        self._machines = machines = {
            name: Machine(directory / name, place.url, place.env, forks) for name in self._world.caches
        }
        for machine in machines.values():
            self._closing.callback(machine.close)
        self._views = {name: Views(machines[name], name, self._world, directory / f"looks-{name}") for name in machines}
        self._acts = Acts(self._world, machines, self._store, chance, place.outage, theme=theme)

    @property
    def history(self) -> str:
        """Return what was done, a line each."""
        return "\n".join(f"  {number}. {line}" for number, line in enumerate(self._acts.log, 1))

    def close(self) -> None:
        """Hang up."""
        self._closing.close()

    def step(self) -> None:
        """Act, and look.

        Raises:
            PromiseBroken: a command ended otherwise than the model says, or views contradict each other or the model.
        """
        self.steps += 1
        self._counts["steps"] += 1
        self._acts.step()
        name = "b" if self._chance.random() < 0.15 else "a"
        if self._is_local:
            self._world.synced(name)  # each view reads the registry
        elif self._world.is_behind(name):
            if name == "a" and self._chance.random() < 0.5:
                self._look_behind(name)
                return
            self._acts.log.append(f"{name}: sync, then look")
            self._views[name].sync()
            self._world.synced(name)
        self._look(name)

    def _look(self, name: str) -> None:
        """Compare all views of all jobs in a cache that has the last state of each."""
        world, views, cache = self._world, self._views[name], self._world.caches[name]
        said = {job_id: Statements() for job_id in world.jobs}
        shown = {job_id for job_id in world.jobs if job_id not in cache.pruned}
        problems: list[str] = []
        for job_id, statements in said.items():
            for view, facts in self._looks_at(views, job_id):
                statements.add(view, facts)
        for view, jobs in views.lists().items():
            archived = {job_id for job_id in shown if world.jobs[job_id].is_archived}
            listed = shown if view == QUERY else archived if view == LIST_OF_ARCHIVED else shown - archived
            if set(jobs) != listed:
                problems.append(f"{view} shows {sorted(jobs)}, and should show {sorted(listed)}")
            for job_id, facts in jobs.items():
                if job_id in said:
                    said[job_id].add(view, facts)
        sweeps = world.sweeps(shown)
        for view, rows in views.sweeps().items():
            if rows.keys() != sweeps.keys():
                problems.append(f"{view} shows the sweeps {sorted(rows)}, and should show {sorted(sweeps)}")
            for sweep, facts in rows.items():
                wrong = {fact: value for fact, value in facts.items() if value != sweeps.get(sweep, facts)[fact]}
                problems += [f"{view} says of sweep {sweep} {wrong}, and should say {sweeps[sweep]}"] if wrong else []
        counted = Counter(world.jobs[job_id].status for job_id in shown)
        problems += [
            f"{view} counts {counts}, and should count {dict(counted)}"
            for view, counts in views.counts().items()
            if counts != counted
        ]
        for job_id, statements in said.items():
            statements.add("the model", of_record(world, job_id, is_shown=world.family(job_id) <= shown))
            statements.add("the model", of_inside(world, name, job_id))
            problems += [f"{job_id}: {text}" for text in statements.contradictions()]
            self._counts["jobs looked at"] += 1
        self._tell(name, problems)

    def _looks_at(self, views: Views, job_id: str) -> Iterator[tuple[str, dict[str, object]]]:
        """Yield the views of a job: all if its family has changed since, or by chance, else those of its record."""
        world = self._world
        state = repr([world.jobs[member] for member in sorted(world.family(job_id))])
        state += repr(sorted(world.deleted)) + repr(world.without_ledger & world.family(job_id))
        state += repr(sorted(world.caches[views.name].pruned))
        is_same = self._looked.get((views.name, job_id)) == state
        yield from views.record(job_id)
        if is_same and self._chance.random() > AGAIN:
            return
        self._looked[views.name, job_id] = state
        self._counts["looks at all views of a job"] += 1
        yield from views.waits(job_id)
        yield from views.inside(job_id)
        yield from views.download(job_id)
        if not world.jobs[job_id].is_active:
            world.caches[views.name].ledgers |= {job_id} - world.without_ledger

    def _look_behind(self, name: str) -> None:
        """Compare the views of a cache that may be behind: each shows a state that its job had since the last sync."""
        world, views, cache = self._world, self._views[name], self._world.caches[name]
        problems: list[str] = []
        looks: list[tuple[str, str, dict[str, object]]] = []
        for view, jobs in views.lists().items():
            looks += [(view, job_id, facts) for job_id, facts in jobs.items()]
        looks += [(view, job_id, facts) for job_id in world.jobs for view, facts in views.record(job_id)]
        for view, job_id, facts in looks:
            versions = world.versions.get(job_id)
            if versions is None:
                problems.append(f"{view} shows {job_id}, which does not exist")
                continue
            if "status" not in facts:
                continue
            first = cache.seen.get(job_id, 0)
            fits = [
                number
                for number, version in enumerate(versions[first:], first)
                if all(facts[fact] == value for fact, value in version.items() if fact in facts and value is not None)
            ]
            if not fits:
                problems.append(f"{job_id}: {view} shows {facts}, which is none of {versions[first:]}")
        self._counts["looks at a cache that is behind"] += 1
        self._tell(name, problems)

    def _tell(self, name: str, problems: list[str]) -> None:
        if problems:
            raise PromiseBroken(f"in the cache {name}:\n" + "\n".join(f"  - {text}" for text in problems))
