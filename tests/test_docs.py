"""The pages of docs/ are true: what they show runs and prints what they say, and they name what there is."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs"
PACKAGE = FOLDER.parent / "skvae"
BUILT = {"_build", "_ext", "_templates", "auto_examples", "generated"}  # left behind by a build, if there was one
PAGES = {
    str(path.relative_to(FOLDER).with_suffix("")): path
    for path in sorted(FOLDER.rglob("*.rst"))
    if not BUILT & {*path.relative_to(FOLDER).parts}
}
SNIPPETS = {name: path for name, path in PAGES.items() if ">>> " in path.read_text(encoding="utf-8")}


def test_there_are_snippets():
    assert {"index", "recipes", "guide/scores", "coming_from/pyod"} <= SNIPPETS.keys()


def test_every_public_name_has_a_place_in_the_interface():
    """Tables of names only: each entry becomes a page."""
    index = PAGES["api/index"].read_text(encoding="utf-8")
    listed = re.findall(r"^   (\w+)$", index, flags=re.MULTILINE)
    modules = [
        importlib.import_module(f"skvae.{path.stem}")
        for path in sorted(PACKAGE.glob("[!_]*"))
        if path.name != "py.typed"
    ]
    named = {name for module in modules for name in module.__all__ if callable(getattr(module, name))}
    assert sorted(listed) == sorted(named)


@pytest.mark.slow
@pytest.mark.parametrize("name", SNIPPETS)
def test_snippets_print_what_the_page_says(name, tmp_path, monkeypatch):
    """Each page in one namespace; each recipe in one of its own, because it is pasted alone."""
    monkeypatch.chdir(tmp_path)  # some save a model
    page = SNIPPETS[name].read_text(encoding="utf-8")
    for title, text in (chapters(page) if name == "recipes" else {name: page}).items():
        test = doctest.DocTestParser().get_doctest(text, {}, title, str(SNIPPETS[name]), 0)
        found = doctest.DocTestRunner().run(test)
        assert found.attempted
        assert not found.failed


def chapters(text: str) -> dict[str, str]:
    """Title -> text of each chapter of a page, that before the first left out."""
    pieces = re.split(r"^(.+)\n-{3,}\n", text, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_there_is_a_recipe_for_each_job():
    titles = " ".join(chapters(PAGES["recipes"].read_text(encoding="utf-8"))).lower()
    assert [
        job for job in ("detect", "explain", "reduce", "impute", "sample", "save", "serve") if job not in titles
    ] == []


@pytest.mark.parametrize("name", PAGES)
def test_no_python_escapes_the_tests(name):
    """Code for Python is written with prompts; a block without them would never run."""
    lines = [line.strip() for line in PAGES[name].read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if re.match(r"\.\. code(-block)?:: *(python|ipython|pycon)", line)] == []
    assert [line for line in lines if line.endswith("::") and not line.startswith(".. ")] == []


WIDTH = 88


@pytest.mark.parametrize("name", SNIPPETS)
def test_code_fits_beside_the_menus(name):
    """ruff holds the examples to the same width."""
    lines = re.findall(r"^ *(?:>>>|\.\.\.) (.*)$", SNIPPETS[name].read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [line for line in lines if len(line) > WIDTH] == []


# What people type who do not know our names; each must stand on a page, so that the site's search finds it.
WORDS = (
    "fraud, novelty detection, outlier detection, anomaly, drift, latency, sparse, privacy, datetime, time limit"
    ", dimensionality reduction, interrupt, umap, t-SNE, skewed, boolean, values, API reference, plotting, imputation"
    ", synthetic data, threshold, deployment, explanation, hyperparameter search, log-likelihood, PCA, IsolationForest"
)


@pytest.mark.parametrize("word", WORDS.split(", "))
def test_common_words_lead_somewhere(word):
    pages = [page.read_text(encoding="utf-8") for page in PAGES.values()]
    assert any(word.lower() in " ".join(page.split()).lower() for page in pages)


def test_every_page_is_reached():
    """From the first page, by the toctrees; Sphinx says so too, but only where it is installed."""
    entries = {name: toctree_of(name) for name in PAGES}
    reached, waiting = set(), ["index"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting += [entry for entry in entries[name] if entry in PAGES and entry not in reached]
    assert reached == PAGES.keys() - {"gallery_header"}


def toctree_of(name: str) -> list[str]:
    """Pages that the toctrees of a page name, relative to docs/."""
    text = PAGES[name].read_text(encoding="utf-8")
    blocks = re.findall(r"\.\. toctree::\n((?:[ \t]+.*\n|\n)+)", text)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    parent = Path(name).parent
    return [str(parent / line) if parent.name else line for line in lines if line and not line.startswith(":")]


def test_every_table_of_results_has_its_file():
    """What the file holds is read when the site is built."""
    shown = {
        name
        for page in PAGES.values()
        for name in re.findall(r"^\.\. results:: ([\w.]+)$", page.read_text("utf-8"), re.M)
    }
    results = FOLDER.parent / "benchmarks" / "results"
    assert shown
    assert shown <= {path.stem for path in results.glob("*.json")}
