"""Which family each column has, and what the encoder sees of it."""

import re

import numpy as np
import pytest
import torch

from skvae import VAETransformer
from skvae._data.columns import Columns, Schema
from skvae._data.families import column_families, group_likelihoods, input_layer
from skvae.likelihoods import Bernoulli, Categorical, ColumnGroups, Gaussian, Poisson, make_likelihood

KNOWN = ("auto", "gaussian", "bernoulli", "categorical", "poisson")
NAMES = ("a", "b", "c", "d")
X = torch.tensor([[0.5, 2.0, 7.0, 1.0], [1.5, 0.0, 0.0, 0.0], [2.5, 2.0, 3.0, 0.0], [9.5, 1.0, 1.0, 1.0]]).double()
FAMILIES = ("auto", "categorical", "poisson", "bernoulli")


@pytest.fixture
def columns():
    return Columns.fit(X, torch.arange(4), Schema(NAMES, True, FAMILIES, (0, 3, 0, 0)))


def build(name, n_columns):
    return make_likelihood({"name": "gaussian" if name == "auto" else name, "n_columns": n_columns})


def test_one_name_speaks_for_all_columns_of_numbers():
    assert column_families("poisson", NAMES, None, KNOWN) is None
    assert column_families("poisson", NAMES, (0, 2, 0, 0), KNOWN) == ("poisson", "categorical", "poisson", "poisson")


def test_a_mapping_names_columns_by_label_or_number():
    families = column_families({"c": "poisson", 3: "bernoulli"}, NAMES, (0, 3, 0, 0), KNOWN)
    assert families == FAMILIES
    assert column_families({"a": "categorical"}, NAMES, (0, 0, 0, 0), KNOWN) == ("auto",) * 4  # a column without values


def test_unknown_family_is_refused_by_column():
    message = (
        "The 'likelihood' parameter must name one of 'auto', 'gaussian', 'bernoulli', 'categorical', 'poisson' for "
        "each column, but 'poison' came for column 'c'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        column_families({"c": "poison"}, NAMES, None, KNOWN)


def test_columns_of_one_family_are_grouped(columns):
    expected = ColumnGroups([Gaussian(1), Poisson(1), Bernoulli(1), Categorical([3])], [[0], [2], [3], [1]])
    assert group_likelihoods(columns, build, "auto") == expected


def test_one_family_is_no_group():
    numbers = Columns.fit(X, torch.arange(4), Schema(NAMES))
    assert group_likelihoods(numbers, build, "gaussian") == Gaussian(4)
    named = Columns.fit(X, torch.arange(4), Schema(NAMES, True, ("auto", "gaussian", "auto", "gaussian")))
    assert group_likelihoods(named, build, "auto") == Gaussian(4)


def test_only_real_numbers_are_scaled(columns):
    assert columns.mean.tolist() == [3.5, 0.0, 0.0, 0.0]
    assert columns.scale[1:].tolist() == [1.0, 1.0, 1.0]
    assert columns.centre.tolist() == [0.0, 1.25, 2.75, 0.5]
    assert columns.n_degrees == 5


def test_a_level_alone_is_no_constant():
    """Its code is no amount: 0 would be another level."""
    rows = torch.tensor([[2.0], [2.0]]).double()
    columns = Columns.fit(rows, torch.arange(2), Schema(("k",), True, ("categorical",), (3,)))
    assert columns.scaler(torch.float64, torch.device("cpu"))(rows).tolist() == [[2.0], [2.0]]
    assert columns.decode(rows).tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 1.0, 3.0, 1.0])])
def test_layer_knows_the_shares_of_levels_and_the_logarithms_of_counts(columns, weight):
    layer = input_layer(columns, X, weight)
    counts = np.array([1.0, 1.0, 2.0]) if weight is None else np.array([1.0, 1.0, 4.0])
    (column, shares), (place, mean, scale) = *layer.probabilities, *layer.counts
    assert (column, place) == (1, 2)
    np.testing.assert_allclose(shares, (counts + 0.5) / (counts + 0.5).sum())
    logs = np.log1p(X[:, 2].numpy())
    share = np.ones(4) if weight is None else weight.numpy()
    assert mean == pytest.approx(np.average(logs, weights=share))
    assert scale == pytest.approx(np.sqrt(np.average((logs - mean) ** 2, weights=share)))


def test_all_columns_outside_their_domains_are_told_at_once():
    X = np.array([[1.0, 2.0, 0.5], [-1.0, 3.0, 0.5], [2.0, 0.0, 0.5], [3.0, 1.5, 0.5]])
    with pytest.raises(ValueError, match="likelihood") as caught:
        VAETransformer(1, likelihood={0: "poisson", 1: "poisson"}, max_iter=1, calibration_fraction=0).fit(X)
    assert str(caught.value) == (
        "Column 'x0' must hold integers of at least 0 for likelihood 'poisson', but row 1 holds -1.0. "
        "Use 'gaussian', or encode the column first.\n"
        "Column 'x1' must hold integers of at least 0 for likelihood 'poisson', but row 3 holds 1.5. "
        "Use 'gaussian', or encode the column first."
    )
