"""Every example is short, runs as a user would run it, and prints a result."""

import multiprocessing
import os
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
EXAMPLES = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
# What 120 lines of the package's width become at the 88 columns that the site shows.
MAX_LINES = 150


def test_there_are_examples():
    assert "quickstart" in EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_short_and_opens_with_its_task_and_question(name):
    source = EXAMPLES[name].read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_LINES
    assert source.startswith('"""')
    # A shorter rule fails the build of the site.
    over, title, under = source.splitlines()[1:4]
    assert over == under
    assert set(over) == {"="}
    assert len(over) >= len(title)
    assert re.fullmatch(r"[A-Z][\w ]+: \w.*\?", title)
    headings = re.findall(r"^# %%\n# (.+)\n# (-+)$", source, flags=re.MULTILINE)
    assert [heading for heading, rule in headings if len(rule) < len(heading)] == []


def run(path, folder):
    """What ``python path`` does in that folder; what it prints goes to two files there."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
    runpy.run_path(path, run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, tmp_path):
    # Each in a process of its own, forked from one that has only imported: three seconds, spent once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["matplotlib.pyplot", "pandas", "skvae"])
    process = context.Process(target=run, args=(str(EXAMPLES[name]), str(tmp_path)))
    process.start()
    process.join(timeout=300)
    process.kill()  # one that hangs
    printed, errors = ((tmp_path / stream).read_text(encoding="utf-8") for stream in ("stdout", "stderr"))
    assert process.exitcode == 0, errors
    assert printed.strip()
    assert "Warning" not in errors
