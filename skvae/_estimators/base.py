"""Everything that the two estimators share: check, columns, batches, NumPy."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from numbers import Integral, Real
from time import perf_counter
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .._data.arrays import filled_table, like_input, to_tensor
from .._data.checks import check_finite, check_names, check_rows, check_weights
from .._data.columns import Columns
from .._data.large import Large
from .._data.sample import canonical_rows
from .._data.shards import Shared, gather_table
from .._data.table import Table, find_table
from .._model import preparing as fitting
from .._model.inference import apply, decode
from .._model.paths import linear_path, spherical_path
from .._model.persistence import restored, saved
from .._model.preparing import Data, Fitted
from .._model.sizes import spends_budget
from .._networks.mlp import ACTIVATIONS
from .._support.compat import (
    CallbackSupportMixin,
    DocumentationLinkMixin,
    Interval,
    StrOptions,
    check_is_fitted,
    check_same_namespace,
    fit_context,
)
from .._support.device import (
    MATMUL_PRECISIONS,
    make_random_state,
    matmul_precision,
    resolve_device,
    seed_from,
    thread_limit,
)
from .._support.team import Team, together
from .._support.warnings import warn
from .._training.loop import train
from .._training.rows import History
from ..likelihoods import LIKELIHOODS
from .progress import (
    FitProgress,
    ReadReport,
    named_divergence,
    print_epoch,
    warn_of_empty_columns,
    warn_of_inert_columns,
)

__all__ = ["BaseAutoencoder"]

_SCORE_METHODS = {"auto", "residual", "joint", "neighbor", "reconstruction"}


class BaseAutoencoder(
    CallbackSupportMixin,
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    OutlierMixin,
    BaseEstimator,
    ABC,
):
    """Verbs of an autoencoder; a subclass says which module it trains and which scores it knows.

    A subclass is final: its ``__init__`` stores the parameters, and it implements the abstract methods below, which
    see tensors in scaled units only.
    """

    _parameter_constraints: dict = {
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": [StrOptions({"auto"}), "array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "likelihood": [StrOptions({"auto", *LIKELIHOODS}), dict],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "standardize": ["boolean"],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "false_alarm_rate": [Interval(Real, 0, 0.5, closed="right")],
        "calibration_fraction": [Interval(Real, 0, 0.5, closed="both")],
        "score_method": [StrOptions(_SCORE_METHODS)],
        "noise": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "n_networks": [Interval(Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "matmul_precision": [StrOptions(MATMUL_PRECISIONS), None],
    }

    n_components: Any
    hidden_layer_sizes: Any
    activation: str
    likelihood: Any
    categorical_features: Any
    standardize: bool
    contamination: Any
    false_alarm_rate: float
    calibration_fraction: float
    score_method: str
    noise: Any
    alpha: float
    batch_size: Any
    learning_rate_init: Any
    max_iter: Any
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    validation_fraction: float
    warm_start: bool
    verbose: Any
    random_state: Any
    n_networks: int
    device: Any
    matmul_precision: str | None

    _fitted: Fitted
    loss_curve_: list[float]
    validation_curve_: list[float] | None
    n_samples_seen_: int
    n_components_: int

    @abstractmethod
    def _design(self, n_samples: int, columns: Columns, *, earlier: fitting.Design | None = None) -> fitting.Design:
        """Resolve the automatic parameters for a number of rows and what was learned of the columns.

        With ``earlier`` the training goes on, and what depends on the rows of the first fit stays.
        """

    @abstractmethod
    def _resolved_score_method(self) -> str:
        """Name of the score that ``score_method`` stands for."""

    @abstractmethod
    def _set_threshold(self, fitted: Fitted, data: Data) -> None:
        """Place ``offset_``."""

    # -- fitting

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Learn to reconstruct the rows of a table.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numbers, in any units, and categories: see ``categorical_features``. NaN, None and pandas.NA are missing
            cells: the model learns from the others.
        y : Ignored
            Not used, present by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Integer weights equal repeating rows, to the bit. Others weigh the loss.

        Returns
        -------
        self : object
            The fitted estimator. If the fit fails, an earlier fit stays as it was.

        Raises
        ------
        ValueError
            If a column holds times, infinite values, kinds of values side by side or too many levels, or if all
            weights are zero.

        Notes
        -----
        Beyond 2**26 cells, 256 MiB in float32, the rows are not held together. One row at random of each of so many
        stretches of the table is: scales, start, densities and threshold rest on that sample, and with
        ``max_iter="auto"`` it trains alone, if passes over it take all the steps. Otherwise, and with a number of
        epochs, every pass reads all rows, in blocks of consecutive rows in random order. A ``numpy.memmap`` of float32
        or float64 is read from its file and stays there. In such a table the order of the rows counts, and an integer
        weight weighs the loss.

        Where ``torch.distributed.init_process_group`` has been called, every process calls `fit` with its own rows, and
        all end with the same model: that of one process with all rows, whose batches are as many times larger where
        ``batch_size`` is given. Each computes its part of every batch. The rows go to all processes, beyond 2**26 cells
        a sample of them. If one process fails, the others stop with its error.
        """
        with _unchanged_on_error(self), together() as team:
            shared = gather_table(team, X, sample_weight)
            X, sample_weight = shared.X, shared.sample_weight
            earlier = self._fitted if self.warm_start and hasattr(self, "_fitted") else None
            table = self._learned_table(X, sample_weight, earlier)
            X = check_rows(self, X if table is None else table.encode(X, quiet=earlier is None), reset=True)
            if earlier is not None and earlier.columns.n_features != X.shape[1]:
                raise ValueError(
                    f"warm_start=True goes on with a model of {earlier.columns.n_features} columns, but X has "
                    f"{X.shape[1]}. Set warm_start=False to start anew."
                )
            self._fit(X, check_weights(sample_weight, X), earlier, table, shared, one_pass=False)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Train for one pass over a chunk of rows; a series of calls is one training.

        The first chunk fixes the scaling and the start. The optimiser's state is kept from call to call. What the
        scores and the threshold rest on is a sample of bounded size of all chunks so far: up to 4,000 rows that
        trained and 1,000 that did not are kept in the estimator. A chunk that comes again trains again, and its held
        out rows stay held out. After `fit`, which keeps no rows, the scores stay on its estimates until the chunks
        hold as many rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Not used, present by convention.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object
            If the call fails, the estimator stays as it was.
        """
        with _unchanged_on_error(self), together() as team:
            shared = gather_table(team, X, sample_weight)
            X, sample_weight = shared.X, shared.sample_weight
            earlier = getattr(self, "_fitted", None)
            table = self._learned_table(X, sample_weight, earlier)
            if table is not None and earlier is not None:
                check_names(self, X)
            X = check_rows(self, X if table is None else table.encode(X, quiet=earlier is None), reset=earlier is None)
            self._fit(X, check_weights(sample_weight, X), earlier, table, shared, one_pass=True)
        return self

    def _learned_table(self, X: Any, sample_weight: Any, earlier: Fitted | None) -> Table | None:
        """The levels of the categorical columns: those of an earlier fit, or of the rows that have some weight."""
        if earlier is not None:
            return earlier.table
        options = {"categorical_features": self.categorical_features, "likelihood": self.likelihood}
        table = find_table(X, **options)
        if table is None or sample_weight is None:
            return table
        weight = check_weights(sample_weight, table.encode(X))
        return table if weight is None or weight.all() else find_table(X, **options, rows=weight > 0)

    def _fit(
        self,
        X: Any,
        weight: np.ndarray | None,
        earlier: Fitted | None,
        table: Table | None,
        shared: Shared,
        *,
        one_pass: bool,
    ) -> None:
        random_state = shared.team.same(make_random_state(self.random_state))
        if one_pass and earlier is not None:
            # The chunk's own numbers: the seed itself would give each chunk the same noise.
            random_state = np.random.RandomState([earlier.noise_seed, self.n_samples_seen_])
        seed = seed_from(random_state) if earlier is None else earlier.noise_seed
        device = resolve_device(self.device)
        names = tuple(getattr(self, "feature_names_in_", [f"x{i}" for i in range(X.shape[1])]))
        values = to_tensor(X)
        complete = check_finite(values, names)
        large = Large.of(values, weight, seed, complete=complete)
        if large is not None:
            values, weight = large.sample()
        if one_pass and earlier is not None:
            warn_of_inert_columns(earlier, values)
        rows, row_weight = canonical_rows(values.cpu().numpy(), weight)
        # From the seed that stays: rows that were held out are held out again when training goes on with them.
        shuffled = np.random.RandomState(seed).permutation(len(rows))
        rows, row_weight = rows[shuffled], None if row_weight is None else row_weight[shuffled]
        # The second moments are the widest step outside training.
        wide = 2.0 * min(len(rows), 20_000) * X.shape[1] ** 2
        with thread_limit(wide):
            fitted, data = fitting.prepare(
                self, values, rows, row_weight, names, random_state, device,
                seed=seed, earlier=earlier, one_pass=one_pass, large=large, table=table,
            )  # fmt: skip
        if self.contamination != "auto":
            data.calibration_weight = weight
        if earlier is None:
            warn_of_empty_columns(fitted)
        shared.check_budget(spent=not one_pass and spends_budget(self, fitted.settings.n_epochs))
        history = self._train(X, fitted, data, shared.team, one_pass=one_pass)
        if one_pass:
            n_fitted = 0 if earlier is None else self.n_samples_seen_
            data = fitting.remember(self, fitted, data, values, random_state, earlier=earlier, n_fitted=n_fitted)
        if earlier is not None and fitted.stream is not None and not fitted.stream.ready:
            fitted.score_as(earlier)
            self._publish(X, fitted, data, history, earlier)
        else:
            with thread_limit(wide):
                fitting.finish(self, fitted, data.training, random_state)
            self._publish(X, fitted, data, history, earlier)
            self._set_threshold(fitted, data)

    def _train(self, X: Any, fitted: Fitted, data: Data, team: Team, *, one_pass: bool) -> History:
        settings, seen = fitted.settings, History()
        progress = (
            None if one_pass else FitProgress(self, settings.n_epochs, X, lambda: self._snapshot(X, fitted, data, seen))
        )
        started = perf_counter()

        def on_epoch(history: History) -> bool:
            seen.loss, seen.validation = history.loss, history.validation
            if self.verbose:
                print_epoch(type(self).__name__, history, settings.n_epochs, perf_counter() - started)
            return progress is not None and progress.epoch()

        if data.training.passes is not None and self.verbose:
            data.training.passes.on_part = ReadReport(type(self).__name__, started)
        module = fitted.module
        flops = 6.0 * settings.batch_size * module.flops_per_row
        with thread_limit(flops), matmul_precision(self.matmul_precision), named_divergence(fitted, data):
            history, fitted.optimiser_state = train(
                module,
                data.training,
                settings,
                fitted.seeds,
                validation=data.validation,
                optimiser_state=fitted.optimiser_state,
                on_epoch=on_epoch,
                team=team,
            )
        if progress is not None:
            progress.end()
        if self.max_iter != "auto" and not one_pass and history.still_improving(self.tol):
            warn(
                f"The loss still improved by more than tol={self.tol} when max_iter={self.max_iter} was reached. "
                "Raise 'max_iter', or leave it at 'auto'.",
                ConvergenceWarning,
            )
        return history

    def _publish(
        self,
        X: Any,
        fitted: Fitted,
        data: Data,
        history: History,
        earlier: Fitted | None,
    ) -> None:
        """Set the fitted attributes; the last thing that a fit does."""
        self._fitted = fitted
        self.n_components_ = fitted.module.n_components
        self.module_ = fitted.module
        self.device_ = str(fitted.module.flat.device)
        goes_on = earlier is not None
        self.loss_curve_ = (self.loss_curve_ if goes_on else []) + history.loss
        validation = (goes_on and self.validation_curve_) or []
        self.validation_curve_ = validation + history.validation if self.early_stopping else None
        self.best_loss_ = history.best_loss
        self.n_iter_ = len(self.loss_curve_)
        self.n_samples_seen_ = X.shape[0] + (self.n_samples_seen_ if fitted.stream is not None and goes_on else 0)
        columns = fitted.columns
        self.mean_ = like_input(torch.from_numpy(columns.mean), X)
        self.scale_ = like_input(torch.from_numpy(columns.scale), X)

    def _snapshot(self, X: Any, fitted: Fitted, data: Data, history: History) -> dict[str, Any]:
        """Fitted attributes in the middle of a fit, for callbacks that ask for them."""
        other = fitting.copy_of(fitted)
        fitting.finish(self, other, data.training, np.random.RandomState(0))
        twin = type(self)(**self.get_params(deep=False))
        twin.__dict__.update({k: v for k, v in vars(self).items() if k in ("n_features_in_", "feature_names_in_")})
        twin._publish(X, other, data, history, None)
        twin._set_threshold(other, data)
        return {name: value for name, value in vars(twin).items() if name.endswith("_") or name == "_fitted"}

    # -- features

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
            Expected rows in the units of the training data; after a fit on categories a table like the training
            table, with likeliest levels and rounded integers.

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
        return self._in_form(decode(self._fitted, codes), Z)

    def reconstruct(self, X):
        """Encode rows and decode them again.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_hat : array or table of shape (n_samples, n_features)
            In the units of ``X``; after a fit on categories a table like ``X``.
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
        X_start, X_end = self._checked(X_start, "interpolate"), self._checked(X_end, "interpolate")
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
        if self._fitted.table is not None:
            return self._fitted.table.array(decoded.numpy())
        return like_input(decoded, X_start)

    def impute(self, X, n_draws=None):
        """Fill missing cells with what the model expects of them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN, None or pandas.NA where a cell is missing.
        n_draws : int or None, default=None
            None fills each cell with its expected value. A number makes so many tables, whose cells are drawn from
            their distribution given the row's other cells; their spread says how sure a filled cell is.

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
        values = to_tensor(rows)
        incomplete = torch.isnan(values).any(dim=1)
        n_draws = None if n_draws is None else int(n_draws)
        filled = self._impute_values(values[incomplete], n_draws) if incomplete.any() else None
        tables = []
        for index in range(n_draws or 1):
            table = values.clone()
            if filled is not None:
                own = filled[:, index].to(values)
                table[incomplete] = torch.where(torch.isnan(values[incomplete]), own, values[incomplete])
            tables.append(like_input(table, rows))
        missing = torch.isnan(values).cpu().numpy()
        if self._fitted.table is not None:
            missing &= self._fitted.table.missing(X)
            tables = [self._fitted.table.filled(X, table, missing) for table in tables]
        elif hasattr(X, "columns"):
            tables = [to_tensor(table).cpu().numpy() for table in tables]
        if hasattr(X, "columns"):
            tables = [filled_table(X, table, missing) for table in tables]
        return tables[0] if n_draws is None else tables

    @abstractmethod
    def _impute_values(self, values: Tensor, n_draws: int | None) -> Tensor:
        """What raw rows would hold, of shape (n_samples, max(n_draws, 1), n_features), in the user's units."""

    # -- from rows to chunks and back

    def _checked(self, X: Any, method: str) -> Any:
        """Validate rows for a fitted estimator; categories become codes."""
        check_is_fitted(self)
        if self._fitted.table is not None:
            check_names(self, X)
            X = self._fitted.table.encode(X)
        X = check_rows(self, X, reset=False)
        check_same_namespace(X, self, attribute="mean_", method=method)
        check_finite(to_tensor(X), self._fitted.columns.names)
        fitting.check_domain(self._fitted.design.likelihood.name, to_tensor(X), self._fitted.columns)
        return X

    def _in_form(self, values: Tensor, rows: Any, X: Any = None) -> Any:
        """Decoded rows as an array like validated ``rows``, or as a table like ``X`` where columns are categorical."""
        table = self._fitted.table
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
        super().__setstate__(restored(state, type(self).__name__, self._probe))

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


@contextlib.contextmanager
def _unchanged_on_error(estimator: Any) -> Iterator[None]:
    """A fit that fails leaves the estimator as it was."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        kept = {k: v for k, v in vars(estimator).items() if k.startswith(("_callback", "_skl_callbacks"))}
        vars(estimator).clear()
        vars(estimator).update(before | kept)
        raise
