"""The Python API as a user's checker and a user's interpreter see it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.docs import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = '''
"""A program of a user."""
import asyncio
from typing import Any

import mopsjobs as mj


async def seconds(study: mj.Study) -> float:
    async with mj.aconnect("sqlite:///tmp/registry.db") as reg:
        job: mj.AsyncJob = await reg.submit(study, code=".", workers=4)
        infos: tuple[mj.JobInfo, mj.JobInfo] = await asyncio.gather(job.wait("2h"), job.wait())
        table: mj.Table = await job.tasks(status="failed", refresh=True)
        lines: list[str] = await job.logs(task=3)
        print(len(infos), table.rows, lines)
        return sum([task.seconds or 0.0 async for task in job.as_completed()])


def main() -> list[dict[str, Any]]:
    study = mj.Study("model:simulate", mj.grid(beta=[0.1, 0.2]), replicates=10, outputs=["result.json"])
    with mj.connect("sqlite:///tmp/registry.db", cache="cache.db") as reg:
        job: mj.Job = reg.submit(study, code=".", workers=4, task_timeout="5m", labels={"exp": 7})
        info: mj.JobInfo = job.wait("2h")
        try:
            job.raise_for_status()
        except mj.JobPartialError as error:
            code: int = error.exit_code
            print(code, info.status)
        for task in job.as_completed(timeout="2h"):
            why: str | None = task.error
            print(task.number, why, task.scalars["peak"])
        ended: list[mj.Job] = list(reg.as_completed([job]))
        print(ended)
        seen: mj.JobInfo = job.watch(60, interval=5)
        job.results(mean=True, offline=True).to_csv(f"{seen.status}.csv")
        table: mj.Table = reg.jobs(status="active", label={"exp": 7}, hours=2, offline=True)
        table.to_csv("jobs.csv")
        with mj.report("nightly-1", total=10, registry=reg) as r:
            days: list[int] = [day + 1 for day in r.track(range(10))]
        return job.tasks(status="failed", refresh=True, limit=len(days)).rows
'''

WRONG = (
    PROGRAM.replace("workers=4", 'workers="4"')
    .replace("hours=2, offline=True", "hours=2, offlin=True")
    .replace('= job.wait("2h")', '= job.wat("2h")')
    .replace("task=3", 'task="3"')
    .replace("await job.tasks(", "job.tasks(")
)

LOOK = """
import sys
before = set(sys.modules)
import mopsjobs as mj
ours = {name for name in set(sys.modules) - before if name.startswith("mopsjobs")}
for name in mj.__all__: getattr(mj, name)
print(*sorted(ours))
print(*sorted(name for name in set(sys.modules) - before if "." not in name))
"""


@pytest.mark.slow
def test_a_program_of_a_user_is_typed(tmp_path: Path) -> None:
    """Mypy --strict accepts a program, and finds wrong types, an unknown argument and an unknown method."""
    for name, program in (("right", PROGRAM), ("wrong", WRONG)):
        (tmp_path / f"{name}.py").write_text(program)
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--follow-imports", "silent",
         "--cache-dir", str(tmp_path / "cache"), "right.py", "wrong.py"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )  # fmt: skip
    found = [line for line in ran.stdout.splitlines() if ": error: " in line]
    assert all(line.startswith("wrong.py") for line in found), ran.stdout
    assert len(found) == 6, ran.stdout


def test_the_import_is_light() -> None:
    """`import mopsjobs` imports no other module of it; all names together import neither a client nor a data frame."""
    ran = subprocess.run([sys.executable, "-c", LOOK], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    ours, others = ran.stdout.splitlines()
    assert ours == "mopsjobs"
    assert not {"azure", "boto3", "distributed", "flask", "lightkube", "numpy", "pandas", "requests"} & set(
        others.split()
    )
