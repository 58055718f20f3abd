"""Pictures of anomalies: how far rows are from the threshold, and why."""

from typing import Any

import numpy as np

from .._support.drawing import (
    bare,
    before_last,
    column_names,
    ink,
    last_step,
    legend_above,
    new_axes,
    options,
    score_frame,
    short_number,
)
from .._tables.form import cells_of, is_frame

__all__ = ["AnomalyScoreDisplay", "ExplanationDisplay"]


class AnomalyScoreDisplay:
    """Scores of rows as a histogram, with the threshold of `predict`.

    Parameters
    ----------
    scores : array-like of shape (n_samples,)
        Higher = more normal.
    threshold : float
        Rows that score less are flagged.
    y : array-like of shape (n_samples,), default=None
        Classes to tell apart by colour.
    expected_rate : str, default=None
        What the threshold promises, in words.
    reach : float, default=2.0
        How far below the threshold the picture goes, in widths of what lies above it. Anomalies may score very much
        lower; they are counted in the first bar. If three quarters of the rows lie below, it starts from these.
    stat : {"auto", "count", "fraction"}, default="auto"
        Whether a bar counts rows or shows the fraction of their class. "auto" takes fractions where one class has less
        than a tenth of the rows of another, whose bars would hide it; set it and call ``plot`` again.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import AutoencoderTransformer
    >>> from skvae.display import AnomalyScoreDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = AutoencoderTransformer(2, random_state=0).fit(X)
    >>> display = AnomalyScoreDisplay.from_estimator(model, X)
    >>> display.expected_rate
    '5 % of fresh normal rows'
    """

    def __init__(self, scores, *, threshold, y=None, expected_rate=None, reach=2.0, stat="auto"):
        self.scores = scores
        self.threshold = threshold
        self.y = y
        self.expected_rate = expected_rate
        self.reach = reach
        self.stat = stat

    @classmethod
    def from_estimator(cls, estimator, X, *, y=None, reach=2.0, ax=None, hist_kwargs=None):
        """Score rows and draw the scores.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a pipeline that ends in one.
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
        reach : float, default=2.0
        ax : matplotlib Axes, default=None
        hist_kwargs : dict, default=None
            Passed to ``Axes.hist``.

        Returns
        -------
        display : AnomalyScoreDisplay
        """
        model = last_step(estimator)
        fresh = model.false_alarm_rate_ is not None
        asked = model.false_alarm_rate_ if fresh else model.contamination_
        rate = f"{100 * asked:.3g} % of {'fresh normal' if fresh else 'the training'} rows"
        scores = np.asarray(estimator.score_samples(X))
        display = cls(scores, threshold=model.offset_, y=y, expected_rate=rate, reach=reach)
        return display.plot(ax, hist_kwargs=hist_kwargs)

    def plot(self, ax=None, *, hist_kwargs=None):
        """Draw the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        hist_kwargs : dict, default=None
            Passed to ``Axes.hist``.

        Returns
        -------
        display : AnomalyScoreDisplay

        Raises
        ------
        ValueError
            If ``stat`` is no such name.
        """
        self.ax_ = ax = new_axes(ax, type(self).__name__, (7.0, 4.0))
        self.figure_ = ax.figure
        scores = np.asarray(self.scores, dtype=float)
        low, high = score_frame(scores, self.threshold, self.reach)
        edges = np.linspace(low, high if high > low else low + 1.0, 51)
        y = np.zeros(len(scores)) if self.y is None else np.asarray(self.y)
        labels, counts = np.unique(y, return_counts=True)
        counted = self._counts_rows(counts)
        for index, (label, n_rows) in enumerate(zip(labels, counts.tolist(), strict=True)):
            look = {"bins": edges, "color": f"C{index % 10}", "alpha": 0.65}
            look["label"] = None if self.y is None else f"{label} ({n_rows})"
            look["weights"] = None if counted else np.full(n_rows, 1.0 / n_rows)
            ax.hist(np.maximum(scores[y == label], low), **options(look, hist_kwargs))
        promise = "" if self.expected_rate is None else f"\nexpected below: {self.expected_rate}"
        below = f"{100 * np.mean(scores < self.threshold):.3g} %"
        found = f"threshold {short_number(self.threshold)}{promise}\nfound below: {below}"
        ax.axvline(self.threshold, color=ink(), linestyle="--", linewidth=1.2, label=found)
        n_clipped = int(np.sum(scores < low))
        note = f"; {n_clipped} lower ones in the first bar" if n_clipped else ""
        heights = "rows" if counted else "fraction of all rows" if self.y is None else "fraction of each class"
        ax.set(xlabel=f"score (higher = more normal{note})", ylabel=heights)
        legend_above(ax)
        bare(ax, counts=ax.yaxis if counted else None)
        return self

    def _counts_rows(self, counts: np.ndarray) -> bool:
        """Whether bars count rows, classes of which have so many."""
        if self.stat not in ("auto", "count", "fraction"):
            raise ValueError(f"The 'stat' parameter must be 'auto', 'count' or 'fraction'. Got {self.stat!r} instead.")
        return self.stat == "count" or (self.stat == "auto" and bool(10 * counts.min() >= counts.max()))


