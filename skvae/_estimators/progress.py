"""What a fit prints and warns of: its progress, columns without values or variation, a loss that diverges."""

import contextlib
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from .._data.columns import Columns
from .._model.fitted import Prepared
from .._support.warnings import warn
from .._tables.cells import listed
from .._training.rows import History

__all__ = [
    "FitProgress",
    "ReadReport",
    "named_divergence",
    "named_phase",
    "print_epoch",
    "warn_of_empty_columns",
    "warn_of_inert_columns",
]


def warn_of_empty_columns(columns: Columns) -> None:
    """Say which columns hold nothing to learn from."""
    if columns.empty:
        which = listed([columns.names[index] for index in columns.empty], begins=True)
        warn(
            f"{which} holds no value in any training row: it is kept, but nothing is learned of "
            "it, and its cells come back as NaN. Drop the column if this is not meant.",
            UserWarning,
        )


def warn_of_inert_columns(columns: Columns, values: Tensor) -> None:
    """Say which columns a chunk varies in although the first chunk did not."""
    inert = []
    for index in np.flatnonzero(columns.constant):
        cells = values[:, index]
        if index not in columns.empty and bool((cells != columns.mean[index]).logical_and(~cells.isnan()).any()):
            inert.append(index)
    if inert:
        which = listed([columns.names[index] for index in inert], begins=True)
        value = f", {columns.mean[inert[0]]:g}" if len(inert) == 1 else ""
        warn(
            f"{which} was constant in the first chunk{value}, so that nothing is learned of it, "
            "and this chunk's other values only lower the scores of their rows. Start with a chunk in which every "
            "column varies.",
            UserWarning,
        )


@contextlib.contextmanager
def named_divergence(prepared: Prepared) -> Iterator[None]:
    """Name the column behind a loss that is not finite."""
    try:
        yield
    except FloatingPointError:
        largest = prepared.data.training.x.abs().nan_to_num(0.0).amax(dim=0)
        column = int(largest.argmax())
        name = prepared.columns.names[column]
        raise ValueError(
            f"Training did not stay finite, even at 1/32 of the learning rate. Column {name!r} "
            f"has the largest scaled value, {float(largest[column]):.3g}. Lower 'learning_rate_init', or clip or "
            "transform that column."
        ) from None


@contextlib.contextmanager
def named_phase(estimator: Any, what: str) -> Iterator[None]:
    """Print which phase of a verbose fit begins, and how long it took when it ends."""
    if not estimator.verbose:
        yield
        return
    started = perf_counter()
    print(f"[{type(estimator).__name__}] {what}:", end="", flush=True)
    try:
        yield
    finally:
        print(f" {perf_counter() - started:.1f} s")


def print_epoch(name: str, history: History, n_epochs: int, seconds: float) -> None:
    """Print one line on an epoch, and before the first one on the step that trains."""
    if len(history.loss) == 1:
        print(f"[{name}] trains by the step {history.step!r}")
    validation = f", validation {history.validation[-1]:.4f}" if history.validation else ""
    print(f"[{name}] epoch {len(history.loss)}/{n_epochs}: loss {history.loss[-1]:.4f}{validation}, {seconds:.1f} s")


class ReadReport:
    """Prints how much of a pass over a large table is read, in tenths."""

    def __init__(self, name: str, started: float) -> None:
        self._name, self._started, self._tenth = name, started, 0

    def __call__(self, fraction: float) -> None:
        tenth = int(10.0 * fraction)
        if tenth > self._tenth:
            print(f"[{self._name}] {10 * tenth} % of the rows read, {perf_counter() - self._started:.1f} s")
        self._tenth = tenth


class FitProgress:
    """Reports a fit's epochs to scikit-learn's callbacks, where they exist.

    Parameters
    ----------
    estimator : estimator
    n_epochs : int
    X : array
        Shown to the callbacks, also as the target: an autoencoder's target is its input.
    attributes : callable
        Returns the fitted attributes of the moment, for callbacks that ask for a usable estimator.
    """

    def __init__(self, estimator: Any, n_epochs: int, X: Any, attributes: Any) -> None:
        self._estimator, self._X, self._attributes = estimator, X, attributes
        self._context = None
        if hasattr(estimator, "_init_callback_context"):
            self._context = estimator._init_callback_context(max_subtasks=n_epochs)
            self._context.call_on_fit_task_begin(estimator=estimator, X=X, y=X, metadata={})

    def epoch(self) -> bool:
        """Report one epoch; True asks to stop."""
        if self._context is None:
            return False
        epoch = self._context.subcontext(task_name="epoch")
        epoch.call_on_fit_task_begin(estimator=self._estimator, X=self._X, y=self._X)
        return bool(
            epoch.call_on_fit_task_end(
                estimator=self._estimator, X=self._X, y=self._X, reconstruction_attributes=self._attributes
            )
        )

    def end(self) -> None:
        """Report the end of the fit."""
        if self._context is not None:
            self._context.call_on_fit_task_end(
                estimator=self._estimator, X=self._X, y=self._X, reconstruction_attributes=self._attributes
            )
