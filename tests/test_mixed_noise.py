"""Cells with several peaks: the mixture's laws against closed forms, and the estimator that rests on it."""

import numpy as np
import pytest
import torch
from scipy import stats

from skvae import VAETransformer
from skvae.likelihoods import Gaussian, Likelihood, Mixture, StudentT, make_likelihood

N_COLUMNS, N_MEMBERS = 2, 3
CASES = {
    f"{family.name} {scale}": Mixture(family(N_MEMBERS * N_COLUMNS, scale=scale, floor=0.0), N_MEMBERS)
    for family in (Gaussian, StudentT)
    for scale in ("constant", "shared", "dependent")
}
each_case = pytest.mark.parametrize("likelihood", [pytest.param(case, id=key) for key, case in CASES.items()])


@pytest.fixture
def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def closed_form(likelihood, outputs, free):
    """Weights, and SciPy's distributions, of shape (n_samples, n_members, n_columns)."""
    inner, n = likelihood.likelihood, N_MEMBERS * N_COLUMNS
    outputs, free = outputs.numpy(), free.numpy()
    location = outputs[:, :n] + free[-n:]
    logits = outputs[:, -n:].reshape(-1, N_MEMBERS, N_COLUMNS)
    shift = np.clip(outputs[:, n : 2 * n], -4, 4) if inner.scale_form == "dependent" else np.zeros_like(location)
    scale = np.exp(shift + free[: inner.n_scales])
    shapes = [part.reshape(-1, N_MEMBERS, N_COLUMNS) for part in (location, scale)]
    weight = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    if isinstance(inner, Gaussian):
        return weight, stats.norm(*shapes)
    df = 2 + np.log1p(np.exp(free[inner.n_scales : inner.n_free])).reshape(N_MEMBERS, N_COLUMNS)
    return weight, stats.t(df, *shapes)


def parameters_of(likelihood, draw, n_rows):
    start = torch.tensor(likelihood.initial_free(), dtype=torch.float64)
    return draw(n_rows, likelihood.n_outputs), start + 0.3 * draw(likelihood.n_free)


@each_case
def test_density_mass_and_moments_are_those_of_the_closed_form(likelihood, draw):
    x, (outputs, free) = draw(5, N_COLUMNS), parameters_of(likelihood, draw, 5)
    weight, members = closed_form(likelihood, outputs, free)
    density = (weight * members.pdf(x.numpy()[:, None])).sum(axis=1)
    np.testing.assert_allclose(likelihood.log_prob(x, outputs, free), np.log(density), rtol=1e-9)
    low, high = x - 0.7, x + 0.4
    mass = weight * (members.cdf(high.numpy()[:, None]) - members.cdf(low.numpy()[:, None]))
    np.testing.assert_allclose(likelihood.log_mass(low, high, outputs, free), np.log(mass.sum(axis=1)), rtol=1e-7)
    mean = (weight * members.mean()).sum(axis=1)
    np.testing.assert_allclose(likelihood.mean(outputs, free), mean, rtol=1e-9)
    variance = (weight * (members.var() + (members.mean() - mean[:, None]) ** 2)).sum(axis=1)
    np.testing.assert_allclose(likelihood.scale(outputs, free), np.sqrt(variance), rtol=1e-9)


@each_case
def test_draws_follow_the_closed_form(likelihood, draw, seed):
    outputs, free = parameters_of(likelihood, draw, 1)
    weight, members = closed_form(likelihood, outputs, free)
    rows = likelihood.sample(outputs.expand(2000, -1), free, torch.Generator().manual_seed(seed)).numpy()
    for column in range(N_COLUMNS):

        def cdf(x, column=column):
            return (weight[..., column] * members.cdf(x[:, None, None])[..., column]).sum(axis=1)

        assert stats.kstest(rows[:, column], cdf).pvalue > 1e-5


