"""What goes into a bundle is what git would list: compared with git itself, on a tree made to be nasty."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from mopsjobs.bundles.packing import ALWAYS_IN, pack
from support.runs import tree


def _names(root: Path) -> list[str]:
    with pack(root) as packed:
        packed.archive.seek(0)
        with tarfile.open(fileobj=io.BytesIO(packed.archive.read())) as tar:
            return tar.getnames()


RULES = {
    ".gitignore": (
        "\ufeff*.log\r\n!keep.log\n/anchored\nbuild/\n!/src/build/\ndoc/**/*.txt\n**/deep/x\n# comment\n\\#hash\n"
        "\\!bang\ntrailing.sp   \nescaped\\ \nin/slash\na[!b]c\nd[0-9].dat\n[w-b]\nbad\\\n*.x\n!dir/\nall/**\n"
        "!all/back\n/\n!\nq?.q\n[[]x]\ne[[:digit:]]\nvoil\u00e0\ncaf?\n*/\n!*/\nonly_dir/\nlink_dir/\nfoo//\n"
        "**/p/**/q\nr**s\n*.\\o\n\t\n"
    ),
    "src/.gitignore": "/top\nsub/*\n!sub/kept\n*.log\n!z\nz\n!z\n*.keep\n",
    "src/sub/.gitignore": "!other\n",
    "all/.gitignore": "!again\n",
}
FILES = """
a.log keep.log anchored sub/anchored build/f src/build/f src/top src/sub/top doc/a.txt doc/b/c/a.txt doc/a.md deep/x
s/deep/x deep/y #hash !bang trailing.sp in/slash t/in/slash abc axc a-c d1.dat dd.dat z dir/a.x dir/b.y all/one
all/back all/again all/two/three q1.q q22.q [x] e1 e[ voil\u00e0 caf\u00e9 cafe only_dir/f o/only_dir/g o/p/only_dir
foo/f p/q p/1/2/q p/r r1s r/s x.o src/sub/kept src/sub/gone src/sub/other src/keep.log src/z src/a.keep
src/sub/deep/kept .hidden .gitattributes a/b/c/d/e/f.log a/b/c/d/e/f.txt src/z.log/f src/z.log2/f
"""
SPACED = ["escaped ", "two words", "new\nline", "tab\t"]
NASTY = RULES | dict.fromkeys([*FILES.split(), *SPACED], "x")


def _git(root: Path, *words: str) -> bytes:
    settings = {"GIT_CONFIG_NOSYSTEM": "1", "HOME": str(root.parent / "nobody"), "PATH": os.environ["PATH"]}
    return subprocess.run(["git", *words], cwd=root, env=settings, check=True, capture_output=True).stdout


def _listed(root: Path) -> set[str]:
    found = _git(root, "ls-files", "-z", "-co", "--exclude-standard")
    return {os.fsdecode(name) for name in found.split(b"\0") if name}


def test_directories_of_downloads_stay_out(tmp_path: Path) -> None:
    """Those of parameter sets and of reductions, wherever they lie, unless a rule brings them back."""
    names = [f"{'0a' * 32}/1/result.json", "out/all/reduced-8/result.json", "out/all/notes.md", "0a0a/model.py"]
    root = tree(tmp_path / "tree", dict.fromkeys(names, ""))
    assert _names(root) == ["0a0a/model.py", "out/all/notes.md"]
    tree(root, {".modelopsignore": "!0a*/\n"})
    assert names[0] in _names(root)


def test_directories_of_crates_stay_out_and_are_named(tmp_path: Path) -> None:
    """They have the code of a model once more. A rule brings them back; other crates are the user's own."""
    crate = dict.fromkeys(["out/job/provenance.json", "out/job/ro-crate-metadata.json", "out/job/code/model.py"], "")
    theirs = dict.fromkeys(["data/ro-crate-metadata.json", "data/cases.csv"], "")
    root = tree(tmp_path / "tree", crate | theirs)
    with pack(root) as packed:
        assert (sorted(packed.names), packed.written) == (sorted(theirs), ("out/job/",))
    tree(root, {".modelopsignore": "!job/\n"})
    assert set(_names(root)) == {".modelopsignore", *crate, *theirs}


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git to compare with")
def test_what_goes_in_is_what_git_lists(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", NASTY)
    (root / "link_dir").symlink_to("src")
    (root / os.fsdecode(b"not\xffutf8")).write_text("x")
    _git(root, "init", "-q")
    assert set(_names(root)) == _listed(root)
    assert len(_listed(root)) > 30


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git to compare with")
def test_the_rules_of_the_directories_above_hold_too_within_a_repository(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", NASTY)
    _git(root, "init", "-q")
    assert set(_names(root / "src")) == _listed(root / "src")
    shutil.rmtree(root / ".git")
    assert "build/f" in _names(root / "src")
    assert "keep.log" not in _names(root / "src"), "src/.gitignore holds without a repository"


def test_git_and_virtual_environments_and_leftovers_stay_out(tmp_path: Path) -> None:
    leftovers = [
        "__pycache__/m.pyc",
        "old.pyc",
        ".DS_Store",
        ".mypy_cache/f",
        ".cache/mops-jobs/app/f",
        ".snakemake/f",
        "sub/.ipynb_checkpoints/f",
    ]
    never = [".git/config", "sub/.git", "env/pyvenv.cfg", "env/lib/f", *leftovers]
    root = tree(tmp_path / "tree", dict.fromkeys(["model.py", *never], "x"))
    (root / "empty").mkdir()
    assert _names(root) == ["model.py"]


def test_modelopsignore_has_the_last_word(tmp_path: Path) -> None:
    files = {".gitignore": "data/\n", ".modelopsignore": "!data/\n*.csv\n!__pycache__/\n", "sub/.gitignore": "!*.csv\n"}
    root = tree(tmp_path / "tree", files | dict.fromkeys(["data/a.bin", "data/b.csv", "sub/c.csv"], "x"))
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "wanted").touch()
    assert _names(root) == [".gitignore", ".modelopsignore", "__pycache__/wanted", "data/a.bin", "sub/.gitignore"]


@pytest.mark.parametrize("rule", ["", ".modelops/\n.modelops-bundle/", "manifest.json\nregistry.yaml", "*", "/.m*/**"])
def test_what_modelops_reads_is_always_in_and_once(tmp_path: Path, rule: str) -> None:
    """Its templates leave `.modelops-bundle/` out by `.gitignore`, and its wire function needs the registry there."""
    files = {
        ".modelopsignore": rule,
        ".modelops-bundle/.gitignore": "*",
        "model.py": "x",
        **dict.fromkeys(ALWAYS_IN, ""),
    }
    names = _names(tree(tmp_path / "tree", files))
    assert {name: names.count(name) for name in ALWAYS_IN} == dict.fromkeys(ALWAYS_IN, 1)
    assert len(ALWAYS_IN) == 3
