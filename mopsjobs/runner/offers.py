"""The tasks that a shard of an adaptive study shares with shards whose own tasks have ended: one document in the store.

The owner of a set decides it, and counts its tasks. It offers some that it has not begun. A helper takes what it can
run at once, and tells how they ended when their outputs are in the store. Both change the document by compare-and-swap.

    {"version": 1, "run": "9f…", "write": "c0…", "seconds": 31.5, "offered": [412, 413],
     "taken": {"2.77…": [4, [408, 409]]}, "ended": {"407": [0.31], "406": "ValueError: as asked"}}

`run` is that of the owner. Helpers do nothing more for an earlier run. A helper is named by shard and run. Its first
number grows at least every `BEAT_SECONDS` while it has tasks. Without that, it counts as lost, and the owner runs its
tasks. A later run of the helper gives them back. A duplicate is harmless: it leaves the same outputs. A task that has
succeeded has the values of the targets, in their order. `write` is drawn for each write, so no two documents are equal.

Each side does what is left to do, by the document that it reads. So a lost reply needs no care.
"""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError
from mopsjobs.utils.json_strict import is_count, is_number, read_json

VERSION = 1

MAX_OFFERED = 512

LATENCY_SECONDS = 2.0
"""How long it takes about until a task that was offered begins elsewhere. The owner keeps what it begins before."""

BEAT_SECONDS = 15.0

LOST_SECONDS = 50.0
"""After which a helper counts as lost that has not written, as the owner has seen by its own clock. It is less than the
time for which other helpers wait."""

MAX_TEXT = 1000
"""Characters of an error."""

End = list[Any] | str
"""How a task has ended: the values of the targets, or the error."""


class Taken(NamedTuple):
    """The tasks of a helper."""

    beat: int
    tasks: tuple[int, ...]


class Document(NamedTuple):
    """The offers of one run of a shard."""

    run: str
    seconds: float = 0.0
    """How long a task takes, about."""
    offered: tuple[int, ...] = ()
    taken: Mapping[str, Taken] = {}
    ended: Mapping[int, End] = {}

    def encode(self) -> bytes:
        """Return the document as it is stored."""
        fields = {"version": VERSION, "write": secrets.token_hex(8), **self._asdict()}
        return json.dumps(fields, separators=(",", ":")).encode()


def parse(value: bytes) -> Document | None:
    """Return a stored document; None if it is not one, so that its owner writes it anew."""
    try:
        fields: Any = read_json(value)
        if fields["version"] != VERSION:
            return None
        members = fields["taken"].items()
        taken = {str(name): Taken(_numbers([beat])[0], _numbers(tasks)) for name, (beat, tasks) in members}
        ended = {int(number): _end(end) for number, end in fields["ended"].items()}
        seconds = fields["seconds"] if is_number(fields["seconds"]) else 0.0
        return Document(str(fields["run"]), float(seconds), _numbers(fields["offered"]), taken, ended)
    except (RecordError, KeyError, TypeError, ValueError, AttributeError):
        return None


def _numbers(values: Sequence[object]) -> tuple[int, ...]:
    if not all(map(is_count, values)):
        raise ValueError("invalid numbers")
    return tuple(values)  # type: ignore[arg-type]


def _end(value: object) -> End:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if not isinstance(value, list) or not all(one is None or is_number(one) for one in value):
        raise TypeError("invalid end")
    return value


