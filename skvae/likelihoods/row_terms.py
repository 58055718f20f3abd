"""Likelihoods that make something of rows alone, which is the same for all draws of their codes."""

from abc import ABC, abstractmethod

from torch import Tensor

from .likelihood import Likelihood

__all__ = ["RowTerms", "with_row_terms"]


class RowTerms(ABC):
    """A likelihood that makes something of rows and of its free parameters before it sees decoder outputs."""

    @abstractmethod
    def _with_row_terms(self, x: Tensor, free: Tensor, mask: Tensor | None) -> Likelihood:
        """As `with_row_terms`."""


def with_row_terms(likelihood: Likelihood, x: Tensor, free: Tensor, mask: Tensor | None = None) -> Likelihood:
    """The same likelihood for some rows alone, with all that does not depend on decoder outputs computed already.

    Parameters
    ----------
    likelihood : Likelihood
    x : Tensor of shape (..., n_samples, n_columns)
    free : Tensor of shape (..., n_free)
    mask : Tensor of bool of the shape of ``x``, or None

    Returns
    -------
    likelihood : Likelihood
        Its ``log_prob`` and ``row_log_prob`` take these rows, free parameters and mask, and any decoder outputs.
    """
    return likelihood._with_row_terms(x, free, mask) if isinstance(likelihood, RowTerms) else likelihood
