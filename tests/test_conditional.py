"""Rows drawn given some of their values, held against closed forms, and kept to the value in any table."""

import re
import warnings
from contextlib import nullcontext

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from skvae import VAETransformer
from skvae._densities.latent import LatentMixture
from skvae._estimators.conditions import warn_of_few_codes
from skvae._model.conditional import draws_given
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import VAEModule
from skvae.likelihoods import Gaussian

NAN = float("nan")


@pytest.fixture
def linear():
    """x = W z + noise of scale 0.5 for two codes and three columns, with a posterior that is far off."""
    module = VAEModule(SkipMLP(3, 4), SkipMLP(2, 3), Gaussian(3, floor=0.0), None).converted(torch.float64)
    encoder, decoder, free = module.parts(module.flat.data)
    decoder.skip.copy_(torch.tensor([[1.0, 1.0, 0.5], [0.0, 1.0, -1.0]]))
    free.fill_(torch.tensor(0.5).log())
    encoder.biases[-1].copy_(torch.tensor([-2.0, 2.0, -2.0, -2.0]))
    return module


def test_draws_have_the_conditional_moments_of_a_gaussian(linear, generator):
    """By the Schur complement: mean S_ab S_bb^-1 x_b and covariance S_aa - S_ab S_bb^-1 S_ba."""
    weights = linear.parts(linear.flat.data)[1].skip.numpy()
    covariance = weights.T @ weights + 0.25 * np.eye(3)
    x = torch.tensor([[1.0, NAN, NAN], [NAN, 2.0, -1.0], [NAN, NAN, NAN]], dtype=torch.float64)
    draws, size = draws_given(linear, linear, x, LatentMixture.standard(2), (4000, 16_000), generator)
    for row, known in enumerate(~x.isnan().numpy()):
        a, b = np.flatnonzero(~known), np.flatnonzero(known)
        gain = covariance[np.ix_(a, b)] @ np.linalg.inv(covariance[np.ix_(b, b)])
        expected = covariance[np.ix_(a, a)] - gain @ covariance[np.ix_(b, a)]
        drawn = draws[row].numpy()[:, a]
        # Five standard errors of 4,000 draws: means to 0.05 where the variance is 0.45, to 0.12 where it is 2.25.
        largest = expected.diagonal().max()
        np.testing.assert_allclose(drawn.mean(axis=0), gain @ x[row].numpy()[b], atol=5 * np.sqrt(largest / 4000))
        np.testing.assert_allclose(np.cov(drawn.T), np.squeeze(expected), atol=5 * largest * np.sqrt(2 / 4000))
    assert (size > 8_000).all()  # Gaussians around peaks are the posterior itself