def count_to_offer(waiting: int, offered: int, taken: int, free: int, workers: int, seconds: float) -> int:
    """Return how many more tasks a shard offers.

    It keeps those that it begins before a helper could, offers as many as helpers have idle workers, and shares the
    rest by workers.

    Args:
        waiting: its tasks that may begin.
        offered: those that it offers, and that no helper has.
        taken: those that helpers have.
        free: the workers of helpers.
        workers: its own.
        seconds: how long a task takes, about.
    """
    left = waiting + offered
    kept = math.ceil(min(left, LATENCY_SECONDS * workers / seconds)) if seconds > 0 else left
    spare, idle = left - kept, max(0, free - taken)
    shared = min(spare, idle + max(0, spare - idle) * free // max(1, free + workers))
    return max(0, min(shared, MAX_OFFERED) - offered)


def count_to_take(in_hand: int, workers: int, seconds: float) -> int:
    """Return how many more tasks a helper takes: those that it runs until it can take others.

    Args:
        in_hand: tasks of others that it has, and that have not ended.
        workers: its workers.
        seconds: how long a task takes, about.
    """
    rounds = max(1, math.ceil(min(MAX_OFFERED, LATENCY_SECONDS / seconds))) if seconds > 0 else 1
    return max(0, min(MAX_OFFERED, workers * rounds) - in_hand)


class OwnerTurn(NamedTuple):
    """The answer of an owner to the document that it has read."""

    document: Document | None
    """The next one; None if nothing has to change."""
    ended: dict[int, End]
    """The tasks that helpers have ended, which the owner has not seen before."""
    returned: list[int]
    """Those that the owner runs itself, once the document is written."""


@dataclasses.dataclass
class OwnerSide:
    """The tasks that a shard has given away.

    Args:
        run: the run of the shard.
    """

    run: str

    def __post_init__(self) -> None:
        self.away: set[int] = set()
        """Those that have neither ended nor come back."""
        self.wanted = 0
        """How many of those that no helper has are to come back."""
        self.seconds = 0.0
        self.offered = self.taken = 0
        """Of those that are away: how many are only offered, and how many helpers have, by the last document."""
        self._beats: dict[str, tuple[Taken, float]] = {}
        """What helpers have written last, and since when."""

    def forgive(self) -> None:
        """Let helpers begin anew to count as lost: the store was away, also for them."""
        self._beats = {}

    def turn(self, found: Document | None, now: float, *, leaves: bool = False) -> OwnerTurn:
        """Return what to write, and what has ended. Tasks that have ended are away no more.

        Args:
            found: the document, as it was read; None if there is none.
            now: by a monotonic clock, in seconds.
            leaves: whether all tasks come back, since the owner ends.
        """
        is_own = found is not None and found.run == self.run
        before = found if found is not None and is_own else Document(self.run)
        ended = {number: end for number, end in before.ended.items() if number in self.away}
        self.away -= ended.keys()
        taken: dict[str, Taken] = {}
        for helper, theirs in before.taken.items():
            tasks = tuple(number for number in theirs.tasks if number in self.away)
            if self._beats.get(helper, (None, 0.0))[0] != theirs:
                self._beats[helper] = theirs, now
            if tasks and not leaves and now - self._beats[helper][1] < LOST_SECONDS:
                taken[helper] = theirs._replace(tasks=tasks)
        at_helpers = {number for theirs in taken.values() for number in theirs.tasks}
        lost = {number for theirs in before.taken.values() for number in theirs.tasks} & self.away - at_helpers
        offered = [number for number in before.offered if number in self.away and number not in at_helpers | lost]
        offered += sorted(self.away - at_helpers - lost - set(offered))
        kept = 0 if leaves else max(0, len(offered) - self.wanted)
        returned = [*sorted(lost), *offered[kept:]]
        after = Document(self.run, self.seconds, tuple(offered[:kept]), taken)
        self.offered, self.taken = kept, len(at_helpers)
        is_same = after._replace(seconds=before.seconds) == before
        needs_write = not is_same if is_own else found is not None or bool(self.away)
        return OwnerTurn(after if needs_write else None, ended, returned)

    def confirm(self, turn: OwnerTurn) -> None:
        """Note that a document was written: the owner has the tasks that have come back."""
        self.away -= set(turn.returned)
        self.wanted = 0


class HelperTurn(NamedTuple):
    """The answer of a helper to a document that it has read."""

    document: Document | None
    """The next one; None if nothing has to change."""
    taken: list[int]
    """The tasks that it has once the document is written."""
    told: list[int]
    """Those whose ends it has told then."""


@dataclasses.dataclass
class HelperSide:
    """The tasks that a shard has of one other shard.

    Args:
        name: the name of the helper.
        may_run: returns whether a number is that of a task which the other shard may offer.
    """

    name: str
    may_run: Callable[[int], bool]

    def __post_init__(self) -> None:
        self.run = ""
        """The run of the other shard."""
        self.hand: set[int] = set()
        self.ends: dict[int, End] = {}
        """How those ended that have."""
        self._written_at = -math.inf

    @property
    def n_open(self) -> int:
        """Count the tasks that have not ended."""
        return len(self.hand - self.ends.keys())

    def turn(
        self,
        found: Document | None,
        now: float,
        workers: int,
        in_hand: int,
        may_tell: Callable[[int], bool],
        leaves: Collection[int] | None = None,
    ) -> HelperTurn:
        """Return what to write. Tasks that the owner has taken back are forgotten.

        Args:
            found: the document, as it was read; None if there is none.
            now: by a monotonic clock, in seconds.
            workers: those of the helper; 0: it takes no more.
            in_hand: its tasks that have not ended, also of other shards.
            may_tell: returns whether the outputs of a task are in the store.
            leaves: tasks that it gives back.
        """
        if found is None or found.run != self.run:
            self._forget(self.hand.copy())
            self.run = "" if found is None else found.run
        if found is None:
            return HelperTurn(None, [], [])
        shard = self.name.partition(".")[0]
        earlier = {name for name in found.taken if name != self.name and name.partition(".")[0] == shard}
        left = [number for name in earlier for number in found.taken[name].tasks]
        beat, mine = found.taken.get(self.name, Taken(0, ()))
        self._forget(self.hand - set(mine))
        told = [number for number in mine if number in self.ends and may_tell(number)]
        back = [number for number in mine if number in (leaves or ()) and number not in told]
        rest = [number for number in mine if number not in told and number not in back]
        most = count_to_take(in_hand, workers, found.seconds) if workers else 0
        fresh = [number for number in found.offered if self.may_run(number) and number not in mine][:most]
        offered = [*left, *back, *(number for number in found.offered if number not in fresh)]
        is_same = not (told or back or fresh or earlier)
        if is_same and (not rest or now - self._written_at < BEAT_SECONDS):
            return HelperTurn(None, self._unknown(rest), [])
        taken = {name: theirs for name, theirs in found.taken.items() if name not in earlier and name != self.name}
        if rest or fresh:
            taken[self.name] = Taken(beat + 1, (*rest, *fresh))
        ended = {**found.ended, **{number: self.ends[number] for number in told}}
        after = found._replace(offered=tuple(offered), taken=taken, ended=ended)
        return HelperTurn(after, self._unknown([*rest, *fresh]), [*told, *back])

    def confirm(self, turn: HelperTurn, now: float) -> None:
        """Note what was written, if anything was."""
        if turn.document is not None:
            self._written_at = now
        self._forget(set(turn.told))
        self.hand |= set(turn.taken)

    def _unknown(self, numbers: Sequence[int]) -> list[int]:
        """Return those that are not in hand; of a write whose reply was lost, too."""
        return [number for number in numbers if number not in self.hand and self.may_run(number)]

    def _forget(self, numbers: set[int]) -> None:
        self.hand -= numbers
        for number in numbers:
            self.ends.pop(number, None)
