"""Known answers: linear models against PCA and factor analysis, bounds against exact densities, units, gradients."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA, FactorAnalysis

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data import sample
from skvae._densities.bounds import gaussian_kl, importance_weighted_bound
from skvae._model import preparing
from skvae._networks.mlp import SkipMLP
from skvae._networks.modules import Batch, VAEModule
from skvae._networks.starts import LinearStart
from skvae._training.engine import Engine
from skvae._training.steps import STEPS
from skvae.likelihoods import Gaussian

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_FEATURES, N_CAUSES = 6, 2
UNITS = np.array([1.0, 100.0, 0.01, 1.0, 5.0, 0.3])


@pytest.fixture
def rows(seed):
    """Training and fresh rows of a linear-Gaussian model in mixed units; the noise has one scale in scaled units."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(N_CAUSES, N_FEATURES))
    loadings /= np.sqrt((loadings**2).sum(axis=0))
    X = rng.normal(size=(1500, N_CAUSES)) @ loadings + 0.5 * rng.normal(size=(1500, N_FEATURES))
    return X[:1000], X[1000:]


def linear_vae(**parameters):
    """No hidden layer, a noise scale for each column, all rows train."""
    small = {"hidden_layer_sizes": (), "calibration_fraction": 0.0, "alpha": 0.0, "random_state": 0}
    gaussian = {"likelihood": "gaussian", "scale": "constant", "latent_density": "normal", "dropout": 0.0}
    return VAETransformer(N_CAUSES, **(small | gaussian | parameters))


def linear_autoencoder(**parameters):
    small = {"hidden_layer_sizes": (), "calibration_fraction": 0.0, "alpha": 0.0, "noise": 0.0, "random_state": 0}
    return AutoencoderTransformer(N_CAUSES, **(small | parameters))


@pytest.fixture
def start_anywhere(monkeypatch):
    """Start training at random weights, so that what is reached is the training's own doing."""

    def somewhere(x, n_components, random_state, **_):
        n_features = x.shape[1]
        return LinearStart(
            0.3 * random_state.standard_normal((n_features, n_components)),
            0.3 * random_state.standard_normal((n_components, n_features)),
            np.zeros(n_features),
            np.zeros(n_components),
            np.ones(n_features),
        )

    monkeypatch.setattr(preparing, "pca_start", somewhere)
    monkeypatch.setattr(preparing, "factor_analysis_start", somewhere)


# --- A linear VAE is probabilistic PCA, or factor analysis where columns have noise scales of their own ---------------


@pytest.mark.parametrize("max_iter", [1, 60])
def test_linear_vae_reaches_factor_analysis(rows, max_iter):
    """Within 0.05 nats per row; also after training, which must not lose what the start has.

    Over six seeds the means differ by 0.016 and 0.008 at most after 1 and 60 epochs, single rows by 0.06 on average.
    """
    X, fresh = (part * UNITS for part in rows)
    vae, exact = linear_vae(max_iter=max_iter).fit(X), FactorAnalysis(N_CAUSES, tol=1e-6).fit(X / UNITS)
    for part in (X, fresh):
        expected = exact.score_samples(part / UNITS) - np.log(UNITS).sum()
        assert abs(vae.score(part) - expected.mean()) < 0.05
        assert np.abs(vae.log_likelihood(part) - expected).mean() < 0.1


def test_linear_vae_reaches_probabilistic_pca(rows):
    X, fresh = rows
    vae, exact = linear_vae(max_iter=60, standardize=False).fit(X), PCA(N_CAUSES).fit(X)
    assert abs(vae.score(X) - exact.score(X)) < 0.05
    assert abs(vae.score(fresh) - exact.score(fresh)) < 0.05


