"""Write the reference in docs/reference/python.md from signatures and docstrings; a test compares the two.

The page stays plain Markdown, so that it reads the same on a forge, in an editor and on the site.

    python docs/tools/generate_python.py
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(DOCS.parent))

import mopsjobs  # noqa: E402 - found by the line above
from mopsjobs.api import arguments  # noqa: E402
from mopsjobs.engines.launch_option import REPEATED  # noqa: E402
from mopsjobs.submission.launch_options import ENGINE_OPTIONS, NOTIFY, RUNNER_OPTIONS, SHARDS  # noqa: E402

PAGE = DOCS / "reference" / "python.md"
HEADING = "\n## Reference\n"
HEAD = """
Written by `python docs/tools/generate_python.py` from the docstrings. Do not edit. `import mopsjobs` has all
names but those of the types of arguments.
"""

FIRST = ("connect", "Registry", "Job", "JobInfo", "Study", "grid", "Results", "Table")
"""The order of the names. All others follow, in that of `mopsjobs.__all__`; errors are a table at the end."""

MADE_BY_OTHERS = {"JobInfo", "Registry", "Results", "Table"}
"""Classes whose objects come from functions and methods, so their constructors are not shown."""

INTERNAL = {
    "JobRegistry.backdated_to", "JobRegistry.get_record", "JobRegistry.job_id_of", "JobRegistry.key_of",
    "JobRegistry.report_shard", "JobRegistry.scan", "JobRegistry.state_type", "JobRegistry.with_on_write",
    "Registry.app", "Registry.code_in", "Study.definition", "Table.held", "Table.of",
}  # fmt: skip
"""What the modules of mops-jobs use of each other."""

INTERNAL_ARGUMENTS = {"new_id", "now", "observe", "on_write", "random", "sleep", "when_missing"}
"""The same for arguments."""

LONGEST = 100
"""Characters of a signature on one line."""

OPTIONS = re.compile(r"^Unpack\[(\w+)\]$")
"""The annotation of keyword arguments that several functions have."""


class Docstring(NamedTuple):
    """A docstring: its text, and its sections by name, each with its items and their texts."""

    text: str
    sections: dict[str, list[tuple[str, str]]]


def render() -> str:
    """Return the page with its reference written anew. What stands before the reference is kept."""
    public = {name: getattr(mopsjobs, name) for name in (*FIRST, *mopsjobs.__all__) if not name.startswith("__")}
    lines = [HEAD]
    for name, one in public.items():
        if isinstance(one, type) and issubclass(one, mopsjobs.MopsJobsError):
            continue
        if isinstance(one, type) and name == one.__name__:
            lines += _class(one, [alias for alias, other in public.items() if other is one and alias != name])
        elif inspect.isroutine(one):
            lines += [f"### `mj.{name}`", "", *_routine(f"mj.{name}", one)]  # `cell` and `Cell` would have one anchor
    lines += [*_options(), *_types()]
    names = [line.removeprefix("### ") for line in lines if line.startswith("### ")]
    links = [f"[{name}](#{_anchor(name)})" for name in [*names, "Errors"]]
    lines[0] += "\n" + "\n\n".join(" · ".join(part) for part in (links[:20], links[20:])) + "\n"
    lines += _errors(one for one in public.values() if isinstance(one, type))
    return PAGE.read_text(encoding="utf-8").partition(HEADING)[0] + HEADING + "\n".join(lines).rstrip() + "\n"


# --- classes -----------------------------------------------------------------------------------------------------


def _class(kind: type, aliases: list[str]) -> Iterator[str]:
    name = kind.__name__
    yield from (f"### `{name}`", "", _read(kind.__doc__).text, "")
    for alias in aliases:
        yield from (f"`{alias}` is another name of this class.", "")
    if name not in MADE_BY_OTHERS and inspect.isfunction(kind.__init__):  # type: ignore[misc] # of this very class
        yield from _routine(name, kind.__init__)  # type: ignore[misc] # of this very class
    members = {member: one for member, one in _members(kind).items() if f"{name}.{member}" not in INTERNAL}
    attributes = _attributes(kind) | {
        member: str(one.__doc__) for member, one in members.items() if isinstance(one, property)
    }
    rows = [(member, text) for member, text in attributes.items() if f"{name}.{member}" not in INTERNAL]
    if rows:
        yield from ("| attribute | meaning |", "|---|---|")
        yield from (
            f"| `{member}` | {_cell(re.sub('^Return (.)', _capital, _read(text).text))} |" for member, text in rows
        )
        yield ""
    for member, one in members.items():
        function = getattr(kind, member) if isinstance(one, classmethod) else one
        if inspect.isfunction(function) or inspect.ismethod(function):
            yield from (f"#### `{name}.{member}`", "", *_routine(f"{name}.{member}", function))


def _members(kind: type) -> dict[str, Any]:
    """Return the documented members of a class and of its bases in the package, in their order there.

    A base that the reference has itself is left out.
    """
    found: dict[str, Any] = {}
    for base in (base for base in kind.__mro__ if base.__module__.startswith("mopsjobs.")):
        if base is not kind and base.__name__ in mopsjobs.__all__:
            continue
        for member, one in vars(base).items():
            is_public = not member.startswith("_") or member in {"__enter__", "__exit__"}
            if is_public and callable(getattr(one, "__get__", None)) and one.__doc__:
                found.setdefault(member, one)
    return found


def _attributes(kind: type) -> dict[str, str]:
    """Return the docstrings that stand below attributes, in the class and in its constructor."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    found = {}
    for block in (tree, *(node for node in ast.walk(tree) if getattr(node, "name", None) == "__init__")):
        for node, text in _documented(getattr(block, "body", [])):
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                found[ast.unparse(target).removeprefix("self.")] = text
    return {name: text for name, text in found.items() if not name.startswith("_")}


