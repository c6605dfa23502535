"""The examples of README, tutorial and guides run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.cli import command
from support.docs import DOCUMENTS, ROOT, Example, examples, files_shown, python_examples, read
from support.runs import PATIENCE, tree
from support.servers import Azurite

TUTORIAL = "docs/tutorial.md"
SHOWN = [name for name in DOCUMENTS if name in {"README.md", TUTORIAL} or name.startswith("docs/guides/")]
HERE = [name for name in SHOWN if any(marker is None for marker, _ in examples(name))]
_SEPARATOR = "@@ line {} @@"


def _run(
    document: str, commands: list[Example], folder: Path, files: Mapping[str, str] | None = None, **env: str
) -> None:
    """Run commands in one shell, in order, in a home and a directory of their own; compare the output that is shown.

    The directory has the files that the document shows, and `files` besides or in their place.

    Three dots stand for any text, a run of blanks for any other. `python3` is the Python of the tests, with mopsjobs.
    """
    programs = folder / "bin"
    programs.mkdir()
    python = ["env", f"PYTHONPATH={ROOT}", sys.executable]
    for name, words in (("mops-jobs", command()), ("python3", python)):
        (programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    work = folder / "work"
    shutil.copytree(ROOT / "examples", work / "examples")
    tree(work, {**files_shown(document), **(files or {})})
    script = "set -eu -o pipefail\n"
    for example in commands:
        script += f"echo; echo {shlex.quote(_SEPARATOR.format(example.line))}\n{example.command}\n"
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=work,
        env={"HOME": str(folder), "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, f"{document}, the last of:\n{ran.stdout}\n{ran.stderr}"
    printed = re.split(r"^@@ line \d+ @@\n", ran.stdout, flags=re.MULTILINE)[1:]
    for example, out in zip(commands, printed, strict=True):
        if example.output:
            expected = re.escape(" ".join(example.output.split())).replace("…", ".*")
            assert re.fullmatch(expected, " ".join(out.split())), f"{document}:{example.line}: {out}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="some examples use jq")
@pytest.mark.parametrize("document", HERE)
def test_examples_run_as_they_stand(document: str, tmp_path: Path) -> None:
    """The console examples of a document run in order, and print what it shows."""
    commands = [example for marker, block in examples(document) if marker is None for example in block]
    _run(document, commands, tmp_path, files_shown(TUTORIAL) if document == "docs/guides/studies.md" else None)


def test_examples_for_azure_run(azurite: Azurite, tmp_path: Path) -> None:
    """The examples for an Azurite run against one, in a container of their own."""
    (block,) = [block for marker, block in examples("docs/guides/azure.md") if marker == "run with: azurite"]
    there = azurite.connection_string
    commands = [one._replace(command=one.command.replace("UseDevelopmentStorage=true", there)) for one in block]
    _run("docs/guides/azure.md", commands, tmp_path, MOPS_JOBS_REGISTRY=f"azure://{azurite.new_container()}")


MODELOPS = "docs/guides/modelops.md"
CALABARIA = {
    # The public names of ModelOps' example starsim-sir, and no other.
    "targets/incidence.py": """
import types, polars

class _Target:
    def __init__(self):
        self._observed = polars.read_csv("data/observed_incidence.csv")

    def evaluate(self, replicates):
        mean = sum(outputs["incidence"]["infected"][0] for outputs in replicates) / len(replicates)
        return types.SimpleNamespace(loss=(mean - self._observed["infected"][0]) ** 2)

incidence_mean_signal_target = incidence_annealed_target = _Target
""",
    "wire.py": """
import io, polars

def wire(entrypoint, params, seed):
    table = io.BytesIO()
    polars.DataFrame({"day": [0], "infected": [params["beta"] * 10]}).write_ipc(table)
    return {"incidence": table.getvalue(), "metadata": b"{}"}