def test_linear_vae_is_trained_to_factor_analysis_from_anywhere(rows, start_anywhere):
    X, fresh = rows
    """Over four seeds the means differ by 0.02 at most."""
    far = linear_vae(max_iter=1, learning_rate_init=1e-9).fit(X)
    vae, exact = linear_vae(max_iter=150, learning_rate_init=0.02).fit(X), FactorAnalysis(N_CAUSES).fit(X)
    assert far.score(fresh) < exact.score(fresh) - 1.0
    assert abs(vae.score(X) - exact.score(X)) < 0.05
    assert abs(vae.score(fresh) - exact.score(fresh)) < 0.05


def test_linear_vae_decodes_as_factor_analysis_does(rows):
    X, fresh = rows
    vae, exact = linear_vae(max_iter=1).fit(X), FactorAnalysis(N_CAUSES, tol=1e-6).fit(X)
    expected = exact.transform(fresh) @ exact.components_ + exact.mean_
    assert np.abs(vae.reconstruct(fresh) - expected).mean() < 0.05
    np.testing.assert_allclose(vae.noise_scale_, np.sqrt(exact.noise_variance_), rtol=0.1)


# --- A linear autoencoder spans PCA's subspace ----------------------------------------------------------------------


def decoder_basis(model, n_features):
    """Directions, in scaled units, along which the decoder moves a row."""
    corners = model.inverse_transform(np.vstack([np.zeros(N_CAUSES), np.eye(N_CAUSES)]))
    return ((corners[1:] - corners[0]) / model.scale_).T


def assert_spans_principal_subspace(model, X, fresh, *, largest_angle, largest_excess):
    scaled, fresh_scaled = ((part - X.mean(axis=0)) / X.std(axis=0) for part in (X, fresh))
    exact = PCA(N_CAUSES).fit(scaled)
    angles = subspace_angles(decoder_basis(model, X.shape[1]), exact.components_.T)
    assert angles.max() < largest_angle
    own = (((model.reconstruct(fresh) - fresh) / X.std(axis=0)) ** 2).mean()
    best = ((exact.inverse_transform(exact.transform(fresh_scaled)) - fresh_scaled) ** 2).mean()
    assert abs(own / best - 1.0) < largest_excess


def test_linear_autoencoder_spans_principal_subspace(rows):
    X, fresh = (part * UNITS for part in rows)
    model = linear_autoencoder(max_iter=20).fit(X)
    # 3e-8 and 5e-9 over six seeds: training finds nothing better and keeps the start, in float32.
    assert_spans_principal_subspace(model, X, fresh, largest_angle=1e-5, largest_excess=1e-6)


def test_linear_autoencoder_finds_principal_subspace_from_anywhere(rows, start_anywhere):
    X, fresh = (part * UNITS for part in rows)
    model = linear_autoencoder(max_iter=150, learning_rate_init=0.01).fit(X)
    # 2e-3 and 2e-4 over four seeds.
    assert_spans_principal_subspace(model, X, fresh, largest_angle=0.01, largest_excess=1e-3)


# --- Bounds ---------------------------------------------------------------------------------------------------------


def exact_log_density(vae, X):
    """log p(x) of a linear model: N(b, W'W + noise), read off through the public interface."""
    corners = vae.inverse_transform(np.vstack([np.zeros(N_CAUSES), np.eye(N_CAUSES)]))
    basis = corners[1:] - corners[0]
    return multivariate_normal(corners[0], basis.T @ basis + np.diag(vae.noise_scale_**2)).logpdf(X)


def test_bounds_are_ordered_and_tighten(rows, seed):
    """Mean ELBO <= IW-4 <= IW-16 <= IW-64 <= log p(x). beta = 2 spoils the encoder, so that there is a gap to close."""
    X, fresh = rows
    vae = linear_vae(max_iter=60, beta=2.0, learning_rate_init=0.02).fit(X)
    x = torch.from_numpy((fresh - vae.mean_) / vae.scale_)
    noise = torch.randn(64, len(x), N_CAUSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        log_weights = vae._fitted.features.converted(torch.float64).log_weights(x, x, noise)
    bounds = [
        importance_weighted_bound(log_weights.view(n_draws, -1)).mean() - np.log(vae.scale_).sum()
        for n_draws in (1, 4, 16, 64)
    ]
    exact = exact_log_density(vae, fresh).mean()
    # 0.01: over the seeds 0 to 2 the draws' own noise lifts the last bound by 0.0056 at most.
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3] < exact + 0.01
    assert bounds[0] < exact - 0.005
    # The fixed draws of the scores are the same for all rows, hence the tolerance.
    assert abs(vae.set_params(n_draws=256).score(fresh) - exact) < 0.05


