"""Likelihoods that can be cut into those of single columns."""

from abc import ABC, abstractmethod

from .likelihood import Likelihood

__all__ = ["Separable"]


class Separable(ABC):
    """A likelihood of which a column has its own outputs, and as many free parameters as every other.

    The outputs of a column are those that ``owners`` names, in order; its free parameters lie ``n_columns`` apart.
    """

    @abstractmethod
    def _of_column(self, index: int) -> Likelihood | None:
        """The likelihood of one column, of its outputs and free parameters; None if columns share some."""
