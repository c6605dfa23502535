"""What users and other programs do to records: they report, label, cancel, and act on ids that no job has."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime

from bench.machine import ROOT
from reliability.trial import hold
from reliability.views.actor import (
    EXIT_NO_SUCH_JOB,
    EXIT_PARTLY_DONE,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    IDS,
    Actor,
)
from reliability.views.commands import LIMIT_SECONDS
from reliability.views.model import ARCHIVED, ENDS, ORDER, Job


class RecordActs(Actor):
    """Acts on records. Each returns whether it was possible."""

    def register(self) -> bool:
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
            return True
        machine = self._machine()
        self._run(machine, words, 0)
        self._world.jobs[job_id] = job
        self._world.changed(job_id, machine)
        return True

    def report(self) -> bool:
        """Report the status or the progress of a job."""
        job = self._job(lambda job: job.study is None)
        if job is None:
            return False
        words, change = self._report(job)
        machine = self._machine()
        if not job.is_active:  # the same end again changes nothing
            is_same = words[0] == "update" and words[2] == job.status
            self._run(machine, words, 0 if is_same else EXIT_REFUSED)
            return True
        self._run(machine, words, 0)
        change()
        self._world.changed(job.job_id, machine)
        return True

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

    def describe(self) -> bool:
        """Label a job, or note something about it."""
        job = self._job()
        if job is None:
            return False
        words, change = self._description(job)
        machine = self._machine()
        self._run(machine, words, 0)
        change()
        self._world.changed(job.job_id, machine)
        return True

    def _description(self, job: Job) -> tuple[list[str], Callable[[], None]]:
        text = f"step {self._world.step}"
        if self._chance.random() < 0.4:
            return ["note", job.job_id, text], lambda: setattr(job, "note", text)
        label, value = self._chance.choice((("k", str(self._world.step)), (ARCHIVED, "true")))
        is_same = job.labels.get(label) == value  # which would change nothing
        if is_same or (label in job.labels and self._chance.random() < 0.5):
            rest = {name: text for name, text in job.labels.items() if name != label}
            return ["label", job.job_id, f"{label}-"], lambda: setattr(job, "labels", rest)
        labels = job.labels | {label: value}
        return ["label", job.job_id, f"{label}={value}"], lambda: setattr(job, "labels", labels)

    def cancel(self) -> bool:
        """Cancel a job, or try to cancel one that has ended."""
        job = self._job(lambda job: job.study is None or not job.is_active)
        if job is None:
            return False
        if not job.is_active and job.status != "cancelled":
            self._run("a", ["cancel", job.job_id], EXIT_REFUSED)
            return True
        if job.status in ("submitting", "validating", "cancelled"):
            return False
        self._run("a", ["cancel", job.job_id], EXIT_PARTLY_DONE if job.is_foreign else 0)  # there is no cluster
        job.status = "cancelled"
        self._world.changed(job.job_id, "a")
        return True

    def act_on_ghost(self) -> bool:
        """Act on an id that no job has, and with which ids of jobs begin: nothing is found, in no language."""
        ghosts = [ghost for ghost in IDS if ghost not in self._world.jobs and self._begins(ghost)]
        if not ghosts:
            return False
        ghost = self._chance.choice(ghosts)
        verb = self._chance.choice(("cancel", "label", "note", "update", "progress", "resume", "python"))
        more = {"label": ["k=ghost"], "note": ["ghost"], "update": ["failed"], "progress": ["1/2"]}
        if verb == "python":
            program = f"import mopsjobs as mj\nwith mj.connect() as reg: reg.job({ghost!r}).cancel()"
            machine = self._machines["a"]
            words = machine.words()[:1]
            self.log.append(f"a: python -c {program!r}")
            ran = subprocess.run(
                [*words, "-c", program], env=machine.env | {"PYTHONPATH": str(ROOT)},
                capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False,
            )  # fmt: skip
            refused = any(name in ran.stderr for name in ("JobNotFoundError", "AmbiguousJobError"))
            hold(refused, f"Python cancelled {ghost}: {ran.stdout}{ran.stderr}")
            return True
        self._run("a", [verb, ghost, *more.get(verb, [])], EXIT_NO_SUCH_JOB)
        return True

    def write_as_foreigner(self) -> bool:
        """Let a program that does not know mops-jobs write a record."""
        world, now = self._world, datetime.now(UTC).isoformat()
        job = self._job(lambda job: job.study is None and job.is_active)
        if job is None or self._chance.random() < 0.4:
            free = [job_id for job_id in IDS if job_id not in world.jobs]
            if not free:
                return False
            job = Job(self._chance.choice(free), status="running", total=6, completed=2, is_foreign=True)
            record = {
                "job_id": job.job_id, "status": "running", "created_at": now, "updated_at": now, "k8s_name": "k",
                "k8s_namespace": "modelops", "metadata": {}, "tasks_total": 6, "tasks_completed": 2,
            }  # fmt: skip
            created = self._store.create_if_absent(_key(job.job_id), json.dumps(record, indent=2).encode())
            hold(created is not None, f"{job.job_id} exists, and the model has no such job")
            world.jobs[job.job_id] = job
        else:
            held = self._store.get(_key(job.job_id))
            assert held is not None
            later = [status for status in ("running", "validating") if ORDER.index(job.status) < ORDER.index(status)]
            job.status = self._chance.choice([*later, *ENDS])
            job.completed = self._chance.randint(job.completed, job.total or 10)
            record = json.loads(held.value)
            record |= {"status": job.status, "updated_at": now, "tasks_completed": job.completed}
            put = self._store.put(_key(job.job_id), json.dumps(record, indent=2).encode(), held.version)
            hold(put is not None, f"{job.job_id} was changed meanwhile")
        self.log.append(f"foreign: {job.job_id} {job.status} {job.completed}/{job.total}")
        world.changed(job.job_id, None)
        return True

    def kill_command(self) -> bool:
        """Kill a command at some instant: it has done what it does, or nothing."""
        job = self._job(lambda job: job.is_active and job.study is None)
        if job is None:
            return False
        before = self._world.snapshot()[job.job_id]
        words, change = (self._report if self._chance.random() < 0.5 else self._description)(job)
        change()
        self._machines["a"].kill(*words, after=self._chance.uniform(0, 1.5 * self._seconds))
        held = self._store.get(_key(job.job_id))
        assert held is not None
        record = json.loads(held.value)
        found = (
            record["status"],
            record.get("tasks_completed") or 0,
            record.get("tasks_failed") or 0,
            record.get("labels") or {},
            record["metadata"].get("note"),
        )
        states = {
            name: (one.status, one.completed, one.failed, one.labels, one.note)
            for name, one in (("landed", job), ("lost", before))
        }
        self.log.append(f"a: mops-jobs {' '.join(words)}, killed: {'landed' if found == states['landed'] else 'lost'}")
        hold(found in states.values(), f"a killed command left {found}, not one of {states}")
        if found != states["landed"]:
            self._world.jobs[job.job_id] = before
        self._run("a", ["sync"], 0)
        if found == states["landed"]:
            self._world.changed(job.job_id, None)
        self._world.synced("a")
        return True

    def act_in_outage(self) -> bool:
        """Act while the registry does not answer: it is said, and nothing has changed."""
        job = self._job(lambda job: job.is_active and job.study is None)
        if self._outage is None or job is None:
            return False
        words, _ = (self._report if self._chance.random() < 0.5 else self._description)(job)
        self.log.append("the registry does not answer:")
        self._run("a", words, EXIT_UNREACHABLE, env=self._outage)
        return True

    def _begins(self, ghost: str) -> bool:
        return any(job_id.startswith(ghost) for job_id in self._world.jobs)


def _key(job_id: str) -> str:
    return f"jobs/{job_id}/state.json"
