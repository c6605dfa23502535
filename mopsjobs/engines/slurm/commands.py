"""Run the commands of Slurm: by lists of words, within a time limit, with their errors told apart."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping

from mopsjobs.engines.base import RefusedError
from mopsjobs.engines.model_env import without_secrets
from mopsjobs.errors import EngineAccessError, EngineError, EngineUnavailableError, shorten

SECONDS = 30.0
"""How long a command may take. Slurm's own limit for one message is 10 seconds by default, and commands try again."""

QUESTION_SECONDS = 5.0
"""How long a command may take that asks for the state of a job. Views and followers wait for the answer."""

MAX_SHOWN = 500
"""Characters of what a command says that a message shows, at most."""

FOUND_BY = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT")
"""Variables by which the commands find their cluster. Other variables of Slurm describe the job that this runs in.

SLURM_CLUSTERS and SBATCH_CLUSTERS are not among them: a job would run on a cluster that no other command looks at.
"""

UNSUITABLE = ("SBATCH_CLUSTERS", "SBATCH_WAIT")
"""Variables that sbatch must not get."""

OWN_PREFIXES = ("SLURM_", "SQUEUE_", "SCONTROL_", "SACCT_", "SINFO_", "SCANCEL_")
"""Begin the names of variables that change what the commands print or do."""

OUTAGES = (
    "unable to contact",
    "unable to connect",
    "unable to establish",
    "connection refused",
    "connection timed out",
    "communication connection failure",
    "socket timed out",
    "zero bytes were transmitted",
    "receive failure",
    "transport endpoint is not connected",
    'failed to access "',
    "in standby mode",
    "temporarily unable",
)
"""Parts of what commands say, in small letters, when no controller answers."""

SILENCES = ("timed out", "receive failure", "zero bytes were transmitted", "communication connection failure")
"""Those that may come after the controller got the request."""

DENIALS = ("access/permission denied", "invalid authentication", "protocol authentication error", "invalid credential")
"""Parts of what commands say, in small letters, when the controller refuses the user."""

_PREFIX = re.compile(
    r"^(?:sbatch|squeue|scontrol|scancel|sacct|sinfo|slurm_load_jobs)(?:: | )(?:fatal: |error: )*"
    r"(?:Batch job submission failed: )?",
    re.ASCII,
)

MISSING_HINT = "Run mops-jobs on a login node of the cluster, or load its module first: module load slurm"


def is_installed(env: Mapping[str, str]) -> bool:
    """Return whether the commands of Slurm are on the PATH."""
    return shutil.which("squeue", path=env.get("PATH", "")) is not None


class NotConfiguredError(EngineUnavailableError):
    """The commands of Slurm are here, and find no cluster."""


class Commands:
    """The commands of Slurm, in an environment."""

    def __init__(self, env: Mapping[str, str], seconds: float = SECONDS) -> None:
        self._env = env
        self._seconds = seconds

    @contextlib.contextmanager
    def quick(self) -> Iterator[None]:
        """Give each command during the block `QUESTION_SECONDS`, unless `ask` gets another limit."""
        before = self._seconds
        self._seconds = min(before, QUESTION_SECONDS)
        try:
            yield
        finally:
            self._seconds = before

    def ask(self, *words: str, seconds: float | None = None) -> str:
        """Return what a command prints. It gets no secret.

        Args:
            words: the command.
            seconds: how long it may take; None: as the other commands.

        Raises:
            EngineUnavailableError: if the command does not exist, SLURM_CONF names no file, or no controller answers.
            EngineAccessError: if the controller refuses the user.
            RefusedError: if the command fails for another reason.
        """
        env = {
            name: value
            for name, value in without_secrets(self._env).items()
            if name in FOUND_BY or not name.startswith(OWN_PREFIXES)
        }
        # Times as seconds since 1970, and lists of the tasks of an array in full.
        own = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}
        return self._run(words, {**env, **own}, seconds)

    def submit(self, *words: str) -> str:
        """Return what `sbatch` prints. The job gets the environment of this process, without an outer job of Slurm.

        Raises:
            EngineUnavailableError, EngineAccessError, RefusedError: see `ask`. After `EngineUnavailableError`, the job
                may have been submitted.
        """
        env = {
            name: value
            for name, value in self._env.items()
            if name in FOUND_BY or not (name.startswith("SLURM_") or name in UNSUITABLE)
        }
        return self._run(("sbatch", *words), env)

    def _run(self, words: tuple[str, ...], env: Mapping[str, str], seconds: float | None = None) -> str:
        seconds = self._seconds if seconds is None else seconds
        program = self._path(words[0])
        configuration = self._env.get("SLURM_CONF")
        if configuration is not None and (not os.path.exists(configuration) or os.path.isdir(configuration)):
            # The commands would wait a minute for it.
            problem = f"invalid SLURM_CONF '{configuration}': expected a file."
            raise EngineUnavailableError(problem, hint="Correct SLURM_CONF, or unset it.")
        try:
            ran = subprocess.run(  # noqa: S603 - as the user's own shell finds it; a list of words
                [program, *words[1:]],
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            problem = f"Slurm does not answer: {words[0]} took more than {seconds:g} s."
            raise EngineUnavailableError(problem, silent=True) from None
        except OSError as error:
            raise EngineError(f"Slurm's command {program} cannot be started: {error.strerror}.") from None
        if ran.returncode == 0:
            return ran.stdout.decode("utf-8", "replace")
        raise _error(words[0], ran.stderr.decode("utf-8", "replace"), ran.returncode)

    def _path(self, command: str) -> str:
        """Return the path of a command.

        Raises:
            EngineUnavailableError: if it does not exist.
        """
        path = shutil.which(command, path=self._env.get("PATH", ""))
        if path is None:
            problem = f"Slurm's command {command} is not on the PATH of this machine."
            raise EngineUnavailableError(problem, hint=MISSING_HINT)
        return path


def _error(command: str, stderr: str, code: int) -> EngineError:
    """Return the error for a command that has failed."""
    lines = [_PREFIX.sub("", line).strip() for line in stderr.splitlines()]
    text = shorten("; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line)), MAX_SHOWN)
    words = text.lower()
    if "configuration source" in words or "process configuration file" in words:
        return NotConfiguredError(f"Slurm is not configured on this machine: {text}.", hint=MISSING_HINT)
    if any(part in words for part in OUTAGES):
        return EngineUnavailableError(f"Slurm does not answer: {text}.", silent=any(part in words for part in SILENCES))
    if any(part in words for part in DENIALS):
        return EngineAccessError(f"Slurm refuses access: {text}.")
    return RefusedError(f"Slurm refuses {command}: {text or f'exit code {code}'}.")
