"""A real Slurm on this machine: munged, slurmctld and slurmd, in a directory of their own and on free ports.

`python -P tests/support/slurm.py DIRECTORY COMMAND...` runs a command beside one, as
`./build.sh demo --engine slurm` does.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
"""What Debian's packages `munge` and `slurm-wlm` have."""

STARTS = 3
"""How often a Slurm is started: another process may take one of its ports before a daemon does."""

START_SECONDS = 300.0
STOP_SECONDS = 20.0

SILENCE_SECONDS = 300
"""That of Slurm itself."""

CPUS = 4
"""Processors of a node. Slurm hands out more than a small machine has: the tasks of tests mostly wait."""

CONFIG = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.sock,cred_expire=5
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory,CR_LLN
DefMemPerCPU=64
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=60
MinJobAge=3600
BatchStartTimeout=20
ReturnToService=1
SlurmdTimeout={silence}
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2
"""
"""A requeued job may not begin before `cred_expire` seconds have passed; by default, these are two minutes."""


def missing_programs() -> list[str]:
    """Return the programs of Slurm that this machine lacks."""
    return [name for name in PROGRAMS if _find(name) is None]


class Slurm:
    """A controller with its nodes, which are all on this machine."""

    def __init__(self, directory: Path, nodes: Sequence[str] = ("n1", "n2"), silence: int = SILENCE_SECONDS) -> None:
        """Write the configuration. Nothing is started yet.

        Args:
            directory: where everything lies. Its path is short, since it holds a socket.
            nodes: the names of the nodes, each a slurmd.
            silence: seconds after which a node that does not answer is down.
        """
        self.directory = directory
        self.nodes = tuple(nodes)
        self.env = {"SLURM_CONF": str(directory / "slurm.conf")}
        """The environment in which the commands of Slurm find it."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        controller_port, *node_ports = _free_ports(1 + len(self.nodes))
        lines = (
            f"NodeName={name} NodeHostname={_host()} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=2000"
            for name, port in zip(self.nodes, node_ports, strict=True)
        )
        text = CONFIG.format(
            host=_host(),
            controller_port=controller_port,
            directory=directory,
            user=getpass.getuser(),
            silence=silence,
            nodes="\n".join(lines),
        )
        for name in ("state", *(f"spool-{name}" for name in self.nodes)):
            (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / "slurm.conf").write_text(text)
        key = directory / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)

    def start(self) -> None:
        """Start the daemons, and return when all nodes are idle.

        Raises:
            RuntimeError: if one of them does not start.
        """
        own = self.directory
        self._start(
            *("munged", "--foreground", "--force", f"--key-file={own}/munge.key", f"--socket={own}/munge.sock"),
            *(f"--pid-file={own}/munged.pid", f"--seed-file={own}/munge.seed", f"--log-file={own}/munged.log"),
        )
        self._until((own / "munge.sock").exists, "munged")
        self._start("slurmctld", "-D", "-f", self.env["SLURM_CONF"])
        for node in self.nodes:
            self._start_node(node)
        self._until(self._is_idle, "the nodes")

    def _start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-f", self.env["SLURM_CONF"], "-N", node, name=f"slurmd-{node}")

    def cut_power(self, node: str) -> None:
        """Kill all processes of a node, and return when Slurm calls it down. Then it comes back.

        Raises:
            RuntimeError: if Slurm does not.
        """
        processes = {
            int(path.parent.name): path
            for path in Path("/proc").glob("[0-9]*/environ")
            if {f"SLURMD_NODENAME={node}", f"SLURM_CONF={self.env['SLURM_CONF']}"} <= set(_variables(path))
        }
        steps = {parent for pid in processes if "slurmstepd" in _command(parent := _parent(pid))}
        daemon = self._processes.pop(f"slurmd-{node}")
        for pid in (daemon.pid, *steps, *processes):  # nothing is left that could report an end
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait()
        state = ("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T")
        try:
            self._until(lambda: "down" in self._run(*state).stdout, f"the end of {node}")
        finally:
            self._start_node(node)

    def run(self, *words: str) -> str:
        """Run a command of Slurm, and return what it prints.

        Raises:
            RuntimeError: if it fails.
        """
        ran = self._run(*words)
        if ran.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {ran.stderr.strip()}")
        return ran.stdout

    def stop(self) -> None:
        """Cancel all jobs, and stop the daemons."""
        controller = self._processes.get("slurmctld")
        if controller is not None and controller.poll() is None:
            self._run("scancel", "--full", "--signal=KILL", f"--user={getpass.getuser()}")
            self._run("scancel", f"--user={getpass.getuser()}")
            with contextlib.suppress(RuntimeError):
                self._until(lambda: not self._run("squeue", "--noheader").stdout.strip(), "the end of jobs", 5.0)
        for process in reversed(self._processes.values()):
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def log(self) -> str:
        """Return the last lines that the daemons wrote."""
        texts = ((path.name, path.read_text(errors="replace")[-1500:]) for path in sorted(self.directory.glob("*.out")))
        return "\n".join(f"{name}: {text}" for name, text in texts)

    def _is_idle(self) -> bool:
        states = self._run("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").stdout.split()
        return states == ["idle"] * len(self.nodes)

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_find(words[0]) or words[0], *words[1:]],
            env={**os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def _start(self, *words: str, name: str | None = None) -> None:
        name = name or words[0]
        with (self.directory / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [_find(words[0]) or words[0], *words[1:]],
                cwd=self.directory,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C at the terminal stops them in their order
            )

    def _until(self, condition: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            ended = [name for name, process in self._processes.items() if process.poll() is not None]
            if ended or time.monotonic() > end:
                reason = f"{', '.join(ended)} ended" if ended else f"waited {seconds:g} s for {what}"
                raise RuntimeError(f"Slurm: {reason}.\n{self.log()}")
            time.sleep(0.05)


def _variables(environ: Path) -> list[str]:
    """Return the variables of a process; none if it has ended or is of another user."""
    with contextlib.suppress(OSError):
        return environ.read_text(errors="replace").split("\0")
    return []


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


@contextlib.contextmanager
def running(directory: Path, nodes: Sequence[str] = ("n1", "n2"), silence: int = SILENCE_SECONDS) -> Iterator[Slurm]:
    """Run a Slurm during the block. Each start has ports and a directory of its own.

    Raises:
        RuntimeError: if it does not start.
    """
    with contextlib.ExitStack() as stack:
        for number in range(1, STARTS + 1):
            slurm = Slurm(directory / str(number), nodes, silence)
            stack.callback(slurm.stop)
            try:
                slurm.start()
                break
            except RuntimeError:
                if number == STARTS:
                    raise
                slurm.stop()
        yield slurm


def _find(program: str) -> str | None:
    """Return the path of a program. Daemons lie where only root looks."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin")


def _host() -> str:
    """Return the name by which Slurm knows this machine."""
    return socket.gethostname().partition(".")[0]


def _free_ports(count: int) -> list[int]:
    """Return ports that Linux does not give away by itself: none is taken until a daemon listens there."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        for port in random.SystemRandom().sample(range(15_000, 30_000), 100):
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
    return found[:count]


def main(argv: Sequence[str]) -> int:
    """Run a command beside a Slurm, and return its exit code."""
    directory, *command = argv
    if missing := missing_programs():
        raise SystemExit(f"There is no {', '.join(missing)}. On Debian: apt-get install slurm-wlm munge.")
    shutil.rmtree(directory, ignore_errors=True)
    with running(Path(directory).resolve()) as slurm:
        return subprocess.run(command, env={**os.environ, **slurm.env}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
