"""The tables of options of a launch: flags, the arguments of Python programs and documents follow from them."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from mopsjobs.api.arguments import RunnerOptions
from mopsjobs.cli.parser import build_parser
from mopsjobs.engines.launch_option import LaunchOption
from mopsjobs.errors import UsageError
from mopsjobs.submission import launch_options
from mopsjobs.submission.launch_options import ENGINE_OPTIONS, all_options, read_options
from support.docs import load_generator

ANNOTATIONS = {
    "text": {"str", "int | str", "int"}, "count": {"int"}, "size": {"Size"}, "duration": {"Duration"},
    "file": {"str | os.PathLike[str]"}, "switch": {"bool"}, "choices": {"Choices"},
    "texts": {"Sequence[str]", "Choices"}, "labels": {"Mapping[str, str] | str"},
}  # fmt: skip
"""The types of arguments in Python, by the kinds of options."""

VALUES: dict[str, dict[str, object]] = {
    "text": {"good": 4, "bad": [4]},
    "count": {"good": 4, "bad": "two"},
    "size": {"good": "2GiB", "bad": 1.5},
    "duration": {"good": 60, "bad": True},
    "file": {"good": pathlib.Path("a"), "bad": 7},
    "switch": {"good": False, "bad": "yes"},
    "choices": {"good": ["a", "b"], "bad": 7},
    "texts": {"good": ("a",), "bad": [7]},
    "labels": {"good": {"pool": "gpu"}, "bad": 7},
}


@pytest.fixture
def reservation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add an option to the table of Slurm."""
    added = LaunchOption("reservation", "text", "NAME", "a reservation of nodes", "none")
    monkeypatch.setitem(ENGINE_OPTIONS, "slurm", (*ENGINE_OPTIONS["slurm"], added))


@pytest.mark.usefixtures("reservation")
def test_an_option_of_a_table_is_a_flag_an_argument_and_a_document() -> None:
    """One more row is enough for all that a user can type; the engine then has its text."""
    for command in ("submit study.json --auto", "resume job"):
        parser = build_parser([command.split()[0]])
        args = parser.parse_args([*command.split(), "--reservation", "night"])
        assert read_options(vars(args)).cluster == {"reservation": "night"}
    assert read_options({"reservation": "night"}).cluster == {"reservation": "night"}
    reference = load_generator("generate_cli").render()
    assert "| `--reservation NAME` | a reservation of nodes (default: none) |" in reference
    assert "| `--reservation NAME` | a reservation of nodes (default: the job's own) |" in reference
    assert {option.name for option in all_options()} - {*RunnerOptions.__annotations__} == {"reservation"}


def test_python_has_the_options_of_the_tables() -> None:
    """The names and types are written out for editors."""
    typed = {name: one.__forward_arg__ for name, one in RunnerOptions.__annotations__.items()}
    assert {option.name for option in all_options()} == {*typed}
    wrong = [option.name for option in all_options() if typed[option.name] not in ANNOTATIONS[option.kind]]
    assert wrong == []


@pytest.mark.parametrize("option", all_options(), ids=lambda option: option.name)
def test_an_argument_of_another_type_is_refused(option: LaunchOption) -> None:
    """One sentence names it, its value, and what was expected. None stands for no value."""
    values = VALUES[option.kind]
    option.check(None)
    option.check(values["good"])
    with pytest.raises(UsageError) as refused:
        option.check(values["bad"])
    assert str(refused.value).startswith(f"invalid {option.name} {values['bad']!r}: expected ")


def test_an_example_of_that_sentence() -> None:
    (workers,) = (option for option in launch_options.RUNNER_OPTIONS if option.name == "workers")
    with pytest.raises(UsageError, match=r"^invalid workers 'two': expected a whole number\.$"):
        workers.check("two")


@pytest.mark.parametrize(
    ("values", "cluster"),
    [
        ({"ttl": 60, "gpus": 2, "node_selector": {"a": "b"}}, {"ttl": "60s", "gpus": "2", "node_selector": "a=b"}),
        ({"ttl": "1h", "cpu": 4, "pod_patch": pathlib.Path("p")}, {"ttl": "1h", "cpu": "4", "pod_patch": "p"}),
        ({"setup": ["a", "b"], "sbatch_arg": ["--a b"]}, {"setup": "a && b", "sbatch_arg": "'--a b'"}),
        ({"requeue": True, "file_drop": False, "signal": 60}, {"requeue": "yes", "file_drop": "no", "signal": "60"}),
    ],
)
def test_engines_get_their_options_as_texts(values: dict[str, Any], cluster: dict[str, str]) -> None:
    assert read_options(values).cluster == cluster


def test_texts_and_values_mean_the_same() -> None:
    """Flags give texts; Python programs numbers or texts."""
    texts = {"task_timeout": "1h", "task_memory": "1GiB", "retries": "2", "retry_on": "oom,died", "max_failures": "5"}
    values = {"task_timeout": 3600, "task_memory": 2**30, "retries": 2, "retry_on": ["oom", "died"], "max_failures": 5}
    assert read_options(texts) == read_options(values)
