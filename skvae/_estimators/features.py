"""The verbs that turn rows into codes, codes into rows, and gaps into values."""

from abc import abstractmethod
from numbers import Integral
from typing import Any

import torch
from sklearn import get_config
from torch import Tensor

from .._data.arrays import like_input, to_tensor
from .._data.checks import check_finite
from .._data.families import check_domain
from .._model.fitted import Fitted
from .._model.imputation import reliability
from .._model.inference import apply, decode
from .._model.paths import linear_path, spherical_path
from .._model.persistence import restored, saved
from .._support.compat import check_is_fitted, check_same_namespace
from .._support.device import make_generator
from .._tables.form import is_frame, is_pandas
from .._tables.quick import quick_rows
from .._tables.table import Table
from .base import BaseAutoencoder
from .checks import check_names, check_rows

__all__ = ["BaseTransformer"]

# Hidden values by which the reliability of filled ones is measured: bounds the time.
_RELIABILITY_VALUES = 2**17


class BaseTransformer(BaseAutoencoder):
    """Verbs of a transformer: codes, reconstructions, paths, filled gaps; and what is saved."""

    def transform(self, X):
        """Encode rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        Z : array of shape (n_samples, n_components_)
            Codes in latent units; for a VAE the posterior means.
        """
        return self._encode_array(self._checked(X, "transform"))

    def inverse_transform(self, X):
        """Decode codes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components_)
            Codes, as `transform` gives them.

        Returns
        -------
        X_original : array or table of shape (n_samples, n_features)
            Expected rows in the units of the training data; after a fit on a DataFrame one of its library, columns
            and dtypes, with likeliest levels and rounded integers.

        Raises
        ------
        ValueError
            If the codes have another width than ``n_components_``, or are not finite.
        """
        check_is_fitted(self)
        Z = check_rows(None, X, name="X")
        if Z.shape[1] != self.n_components_:
            raise ValueError(
                f"inverse_transform needs codes of n_components_={self.n_components_} columns, but X has {Z.shape[1]}. "
                "Pass what transform returned."
            )
        check_same_namespace(Z, self, attribute="mean_", method="inverse_transform")
        codes = to_tensor(Z)
        if not torch.isfinite(codes).all():
            row, column = (int(i) for i in (~torch.isfinite(codes)).nonzero()[0])
            raise ValueError(
                f"Codes must be finite, but component {column} of row {row} is {float(codes[row, column])}. Pass what "
                "transform returned."
            )
        expected = decode(self._fitted, codes)
        if self._fitted.table is None:
            return like_input(expected, Z)
        return self._fitted.table.decode(expected.cpu().numpy(), index=X.index if is_pandas(X) else None)

    def reconstruct(self, X):
        """Encode rows and decode them again.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_hat : array or table of shape (n_samples, n_features)
            In the units of ``X``; a DataFrame for a DataFrame, of its columns and dtypes.
        """
        rows, columns = self._checked(X, "reconstruct"), self._fitted.columns
        expected = apply(
            self._fitted, to_tensor(rows), lambda x, module: columns.decode(module.reconstruct(x)), rows.shape[1]
        )
        return self._in_form(expected, rows, X)

    def interpolate(self, X_start, X_end, n_steps=10, *, path="linear"):
        """Walk from one row to another through the latent space.

        Parameters
        ----------
        X_start, X_end : array-like of shape (n_pairs, n_features)
        n_steps : int, default=10
            Points on each path, ends included.
        path : {"linear", "spherical"}, default="linear"
            Shape of the path between the two codes.

        Returns
        -------
        paths : array of shape (n_pairs, n_steps, n_features)
            Decoded points, in the units of the training data.
        """
        X_start, X_end = self._checked_together([X_start, X_end], "interpolate")
        if X_start.shape != X_end.shape:
            raise ValueError(
                "X_start and X_end must pair row by row, but their shapes are "
                f"{tuple(X_start.shape)} and {tuple(X_end.shape)}. Pass as many ends as starts."
            )
        if not isinstance(n_steps, Integral) or n_steps < 2:
            raise ValueError(
                f"The 'n_steps' parameter must be an int of at least 2, both ends. Got {n_steps!r} instead."
            )
        paths = {"linear": linear_path, "spherical": spherical_path}
        if path not in paths:
            raise ValueError(f"The 'path' parameter must be 'linear' or 'spherical'. Got {path!r} instead.")
        start, end = (to_tensor(self._encode_array(part)) for part in (X_start, X_end))
        z = paths[path](start, end, int(n_steps))
        decoded = decode(self._fitted, z.flatten(0, 1)).view(len(start), int(n_steps), -1)
        if self._fitted.table is not None and not self._fitted.table.is_plain:
            return self._fitted.table.array(decoded.numpy())
        return like_input(decoded, X_start)

    def impute(self, X, n_draws=None, *, bounded=True):
        """Fill missing cells with what the model expects of them.

        Where training rows had gaps, `fit` has hidden values of rows that did not train and filled them: a filled
        number keeps as much of its distance from the column's mean as these confirm. Where columns say nothing about
        each other, it is the mean.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN, None or pandas.NA where a cell is missing.
        n_draws : int or None, default=None
            None fills each cell with its expected value. A number makes that many tables, whose cells are drawn from
            their distribution given the row's other cells; their spread says how sure a filled cell is.
        bounded : bool, default=True
            Whether numbers beyond the range of the training rows are moved to its ends. Without it a model that knows
            no bounds may fill an age below zero.

        Returns
        -------
        X_filled : array or table, or a list of ``n_draws`` of them
            As ``X``, with dtypes and observed cells untouched. An array of integers or objects comes back as floats.

        Raises
        ------
        ValueError
            If ``n_draws`` is not a positive int, or the model has no distribution to draw from.
        """
        rows = self._checked(X, "impute")
        if n_draws is not None and (not isinstance(n_draws, Integral) or isinstance(n_draws, bool) or n_draws < 1):
            raise ValueError(f"The 'n_draws' parameter must be a positive int or None. Got {n_draws!r} instead.")
        values, form = to_tensor(rows), self._table_of(X)
        filled = self._filled(values, None if n_draws is None else int(n_draws), bounded=bounded)
        tables = [like_input(table, rows) for table in filled]
        if form is not None:
            missing = torch.isnan(values[:, : len(form.columns)]).cpu().numpy() & form.missing(X)
            tables = [form.filled(X, to_tensor(table).cpu().numpy(), missing) for table in tables]
        return tables[0] if n_draws is None else tables

    def _filled(self, values: Tensor, n_draws: int | None, *, bounded: bool) -> list[Tensor]:
        """Copies of raw rows with their missing cells filled: by their expectations, or a copy for each draw."""
        incomplete = torch.isnan(values).any(dim=1)
        if not incomplete.any():
            return [values.clone() for _ in range(n_draws or 1)]
        fitted, known = self._fitted, values[incomplete]
        cells = self._impute_values(fitted, known, n_draws)
        cells = fitted.drawn_in(cells) if n_draws is None else cells
        cells = fitted.within_bounds(cells) if bounded else cells
        if n_draws is not None and fitted.table is not None:
            cells = fitted.table.spread(cells, make_generator(fitted.noise_seed))
        tables = [values.clone() for _ in range(cells.shape[1])]
        for table, drawn in zip(tables, cells.unbind(1), strict=True):
            table[incomplete] = torch.where(torch.isnan(known), drawn.to(values), known)
        return tables

    @abstractmethod
    def _impute_values(self, fitted: Fitted, values: Tensor, n_draws: int | None, *, quick: bool = False) -> Tensor:
        """What raw rows would hold, of shape (n_samples, max(n_draws, 1), n_features), in the user's units."""

    def _reliability(self, fitted: Fitted, values: Tensor, n_rows: int) -> float:
        """`reliability` of filled values, measured on some raw rows; 1 without gaps to fill."""
        if not fitted.columns.masked:
            return 1.0
        rows = values[: max(16, min(n_rows, _RELIABILITY_VALUES // values.shape[1]))].cpu().double()

        def fill(rows: Tensor) -> Tensor:
            return self._impute_values(fitted, rows, None, quick=True)[:, 0].cpu()

        return reliability(rows, fitted.centre, torch.as_tensor(fitted.columns.scale), fill)

    # -- from rows to chunks and back

    def _check_is_fitted(self) -> None:
        """Refuse a verb before the fit; scikit-learn's check goes through all attributes."""
        if not hasattr(self, "_fitted"):
            check_is_fitted(self)

    def _checked(self, X: Any, method: str, *, scored: bool = False) -> Any:
        """Validate rows for a fitted estimator; categories become codes, new ones a code of their own to be scored."""
        return self._checked_together([X], method, scored=scored)[0]

    def _checked_together(self, tables: list[Any], method: str, *, scored: bool = False) -> list[Any]:
        """Validate several tables of a call, with one warning of new levels."""
        self._check_is_fitted()
        table = self._fitted.table
        if table is not None and hasattr(self, "feature_names_in_") and not get_config()["array_api_dispatch"]:
            quick = [quick_rows(table, X) for X in tables]
            if all(rows is not None for rows in quick):
                return [self._checked_values(rows) for rows in quick]
        for X in tables:
            if table is not None or is_frame(X):
                check_names(self, X)
        if table is not None:
            tables = table.encode_together(tables, scored=scored and self._fitted.columns.rarest is not None)
        else:
            tables = [Table.of_numbers(X).encode(X) if is_frame(X) else X for X in tables]
        return [self._checked_numbers(X, method) for X in tables]

    def _checked_numbers(self, X: Any, method: str) -> Any:
        """Validate rows whose categories are codes."""
        X, table = check_rows(self, X, reset=False), self._fitted.table
        X = X if table is None else table.expansion.expanded(X)
        check_same_namespace(X, self, attribute="mean_", method=method)
        return self._checked_values(X)

    def _checked_values(self, X: Any) -> Any:
        """Validate what the cells of an array hold."""
        check_finite(to_tensor(X), self._fitted.columns.names)
        check_domain(self._fitted.design.likelihood.family, to_tensor(X), self._fitted.columns)
        return X

    def _table_of(self, X: Any) -> Table | None:
        """How decoded rows become a table like ``X``; None where they stay an array of numbers."""
        table = self._fitted.table
        if is_frame(X):
            return table or Table.of_numbers(X)
        return None if table is None or table.is_plain else table

    def _in_form(self, values: Tensor, rows: Any, X: Any) -> Any:
        """Decoded rows as a table like ``X``, or as an array like validated ``rows`` where all columns hold numbers."""
        table = self._table_of(X)
        return like_input(values, rows) if table is None else table.decode(values.cpu().numpy(), X)

    def _encode_array(self, X: Any) -> Any:
        """`transform` of validated rows, never wrapped into a table."""
        codes = apply(self._fitted, to_tensor(X), lambda x, module: module.encode(x), self.n_components_)
        return like_input(codes, X)

    # -- what scikit-learn asks

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.array_api_support = True
        tags.input_tags.allow_nan = True
        return tags

    def __getstate__(self):
        return saved(super().__getstate__())

    def __setstate__(self, state):
        state = restored(state, type(self).__name__, self._probe)
        # What was saved before a parameter existed was fitted with what is its default.
        defaults = type(self)().get_params(deep=False)
        state |= {name: value for name, value in defaults.items() if name not in state}
        # A model whose "auto" meant another score says its name, and goes on scoring and training by it.
        if "_fitted" in state and state["score_method"] == "auto":
            fitted = state["_fitted"].score_method
            state["score_method"] = fitted if fitted in self._plan_type.earlier_default_scores else "auto"
        super().__setstate__(state)

    def _probe(self, state: dict[str, Any]) -> None:
        """Try restored attributes on one row; what does not fit together raises."""
        twin = type(self)()
        twin.__dict__.update(state)
        row = torch.zeros(1, twin._fitted.columns.n_features)
        apply(twin._fitted, row, lambda x, module: module.reconstruct(x), len(twin._fitted.columns.mean))
        twin._try_scores(row)

    @abstractmethod
    def _try_scores(self, values: Tensor) -> None:
        """Score raw rows and compare with the threshold; raise where parts of the model do not fit together."""
