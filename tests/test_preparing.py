"""What happens between validated rows and a trained module, and after it: the split of the rows, scores, states."""

import copy
import pickle
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data.columns import Columns, Schema
from skvae._data.sample import Sample
from skvae._densities.gaussian import GaussianDensity
from skvae._densities.neighbors import NeighborDistance
from skvae._densities.residuals import JointDensity
from skvae._model.comparison import compare, compare_many
from skvae._model.design import Design
from skvae._model.finishing import finish
from skvae._model.fitted import Data, Prepared
from skvae._model.member import Member
from skvae._model.persistence import from_state, to_state
from skvae._model.preparing import prepare
from skvae._model.scores import SCORES, Scoring
from skvae._model.thresholds import Calibration
from skvae._support.numerics import column_range
from skvae._training.rows import Rows, Settings
from skvae.likelihoods import Bernoulli, Gaussian, StudentT

ESTIMATORS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}
SETTINGS = Settings(batch_size=8, n_epochs=2, learning_rate=0.01, noise=(0.1, 0.2))
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)


# --- The split of the rows ------------------------------------------------------------------------------------------


def prepared(estimator, X, *, rows=None, weight=None, random_state=0):
    """Run `prepare` on raw rows in a given order, with everything but the estimator fixed."""
    rows = np.arange(len(X)) if rows is None else rows
    names = tuple(f"c{j}" for j in range(X.shape[1]))
    sample = Sample(torch.as_tensor(X), None, names, None, None, True, rows, weight, 1)
    result = prepare(estimator._plan(), sample, None, np.random.RandomState(random_state))
    return result, result.data


def decoded(fitted, x):
    return fitted.columns.decode(x.double()).numpy()


@pytest.mark.parametrize(
    ("n_rows", "parameters", "n_epochs"),
    [
        (20, {}, 400),  # no more than 400 steps of one batch
        (50, {}, 200),  # 10,000 noisy rows
        (250, {}, 100),  # a hundred passes
        (600, {}, 100),  # of three batches
        (1200, {}, 80),  # 400 steps of five
        (60, {"contamination": 0.1}, 33),
        (250, {"contamination": 0.1}, 56),  # a step for every four of the 225 rows that train
        (500, {"contamination": 0.1}, 50),  # 100 steps of two batches
        (250, {"score_method": "neighbor"}, 100),
        (250, {"score_method": "residual"}, 400),
        (250, {"noise": 0.0}, 50),  # 400 steps of eight batches of 32
    ],
)
def test_autoencoder_passes_over_few_rows_by_hand(n_rows, parameters, n_epochs, rng):
    estimator = AutoencoderTransformer(calibration_fraction=0.0, **parameters)
    fitted, _ = prepared(estimator, rng.standard_normal((n_rows, 3)))
    assert fitted.settings.n_epochs == n_epochs


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "n_epochs"),
    [(800, 200, 50), (799, 200, 100), (800, 199, 100), (1_500, 200, 50), (2_000, 200, 50), (3_000, 200, 34)],
)
def test_autoencoder_passes_over_wide_rows_by_hand(n_rows, n_columns, n_epochs, rng):
    """Half as many where rows and columns are many; of more than 2,000 rows no more than 400 steps."""
    X = rng.standard_normal((n_rows, n_columns))
    fitted, _ = prepared(AutoencoderTransformer(calibration_fraction=0.0), X)
    assert fitted.settings.n_epochs == n_epochs


def test_autoencoder_of_rows_with_gaps_takes_all_steps(rng):
    X = rng.standard_normal((250, 3))
    X[::2, 0] = np.nan
    fitted, _ = prepared(AutoencoderTransformer(calibration_fraction=0.0), X)
    assert fitted.settings.n_epochs == 400


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "parameters", "n_epochs"),
    [
        (128, 5, {}, 100),  # a hundred passes of two batches
        (999, 5, {}, 100),  # of sixteen
        (1000, 5, {}, 200),
        (2000, 5, {}, 188),  # 6,000 steps of 32 batches
        (10_000, 5, {}, 76),  # of 79
        (2000, 200, {}, 94),  # 3,000 steps: 600,000 cells of a row
        (1000, 800, {}, 94),  # no fewer than 1,500
        (2000, 3, {}, 47),  # 1,500 under a p(z) that is learned
        (2000, 5, {"decoder": "autoregressive"}, 94),  # 3,000
    ],
)
def test_variational_autoencoder_steps_by_hand(n_rows, n_columns, parameters, n_epochs, rng):
    estimator = VAETransformer(calibration_fraction=0.0, **parameters)
    fitted, _ = prepared(estimator, rng.standard_normal((n_rows, n_columns)))
    assert fitted.settings.n_epochs == n_epochs


