"""What the shards of a job used, and when they expect to end: the fields `usage` and `forecast` of a record. Pure.

Each shard writes its own numbers, as it does with its counts. Those of a job are sums, the largest peak, and the
latest end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mopsjobs.errors import command_line
from mopsjobs.utils.forecast import hang_seconds
from mopsjobs.utils.times import human_duration

if TYPE_CHECKING:
    from mopsjobs.registry.job_state import JobState

Number = float | None


class ShardUsage(NamedTuple):
    """The resources that a shard or a job has used so far. A number that was not measured is None."""

    cpu_seconds: Number
    """Processor time of the tasks, in user mode and in the kernel."""
    task_seconds: Number
    """How long tasks took, each attempt added up."""
    held_core_seconds: Number
    """How long workers were held for tasks, each added up, whether they had one or not."""
    max_rss_bytes: Number
    """The largest peak of resident memory of a task."""
    saved_seconds: Number = None
    """How long tasks had worked before the checkpoints that attempts went on from, each attempt added up."""

    @property
    def cpu_efficiency(self) -> float | None:
        """Return the share of the held processor time that tasks used, 0 to 1; None if it was not measured."""
        if self.cpu_seconds is None or not self.held_core_seconds:
            return None
        return min(1.0, self.cpu_seconds / self.held_core_seconds)


class Stragglers(NamedTuple):
    """The tasks at work that take longer than the finished ones explain."""

    tasks: int
    """How many."""
    oldest: int
    """The number of the one that has been at work for longest."""
    since: float
    """When that began, in seconds since 1970."""
    usual_seconds: float
    """The time within which 95 % of the finished tasks ended."""

    def hang(self, at: float) -> bool:
        """Return whether the oldest of them hangs at a time, in seconds since 1970."""
        return at - self.since > hang_seconds(self.usual_seconds)


def straggler_text(seconds: float, usual_seconds: float) -> str:
    """Return how long a straggler has been at work, and how long the finished tasks took."""
    usual = human_duration(math.ceil(usual_seconds))
    return f"at work for {human_duration(seconds)}; 95 % of the finished tasks took at most {usual}"


def late_text(stragglers: Any) -> str:
    """Return how long the stragglers of a job in its JSON form are at work."""
    others = "" if stragglers["tasks"] == 1 else f", of {stragglers['tasks']:,} such tasks"
    text = straggler_text(stragglers["seconds"], stragglers["usual_seconds"])
    return f"task {stragglers['oldest']}{others}: {text}"


def time_limit_text(job_id: object, seconds: float) -> str:
    """Return that a job or a shard is stopped before it has finished, and what to type when the job has ended."""
    resume = command_line("resume", job_id, "--time MINUTES")
    return f"will not finish before its time limit in {human_duration(seconds)}. Then run what is missing: {resume}"


class ShardForecast(NamedTuple):
    """The expected end of a shard or a job. Times are seconds since 1970."""

    earliest: Number
    """The range of its end; None while it is too early to say."""
    latest: Number
    at_work: int
    """Tasks at work."""
    stragglers: Stragglers | None = None
    time_limit: Number = None
    """When its cluster stops a shard that will not finish before; None if it should finish, or if nothing stops it."""


NO_SHARD_USAGE = ShardUsage(None, None, None, None)


def encode_usage(usage: ShardUsage) -> list[Number]:
    """Return the numbers of a shard as the record has them. Few have the last one."""
    values = [None if value is None else round(value, 2) for value in usage]
    return values if values[-1] is not None else values[:-1]


def usage_fields(usage: ShardUsage) -> dict[str, Number]:
    """Return the fields of a job's JSON that tell what it used."""
    efficiency = usage.cpu_efficiency
    fields = {name: None if value is None else round(value, 2) for name, value in usage._asdict().items()}
    peak = fields.pop("max_rss_bytes")
    return {**fields, "cpu_efficiency": None if efficiency is None else round(efficiency, 4), "max_rss_bytes": peak}


def usage_json(state: JobState) -> str | None:
    """Return `usage_fields` of a job as JSON; None if its record does not tell what it used."""
    return json.dumps(usage_fields(total_usage(state)), separators=(",", ":")) if state.usage else None


def usage_from_json(text: str | None) -> ShardUsage:
    """Return what `usage_json` was made of."""
    values = {} if text is None else json.loads(text)
    return ShardUsage(*(values.get(name) for name in ShardUsage._fields))


