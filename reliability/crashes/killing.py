"""Killing a script again and again, and looking at what it left each time."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from mopsjobs.utils.files import SUFFIX
from reliability.crashes.processes import Ended, Forker, Instants
from reliability.trial import PromiseBroken, hold

MEASURED = 3
"""Runs to the end that tell how long a script takes."""
OWN_SUFFIXES = ("", "-wal", "-shm", "-journal", ".lock", ".build")
"""What may lie beside a cache or a registry, however many processes were killed."""

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
    ends: Collection[int] = (0,),
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
        ends: the exit codes with which its commands may end without a kill.

    Raises:
        PromiseBroken: `look` has found something, too few kills fell inside, or a command did not do what it is for.
    """

    def check_end(words: Script, ended: Ended) -> None:
        is_whole = len(ended.codes) == len(words) and set(ended.codes) <= set(ends)
        hold(is_whole, f"{' '.join(words[0][:3])} and what follows ended with {ended.codes}: {ended.out[-500:]}")

    took = []
    for _ in range(MEASURED):
        prepare()
        words = script()
        ended = forker.run(*words, cwd=cwd)
        check_end(words, ended)
        took.append(ended.seconds)
    instants = Instants(chance, statistics.median(took), wanted)
    for instant in instants:
        prepare()
        words = script()
        ended = forker.run(*words, cwd=cwd, kill_after=instant)
        instants.note(ended)
        try:
            if not ended.is_killed:
                check_end(words, ended)
            look(ended)
        except PromiseBroken as error:
            told = f"{' '.join(words[0][:3])}, killed after {instant:.4f} s of {instants.seconds:.4f}"
            raise PromiseBroken(f"{told}, kill {instants.tried}: {error}") from None
    hold(instants.landed == wanted, f"{instants.landed} kills fell inside, of {wanted} wanted, {instants.tried} tried")
    return instants


def check_leftovers(path: Path) -> None:
    """Check that nothing lies beside a file of mops-jobs but what always may.

    Raises:
        PromiseBroken: something does, and would be one more each time.
    """
    allowed = {f"{path.name}{part}{suffix}" for part in ("", SUFFIX) for suffix in OWN_SUFFIXES}
    allowed.add(f"{path.name}.build{SUFFIX}")  # the lock of who makes it
    left = {one.name for one in path.parent.iterdir() if one.name.startswith(path.name)} - allowed
    hold(not left, f"left behind: {', '.join(sorted(left))}")