""",
    "data/observed_incidence.csv": "day,infected\n0,3.0\n",
}
"""A project like that example, whose targets give `evaluate(replicates).loss` as those of calabaria do."""


@pytest.mark.slow
def test_the_losses_of_the_guide_are_those_of_its_targets(tmp_path: Path) -> None:
    """The file imports a name that ModelOps' example has, and the commands print a loss per parameter set."""
    polars = pytest.importorskip("polars")
    (block,) = [block for marker, block in examples(MODELOPS) if marker == "run with: calabaria"]
    study = json.loads(files_shown(MODELOPS)["study.json"]) | {"reduce": "losses:losses"}
    losses = Example(0, "cat out/*/reduced-*/result.json | grep -o '\"loss\": *[0-9.]*' | sort", "…1.0 …1.0")
    _run(MODELOPS, [*block, losses], tmp_path, {**CALABARIA, "study.json": json.dumps(study)})
    rows = polars.read_parquet(tmp_path / "work" / "diagnostics.parquet")
    columns = [name for name in rows.columns if name.startswith("param_") and name != "param_id"]  # as calabaria does
    assert (columns, sorted(rows["param_beta"])) == (["param_beta"], [0.2, 0.4])
    assert rows["loss"].to_list() == [1.0, 1.0]


ECOSYSTEM = "docs/guides/ecosystem.md"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="the commands use jq")
def test_the_rule_of_snakemake_finds_its_job_again(tmp_path: Path) -> None:
    """The shell commands of the rule, as Snakemake runs them: a second run waits for the job of the first."""
    (shell,) = re.findall(r'shell:\n +"""\n(.*?)"""', files_shown(ECOSYSTEM)["study.smk"], re.DOTALL)
    rule = Example(0, shell.format(params=SimpleNamespace(job="seir-2"), output="seir.csv"), "")
    rows, jobs = Example(0, "wc -l < seir.csv", "201"), Example(0, "mops-jobs list --json | jq .total", "1")
    _run(ECOSYSTEM, [rule, rows, Example(0, "rm seir.csv", ""), rule, rows, jobs], tmp_path)


def test_the_metadata_of_datasette_fits_its_tables(tmp_path: Path) -> None:
    """Each table, column and query of the metadata exists in the copy of an empty cache."""
    files = files_shown(ECOSYSTEM)
    with closing(sqlite3.connect(tmp_path / "cache.db")) as cache:
        cache.executescript((ROOT / "mopsjobs" / "cache" / "schema.sql").read_text(encoding="utf-8"))
    words = [sys.executable, "-c", files["snapshot.py"], "cache.db", "jobs.db"]
    subprocess.run(words, cwd=tmp_path, check=True, timeout=PATIENCE)
    metadata = json.loads(files["metadata.json"])["databases"]["jobs"]
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as copy:
        for table, shown in metadata["tables"].items():
            columns = [*shown["facets"], *([shown["sort_desc"]] if "sort_desc" in shown else [])]
            copy.execute(f"SELECT {', '.join(f'{table}.{column}' for column in columns)} FROM {table}")
        for query in metadata["queries"].values():
            copy.execute(query["sql"], {"job": "seir-1"})


PYTHON_API = "docs/reference/python.md"
PRINTED = {"update_status": "failed 5 ['pending', 'submitting', 'scheduled', 'running', 'failed']\n"}
"""What an example prints, by a word in it."""


@pytest.mark.slow
def test_examples_of_the_python_api_run(tmp_path: Path) -> None:
    """The Python examples run in order, as scripts, in one home. Their directory has the files that the page shows."""
    script = tmp_path / "scripts" / "example.py"
    script.parent.mkdir()
    work = tmp_path / "work"
    work.mkdir()
    files = files_shown(PYTHON_API)
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    programs = python_examples(PYTHON_API)
    assert len(programs) >= 3
    for program in programs:
        script.write_text(program, encoding="utf-8")
        ran = subprocess.run(
            [sys.executable, "-W", "ignore::ResourceWarning", str(script)],
            cwd=work,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), program
        for word, printed in PRINTED.items():
            assert word not in program or ran.stdout == printed


@pytest.mark.parametrize("document", SHOWN)
def test_markers_are_understood(document: str) -> None:
    """Each console block is found, and each marker stands above one."""
    text = read(document)
    assert text.count("```console") == len(list(examples(document)))
    marked = [marker for marker, _ in examples(document) if marker is not None]
    assert text.count("<!--") == len(marked)
    assert all(re.fullmatch("not run: .+|run with: (azurite|calabaria)", marker) for marker in marked)
