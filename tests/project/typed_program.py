"""A program of a user with every public name. Type checkers read it, and nothing runs it: see test_python_api.py."""

import asyncio
import logging
import sys
from typing import Any

import mopsjobs as mj

log = logging.getLogger(__name__)


def study_of(betas: list[float]) -> mj.Study:
    sets = mj.grid(beta=betas, gamma=(0.3, 0.4))
    sets.append({"params": {"beta": 0.5, "gamma": 0.5}, "seed": 7})
    study = mj.Study("model:simulate", sets, replicates=10, outputs=["result.json"], metadata={"why": "a sweep"})
    return study if study.tasks_total < 1000 else mj.Study.from_file("small.yaml")


def submit(reg: mj.Registry, study: mj.Study) -> mj.Job:
    try:
        return reg.submit(
            study,
            code=".",
            workers=4,
            first=2,
            max_failures="10%",
            check_determinism=2,
            labels={"exp": 7},
            job_id="s-1",
        )
    except mj.JobExistsError as taken:
        log.warning("%s", taken)
        return reg.job("s-1", max_age="5m")
    except mj.NotDeterministicError as error:
        sys.exit(error.hint)
    except mj.StudyError as error:
        sys.exit("; ".join(error.problems))
    except mj.UsageError as error:
        sys.exit(f"{error} {error.hint}")
    except mj.EngineError as error:
        sys.exit(error.exit_code)


def simulate(params: dict[str, Any], seed: int) -> dict[str, float]:
    task: mj.CurrentTask | None = mj.current()
    mj.log(seed=seed, attempt=1 if task is None else task.attempt or 1)
    return {"peak": params["beta"] / params["gamma"]}


def submit_cell(reg: mj.Registry) -> mj.Job:
    cell: mj.Cell = mj.cell(simulate)
    log.info("%s", cell.source)
    return reg.submit(mj.Study(cell, mj.grid(beta=[0.1], gamma=[0.3])))


def peaks(reg: mj.Registry, jobs: list[mj.Job]) -> dict[str, float]:
    found: dict[str, float] = {}
    for job in reg.as_completed(jobs, timeout="2h"):
        for task in job.as_completed(60, interval=5):
            why: str | None = task.error
            if why is None:
                found[task.param_id] = task.scalars["peak"]
    return found


async def states_of(reg: mj.Registry, *job_ids: str) -> list[str | None]:
    jobs: list[mj.Job] = [reg.job(job_id) for job_id in job_ids]
    ended: list[mj.JobInfo] = await asyncio.gather(*(asyncio.to_thread(job.wait, "2h") for job in jobs))
    return [info.status for info in ended]


def summary(job: mj.Job) -> list[bytes]:
    try:
        return [job.reduced()["result.json"], job.reduced({"beta": 0.1})["result.json"]]
    except mj.NoOutputsError:
        return []


def slowest(job: mj.Job) -> mj.TaskInfo:
    return max(job.as_completed(), key=lambda task: task.seconds or 0.0)


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
    return job.results(mean=True, quantiles=[0.05, 0.95]).rows


def look(job: mj.Job) -> None:
    try:
        tasks: mj.Table = job.tasks("failed,succeeded", ["beta>0.1"], sort="-seconds", limit=10, refresh=True)
    except mj.NoManifestError:
        return
    names: list[str] = tasks.columns
    for row in tasks:
        log.info("%s", {name: row[name] for name in names})
    if len(tasks) > 0:
        lines: list[str] = job.logs(task=tasks[0]["task"], tail=20)
        log.info("\n".join(lines))
    tasks.to_csv("tasks.csv")
    job.reduced_table().to_csv("means.csv")
    tasks.to_parquet("tasks.parquet")
    failures: mj.Failures = job.failures(offline=True)
    groups: list[dict[str, Any]] = failures["groups"]
    kinds = {event["kind"] for event in job.events("task_failed")}
    log.info("%s %s %s", groups, kinds, job.provenance()["study"])


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
    except mj.StoreAccessError:
        raise
    except mj.StoreUnavailableError as outage:
        report = {"error": str(outage)}
    except (mj.StoreError, mj.CacheError) as error:
        raise SystemExit(error.exit_code) from error
    log.info("%s %s %s", active.age, counts.rows, report)
    return len(active)


def nightly(days: range) -> list[int]:
    reported: mj.Report
    with mj.report("nightly-1", owner="me", labels={"exp": 7}, total=len(days)) as reported:
        squares = [day * day for day in reported.track(days)]
        reported.advance()
        reported.progress(len(days), len(days))
        log.info("%s %d/%s", reported.job.id, reported.done, reported.total)
    return squares


def record(url: str) -> int:
    records = mj.JobRegistry(mj.open_store(url))
    state = records.register_job("nightly-2", owner="me", tasks_total=10)
    state = records.update_progress(state.job_id, tasks_completed=5, start=True)
    try:
        state = records.finalize_job(state.job_id, "succeeded")
    except (mj.InvalidTransitionError, mj.RecordError) as error:
        log.warning("%s", error)
    except mj.TooManyRetriesError as error:
        log.warning("%s was lost %d times", error.key, error.attempts)
    found = records.get_job("nightly-2")
    log.info("%s", [job.job_id for job in records.list_jobs(status_filter=["running", "validating"])])
    return sum(records.count_jobs_by_status().values()) if found == state else 0


def main() -> None:
    log.info("mops-jobs %s", mj.__version__)
    try:
        reg = mj.connect("sqlite:///tmp/registry.db", cache="cache.db")
    except mj.ConfigError:
        reg = mj.connect()
    with reg:
        job = submit(reg, study_of([0.1, 0.2]))
        print(*finish(job), sep="\n")
        print(peaks(reg, [job, submit_cell(reg)]), slowest(job).number)
        look(job)
        survey(reg)
        stop(reg, job.id)
        log.info("%s", asyncio.run(states_of(reg, "a", "b")))
    nightly(range(10))
    record("memory:")


if __name__ == "__main__":
    try:
        main()
    except mj.MopsJobsError as error:
        sys.exit(error.exit_code)