@pytest.mark.parametrize("lead", [(), (2,)], ids=["one", "networks"])
@pytest.mark.parametrize("masked", [False, True], ids=["complete", "masked"])
@each_case
def test_gradient_is_that_of_autograd(likelihood, masked, lead, draw):
    x = draw(*lead, 5, N_COLUMNS)
    outputs, free = draw(*lead, 5, likelihood.n_outputs), 0.5 * draw(*lead, likelihood.n_free)
    row_weight, mask = draw(*lead, 5).square(), draw(*lead, 5, N_COLUMNS) > 0 if masked else None
    x = torch.where(mask, x, torch.nan) if masked else x
    found = likelihood.loss_gradient(x, outputs, free, row_weight, mask)
    weight = row_weight.unsqueeze(-1) * (1.0 if mask is None else mask)
    for got, wanted in zip(
        found, Likelihood._loss_gradient(likelihood, x, outputs, free, weight, mask, None), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_it_starts_at_the_linear_model_with_members_apart():
    likelihood = Mixture(Gaussian(N_MEMBERS * N_COLUMNS, scale="dependent", floor=0.0), N_MEMBERS)
    mean, loadings = torch.tensor([1.0, -2.0]).double(), torch.tensor([[0.5, 0.0], [2.0, 1.0]]).double()
    bias, weight = likelihood.linear_outputs(mean, loadings)
    free = likelihood.linear_free(torch.tensor([4.0, 0.25]).double())
    z = torch.tensor([[0.3, -1.0], [2.0, 0.1]]).double()
    outputs = bias + z @ weight
    torch.testing.assert_close(likelihood.mean(outputs, free), mean + z @ loadings)
    torch.testing.assert_close(likelihood.scale(outputs, free), torch.tensor([[2.0, 0.5]] * 2).double())
    assert len(likelihood.likelihood.mean(free[-6:], free).unique()) == 5  # of both columns, the middle ones at 0


def test_expected_density_of_parted_peaks_is_minus_the_entropy(draw):
    """Of two Gaussians far apart: log 2 more than of one."""
    likelihood = Mixture(Gaussian(2, floor=0.0), 2)
    outputs = torch.tensor([[-100.0, 100.0, 0.0, 0.0]]).double()
    found = likelihood.expected_log_prob(outputs, torch.zeros(4).double())
    assert found.item() == pytest.approx(-np.log(2.0) - stats.norm.entropy())


def test_it_is_built_again_from_its_config():
    likelihood = CASES["student_t dependent"]
    assert make_likelihood(likelihood.config()) == likelihood
    assert likelihood.family == "student_t"


@pytest.mark.parametrize("n_members", [0, 4])
def test_members_must_divide_the_columns(n_members):
    with pytest.raises(ValueError, match="n_members") as caught:
        Mixture(StudentT(6), n_members)
    assert str(caught.value) == (
        f"n_members must divide the 6 columns of the members' likelihood, but {n_members} came. Make a likelihood of "
        "n_members columns for each column."
    )


@pytest.mark.slow
def test_a_column_with_two_peaks_is_learned(seed):
    """Where no other column and no code tells which: of the truth's nats little is lost, and no draw lies between."""
    rng = np.random.default_rng(seed)

    def rows(n):
        first = rng.normal(size=n)
        second = first + rng.choice([-2.0, 2.0], n) + 0.1 * rng.normal(size=n)
        return np.column_stack([first, second])

    options = {"latent_density": "normal", "max_iter": 40, "tol": 1e3, "random_state": 0}
    vae = VAETransformer(2, decoder="autoregressive", **options).fit(rows(2000))
    truth = -(1.0 + np.log(2.0 * np.pi)) - np.log(0.1) - np.log(2.0)
    assert vae.score(rows(1000)) > truth - 0.3
    drawn = vae.sample(1000, random_state=0, match_marginals=False)
    assert (np.abs(np.abs(drawn[:, 1] - drawn[:, 0]) - 2.0) < 0.5).mean() > 0.97


def test_a_family_that_is_named_has_one_peak():
    X = np.random.default_rng(0).normal(size=(60, 3))
    options = {"decoder": "autoregressive", "hidden_layer_sizes": (8,), "max_iter": 1, "random_state": 0}
    kinds = [VAETransformer(likelihood=name, **options).fit(X).module_.likelihood for name in ("auto", "student_t")]
    assert [kind.likelihood.name for kind in kinds] == ["mixture", "student_t"]
