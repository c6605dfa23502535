"""What happens in a sequence: acts on records, on studies and on caches, by chance and by the theme of the sequence."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from bench.machine import ROOT
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.ledger.environment import environment_keys
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.keys import PACK
from mopsjobs.store.base import VersionedStore
from reliability.trial import hold
from reliability.views import model
from reliability.views.commands import LIMIT_SECONDS, Machine, Ran
from reliability.views.model import ENDS, EXIT_CODES, LOST, MISSING, ORDER, SUCCEEDED, SWEEP, Job, Search, Study, World
from support.existing import existing

IDS = ("exp-2", "exp-20", "exp-200", "exp", "run-1", "run-10", "run-1.20", "run")
"""Of these, one begins with another."""


WHOLE = 0.2
"""The share of commands that start an interpreter. The others are forked by one that has imported everything."""

EXIT_USAGE, EXIT_NO_SUCH_JOB, EXIT_UNREACHABLE, EXIT_REFUSED, EXIT_PARTLY_DONE = 2, 3, 5, 6, 7
EXIT_JOB_FAILED, NOT_FINISHED = 100, 8

SWEEPS = ("night", "day")


T = TypeVar("T")


class ImpossibleError(Exception):
    """An act that is not possible now. It has changed nothing."""


class Actor:
    """Runs commands, and notes them. Each act raises `ImpossibleError` if it is not possible."""

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

    def _choose(self, options: Sequence[T]) -> T:
        """Return one of these by chance.

        Raises:
            ImpossibleError: if there are none.
        """
        if not options:
            raise ImpossibleError
        return self._chance.choice(options)

    def _free_id(self) -> str:
        return self._choose([job_id for job_id in IDS if job_id not in self._world.jobs])

    def _jobs(self, fits: Callable[[Job], bool]) -> list[Job]:
        return [job for job in self._world.jobs.values() if fits(job)]

    def _job(self, fits: Callable[[Job], bool] = lambda job: True) -> Job:
        return self._choose(self._jobs(fits))


class RecordActs(Actor):
    """Acts on records."""

    def register(self) -> None:
        """Register a job, perhaps as the child of another, or one whose id is taken."""
        job_id = self._chance.choice(IDS)
        job = Job(job_id, total=self._chance.choice((None, 4, 10)))
        words = ["register", job_id]
        if job.total is not None:
            words += ["--total", str(job.total)]
        parents = [one.job_id for one in self._world.jobs.values() if one.study is None and one.job_id != job_id]
        if parents and self._chance.random() < 0.3:
            job.parent = self._chance.choice(parents)
            words += ["--parent", job.parent]
        if self._chance.random() < 0.4:
            job.labels = {"k": self._chance.choice("uvw")}
            words += ["--label", f"k={job.labels['k']}"]
        if job_id in self._world.jobs:
            self._run("a", words, EXIT_REFUSED)
            return
        machine = self._machine()
        self._run(machine, words, 0)
        self._world.jobs[job_id] = job
        self._world.changed(job_id, machine)

    def report(self) -> None:
        """Report the status or the progress of a job."""
        job = self._job(lambda job: job.study is None)
        words, change = self._report(job)
        machine = self._machine()
        if not job.is_active:  # the same end again changes nothing
            is_same = words[0] == "update" and words[2] == job.status
            self._run(machine, words, 0 if is_same else EXIT_REFUSED)
            return
        self._run(machine, words, 0)
        change()
        self._world.changed(job.job_id, machine)

    def _report(self, job: Job) -> tuple[list[str], Callable[[], None]]:
        """Return the words of a report, and what it changes if the job has not ended."""
        if self._chance.random() < 0.5 or not job.is_active:
            later = ORDER[max(3, ORDER.index(job.status)) :] if job.is_active else ()
            status = self._chance.choice([*later, *ENDS[:3]])
            return ["update", job.job_id, status], lambda: setattr(job, "status", status)
        total = job.total or 10
        done = self._chance.randint(job.completed, total)
        failed = self._chance.randint(0, total - done)

        def change() -> None:
            job.completed, job.failed, job.total = done, failed, total
            if job.status in ORDER[:3]:
                job.status = "running"

        return ["progress", job.job_id, f"{done}/{total}", "--failed", str(failed)], change

    def describe(self) -> None:
        """Label a job, or note something about it."""
        job = self._job()
        words, change = self._description(job)
        machine = self._machine()
        self._run(machine, words, 0)
        change()
        self._world.changed(job.job_id, machine)

    def _description(self, job: Job) -> tuple[list[str], Callable[[], None]]:
        text = f"step {self._world.step}"
        if self._chance.random() < 0.4:
            return ["note", job.job_id, text], lambda: setattr(job, "note", text)
        label, value = self._chance.choice((("k", str(self._world.step)), (model.ARCHIVED, "true")))
        is_same = job.labels.get(label) == value  # which would change nothing
        if is_same or (label in job.labels and self._chance.random() < 0.5):
            rest = {name: text for name, text in job.labels.items() if name != label}
            return ["label", job.job_id, f"{label}-"], lambda: setattr(job, "labels", rest)
        labels = job.labels | {label: value}
        return ["label", job.job_id, f"{label}={value}"], lambda: setattr(job, "labels", labels)

    def label_matching(self) -> None:
        """Label all jobs that have a label, of those that a cache shows."""
        job = self._job(lambda job: bool(job.labels))
        (label, value), machine = self._chance.choice(sorted(job.labels.items())), self._machine()
        self._run(machine, ["label", "--match", f"{label}={value}", f"m={self._world.step}"], 0)
        self._world.synced(machine)
        for one in self._world.jobs.values():
            if one.labels.get(label) == value and one.job_id not in self._world.caches[machine].pruned:
                one.labels = one.labels | {"m": str(self._world.step)}
                self._world.changed(one.job_id, machine)

    def cancel(self) -> None:
        """Cancel a job, or try to cancel one that has ended."""
        job = self._job(lambda job: job.study is None or not job.is_active)
        if not job.is_active and job.status != "cancelled":
            self._run("a", ["cancel", job.job_id], EXIT_REFUSED)
            return
        if job.status in ("submitting", "validating", "cancelled"):
            raise ImpossibleError
        self._run("a", ["cancel", job.job_id], EXIT_PARTLY_DONE if job.is_foreign else 0)  # there is no cluster
        job.status = "cancelled"
        self._world.changed(job.job_id, "a")

    def act_on_ghost(self) -> None:
        """Act on an id that no job has, and with which ids of jobs begin: nothing is found, in no language."""
        ghosts = [ghost for ghost in IDS if ghost not in self._world.jobs and self._begins(ghost)]
        ghost = self._choose(ghosts)
        more = {"label": ["k=ghost"], "note": ["ghost"], "update": ["failed"], "progress": ["1/2"]}
        verb = self._chance.choice(("cancel", "resume", *more))
        self._run("a", [verb, ghost, *more.get(verb, [])], EXIT_NO_SUCH_JOB)

    def write_as_foreigner(self) -> None:
        """Let a program that does not know mops-jobs write a record."""
        world, now = self._world, datetime.now(UTC).isoformat()
        jobs = self._jobs(lambda job: job.study is None and job.is_active)
        if not jobs or self._chance.random() < 0.4:
            job = Job(self._free_id(), status="running", total=6, completed=2, is_foreign=True)
            record = {
                "job_id": job.job_id, "status": "running", "created_at": now, "updated_at": now, "k8s_name": "k",
                "k8s_namespace": "modelops", "metadata": {}, "tasks_total": 6, "tasks_completed": 2,
            }  # fmt: skip
            created = self._store.create_if_absent(_key(job.job_id), json.dumps(record, indent=2).encode())
            hold(created is not None, f"{job.job_id} exists, and the model has no such job")
            world.jobs[job.job_id] = job
        else:
            job = self._chance.choice(jobs)
            held = existing(self._store.get(_key(job.job_id)))
            later = [status for status in ("running", "validating") if ORDER.index(job.status) < ORDER.index(status)]
            job.status = self._chance.choice([*later, *ENDS])
            job.completed = self._chance.randint(job.completed, job.total or 10)
            record = json.loads(held.value)
            record |= {"status": job.status, "updated_at": now, "tasks_completed": job.completed}
            put = self._store.put(_key(job.job_id), json.dumps(record, indent=2).encode(), held.version)
            hold(put is not None, f"{job.job_id} was changed meanwhile")
        self.log.append(f"foreign: {job.job_id} {job.status} {job.completed}/{job.total}")
        world.changed(job.job_id, None)

    def kill_command(self) -> None:
        """Kill a command at some instant: it has done what it does, or nothing."""
        job = self._job(lambda job: job.is_active and job.study is None)
        before = copy.deepcopy(job)
        words, change = (self._report if self._chance.random() < 0.5 else self._description)(job)
        change()
        self._machines["a"].kill(*words, after=self._chance.uniform(0, 1.5 * self._seconds))
        record = json.loads(existing(self._store.get(_key(job.job_id))).value)
        found = [record["status"], *(record.get(f"tasks_{name}") or 0 for name in ("completed", "failed"))]
        found += [record.get("labels") or {}, record["metadata"].get("note")]
        landed, lost = ([one.status, one.completed, one.failed, one.labels, one.note] for one in (job, before))
        self.log.append(f"a: mops-jobs {' '.join(words)}, killed: {'landed' if found == landed else 'lost'}")
        hold(found in (landed, lost), f"a killed command left {found}, neither {landed} nor {lost}")
        if found != landed:
            self._world.jobs[job.job_id] = before
        self._run("a", ["sync"], 0)
        if found == landed:
            self._world.changed(job.job_id, None)
        self._world.synced("a")

    def act_in_outage(self) -> None:
        """Act while the registry does not answer: it is said, and nothing has changed."""
        job = self._job(lambda job: job.is_active and job.study is None)
        if self._outage is None:
            raise ImpossibleError
        words, _ = (self._report if self._chance.random() < 0.5 else self._description)(job)
        self.log.append("the registry does not answer:")
        self._run("a", words, EXIT_UNREACHABLE, env=self._outage)

    def _begins(self, ghost: str) -> bool:
        return any(job_id.startswith(ghost) for job_id in self._world.jobs)


def _key(job_id: str) -> str:
    return f"jobs/{job_id}/state.json"


MODEL = f'''
"""A model whose tasks end as their parameters say."""
import os, sys, time

def checkpoint():
    sys.path.insert(0, {str(ROOT)!r})
    import mopsjobs
    return mopsjobs.checkpoint()
'''
MODEL += """
def simulate(params, seed):
    mode, flag = params["mode"], params["flag"]
    if mode == "save" and not os.path.exists(flag):
        checkpoint().save({"x": params["x"]}, at=1)
    if mode in ("gate", "save") and not os.path.exists(flag):
        open(flag + ".reached", "a").close()
        end = time.monotonic() + 120
        while not os.path.exists(flag) and time.monotonic() < end:
            time.sleep(0.005)
    if mode == "save" and (state := checkpoint().load()) is not None and state != {"x": params["x"]}:
        raise ValueError("a checkpoint of another task")
    if mode.endswith("-once") and os.path.exists(flag):
        mode = "ok"
    if mode.startswith("fail"):
        raise ValueError("as asked")
    if mode.startswith("die"):
        os._exit(3)
    away = 0 if mode != "wide" else 1000 if seed % 2 else -1000
    return {"y": params["x"] * 10 + 0.5 + away}