@pytest.mark.parametrize(("share", "n_epochs", "floor"), [(0.0, 188, 0.01), (0.03, 188, 0.03), (0.2, 94, 0.03)])
def test_steps_and_least_noise_follow_the_share_of_gaps(share, n_epochs, floor, rng):
    X = rng.standard_normal((2000, 5))
    X[rng.random(X.shape) < share] = np.nan
    fitted, _ = prepared(VAETransformer(calibration_fraction=0.0), X)
    assert fitted.settings.n_epochs == n_epochs
    config = fitted.module.likelihood.config()
    assert config.get("likelihoods", [config])[0]["floor"] == floor


@each_estimator
def test_rows_are_split_and_none_is_lost(estimator, rng):
    """Calibration, validation and training rows are different rows; statistics come from those that train."""
    X = rng.standard_normal((200, 3)) * [1.0, 10.0, 0.1] + 5.0
    fitted, data = prepared(estimator(early_stopping=True, validation_fraction=0.25, calibration_fraction=0.2), X)
    training, validation = decoded(fitted, data.training.x), decoded(fitted, data.validation.x)
    assert (len(data.calibration_rows), len(validation), len(training)) == (39, 40, 121)
    together = np.concatenate([data.calibration_rows.numpy(), validation, training])
    np.testing.assert_allclose(np.sort(together, axis=0), np.sort(X, axis=0), atol=1e-5)
    np.testing.assert_array_equal(data.calibration_rows.numpy(), X[:39])
    np.testing.assert_allclose(fitted.columns.mean, X[79:].mean(axis=0))
    np.testing.assert_allclose(fitted.columns.scale, X[79:].std(axis=0))
    np.testing.assert_allclose(training, X[79:], rtol=1e-4)
    assert data.n_held_out == 39


@each_estimator
def test_weights_go_with_their_rows(estimator, rng):
    X, weight = rng.standard_normal((100, 2)), rng.exponential(size=100)
    rows = rng.permutation(100)
    fitted, data = prepared(estimator(early_stopping=True, validation_fraction=0.25), X, rows=rows, weight=weight)
    n_held, n_validation = len(data.calibration_rows), len(data.validation.x)
    for part, first in ((data.validation, n_held), (data.training, n_held + n_validation)):
        here = slice(first, first + len(part.x))
        np.testing.assert_allclose(decoded(fitted, part.x), X[rows[here]], atol=1e-5)
        np.testing.assert_allclose(part.weight.numpy(), weight[here], rtol=1e-6)
    assert n_held + n_validation + len(data.training.x) == 100


@each_estimator
@pytest.mark.parametrize("n_samples", [1, 2, 3, 5])
@pytest.mark.parametrize("validation_fraction", [0.1, 0.5, 0.99])
def test_a_row_is_left_to_train(estimator, n_samples, validation_fraction, rng):
    """Also where validation and calibration would take them all."""
    X = rng.standard_normal((n_samples, 2))
    _, data = prepared(estimator(early_stopping=True, validation_fraction=validation_fraction), X)
    assert len(data.training.x) >= 1


