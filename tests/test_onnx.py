"""Exported graphs: onnxruntime gives what the estimator gives; what a graph cannot express is refused by name."""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.base import clone

from skvae import AutoencoderTransformer, VAETransformer
from skvae.onnx import to_onnx

# Measured over the cases below and three seeds: at most 1.8e-7 and 6.6e-16 of the largest number of an output.
TOLERANCES = {"float32": 1e-6, "float64": 1e-12}
AUTOENCODER = AutoencoderTransformer(2, max_iter=4, tol=1e3, random_state=0)
VAE = VAETransformer(2, max_iter=4, tol=1e3, n_draws=5, random_state=0)
CASES = {
    "autoencoder": clone(AUTOENCODER),
    "residual": clone(AUTOENCODER).set_params(score_method="residual"),
    "reconstruction": clone(AUTOENCODER).set_params(score_method="reconstruction"),
    "contamination": clone(AUTOENCODER).set_params(contamination=0.1),
    "unscaled": clone(AUTOENCODER).set_params(standardize=False),
    "linear": clone(AUTOENCODER).set_params(hidden_layer_sizes=()),
    "deep": clone(AUTOENCODER).set_params(hidden_layer_sizes=(9, 8, 7)),
    "networks": clone(AUTOENCODER).set_params(n_networks=2),
    "vae": clone(VAE),
    "elbo": clone(VAE).set_params(score_method="elbo"),
    "vae_joint": clone(VAE).set_params(score_method="joint"),
    "vae_gaussian": clone(VAE).set_params(likelihood="gaussian"),
    "vae_student_t": clone(VAE).set_params(likelihood="student_t"),
    "student_t": clone(AUTOENCODER).set_params(likelihood="student_t"),
    "vae_networks": clone(VAE).set_params(n_networks=2),
    **{
        activation: clone(AUTOENCODER).set_params(activation=activation)
        for activation in ("identity", "logistic", "tanh", "relu", "elu")
    },
}


def make_rows(rng, n_samples, n_columns=6):
    """Correlated columns of different size; the third is constant."""
    X = rng.normal(size=(n_samples, 2)) @ rng.normal(size=(2, n_columns)) + 0.3 * rng.normal(
        size=(n_samples, n_columns)
    )
    X = X * np.arange(1, n_columns + 1) + 5.0
    X[:, 2] = 4.0
    return X


def run(model, X):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"X": X}), strict=True))


def assert_close(got, expected, tolerance):
    """Relative to the largest number of the output: a code near zero has no digits of its own."""
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


# --- Agreement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_runtime_agrees_with_the_estimator(case, dtype, seed):
    rng = np.random.default_rng(seed)
    X = make_rows(rng, 150)
    estimator = clone(CASES[case]).fit(X)
    fresh = np.concatenate([X[:20], make_rows(rng, 50), 10 * make_rows(rng, 5)]).astype(dtype)
    got, tolerance = run(to_onnx(estimator, dtype=dtype), fresh), TOLERANCES[dtype]
    assert list(got) == ["scores", "labels", "codes", "reconstruction"]
    scores = estimator.score_samples(fresh)
    assert_close(got["scores"], scores, tolerance)
    assert_close(got["codes"], estimator.transform(fresh), tolerance)
    assert_close(got["reconstruction"], estimator.reconstruct(fresh), tolerance)
    clear = np.abs(scores - estimator.offset_) > tolerance * np.abs(scores).max()
    np.testing.assert_array_equal(got["labels"][clear], estimator.predict(fresh)[clear])
    assert [got[name].dtype for name in got] == ["float64", "int64", dtype, dtype]


def test_wide_table(seed):
    """Beyond some columns the joint density keeps the leading axes only."""
    rng = np.random.default_rng(seed)
    X = make_rows(rng, 60, 300)
    estimator = clone(AUTOENCODER).fit(X)
    assert_close(run(to_onnx(estimator, dtype="float64"), X)["scores"], estimator.score_samples(X), 1e-12)


