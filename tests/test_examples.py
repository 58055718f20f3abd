"""Every example is short, runs as a user would run it, and prints a result."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
MAX_LINES = 120


def test_there_are_examples():
    assert "quickstart" in EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_readme_lists_the_example(name):
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert f"(examples/{name}.py)" in readme


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_short_and_opens_with_its_question(name):
    source = EXAMPLES[name].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    assert source.startswith('"""')
    # A shorter rule fails the build of the site.
    over, title, under = source.splitlines()[1:4]
    assert over == under
    assert set(over) == {"="}
    assert len(over) >= len(title)
    headings = re.findall(r"^# %%\n# (.+)\n# (-+)$", source, flags=re.MULTILINE)
    assert [heading for heading, rule in headings if len(rule) < len(heading)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES[name])],
        cwd=tmp_path,
        env=os.environ | {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Warning" not in done.stderr
