"""SECURITY.md names the test that holds each of its claims; here is seen that these tests exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
TABLE = "Which test holds which claim"
WITHOUT_CLAIMS = {"Dependencies", "Reporting", TABLE}
"""Sections that say nothing of what the program does."""


class Claim(NamedTuple):
    section: str
    text: str
    tests: list[str]


def _claims() -> list[Claim]:
    lines = TEXT.partition(f"## {TABLE}\n")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [Claim(section, text, re.findall(r"`([^`]+)`", tests)) for section, text, tests in rows[1:]]


CLAIMS = _claims()


@functools.cache
def _tests_of(name: str) -> set[str]:
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_each_claim_names_tests_that_exist() -> None:
    """At least one, each as `PATH::test_name`: a test that is renamed or removed is missed here."""
    assert [claim.text for claim in CLAIMS if not claim.tests] == []
    for text, one in ((claim.text, one) for claim in CLAIMS for one in claim.tests):
        file, _, name = one.partition("::")
        assert re.fullmatch(r"tests/(\w+/)+test_\w+\.py", file), one
        assert name.startswith("test_"), one
        assert name in _tests_of(file), f"{one} does not exist: name the test that holds '{text}'"


def test_each_section_with_claims_has_its_rows() -> None:
    """A section that makes claims is in the table, and the table has no section that is not there."""
    sections = set(re.findall(r"^## (.+)$", TEXT, re.MULTILINE)) - WITHOUT_CLAIMS
    assert {claim.section for claim in CLAIMS} == sections
