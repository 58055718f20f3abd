"""What the pictures share: axes, colours, names, and the way from a pipeline to its last step."""

from typing import Any

import numpy as np

__all__ = [
    "MAX_CLASSES",
    "MAX_NAMES",
    "bare",
    "before_last",
    "class_colors",
    "column_names",
    "dot_size",
    "ink",
    "last_step",
    "matrix",
    "new_axes",
    "options",
    "short_number",
]

# More labels than that are read off a colour bar.
MAX_CLASSES = 20
# More column names than that overlap.
MAX_NAMES = 40


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


def bare(ax: Any) -> None:
    ax.spines[["top", "right"]].set_visible(False)


def last_step(estimator: Any) -> Any:
    """The model itself, where it stands at the end of a pipeline."""
    return estimator[-1] if hasattr(estimator, "steps") else estimator


def before_last(estimator: Any, X: Any) -> Any:
    """Rows as the model at the end of a pipeline sees them."""
    return estimator[:-1].transform(X) if hasattr(estimator, "steps") and len(estimator) > 1 else X


def column_names(X: Any, n_columns: int) -> list[str]:
    names = getattr(X, "columns", None)
    return [f"x{i}" for i in range(n_columns)] if names is None else [str(name) for name in names]


def matrix(X: Any) -> np.ndarray:
    values = np.asarray(X, dtype=float)
    if values.ndim != 2:
        raise ValueError(f"X must have two dimensions, rows and columns, but its shape is {values.shape}.")
    return values


def short_number(value: float) -> str:
    """A value in at most four digits, the way a reader would write it."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"


def dot_size(n_samples: int) -> float:
    """Area of a dot in square points: less where there are many."""
    return float(np.clip(8000 / max(n_samples, 1), 8, 30))


def class_colors(n_classes: int) -> list[Any]:
    """Colours that can be told apart, as far as there are."""
    from matplotlib import colormaps

    if n_classes == 1:
        return ["C0"]
    return [colormaps["tab10" if n_classes <= 10 else "tab20"](index % 20) for index in range(n_classes)]
