"""Noise scales by rows that did not train: right on known noise, from no other rows, and part of the model."""

import numpy as np
import pytest
import torch
from rows import correlated

from skvae import VAETransformer
from skvae._model.noise_scales import with_noise_of
from skvae._training.rows import Rows
from skvae.likelihoods import Autoregressive, Bernoulli, ColumnGroups, Gaussian, Mixture, StudentT

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def fitted(X, **parameters):
    """With one Gaussian as p(z): to choose among mixtures takes longer than the rest of so short a fit."""
    small = {"n_components": 2, "hidden_layer_sizes": (8,), "latent_density": 1, "random_state": 0}
    return VAETransformer(**(small | parameters)).fit(X)


def scales(model, x):
    """Noise scale of each cell at the posterior means of scaled rows."""
    module = model.features
    with torch.no_grad():
        return module.likelihood.scale(module.decode(module.encode(x)), module.free())


FAMILIES = {
    "constant": StudentT(3, scale="constant", floor=0.0),
    "dependent": Gaussian(3, scale="dependent", floor=0.0),
    "groups": ColumnGroups([Gaussian(2, floor=0.0), Bernoulli(1)], [[0, 2], [1]]),
    "autoregressive": Autoregressive(Gaussian(3, scale="dependent", floor=0.0), [4]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_scale_of_each_column_is_multiplied(name, rng):
    likelihood = FAMILIES[name]
    free = torch.tensor(likelihood.initial_free()).double()
    outputs = torch.from_numpy(rng.normal(size=(5, likelihood.n_outputs)))
    factor = torch.tensor([0.5, 2.0, 3.0]).double()
    before, after = (likelihood.scale(outputs, f) for f in (free, likelihood.with_noise(free, factor.log())))
    has = ~before.isnan()
    torch.testing.assert_close(after[has], (before * factor)[has])


def test_members_of_a_mixture_keep_their_places(rng):
    likelihood = Mixture(Gaussian(4, floor=0.0), 2)
    free = torch.tensor(likelihood.initial_free()).double()
    changed = likelihood.with_noise(free, torch.tensor([0.0, 1.0]).double())
    assert (changed - free).tolist() == [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("likelihood", "n"), [(Gaussian(3, scale="unit"), 0), (Bernoulli(3), 0)])
def test_where_no_scale_is_learned_nothing_changes(likelihood, n):
    free = torch.tensor(likelihood.initial_free())
    assert likelihood.with_noise(free, torch.ones(3)).numel() == n


def test_a_shared_scale_is_multiplied_by_the_mean_factor():
    changed = Gaussian(3, scale="shared").with_noise(torch.zeros(1), torch.tensor([0.0, 1.0, 0.5]))
    assert changed.tolist() == [0.5]


@pytest.mark.filterwarnings("ignore:No component of the latent space")
def test_scales_become_those_of_unseen_rows(rng):
    """Training rows of noise 1; unseen ones of three times that in the second column. Codes tell next to nothing."""
    X = rng.normal(size=(400, 3))
    model = fitted(X, likelihood="gaussian", scale="constant", calibration_fraction=0, beta=20.0)._fitted
    unseen = rng.normal(size=(4000, 3)) * [1.0, 3.0, 1.0]
    later = with_noise_of(model, Rows(torch.from_numpy(unseen).float()))
    ratio = (scales(later, torch.zeros(1, 3)) / scales(model, torch.zeros(1, 3)))[0]
    # So many rows outweigh the ridge; a standard deviation of 4,000 values has an error of 1.1 %, the first one of 3.5.
    np.testing.assert_allclose(ratio, [1.0, 3.0, 1.0], rtol=0.12)


@pytest.mark.parametrize("decoder", ["independent", "autoregressive"])
@pytest.mark.parametrize("n_networks", [1, 2])
def test_unseen_rows_are_likelier_afterwards(decoder, n_networks, rng):
    X = correlated(rng, 120)
    X[rng.random(X.shape) < 0.02] = np.nan
    estimator = fitted(X, decoder=decoder, n_networks=n_networks, calibration_fraction=0, max_iter=30, n_draws=300)
    before = estimator.score(rows := 2.0 * correlated(rng, 200))
    x = estimator._fitted.columns.scaler(torch.float64, torch.device("cpu"))(torch.from_numpy(rows))
    plain = estimator._fitted
    flat = plain.module.flat.clone()
    estimator._fitted = with_noise_of(plain, Rows(x))
    assert estimator.score(rows) > before + 0.1
    assert torch.equal(plain.module.flat, flat)  # the model before stays as it was
    assert len(estimator._fitted.members) == n_networks


def test_rows_count_by_the_shares_of_their_weights(rng):
    estimator = fitted(correlated(rng, 60), max_iter=5, calibration_fraction=0)
    x = torch.from_numpy(rng.normal(size=(6, 4)))
    once = with_noise_of(estimator._fitted, Rows(x, torch.tensor([2.0] * 6)))
    plain = with_noise_of(estimator._fitted, Rows(x))
    assert torch.equal(once.module.flat, plain.module.flat)  # only the shares of the weights count
    first = with_noise_of(estimator._fitted, Rows(x, torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])))
    assert not torch.equal(first.module.flat, plain.module.flat)


