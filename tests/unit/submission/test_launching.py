"""Options of a launch: their tables, what `make_launch` refuses and repeats, limits that grow, shared registries."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import sys
from pathlib import Path
from typing import Any

import pytest

from mopsjobs.api.arguments import RunnerOptions
from mopsjobs.cli.parser import build_parser
from mopsjobs.engines.base import launch_fields, launch_notes, recorded_launch
from mopsjobs.engines.launch_option import LaunchOption
from mopsjobs.errors import OptionError, UsageError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.submission import launching
from mopsjobs.submission.launch_options import ENGINE_OPTIONS, LaunchOptions, all_options, cluster_options, read_options
from mopsjobs.submission.launching import check_on_node, grown_options, make_launch, url_for_nodes
from mopsjobs.submission.session import Session
from support.docs import load_generator

ANNOTATIONS = {
    "text": {"str", "int | str", "int", "float | str"}, "count": {"int"}, "size": {"Size"}, "duration": {"Duration"},
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


REGISTRY = JobRegistry(InMemoryVersionedStore())
SESSION = Session(registry_url="memory:", open_registry=lambda: REGISTRY, env={})

LIKE = "like 50 or 0.5."


@pytest.mark.parametrize(
    ("engine", "options", "message"),
    [
        ("local", {"workers": 0}, "invalid workers '0': expected 1 or more."),
        ("local", {"task_timeout": 0.0}, "invalid task_timeout '0': expected more than zero."),
        ("local", {"task_memory": 1000}, "invalid task_memory '1000B': expected at least 16MiB."),
        ("local", {"retries": "x"}, "invalid retries 'x': expected a whole number from 0 to 100."),
        *(
            ("local", {"max_cpu_hours": hours}, f"invalid max_cpu_hours '{hours}': expected CPU-hours above 0, {LIKE}")
            for hours in ("5h", "0", -1, "nan", "inf")
        ),
        ("local", {"shards": 2}, "shards has no effect with the local engine."),
        ("dask", {"cluster": {"service_account": "a"}}, "service_account has no effect with the dask engine."),
        ("kubernetes", {"scheduler": "tcp://h:1"}, "scheduler has no effect with the kubernetes engine."),
        ("dask", {"workers": 2}, "workers has no effect with the dask engine: the cluster has its own."),
        ("local", {"python": "/no/python"}, "invalid python '/no/python': expected the path of a program."),
        ("local", {"python": "/bin/true"}, "invalid python '/bin/true': expected a program that runs Python."),
    ],
)
def test_an_error_names_the_field(engine: str, options: dict[str, Any], message: str) -> None:
    """A Python program reads the name of the field that it has set, and no flag."""
    with pytest.raises(OptionError) as caught:
        make_launch("job", engine, LaunchOptions(**options), SESSION)
    assert str(caught.value) == message


def test_a_launch_on_slurm_names_the_registry_so_that_nodes_find_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Or it is refused: nodes cannot share one on a network file system. With a drop of files they need none.

    But commands on several login nodes cannot share it either.
    """
    monkeypatch.chdir(tmp_path)
    warnings: list[str] = []
    session = dataclasses.replace(SESSION, registry_url="sqlite:registry.db", warn=warnings.append)
    assert make_launch("job", "slurm", LaunchOptions(), session).registry_url == f"sqlite://{tmp_path}/registry.db"
    monkeypatch.setattr(launching, "network_file_system", lambda path: "beegfs")
    with pytest.raises(UsageError, match="beegfs"):
        make_launch("job", "slurm", LaunchOptions(), session)
    assert warnings == []
    drop = make_launch("job", "slurm", LaunchOptions(cluster={"file_drop": "yes"}), session)
    assert [warning.partition(",")[0] for warning in warnings] == [
        f"The registry {tmp_path}/registry.db is on a network file system (beegfs)"
    ]
    assert recorded_launch(launch_notes(drop, "slurm"), "slurm")["file_drop"] == "yes"  # so a resume repeats it


@pytest.mark.parametrize(
    ("options", "recorded", "expected"),
    [
        ({}, {}, (None, None)),
        ({"retries": 3}, {}, (3, "died")),
        ({"retry_on": "oom,died,oom"}, {}, (1, "died,oom")),
        ({}, {"retries": "3", "retry_on": "oom"}, (3, "oom")),
        ({"retries": 0}, {"retries": "3", "retry_on": "oom"}, (0, "oom")),
        ({"retry_on": "error:OSError"}, {"retries": "3"}, (3, "error:OSError")),
    ],
)
def test_retries_are_as_asked_for_else_as_recorded(
    options: dict[str, Any], recorded: dict[str, str], expected: tuple[int | None, str | None]
) -> None:
    launch = make_launch("job", "local", LaunchOptions(**options), SESSION, recorded=recorded)
    assert (launch.retries, launch.retry_on) == expected
    assert make_launch("job", "local", LaunchOptions(), SESSION, recorded={"task_memory": "1GiB"}).task_memory == 2**30


