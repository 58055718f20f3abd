"""Columns that see those before them: the network's masks, the density against closed forms, and the estimator."""

import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from skvae import VAETransformer
from skvae.likelihoods import (
    Autoregressive,
    Bernoulli,
    Categorical,
    ColumnGroups,
    Gaussian,
    Mixture,
    NegativeBinomial,
    Poisson,
    StudentT,
    make_likelihood,
)

INNER = {
    "gaussian": Gaussian(4),
    "student_t": StudentT(4, scale="dependent"),
    "mixture": Mixture(StudentT(12, scale="dependent"), 3),
    "bernoulli": Bernoulli(4),
    "categorical": Categorical([2, 3, 4, 2]),
    "poisson": Poisson(4),
    "groups": ColumnGroups(
        [StudentT(1, scale="dependent"), NegativeBinomial(1), Categorical([3, 2])], [[2], [0], [1, 3]]
    ),
}
HIDDEN = {"linear": (), "one layer": (7,), "two layers": (9, 5), "narrow": (2,)}
each_inner = pytest.mark.parametrize("inner", [pytest.param(case, id=key) for key, case in INNER.items()])
each_hidden = pytest.mark.parametrize("hidden", [pytest.param(case, id=key) for key, case in HIDDEN.items()])
GRID = torch.linspace(-60, 60, 24_001, dtype=torch.float64)
FAST = {"hidden_layer_sizes": (8,), "max_iter": 2, "tol": 1e3, "calibration_fraction": 0.0, "random_state": 0}


@pytest.fixture
def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def cells_of(draw, n_rows):
    """Rows in every family's domain: 0 or 1."""
    return (draw(n_rows, 4) > 0).double()


def parameters_of(likelihood, draw, n_rows, lead=()):
    return draw(*lead, n_rows, likelihood.n_outputs), draw(*lead, likelihood.n_free)


# -- the masks


@each_hidden
@each_inner
def test_a_cell_moves_the_outputs_of_the_columns_after_it_alone(inner, hidden, draw):
    likelihood = Autoregressive(inner, hidden)
    x, parameters = cells_of(draw, 5), parameters_of(likelihood, draw, 5)
    before, owners = likelihood.outputs_given(x, *parameters), torch.tensor(inner.owners)
    for column in range(4):
        other = x.clone()
        other[:, column] = 1.0 - other[:, column]
        moved = (likelihood.outputs_given(other, *parameters) != before).any(dim=0)
        assert torch.equal(moved, owners > column)


@each_inner
def test_each_output_belongs_to_the_column_whose_density_it_moves(inner, draw):
    x, (outputs, free) = cells_of(draw, 5), parameters_of(inner, draw, 5)
    before = inner.log_prob(x, outputs, free)
    for place, owner in enumerate(inner.owners):
        other = outputs.clone()
        other[:, place] += 0.1
        moved = (inner.log_prob(x, other, free) != before).any(dim=0)
        assert moved.nonzero().flatten().tolist() == [owner]


@each_hidden
@each_inner
def test_it_starts_with_columns_that_are_independent(inner, hidden, draw):
    likelihood = Autoregressive(inner, hidden)
    x, outputs = cells_of(draw, 5), draw(5, likelihood.n_outputs)
    free = torch.tensor(likelihood.initial_free(), dtype=torch.float64)
    expected = inner.log_prob(x, outputs[:, : inner.n_outputs], free[: inner.n_free])
    torch.testing.assert_close(likelihood.log_prob(x, outputs, free), expected)
    noise = draw(sum(inner.widths)).exp()
    torch.testing.assert_close(likelihood.linear_free(noise)[: inner.n_free], inner.linear_free(noise))


# -- the density