@pytest.mark.parametrize("parameters", [{"calibration_fraction": 0}, {"contamination": 0.1}, {"likelihood": "poisson"}])
def test_without_unseen_rows_or_scales_nothing_changes(parameters, rng, monkeypatch):
    X = rng.poisson(3.0, size=(80, 3)).astype(float)
    flat = fitted(X, max_iter=3, **parameters)._fitted.module.flat
    monkeypatch.setattr("skvae._model.finishing.with_noise_of", lambda model, _: model)
    assert torch.equal(flat, fitted(X, max_iter=3, **parameters)._fitted.module.flat)


def test_rows_that_validate_set_the_scales_where_none_is_held_out(rng, monkeypatch):
    X = correlated(rng, 120)
    seen = []
    monkeypatch.setattr("skvae._model.finishing.with_noise_of", lambda model, unseen: seen.append(unseen) or model)
    fitted(X, max_iter=3, calibration_fraction=0, early_stopping=True)
    fitted(X, max_iter=3, calibration_fraction=0.25, early_stopping=True)
    fitted(X, max_iter=3, calibration_fraction="cross_fit")
    assert [None if rows is None else len(rows.x) for rows in seen][:2] == [12, 39 + 8]
    assert set(seen[2:]) == {None}


def test_partial_fit_takes_rows_that_are_held_out_of_all_chunks(rng, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "skvae._model.finishing.with_noise_of", lambda model, unseen: seen.append(len(unseen.x)) or model
    )
    estimator = VAETransformer(n_components=2, hidden_layer_sizes=(8,), random_state=0)
    for _ in range(2):
        estimator.partial_fit(correlated(rng, 100))
    assert seen[1] == 2 * seen[0] == 38


def test_scores_that_place_the_threshold_come_from_noise_of_other_rows(rng, monkeypatch):
    """Each row that is held out is in one fold, and the scales of that fold have not learned from it."""
    whole, taken = [], []
    for place, calls in {"finishing": whole, "folds": taken}.items():
        called = lambda *given, calls=calls: calls.append(given) or with_noise_of(*given)  # noqa: E731
        monkeypatch.setattr(f"skvae._model.{place}.with_noise_of", called)
    estimator = fitted(correlated(rng, 120), max_iter=5, score_method="log_likelihood")
    (plain, unseen), n_held = whole[0], len(estimator._fitted.calibration.scores)
    assert n_held == len(unseen.x) == 19
    every = [set(map(tuple, unseen.x.tolist())) - set(map(tuple, rows.x.tolist())) for _, rows in taken]
    assert sum(map(len, every)) == len(set.union(*every)) == n_held
    for model, _ in taken:  # they start where the training ended
        assert torch.equal(model.module.flat, plain.module.flat)


@pytest.mark.slow
def test_fresh_rows_are_flagged_as_often_as_asked_for():
    """By likelihood, 60 fits to 60 rows of six columns: 5.0 % of fresh rows; the standard error is near 0.6 %."""
    shares = []
    for seed in range(60):
        own = np.random.default_rng(seed)
        X = correlated(own, 60 + 300)
        detector = fitted(X[:60], score_method="log_likelihood", max_iter=10)
        shares.append((detector.predict(X[60:]) < 0).mean())
    assert np.mean(shares) < 0.05 + 3 * np.std(shares) / np.sqrt(60)


@pytest.mark.slow
def test_density_integrates_to_one(rng):
    X = np.column_stack([rng.normal(size=80), rng.exponential(size=80)])
    X[:, 1] += 2.0 * X[:, 0]
    estimator = VAETransformer(n_components=1, hidden_layer_sizes=(8,), max_iter=20, n_draws=300, random_state=0).fit(X)
    axes = [np.linspace(-30.0, 30.0, 200)] * 2
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    density = np.exp(estimator.log_likelihood(grid)).reshape(200, 200)
    assert np.trapezoid(np.trapezoid(density, axes[0]), axes[1]) == pytest.approx(1.0, abs=0.03)


def test_same_rows_in_another_order_give_the_same_bits(rng):
    X = correlated(rng, 90)
    first, second = (fitted(rows, max_iter=3, n_networks=2)._fitted.module.flat for rows in (X, X[::-1]))
    assert torch.equal(first, second)


def test_unlikely_values_among_unseen_rows_leave_the_model_finite(rng):
    estimator = fitted(correlated(rng, 60), max_iter=3, likelihood="gaussian", calibration_fraction=0)
    x = torch.tensor([[1e30, 0.0, torch.nan, 0.0], [torch.nan] * 4]).double()
    later = with_noise_of(estimator._fitted, Rows(x))
    assert later.module.flat.isfinite().all()
