"""Write the batch script of a launch. Each word is quoted, and no secret is in it: Slurm shows scripts to operators.

The environment of a shard is that of `sbatch`, unless the cluster or the user says otherwise by `SBATCH_EXPORT`. So the
credentials of the registry reach the runner as variables, or by what the setup reads.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from mopsjobs.engines.base import STOPS_AT, Launch, shard_arguments
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.slurm.options import signal_seconds, wants_file_drop, wants_requeue, workers

EXIT_TIME_LIMIT = 124
"""The exit code of a shard that stopped ahead of its time limit, as `timeout` has it."""

EXIT_NOT_FOUND = 127
"""The exit code of a shard whose node has no mops-jobs, as shells have it."""

EXIT_SETUP = 126
"""The exit code of a shard whose setup failed."""

_HEAD = """\
#!/bin/bash
# A shard of a job of mops-jobs; `mops-jobs status {job}` shows the job.
export JOB_COMPLETION_INDEX=$SLURM_ARRAY_TASK_ID
# SQLite cannot share a file among nodes, so each shard keeps its outbox in a directory of its own.
export XDG_STATE_HOME={directory}/shards/$SLURM_ARRAY_TASK_ID
# Before the setup, which may be slow: without a trap, SIGUSR1 ends the shell.
near_limit=
is_stopping=
runner=
stop() {{ is_stopping=1; [ -z "$runner" ] || kill -TERM "$runner" 2>/dev/null; }}
trap 'near_limit=1; stop' USR1
trap stop TERM
"""

_LIMIT = """\
# When the shard gets its signal; the runner tells then that it will not finish before.
[ -z "$SLURM_JOB_END_TIME" ] || export {variable}=$((SLURM_JOB_END_TIME - {ahead}))
"""

_SETUP = """\
{setup}
code=$?
if [ $code -ne 0 ] && [ -z "$is_stopping" ]; then
  echo "mops-jobs: the setup failed (exit code $code)." >&2
  exit {exit_setup}
fi
"""

_RUN = """\
for path in {files}; do
  if [ ! -e "$path" ]; then
    echo "mops-jobs: $(hostname) has no $path: MOPS_JOBS_UNPACK and XDG_STATE_HOME name paths that all nodes share." >&2
    exit {exit_not_found}
  fi
done
code=143
runner=
if [ -z "$is_stopping" ]; then
  {command} &
  runner=$!
  [ -z "$is_stopping" ] || stop
fi
while [ -n "$runner" ]; do
  wait "$runner"
  code=$?
  # A signal interrupts the wait: 138 and 143 may then be its numbers, not those of the runner.
  kill -0 "$runner" 2>/dev/null || break
done
if [ -n "$near_limit" ] && {{ [ $code -eq 143 ] || [ $code -eq 138 ]; }}; then
  echo "mops-jobs: stopped ahead of the time limit; finished tasks are kept." >&2
{requeue}  exit {exit_time_limit}
fi
exit $code
"""

_REQUEUE = """\
  ended=$(tail -n 20 {log} 2>/dev/null | sed -n 's/.*: stopped, \\(.* done, .* failed.*\\);.*/\\1/p' | tail -n 1)
  before=$(cat "$XDG_STATE_HOME/ended" 2>/dev/null)
  saved=
  case "$ended" in *saved) saved=1; ended=${{ended%, *}} ;; esac
  if [ -n "$saved" ] || {{ [ -n "$ended" ] && [ "$ended" != "${{before:-0 tasks done, 0 failed}}" ]; }}; then
    printf %s "$ended" > "$XDG_STATE_HOME/ended"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60
  else
    echo "mops-jobs: not requeued, since no task has ended or saved in this run: the time limit is too short." >&2
  fi
"""
"""Slurm ends the script when it has requeued the shard; the pause is for that.

A task that is longer than the time limit would begin again without end. So the script compares what the runner said at
its end with what it said the time before. A task that has saved a checkpoint goes on.
"""


def write_script(launch: Launch, directory: Path, command: Sequence[str]) -> str:
    """Return the script of all shards.

    Args:
        launch: what to run.
        directory: that of the job, which all nodes share.
        command: the words that start mops-jobs: an interpreter, and a file.

    Raises:
        OptionError: if an option is not valid.
    """
    script = _HEAD.format(job=launch.job_id, directory=shlex.quote(str(directory)))
    if not wants_requeue(launch.options):  # else it goes on after its limit
        script += _LIMIT.format(variable=STOPS_AT, ahead=signal_seconds(launch.options, launch.grace))
    script += "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(launch.env.items()))
    if setup := launch.options.get("setup"):
        script += _SETUP.format(setup=setup, exit_setup=EXIT_SETUP)
    return script + _RUN.format(
        files=shlex.join(command),
        # Without PYTHONHOME and PYTHONPATH, which the setup may set for the model's interpreter.
        command=shlex.join([command[0], "-E", *command[1:], *_arguments(launch, directory)]),
        requeue=_REQUEUE.format(log=_log(directory)) if wants_requeue(launch.options) else "",
        exit_not_found=EXIT_NOT_FOUND,
        exit_time_limit=EXIT_TIME_LIMIT,
    )


def _log(directory: Path) -> str:
    """Return the path of the log of a shard, in words of the shell."""
    return f"{shlex.quote(str(directory))}/slurm-${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID.log"


def _arguments(launch: Launch, directory: Path) -> list[str]:
    """Return the arguments of `mops-jobs`. The script sets the index of the shard in JOB_COMPLETION_INDEX."""
    drop = JobDir(directory).drop
    where = ["--file-drop", str(drop)] if wants_file_drop(launch.options) else ["--registry", launch.registry_url]
    return shard_arguments(launch, where, workers(launch))