@pytest.mark.slow
def test_many_draws_reach_the_exact_density(rows):
    X, fresh = rows
    vae = linear_vae(max_iter=60, beta=4.0, n_draws=2000).fit(X)
    exact = exact_log_density(vae, fresh[:100])
    # 0.05: Monte Carlo error of 2,000 draws, the same for all rows.
    np.testing.assert_allclose(vae.log_likelihood(fresh[:100]).mean(), exact.mean(), atol=0.05)


def test_exact_posterior_closes_the_gap(rows):
    """At factor analysis q is the true posterior: one draw already gives log p(x), whatever the draw."""
    X, fresh = rows
    vae = linear_vae(max_iter=1, learning_rate_init=1e-9, n_draws=1).fit(X)
    gap = np.abs(vae.log_likelihood(fresh) - exact_log_density(vae, fresh))
    # 0.02 and 0.07: factor analysis stops at its tolerance, and the floor adds 0.01 to each noise variance.
    assert gap.mean() < 0.05
    assert gap.max() < 0.2


def test_kl_equals_torch_distributions(seed):
    generator = torch.Generator().manual_seed(seed)
    mean, log_variance = torch.randn(2, 50, 4, generator=generator, dtype=torch.float64)
    posterior = torch.distributions.Normal(mean, torch.exp(0.5 * log_variance))
    prior = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    expected = torch.distributions.kl_divergence(posterior, prior).sum(dim=-1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance), expected, rtol=1e-12, atol=1e-12)


# --- Units ----------------------------------------------------------------------------------------------------------

IN_NATS = {
    "autoencoder residual": (AutoencoderTransformer, "residual"),
    "autoencoder joint": (AutoencoderTransformer, "joint"),
    "vae log_likelihood": (VAETransformer, "log_likelihood"),
    "vae elbo": (VAETransformer, "elbo"),
    "vae residual": (VAETransformer, "residual"),
    "vae joint": (VAETransformer, "joint"),
}
SCALE_FREE = {
    f"{name} {method}": (kind, method)
    for name, kind in (("autoencoder", AutoencoderTransformer), ("vae", VAETransformer))
    for method in ("neighbor", "reconstruction")
}


@pytest.fixture
def rows_in_their_order(monkeypatch):
    """Train on the rows as they come: their canonical order follows their content, which another unit changes."""
    monkeypatch.setattr(sample, "canonical_rows", lambda X, weight: (np.arange(len(X)), weight))


def in_two_units(kind, method, rows, factor):
    """The same model fitted to a table and to the table with column 1 in another unit."""
    X, fresh = rows
    unit = np.where(np.arange(N_FEATURES) == 1, factor, 1.0)
    own = {"latent_density": 2} if kind is VAETransformer else {}  # of any mixture the law holds
    fits = [
        kind(2, hidden_layer_sizes=(8,), max_iter=3, score_method=method, random_state=0, **own).fit(X * u)
        for u in (1.0, unit)
    ]
    return fits, (fresh, fresh * unit)


@pytest.mark.parametrize("factor", [2.0**10, 2.0**-10])
@pytest.mark.parametrize("name", IN_NATS)
def test_rescaled_column_shifts_log_density_by_its_log(rows, rows_in_their_order, name, factor):
    """By powers of two, which rounding does not see."""
    (first, second), (fresh, rescaled) = in_two_units(*IN_NATS[name], rows, factor)
    shift = -np.log(factor)
    np.testing.assert_allclose(second.score_samples(rescaled), first.score_samples(fresh) + shift, rtol=1e-9)
    np.testing.assert_allclose(second.score(rescaled), first.score(fresh) + shift, rtol=1e-9)
    np.testing.assert_allclose(second.offset_, first.offset_ + shift, rtol=1e-9)
    np.testing.assert_array_equal(second.predict(rescaled), first.predict(fresh))


