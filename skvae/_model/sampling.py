"""Rows drawn from a fitted VAE: any, or such that agree with given values."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._densities.latent import LatentMixture
from .._support.device import make_generator
from .conditional import draws_given
from .fitted import Fitted
from .masses import with_masses

__all__ = ["blanked", "drawn_rows", "rows_given"]

# Rows that are drawn at once, draws of a given row, and codes proposed for given rows: bound the memory.
_DRAWN_ROWS = 8192
_DRAWS_AT_ONCE = 2048
_CODES_AT_ONCE = 2**16
# Rows that tell how a model's own draws are distributed: more of a narrow table, which costs no more.
_LEAST_REFERENCE_ROWS, _MOST_REFERENCE_ROWS, _REFERENCE_CELLS = 2**13, 2**15, 2**19
# Proposed codes of a given row: for each draw, so that few draws share one; at least; and for those that few of them
# carry, as a multiple.
_CODES_PER_DRAW = 4
_LEAST_CODES = 200
_FEW_CODES = 10.0
_MORE_CODES = 8


def drawn_rows(fitted: Fitted, n_samples: int, generator: torch.Generator, *, bounded: bool, matched: bool) -> Tensor:
    """Draw rows from a VAE, in the user's units.

    Parameters
    ----------
    fitted : Fitted
    n_samples : int
    generator : torch.Generator
    bounded : bool
        Whether cells are moved into the range of the training rows.
    matched : bool
        Whether columns of real numbers are moved to their distribution in the training rows.

    Returns
    -------
    rows : Tensor of shape (n_samples, n_features)
        In float64, on the CPU.
    """
    rows = _drawn(fitted, n_samples, generator)
    rows = _matched(fitted, rows) if matched else rows
    return fitted.within_bounds(rows) if bounded else rows


def _drawn(fitted: Fitted, n_samples: int, generator: torch.Generator) -> Tensor:
    module, prior = _module_and_prior(fitted)
    parts = []
    with torch.inference_mode():
        for first in range(0, n_samples, _DRAWN_ROWS):
            z = prior.sample(min(_DRAWN_ROWS, n_samples - first), generator)
            x = module.likelihood.sample(module.decode(z), module.free(), generator)
            parts.append(fitted.columns.decode(x))
    return torch.cat(parts)


def _matched(fitted: Fitted, rows: Tensor) -> Tensor:
    """Rows of shape (..., n_features) with the columns' distributions in the training rows, as far as they are kept."""
    if fitted.quantiles is None:
        return rows
    return fitted.quantiles.matched(rows.flatten(0, -2), partial(_reference, fitted)).view_as(rows)


def _reference(fitted: Fitted) -> Tensor:
    """Rows that tell how the model's own draws are distributed."""
    n_rows = min(_MOST_REFERENCE_ROWS, _REFERENCE_CELLS // fitted.columns.n_features)
    return _drawn(fitted, max(_LEAST_REFERENCE_ROWS, n_rows), make_generator(fitted.noise_seed))


def rows_given(
    fitted: Fitted, values: Tensor, n_draws: int, generator: torch.Generator, *, bounded: bool, matched: bool
) -> tuple[Tensor, Tensor]:
    """Draw rows that agree with given values, in the user's units.

    Parameters
    ----------
    fitted : Fitted
    values : Tensor of shape (n_given, n_features)
        Raw rows in float64, on the CPU; NaN where a value is unknown.
    n_draws : int
        Of each given row.
    generator : torch.Generator
    bounded : bool
        Whether unknown cells are moved into the range of the training rows.
    matched : bool
        Whether those of real numbers are moved as `drawn_rows` moves them.

    Returns
    -------
    rows : Tensor of shape (n_given, n_draws, n_features)
        In float64, on the CPU, with the given values to the bit.
    size : Tensor of shape (n_given,)
        Effective number of codes behind the draws of a row, the least of its parts; infinite where nothing is unknown.
    """
    rows = values.unsqueeze(1).repeat(1, n_draws, 1)
    size = torch.full((len(values),), torch.inf, dtype=torch.float64)
    incomplete = values.isnan().any(dim=1).nonzero().squeeze(1)
    known = values[incomplete]
    # In the distribution of the model, of which draws are moved to the training rows'.
    asked = fitted.within_reach(known)
    if matched and fitted.quantiles is not None and len(known):
        asked = fitted.quantiles.unmatched(asked, partial(_reference, fitted))
    for first in range(0, n_draws if len(known) else 0, _DRAWS_AT_ONCE):
        n_some = min(_DRAWS_AT_ONCE, n_draws - first)
        n_codes = max(_LEAST_CODES, _CODES_PER_DRAW * n_some)
        drawn, found = _drawn_given(fitted, asked, (n_some, n_codes), generator)
        hard = (found < _FEW_CODES).nonzero().squeeze(1)
        if len(hard):
            drawn[hard], found[hard] = _drawn_given(fitted, asked[hard], (n_some, _MORE_CODES * n_codes), generator)
        drawn = _matched(fitted, drawn) if matched else drawn
        drawn = fitted.within_bounds(drawn) if bounded else drawn
        rows[incomplete, first : first + n_some] = torch.where(known.unsqueeze(1).isnan(), drawn, known.unsqueeze(1))
        size[incomplete] = torch.minimum(size[incomplete], found)
    return rows, size


def _drawn_given(
    fitted: Fitted, values: Tensor, sizes: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draws of shape (n_given, n_draws, n_features), in the user's units, and how many codes carry each row's."""
    module, prior = _module_and_prior(fitted)
    exact = with_masses(module, fitted.columns)
    encode = fitted.columns.exact_scaler
    rows, found = [], []
    for few in values.split(max(1, _CODES_AT_ONCE // sizes[1])):
        x, size = draws_given(exact, module, encode(few), prior, sizes, generator)
        rows.append(fitted.columns.decode(x))
        found.append(size)
    return torch.cat(rows), torch.cat(found)


def blanked(fitted: Fitted, rows: Tensor, known: np.ndarray, generator: torch.Generator) -> Tensor:
    """Drawn rows with missing values as the training rows had them.

    Parameters
    ----------
    fitted : Fitted
    rows : Tensor of shape (n_given, n_draws, n_features)
    known : ndarray of bool of shape (n_given, n_features)
        Given values, which stay.
    generator : torch.Generator

    Returns
    -------
    rows : Tensor of shape (n_given, n_draws, n_features)

    Raises
    ------
    ValueError
        If the model was saved by a version that did not keep the patterns.
    """
    if fitted.patterns is None:
        if fitted.columns.masked:
            raise ValueError(
                "missing='as_trained' needs to know which values were missing together, but this model was saved by a "
                "version that did not keep it. Fit it anew."
            )
        return rows
    missing = torch.from_numpy(fitted.patterns.sample(known, rows.shape[1], generator))
    return torch.where(missing, torch.nan, rows)


def _module_and_prior(fitted: Fitted) -> tuple[Any, LatentMixture]:
    """The network that draws, in float64 on the CPU, and its p(z)."""
    module: Any = fitted.features.converted(torch.float64).cpu()
    return module, fitted.members[0].densities.get("latent") or LatentMixture.standard(module.n_components)
