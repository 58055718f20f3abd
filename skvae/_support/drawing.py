"""What the pictures share: axes, colours, names, and the way from a pipeline to its last step."""

from numbers import Real
from typing import Any

import numpy as np

__all__ = [
    "MAX_CLASSES",
    "MIN_NAME_SIZE",
    "bare",
    "before_last",
    "class_colors",
    "column_names",
    "dot_size",
    "held_in_frame",
    "ink",
    "last_step",
    "legend_above",
    "matrix",
    "name_columns",
    "new_axes",
    "numbered_dots",
    "options",
    "score_frame",
    "short_number",
]

# More labels than that are read off a colour bar.
MAX_CLASSES = 20
# In points; smaller names are hard to read, and left out.
MIN_NAME_SIZE = 5.0


def new_axes(ax: Any, name: str, size: tuple[float, float] | None = None) -> Any:
    """The axes to draw on: the given ones, or those of a new figure."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f"{name}.plot needs matplotlib. Install it with: pip install 'skvae[plot]'") from error
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def ink() -> Any:
    """Colour of text in the style in use, so that helper lines show on light and on dark ground."""
    from matplotlib import rcParams

    return rcParams["text.color"]


def options(defaults: dict[str, Any], given: dict[str, Any] | None) -> dict[str, Any]:
    return defaults | (given or {})


def bare(ax: Any, counts: Any = None) -> None:
    """Axes without a frame; an axis that counts has ticks at whole numbers: there is no half epoch and no half row."""
    from matplotlib.ticker import MaxNLocator

    ax.spines[["top", "right"]].set_visible(False)
    if counts is not None:
        counts.set_major_locator(MaxNLocator("auto", integer=True))


def name_columns(ax: Any, n_columns: int, names: list[str] | None) -> None:
    """Ticks with the names of columns, as far as there are any and room for them."""
    from matplotlib import rcParams

    ax.set(xticks=[], xlabel=f"{n_columns} columns")
    room = 72 * ax.get_position().width * ax.figure.get_figwidth() / n_columns  # in points
    size = min(rcParams["font.size"], 0.95 * room)
    if names is not None and size >= MIN_NAME_SIZE:
        rotation = 90 if sum(map(len, names)) > 24 else 0
        ax.set_xticks(np.arange(n_columns), names, rotation=rotation, fontsize=size)
        ax.set_xlabel("")


def legend_above(ax: Any) -> None:
    """A legend inside the axes, with room above what is drawn for its lines."""
    legend = ax.legend(loc="upper left", edgecolor="none", framealpha=0.8)
    n_lines = sum(text.get_text().count("\n") + 1 for text in legend.get_texts())
    ax.set_ylim(top=ax.get_ylim()[1] * (1 + min(0.08 * n_lines, 1.0)))


def held_in_frame(codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes with far ones moved to the edge of a frame around most of them, and how many rows were moved.

    The frame reaches ten interquartile ranges to either side of the median: a few rows that lie a hundred times as far
    away would leave all others on one dot.
    """
    low, middle, high = np.quantile(codes, [0.25, 0.5, 0.75], axis=0)
    reach = np.where(high > low, 10 * (high - low), np.inf)
    held = np.clip(codes, middle - reach, middle + reach)
    return held, int((held != codes).any(axis=1).sum())


def last_step(estimator: Any) -> Any:
    """The model itself, where it stands at the end of a pipeline."""
    return estimator[-1] if hasattr(estimator, "steps") else estimator


def before_last(estimator: Any, X: Any) -> Any:
    """Rows as the model at the end of a pipeline sees them."""
    return estimator[:-1].transform(X) if hasattr(estimator, "steps") and len(estimator) > 1 else X


def column_names(X: Any, n_columns: int) -> list[str]:
    names = X.column_names if isinstance(getattr(X, "column_names", None), list) else getattr(X, "columns", None)
    return [f"x{i}" for i in range(n_columns)] if names is None else [str(name) for name in names]


def matrix(X: Any) -> np.ndarray:
    """A table of numbers as an array."""
    try:
        values = np.asarray(X, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "The picture needs a table of numbers only, but this one holds others. Look at a row with "
            "ExplanationDisplay, or at all rows with LatentSpaceDisplay and AnomalyScoreDisplay."
        ) from error
    if values.ndim != 2:
        raise ValueError(f"X must have two dimensions, rows and columns, but its shape is {values.shape}.")
    return values


def short_number(value: Any) -> str:
    """A number in at most four digits, the way a reader would write it; a category as it is."""
    if str(value) in {"nan", "None", "<NA>", "NaT"}:
        return "missing"
    if not isinstance(value, Real) or isinstance(value, bool):
        return str(value)
    number = float(value)
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e6 else f"{number:.4g}"


def dot_size(n_samples: int) -> float:
    """Area of a dot in square points: less where there are many."""
    return float(np.clip(8000 / max(n_samples, 1), 8, 30))


def numbered_dots(y: Any) -> dict[str, Any]:
    """Look of dots coloured by a number, outlined because one end of the colours is hard to see on either ground."""
    look = {"c": np.asarray(y), "cmap": "viridis", "s": dot_size(len(y))}
    return look | {"edgecolors": [ink()], "linewidth": 0.3}


def score_frame(scores: np.ndarray, threshold: float, reach: float) -> tuple[float, float]:
    """Ends of the axis: all above the threshold, and ``reach`` times as much below.

    Where three quarters of the rows lie below, it reaches so far below the least of the upper quarter.
    """
    high = max(float(scores.max()), threshold)
    middle = min(threshold, float(np.quantile(scores, 0.75)))
    return min(threshold, max(float(scores.min()), middle - reach * (high - middle))), high


def class_colors(n_classes: int) -> list[Any]:
    """Colours that can be told apart, as far as there are."""
    from matplotlib import colormaps, rcParams

    if n_classes <= len(rcParams["axes.prop_cycle"]):
        return [f"C{index}" for index in range(n_classes)]
    return [colormaps["tab10" if n_classes <= 10 else "tab20"](index % 20) for index in range(n_classes)]
