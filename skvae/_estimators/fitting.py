"""What surrounds a call of `fit` or `partial_fit`: nothing half done, all processes in step, parameters checked."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np

from .._data.shards import described_table
from .._support.compat import fit_context
from .._support.device import torch_defaults
from .._support.jobs import with_jobs
from .._support.team import together

__all__ = ["fitting"]

# Parameters that may differ from process to process.
_OWN = {"verbose", "n_jobs", "device"}


def fitting(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method that fits.

    A call that fails leaves the estimator as it was, and runs under torch's own settings, in ``n_jobs`` threads. Where
    there are several processes they compare their calls before anything else, so before scikit-learn checks the
    parameters, and none returns before all are done.
    """
    checked = fit_context(prefer_skip_nested_validation=True)(with_jobs(method))

    @functools.wraps(method)
    def call(self, X, y=None, sample_weight=None):
        with _unchanged_on_error(self), torch_defaults(), together() as team:
            if team.size > 1:
                team.agree({"the method": method.__name__, "the class": type(self).__name__})
                team.agree(_described(self, method.__name__, X))
            return checked(self, X, y, sample_weight)

    return call


@contextmanager
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


def _described(estimator: Any, verb: str, X: Any) -> dict[str, str | None]:
    """What of a call must be alike in all processes, by subject."""
    so_far = "none"
    if hasattr(estimator, "_fitted") and (verb == "partial_fit" or estimator.warm_start):
        seed = estimator._fitted.noise_seed
        so_far = f"one of {estimator.n_samples_seen_} rows, {estimator.n_iter_} epochs and seed {seed}"
    parameters = {
        f"the parameter {name!r}": _shown(value)
        for name, value in estimator.get_params(deep=False).items()
        if name not in _OWN
    }
    return parameters | {"the earlier model": so_far} | described_table(X)


def _shown(value: Any) -> str:
    """A parameter's value in words that are the same for equal values."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_shown(k)}: {_shown(v)}' for k, v in value.items())}}}"
    if isinstance(value, (bool, Integral, str)) or value is None:
        return repr(value)
    if isinstance(value, Real):
        number = float(value)
        return repr(int(number)) if number.is_integer() else repr(number)
    return f"a {type(value).__name__}"