def test_a_limit_of_memory_is_refused_where_no_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "memory_size", lambda: None)
    with pytest.raises(OptionError, match=r"^task_memory has no effect on this system: only Linux tells"):
        make_launch("job", "local", LaunchOptions(task_memory=2**30), SESSION)


def _environment(directory: Path, script: str | None) -> str:
    """Make an environment whose interpreter is this script; None: it has none. Return its path."""
    (directory / "bin").mkdir()
    if script is not None:
        python = directory / "bin" / "python"
        python.write_text(script)
        python.chmod(0o755)
    return str(directory)


@pytest.mark.parametrize(
    ("script", "problem"),
    [("#!/bin/sh\nexit 3\n", "does not run Python"), ("", "does not run Python"), (None, "does not exist")],
)
def test_the_interpreter_of_the_active_environment_is_checked(tmp_path: Path, script: str | None, problem: str) -> None:
    """Otherwise the runner would end before its first report, or run the model without its packages."""
    session = dataclasses.replace(SESSION, env={"VIRTUAL_ENV": _environment(tmp_path, script)})
    with pytest.raises(UsageError) as caught:
        make_launch("job", "local", LaunchOptions(), session)
    assert str(caught.value) == f"The interpreter of the active environment, {tmp_path}/bin/python, {problem}."
    assert str(caught.value.hint) == "Name the one that has the model's packages: --python PATH."
    with pytest.raises(UsageError, match=f"^The interpreter of an earlier launch, .*, {problem}"):
        make_launch("job", "local", LaunchOptions(), SESSION, recorded={"python": f"{tmp_path}/bin/python"})
    assert make_launch("job", "local", LaunchOptions(python=sys.executable), session).python == sys.executable


def test_an_earlier_launch_gives_what_the_options_leave_open() -> None:
    """Numbers of a record that no runner can work with count as not recorded."""
    recorded = {"workers": "3", "task_timeout": "90", "first": "0", "max_failures": "10%", "max_cpu_hours": "0.25"}
    options = LaunchOptions(python=sys.executable)
    launch = make_launch("job", "local", options, SESSION, recorded=recorded)
    assert (launch.workers, launch.task_timeout, launch.first, launch.max_failures) == (3, 90.0, 0, "10%")
    assert recorded_launch(launch_notes(launch, "local"), "local").items() >= recorded.items()
    own = LaunchOptions(python=sys.executable, first=0, max_failures="5")
    launch = make_launch("job", "local", own, SESSION, recorded={"first": "3", "max_failures": "10%"})
    assert (launch.first, launch.max_failures) == (0, "5"), "what is given counts, also a zero"
    recorded = {"workers": "0", "task_timeout": "0", "first": "-1", "max_failures": "all"}
    launch = make_launch("job", "local", options, SESSION, recorded=recorded)
    assert (launch.workers, launch.task_timeout, launch.first, launch.max_failures) == (None, None, None, None)


