"""What users do with studies: they run, resume, extend and validate them, lose outputs, and kill their runners."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time

from mopsjobs.ledger.environment import environment_keys
from reliability.trial import hold
from reliability.views.actor import EXIT_REFUSED, IDS, Actor
from reliability.views.commands import LIMIT_SECONDS
from reliability.views.model import EXIT_CODES, LOST, MISSING, SUCCEEDED, Job, Study

MODEL = '''
"""A model whose tasks end as their parameters say."""
import os, time

def simulate(params, seed):
    mode, flag = params["mode"], params["flag"]
    if mode == "gate" and not os.path.exists(flag):
        open(flag + ".reached", "a").close()
        end = time.monotonic() + 120
        while not os.path.exists(flag) and time.monotonic() < end:
            time.sleep(0.005)
    if mode.endswith("-once") and os.path.exists(flag):
        mode = "ok"
    if mode.startswith("fail"):
        raise ValueError("as asked")
    if mode.startswith("die"):
        os._exit(3)
    return {"y": params["x"] * 10 + 0.5}
'''


class StudyActs(Actor):
    """Acts on jobs with tasks. Each returns whether it was possible."""

    def submit(self) -> bool:
        """Submit a study, and wait for its end."""
        return self._submit(None)

    def extend(self) -> bool:
        """Submit a study that has the tasks of another and more, and reuses the outputs of that."""
        source = self._job(lambda job: job.study is not None and not job.is_active)
        return source is not None and self._submit(source)

    def _submit(self, source: Job | None) -> bool:
        world = self._world
        free = [job_id for job_id in IDS if job_id not in world.jobs]
        if not free or (source is not None and self._is_unsure(source)):
            return False
        if source is None:
            modes = self._chance.choices(
                ("ok", "fail", "fail-once", "die-once"), (5, 1, 3, 2), k=self._chance.randint(1, 4)
            )
            study = Study(f"s{world.step}", tuple(modes), self._chance.choice((1, 1, 2)))
        else:
            assert source.study is not None
            study = Study(source.study.name, (*source.study.modes, "ok"), source.study.replicates)
        job = Job(self._chance.choice(free), study=study)
        words = ["submit", self._write_study(study), "--auto", "--workers", "1", "--retries", "0", "--wait", "-q"]
        words += ["--job-id", job.job_id]
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
        world.caches["a"].ledgers.add(job.job_id)  # the wait has told why tasks failed
        return True

    def resume(self) -> bool:
        """Resume the newest job of a family; all that is missing, or what ended in one way."""
        world = self._world
        some = self._job(lambda job: job.study is not None and not job.is_active)
        if some is None:
            return False
        job = world.newest(some.job_id)
        if job.is_active or self._is_unsure(job):
            return False
        assert job.study is not None
        if self._chance.random() < 0.7:
            self._repair(job.study)
        if some.job_id != job.job_id and self._chance.random() < 0.3:
            self._run("a", ["resume", some.job_id], EXIT_REFUSED)
            return True
        missing = world.missing(job.job_id)
        only = self._chance.choice((None, None, "failed", "died", "lost"))
        chosen = [task for task, end in missing.items() if only in (None, end)]
        words = ["resume", job.job_id, "--wait", *(() if only is None else ("--only", only))]
        if not chosen:
            is_told = not any(member.was_killed for member in world.lineage(job.job_id))
            self._run("a", words, EXIT_CODES[job.status] if not missing else 0 if is_told else None)
            return True
        child = Job(world.child_id(job.job_id), parent=job.job_id, study=job.study, labels=job.labels_to_inherit())
        child.deferred = tuple(task for task in missing if task not in chosen)
        world.run(child, chosen)
        self._run("a", words, EXIT_CODES[child.status])
        world.jobs[child.job_id] = child
        world.changed(child.job_id, "a")
        world.caches["a"].ledgers.add(child.job_id)
        return True

    def validate(self) -> bool:
        """Validate a job that has ended: its status stays."""
        job = self._job(lambda job: job.study is not None and not job.is_active and not self._is_unsure(job))
        if job is None:
            return False
        self._run("a", ["validate", job.job_id], 0)
        return True

    def delete_output(self) -> bool:
        """Delete an output by hand, rather one that another job reuses."""
        used = {owner for job in self._world.jobs.values() for owner in job.reused.values()}
        fits = [job for job in self._world.jobs.values() if SUCCEEDED in job.ends.values() and not self._is_unsure(job)]
        fits = [job for job in fits if job.job_id in used] or fits
        job = self._chance.choice(fits) if fits else None
        if job is None:
            return False
        prefix = f"results/{job.job_id}/"
        keys = [key for key in self._store.list_keys(prefix) if key.endswith("/result.json")]
        if not keys:
            return False
        key = self._chance.choice(sorted(keys))
        task = self._task_of(job, key)
        self._store.delete(key)
        self._world.deleted.add((job.job_id, task))
        self.log.append(f"by hand: delete {key}, of task {task}")
        return True

    def _task_of(self, job: Job, key: str) -> int:
        """Return the task whose output this is, by the value in it and the seeds of its set."""
        assert job.study is not None
        held = self._store.get(key)
        assert held is not None
        x = round((json.loads(held.value)["y"] - 0.5) / 10)
        rows = self._machines["a"].look("results", job.job_id, "--json").objects
        (task,) = [row["task"] for row in rows if row["key"] == key]
        hold(job.study.x(task) == x, f"{key} has the value of x={x}, and is named as an output of task {task}")
        return int(task)

    def _repair(self, study: Study) -> None:
        if study.name not in self._world.repaired:
            self._world.repaired.add(study.name)
            (self._flags / study.name).touch()
            self.log.append(f"by hand: repair the study {study.name}")

    def _write_study(self, study: Study, **modes: str) -> str:
        flag = str(self._flags / study.name)
        sets = [{"x": x, "mode": mode, "flag": flag} for x, mode in enumerate(study.modes)]
        document = {
            "model": "model:simulate", "parameter_sets": sets, "n_replicates": study.replicates,
            "outputs": ["result.json"],
        }  # fmt: skip
        path = self._flags / f"{study.name}-{len(sets)}.json"
        path.write_text(json.dumps(document))
        return str(path)

    def kill_runner(self) -> bool:
        """Kill a runner while its second task is at work. The next view ends the job by its outputs."""
        world = self._world
        free = [job_id for job_id in IDS if job_id not in world.jobs]
        if not free:
            return False
        study = Study(f"s{world.step}", ("ok", "gate", "ok"), 1)
        job = Job(self._chance.choice(free), study=study, was_killed=True)
        words = ["submit", self._write_study(study), "--auto", "--workers", "1", "--retries", "0", "--wait", "-q"]
        process = self._machines["a"].start(*words, "--job-id", job.job_id)
        reached, end = self._flags / f"{study.name}.reached", time.monotonic() + LIMIT_SECONDS
        while not reached.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        hold(reached.exists(), f"{job.job_id} did not reach its gate: {process.poll()}")
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
        world.changed(job.job_id, "a")
        return True

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
