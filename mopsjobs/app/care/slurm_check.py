"""Describe the Slurm of this machine, for `doctor`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping

from mopsjobs.engines.slurm.commands import Commands

SECONDS = 10.0
"""How long a command may take."""

_SETTING = re.compile(r"^(ClusterName|AccountingStorageType|MaxArraySize)\s*=\s*(\S+)", re.ASCII | re.MULTILINE)


def describe_slurm(env: Mapping[str, str]) -> str:
    """Return its version, its cluster, whether it keeps accounts, and the largest job array.

    Raises:
        EngineError: if its controller does not answer.
    """
    commands = Commands(env, SECONDS)
    version = commands.ask("scontrol", "--version").split()[-1:]
    settings = dict(_SETTING.findall(commands.ask("scontrol", "show", "config")))
    kind = settings.get("AccountingStorageType", "none").rpartition("/")[2]
    keeps = kind not in ("none", "(null)") and shutil.which("sacct", path=env.get("PATH")) is not None
    facts = [f"Slurm {' '.join(version)}", f"cluster {settings.get('ClusterName', '?')}"]
    facts.append("accounts by sacct" if keeps else "no accounts: Slurm forgets a job minutes after its end")
    if size := settings.get("MaxArraySize"):
        facts.append(f"up to {int(size) - 1:,} shards per job" if size.isdecimal() else f"MaxArraySize {size}")
    return ", ".join(facts)
