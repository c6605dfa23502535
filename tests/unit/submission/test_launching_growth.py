"""Limits of a resumed job that grow: what the factors stand for on each engine."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.errors import OptionError
from mopsjobs.submission.launch_options import LaunchOptions, find_factors
from mopsjobs.submission.launching import grown_options

MIB = 2**20
LOCAL = {"task_memory": "200MiB", "task_timeout": "90"}
POD = {"memory": "4Gi", "cpu": "2"}


@pytest.mark.parametrize(
    ("engine", "recorded", "options", "memory", "timeout", "pod"),
    [
        ("local", LOCAL, {"factors": {"memory": 2.0}}, 400 * MIB, None, None),
        ("dask", LOCAL, {"factors": {"task_memory": 1.5}}, 300 * MIB, None, None),
        ("local", LOCAL, {"factors": {"task_timeout": 3.0}}, None, 270.0, None),
        ("local", {}, {"cluster": {"memory": "1GiB"}}, 1024 * MIB, None, None),
        ("local", LOCAL, {"task_timeout": 5.0}, None, 5.0, None),
        ("kubernetes", POD, {"factors": {"memory": 2.0}}, None, None, "8Gi"),
        ("kubernetes", {"memory": "1073741824"}, {"factors": {"memory": 2.0}}, None, None, "2Gi"),
        ("kubernetes", {**POD, **LOCAL}, {"factors": {"memory": 2.0}}, 400 * MIB, None, "8Gi"),
        ("kubernetes", LOCAL, {"factors": {"memory": 2.0}}, 400 * MIB, None, None),
        ("kubernetes", POD, {"cluster": {"memory": "16Gi"}}, None, None, "16Gi"),
        ("slurm", {"memory": "4G"}, {"factors": {"memory": 1.5}}, None, None, "6144M"),
        ("slurm", {"memory": "4G", **LOCAL}, {"factors": {"memory": 2.0}}, 400 * MIB, None, "8192M"),
    ],
)
def test_a_factor_stands_for_the_limit_of_the_earlier_launch(
    engine: str,
    recorded: dict[str, str],
    options: dict[str, Any],
    memory: int | None,
    timeout: float | None,
    pod: str | None,
) -> None:
    """Memory is that of a task, on a cluster that of a shard and of a task in it."""
    grown = grown_options(LaunchOptions(**options), engine, recorded)
    assert (grown.task_memory, grown.task_timeout, grown.cluster.get("memory")) == (memory, timeout, pod)
    assert not grown.factors


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("slurm", {"factors": {"time": 2.0}}, "invalid time 'x2': expected a limit like 2h, since the job had none"),
        ("local", {"factors": {"time": 2.0}}, "time has no effect with the local engine."),
        ("kubernetes", {"factors": {"time": 2.0}}, "time has no effect with the kubernetes engine."),
        ("local", {"factors": {"memory": 2.0}}, "invalid memory 'x2': expected a limit like 2GiB, since the job"),
        ("local", {"factors": {"task_memory": 1.5}}, "invalid task_memory 'x1.5': expected a limit like 2GiB, since"),
        ("kubernetes", {"factors": {"memory": 2.0}}, "invalid memory 'x2': expected a limit like 4Gi, since the job"),
        ("dask", {"factors": {"task_timeout": 2.0}}, "invalid task_timeout 'x2': expected a limit like 1h, since the"),
        ("local", {"cluster": {"memory": "much"}}, "invalid memory 'much': expected a size like 2GiB, or a factor"),
    ],
)
def test_what_cannot_grow_is_named(engine: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        grown_options(LaunchOptions(**options), engine, {"cpu": "2"})
    assert str(caught.value).startswith(message)


def test_only_texts_of_limits_are_factors() -> None:
    options = {"task_timeout": "x2", "memory": "4Gi", "task_memory": 5, "python": "x2", "workers": None}
    assert find_factors(options) == {"task_timeout": 2.0}


@pytest.mark.parametrize(("recorded", "grown"), [("1h30m", "180"), ("1-12:00:00", "4320"), ("90", "180")])
def test_the_time_limit_of_slurm_grows_in_minutes(recorded: str, grown: str) -> None:
    options = grown_options(LaunchOptions(factors={"time": 2.0}), "slurm", {"time": recorded})
    assert options.cluster == {"time": grown}