class ExplanationDisplay:
    """Why a row is anomalous: its anomalous values, with what was seen and what was expected.

    Parameters
    ----------
    contributions : array-like of shape (n_features,)
        Share of each cell in the row's score.
    values : array-like of shape (n_features,)
        The row, in the user's units.
    expected : array-like of shape (n_features,)
        Value of each cell that the rest of the row implies, in the same units.
    feature_names : list of str, default=None
    max_columns : int, default=10
        The columns with the lowest contributions are shown, the others in one bar.
    shares : array-like of shape (n_features,), default=None
        Fraction that each value has of what separates the row from a normal one. Columns that have none are left to
        the bar of the others; a row that is normal shows ``max_columns`` all the same.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import AutoencoderTransformer
    >>> from skvae.display import ExplanationDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 1)) * np.ones(4)
    >>> model = AutoencoderTransformer(1, random_state=0).fit(X)
    >>> display = ExplanationDisplay.from_estimator(model, [[1.0, 1.0, -3.0, 1.0]])
    >>> int(np.argmin(display.contributions))
    2
    """

    def __init__(self, contributions, *, values, expected, feature_names=None, max_columns=10, shares=None):
        self.contributions = contributions
        self.values = values
        self.expected = expected
        self.feature_names = feature_names
        self.max_columns = max_columns
        self.shares = shares

    @classmethod
    def from_estimator(cls, estimator, X, *, row=0, max_columns=10, ax=None, bar_kwargs=None):
        """Explain a row and draw the explanation.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a pipeline that ends in one; its columns and units are then those of the last step.
        X : array-like of shape (n_samples, n_features)
        row : int, default=0
            Position of the row in ``X``.
        max_columns : int, default=10
        ax : matplotlib Axes, default=None
        bar_kwargs : dict, default=None
            Passed to ``Axes.barh``.

        Returns
        -------
        display : ExplanationDisplay
        """
        X = before_last(estimator, X)
        one = X.iloc[[row]] if hasattr(X, "iloc") else X[row : row + 1]
        explained = last_step(estimator).explain(one)
        contributions = np.asarray(explained.contributions)[0]
        expected, values = (_only_row(part) for part in (explained.expected, one))
        look = {"feature_names": column_names(X, len(values)), "max_columns": max_columns}
        display = cls(contributions, values=values, expected=expected, shares=explained.shares[0], **look)
        return display.plot(ax, bar_kwargs=bar_kwargs)

    def plot(self, ax=None, *, bar_kwargs=None):
        """Draw the lowest contributions, the lowest on top.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        bar_kwargs : dict, default=None
            Passed to ``Axes.barh``.

        Returns
        -------
        display : ExplanationDisplay
        """
        contributions = np.asarray(self.contributions, dtype=float)
        values, expected = np.asarray(self.values), np.asarray(self.expected)
        names = self.feature_names or [f"x{i}" for i in range(len(values))]
        shares = np.zeros(len(values)) if self.shares is None else np.asarray(self.shares, dtype=float)
        n_shown = min(self.max_columns, int(np.sum(shares > 0.0)) or self.max_columns)
        order = np.lexsort((contributions, -shares))
        shown, rest = order[:n_shown], order[n_shown:]
        self.ax_ = ax = new_axes(ax, type(self).__name__, (7.0, 1.2 + 0.45 * (len(shown) + bool(len(rest)))))
        self.figure_ = ax.figure
        labels = [f"{names[i]}\n{short_number(values[i])} (expected {short_number(expected[i])})" for i in shown]
        labels = [
            f"{name}, {100 * shares[i]:.0f} %" if shares[i] else name for i, name in zip(shown, labels, strict=True)
        ]
        bars = contributions[shown]
        if len(rest):
            labels.append(f"{len(rest)} other column{'s' if len(rest) > 1 else ''}")
            bars = np.append(bars, contributions[rest].sum())
        place = np.arange(len(bars))
        colors = ["C3" if bar < 0 else "C0" for bar in contributions[shown]] + ["0.6"] * bool(len(rest))
        ax.barh(place, bars, **options({"color": colors, "height": 0.65}, bar_kwargs))
        ax.set_yticks(place, labels)
        ax.invert_yaxis()
        ax.axvline(0, color=ink(), linewidth=0.8)
        ax.locator_params(axis="x", nbins=5)
        ax.set(xlabel="contribution to the score", title=f"score {short_number(float(contributions.sum()))}")
        bare(ax)
        return self


def _only_row(X: Any) -> np.ndarray:
    """The cells of a table with one row, as its columns list them: NumPy has no type that holds dates and numbers."""
    if not is_frame(X):
        return np.asarray(X)[0]
    return np.array([cells_of(X, index)[0] for index in range(X.shape[1])], dtype=object)
