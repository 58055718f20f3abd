"""What a fitted model has learned, column by column and component by component, as numbers and as a printed table."""

from typing import Any, NamedTuple

import numpy as np

from ._support.drawing import before_last, column_names, last_step, short_number

__all__ = ["Report", "report"]


class Report(NamedTuple):
    """Diagnostics of a fitted model on a table; ``print`` shows them side by side.

    Attributes
    ----------
    columns : list of str
        Names of the columns.
    noise_scale : ndarray of shape (n_features,) or None
        Standard deviation of the noise of each column, in its units; None where the likelihood has none.
    explained_variance : ndarray of shape (n_features,)
        Share of each column's variance that its reconstruction explains: 1 is all, 0 no more than the mean. NaN for
        constant columns and for categories.
    marginal_distance : ndarray of shape (n_features,) or None
        How far the column's distribution in samples of the model is from that in the table, from 0 to 1: the largest
        difference between the distribution functions of numbers (Kolmogorov and Smirnov's statistic), half of the
        summed differences between the frequencies of categories. None for models that do not sample.
    kl_per_component : ndarray of shape (n_components,) or None
        Mean KL divergence of each latent component, in nats. None for models without a posterior.
    effective_draws : float or None
        Median over the rows of the draws that carry `log_likelihood`, of the model's ``n_draws``.

    See Also
    --------
    skvae.display : Pictures of fitted models.
    """

    columns: list[str]
    noise_scale: np.ndarray | None
    explained_variance: np.ndarray
    marginal_distance: np.ndarray | None
    kl_per_component: np.ndarray | None
    effective_draws: float | None

    def __str__(self) -> str:
        shown = {
            "noise scale": self.noise_scale,
            "explained variance": self.explained_variance,
            "marginal distance": self.marginal_distance,
        }
        parts = [_table("column", self.columns, shown)]
        if self.kl_per_component is not None:
            names = [str(index) for index in range(len(self.kl_per_component))]
            parts.append(_table("component", names, {"KL, nats": self.kl_per_component}))
        if self.effective_draws is not None:
            parts.append(f"effective draws of log_likelihood, median: {short_number(round(self.effective_draws, 2))}")
        return "\n\n".join(parts)


def report(estimator, X, *, n_samples=10_000, random_state=0):
    r"""Tell how well a fitted model describes each column, and what each latent component carries.

    .. math:: 1 - \frac{\sum_i (x_{ij} - \hat x_{ij})^2}{\sum_i (x_{ij} - \bar x_j)^2}

    is the explained variance of column j.

    Parameters
    ----------
    estimator : estimator
        A fitted model, or a pipeline that ends in one; the columns are then those of the last step.
    X : array-like of shape (n_samples, n_features)
        Rows to compare with, best such as did not train.
    n_samples : int, default=10_000
        Rows that are drawn from a model that samples.
    random_state : int, RandomState instance or None, default=0
        Seeds those draws.

    Returns
    -------
    report : Report

    References
    ----------
    Gelman, Meng & Stern (1996), "Posterior predictive assessment of model fitness", Statistica Sinica 6.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> from skvae.report import report
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) * np.ones(3) + 0.2 * rng.normal(size=(500, 3))
    >>> found = report(VAETransformer(2, random_state=0).fit(X), X)
    >>> bool((found.explained_variance > 0.9).all())
    True
    """
    model, rows = last_step(estimator), before_last(estimator, X)
    table, rebuilt = _columns(rows), _columns(model.reconstruct(rows))
    explained = np.array([_explained(x, y) for x, y in zip(table, rebuilt, strict=True)])
    distance = divergence = effective = None
    if hasattr(model, "sample"):
        draws = _columns(model.sample(n_samples, random_state=random_state))
        distance = np.array([_distance(x, y) for x, y in zip(table, draws, strict=True)])
        divergence = np.array(model.kl_per_component_)
        effective = float(np.median(np.asarray(model.effective_sample_size(rows))))
    noise = getattr(model, "noise_scale_", None)
    return Report(
        column_names(rows, len(table)),
        None if noise is None else np.asarray(noise),
        explained,
        distance,
        divergence,
        effective,
    )


def _columns(X: Any) -> list[np.ndarray]:
    """Columns of a table as arrays, numbers as floats; the others as they are."""
    if isinstance(getattr(X, "column_names", None), list):  # of Arrow; a frame may have a column of that name
        cells = [np.asarray(X[name]) for name in X.column_names]
    elif hasattr(X, "columns"):
        # NumPy has no integers of 128 bits, as polars does.
        whole = [str(X[name].dtype).lower() in ("int128", "uint128") for name in X.columns]
        cells = [
            np.array(X[name].to_list(), dtype=float) if wide else np.asarray(X[name])
            for name, wide in zip(X.columns, whole, strict=True)
        ]
    else:
        cells = list(np.asarray(X).T)
    return [_as_numbers(column) for column in cells]


def _as_numbers(column: np.ndarray) -> np.ndarray:
    try:
        return column.astype(float)
    except (TypeError, ValueError):
        return column.astype(object)


def _explained(x: np.ndarray, rebuilt: np.ndarray) -> float:
    if x.dtype == object or rebuilt.dtype == object:
        return np.nan
    seen = ~np.isnan(x)
    x, rebuilt = x[seen], rebuilt[seen]
    total = np.sum((x - x.mean()) ** 2) if len(x) else 0.0
    return float(1.0 - np.sum((x - rebuilt) ** 2) / total) if total > 0 else np.nan


def _distance(x: np.ndarray, drawn: np.ndarray) -> float:
    if x.dtype == object or drawn.dtype == object:
        x, drawn = x[[cell is not None and cell == cell for cell in x]], drawn.astype(object)
        levels = sorted({*map(str, x), *map(str, drawn)})
        frequencies = [
            np.array([np.mean([str(cell) == level for cell in side]) for level in levels]) for side in (x, drawn)
        ]
        return float(0.5 * np.abs(frequencies[0] - frequencies[1]).sum()) if len(x) else np.nan
    x, drawn = np.sort(x[~np.isnan(x)]), np.sort(drawn[~np.isnan(drawn)])
    if not len(x) or not len(drawn):
        return np.nan
    places = np.concatenate([x, drawn])
    below = [np.searchsorted(side, places, side="right") / len(side) for side in (x, drawn)]
    return float(np.abs(below[0] - below[1]).max())


def _table(title: str, names: list[str], shown: dict[str, np.ndarray | None]) -> str:
    """Numbers below each other, right-aligned, with a heading."""
    lines = [[title, *(name for name, values in shown.items() if values is not None)]]
    kept = [values for values in shown.values() if values is not None]
    for index, name in enumerate(names):
        lines.append([name, *(short_number(float(f"{values[index]:.3g}")) for values in kept)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