"""


SESSION = """
import json, os, signal, sys, time
import mopsjobs as mj

how, rounds, end = json.loads(sys.argv[1])
with mj.connect() as registry, registry.session(**how) as session:
    for sets in rounds:
        asked = [session.submit(params) for params in sets]
        while not asked[-1].tasks and end == "kill at work":
            time.sleep(0.01)
        for one in asked if end != "kill at work" else ():
            one.exception()
    if end:
        os.kill(os.getpid(), signal.SIGKILL)
"""


class StudyActs(Actor):
    """Acts on jobs with tasks."""

    def submit(self) -> None:
        """Submit a study, and wait for its end."""
        return self._submit(None)

    def extend(self) -> None:
        """Submit a study that has the tasks of another and more, and reuses the outputs of that."""
        self._submit(self._job(lambda job: job.study is not None and job.search is None and not job.is_active))

    def _submit(self, source: Job | None) -> None:
        world = self._world
        free = self._free_id()
        if source is not None and self._is_unsure(source):
            raise ImpossibleError
        if source is None:
            study, is_capped = self._new_study()
        else:
            assert source.study is not None
            study, is_capped = replace(source.study, modes=(*source.study.modes, "ok")), False
        job = Job(free, study=study, is_capped=is_capped)
        words = ["submit", self._write_study(study), "--auto", "--workers", "1", "--retries", "0", "--wait", "-q"]
        words += ["--job-id", job.job_id, *(("--max-cpu-hours", "1e-9") if is_capped else ())]
        if self._chance.random() < 0.4:
            job.labels = {SWEEP: self._chance.choice(SWEEPS)}
            words += ["--sweep", job.labels[SWEEP]]
        if source is not None:
            words += ["--extend", source.job_id]
            for member in sorted(world.family(source.job_id), key=lambda one: len(list(world.lineage(one)))):
                for task in world.outputs(member):
                    owner = world.rows(member)[task][0]
                    if self._has_environment(owner):
                        job.reused[task] = world.holder(owner, task)
        world.run(job, [task for task in study.tasks() if task not in job.reused])
        self._run("a", words, EXIT_CODES[job.status])
        world.jobs[job.job_id] = job
        world.changed(job.job_id, "a")
        self._mirrored(job)

    def _new_study(self) -> tuple[Study, bool]:
        """Return a study, and whether its first task is to use up a budget."""
        kind, count = self._chance.choice(("plain", "plain", "adaptive", "capped")), self._chance.randint(1, 4)
        odd = {"plain": "die-once", "adaptive": "wide", "capped": "fail-once"}[kind]  # no more is known of a death
        modes = tuple(self._chance.choices(("ok", "fail", "fail-once", odd), (5, 1, 3, 2), k=count))
        name = f"s{self._world.step}"
        if kind == "adaptive":
            return Study(name, modes, 4, least=2, seeds=self._chance.choice(("listed", "base"))), False
        seeds = self._chance.choice((None, None, "common", "base"))
        return Study(name, modes, self._chance.choice((1, 1, 2)), seeds=seeds), kind == "capped"

    def _mirrored(self, job: Job) -> None:
        """Note that a wait has read the ledger of a job, to tell why tasks failed, if there is a cache for it."""
        if self._machines["a"].has_cache():
            self._world.caches["a"].ledgers.add(job.job_id)

    def resume(self) -> None:
        """Resume the newest job of a family; all that is missing, or what ended in one way."""
        world = self._world
        some = self._job(lambda job: job.study is not None and not job.is_active)
        job = world.newest(some.job_id)
        if job.is_active or self._is_unsure(job):
            raise ImpossibleError
        assert job.study is not None
        if self._chance.random() < 0.7:
            self._repair(job.study)
        if some.job_id != job.job_id and self._chance.random() < 0.3:
            self._run("a", ["resume", some.job_id], EXIT_REFUSED)
            return
        missing = world.missing(job.job_id)
        only = self._chance.choice((None, None, "failed", "died", "lost")) if job.study.least is None else None
        chosen = [task for task, end in missing.items() if only in (None, end)]
        words = ["resume", job.job_id, "--wait", *(() if only is None else ("--only", only))]
        if not chosen:
            is_told = not any(member.was_killed for member in world.lineage(job.job_id))
            self._run("a", words, EXIT_CODES[job.status] if not missing else 0 if is_told else None)
            return
        if job.search is not None:
            self._run("a", words, EXIT_USAGE)
            return
        child = Job(world.child_id(job.job_id), parent=job.job_id, study=job.study, labels=job.labels_to_inherit())
        child.is_capped = job.is_capped
        child.deferred = tuple(task for task in missing if task not in chosen)
        child.reused = world.taken_over(job.job_id)
        world.run(child, chosen)
        self._run("a", words, EXIT_CODES[child.status])
        world.jobs[child.job_id] = child
        world.changed(child.job_id, "a")
        self._mirrored(child)

    def calibrate(self) -> None:
        """Search in two rounds, or go on with an earlier search for one more. Perhaps its client is killed at first."""
        free = self._free_id()
        searches = self._jobs(lambda job: job.search is not None and not self._is_unsure(job))
        earlier = self._chance.choice(searches) if searches else None
        world, name = self._world, f"s{self._world.step}"
        job = Job(free)
        if earlier is None or earlier.search is None or self._chance.random() < 0.5:
            job.search, words = Search(world.step, 2), [self._write_search(name), "--auto"]
        else:
            rounds = earlier.search.rounds
            job.search, words = (
                Search(earlier.search.seed, rounds + 1, rounds),
                [earlier.job_id, "--rounds", str(rounds + 1)],
            )
            sweep = {SWEEP: earlier.labels.get(SWEEP, earlier.job_id)}
            job.labels, is_joining = sweep, SWEEP not in earlier.labels
            earlier.labels = earlier.labels | sweep
        job.study = job.search.study(name)
        words = ["calibrate", *words, "--job-id", job.job_id, "--workers", "1", "--retries", "0"]
        world.run(job, job.study.tasks())
        code = 0 if job.search.counts()["best"] is not None else EXIT_JOB_FAILED
        if self._chance.random() < 0.4:
            self._kill_client(self._machines["a"].start(*words), f"rounds/{job.job_id}/000001.json")
            words = ["calibrate", job.job_id]
        self._run("a", words, code)
        if job.labels and is_joining and earlier is not None:
            world.changed(earlier.job_id, "a")
        self._has_run(job)

    def work_in_session(self) -> None:
        """Ask for parameter sets in two rounds by a Python program, or by two, of which the first is killed."""
        free = self._free_id()
        study = Study(f"s{self._world.step}", tuple(self._chance.choices(("ok", "fail"), (4, 1), k=4)), 1)
        job = Job(free, study=study)
        sets = [{"x": x, "mode": mode, "flag": str(self._flags / study.name)} for x, mode in enumerate(study.modes)]
        begin = {"model": "model:simulate", "code": ".", "outputs": ["result.json"], "job_id": job.job_id, "workers": 1}
        begin |= {"retries": 0}
        if self._chance.random() < 0.5:
            self._run_session(begin, [sets[:2]], "kill" if self._chance.random() < 0.5 else "kill at work")
            self._run("a", ["status", job.job_id, "--exit-status"], NOT_FINISHED)
            self._run_session({"model": job.job_id}, [sets[2:]], "")
        else:
            self._run_session(begin, [sets[:2], sets[2:]], "")
        self._world.run(job, study.tasks())
        self._run("a", ["wait", job.job_id], EXIT_CODES[job.status])
        self._has_run(job)

    def _run_session(self, how: Mapping[str, object], rounds: list[list[dict[str, Any]]], end: str) -> None:
        machine = self._machines["a"]
        words = [machine.words()[0], "-c", SESSION, json.dumps([how, rounds, end])]
        self.log.append(f"a: a session by {how}: {rounds}, {end or 'whole'}")
        ran = subprocess.run(
            words, env=machine.env | {"PYTHONPATH": str(ROOT)}, cwd=machine.code,
            capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
        code = -signal.SIGKILL if end else 0
        hold(ran.returncode == code, f"a session ended with {ran.returncode}: {ran.stdout}{ran.stderr}")

    def _kill_client(self, process: subprocess.Popen[str], key: str) -> None:
        """Kill a client at some instant after it has stored a key."""
        end = time.monotonic() + LIMIT_SECONDS
        while self._store.get(key) is None and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(self._chance.uniform(0, 1))
        process.kill()
        process.wait()
        self.log.append(f"a: {' '.join(map(str, process.args[2:]))}, its client is killed")

    def _has_run(self, job: Job) -> None:
        """Note a job that has ended, and read its ledger."""
        self._world.jobs[job.job_id] = job
        self._world.changed(job.job_id, "a")
        self._run("a", ["tasks", job.job_id, "--json"], 0)
        self._world.caches["a"].ledgers.add(job.job_id)

    def _write_search(self, name: str) -> str:
        document = {
            "model": "model:simulate", "outputs": ["result.json"], "objective": "y", "rounds": 2, "sets_per_round": 2,
            "parameters": {"x": {"integer": [0, model.MOST_X]}, "mode": {"choice": model.MODES}},
            "fixed": {"flag": str(self._flags / name)}, "sampler": "random", "seed": self._world.step,
        }  # fmt: skip
        path = self._flags / f"{name}-search.json"
        path.write_text(json.dumps(document))
        return str(path)

    def validate(self) -> None:
        """Validate a job that has ended: its status stays."""
        job = self._job(lambda job: job.study is not None and not job.is_active and not self._is_unsure(job))
        self._run("a", ["validate", job.job_id], 0)

    def delete_output(self) -> None:
        """Delete an output by hand, rather one that another job reuses; in a pack, with the others of the pack."""
        used = {owner for job in self._world.jobs.values() for owner in job.reused.values()}
        fits = self._jobs(lambda job: SUCCEEDED in job.ends.values() and not self._is_unsure(job))
        job = self._choose([job for job in fits if job.job_id in used] or fits)
        prefix = f"results/{job.job_id}/"
        entries = [entry for entry in self._store.scan(prefix) if entry.key.endswith("/result.json")]
        chosen = self._choose(entries)
        is_packed = PACK.parse(chosen.version.value) is not None
        gone = [entry for entry in entries if entry.version == chosen.version] if is_packed else [chosen]
        tasks = [self._task_of(job, entry.key) for entry in gone]
        key = chosen.version.value if is_packed else chosen.key
        self._store.delete(key)
        self._world.deleted |= {(job.job_id, task) for task in tasks}
        self.log.append(f"by hand: delete {key}, of tasks {tasks}")

    def _task_of(self, job: Job, key: str) -> int:
        """Return the task whose output this is, by the value in it and the seeds of its set."""
        assert job.study is not None
        y = json.loads(existing(self._store.get(key)).value)["y"]
        rows = self._machines["a"].look("results", job.job_id, "--json").objects
        (task,) = [row["task"] for row in rows if row["key"] == key]
        hold(job.study.value(task) == y, f"{key} has the value {y}, and is named as an output of task {task}")
        return int(task)

    def _repair(self, study: Study) -> None:
        if study.name not in self._world.repaired:
            self._world.repaired.add(study.name)
            (self._flags / study.name).touch()
            self.log.append(f"by hand: repair the study {study.name}")

    def _write_study(self, study: Study, **modes: str) -> str:
        flag = str(self._flags / study.name)
        sets = [{"x": x, "mode": mode, "flag": flag} for x, mode in enumerate(study.modes)]
        replicates: object = study.replicates
        if study.least is not None:
            replicates = {"min": study.least, "max": study.replicates, "until": {"y": {"absolute": 0.1}}}
        document: dict[str, object] = {
            "model": "model:simulate", "parameter_sets": sets, "n_replicates": replicates, "outputs": ["result.json"],
        }  # fmt: skip
        if study.seeds is not None:
            document["seeds"] = {"listed": model.LISTED, "base": {"base": model.BASE}}.get(study.seeds, study.seeds)
        path = self._flags / f"{study.name}-{len(sets)}.json"
        path.write_text(json.dumps(document))
        return str(path)

    def kill_runner(self) -> None:
        """Kill a runner while its second task is at work. The next view ends the job by its outputs."""
        world = self._world
        free = self._free_id()
        study = Study(f"s{world.step}", ("ok", self._chance.choice(("gate", "save")), "ok"), 1)
        job = Job(free, study=study, was_killed=True)
        words = ["submit", self._write_study(study), "--auto", "--workers", "1", "--retries", "0", "--wait", "-q"]
        process = self._machines["a"].start(*words, "--job-id", job.job_id)
        reached, end = self._flags / f"{study.name}.reached", time.monotonic() + LIMIT_SECONDS

        def is_at_work() -> bool:
            return reached.exists() and self._is_report_noted(job.job_id)

        while not is_at_work() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        hold(is_at_work(), f"{job.job_id} did not reach its gate: {process.poll()}")
        if self._chance.random() < 0.5:
            self._look_at_work(job)
        _kill_group(process)
        (self._flags / study.name).touch()
        self.log.append(f"a: mops-jobs {' '.join(words)} --job-id {job.job_id}, killed at task 1")
        self._run("a", ["list", "-q"], 0)
        rows = self._machines["a"].look("tasks", job.job_id, "--json").json["tasks"]
        ends = {row["task"]: row["outcome"] for row in rows}
        is_stored = any(key.endswith("/result.json") for key in self._store.list_keys(f"results/{job.job_id}/"))
        at_work = {LOST, MISSING}  # up to whether its start was written down
        fits = ends[0] in ({SUCCEEDED} if is_stored else at_work) and ends[1] in at_work and ends[2] == MISSING
        hold(fits, f"{job.job_id} was killed at task 1, output of task 0 stored: {is_stored}. Its tasks are {ends}")
        world.end(job, ends)
        world.jobs[job.job_id] = job
        world.caches["a"].ledgers.add(job.job_id)  # the look at its tasks has read it
        world.changed(job.job_id, "a")

    def _is_report_noted(self, job_id: str) -> bool:
        """Return whether the runner has noted its last report. One that was killed before that may be elsewhere."""
        files = JobDir.for_job(job_id, self._machines["a"].env).report_files()
        noted = {word for path in files for word in path.read_text("ascii").split()}
        return JobRegistry(self._store).require_job(job_id).heartbeat_at in noted

    def _look_at_work(self, job: Job) -> None:
        """Look at a job whose first task has ended, while the second is at work."""
        look, path = self._machines["a"].look, self._flags / "table.jsonl"
        expected, end = [SUCCEEDED, "waiting", "waiting"], time.monotonic() + LIMIT_SECONDS

        def outcomes() -> list[str]:
            return [row["outcome"] for row in look("tasks", job.job_id, "--json").json["tasks"]]

        while (found := outcomes()) != expected and time.monotonic() < end:
            time.sleep(0.1)
        look("results", job.job_id, "--table", str(path))
        rows = [row["status"] for row in map(json.loads, path.read_text().splitlines())]
        look("results", job.job_id, "--table", str(path), "--by", "set")
        sets = [(row["done"], row["waiting"]) for row in map(json.loads, path.read_text().splitlines())]
        contrast = look("results", job.job_id, "--contrast", "x=0,2", "--json").json
        sides = [(pair["y.n_first"], pair["y.n_second"]) for pair in contrast["pairs"]]
        said = {
            "tasks": found == expected,
            "results": rows == expected,
            "results --by set": sets == [(1, 0), (0, 1), (0, 1)],
            "results --contrast": (sides, contrast["left_out"]["waiting"]) == ([(1, 0)], 1),
            "query": len(look("query", "--json", f"SELECT * FROM tasks WHERE job_id = '{job.job_id}'").json["rows"])
            == 1,
        }
        wrong = [view for view, is_right in said.items() if not is_right]
        hold(not wrong, f"{job.job_id} at work: {wrong} of {found}, {rows}, {sets}, {contrast}")

    def _has_environment(self, job_id: str) -> bool:
        """Return whether tasks of a job may be reused. A killed runner may not have noted its interpreter yet."""
        was_killed = self._world.jobs[job_id].was_killed
        return not was_killed or any(True for _ in environment_keys(self._store, job_id))

    def _is_unsure(self, job: Job) -> bool:
        """Return whether the model does not know what a resume of this job has to do."""
        family = [self._world.jobs[member] for member in self._world.family(job.job_id)]
        lost = any(self._world.is_deleted(one.job_id, task) for one in family for task in (*one.ends, *one.reused))
        return lost or any(one.job_id in self._world.without_ledger for one in family)


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


AN_HOUR = 3600.0

RARE = ("sync", "act_on_ghost", "kill_command", "kill_runner", "act_in_outage", "describe", "prune", "cancel",
        "label_matching")  # fmt: skip
"""Acts of all sequences, if their theme does not say otherwise."""

THEMES: dict[str, dict[str, int]] = {
    "records": {"register": 3, "report": 4, "write_as_foreigner": 3, "act_on_ghost": 2, "prune": 3, "describe": 3},
    "families": {"submit": 2, "resume": 6, "prune": 3, "validate": 1, "describe": 2, "prune_store": 1},
    "searches": {"calibrate": 4, "work_in_session": 4, "submit": 2, "resume": 2, "extend": 1, "label_matching": 3},
    "reuse": {"submit": 2, "extend": 4, "resume": 2, "delete_output": 3, "validate": 1, "prune_store": 1},
}
"""What sequences are about: their acts, and how often each is chosen beside the others."""


class Acts(RecordActs, StudyActs):
    """The acts of one sequence."""

    def __init__(
        self, world: World, machines: dict[str, Machine], store: VersionedStore, *more: Any, theme: str
    ) -> None:
        super().__init__(world, machines, store, *more)
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
        is_done = False
        while not is_done:
            with contextlib.suppress(ImpossibleError):
                getattr(self, self._chance.choices(acts, weights)[0])()
                is_done = True

    def sync(self) -> None:
        """Sync a cache."""
        machine = self._chance.choice("ab")
        self._run(machine, ["sync", *self._chance.choice(((), ("--full",)))], 0)
        self._world.synced(machine)

    def prune(self) -> None:
        """Prune a cache of the jobs that ended before a step."""
        self._job(lambda job: not job.is_active)
        step = self._chance.randint(1, len(self._began)) - 1
        machine = self._chance.choice("aaab")
        words = ["prune", "--older-than", "1h", "--yes"]
        self._run(machine, ["sync"], 0)
        self._world.synced(machine)
        self._run(machine, words, 0, at=self._began[step] + AN_HOUR)
        self._world.prune(machine, step)

    def prune_store(self) -> None:
        """Prune the events and the ledgers of jobs that have ended from the store, which keeps them by the hour."""
        self._job(lambda job: not job.is_active)
        self._run("a", ["prune", "--store", "--older-than", "1h", "--yes"], 0, at=self._began[-1] + 3 * AN_HOUR)
        self._world.prune_store()
