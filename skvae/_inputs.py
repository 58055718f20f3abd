"""What the encoder sees of scaled rows: a missing cell is NaN in ``x``, and nothing downstream of here meets a NaN."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["InputLayer", "observed"]


def observed(x: Tensor) -> Tensor | None:
    """Tell which cells of scaled rows hold a value.

    Parameters
    ----------
    x : Tensor of shape (n_samples, n_features)
        NaN where a cell is missing.

    Returns
    -------
    mask : Tensor of bool of shape (n_samples, n_features), or None
        None where every cell holds one, so that complete tables pay one sum.
    """
    if not torch.isnan(x.sum()):
        return None
    mask = ~torch.isnan(x)
    return None if mask.all() else mask


@dataclass(frozen=True)
class InputLayer:
    r"""Scaled rows turned into the inputs of an encoder, [values | which are there].

    .. math:: u_{ij} = m_{ij} x_{ij} + (1 - m_{ij}) f_j, \quad \mathrm{inputs}_i = [u_i \mid m_{iM}]

    For a table whose training rows were complete, complete rows are their own inputs.

    Parameters
    ----------
    n_columns : int
        Columns of the scaled rows.
    masked : tuple of int
        Columns M that had missing cells in training: the encoder is told where they hold a value.
    fill : tuple of float
        What stands in for a missing cell of each column, f, in scaled units; empty for zeros.

    References
    ----------
    Mattei & Frellsen (2019), "MIWAE: deep generative modelling and imputation of incomplete data sets",
    https://arxiv.org/abs/1812.02633, section 3.1: a constant fill is as good as any.
    """

    n_columns: int
    masked: tuple[int, ...] = ()
    fill: tuple[float, ...] = ()

    @property
    def n_values(self) -> int:
        """Inputs that carry values."""
        return self.n_columns

    @property
    def n_inputs(self) -> int:
        """Width of the inputs."""
        return self.n_values + len(self.masked)

    @property
    def is_identity(self) -> bool:
        """Whether complete rows are their own inputs."""
        return self.n_inputs == self.n_columns

    def config(self) -> dict[str, Any]:
        """Plain values for a pickle."""
        return {"n_columns": self.n_columns, "masked": list(self.masked), "fill": list(self.fill)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "InputLayer":
        """Inverse of `config`."""
        return cls(config["n_columns"], tuple(config["masked"]), tuple(config["fill"]))

    def __call__(self, x: Tensor) -> Tensor:
        """Turn scaled rows of shape (..., n_samples, n_columns) into inputs of shape (..., n_samples, n_inputs)."""
        mask = observed(x)
        return self.join(self.values(x, mask), mask)

    def values(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The values alone, missing cells filled; (..., n_samples, n_values)."""
        if mask is None:
            return x
        return torch.where(mask, x, x.new_tensor(self.fill) if self.fill else 0.0)

    def join(self, values: Tensor, mask: Tensor | None) -> Tensor:
        """Put which cells are there beside the values; where values carry noise, missing cells lose it again."""
        values = self.values(values, mask)
        if not self.masked:
            return values
        if mask is None:
            return torch.cat([values, values.new_ones(*values.shape[:-1], len(self.masked))], dim=-1)
        return torch.cat([values, mask[..., list(self.masked)].to(values)], dim=-1)
