"""How an estimator is fitted: check, sample, plan, model, and the fitted attributes at the end."""

import inspect
from abc import ABC, abstractmethod
from dataclasses import fields, replace
from numbers import Integral, Real
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, OutlierMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from .._data.arrays import like_input, to_tensor
from .._data.sample import Sample
from .._data.shards import check_budget
from .._model.finishing import finish, remember, taken_over
from .._model.fitted import Data, Fitted, Prepared
from .._model.folds import Fold, cross_fit, density_folds
from .._model.plan import AUTO_FRACTION, CROSS_FIT, Plan
from .._model.preparing import prepare
from .._model.sizes import spends_budget
from .._networks.mlp import ACTIVATIONS
from .._support.compat import (
    CallbackSupportMixin,
    DocumentationLinkMixin,
    Interval,
    NamesOf,
    StrOptions,
)
from .._support.device import (
    MATMUL_PRECISIONS,
    make_random_state,
    matmul_precision,
    resolve_device,
    seed_from,
    thread_limit,
    torch_defaults,
)
from .._support.jobs import with_jobs
from .._support.numerics import plain_number
from .._support.team import Team, joined
from .._support.warnings import warn
from .._tables.table import Table
from .._training.rows import History, Run
from .._training.training import step_flops, train
from ..likelihoods import LIKELIHOODS
from .arguments import names_for_others
from .fitting import fitting
from .progress import (
    FitProgress,
    ReadReport,
    named_divergence,
    named_phase,
    print_epoch,
    warn_of_empty_columns,
    warn_of_inert_columns,
)
from .reading import Given, read_table

__all__ = ["BaseAutoencoder"]

# Of the time that is left after the start; the rest is for densities and threshold, which take 5 to 15 % of a default
# fit of 500 to 50,000 rows.
_TRAINING_FRACTION = 0.85
_PACKAGE = f"{__name__.partition('.')[0]}."
# Called by pickle, hence public in spite of their names.
_STATE = {"__getstate__", "__setstate__"}


