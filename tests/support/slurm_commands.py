"""Programs with the names of Slurm's commands that print what a test has recorded, and note how they were called."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

HELD = (
    "JobId=12 ArrayJobId=12 ArrayTaskId=0-3%2 JobName=seir-1.mops-jobs UserId=ada(1000) GroupId=ada(1000) MCS_label=N/A"
    " Priority=0 Nice=0 Account=(null) QOS=(null) JobState=PENDING Reason={reason} Dependency=(null) Requeue=1"
    " Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:00 TimeLimit=01:30:00 SubmitTime=1795723200"
    " EligibleTime=1795723200 AccrueTime=1795723200 StartTime=Unknown EndTime=Unknown Deadline=N/A"
    " Partition=main AllocNode:Sid=login:1 ReqNodeList=(null) ExcNodeList=(null) NodeList= NumNodes=1-1 NumCPUs=1"
    " Command=/home/ada/a JobState=RUNNING WorkDir=/home/ada Comment=for JobName=other"
)
"""A line of `scontrol --oneliner show job` for shards that wait."""

TASK = (
    "JobId={id} ArrayJobId=12 ArrayTaskId={shard} JobName=seir-1.mops-jobs UserId=ada(1000) JobState={state}"
    " Reason={reason} Dependency=(null) Requeue=1 Restarts={restarts} ExitCode={exit} RunTime=00:01:00"
    " StartTime=1795723200 EndTime={end} Partition=main NodeList=n1"
)


def waiting(reason: str = "Resources") -> str:
    """Return the line of four shards that wait for this reason."""
    return HELD.format(reason=reason)


def task(
    shard: int, state: str, *, reason: str = "None", exit_code: str = "0:0", restarts: int = 0, end: str = "1795723260"
) -> str:
    """Return the line of a shard that has begun."""
    return TASK.format(
        id=13 + shard, shard=shard, state=state, reason=reason, exit=exit_code, restarts=restarts, end=end
    )


class FakeSlurm:
    """A directory of such programs, to be put on the PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.env = {"PATH": f"{directory}{os.pathsep}/usr/bin{os.pathsep}/bin"}
        directory.mkdir()
        self.says("scontrol", "ClusterName             = lab\n")
        for program in ("squeue", "sbatch", "scancel"):
            self.says(program)
        self.says("sacct", "Slurm accounting storage is disabled\n", code=1)

    def says(self, program: str, text: str = "", *, code: int = 0, **on_words: str) -> None:
        """Let a program print a text; on standard error if its exit code is not 0.

        Args:
            program: its name.
            text: what it prints.
            code: its exit code.
            on_words: by words among its arguments, with `_` for a blank, the lines of the shell that it runs instead.
        """
        cases = "".join(
            f"*{shlex.quote(words.replace('_', ' '))}*)\n{lines}\n;;\n" for words, lines in on_words.items()
        )
        to = ">&2" if code else ""
        path = self.directory / program
        path.write_text(
            "#!/bin/sh\n"
            f'echo "{program} $*" >> {self.directory}/asked\n'
            f"env > {self.directory}/env-{program}\n"
            f'case "$*" in\n{cases}*)\nprintf %s {shlex.quote(text)} {to}\nexit {code}\n;;\nesac\n'
        )
        path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        """Return the command lines so far."""
        path = self.directory / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def environment_of(self, program: str) -> dict[str, str]:
        """Return the environment of the last call of a program."""
        lines = (self.directory / f"env-{program}").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)
