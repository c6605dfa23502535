"""The options of a launch on Slurm: what they become for sbatch, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mopsjobs.engines.base import Launch
from mopsjobs.engines.slurm.options import megabytes, minutes, sbatch_flags, split_start_flags
from mopsjobs.errors import OptionError, UsageError

ALWAYS = ["--nodes=1", "--ntasks=1"]


def _flags(options: dict[str, str] | None = None, **launch: Any) -> list[str]:
    return sbatch_flags(Launch(job_id="seir-1", registry_url="sqlite:///r.db", options=options or {}, **launch))


def test_a_launch_without_options_asks_for_one_core() -> None:
    """A shard stops 60 seconds ahead of a time limit, and is not requeued."""
    assert _flags() == ["--array=0-0", *ALWAYS, "--cpus-per-task=1", "--no-requeue", "--signal=B:USR1@60"]


def test_each_option_becomes_a_flag() -> None:
    options = {
        "partition": "short,long", "account": "p1", "qos": "high", "time": "1h30m", "cpu": "8", "memory": "4G",
        "gres": "gpu:1", "constraint": "[rack1|rack2]", "parallelism": "2", "requeue": "yes", "signal": "2m",
        "setup": "module load gcc", "sbatch_arg": "--nice=100 '--comment=a b' --hold",
    }  # fmt: skip
    assert _flags(options, shards=4) == [
        "--array=0-3%2", *ALWAYS, "--cpus-per-task=8", "--mem=4096M", "--time=90", "--partition=short,long",
        "--account=p1", "--qos=high", "--constraint=[rack1|rack2]", "--gres=gpu:1", "--requeue", "--signal=B:USR1@120",
        "--nice=100", "--comment=a b", "--hold",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"time": "1"}, 12),
        ({"time": "2"}, 60),
        ({"time": "1", "signal": "29"}, 29),
    ],
)
def test_a_short_time_limit_gets_a_short_warning(options: dict[str, str], seconds: int) -> None:
    """Slurm looks at time limits twice per minute: 60 seconds ahead of 60 is at once."""
    assert f"--signal=B:USR1@{seconds}" in _flags(options)


@pytest.mark.parametrize(
    ("launch", "flag"),
    [
        ({"workers": 4}, "--cpus-per-task=4"),
        ({"task_memory": 2**30, "workers": 2}, "--mem=2304M"),
        ({"task_memory": 2**30, "retries": 2, "retry_on": "oom"}, "--mem=4352M"),
        ({"task_memory": 2**30, "options": {"memory": "0"}}, "--mem=0"),
    ],
)
def test_cores_and_memory_follow_from_workers_and_tasks(launch: dict[str, Any], flag: str) -> None:
    """A task may be at its last, doubled limit. `--mem=0` is all memory of a node."""
    assert flag in _flags(**launch)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition": "a b"}, "invalid partition 'a b': expected a name of the cluster."),
        ({"constraint": "a\nb"}, r"invalid constraint 'a\nb': expected a value as sbatch has it."),
        ({"cpu": "0"}, "invalid cpu '0': expected a whole number from 1 to 100,000."),
        ({"memory": "much"}, "invalid memory 'much': expected a size like 4G, or 0 for all of a node."),
        ({"time": "soon"}, "invalid time 'soon': expected a limit like 2h, 90 (minutes) or 1-12:00:00."),
        ({"signal": "0"}, "invalid signal '0': expected seconds from 1 to 65,535, or a duration like 2m."),
        (
            {"signal": "30", "time": "1"},
            "invalid signal '30' for a time limit of 60 s: expected fewer than 30 s.",
        ),
        ({"requeue": "perhaps"}, "invalid requeue 'perhaps': expected yes or no."),
        ({"sbatch_arg": "-p main"}, "invalid sbatch_arg '-p': expected a long flag in one word, like --nice=100."),
        ({"sbatch_arg": "--wrap=id"}, "invalid sbatch_arg '--wrap=id': mops-jobs sets --wrap of sbatch itself."),
        ({"sbatch_arg": "--arr=1-9"}, "invalid sbatch_arg '--arr=1-9': mops-jobs sets --array of sbatch itself."),
    ],
)
def test_an_invalid_option_is_named(options: dict[str, str], message: str) -> None:
    """The command takes the beginning of a flag for the flag, so `--arr` is refused too."""
    with pytest.raises(OptionError) as caught:
        _flags(options)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "options",
    [
        {"setup": "module load gcc && export AZURE_STORAGE_KEY=hush-hush"},
        {"setup": "AWS_SECRET_ACCESS_KEY='hush-hush'"},
        {"sbatch_arg": "--export=ALL,AZURE_STORAGE_SAS_TOKEN=hush-hush"},
    ],
)
def test_a_secret_is_refused_and_not_shown(options: dict[str, str]) -> None:
    """The record keeps the options of a launch, and every reader of the registry sees them."""
    with pytest.raises(OptionError, match=r"^invalid \w+: the record of the job would show the value of A") as caught:
        _flags(options)
    assert str(caught.value.hint).startswith("Read it from a file: --setup 'export A")
    assert "hush-hush" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("line", ["export AZURE_STORAGE_KEY=$(cat ~/key)", "X=1", 'AWS_SESSION_TOKEN="$TOKEN"'])
def test_a_setup_may_read_a_secret(line: str) -> None:
    """Such a line shows where the secret is, and not the secret."""
    assert _flags({"setup": line}) == _flags()


def test_unknown_options_and_too_many_shards_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^unknown option of the slurm engine image: expected one of partition, "):
        _flags({"image": "i"})
    with pytest.raises(OptionError, match=r"^invalid shards '1000001': expected 1 to 1,000,000\.$"):
        _flags(shards=1_000_001)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4096), ("4000", 4000), ("2T", 2 * 1024**2), ("1500K", 2), ("4GiB", 4096), ("1Gi", 1024), ("0", 0),
     ("1.5GB", 1431), ("x", None), ("-1", None)],
)  # fmt: skip
def test_memory_is_read_as_sbatch_reads_it(text: str, size: int | None) -> None:
    """`4G` is 4 GiB for Slurm. Where sbatch has no such form, sizes are those of mops-jobs."""
    assert megabytes(text) == size


@pytest.mark.parametrize(
    ("text", "limit"),
    [("90", 90), ("2h", 120), ("90s", 2), ("10:30", 11), ("1:30:00", 90), ("1-12", 2160), ("1-12:30", 2190),
     ("2-00:00:01", 2881), ("0", None), ("0s", None), ("1:2:3:4", None), ("soon", None)],
)  # fmt: skip
def test_a_time_limit_has_the_forms_of_sbatch_and_of_durations(text: str, limit: int | None) -> None:
    """A number alone is minutes. Slurm counts whole minutes, so seconds round up."""
    assert minutes(text) == limit


@pytest.mark.parametrize(
    ("text", "repeated", "start"),
    [
        ("--nice=100 --hold", "--nice=100", ["--hold"]),
        ("'--begin=now + 1hour'", "", ["--begin=now + 1hour"]),
        ("--dep=afterok:3 --deadline=now+1day --reservation=x", "--reservation=x",
         ["--dep=afterok:3", "--deadline=now+1day"]),
        ("--hold=\x1b[2J", "'--hold=\x1b[2J'", []),
        ("'", "'", []),
        ("", "", []),
    ],
)  # fmt: skip
def test_flags_of_one_launch_are_told_from_those_of_all(text: str, repeated: str, start: list[str]) -> None:
    """What is not a flag stays, so that the launch refuses it."""
    assert split_start_flags(text) == (repeated, start)