@each_estimator
def test_contamination_trims_and_scales_anew(estimator, rng):
    """Ten planted rows neither train nor count in means and scales; nothing is held out."""
    X = rng.standard_normal((200, 3))
    X[::20] = 50.0
    fitted, data = prepared(estimator(contamination=0.05), X)
    clean = np.delete(X, np.arange(0, 200, 20), axis=0)
    assert data.n_held_out == 0
    np.testing.assert_allclose(fitted.columns.mean, clean.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(decoded(fitted, data.training.x), clean, atol=1e-5)


@each_estimator
def test_counts_are_not_scaled(estimator, rng):
    X = rng.integers(0, 9, (100, 2)).astype(float)
    fitted, data = prepared(estimator(likelihood="poisson"), X)
    np.testing.assert_array_equal(fitted.columns.scale, [1.0, 1.0])
    np.testing.assert_array_equal(fitted.columns.mean, [0.0, 0.0])
    np.testing.assert_array_equal(data.training.x.numpy(), X[-len(data.training.x) :])


def test_domain_is_checked_before_anything_is_fitted():
    X = np.array([[0.0, 1.0], [1.0, 3.0]])
    message = (
        "Column 'c1' must lie in [0, 1] for likelihood 'bernoulli', but row 1 holds 3.0. "
        "Use 'gaussian', or encode the column first."
    )
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        prepared(VAETransformer(likelihood="bernoulli"), X)


# --- A fitted model -------------------------------------------------------------------------------------------------


PLANS = {"autoencoder": AutoencoderTransformer(), "vae": VAETransformer()}


def make_prepared(kind, method, rng, *, n_networks=2, n_samples=90):
    """A model of random weights, and the raw and the scaled rows that its densities will be fitted to."""
    X = rng.standard_normal((n_samples, 3)) * [1.0, 5.0, 0.2] + 3.0
    columns = Columns.fit(torch.as_tensor(X), torch.arange(n_samples), Schema(("a", "b", "c")))
    design = Design(kind, 2, (4,), "tanh", Gaussian(3), n_networks, SETTINGS)
    module = design.module(3)
    module.flat.data.copy_(torch.as_tensor(0.3 * rng.standard_normal(len(module.flat))))
    x = columns.gather(torch.as_tensor(X), torch.arange(n_samples), torch.device("cpu"))
    data = Data(Rows(x), None, torch.arange(n_samples), torch.as_tensor(X[:0]), column_range(torch.as_tensor(X)))
    return Prepared(columns, design, module, [1, 2][:n_networks], 5, method, None, data), X, x.double()


def finished(prepared, *, rows=None, **parameters):
    """`finish` with the plan of an estimator, on other rows if they are given."""
    if rows is not None:
        prepared = replace(prepared, data=replace(prepared.data, training=rows))
    plan = PLANS[prepared.design.model].set_params(**({"contamination": "auto"} | parameters))._plan()
    return finish(plan, prepared, np.random.RandomState(0))


def make_fitted(kind, method, rng, *, n_networks=2, n_samples=90):
    prepared, X, x = make_prepared(kind, method, rng, n_networks=n_networks, n_samples=n_samples)
    return finished(prepared), X, x


@pytest.mark.parametrize("kind", ["autoencoder", "vae"])
@pytest.mark.parametrize("method", ["reconstruction", "residual", "joint", "neighbor"])
def test_scores_by_their_definition(kind, method, rng):
    """Of each network, by the density of its own residuals."""
    n_networks = 1 if method == "joint" else 2  # the mixture of a second one goes on with the random state
    fitted, _, x = make_fitted(kind, method, rng, n_networks=n_networks)
    assert len(fitted.members) == n_networks
    for index, member in enumerate(fitted.members):
        module = fitted.module.converted(torch.float64).network(index)
        with torch.no_grad():
            residual = x - module.reconstruct(x)
            actual = SCORES[method].of(member, compare(module, x))
        trained_on = compare_many(fitted.module.network(index), x.float()).residual.double()
        gaussian = GaussianDensity.fit(trained_on)
        joint = torch.cat([x, gaussian.whiten(residual)], dim=1)
        references = torch.cat([x, gaussian.whiten(trained_on)], dim=1)
        mixture = JointDensity.fit(x, gaussian, trained_on, np.random.RandomState(0)).typical(x, gaussian, trained_on)
        neighbors = NeighborDistance.fit(references, 1, np.random.RandomState(0))
        expected = {
            "reconstruction": lambda residual=residual: -residual.square().mean(1),
            "residual": lambda gaussian=gaussian, residual=residual: gaussian.log_prob(residual),
            "joint": lambda joint=joint, mixture=mixture: mixture.log_prob(joint),
            "neighbor": lambda joint=joint, neighbors=neighbors: -neighbors.distance(joint),
        }[method]()
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["autoencoder", "vae"])
@pytest.mark.parametrize("n_columns", [3, 230])
@pytest.mark.parametrize("family", [Gaussian, partial(Gaussian, scale="dependent"), StudentT, Bernoulli])
@pytest.mark.parametrize("missing", [False, True])
def test_joint_score_without_the_reconstruction(kind, n_columns, family, missing, rng):
    """Equal to the score of the reconstruction, whether or not the likelihood and the rows allow to leave it out."""
    module = Design(kind, 2, (4,), "tanh", family(n_columns), 1, SETTINGS).module(n_columns).double()
    module.flat.data.copy_(torch.as_tensor(0.3 * rng.standard_normal(len(module.flat))))
    x = torch.as_tensor(rng.standard_normal((96, n_columns)) @ rng.standard_normal((n_columns, n_columns)))
    with torch.no_grad():
        residual = x - module.reconstruct(x) + 0.5
        density = GaussianDensity.fit(residual)
        joint = JointDensity.fit(x, density, residual, np.random.RandomState(0))
        member = Member(module, {"residual": density, "joint": joint})
        score = SCORES["joint"]

        def scored(module):
            return score.compute(Scoring(member, module, x, 0, 1))

        alone = scored(module.with_buffers())
        if missing:
            x[::3, 1] = torch.nan
        expected = score.of(member, compare(module, x))
        for given in (module, module.with_buffers()):
            torch.testing.assert_close(scored(given), expected, rtol=1e-9, atol=1e-9)
        # Whether other rows of the chunk have missing cells does not touch a row.
        assert torch.equal(scored(module.with_buffers())[1::3], alone[1::3])


