"""Every shell command in README.md and docs/*.md works, in the order in which it stands, and so do some scripts.

What is run is a line of a block marked ``sh``, and then each block marked ``python run``.  A line that ends in one of
`NOT_RUN` is not: it is for a person, takes long, or changes the Python installation.  Lines for pytest only collect:
paths and markers in them must exist.

The commands of a file run one after the other in a scratch directory with a home of their own; guests that are built
come from the user's cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from revirt.image.cache import cache_directory

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = ("# (interactive)", "# (long)", "# (installs)")
SHOWN = ("guests", "tools")
TIMEOUT_S = 600

_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPT = re.compile(r"^```python run\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHELLS = ("sh", "shell", "bash", "console")


def commands(document: Path) -> list[str]:
    """Return the lines of *document* that are to be run, in order."""
    blocks = [text for language, text in _BLOCK.findall(document.read_text()) if language in _SHELLS]
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [
        line for line in lines if line.strip() and not line.startswith("#") and not line.endswith(NOT_RUN)
    ]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment with an empty home, and this Python's programs before all others."""
    home = tmp_path / "home"
    home.mkdir()
    here = Path(sys.executable).parent
    return {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "REVIRT_CACHE": str(cache_directory()),
        "REVIRT_DIR": str(home / "recordings"),
        "PYTEST_ADDOPTS": "--collect-only -q -p no:cacheprovider",
        "NO_COLOR": "1",
    }


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A directory to work in, with the parts of the source tree that commands name."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    for name in SHOWN:
        (scratch / name).symlink_to(ROOT / name)
    return scratch


@pytest.mark.debian
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if commands(path)], ids=lambda path: path.name
)
def test_commands_work(document: Path, environment: dict[str, str], scratch: Path) -> None:
    scripts = [[sys.executable, "-P", "-c", script] for script in _SCRIPT.findall(document.read_text())]
    for command in [*(["bash", "-o", "pipefail", "-c", each] for each in commands(document)), *scripts]:
        done = subprocess.run(
            command,
            cwd=ROOT if command[-1].startswith("pytest") else scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )

        assert done.returncode == 0, (
            f"{document.name}: {command[-1]}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )


def test_readme_has_the_two_commands_that_install_and_show() -> None:
    readme = (ROOT / "README.md").read_text()

    assert "pip install '.[test]' && revirt demo" in readme
    assert "pip install '.[test]' && pytest" in readme