def encode_forecast(forecast: ShardForecast) -> list[Number]:
    """Return the forecast of a shard as the record has it: three numbers, or seven if there are stragglers.

    A time limit is an earliest end without a latest one, which older versions read as no forecast.
    """
    earliest, latest, at_work, stragglers, time_limit = forecast
    if time_limit is not None:
        earliest, latest = time_limit, None
    late = [] if stragglers is None else [*stragglers[:3], round(stragglers.usual_seconds, 2)]
    return [*(None if value is None else round(value, 1) for value in (earliest, latest)), at_work, *late]


def shard_usage(state: JobState, shard: int) -> ShardUsage:
    """Return what the record says about one shard."""
    values = state.usage.get(str(shard))
    return NO_SHARD_USAGE if values is None else ShardUsage(*values)  # type: ignore[misc]


def total_usage(state: JobState) -> ShardUsage:
    """Return what all shards of a job have used."""
    return add_usage(ShardUsage(*values) for values in state.usage.values())  # type: ignore[misc]


def add_usage(parts: Iterable[ShardUsage]) -> ShardUsage:
    """Return the sums and the largest peak. What no part knows is None."""
    columns: list[Sequence[Number]] = list(zip(*parts, strict=True)) or [()] * len(ShardUsage._fields)
    cpu, task, held, peaks, saved = ([value for value in column if value is not None] for column in columns)
    return ShardUsage(_sum(cpu), _sum(task), _sum(held), max(peaks, default=None), _sum(saved))


def usage_at_least(usage: Mapping[str, Any], known: Mapping[int, ShardUsage]) -> dict[str, object]:
    """Return the field `usage` with no number below what is known of a shard. Workers are held while tasks run."""
    found: dict[str, object] = dict(usage)
    for shard, part in known.items():
        reported = ShardUsage(*(usage.get(str(shard)) or NO_SHARD_USAGE))
        pairs = zip(reported, part._replace(held_core_seconds=part.task_seconds), strict=True)
        largest = (max((value for value in pair if value is not None), default=None) for pair in pairs)
        found[str(shard)] = encode_usage(ShardUsage(*largest))
    return found


def _sum(values: Sequence[float]) -> float | None:
    return sum(values) if values else None


def job_forecast(state: JobState) -> ShardForecast | None:
    """Return what a job expects; None if no shard has a forecast.

    The job ends with its last shard. So its range is known if that of each shard is that has work left.
    """
    if not state.forecast:
        return None
    shards = [_decode_forecast(values) for values in state.forecast.values()]  # type: ignore[arg-type]
    unfinished = {shard for shard, counts in state.shards.items() if not counts[2]}  # type: ignore[index]
    is_known = unfinished <= state.forecast.keys() and all(one.latest is not None for one in shards)
    late = [one.stragglers for one in shards if one.stragglers is not None]
    first = min(late, key=lambda one: one.since, default=None)
    return ShardForecast(
        max(one.earliest or 0.0 for one in shards) if is_known else None,
        max(one.latest or 0.0 for one in shards) if is_known else None,
        sum(one.at_work for one in shards),
        None if first is None else first._replace(tasks=sum(one.tasks for one in late)),
        max((one.time_limit for one in shards if one.time_limit is not None), default=None),
    )


def has_hanging_task(state: JobState, at: float) -> bool:
    """Return whether a task of one of the shards hangs at a time, in seconds since 1970."""
    shards = (_decode_forecast(values).stragglers for values in state.forecast.values())  # type: ignore[arg-type]
    return any(one is not None and one.hang(at) for one in shards)


def _decode_forecast(values: Sequence[Number]) -> ShardForecast:
    earliest, latest, at_work, *late = values
    time_limit = earliest if latest is None else None
    if earliest is None or latest is None:
        earliest = latest = None
    stragglers = None
    if len(late) == 4 and None not in late:
        tasks, oldest, since, usual = late
        stragglers = Stragglers(int(tasks or 0), int(oldest or 0), since or 0.0, usual or 0.0)
    return ShardForecast(earliest, latest, int(at_work or 0), stragglers, time_limit)


def with_usage(usage: Mapping[str, object], shard: str, report: ShardUsage | None) -> dict[str, object]:
    """Return the field `usage` with the numbers of a shard; None leaves them as they are."""
    return dict(usage) if report is None else {**usage, shard: encode_usage(report)}