def test_any_number_of_rows(seed):
    X = make_rows(np.random.default_rng(seed), 60)
    estimator = clone(VAE).fit(X)
    model = to_onnx(estimator, dtype="float64")
    for n_samples in (1, 7, 60):
        assert_close(run(model, X[:n_samples])["scores"], estimator.score_samples(X[:n_samples]), 1e-12)


def test_recalibration_moves_the_labels(seed):
    rng = np.random.default_rng(seed)
    X = make_rows(rng, 100)
    estimator = clone(AUTOENCODER).fit(X).calibrate(10 * make_rows(rng, 40))
    np.testing.assert_array_equal(run(to_onnx(estimator, dtype="float64"), X)["labels"], estimator.predict(X))


def test_graph_is_valid_and_says_who_made_it(seed):
    model = to_onnx(clone(AUTOENCODER).fit(make_rows(np.random.default_rng(seed), 60)))
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "skvae"
    assert [
        dimension.dim_param or dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim
    ] == [
        "n_samples",
        6,
    ]


# --- Refusals -------------------------------------------------------------------------------------------------------

REFUSED = {
    "score_method='neighbor'": (
        {"score_method": "neighbor"},
        "to_onnx cannot express score_method='neighbor'. Fit with another one, such as 'joint', or serve the estimator "
        "itself.",
    ),
    "likelihood='bernoulli'": (
        {"likelihood": "bernoulli"},
        "to_onnx cannot express likelihood='bernoulli'. Fit with likelihood='gaussian', or serve the estimator itself.",
    ),
    "activation='gelu'": (
        {"activation": "gelu"},
        "to_onnx cannot express activation='gelu'. Fit with another one, such as 'silu', or serve the estimator "
        "itself.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_graph_cannot_express_is_refused_by_name(what, seed):
    parameters, message = REFUSED[what]
    X = make_rows(np.random.default_rng(seed), 60)
    X = (X > 5) * 1.0 if "likelihood" in parameters else X
    estimator = clone(AUTOENCODER).set_params(**parameters).fit(X)
    with pytest.raises(ValueError, match="cannot express") as caught:
        to_onnx(estimator)
    assert str(caught.value) == message


def test_training_rows_with_missing_cells_are_refused(seed):
    X = make_rows(np.random.default_rng(seed), 80)
    X[::4, 1] = np.nan
    with pytest.raises(ValueError, match="missing cells") as caught:
        to_onnx(clone(AUTOENCODER).fit(X))
    assert str(caught.value) == (
        "to_onnx cannot express missing cells in the training rows. Impute them before the fit, for example with "
        "sklearn.impute.SimpleImputer, or serve the estimator itself."
    )


def test_a_missing_cell_gives_nan_and_a_flag(seed):
    """Where the estimator would fill the cell, the graph says that it cannot."""
    X = make_rows(np.random.default_rng(seed), 60)
    model = to_onnx(clone(AUTOENCODER).fit(X), dtype="float64")
    X[4, 1] = np.nan
    got = run(model, X)
    assert np.isnan(got["scores"]).tolist() == [row == 4 for row in range(60)]
    assert got["labels"][4] == -1


def test_unfitted_estimator_is_refused():
    with pytest.raises(ValueError, match="needs a fitted estimator") as caught:
        to_onnx(clone(VAE))
    assert str(caught.value) == "to_onnx needs a fitted estimator, but this VAETransformer has not been fitted."


def test_other_precision_is_refused():
    with pytest.raises(ValueError, match="dtype") as caught:
        to_onnx(clone(VAE), dtype="float16")
    assert str(caught.value) == "The 'dtype' parameter must be 'float32' or 'float64'. Got 'float16' instead."


def test_needs_onnx(seed, monkeypatch):
    estimator = clone(AUTOENCODER).fit(make_rows(np.random.default_rng(seed), 60))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError) as caught:
        to_onnx(estimator)
    assert str(caught.value) == "to_onnx needs onnx. Install it with: pip install 'skvae[onnx]'"