@each_hidden
def test_density_of_two_columns_integrates_to_one(hidden, draw):
    """The first in one column of four levels, the second over a grid: its sum is the integral but for the tails."""
    likelihood = Autoregressive(ColumnGroups([Categorical([4]), Gaussian(1)]), hidden)
    outputs, free = parameters_of(likelihood, draw, 1)
    level, value = torch.meshgrid(torch.arange(4.0).double(), GRID, indexing="ij")
    x = torch.stack([level, value], dim=-1).view(-1, 2)
    density = likelihood.row_log_prob(x, outputs.expand(len(x), -1), free).exp()
    assert density.sum().item() * 120 / 24_000 == pytest.approx(1.0, abs=1e-8)


def linear_gaussian(draw):
    """A linear network of four Gaussian columns with its closed form: x = b + x L + e."""
    likelihood = Autoregressive(Gaussian(4, floor=0.0), ())
    outputs, free = parameters_of(likelihood, draw, 1)
    lower = free[4:36].view(8, 4)[:4].triu(1)  # of row vectors
    mean = torch.linalg.solve((torch.eye(4) - lower).T, outputs[0])
    spread = torch.linalg.inv(torch.eye(4, dtype=torch.float64) - lower)
    covariance = spread.T @ torch.diag((2.0 * free[:4]).exp()) @ spread
    return likelihood, outputs, free, mean, covariance


def test_a_linear_network_is_a_gaussian_with_dependent_columns(draw):
    likelihood, outputs, free, mean, covariance = linear_gaussian(draw)
    x = draw(6, 4)
    found = likelihood.row_log_prob(x, outputs.expand(6, -1), free)
    np.testing.assert_allclose(found, stats.multivariate_normal(mean, covariance).logpdf(x), rtol=1e-9)
    torch.testing.assert_close(likelihood.mean(outputs, free)[0], mean)
    torch.testing.assert_close(likelihood.expected(outputs, free)[0], mean)
    torch.testing.assert_close(likelihood.scale(outputs, free)[0], free[:4].exp())


def test_draws_go_together_as_the_closed_form_says(draw, seed):
    likelihood, outputs, free, mean, covariance = linear_gaussian(draw)
    rows = likelihood.sample(outputs.expand(40_000, -1), free, torch.Generator().manual_seed(seed))
    scale = covariance.diagonal().sqrt()
    # Five standard errors of a mean, and of a correlation or variance ratio (at most sqrt(2 / n)).
    np.testing.assert_allclose((rows.mean(dim=0) - mean) / scale, np.zeros(4), atol=5 / 200)
    np.testing.assert_allclose((rows.T.cov() - covariance) / torch.outer(scale, scale), np.zeros((4, 4)), atol=5 / 141)


@each_inner
@each_hidden
@pytest.mark.parametrize("lead", [((), ()), ((2,), ()), ((2, 3), (3,))], ids=["rows", "draws", "draws of networks"])
@pytest.mark.parametrize("some_known", [False, True])
def test_cells_in_turn_are_those_of_whole_passes(inner, hidden, lead, some_known, draw):
    """Column by column, each time all of the network anew: what is computed once must not change them."""
    likelihood = Autoregressive(inner, hidden)
    outputs, free = draw(*lead[0], 5, likelihood.n_outputs), draw(*lead[1], likelihood.n_free)
    known = torch.where(draw(5, 4) > 0, cells_of(draw, 5), torch.nan) if some_known else torch.full((5, 4), math.nan)
    cells, own = outputs.new_zeros(*lead[0], 5, 4), free[..., : inner.n_free]
    for column in range(4):
        mean = inner.mean(likelihood.outputs_given(cells, outputs, free), own)[..., column]
        cells[..., column] = torch.where(known[:, column].isnan(), mean, known[:, column])
    given = likelihood.outputs_given(cells, outputs, free)
    torch.testing.assert_close(likelihood.expected_beside(known, outputs, free), inner.expected(given, own))
    if not some_known:
        torch.testing.assert_close(likelihood.mean(outputs, free), cells)
        if inner.has_scale:
            torch.testing.assert_close(likelihood.scale(outputs, free), inner.scale(given, own), equal_nan=True)


