"""Each claim of SECURITY.md, which stands there in bold type, is held by a test that is marked with its words."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
WITHOUT_CLAIMS = {"What you downloaded", "Reporting"}
"""Sections that say nothing of what the program does."""


def _claims(markdown: str) -> set[str]:
    """Return what stands in bold type, each as a sentence without its full stop."""
    return {claim[0].upper() + claim[1:].rstrip(".") for claim in re.findall(r"\*\*(.+?)\*\*", markdown)}


def _marked(source: Path) -> set[str]:
    """Return the claims that the tests of a module are marked with."""
    text = source.read_text(encoding="utf-8")
    if "mark.claim(" not in text:
        return set()
    return {
        ast.literal_eval(argument)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.claim"
        for argument in decorator.args
    }


def test_each_claim_has_a_test() -> None:
    """No test is marked with a claim that SECURITY.md does not make, and no claim is without a test."""
    marked = {claim for source in (ROOT / "tests").rglob("test_*.py") for claim in _marked(source)}
    assert marked == _claims(TEXT)


def test_each_section_has_claims() -> None:
    """A section without any is named here, so that its claims are not forgotten."""
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    assert {section.partition("\n")[0] for section in sections if not _claims(section)} == WITHOUT_CLAIMS
