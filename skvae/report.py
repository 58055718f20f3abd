"""What a model has learned, and how good its synthetic rows are, as numbers and as a printed table."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_random_state

from ._support.drawing import before_last, column_names, last_step, short_number
from ._tables.dates import array_days, plain_days
from ._tables.dtypes import is_missing
from ._tables.number_texts import plain_numbers

__all__ = ["Report", "SynthesisReport", "report", "synthesis_report"]

# Rows that are compared: bounds the time.
_MOST_ROWS = 10_000
_N_BINS, _ROWS_PER_BIN = 10, 10  # of a number in a pair: at most, and rows per pair of bins
_MOST_LEVELS = 254  # of a column, rarer ones as one: what the classifier takes
_LEAST_NUMBERS = 30  # that are not missing, so that every fold has some


class Report(NamedTuple):
    """Diagnostics of a fitted model on a table; ``print`` shows them side by side.

    Attributes
    ----------
    columns : list of str
        Names of the columns.
    noise_scale : ndarray of shape (n_features,) or None
        Standard deviation of the noise of each column, in its units; None where the likelihood has none.
    explained_variance : ndarray of shape (n_features,)
        Share of each column's variance that its reconstruction explains: 1 is all, 0 no more than the mean; of booleans
        as 0 and 1, of categories that are numbers as these. NaN for constant columns, text and identifiers.
    marginal_distance : ndarray of shape (n_features,) or None
        How far the column's distribution by the model's p(x) is from that in the table, from 0 to 1: the largest
        difference between the distribution functions of numbers (Kolmogorov and Smirnov's statistic), half of the
        summed differences between the frequencies of categories. None for models that do not sample. Rows of `sample`
        have the distribution of the training rows, unless ``match_marginals=False``.
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
    # Decoded without the rows, which hand on what they hold in columns that are left out.
    table, rebuilt = _columns(rows), _columns(model.inverse_transform(model.transform(rows)))
    explained = np.array([_explained(x, y) for x, y in zip(table, rebuilt, strict=True)])
    distance = divergence = effective = None
    if hasattr(model, "sample"):
        draws = _columns(model.sample(n_samples, random_state=random_state, match_marginals=False))
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


class SynthesisReport(NamedTuple):
    """How like real rows drawn ones are, and how near to the rows that trained; ``print`` shows it.

    Attributes
    ----------
    columns : list of str
        Names of the columns.
    detection_auroc : float
        Area under the ROC curve of a classifier that tells drawn from real rows, cross-validated (classifier two-sample
        test, C2ST): 0.5 if it cannot, 1 if it always can.
    marginal_distance : ndarray of shape (n_features,)
        From 0 to 1: the largest difference between the distribution functions of numbers (Kolmogorov and Smirnov's
        statistic), half of the summed differences between the frequencies of categories. Of values that are not
        missing.
    pair_distance : ndarray of shape (n_features, n_features)
        From 0 to 1: half of the summed differences between the frequencies of pairs of categories; of single columns on
        the diagonal. Numbers are taken in bins of equal frequency, ten from 1,000 rows on and fewer of less rows,
        missing values in one of their own. NaN where a column has no value in one of the tables.
    distance_ratio : float or None
        Median distance of a drawn row to the closest training row, over that to the closest of as many fresh rows.
        Below 1 the drawn rows tend to repeat training rows. None without training rows.
    n_copies : int or None
        Drawn rows that equal a training row, in the columns that have values in all tables. None without training
        rows.
    n_fresh_copies : int or None
        Fresh rows that do, of as many: what chance alone brings.
    """

    columns: list[str]
    detection_auroc: float
    marginal_distance: np.ndarray
    pair_distance: np.ndarray
    distance_ratio: float | None
    n_copies: int | None
    n_fresh_copies: int | None

    def __str__(self) -> str:
        empty = np.isnan(self.pair_distance.diagonal())
        others = np.where(np.eye(len(empty), dtype=bool) | np.isnan(self.pair_distance), -1.0, self.pair_distance)
        worst = [
            "missing" if gone else f"{max(row.max(), 0.0):.3g} with {self.columns[int(row.argmax())]}"
            for row, gone in zip(others, empty, strict=True)
        ]
        shown = {"marginal distance": self.marginal_distance, "worst pair": worst}
        lines = [f"real or drawn, AUROC of a classifier (0.5: cannot tell): {self.detection_auroc:.3f}"]
        if self.distance_ratio is not None:
            lines += [
                f"distance to the closest training row, drawn / fresh: {self.distance_ratio:.3f}",
                f"copies of training rows: {self.n_copies} drawn, {self.n_fresh_copies} fresh",
            ]
        if empty.any():
            names = ", ".join(name for name, gone in zip(self.columns, empty, strict=True) if gone)
            lines.append(f"left out, as one of the tables has no value there: {names}")
        return "\n\n".join([_table("column", self.columns, shown), "\n".join(lines)])


def synthesis_report(drawn, fresh, training=None, *, random_state=0):
    """Compare synthetic rows with real ones: fidelity, and whether they repeat the rows that trained.

    No number proves that rows are private: whoever is odd in the training rows may be recognised although no row is
    repeated.

    Parameters
    ----------
    drawn : array-like of shape (n_drawn, n_features)
        Synthetic rows, of whatever model. Columns of tables are compared by their names, in any order, those of arrays
        by their places. Of a table with missing values, draw them with such:
        ``sample(..., missing="as_trained")``; a classifier tells complete rows from rows with gaps at once. A column
        without any value in one of the tables, as identifiers are in rows that `sample` draws, is left out: other
        columns decide whether a row is a copy. Drop identifiers that another model has drawn.
    fresh : array-like of shape (n_fresh, n_features)
        Real rows that did not train, with the same columns.
    training : array-like of shape (n_training, n_features), default=None
        Real rows that trained, for the distances and copies.
    random_state : int, RandomState instance or None, default=0
        Chooses the rows that are compared, as many of each table and 10,000 at most, and the folds.

    Returns
    -------
    report : SynthesisReport

    Raises
    ------
    ValueError
        If the tables have other columns, fewer than 10 rows, or no column that has values in each of them.

    References
    ----------
    Lopez-Paz & Oquab (2017), "Revisiting classifier two-sample tests", https://arxiv.org/abs/1610.06545.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.report import synthesis_report
    >>> wine = load_wine(as_frame=True).data.sample(frac=1.0, random_state=0)
    >>> train, fresh = wine[:100], wine[100:]
    >>> drawn = VAETransformer(random_state=0).fit(train).sample(78, random_state=0)
    >>> found = synthesis_report(drawn, fresh, train)
    >>> found.n_copies, bool(found.marginal_distance.mean() < 0.2)
    (0, True)
    """
    given = {"drawn": drawn, "fresh": fresh} | ({} if training is None else {"training": training})
    tables = {name: _columns(X) for name, X in given.items()}
    _check_tables(tables)
    labels = {name: column_names(X, 0) for name, X in given.items()}  # none of an array
    tables = {name: _in_order(name, table, labels[name], labels["fresh"]) for name, table in tables.items()}
    compared = _with_values(tables)
    rng = check_random_state(random_state)
    n_rows = min(_MOST_ROWS, *(len(tables[name][0]) for name in ("drawn", "fresh")))
    real, made = (_some_rows(tables[name], n_rows, rng) for name in ("fresh", "drawn"))
    distance = np.array([_distance(x, y) for x, y in zip(real, made, strict=True)])
    real, made = ([side[place] for place in compared] for side in (real, made))
    codes = [_coded(pair) for pair in zip(real, made, strict=True)]
    binned = [_binned(pair) for pair in codes]
    of_pairs = np.full((len(distance), len(distance)), np.nan)
    of_pairs[np.ix_(compared, compared)] = [[_pair_distance(first, second) for second in binned] for first in binned]
    ratio = n_copies = n_fresh = None
    if training is not None:
        trained = [tables["training"][place] for place in compared]
        ratio = _distance_ratio(real, made, _some_rows(trained, n_rows, rng))
        n_copies, n_fresh = (_n_copies(rows, trained) for rows in (made, real))
    return SynthesisReport(
        column_names(fresh, len(distance)),
        _detection_auroc(codes, rng),
        distance,
        of_pairs,
        ratio,
        n_copies,
        n_fresh,
    )


def _check_tables(tables: dict[str, list[np.ndarray]]) -> None:
    for name, table in tables.items():
        if len(table) != len(tables["fresh"]):
            raise ValueError(
                f"All tables must have the same columns, but 'fresh' has {len(tables['fresh'])} and {name!r} has "
                f"{len(table)}."
            )
        if not table or len(table[0]) < 10:
            raise ValueError(f"Rows to compare must be at least 10, but {name!r} has {len(table[0]) if table else 0}.")


def _with_values(tables: dict[str, list[np.ndarray]]) -> list[int]:
    """Places of the columns that hold some value in each table."""
    filled = np.array([[not _is_missing(column).all() for column in table] for table in tables.values()]).all(axis=0)
    if not filled.any():
        names = ", ".join(map(repr, tables))
        raise ValueError(
            f"At least one column must hold values in each of the tables {names}, but none does. Fill a column that is "
            "empty in one of them."
        )
    return np.flatnonzero(filled).tolist()


def _in_order(name: str, table: list[np.ndarray], labels: list[str], wanted: list[str]) -> list[np.ndarray]:
    """Columns in the order of the labels of another table; as they are where the two have no label in common."""
    common = set(labels) & set(wanted)
    lacking = [label for label in wanted if label not in common]
    if common and lacking:
        raise ValueError(f"All tables must have the same columns, but {name!r} lacks {lacking[0]!r} of 'fresh'.")
    return [table[labels.index(label)] for label in wanted] if len(common) == len(labels) > 0 else table


def _some_rows(table: list[np.ndarray], n_rows: int, rng: np.random.RandomState) -> list[np.ndarray]:
    chosen = rng.permutation(len(table[0]))[:n_rows]
    return [column[chosen] for column in table]


def _is_missing(column: np.ndarray) -> np.ndarray:
    return np.isnan(column) if column.dtype != object else np.array([is_missing(cell) for cell in column], dtype=bool)


class _Coded(NamedTuple):
    """A column of several tables as numbers, NaN where missing."""

    sides: list[np.ndarray]
    holds_levels: bool  # whether they are codes, the commonest levels first


def _coded(sides: Sequence[np.ndarray]) -> _Coded:
    if all(side.dtype != object for side in sides):
        return _Coded(list(sides), holds_levels=False)
    words = [np.where(_is_missing(side), "", side.astype(object).astype(str)) for side in sides]
    levels, counts = np.unique(np.concatenate(words), return_counts=True)
    code = {level: min(place, _MOST_LEVELS) for place, level in enumerate(levels[np.argsort(-counts, kind="stable")])}
    coded = [np.array([np.nan if word == "" else code[word] for word in side], dtype=float) for side in words]
    return _Coded(coded, holds_levels=True)


def _detection_auroc(columns: Sequence[_Coded], rng: np.random.RandomState) -> float:
    both = np.column_stack([_without_rare_numbers(np.concatenate(column.sides)) for column in columns])
    is_drawn = np.repeat([0, 1], len(both) // 2)
    seed = int(rng.randint(2**31 - 1))
    model = HistGradientBoostingClassifier(
        categorical_features=[column.holds_levels for column in columns], random_state=seed
    )
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    probability = cross_val_predict(model, both, is_drawn, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(is_drawn, probability))


def _without_rare_numbers(cells: np.ndarray) -> np.ndarray:
    """Missing values below all numbers where few are there: the classifier fails on a fold that has none of them."""
    is_rare = (~np.isnan(cells)).sum() < _LEAST_NUMBERS
    return np.where(np.isnan(cells), np.fmin.reduce(cells, initial=0.0) - 1.0, cells) if is_rare else cells


def _binned(column: _Coded) -> list[np.ndarray]:
    """Each side as small whole numbers, 0 where missing; the first one gives the bins of numbers."""
    edges = np.empty(0)
    seen = column.sides[0][~np.isnan(column.sides[0])]
    if len(seen) and not column.holds_levels:
        n_bins = int(np.clip(np.sqrt(len(seen) / _ROWS_PER_BIN), 2, _N_BINS))
        edges = np.quantile(seen, np.arange(1, n_bins) / n_bins)
    placed = [
        np.nan_to_num(side) if column.holds_levels else np.searchsorted(edges, side, side="right")
        for side in column.sides
    ]
    pairs = zip(placed, column.sides, strict=True)
    return [np.where(np.isnan(side), 0, place + 1).astype(int) for place, side in pairs]


def _pair_distance(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    cells = [a * (_MOST_LEVELS + 2) + b for a, b in zip(first, second, strict=True)]
    _, places = np.unique(np.concatenate(cells), return_inverse=True)
    counts = [np.bincount(side, minlength=places.max() + 1) for side in np.split(places, 2)]
    return float(0.5 * np.abs(counts[0] - counts[1]).sum() / len(cells[0]))


def _distance_ratio(fresh: list[np.ndarray], drawn: list[np.ndarray], training: list[np.ndarray]) -> float:
    n_rows = min(len(fresh[0]), len(training[0]))
    parts: list[list[np.ndarray]] = [[], [], []]
    for column in map(_coded, zip(fresh, drawn, training, strict=True)):
        if column.holds_levels:
            codes = np.unique(np.concatenate(column.sides))  # a missing value is a level
            shown = [np.searchsorted(codes, side)[:, None] == np.arange(len(codes)) for side in column.sides]
            scaled = [np.sqrt(0.5) * side for side in shown]  # two levels lie one apart
        else:
            known = not np.isnan(column.sides[2]).all()
            mean, scale = (np.nanmean(column.sides[2]), np.nanstd(column.sides[2])) if known else (0.0, 1.0)
            scaled = [np.nan_to_num((side - mean) / (scale or 1.0))[:, None] for side in column.sides]
        for part, side in zip(parts, scaled, strict=True):
            part.append(side)
    real, made, trained = (np.column_stack(part) for part in parts)
    near, far = (
        np.median(NearestNeighbors(n_neighbors=1).fit(rows[:n_rows]).kneighbors(made)[0]) for rows in (trained, real)
    )
    return float(near / far) if far > 0 else float("nan")


def _n_copies(rows: list[np.ndarray], training: list[np.ndarray]) -> int:
    known = set(_as_tuples(training))
    return sum(row in known for row in _as_tuples(rows))


def _as_tuples(table: list[np.ndarray]) -> list[tuple[Any, ...]]:
    """Rows that compare equal where they look equal, missing values too."""

    def comparable(column: np.ndarray) -> list[Any]:
        cells = column.tolist() if column.dtype != object else [str(cell) for cell in column]
        return [None if gone else cell for gone, cell in zip(_is_missing(column), cells, strict=True)]

    return list(zip(*map(comparable, table), strict=True))


def _columns(X: Any) -> list[np.ndarray]:
    """Columns of a table as arrays, numbers as floats, dates and durations as days; the others as they are."""
    if isinstance(getattr(X, "column_names", None), list):  # of Arrow; a frame may have a column of that name
        # NumPy has no way to read the indices of a dictionary without a value.
        cells = [np.asarray(c.cast(c.type.value_type) if hasattr(c.type, "index_type") else c) for c in X.columns]
    elif hasattr(X, "columns"):
        # NumPy has no integers of 128 bits, as polars does.
        whole = [str(X[name].dtype).lower() in ("int128", "uint128") for name in X.columns]
        cells = [
            np.array(X[name].to_list(), dtype=float) if wide else np.asarray(_starts(X[name]))
            for name, wide in zip(X.columns, whole, strict=True)
        ]
    else:
        cells = list(np.asarray(X).T)
    return [_as_floats(column) for column in cells]


def _starts(column: Any) -> Any:
    """Periods of pandas by their first moments; any other column as it is."""
    return column.dt.to_timestamp() if hasattr(getattr(column, "dtype", None), "freq") else column


def _as_floats(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "OUT":
        days = array_days(column)
        return _as_numbers(column) if days is None else days
    read = (make(column.tolist()) for make in (plain_days, plain_numbers))
    return next((values for values in read if values is not None), _as_numbers(column))


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
        x, drawn = (side[~_is_missing(side)] for side in (x, drawn.astype(object)))
        if not len(x) or not len(drawn):
            return np.nan
        counts = [Counter(map(str, side)) for side in (x, drawn)]
        levels = sorted(set().union(*counts))
        frequencies = [np.array([count[level] for level in levels]) / count.total() for count in counts]
        return float(0.5 * np.abs(frequencies[0] - frequencies[1]).sum())
    x, drawn = np.sort(x[~np.isnan(x)]), np.sort(drawn[~np.isnan(drawn)])
    if not len(x) or not len(drawn):
        return np.nan
    places = np.concatenate([x, drawn])
    below = [np.searchsorted(side, places, side="right") / len(side) for side in (x, drawn)]
    return float(np.abs(below[0] - below[1]).max())


def _table(title: str, names: list[str], shown: dict[str, Any]) -> str:
    """Numbers below each other, right-aligned, with a heading."""
    lines = [[title, *(name for name, values in shown.items() if values is not None)]]
    kept = [values for values in shown.values() if values is not None]
    for index, name in enumerate(names):
        cells = (values[index] for values in kept)
        lines.append([name, *(cell if isinstance(cell, str) else short_number(float(f"{cell:.3g}")) for cell in cells)])
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