def test_a_launch_on_slurm_repeats_the_earlier_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without one, the setup is that of the environment, and the interpreter that of the active environment."""
    session = dataclasses.replace(SESSION, env={"MOPS_JOBS_SETUP": "module load a", "VIRTUAL_ENV": "/venv"})
    first = make_launch("job", "slurm", LaunchOptions(shards=4, cluster={"time": "2h"}), session)
    assert (first.shards, first.python) == (4, "/venv/bin/python")
    assert first.options == {"time": "2h", "setup": "module load a"}
    recorded = {"time": "2h", "setup": "module load b", "shards": "4", "python": "/p", "job_id": "12", "cluster": "lab"}
    again = make_launch("job", "slurm", LaunchOptions(cluster={"time": "3h"}), session, recorded=recorded)
    assert (again.shards, again.python) == (4, "/p")
    assert again.options == {"time": "3h", "setup": "module load b"}
    monkeypatch.chdir(tmp_path)
    relative = make_launch("job", "slurm", LaunchOptions(python="env/bin/python"), session)
    assert relative.python == f"{tmp_path}/env/bin/python"


def test_values_for_slurm_become_one_text() -> None:
    """Lines of the setup become one line, which stops where one fails. Flags of sbatch are words as in a shell."""
    options = {"cpu": 4, "requeue": False, "setup": ["module load gcc", ". env.sh"], "sbatch_arg": ["--comment=a b"]}
    options["node_selector"] = {"a": "b", "c": ""}
    expected = {
        "cpu": "4",
        "node_selector": "a=b,c=",
        "setup": "module load gcc && . env.sh",
        "requeue": "no",
        "sbatch_arg": "'--comment=a b'",
    }
    assert cluster_options({**options, "qos": None, "toleration": [], "other": "i"}) == expected
    assert cluster_options({"setup": "module load gcc"}) == {"setup": "module load gcc"}
    for line in ("", "a\nb"):
        with pytest.raises(OptionError, match="expected a line of the shell"):
            cluster_options({"setup": [line]})


def test_a_launch_on_a_cluster_has_all_that_its_record_keeps(tmp_path: Path) -> None:
    """What the environment chooses too, and of a patch the digest."""
    patch = tmp_path / "patch.yaml"
    patch.write_text("spec: {hostNetwork: true}")
    session = dataclasses.replace(SESSION, registry_url="azure://x", env={"MOPS_JOBS_IMAGE": "i:1"})
    options = LaunchOptions(shards=2, cluster={"pod_patch": str(patch), "namespace": "models"})
    launch = make_launch("job", "kubernetes", options, session)
    assert launch.options == {"pod_patch": '{"spec": {"hostNetwork": true}}', "namespace": "models", "image": "i:1"}
    fields = launch_fields(launch, "kubernetes")
    assert (fields["k8s_namespace"], fields["k8s_name"], fields["k8s_uid"]) == ("models", None, None)
    digest = hashlib.sha256(launch.options["pod_patch"].encode()).hexdigest()
    assert fields["metadata"] == {"k8s_image": "i:1", "k8s_shards": "2", "k8s_pod_patch": f"sha256:{digest}"}


MIB = 2**20
LOCAL = {"task_memory": "200MiB", "task_timeout": "90"}
POD = {"memory": "4Gi", "cpu": "2"}


@pytest.mark.parametrize(
    ("engine", "recorded", "options", "memory", "timeout", "pod"),
    [
        ("local", LOCAL, {"factors": {"memory": 2.0}}, 400 * MIB, None, None),
        ("local", LOCAL, {"factors": {"task_timeout": 3.0}}, None, 270.0, None),
        ("local", {}, {"cluster": {"memory": "1GiB"}}, 1024 * MIB, None, None),
        ("kubernetes", POD, {"factors": {"memory": 2.0}}, None, None, "8Gi"),
        ("kubernetes", {**POD, **LOCAL}, {"factors": {"memory": 2.0}}, 400 * MIB, None, "8Gi"),
        ("kubernetes", POD, {"cluster": {"memory": "16Gi"}}, None, None, "16Gi"),
        ("slurm", {"memory": "4G"}, {"factors": {"memory": 1.5}}, None, None, "6144M"),
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
        ("kubernetes", {"factors": {"time": 2.0}}, "time has no effect with the kubernetes engine."),
        ("local", {"factors": {"memory": 2.0}}, "invalid memory 'x2': expected a limit like 2GiB, since the job"),
        ("kubernetes", {"factors": {"memory": 2.0}}, "invalid memory 'x2': expected a limit like 4Gi, since the job"),
        ("local", {"cluster": {"memory": "much"}}, "invalid memory 'much': expected a size like 2GiB, or a factor"),
    ],
)
def test_what_cannot_grow_is_named(engine: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        grown_options(LaunchOptions(**options), engine, {"cpu": "2"})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("recorded", "grown"), [("1h30m", "180"), ("1-12:00:00", "4320"), ("90", "180")])
def test_the_time_limit_of_slurm_grows_in_minutes(recorded: str, grown: str) -> None:
    options = grown_options(LaunchOptions(factors={"time": 2.0}), "slurm", {"time": recorded})
    assert options.cluster == {"time": grown}


@pytest.fixture
def _on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "network_file_system", lambda path: "nfs4")


@pytest.mark.usefixtures("_on_nfs")
def test_a_file_on_a_network_file_system_is_refused_with_its_type(tmp_path: Path) -> None:
    """By submit, and by a node that mounts it so; the hint names two ways that work."""
    url = f"sqlite://{tmp_path}/registry.db"
    (tmp_path / "registry.db").touch()
    for check in (url_for_nodes, check_on_node):
        with pytest.raises(UsageError, match=r"registry\.db is on a network file system \(nfs4\)") as raised:
            check(url)
        assert "--registry azure://" in str(raised.value.hint)
        assert "which commands on the login node deliver: --file-drop" in str(raised.value.hint)


def test_a_node_without_the_file_begins_no_empty_registry(tmp_path: Path) -> None:
    url = f"sqlite://{tmp_path}/registry.db"
    with pytest.raises(UsageError, match=r"has no registry .*: the file is on another machine, or gone"):
        check_on_node(url)
    assert os.listdir(tmp_path) == []
    (tmp_path / "registry.db").touch()
    check_on_node(url)
