"""The directive ``results``: a table made from a file in benchmarks/results, so that no number is typed by hand.

::

    .. results:: score_S
       :columns: who, s per million rows
       :where: who=skvae AE

``columns`` are all by default; ``where`` keeps the rows whose column starts with that text. Where a file is no plain
list of rows, a function below says how it reads. The directive ``other-results`` shows the files that no page names.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
_PAGES = Path(__file__).resolve().parents[1] / "benchmarks"

Rows = list[dict[str, Any]]


# --- What a file holds, as rows of columns ---------------------------------------------------------------------------


def _plain(content: dict[str, Any]) -> Rows:
    return content["rows"]


def _detection(content: dict[str, Any]) -> Rows:
    """Means over tables, and the paired difference to the autoencoder with its standard error."""
    first = content["table"][0]
    rows = []
    for row in content["table"]:
        gap = first["minus"][row["method"]]
        rows.append(
            {
                "method": row["method"],
                "AUROC": f"{row['auroc']:.1f}",
                "average precision": f"{row['ap']:.1f}",
                "mean rank": f"{row['rank']:.1f}",
                f"AUROC of {first['method']} minus its": "" if row is first else f"{gap[0]:+.1f} ± {gap[1]:.1f}",
                "median CPU s": f"{row['median_cpu_s']:.2f}",
            }
        )
    return rows


def _density_tabular(content: dict[str, Any]) -> Rows:
    tables = content["results"]
    methods = [name for name in next(iter(tables.values())) if not name.startswith("fit CPU s")]
    return [
        {"method": method}
        | {f"{table} ({len(found[method])} splits)": f"{mean(found[method]):.1f}" for table, found in tables.items()}
        for method in methods
    ]


def _density_2d(content: dict[str, Any]) -> Rows:
    return [
        {"data": data, "model": model} | {key: f"{value:.3g}" for key, value in found.items()}
        for data, models in content["results"].items()
        for model, found in models.items()
    ]


def _imputation(content: dict[str, Any]) -> Rows:
    mixed = [
        {
            "table": row["table"],
            "method": row["method"],
            "error": f"{row['error']:.3f}",
            "date": row.get("date", content["date"]),
            "CPU s": f"{row['cpu_seconds']:.2f}",
        }
        for row in content["mixed"]
    ]
    intervals = [
        {"table of draws": row["table"], "hidden": row["hidden"], "covered %": f"{mean(row['covered %']):.1f}"}
        for row in content["coverage"]
    ]
    return [*mixed, *intervals] + [
        {
            "table": row["table"],
            "method": row["method"],
            "mean squared error": f"{mean(row['errors']):.3f}",
            "masks": len(row["errors"]),
            "CPU s": f"{mean(row['cpu_seconds']):.2f}",
        }
        for row in content["rows"]
    ]


READERS: dict[str, Callable[[dict[str, Any]], Rows]] = {
    "density_tabular": _density_tabular,
    "density_2d": _density_2d,
    "imputation": _imputation,
    **dict.fromkeys(
        (
            "quality_anomaly_S",
            "quality_anomaly_S_120",
            "quality_anomaly_U",
            "quality_anomaly_S_dirt0.01",
            "quality_anomaly_S_dirt0.03",
        ),
        _detection,
    ),
}


# --- From rows to a page ---------------------------------------------------------------------------------------------


def read(name: str, where: dict[str, str] | None = None, columns: list[str] | None = None) -> tuple[list[str], Rows]:
    """Columns and rows of a file; a column that is not there is an error."""
    rows = READERS.get(name, _plain)(json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    known = list(dict.fromkeys(key for row in rows for key in row))
    chosen = columns or known
    unknown = sorted({*chosen, *(where or {})} - {*known})
    if unknown:
        raise ValueError(f"{name}.json has no column {unknown}; it has {known}.")
    kept = [row for row in rows if all(str(row.get(key, "")).startswith(text) for key, text in (where or {}).items())]
    return chosen, kept


def origin(name: str) -> str:
    """Command, date and machine, as far as the file says."""
    content = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    machine = content.get("machine", {})
    known = machine if isinstance(machine, dict) else {"processor": machine}
    known = known | content.get("packages", {}) | {key: content[key] for key in ("date", "torch") if key in content}
    said = [f"``{known['command']}``"] if "command" in known else []
    said += [known[key] for key in ("date", "processor") if key in known]
    said += [f"{package} {known[package]}" for package in ("torch", "scikit-learn") if package in known]
    return ", ".join([*said, f"``benchmarks/results/{name}.json``"])


def show(value: Any) -> str:
    """A cell: three significant digits of a fraction, all of an int."""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _list_table(columns: list[str], rows: Rows) -> str:
    lines = [".. list-table::", "   :header-rows: 1", "   :class: results", ""]
    for cells in (columns, *([show(row.get(key, "")) for key in columns] for row in rows)):
        lines += [f"   {'* -' if index == 0 else '  -'} {cell}" for index, cell in enumerate(cells)]
    return "\n".join(lines)


class Results(SphinxDirective):
    """A table and where it comes from."""

    required_arguments = 1
    option_spec = {"columns": directives.unchanged, "where": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        self.env.note_dependency(str(_FOLDER / f"{name}.json"))
        columns = [column.strip() for column in self.options.get("columns", "").split(",") if column.strip()]
        where = dict(pair.strip().split("=", 1) for pair in self.options.get("where", "").split(";") if pair.strip())
        try:
            chosen, rows = read(name, where, columns)
        except (OSError, ValueError) as error:
            raise self.error(str(error)) from error
        table = self.parse_text_to_nodes(_list_table(chosen, rows))
        return [*table, source_of(self, name)]


class OtherResults(SphinxDirective):
    """Files that no page names yet, each with its table, or where it is no plain list of rows, by name alone."""

    def run(self) -> list[nodes.Node]:
        pages = "".join(page.read_text(encoding="utf-8") for page in _PAGES.glob("*.rst"))
        named = set(re.findall(r"^\.\. results:: ([\w.]+)$", pages, flags=re.MULTILINE))
        found: list[nodes.Node] = []
        for name in sorted({path.stem for path in _FOLDER.glob("*.json")} - named):
            self.env.note_dependency(str(_FOLDER / f"{name}.json"))
            try:
                text = _list_table(*read(name))
            except (AttributeError, KeyError, TypeError):
                text = ""
            found += [nodes.rubric(name, name), *self.parse_text_to_nodes(text), source_of(self, name)]
        return found or self.parse_text_to_nodes("None at present: the other pages show every file.")


def source_of(directive: SphinxDirective, name: str) -> nodes.Node:
    """Small print below a table."""
    source = nodes.paragraph("", "", classes=["origin"])
    source += directive.parse_inline(origin(name))[0]
    return source


def setup(app):
    app.add_directive("results", Results)
    app.add_directive("other-results", OtherResults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