def test_both_modes_of_a_mixture_are_drawn_in_their_shares(linear, generator):
    """p(z) has modes at -3 and 3 of shares 0.2 and 0.8; nothing given keeps them, x1 = 3 leaves one."""
    center = torch.tensor([[-3.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    whitener = torch.eye(2, dtype=torch.float64).repeat(2, 1, 1) / 0.5
    prior = LatentMixture(torch.tensor([0.2, 0.8], dtype=torch.float64).log(), center, whitener)
    x = torch.tensor([[NAN, NAN, NAN], [NAN, NAN, 0.0], [3.0, NAN, NAN]], dtype=torch.float64)
    draws, _ = draws_given(linear, linear, x, prior, (4000, 16_000), generator)
    share = (draws[..., 1] > 0.0).double().mean(dim=1)
    # x2 > 0 in the right mode: its mean is 3, its variance 0.25 + 0.25 + 0.25. x3 = 0 favours neither mode.
    np.testing.assert_allclose(share, [0.8, 0.8, 1.0], atol=0.04)


# --- Tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members():
    rng = np.random.default_rng(0)
    age = rng.normal(45, 15, 250).clip(18, 90).round()
    return pd.DataFrame(
        {
            "age": age.astype("int64"),
            "plan": pd.Categorical.from_codes(np.digitize(age, [30, 60]), ["youth", "full", "senior"]),
            "online": rng.random(250) < 1 / (1 + np.exp((age - 45) / 6)),
            "visits": rng.poisson(np.exp(3 - age / 40)).astype("float32"),
        }
    )


@pytest.fixture(scope="module")
def vae(members):
    return VAETransformer(2, hidden_layer_sizes=(8,), latent_density=1, max_iter=60, tol=1e9, random_state=0).fit(
        members
    )


def test_rows_keep_what_is_given_and_follow_it(vae, members):
    given = pd.DataFrame({"plan": ["senior", "youth"], "online": [None, True]}, index=["a", "b"])
    rows = vae.sample(200, given=given, random_state=0)
    assert (rows.dtypes == members.dtypes).all()
    assert rows.index.tolist() == ["a"] * 200 + ["b"] * 200
    assert rows["plan"].tolist() == ["senior"] * 200 + ["youth"] * 200
    assert rows["online"].loc["b"].all()
    assert 0 < rows["online"].loc["a"].mean() < 0.5
    assert rows["age"].loc["a"].mean() > rows["age"].loc["b"].mean() + 20


def test_draws_given_depend_on_random_state_alone(vae):
    given = pd.DataFrame({"age": [30, 70]})
    first = vae.sample(3, given=given, random_state=3)
    torch.manual_seed(1)
    with torch.inference_mode():
        pd.testing.assert_frame_equal(vae.sample(3, given=given, random_state=3), first)
    assert not first.equals(vae.sample(3, given=given, random_state=4))


def test_a_given_fraction_makes_floats_of_integers(vae):
    rows = vae.sample(2, given=pd.DataFrame({"age": [30.5, 40.0]}), random_state=0)
    assert rows["age"].dtype == "float64"
    assert rows["age"].tolist() == [30.5, 30.5, 40.0, 40.0]
    rows = vae.sample(2, given=pd.DataFrame({"age": [2**60 + 1, None]}, dtype="Int64"), random_state=0)
    assert rows["age"].dtype == "int64"
    assert rows["age"].tolist()[:2] == [2**60 + 1] * 2


@pytest.mark.parametrize("library", ["polars", "pyarrow", "array"])
def test_given_rows_of_any_container(vae, members, library):
    frame = pd.DataFrame({"visits": [9.0, None], "plan": ["full", "youth"]})
    if library == "array":
        given = np.array([[None, "full", None, 9.0], [None, "youth", None, NAN]], dtype=object)
    else:
        given = pl.from_pandas(frame) if library == "polars" else pa.Table.from_pandas(frame)
    with pytest.warns(UserWarning, match="does not have valid feature names") if library == "array" else nullcontext():
        rows = vae.sample(2, given=given, random_state=0)
    pd.testing.assert_frame_equal(rows, vae.sample(2, given=frame, random_state=0).reset_index(drop=True))
    assert rows["visits"].tolist()[:2] == [9.0, 9.0]


def test_a_dict_names_some_columns(vae):
    frame = pd.DataFrame({"plan": ["full", "youth"], "age": [30, 30]})
    rows = vae.sample(2, given={"plan": ["full", "youth"], "age": 30}, random_state=0)
    pd.testing.assert_frame_equal(rows, vae.sample(2, given=frame, random_state=0))
    assert vae.sample(3, given={"plan": "senior"})["plan"].tolist() == ["senior"] * 3
    X = np.random.default_rng(0).normal(size=(60, 3))
    model = VAETransformer(1, hidden_layer_sizes=(8,), latent_density=1, max_iter=1, tol=1e9, random_state=0).fit(X)
    rows = model.sample(2, given={"x0": 1.5, 2: [0.5, 0.25]}, random_state=0)
    np.testing.assert_array_equal(rows[:, [0, 2]], [[1.5, 0.5], [1.5, 0.5], [1.5, 0.25], [1.5, 0.25]])


def test_the_frame_that_was_fitted_is_what_comes_back(members):
    table = pl.from_pandas(members)
    model = VAETransformer(2, hidden_layer_sizes=(8,), latent_density=1, max_iter=2, tol=1e9, random_state=0).fit(table)
    rows = model.sample(3, given=pl.DataFrame({"online": [True]}), random_state=0)
    assert rows.schema == table.schema
    assert rows["online"].to_list() == [True] * 3


def test_arrays_need_all_columns_and_bounds_spare_given_values(seed):
    rng = np.random.default_rng(seed)
    X = np.square(rng.normal(size=(300, 1)) + 0.5 * rng.normal(size=(300, 2)))
    small = {"hidden_layer_sizes": (8,), "max_iter": 10, "tol": 1e3, "random_state": 0, "latent_density": 1}
    model = VAETransformer(1, likelihood="gaussian", calibration_fraction=0.0, **small).fit(X)
    given = np.array([[0.1, NAN], [-5.0, NAN], [0.5, 0.25]])
    how = {"given": given, "random_state": 0, "match_marginals": False}
    free, bounded = (model.sample(100, **how, bounded=bounded) for bounded in (False, True))
    assert free.dtype == np.float64
    np.testing.assert_array_equal(free[:, 0], np.repeat([0.1, -5.0, 0.5], 100))
    np.testing.assert_array_equal(free[200:], [[0.5, 0.25]] * 100)  # nothing to draw
    assert (free[:, 1] < 0).any()
    np.testing.assert_array_equal(bounded[:, 1], np.clip(free[:, 1], X[:, 1].min(), X[:, 1].max()))
    np.testing.assert_array_equal(bounded[:, 0], free[:, 0])
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        model.sample(given=given[:, :1])
    assert str(caught.value) == (
        "'given' must have all 2 columns of the fit, NaN where a value is not known, but it has 1. The fit has seen no "
        "names to go by."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            pd.DataFrame({"age": [1], "agee": [2], "town": ["x"]}),
            "'given' must hold columns of the fit, but also has 'agee', 'town'. The fit has the columns 'age', "
            "'plan', 'online', 'visits'.",
        ),
        (
            pd.DataFrame({"plan": ["full", "gold"]}),
            "Column 'plan' of 'given' must hold levels of the fit ('full', 'senior', 'youth'), but row 1 holds 'gold'. "
            "Leave it blank to have one drawn.",
        ),
        (
            np.array([[30.0, "full", None]], dtype=object),
            "'given' must have all 4 columns of the fit, NaN where a value is not known, but it has 3. Or name some of "
            "them by a DataFrame.",
        ),
        ({}, "'given' must name a column, but it is empty. Leave it out to draw rows of which nothing is known."),
        (
            {"age": [1, 2], "plan": ["full"], "visits": 3},
            "The lists of 'given' must have one length, but they have {'age': 2, 'plan': 1}. Pass one for each row.",
        ),
        (
            pd.DataFrame({"age": [np.inf]}),
            "Columns must hold finite or missing values, but column 'age' holds inf in row 0. Drop such rows, or "
            "replace the value by NaN to mark it as missing.",
        ),
    ],
)
def test_what_cannot_be_given_is_told(vae, given, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        vae.sample(given=given)


@pytest.mark.parametrize(
    "column",
    [tuple, pd.Series, lambda values: pd.Series(values, dtype="category"), pd.Index, pl.Series, pa.array, np.array],
    ids=["tuple", "series", "categories", "index", "polars", "arrow", "array"],
)
def test_a_dict_takes_columns_of_any_kind(vae, column):
    expected = vae.sample(2, given={"plan": ["full", "youth"], "age": 30.0}, random_state=0)
    found = vae.sample(2, given={"plan": column(["full", "youth"]), "age": np.array(30.0)}, random_state=0)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))


def test_few_codes_behind_a_row_are_told():
    size = torch.tensor([40.0, 4.04, torch.inf, 2.5])
    message = (
        "Fewer than 5 codes carry the draws of 2 of the 4 given rows, least of row 3 (effective sample size 2.5): "
        "they differ too little from each other. The model finds the given values hard to agree with; log_likelihood "
        "says how unlikely they are."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        warn_of_few_codes(size)


@pytest.mark.slow
def test_values_that_contradict_each_other_are_drawn_and_least_likely(seed):
    """Ten columns of two causes, and values that no code explains: 60 standard deviations off, in all directions."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 10)) + 0.05 * rng.normal(size=(500, 10))
    model = VAETransformer(2, max_iter=60, tol=1e9, random_state=0).fit(X)
    given = 60.0 * rng.normal(size=(20, 10))
    given[:, 0] = NAN
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few codes carry some of them
        rows = model.sample(3, given=given, random_state=0)
        assert np.isfinite(rows).all()
        given[:, 0] = 0.0
        assert model.log_likelihood(given).max() < model.log_likelihood(X).min()