def _documented(body: list[ast.stmt]) -> Iterator[tuple[ast.stmt, str]]:
    """Yield the statements that stand above a docstring."""
    for node, following in itertools.pairwise(body):
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            yield node, str(following.value.value)


def _capital(match: re.Match[str]) -> str:
    return match[1].upper()


# --- functions ---------------------------------------------------------------------------------------------------


def _routine(name: str, function: Any) -> Iterator[str]:
    """Yield the signature of a function or method, and its docstring."""
    if not name.endswith("__"):
        yield from ("```py", _signature(name, function), "```", "")
    doc = _read(function.__doc__)
    yield from (doc.text, "")
    if "Args" in doc.sections:
        yield from ("| argument | meaning |", "|---|---|")
        yield from (
            f"| `{argument}` | {_cell(text)} |"
            for argument, text in doc.sections["Args"]
            if argument not in INTERNAL_ARGUMENTS
        )
        yield ""
    if "Returns" in doc.sections:
        yield from (f"Returns: {' '.join(text for _, text in doc.sections['Returns'])}", "")
    if "Raises" in doc.sections:
        errors = (
            f"- {', '.join(f'`{one}`' for one in error.split(', '))}: {text}" for error, text in doc.sections["Raises"]
        )
        yield from ("Raises:", "", *errors, "")


def _signature(name: str, function: Any) -> str:
    words = []
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    has_star = False
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.name in {"self", *INTERNAL_ARGUMENTS}:
            continue
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not has_star:
            has_star = True
            words.append("*")
        has_star = has_star or parameter.kind is inspect.Parameter.VAR_POSITIONAL
        annotation = OPTIONS.sub(r"\1", str(parameter.annotation))
        word = f"{stars.get(parameter.kind, '')}{parameter.name}: {annotation}"
        words.append(word if parameter.default is parameter.empty else f"{word} = {_value(parameter.default)}")
    result = (
        "" if signature.return_annotation in {"None", inspect.Signature.empty} else f" -> {signature.return_annotation}"
    )
    line = f"{name}({', '.join(words)}){result}"
    return line if len(line) <= LONGEST else "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){result}"])


