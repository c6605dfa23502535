"""A program of a user with every public name. Type checkers read it, and nothing runs it: see test_python_api.py."""

import logging
import sys
from typing import Any

import mopsjobs as mj

log = logging.getLogger(__name__)


def submit(reg: mj.Registry, betas: list[float]) -> mj.Job:
    study = mj.Study("model:simulate", mj.grid(beta=betas, gamma=(0.3, 0.4)), replicates=10, outputs=["result.json"])
    if study.tasks_total > 1000:
        study = mj.Study.from_file("small.yaml")
    try:
        return reg.submit(study, code=".", workers=4, max_cpu_hours=0.5, job_id="s-1")
    except mj.JobExistsError as taken:
        log.warning("%s", taken)
        return reg.job("s-1", max_age="5m")
    except mj.StudyError as error:
        sys.exit("; ".join(error.problems))
    except mj.UsageError as error:
        sys.exit(f"{error} {error.hint}")
    except mj.EngineError as error:
        sys.exit(error.exit_code)


def simulate(params: dict[str, Any], seed: int) -> dict[str, float]:
    task: mj.CurrentTask | None = mj.current()
    ck: mj.Checkpoint = mj.checkpoint()
    if ck.due():
        ck.save(params, at=seed)
    mj.log(seed=seed, attempt=1 if task is None else task.attempt or 1)
    return {"peak": params["beta"] / params["gamma"]}


def fit(reg: mj.Registry) -> list[dict[str, Any]]:
    found: mj.Calibration[mj.Job] = reg.calibrate("fit.json", code=".", workers=4, on_round=print)
    log.info("%s: %s rounds, %s", found.job.id, found.rounds, found.best)
    return [*found.top(5), *found.front(), *found.evaluations().rows]


def steer(reg: mj.Registry) -> list[float]:
    session: mj.Session[mj.Job]
    with reg.session("model:simulate", ".", replicates=2, workers=4, sweep="fit") as session:
        first: mj.Evaluation = session.submit({"beta": 0.1, "gamma": 0.3}, replicates=1)
        try:
            peaks: list[float] = [one["peak"] for one in session.map([{"beta": 0.2}, {"beta": 0.3}])]
            return [first.result(60)["peak"], *peaks, *(len(one.params) for one in session.as_completed())]
        except mj.TaskFailedError as error:
            log.warning("%s of %s: %s", error.task, error.job_id, error.error["message"])
            return []


def submit_cell(reg: mj.Registry) -> mj.Job:
    cell: mj.Cell = mj.cell(simulate)
    log.info("%s", cell.source)
    return reg.submit(mj.Study(cell, mj.grid(beta=[0.1], gamma=[0.3])))


def peaks(reg: mj.Registry, jobs: list[mj.Job]) -> dict[str, float]:
    found: dict[str, float] = {}
    for job in reg.as_completed(jobs, timeout="2h", interval=5):
        for row in job.results():
            found[row["param_id"]] = row["peak"]
    return found


def finish(job: mj.Job) -> list[dict[str, Any]]:
    log.info("%s", job.watch(60).status)
    info: mj.JobInfo = job.wait("2h", interval=5)
    share: float = info.progress or 0.0
    log.info("%s %s %.0f %% %s", info.job_id, info["status"], 100 * share, info.age)
    try:
        job.raise_for_status()
    except mj.JobPartialError as error:
        child: mj.Job | None = job.resume(only="oom", code=".", memory="8G", retries=2, trust=["context:prod"])
        log.warning("%s goes on as %s", error.job_id, child and child.id)
    except (mj.JobFailedError, mj.JobCancelledError, mj.JobNotFinishedError) as error:
        sys.exit(error.exit_code)
    except mj.JobEndError as error:
        log.error("%s", error.status)  # noqa: TRY400 - no traceback
    results: mj.Results = job.results()
    return results.sets().rows + results.best("peak", 3).rows


def look(job: mj.Job) -> None:
    lowest: list[dict[str, Any]] = job.explain("peak", offline=True)["separates"]
    log.info("%s", lowest)
    try:
        tasks: mj.Table = job.tasks("failed,succeeded", ["beta>0.1"], sort="-seconds", limit=10, refresh=True)
        reduced: list[bytes] = [job.reduced()["result.json"], job.reduced({"beta": 0.1})["result.json"]]
    except (mj.NoManifestError, mj.NoOutputsError):
        return
    names: list[str] = tasks.columns
    lines: list[str] = job.logs(task=[row["task"] for row in tasks], tail=20)
    tasks.to_csv("tasks.csv")
    failures: mj.Failures = job.failures(offline=True)
    groups: list[dict[str, Any]] = failures["groups"]
    kinds = {event["kind"] for event in job.events("task_failed")}
    log.info("%s %s %s %s %s %s", names, lines, reduced, groups, kinds, job.provenance()["study"])


def stop(reg: mj.Registry, name: str) -> str | None:
    try:
        return reg.job(name).cancel("too long", trust=["context:prod"]).status
    except mj.JobNotFoundError:
        return None
    except mj.AmbiguousJobError as error:
        return ", ".join(error.candidates)
    except mj.TerminalStateError as error:
        return error.from_status
    except (mj.NotTrustedError, mj.JobBusyError) as error:
        return error.hint


def survey(reg: mj.Registry) -> int:
    active = reg.jobs(status="active", label={"exp": 7}, hours=48, sort="-updated", offline=True)
    counts = reg.query("SELECT status, count(*) AS jobs FROM jobs GROUP BY status", timeout="10s")
    try:
        report: dict[str, Any] | None = reg.sync(full=True)
    except (mj.StoreAccessError, mj.StoreUnavailableError) as outage:
        report = {"error": str(outage)}
    except (mj.StoreError, mj.CacheError) as error:
        raise SystemExit(error.exit_code) from error
    log.info("%s %s %s", active.age, counts.rows, report)
    return len(active)


def record(url: str) -> int:
    records = mj.JobRegistry(mj.open_store(url))
    state = records.register_job("nightly-2", owner="me", tasks_total=10)
    try:
        state = records.finalize_job(state.job_id, "succeeded")
    except (mj.InvalidTransitionError, mj.RecordError) as error:
        log.warning("%s", error)
    except mj.TooManyRetriesError as error:
        log.warning("%s was lost %d times", error.key, error.attempts)
    return sum(records.count_jobs_by_status().values()) if records.get_job("nightly-2") == state else 0


if __name__ == "__main__":
    log.info("mops-jobs %s", mj.__version__)
    try:
        registry = mj.connect("sqlite:///tmp/registry.db", cache="cache.db")
    except mj.ConfigError:
        registry = mj.connect()
    except mj.MopsJobsError as failure:
        sys.exit(failure.exit_code)
    with registry:
        submitted = submit(registry, [0.1, 0.2])
        print(*finish(submitted), peaks(registry, [submitted, submit_cell(registry)]), survey(registry), sep="\n")
        look(submitted)
        stop(registry, submitted.id)
    record("memory:")