def test_columns_may_share_a_scale(draw):
    likelihood = Autoregressive(Mixture(StudentT(6, scale="shared"), 3), [4])
    outputs, free = parameters_of(likelihood, draw, 5)
    assert likelihood.mean(outputs, free).shape == (5, 2)


@each_inner
def test_draws_beside_known_cells_keep_them(inner, draw, seed):
    likelihood = Autoregressive(inner, (5,))
    outputs, free = parameters_of(likelihood, draw, 50)
    known = torch.where(draw(50, 4) > 0, cells_of(draw, 50), torch.nan)
    rows = likelihood.sample_beside(known, outputs, free, torch.Generator().manual_seed(seed))
    assert torch.equal(torch.where(known.isnan(), known.nan_to_num(), rows), known.nan_to_num())
    assert not rows.isnan().any()


@each_hidden
@each_inner
def test_missing_cells_count_nothing_and_are_not_read(inner, hidden, draw):
    likelihood = Autoregressive(inner, hidden)
    x, parameters, mask = cells_of(draw, 5), parameters_of(likelihood, draw, 5), draw(5, 4) > -0.5
    found = likelihood.log_prob(torch.where(mask, x, torch.nan), *parameters, mask)
    assert not found[~mask].any()
    torch.testing.assert_close(found, likelihood.log_prob(torch.where(mask, x, 1.0 - x), *parameters, mask))
    # What is hidden in training is not read either, but counts.
    hiding = likelihood.told(mask).log_prob(x, *parameters)
    torch.testing.assert_close(torch.where(mask, hiding, 0.0), found)
    assert hiding[~mask].all()


@pytest.mark.parametrize("case", ["complete", "weighted", "gaps", "hidden cells"])
@each_hidden
@each_inner
def test_gradient_by_hand_is_that_of_autograd(inner, hidden, case, draw):
    """Also where draws share the free parameters of their network."""
    likelihood = Autoregressive(inner, hidden)
    x, outputs, free = cells_of(draw, 5), draw(2, 3, 5, likelihood.n_outputs), draw(3, likelihood.n_free)
    weight = draw(5).exp() if case == "weighted" else None
    mask = draw(5, 4) > -0.5 if case == "gaps" else None
    likelihood = likelihood.told(draw(5, 4) > -0.5) if case == "hidden cells" else likelihood
    leaves = outputs.clone().requires_grad_(), free.clone().requires_grad_()
    cells = likelihood.log_prob(x, *leaves, mask)
    loss = -(cells if weight is None else cells * weight.unsqueeze(-1)).sum((-2, -1))
    expected = torch.autograd.grad(loss.sum(), leaves)
    with torch.no_grad():
        found = likelihood.loss_gradient(x, outputs, free, weight, mask, torch.empty_like(outputs))
    for got, wanted in zip(found, (loss, *expected), strict=True):
        torch.testing.assert_close(got, wanted)


@each_inner
def test_networks_and_draws_side_by_side_are_those_alone(inner, draw):
    likelihood = Autoregressive(inner, (6, 5))
    x, mask = cells_of(draw, 5), draw(5, 4) > -0.5
    outputs, free = draw(2, 3, 5, likelihood.n_outputs), draw(3, likelihood.n_free)
    found = likelihood.log_prob(x, outputs, free, mask)
    alone = [[likelihood.log_prob(x, outputs[i, j], free[j], mask) for j in range(3)] for i in range(2)]
    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in alone]))


@each_inner
def test_config_gives_the_same_likelihood(inner):
    likelihood = Autoregressive(inner, (6, 5))
    twin = make_likelihood(likelihood.config())
    assert twin == likelihood
    assert (twin.n_outputs, twin.n_free, twin.family) == (likelihood.n_outputs, likelihood.n_free, inner.family)


# -- the estimator


@pytest.fixture
def table(rng):
    """Numbers of which one follows from another, a level that follows from both, and a count."""
    x = rng.normal(size=(300, 2))
    x[:, 1] = x[:, 0] ** 2 + 0.05 * x[:, 1]
    level = pd.Categorical(np.where(x[:, 1] > 1.0, "far", "near"))
    return pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "level": level, "count": rng.poisson(3.0, 300)})


