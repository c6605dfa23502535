"""The process of a runner that was launched on this machine: how it is noted, and whether it has ended.

A process id is used again, so the start of the process counts too. Machines and containers may share a home directory,
and a machine may have restarted. Only a process that this one would see is known to have ended.

A listing imports this module, so it imports little.
"""

from __future__ import annotations

import contextlib
import json
import os

from mopsjobs.utils.user_dirs import HAS_USERS

BY_ITSELF = "by itself"
WITH_MACHINE = "with its machine"
"""How a process has ended."""

Note = dict[str, object]

ENDED = -1
"""In place of the start of a process."""

FIRST_NAMESPACE = "pid:[4026531836]"
"""The namespace of all processes of a machine. Those of containers have other numbers."""


def machine() -> str:
    """Return what tells apart the machines, and the containers on them, that may share a home directory."""
    name = os.uname().nodename if HAS_USERS else os.environ.get("COMPUTERNAME", "")
    return f"{name} {_namespace()}".rstrip()


def _namespace() -> str:
    with contextlib.suppress(OSError):
        return os.readlink("/proc/self/ns/pid")
    return ""


def _boot_id() -> str | None:
    """Return what tells apart the starts of machines; None if the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
    return None


def process_start(pid: int) -> int | None:
    """Return when a process started, in ticks since boot.

    Returns:
        `ENDED` for a process that has ended with all its threads, and that its parent has not awaited. None if the
        system does not tell.
    """
    with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        # The second field is a name in parentheses, which may hold anything.
        fields = file.read().rpartition(")")[2].split()
        # A killed thread that waits for a disk lives on for a moment, and with it the locks of the process.
        has_ended = fields[0] == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
        return ENDED if has_ended else int(fields[19])
    return None


def note_of(pid: int) -> Note:
    """Return what is noted of the process of a runner at its launch."""
    return {"pid": pid, "started": process_start(pid), "machine": machine(), "boot": _boot_id()}


def read_note(path: str | os.PathLike[str]) -> Note:
    """Return the note of a runner; empty if there is none, or none that can be read."""
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        note = json.load(file)
        return note if isinstance(note, dict) else {}
    return {}


def has_process(pid: int) -> bool:
    """Return whether this machine has a process of this id, of any user."""
    if not HAS_USERS:  # Windows, where no runner starts, would send a Ctrl-C by `os.kill`
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # there is one, of another user
        return True
    except (OSError, OverflowError):
        return False
    return True


def is_alive(note: Note) -> bool:
    """Return whether the process of a note is alive, as this machine sees processes."""
    pid = note.get("pid")
    if not isinstance(pid, int) or not has_process(pid):
        return False
    started = process_start(pid)
    return started is None or (started != ENDED and note.get("started") == started)


def end_of(note: Note) -> str | None:
    """Return how the process of a note is known to have ended: `BY_ITSELF` or `WITH_MACHINE`.

    None if it may be alive: also on another machine, or in another container. The name and the number of a container
    that was restarted may be those of another one.
    """
    if note.get("machine") != machine() or is_alive(note):
        return None
    if note.get("boot") == _boot_id():
        return BY_ITSELF
    return WITH_MACHINE if _namespace() == FIRST_NAMESPACE else None