def _value(default: object) -> str:
    """Return the default of an argument as its source has it; dots for an object."""
    if isinstance(default, str):
        return f'"{default}"'
    return repr(default) if default is None or isinstance(default, (bool, int, float, tuple)) else "…"


def _types() -> Iterator[str]:
    """Yield the types that several arguments have."""
    yield from ("### Types of arguments", "", "| type | is | meaning |", "|---|---|---|")
    for node, text in _documented(ast.parse(inspect.getsource(arguments)).body):
        if isinstance(node, ast.Assign):
            yield f"| `{ast.unparse(node.targets[0])}` | `{_cell(ast.unparse(node.value))}` | {_cell(text)} |"
    yield ""


def _options() -> Iterator[str]:
    """Yield the keyword arguments that several functions have."""
    for kind in (arguments.Freshness, arguments.RunnerOptions):
        yield from (
            f"### `{kind.__name__}`",
            "",
            _read(kind.__doc__).text,
            "",
            "| argument | type | meaning |",
            "|---|---|---|",
        )
        told = _attributes(kind) if kind is arguments.Freshness else _launch_options()
        for name, annotation in kind.__annotations__.items():
            kind_of_value = _cell(getattr(annotation, "__forward_arg__", annotation))
            yield f"| `{name}` | `{kind_of_value}` | {_cell(told[name])} |"
        yield ""


def _launch_options() -> dict[str, str]:
    """Return the meaning of each option of a launch, and its engines, as the tables of options have it."""
    texts: dict[str, list[str]] = {}
    tables = {"": RUNNER_OPTIONS, "kubernetes, slurm": (SHARDS,)} | ENGINE_OPTIONS
    for engines, options in [*tables.items(), ("", (NOTIFY,))]:
        for option in options:
            several = "; one or several" if option.kind in REPEATED else ""
            text = f"{engines}: {option.help}" if engines else option.help
            texts.setdefault(option.name, []).append(
                f"{text[0].upper()}{text[1:]}{several}. Default: {option.default}."
            )
    names = "|".join(name.replace("_", "-") for name in texts)
    return {
        name: re.sub(f"--({names})\\b", lambda flag: f"`{flag[1].replace('-', '_')}`", " ".join(meanings))
        for name, meanings in texts.items()
    }


def _errors(kinds: Iterable[type]) -> Iterator[str]:
    yield from ("### Errors", "", "All are a `MopsJobsError`, with `exit_code` and `hint`.", "")
    yield from ("| error | exit code | also a | meaning |", "|---|---|---|---|")
    for kind in kinds:
        if issubclass(kind, mopsjobs.MopsJobsError):
            bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__ if base is not mopsjobs.MopsJobsError)
            bases = "" if kind is mopsjobs.MopsJobsError else bases
            text = _cell(_read(kind.__doc__).text)
            yield f"| `{kind.__name__}` | {kind.exit_code} | {bases} | {text} |"


# --- docstrings --------------------------------------------------------------------------------------------------


def _read(docstring: str | None) -> Docstring:
    """Split a docstring in Google's style."""
    parts = re.split(r"^(Args|Returns|Raises):\n", inspect.cleandoc(docstring or ""), flags=re.MULTILINE)
    sections = {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        items = re.split(r"\n(?=\S)", textwrap.dedent(body).strip())
        words = [item.partition(": ") if name != "Returns" else ("", "", item) for item in items]
        sections[name] = [(key, " ".join(text.split())) for key, _, text in words]
    return Docstring(parts[0].strip(), sections)


def _cell(text: str) -> str:
    text = re.sub("see `(Freshness|RunnerOptions)`", _link, " ".join(text.split()))
    return text.replace("|", "\\|")


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))


def _link(match: re.Match[str]) -> str:
    return f"see [{match[1]}](#{_anchor(match[1])})"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
