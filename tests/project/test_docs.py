"""The documents say what the program does."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mopsjobs import errors, modelops
from mopsjobs.cli.commands import COMMANDS
from mopsjobs.registry.job_state import FIELDS
from support.cli import Cli, command, environment
from support.docs import DOCUMENTS, anchors, files_shown, links, load_generator, read, without_code_blocks
from support.runs import PATIENCE
from support.sources import nodes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("generator", "page"),
    [
        ("generate_cli", "reference/cli.md"),
        ("generate_json", "reference/json.md"),
        ("generate_man", "mops-jobs.1"),
        ("generate_python", "reference/python.md"),
    ],
)
def test_pages_are_what_their_generators_write(generator: str, page: str) -> None:
    """The command line reference and the man page follow the parser; the reference of Python, the docstrings."""
    written = load_generator(generator).render()
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == written


@pytest.mark.parametrize("words", [("groff", "-man", "-ww", "-Tutf8"), ("mandoc", "-T", "utf8", "-W", "error")])
def test_the_man_page_is_sound(words: tuple[str, ...]) -> None:
    """Neither formatter has anything to say against it, and its text has every command."""
    if shutil.which(words[0]) is None:
        pytest.skip(f"There is no {words[0]}.")
    ran = subprocess.run([*words, str(ROOT / "docs" / "mops-jobs.1")], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    text = re.sub("\x1b\\[[0-9;]*m|.\x08", "", ran.stdout)
    assert all(re.search(rf"^   {name}\b", text, re.MULTILINE) for name in COMMANDS), text


def test_links_lead_somewhere() -> None:
    """Each relative link names a file that exists, and each anchor a heading of it."""
    broken = []
    for document, (text, target) in ((name, link) for name in DOCUMENTS for link in links(read(name))):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(f"{document}: [{text}]({target})")
    assert broken == []


def test_rows_of_a_table_have_as_many_cells_as_its_head() -> None:
    """A bar in a cell is escaped, also in code: else what follows it is cut off."""
    odd = []
    for document in DOCUMENTS:
        tables = re.findall(r"(?:^\|.*\n)+", without_code_blocks(read(document)), re.MULTILINE)
        rows = [[(row, len(re.findall(r"(?<!\\)\|", row))) for row in table.splitlines()] for table in tables]
        odd += [f"{document}: {row}" for table in rows for row, cells in table if cells != table[0][1]]
    assert odd == []


DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def test_decisions_are_all_in_the_list() -> None:
    """The list of decisions has each of them, by number, with its title."""
    rows = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \| (.*) \|$", read("docs/decisions/README.md"), re.MULTILINE)
    assert rows
    assert [f"# {number}. {title}" for number, _, title in rows] == [
        page.read_text(encoding="utf-8").partition("\n")[0] for page in DECISIONS
    ]
    assert [name for _, name, _ in rows] == [page.name for page in DECISIONS]


def test_decisions_have_one_form() -> None:
    """A decision has its context, what was decided, what follows and what was rejected, in this order."""
    form = ["Context", "Decision", "Consequences", "Rejected"]
    odd = []
    for page in DECISIONS:
        text = page.read_text(encoding="utf-8")
        if re.findall("^## (.*)$", text, re.MULTILINE) != form:
            odd.append(page.name)
    assert DECISIONS
    assert odd == []


MAX_ARCHITECTURE_LINES = 200


def test_the_architecture_is_short() -> None:
    """docs/architecture.md is read in ten minutes."""
    assert len(read("docs/architecture.md").splitlines()) <= MAX_ARCHITECTURE_LINES


def test_the_architecture_names_what_exists() -> None:
    """Each path in docs/architecture.md exists, and its table of packages has each package."""
    page = read("docs/architecture.md")
    named = set(re.findall(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?|[a-z_]+\.py)`", page))
    assert {name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "mopsjobs"))} == set()
    files = [path for path in (ROOT / "mopsjobs").glob("*/*") if path.is_file() and path.suffix != ".pyc"]
    assert {f"mopsjobs/{path.parent.name}/" for path in files} <= named


_FOLDERS = "mopsjobs|tests|reliability|bench|app|cache|store|registry|runner|engines|submission|web|events|utils"


def test_documents_name_files_that_exist() -> None:
    """A module or test that a document names lies below the root, or below `mopsjobs/`."""
    named = {
        (document, path)
        for document in DOCUMENTS
        for path in re.findall(rf"`((?:{_FOLDERS})/[\w/]+\.py)`", read(document))
    }
    assert named
    assert [pair for pair in named if not any((base / pair[1]).is_file() for base in (ROOT, ROOT / "mopsjobs"))] == []


NOT_VARIABLES = {
    "BOOT_FAIL", "CONTENT_LENGTH", "CS_GNU_LIBC_VERSION", "GIT_ALLOW_PROTOCOL", "GIT_TERMINAL_PROMPT", "HTTP_HOST",
    "KUBERNETES_EXEC_INFO", "LC_ALL", "NODE_FAIL", "OUT_OF_MEMORY", "PAY_PER_REQUEST", "PROVIDE_AUTOMATIC_OPTIONS",
    "REQUEST_URI", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SLURM_BITSTR_LEN", "SLURM_TIME_FORMAT",
    "SPECIAL_EXIT", "STAGE_OUT", "TRANSFER_ENCODING",
}  # fmt: skip
"""Literals that look like the name of a variable: headers, a way of billing, settings, states of Slurm, names for other
programs."""

_SHORT_NAMES = {
    "COLUMNS",
    "HOME",
    "KUBECONFIG",
    "LOCALAPPDATA",
    "PATH",
    "TERM",
    "TMPDIR",
    "USER",
    "USERNAME",
    "USERPROFILE",
}


def test_environment_variables_are_all_described() -> None:
    """docs/reference/environment.md has exactly the variables that the sources name."""
    sources = [ROOT / "mops_jobs.py", ROOT / "onefile" / "bootstrap.py", *(ROOT / "mopsjobs").rglob("*.py")]
    literals = {
        node.value
        for source in sources
        for node in nodes(ast.parse(source.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    named = {text for text in literals if re.fullmatch("[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", text)} - NOT_VARIABLES
    named |= literals & _SHORT_NAMES
    named = {name for name in named if not name.startswith(("EXIT_", "O_"))}  # exit codes, and flags of os.open
    cells = re.findall(r"^\| ([^|]+) \|", read("docs/reference/environment.md"), re.MULTILINE)
    assert {name for cell in cells for name in re.findall("`([A-Z0-9_]+)`", cell)} == named


def test_the_record_page_has_each_field() -> None:
    """docs/reference/record.md has exactly the fields of a record."""
    table = read("docs/reference/record.md").partition("## Fields")[2].partition("## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall("`([a-z0-9_]+)`", cell)) == sorted(FIELDS)


def test_the_page_of_modelops_has_each_name() -> None:
    """docs/reference/modelops.md names all that a program of ModelOps finds in `mopsjobs.modelops`."""
    table = read("docs/reference/modelops.md").partition("| import of ModelOps |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)[`(]", table)) >= set(modelops.__all__)


def test_readme_has_each_command() -> None:
    """The README's table of commands names every command."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Commands")[2].partition("## ")[0]
    assert [name for name in COMMANDS if f"`{name}" not in table] == []


