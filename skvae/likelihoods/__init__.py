"""The noise of a column given its latent code: p(x given z) for continuous, binary, categorical and count columns.

A :class:`Likelihood` describes a group of columns of one family and holds plain Python values only. The decoder's
outputs and the free parameters, which are learned but equal for all rows, come in as tensors, laid out as blocks:
``[first parameter of all columns | second parameter of all columns]``. Log-densities are in nats, constants included.
"""

from typing import Any

from .autoregressive import Autoregressive
from .continuous import Gaussian, StudentT
from .discrete import Bernoulli, Categorical, NegativeBinomial, Poisson
from .groups import ColumnGroups
from .likelihood import Likelihood
from .mixture import Mixture

__all__ = [
    "LIKELIHOODS",
    "Autoregressive",
    "Bernoulli",
    "Categorical",
    "ColumnGroups",
    "Gaussian",
    "Likelihood",
    "Mixture",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "make_likelihood",
]

LIKELIHOODS: dict[str, type[Likelihood]] = {
    family.name: family for family in (Gaussian, StudentT, Bernoulli, Categorical, Poisson, NegativeBinomial)
}


def make_likelihood(config: dict[str, Any]) -> Likelihood:
    """Build a likelihood from what its ``config`` method returned.

    Parameters
    ----------
    config : dict
        The name under "name", and the arguments of the constructor.

    Returns
    -------
    likelihood : Likelihood
        A likelihood equal to the one that gave the dict.

    Raises
    ------
    ValueError
        If no likelihood has that name.
    """
    arguments = dict(config)
    name = arguments.pop("name", None)
    if name == ColumnGroups.name:
        return ColumnGroups([make_likelihood(group) for group in arguments["likelihoods"]], arguments.get("columns"))
    if name == Mixture.name:
        return Mixture(make_likelihood(arguments["likelihood"]), arguments["n_members"])
    if name == Autoregressive.name:
        return Autoregressive(make_likelihood(arguments["likelihood"]), arguments["hidden"])
    if name not in LIKELIHOODS:
        known = ", ".join(map(repr, LIKELIHOODS))
        raise ValueError(f"The name of a likelihood must be one of {known}, but {name!r} came. Pick one of them.")
    return LIKELIHOODS[name](**arguments)