@pytest.mark.slow
def test_density_reaches_that_of_dependent_gaussian_columns(rng):
    """Columns of a chain of correlation 0.95 in which a code of one number says little: the rest is between columns."""
    n, correlation = 2000, 0.95
    covariance = correlation ** np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    truth = stats.multivariate_normal(np.zeros(6), covariance)
    X, fresh = np.split(truth.rvs(2 * n, random_state=rng), 2)
    options = {
        "n_components": 1,
        "likelihood": "gaussian",
        "scale": "constant",
        "max_iter": 50,
        "tol": 1e3,
        "random_state": 0,
    }
    joined, alone = (VAETransformer(decoder=decoder, **options).fit(X) for decoder in ("autoregressive", "independent"))
    best = truth.logpdf(fresh).mean()
    assert joined.score(fresh) == pytest.approx(best, abs=0.1)
    assert alone.score(fresh) < best - 0.5


@pytest.mark.slow
def test_drawn_and_given_rows_lie_on_the_curve(rng):
    """Also where the given column is the last one, and the first has two branches."""
    x = rng.normal(size=2000)
    X = np.column_stack([x, x**2 + 0.05 * rng.normal(size=2000)])
    vae = VAETransformer(2, decoder="autoregressive", max_iter=50, tol=1e3, random_state=0).fit(X)
    rows = vae.sample(2000, random_state=0, match_marginals=False)
    inside = np.abs(rows[:, 0]) < 2.0
    assert np.corrcoef(rows[inside, 0] ** 2, rows[inside, 1])[0, 1] > 0.99
    after = vae.sample(300, given=np.array([[1.5, np.nan]]), random_state=0, match_marginals=False)[:, 1]
    assert np.median(np.abs(after - 2.25)) < 0.15
    before = vae.sample(300, given=np.array([[np.nan, 2.25]]), random_state=0, match_marginals=False)[:, 0]
    assert np.median(np.abs(np.abs(before) - 1.5)) < 0.15
    assert 0.25 < (before > 0).mean() < 0.75


@pytest.mark.parametrize("decoder", ["independent", "autoregressive"])
def test_gaps_take_several_draws_of_a_row_unless_columns_see_each_other(decoder, rng):
    X = rng.normal(size=(80, 1)) + 0.3 * rng.normal(size=(80, 3))
    X[rng.random((80, 3)) < 0.2] = np.nan
    scores = [
        VAETransformer(decoder=decoder, n_training_draws=n_draws, **FAST).fit(X).score_samples(X)
        for n_draws in ("auto", 1)
    ]
    assert np.array_equal(*scores) is (decoder == "autoregressive")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"marginals": "auto"},
        {"n_networks": 2},
        {"likelihood": {"count": "poisson"}},
        {"n_training_draws": 3},
        {"latent_density": "learned", "score_method": "elbo"},
        {"score_method": "log_likelihood"},
        {"hidden_layer_sizes": ()},
    ],
    ids=str,
)
def test_every_verb_works_and_survives_a_file(table, options):
    vae = VAETransformer(decoder="autoregressive", **FAST | options).fit(table)
    twin = pickle.loads(pickle.dumps(vae))
    gaps = table.mask(np.random.default_rng(0).random(table.shape) < 0.2)
    for verb in ("score_samples", "transform", "log_likelihood"):
        for X in (table, gaps):
            found = getattr(vae, verb)(X)
            assert np.isfinite(found).all()
            np.testing.assert_array_equal(getattr(twin, verb)(X), found)
    pd.testing.assert_frame_equal(vae.sample(20, random_state=0), twin.sample(20, random_state=0))
    assert list(vae.reconstruct(table)) == list(table)
    assert not vae.impute(gaps).isna().any(axis=None)
    assert not vae.inverse_transform(vae.transform(table)).isna().any(axis=None)
    explained = vae.explain(gaps[:5])
    np.testing.assert_allclose(explained.contributions.sum(axis=1), vae.score_samples(gaps[:5]), rtol=1e-6)
    vae.partial_fit(table)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bits_do_not_depend_on_the_batch(rng, dtype):
    X = rng.normal(size=(300, 5)).astype(dtype)
    vae = VAETransformer(decoder="autoregressive", **FAST).fit(X)
    for rows in (X, np.where(rng.random(X.shape) < 0.2, np.nan, X).astype(dtype)):
        scores = vae.log_likelihood(rows)
        np.testing.assert_array_equal(vae.log_likelihood(rows[7:40]), scores[7:40])
        np.testing.assert_array_equal(vae.log_likelihood(rows[::-1])[::-1], scores)


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "decay"), [("independent", 1e-4), ("autoregressive", 0.1)])
def test_automatic_weight_decay(decoder, decay, table):
    options = {"decoder": decoder, "hidden_layer_sizes": (4,), "max_iter": 2, "tol": 100.0, "random_state": 0}
    automatic, named = (VAETransformer(**options, **alpha).fit(table) for alpha in ({}, {"alpha": decay}))
    np.testing.assert_array_equal(automatic.score_samples(table), named.score_samples(table))


