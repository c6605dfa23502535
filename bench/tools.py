"""The programs and libraries of others that we are compared with: what requirements/bench.lock and peers.lock name.

They are installed into build/bench and build/peers, apart from what the tests use.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from bench.machine import ROOT
from bench.measure import progress

LOCK = ROOT / "requirements" / "bench.lock"
PEERS_LOCK = ROOT / "requirements" / "peers.lock"
_VENV = ROOT / "build" / "bench"


def rclone() -> str:
    """Return the rclone program.

    Raises:
        RuntimeError: if it cannot be installed.
    """
    return str(_installed() / "bin" / "rclone")


def packages() -> str:
    """Return the folder with azure-storage-blob and submitit, for PYTHONPATH.

    Raises:
        RuntimeError: if they cannot be installed.
    """
    names = {"base": str(_installed()), "platbase": str(_installed())}
    return sysconfig.get_path("purelib", "venv", names)


def rclone_version() -> str:
    """Return what rclone says that it is."""
    told = subprocess.run([rclone(), "version"], check=True, capture_output=True, text=True).stdout
    return told.splitlines()[0].removeprefix("rclone ")


def version(package: str) -> str:
    """Return the version of a peer's package in requirements/peers.lock, and "" of none."""
    found = re.search(rf"^{package}==(\S+)", PEERS_LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else ""


@functools.cache
def environment(package: str) -> Path:
    """Return the environment of a peer in build/peers; "" is one without packages.

    Raises:
        RuntimeError: if it cannot be installed.
    """
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--native-tls", "--compile-bytecode"]
    venv = ROOT / "build" / "peers" / (package or "mops-jobs")
    install = [*uv, "--python", str(venv / "bin" / "python"), "--constraint", str(PEERS_LOCK), package]
    return _made(venv, PEERS_LOCK, install if package else None)


@functools.cache
def _installed() -> Path:
    install = [str(_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    return _made(_VENV, LOCK, [*install, "--requirement", str(LOCK)])


def _made(venv: Path, lock: Path, install: list[str] | None) -> Path:
    """Return a virtual environment that `install` has filled from this version of the lock."""
    stamp = venv / lock.name
    if not stamp.is_file() or stamp.read_bytes() != lock.read_bytes():
        progress(f"installing from {lock.name} into {venv.relative_to(ROOT)}")
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        for argv in ([sys.executable, "-m", "venv", "--clear", str(venv)], install):
            if argv and subprocess.run(argv, env=clean).returncode != 0:
                raise RuntimeError(f"{venv.name} could not be installed from {lock.name}.")
        stamp.write_bytes(lock.read_bytes())
    return venv