@pytest.mark.parametrize(("contamination", "n_neighbors"), [("auto", 1), (0.1, 15)])
def test_neighbors_skip_planted_ones(contamination, n_neighbors, rng):
    """Where anomalies are expected among the references, the nearest may be one of them."""
    prepared, _, _ = make_prepared("autoencoder", "neighbor", rng)
    fitted = finished(prepared, contamination=contamination)
    assert int(fitted.members[0].densities["neighbor"].n_neighbors) == n_neighbors


@pytest.mark.parametrize("kind", ["autoencoder", "vae"])
@pytest.mark.parametrize("method", ["reconstruction", "residual", "joint", "neighbor"])
def test_state_rebuilds_the_model_to_the_bit(kind, method, rng):
    """Through a pickle that holds arrays and plain values, no tensor."""
    fitted, _, x = make_fitted(kind, method, rng)
    optimiser_state = {"first": torch.rand(len(fitted.module.flat)), "n_steps": torch.tensor(4.0)}
    optimiser_state["second"] = optimiser_state["first"] ** 2
    fitted = replace(fitted, optimiser_state=optimiser_state, calibration=Calibration(np.arange(4.0), 0.2))
    state = to_state(fitted)
    assert not list(tensors_in(state))
    again = from_state(pickle.loads(pickle.dumps(state)))
    assert torch.equal(again.module.flat, fitted.module.flat)
    assert again.design == fitted.design
    assert (again.calibration.count, again.calibration.attained_rate) == (4, 0.2)
    for name in ("seeds", "noise_seed", "score_method"):
        assert getattr(again, name) == getattr(fitted, name)
    np.testing.assert_array_equal(again.calibration.scores, [0.0, 1.0, 2.0, 3.0])
    assert set(again.optimiser_state) == {"first", "second", "n_steps"}
    assert torch.equal(again.optimiser_state["first"], fitted.optimiser_state["first"])
    for old, new in zip(fitted.members, again.members, strict=True):
        with torch.no_grad():
            compared = [compare(member.module.converted(torch.float64), x) for member in (old, new)]
        assert torch.equal(compared[0].residual, compared[1].residual)
        assert torch.equal(SCORES[method].of(old, compared[0]), SCORES[method].of(new, compared[0]))


def tensors_in(value):
    """Every tensor of a nested state."""
    if isinstance(value, torch.Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []:
        yield from tensors_in(part)


def test_copy_has_parameters_of_its_own(rng):
    module = make_prepared("vae", "residual", rng)[0].module
    before = copy.deepcopy(module.flat.data)
    other = module.copied()
    assert torch.equal(other.flat, module.flat)
    other.flat.data.zero_()
    assert torch.equal(module.flat.data, before)


@pytest.mark.parametrize("weighted", [False, True])
def test_residual_density_counts_weights(weighted, rng):
    prepared, _, x = make_prepared("autoencoder", "residual", rng, n_networks=1)
    weight = torch.as_tensor(rng.integers(0, 3, len(x)).astype(np.float32))
    rows = Rows(x.float(), weight) if weighted else Rows(x.float().repeat_interleave(weight.long(), dim=0))
    fitted = finished(prepared, rows=rows)
    residual = compare_many(fitted.features, x.float()).residual.double()
    density, values, counts = fitted.members[0].densities["residual"], residual.numpy(), weight.numpy()
    np.testing.assert_allclose(density.mean.numpy(), np.average(values, axis=0, weights=counts), atol=1e-9)
    covariance = np.cov(values.T, aweights=counts, bias=True)
    covariance = 0.95 * covariance + (0.05 * np.trace(covariance) / 3 + 1e-6) * np.eye(3)
    assert float(density.log_scale) == pytest.approx(0.5 * np.linalg.slogdet(covariance)[1], abs=1e-9)