class BaseAutoencoder(
    CallbackSupportMixin,
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    OutlierMixin,
    BaseEstimator,
    ABC,
):
    """An estimator that can be fitted; a subclass stores the parameters and says which plan they make.

    A subclass is final: its ``__init__`` stores the parameters and nothing else.
    """

    _plan_type: ClassVar[type[Plan]]

    _parameter_constraints: dict = {
        "n_components": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "hidden_layer_sizes": [StrOptions({"auto"}), "array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "likelihood": [NamesOf(lambda: {"auto", *LIKELIHOODS}), dict],
        "categorical_features": ["array-like", StrOptions({"from_dtype"}), None],
        "standardize": ["boolean"],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "false_alarm_rate": [Interval(Real, 0, 0.5, closed="right")],
        "calibration_fraction": [
            Interval(Real, 0, 0.5, closed="both"),
            StrOptions({AUTO_FRACTION}),
            StrOptions({CROSS_FIT}),
        ],
        "noise": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate_init": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "random_state": ["random_state"],
        "n_networks": [Interval(Integral, 1, None, closed="left")],
        "n_jobs": [Interval(Integral, None, -1, closed="right"), Interval(Integral, 1, None, closed="left"), None],
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
    calibration_fraction: Any
    score_method: str
    noise: Any
    alpha: float | str
    batch_size: Any
    learning_rate_init: Any
    max_iter: Any
    max_time: float | None
    tol: float
    n_iter_no_change: int
    early_stopping: bool
    validation_fraction: float
    warm_start: bool
    verbose: Any
    random_state: Any
    n_networks: int
    n_jobs: int | None
    device: Any
    matmul_precision: str | None

    _fitted: Fitted
    loss_curve_: list[float]
    validation_curve_: list[float] | None
    n_samples_seen_: int
    n_components_: int
    offset_: float

    def __init_subclass__(cls) -> None:
        """Run public methods under torch's default settings and in ``n_jobs`` threads; suggest names of parameters."""
        super().__init_subclass__()
        own = cls.__module__.startswith(_PACKAGE)  # a user's methods run under the user's settings
        for name, method in list(vars(cls).items()):
            if own and inspect.isfunction(method) and (name in _STATE or not name.startswith("_")):
                setattr(cls, name, torch_defaults()(with_jobs(method)))
        if "__init__" in vars(cls):
            cls.__init__ = names_for_others(cls.__init__)  # type: ignore[method-assign]

    @abstractmethod
    def _calibrated(self, plan: Plan, fitted: Fitted, data: Data, folds: tuple[Fold, ...]) -> tuple[Fitted, float]:
        """The model with what its threshold rests on, and the threshold."""

    @abstractmethod
    def _moved(self, fitted: Fitted, earlier: Fitted) -> tuple[Fitted, float]:
        """The model with a threshold for networks that have trained on, and that threshold."""

    @abstractmethod
    def _forget(self) -> Tensor | None:
        """Drop the known anomalies, if there are any, and return them, scaled."""

    @abstractmethod
    def _learn(self, x: Tensor) -> None:
        """Learn anomalies again that `_forget` returned."""

    def _plan(self, *, one_pass: bool = False) -> Plan:
        """The parameters as they stand."""
        resolved: dict[str, Any] = {"device": resolve_device(self.device), "one_pass": one_pass}
        names = [field.name for field in fields(self._plan_type) if field.name not in resolved]
        return self._plan_type(**resolved, **{name: plain_number(getattr(self, name)) for name in names})

    # -- fitting

    @fitting
    def fit(self, X, y=None, sample_weight=None):
        """Learn to reconstruct the rows of a table.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Numbers, in any units, categories, see ``categorical_features``, and in a DataFrame dates and durations.
            NaN, NaT, None and pandas.NA are missing cells: the model learns from the others.
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
            If a column holds times of several time zones, infinite values or kinds of values side by side, if
            all weights are zero, or if ``warm_start`` meets other columns or parameters that cannot change.

        Notes
        -----
        Beyond 2**26 cells, 256 MiB in float32, only a sample of the rows is held in memory: one at random from each of
        many equal stretches of the table. Scales, start, densities and threshold rest on that sample, and with
        ``max_iter="auto"`` nothing else trains, if passes over it take all the steps. Otherwise, and with a number of
        epochs, every pass reads all rows, in blocks of consecutive rows in random order. A ``numpy.memmap`` of float32
        or float64 is read from its file and stays there. In such a table the order of the rows counts, and an integer
        weight weighs the loss.

        Where ``torch.distributed.init_process_group`` has been called, every process calls `fit` with its own rows, and
        all end with the same model: that of one process with all rows, whose batches are as many times larger where
        ``batch_size`` is given. Each computes its part of every batch. The rows go to all processes, beyond 2**26 cells
        a sample of them. If the calls differ, in more than ``verbose``, ``n_jobs`` and ``device``, or one process fails
        or gets a Ctrl-C, all stop with an error.

        A Ctrl-C during the training ends it, with a warning: the fit keeps the best weights so far. A second one
        within two seconds, one inside a search or a cross-validation, and one before or after the training raise
        KeyboardInterrupt, and an earlier fit stays as it was.
        """
        deadline = None if self.max_time is None else perf_counter() + self.max_time
        self._forget()
        earlier = self._fitted if self.warm_start and hasattr(self, "_fitted") else None
        given = read_table(self, X, sample_weight, earlier, joined(), reset=True)
        if earlier is not None and earlier.columns.n_features != given.X.shape[1]:
            raise ValueError(
                f"warm_start=True goes on with a model of {earlier.columns.n_features} columns, but X has "
                f"{given.X.shape[1]}. Set warm_start=False to start anew."
            )
        self._fit(given, self._plan(), earlier, joined(), deadline)
        return self

    @fitting
    def partial_fit(self, X, y=None, sample_weight=None):
        """Train for one pass over a chunk of rows; a series of calls is one training.

        The first chunk fixes the scaling and the start. The optimiser's state is kept from call to call. Scores and
        threshold rest on a bounded sample of all chunks so far: the estimator keeps up to 4,000 rows that trained and
        1,000 that did not. A chunk that comes again trains again, and its held-out rows stay held out. `fit` keeps no
        rows to train on: after it the scores keep its densities, and up to 2,000 of the rows that placed its threshold
        place it again, until the chunks hold as many rows. Known anomalies (`learn_anomalies`) stay known. The first
        call's ``random_state`` seeds all of them; ``max_iter``, ``max_time``, early stopping and a VAE's ``kl_warmup``
        are for `fit`. What ``warm_start`` says of parameters that change holds between calls; ``contamination`` stays
        "auto" or a number.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : Ignored
            Not used, present by convention.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        self : object
            If the call fails, or a Ctrl-C ends it, the estimator stays as it was.

        Raises
        ------
        ValueError
            As `fit` does, and if parameters have changed that cannot in a training that goes on.
        """
        self._validate_params()  # scikit-learn does so at the first of the calls alone
        anomalies = self._forget()
        earlier = getattr(self, "_fitted", None)
        given = read_table(self, X, sample_weight, earlier, joined(), reset=earlier is None)
        self._fit(given, self._plan(one_pass=True), earlier, joined())
        if anomalies is not None:
            self._learn(anomalies)
        return self

    def _fit(self, given: Given, plan: Plan, earlier: Fitted | None, team: Team, deadline: float | None = None) -> None:
        """Everything after the checks, up to the fitted attributes."""
        random_state = self._random_state(team, plan, earlier)
        seed = seed_from(random_state) if earlier is None else earlier.noise_seed
        if plan.one_pass or given.sampled:
            plan = plan.without_folds()
        sample = Sample.of(to_tensor(given.X), given.weight, self._column_names(given.table), given.table, seed)
        prepared = self._prepare(plan, sample, earlier, random_state, sampled=given.sampled)
        max_seconds = _seconds_of_a_training(plan, len(sample.rows), deadline)
        history, prepared = self._train(given.X, plan, prepared, team, max_seconds)
        if plan.one_pass:
            n_fitted = 0 if earlier is None else self.n_samples_seen_
            prepared = remember(plan, prepared, sample.values, random_state, n_fitted)
        if plan.one_pass and earlier is not None and prepared.stream is not None and not prepared.stream.ready:
            with named_phase(self, "threshold"):
                fitted, offset = self._moved(taken_over(prepared, earlier), earlier)
        else:
            with thread_limit(_flops_of_moments(sample)), named_phase(self, "densities"):
                fitted = finish(plan, prepared, random_state)
            with named_phase(self, "threshold"):
                run = Run(team=team, keeps_interrupted=False, max_seconds=max_seconds)
                n = self._n_epochs_of_folds(plan, history, earlier)
                folds = self._cross_fitted(plan, sample, prepared, n, run) or density_folds(plan, prepared, fitted)
                fitted, offset = self._calibrated(plan, fitted, prepared.data, folds)
        self._publish(given.X, fitted, prepared.data, history, earlier)
        self.offset_ = offset

    def _prepare(
        self, plan: Plan, sample: Sample, earlier: Fitted | None, random_state: np.random.RandomState, *, sampled: bool
    ) -> Prepared:
        """A module at its start; warn of columns that nothing can be learned from."""
        if plan.one_pass and earlier is not None:
            warn_of_inert_columns(earlier.columns, sample.values)
        with thread_limit(_flops_of_moments(sample)), named_phase(self, "start"):
            prepared = prepare(plan, sample, earlier, random_state)
        if earlier is None:
            warn_of_empty_columns(prepared.columns)
        if sampled:
            check_budget(spent=not plan.one_pass and spends_budget(plan, prepared.settings.n_epochs))
        return prepared

    def _n_epochs_of_folds(self, plan: Plan, history: History, earlier: Fitted | None) -> int | None:
        """Those of the whole training if it went on or was stopped; else None, for what the plan says."""
        if earlier is not None:
            return len(history.loss) + self.n_iter_
        return len(history.loss) if history.stopped and plan.patience is None else None

    def _random_state(self, team: Team, plan: Plan, earlier: Fitted | None) -> np.random.RandomState:
        random_state = team.same(make_random_state(self.random_state))
        if earlier is None:
            return random_state
        # Numbers of the call's own: the seed itself would give every call the same noise.
        if plan.one_pass:
            return np.random.RandomState([earlier.noise_seed, self.n_samples_seen_])
        return np.random.RandomState([seed_from(random_state), self.n_iter_])

    def _column_names(self, table: Table | None) -> tuple[str, ...]:
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)])
        return (*names, *(() if table is None else table.expansion.part_names(table.form.labels)))

    def _train(
        self, X: Any, plan: Plan, prepared: Prepared, team: Team, max_seconds: float | None
    ) -> tuple[History, Prepared]:
        """Train the prepared module in place, at the user's precision of products and on few threads."""
        settings, module, data, seen = prepared.settings, prepared.module, prepared.data, History()
        progress = None
        if not plan.one_pass:
            progress = FitProgress(self, settings.n_epochs, X, lambda: self._snapshot(X, plan, prepared, seen))
        started = perf_counter()

        def on_epoch(history: History) -> bool:
            seen.loss, seen.validation, seen.store = history.loss, history.validation, history.store
            if self.verbose:
                print_epoch(type(self).__name__, history, settings.n_epochs, perf_counter() - started)
            return progress is not None and progress.epoch()

        rows = data.training
        if rows.passes is not None and self.verbose:
            report = ReadReport(type(self).__name__, started)
            rows = replace(rows, passes=replace(rows.passes, on_part=report))
        keeps = not plan.one_pass  # half of a pass over a chunk is no pass
        run = Run(data.validation, prepared.optimiser_state, on_epoch, team, keeps, max_seconds)
        flops = step_flops(module, rows, settings, run)
        with thread_limit(flops), matmul_precision(self.matmul_precision), named_divergence(prepared):
            history, state = train(module, rows, settings, prepared.seeds, run)
        if progress is not None:
            progress.end()
        self._warn_if_unfinished(plan, history)
        return history, replace(prepared, optimiser_state=state)

    def _cross_fitted(
        self, plan: Plan, sample: Sample, prepared: Prepared, n_epochs: int | None, run: Run
    ) -> tuple[Fold, ...]:
        """Models of all rows but those of a fold each, trained for ``n_epochs``, or as the plan says if None."""

        def train_fold(fold: Prepared) -> None:
            given = fold.module, fold.data.training, fold.settings
            of_fold = replace(run, validation=fold.data.validation)
            flops = step_flops(*given, of_fold)
            with thread_limit(flops), matmul_precision(self.matmul_precision), named_divergence(fold):
                train(*given, fold.seeds, of_fold)

        return cross_fit(plan, sample, prepared, train_fold, n_epochs)

    def _warn_if_unfinished(self, plan: Plan, history: History) -> None:
        if plan.max_iter != "auto" and not plan.one_pass and history.still_improving(plan.tol):
            warn(
                f"The loss still improved by more than tol={plan.tol} when max_iter={plan.max_iter} was reached. "
                "Raise 'max_iter', or leave it at 'auto'.",
                ConvergenceWarning,
            )

    def _publish(self, X: Any, fitted: Fitted, data: Data, history: History, earlier: Fitted | None) -> None:
        """Set the fitted attributes but the threshold; the last thing that a fit does."""
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
        self.mean_ = like_input(fitted.by_column(torch.from_numpy(fitted.columns.mean), in_days=True), X)
        scale = torch.from_numpy(fitted.columns.scale)
        self.scale_ = like_input(fitted.by_column(scale, 2.0, in_days=True), X)

    def _snapshot(self, X: Any, plan: Plan, prepared: Prepared, history: History) -> dict[str, Any]:
        """Fitted attributes in the middle of a fit, for callbacks that ask for them."""
        if history.store is not None:
            history.store()
        frozen = replace(prepared, module=prepared.module.copied())
        twin = type(self)(**self.get_params(deep=False))
        twin.__dict__.update({k: v for k, v in vars(self).items() if k in ("n_features_in_", "feature_names_in_")})
        fitted = finish(plan, frozen, np.random.RandomState(0))
        fitted, offset = twin._calibrated(plan, fitted, frozen.data, density_folds(plan, frozen, fitted))
        twin._publish(X, fitted, frozen.data, history, None)
        twin.offset_ = offset
        return {name: value for name, value in vars(twin).items() if name.endswith("_") or name == "_fitted"}


def _flops_of_moments(sample: Sample) -> float:
    """Floating-point operations of the second moments, the widest step outside training."""
    return 2.0 * min(len(sample.rows), 20_000) * sample.values.shape[1] ** 2


def _seconds_of_a_training(plan: Plan, n_rows: int, deadline: float | None) -> float | None:
    """Seconds of each training to come: the model's, and as many for each fold's."""
    if deadline is None:
        return None
    return _TRAINING_FRACTION * max(0.0, deadline - perf_counter()) / (1 + plan.n_folds(n_rows))
