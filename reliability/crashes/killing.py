"""Killing a script again and again, and looking at what it left each time."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from mopsjobs.whole_file import SUFFIX
from reliability.crashes.processes import Ended, Forker, Instants
from reliability.trial import PromiseBroken, hold

MEASURED = 3
"""Runs to the end that tell how long a script takes."""
OWN_SUFFIXES = ("", "-wal", "-shm", "-journal", ".lock", ".build")
"""What may lie beside a cache or a registry, however often somebody was killed."""

Script = Sequence[Sequence[str]]


def killing(
    forker: Forker,
    script: Callable[[], Script],
    chance: random.Random,
    wanted: int,
    *,
    prepare: Callable[[], None],
    look: Callable[[Ended], None],
    cwd: Path | None = None,
) -> Instants:
    """Kill a script again and again, at instants that are spread over the time that it takes.

    Args:
        forker: runs it.
        script: gives what is killed, each time.
        chance: where the instants come from.
        wanted: how many kills are to fall inside.
        prepare: called before each run.
        look: called after each kill.
        cwd: where it runs.

    Raises:
        PromiseBroken: `look` has found something. The text says how often it went well before.
    """
    took = []
    for _ in range(MEASURED):
        prepare()
        took.append(forker.run(*script(), cwd=cwd).seconds)
    instants = Instants(chance, statistics.median(took), wanted)
    for instant in instants:
        prepare()
        words = script()
        ended = forker.run(*words, cwd=cwd, kill_after=instant)
        instants.note(ended)
        try:
            look(ended)
        except PromiseBroken as error:
            told = f"{' '.join(words[0][:3])}, killed after {instant:.4f} s of {instants.seconds:.4f}"
            raise PromiseBroken(f"{told}, kill {instants.tried}: {error}") from None
    return instants


def check_leftovers(path: Path) -> None:
    """Nothing lies beside a file of ours but what always may.

    Raises:
        PromiseBroken: something does, and would be one more each time.
    """
    allowed = {f"{path.name}{part}{suffix}" for part in ("", SUFFIX) for suffix in OWN_SUFFIXES}
    left = {one.name for one in path.parent.iterdir() if one.name.startswith(path.name)} - allowed
    hold(not left, f"left behind: {', '.join(sorted(left))}")
