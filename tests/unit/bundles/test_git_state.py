"""The git state of a packed directory: its commit, whether files differ, and that nothing of the repository runs."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mopsjobs.bundles import git_state
from mopsjobs.bundles.git_state import GitState, read_git_state
from mopsjobs.bundles.packing import pack
from support.runs import tree

ENV = {"PATH": os.environ["PATH"]}


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    env = {**ENV, "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *identity, *arguments], cwd=root, env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with one commit of a model, a script, a link and a file that is not packed."""
    root = tree(tmp_path / "code", {"model.py": "x = 1\n", "lib/run.sh": "true\n", ".modelopsignore": "notes.txt\n"})
    (root / "lib" / "run.sh").chmod(0o755)
    (root / "link").symlink_to("model.py")
    (root / "notes.txt").write_text("mine\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    return root


def state_of(root: Path, env: dict[str, str] | None = None) -> GitState | None:
    with pack(root) as packed:
        return read_git_state(root, packed.blobs, ENV if env is None else env)


def test_a_committed_directory_is_clean(repository: Path) -> None:
    """A change of a file that is not packed does not count."""
    clean = GitState(git(repository, "rev-parse", "HEAD"), is_dirty=False)
    assert state_of(repository) == clean
    assert state_of(repository / "lib") == clean
    (repository / "notes.txt").write_text("other\n")
    assert state_of(repository) == clean


@pytest.mark.parametrize("change", ["content", "new file", "removed file", "executable bit", "link"])
def test_what_differs_from_the_commit_is_dirty(repository: Path, change: str) -> None:
    """Neither the index nor `assume-unchanged` hides it."""
    if change == "content":
        git(repository, "update-index", "--assume-unchanged", "model.py")
        (repository / "model.py").write_text("x = 2\n")
    elif change == "new file":
        (repository / "new.py").touch()
    elif change == "removed file":
        (repository / "model.py").rename(repository / "lib" / "model.py")
        (repository / "link").unlink()
    elif change == "executable bit":
        (repository / "lib" / "run.sh").chmod(0o644)
    else:
        (repository / "link").unlink()
        (repository / "link").symlink_to("lib/run.sh")
    assert state_of(repository) == GitState(git(repository, "rev-parse", "HEAD"), is_dirty=True)


def test_nothing_of_the_repository_runs(repository: Path, tmp_path: Path) -> None:
    """Hooks, filters, the file system monitor, aliases and the pager of a repository are commands of its author."""
    evil = tmp_path / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\ncat\n")
    evil.chmod(0o755)
    (repository / ".git" / "hooks" / "post-index-change").symlink_to(evil)
    for name in (
        "core.fsmonitor",
        "core.pager",
        "pager.ls-tree",
        "core.sshCommand",
        "filter.x.clean",
        "filter.x.process",
    ):
        git(repository, "config", name, str(evil))
    git(repository, "config", "alias.ls-tree", f"!{evil}")
    (repository / ".gitattributes").write_text("*.py filter=x\n")
    (repository / "model.py").write_text("x = 3\n")
    index = (repository / ".git" / "index").read_bytes()
    found = state_of(repository)
    assert found is not None
    assert found.is_dirty
    assert not (tmp_path / "ran").exists()
    assert (repository / ".git" / "index").read_bytes() == index


def test_no_repository_no_git_and_no_commit_have_no_state(repository: Path, tmp_path: Path) -> None:
    assert state_of(tree(tmp_path / "plain", {"model.py": ""})) is None
    assert state_of(repository, {"PATH": str(tmp_path)}) is None
    assert state_of(repository, {}) is None
    fresh = tree(tmp_path / "fresh", {"model.py": ""})
    git(fresh, "init", "-q")
    assert state_of(fresh) is None


def test_a_directory_that_the_repository_lacks_has_no_state(repository: Path) -> None:
    """A home directory may be a repository: the model below it is none of its files."""
    assert state_of(tree(repository / "scratch", {"other.py": ""})) is None


def test_variables_of_a_hook_do_not_name_another_repository(repository: Path, tmp_path: Path) -> None:
    hook = {**ENV, "GIT_DIR": str(tmp_path / "elsewhere"), "GIT_WORK_TREE": "/", "GIT_INDEX_FILE": "/none"}
    assert state_of(repository, hook) == state_of(repository)


def test_a_git_that_hangs_is_given_up(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tree(tmp_path / "bin", {"git": "#!/bin/sh\nexec sleep 600\n"})
    (programs / "git").chmod(0o755)
    monkeypatch.setattr(git_state, "SECONDS", 0.05)
    assert state_of(repository, {"PATH": f"{programs}:{ENV['PATH']}"}) is None


def test_another_object_format_leaves_open_whether_it_is_dirty(tmp_path: Path) -> None:
    root = tree(tmp_path / "code", {"model.py": "x = 1\n"})
    git(root, "init", "-q", "--object-format=sha256")
    git(root, "add", ".")
    git(root, "commit", "-qm", "one")
    assert state_of(root) == GitState(git(root, "rev-parse", "HEAD"), None)