def test_the_page_of_exit_codes_has_each() -> None:
    """docs/reference/exit-codes.md names every exit code, and no other."""
    table = read("docs/reference/exit-codes.md")
    told = {
        int(code)
        for line in table.splitlines()
        if line.startswith("| ")
        for code in line.split("|")[1].split(",")
        if code.strip().isdigit()
    }
    assert told == {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def test_the_study_of_the_tutorial_has_the_tasks_that_it_says(cli: Cli, tmp_path: Path) -> None:
    """The files of docs/tutorial.md make a study of 10 tasks, which succeed, each with its output."""
    files = files_shown("docs/tutorial.md")
    assert files.keys() == {"study.yaml", "model.py"}
    os.chdir(tmp_path)
    for name, text in files.items():
        Path(name).write_text(text, encoding="utf-8")
    told = cli.ok(
        "submit", "study.yaml", "--auto", "--wait", "--job-id", "job", "--json", XDG_STATE_HOME=str(tmp_path / "state")
    ).json
    assert (told["tasks_total"], told["status"]) == (10, "succeeded")
    assert len(cli.ok("results", "job").lines) == 10


@pytest.mark.skipif(shutil.which("jq") is None, reason="the recipe is for people who have jq")
def test_the_recipe_for_events_skips_none_though_its_handler_fails(cli: Cli, tmp_path: Path) -> None:
    """The script of docs/reference/json.md: what failed comes again, what was worked through does not."""
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^```bash\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    head = f'mops-jobs() {{ {shlex.join(command())} "$@"; }}\n'
    head += 'handle() { [ "$(jq -r .job_id <<< "$1")" != "$BAD" ] && echo "$1" >> handled; }\n'

    def run(bad: str) -> int:
        return subprocess.run(
            ["bash", "-c", head + recipe],
            cwd=tmp_path,
            env={**environment(cli), "BAD": bad},
            check=False,
            timeout=PATIENCE,
        ).returncode

    def register(job_id: str) -> None:  # by the clock that the script's own commands go by
        subprocess.run(
            command("register", job_id), env=environment(cli), check=True, timeout=PATIENCE, capture_output=True
        )

    for job_id in ("a", "b", "c"):
        register(job_id)
    assert run("b") == 1
    assert run("") == 0
    register("d")
    assert run("") == 0
    handled = [json.loads(line)["job_id"] for line in (tmp_path / "handled").read_text().splitlines()]
    assert handled == ["a", "b", "c", "d"]
