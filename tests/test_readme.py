"""README.md is true: its code runs, its commands are those of the integration run, its names and links exist."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RUN = ROOT / ".ci" / "run"


def blocks(text: str, language: str) -> list[tuple[int, str]]:
    """First line number and source of every fenced block of a language."""
    fences = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in fences]


def commands(text: str) -> list[str]:
    """The commands of every bash block, comments and empty lines aside."""
    lines = (line.strip() for _, source in blocks(text, "bash") for line in source.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def table_tokens(text: str, column: str) -> list[str]:
    """Everything in backticks in the column of that title (itself in backticks), over all tables that have it."""
    tokens, index = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            index = None
        elif f"`{column}`" in cells:
            index = cells.index(f"`{column}`")
        elif index is not None:
            tokens += re.findall(r"`([^`]+)`", cells[index])
    return tokens


def documented_names(cls: type) -> set[str]:
    """Parameters, methods and documented attributes of an estimator, and its own name."""
    attributes = re.findall(r"^\s*(\w+_) : ", cls.__doc__, flags=re.MULTILINE)
    return {cls.__name__, *dir(cls), *cls().get_params(), *attributes}


@pytest.mark.slow
def test_python_blocks_run(tmp_path, monkeypatch):
    """In order and in one namespace, as a reader would paste them."""
    found = blocks(README.read_text(encoding="utf-8"), "python")
    assert found
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for line, source in found:
        # The empty lines make a traceback name README.md's own line.
        exec(compile("\n" * (line - 1) + source, str(README), "exec"), namespace)


def test_commands_are_those_of_the_integration_run():
    """`.ci/run` reads them from this file; --list shows what it would run."""
    expected = commands(README.read_text(encoding="utf-8"))
    listed = subprocess.run(["bash", str(RUN), "--list"], capture_output=True, text=True, check=True, timeout=60)
    assert len(expected) >= 2
    assert listed.stdout.splitlines() == expected


def test_commands_install_the_tested_versions():
    installs = [command for command in commands(README.read_text(encoding="utf-8")) if "pip install" in command]
    assert installs
    assert [command for command in installs if "-c constraints.txt" not in command] == []


def test_tables_name_what_exists():
    from skvae import AutoencoderTransformer, VAETransformer

    known = documented_names(AutoencoderTransformer) | documented_names(VAETransformer)
    tokens = table_tokens(README.read_text(encoding="utf-8"), "skvae")
    assert tokens
    assert [token for token in tokens if re.match(r"\w+", token).group() not in known] == []


def test_relative_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#\s]+)", README.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_readers_see_what_they_should():
    code = "a\n```python\nx = 1\n```\n```bash\n# why\nls  \n\nls -l\n```\n"
    table = "| here | `skvae` |\n|---|---|\n| `a` | `b()` or `c` |\n\n| `d` | `e` |\n"
    assert blocks(code, "python") == [(3, "x = 1\n")]
    assert commands(code) == ["ls", "ls -l"]
    assert table_tokens(table, "skvae") == ["b()", "c"]


@pytest.mark.parametrize(
    ("label", "method"),
    [
        ("AutoencoderTransformer, defaults", "skvae AE"),
        ("VAETransformer, defaults", "skvae VAE"),
        ('VAETransformer, `score_method="log_likelihood"`', "skvae VAE log_likelihood"),
        ("IsolationForest",) * 2,
        ("PyOD AutoEncoder, defaults", "PyOD AutoEncoder"),
        ("5 nearest neighbours", "kNN (5)"),
        ("1 nearest neighbour", "kNN (1)"),
        ("PyOD LUNAR, defaults", "LUNAR"),
        ("the default score without its network", "no network"),
    ],
)
def test_detection_table_is_the_results_file(label, method):
    results = json.loads((ROOT / "benchmarks" / "results" / "quality_anomaly_S.json").read_text())
    row = next(row for row in results["table"] if row["method"] == method)
    line = f"| {label} | {row['auroc']:.1f} | {row['ap']:.1f} | {row['median_cpu_s']:.2f} |"
    assert line in README.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("label", "method"),
    [
        ("the autoencoder", "skvae AE"),
        ("8 Gaussians", "GaussianMixture (8)"),
        ("LUNAR", "LUNAR"),
        ("1 nearest neighbour", "kNN (1)"),
        ("PyOD's AutoEncoder", "PyOD AutoEncoder"),
    ],
)
def test_figures_of_other_tables_are_the_results_file(label, method):
    results = json.loads((ROOT / "benchmarks" / "results" / "one_class_frames.json").read_text())
    row = next(row for row in results["rows"] if row["method"] == method)
    text = " ".join(README.read_text(encoding="utf-8").split())
    assert f"On {row['tables']} frames of R's packages" in text
    assert f"{row['AUROC']:.1f} / {row['AP']:.1f} for {label}" in text


def test_is_read_in_a_minute():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150