@pytest.mark.parametrize("family", ["auto", "gaussian", "poisson"])
def test_numbers_alone_survive_a_file(rng, family):
    X = rng.poisson(3.0, size=(60, 3)).astype(float)
    vae = VAETransformer(2, decoder="autoregressive", likelihood=family, **FAST).fit(X)
    twin = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(twin.log_likelihood(X), vae.log_likelihood(X))


def test_missing_training_cells_and_weights(table):
    gaps = table.mask(np.random.default_rng(0).random(table.shape) < 0.2)
    vae = VAETransformer(decoder="autoregressive", **FAST).fit(gaps, sample_weight=np.linspace(1, 2, 300))
    assert np.isfinite(vae.score_samples(gaps)).all()
    assert not vae.impute(gaps).isna().any(axis=None)


def test_far_rows_score_low_and_finite(rng):
    vae = VAETransformer(decoder="autoregressive", **FAST).fit(rng.normal(size=(100, 3)))
    far = np.array([[1e30, 0.0, 0.0], [0.0, -1e200, 1e200]])
    scores = vae.score_samples(far)
    assert np.isfinite(scores).all()
    assert scores.max() < vae.score_samples(np.zeros((1, 3))).min() - 10.0


def test_what_does_not_go_together_is_told(rng):
    X = rng.normal(size=(60, 3))
    with pytest.raises(ValueError, match="standardize") as caught:
        VAETransformer(decoder="autoregressive", standardize=False, **FAST).fit(X)
    assert str(caught.value) == (
        "decoder='autoregressive' compares columns, which needs standardize=True, but it is False. Set it back, or "
        "decoder='independent'."
    )
    vae = VAETransformer(decoder="autoregressive", **FAST).fit(X)
    with pytest.raises(ValueError, match="Going on") as caught:
        vae.set_params(decoder="independent", warm_start=True).fit(X)
    assert str(caught.value) == (
        "Going on with a fitted model needs the columns and the network that it was fitted with, but 'decoder' was "
        "'autoregressive' and is now 'independent'. Set it back, or fit anew with warm_start=False."
    )
    assert math.isfinite(vae.score(X))


@pytest.mark.slow
def test_masses_of_whole_numbers_sum_to_one(rng):
    """Over all pairs of a grid in which the second number follows from the first."""
    first = rng.integers(0, 4, 600)
    X = np.column_stack([first, (first + rng.integers(0, 2, 600)) % 4]).astype(float)
    options = {"marginals": "auto", "n_draws": 500, "max_iter": 30, "tol": 1e3, "random_state": 0}
    vae = VAETransformer(decoder="autoregressive", **options).fit(X)
    pairs = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0)), axis=-1).reshape(-1, 2)
    mass = np.exp(vae.log_likelihood(pairs))
    assert mass.sum() == pytest.approx(1.0, abs=0.03)