@pytest.mark.parametrize("name", SCALE_FREE)
def test_rescaled_column_leaves_distances_alone(rows, rows_in_their_order, name):
    (first, second), (fresh, rescaled) = in_two_units(*SCALE_FREE[name], rows, 2.0**10)
    np.testing.assert_allclose(second.score_samples(rescaled), first.score_samples(fresh), rtol=1e-9)


@pytest.mark.parametrize("kind", [linear_autoencoder, linear_vae])
def test_standardizing_does_not_move_the_density(rows, kind):
    """A linear model finds the same density with or without it: both scores are in the units of X."""
    X, fresh = rows
    scores = [kind(max_iter=40, standardize=standardize).fit(X).score(fresh) for standardize in (True, False)]
    assert abs(scores[0] - scores[1]) < 0.05


# --- Gradients ------------------------------------------------------------------------------------------------------


@pytest.fixture
def linear_module(seed):
    """A linear VAE module at random parameters, and rows for it."""
    generator = torch.Generator().manual_seed(seed)
    module = VAEModule(
        SkipMLP(3, 4, (), "identity"), SkipMLP(2, 3, (), "identity"), Gaussian(3, scale="constant", floor=0.1)
    )
    values = 0.5 * torch.randn(module.flat.shape, generator=generator, dtype=torch.float64)
    module.flat = torch.nn.Parameter(values)
    return module, torch.randn(5, 3, generator=generator, dtype=torch.float64), generator


def test_step_gradient_equals_finite_differences(linear_module):
    """Of the reparametrised loss with its noise held fixed; central differences in float64."""
    module, x, generator = linear_module
    noise = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    batch = Batch(x, x, None, None, noise)
    with torch.no_grad():
        engine = Engine(module, STEPS)
        engine.step(5)(batch, 1.0)
        gradient = engine.unpack(engine.gradient)
        differences = torch.empty_like(gradient)
        for index in range(len(gradient)):
            losses = []
            for sign in (1.0, -1.0):
                module.flat[index] += sign * 1e-6
                losses.append(module.loss(batch).clone())
                module.flat[index] -= sign * 1e-6
            differences[index] = (losses[0] - losses[1]) / 2e-6
    # 1e-9 relative: the loss is near 1e2, so its differences carry 1e2 * 1e-16 / 1e-6 = 1e-8.
    torch.testing.assert_close(gradient, differences, rtol=1e-6, atol=1e-6)


def test_mean_gradient_equals_that_of_the_closed_form(linear_module):
    """Over many draws the reparametrised gradient tends to that of the ELBO in closed form, known for linear models."""
    module, x, generator = linear_module
    mean, log_variance = module.posterior(x)
    weight = module.decode(torch.eye(2).double()) - module.decode(torch.zeros(1, 2).double())
    variance = module.likelihood.scale(module.decode(mean), module.parts()[2]).square()
    log_prob = module.likelihood.log_prob(x, module.decode(mean), module.parts()[2])
    spread = (log_variance.exp() @ weight.square()) / variance
    elbo = (log_prob - 0.5 * spread).sum(dim=-1) - gaussian_kl(mean, log_variance)
    (expected,) = torch.autograd.grad(-elbo.sum(), module.flat)

    n_draws, gradients = 1000, []
    with torch.no_grad():
        engine = Engine(module, STEPS)
        for _ in range(n_draws):
            noise = torch.randn(5, 2, generator=generator, dtype=torch.float64)
            engine.step(5)(Batch(x, x, None, None, noise), 1.0)
            gradients.append(engine.unpack(engine.gradient))
    draws = torch.stack(gradients)
    error = draws.std(dim=0) / n_draws**0.5
    assert ((draws.mean(dim=0) - expected).abs() < 5 * error + 1e-9).all()
