"""scikit-learn's own checks of an estimator, over both classes and the configurations that change the path of a fit.

No check may fail and none is expected to: ``parametrize_with_checks`` gets no list of expected failures. The only skips
are scikit-learn's own, for hardware and array libraries that are not on the machine. ``warm_start=True`` is not here:
some checks fit one instance twice and compare, which asks for a cold start. test_base.py holds its laws.
"""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skvae import AutoencoderTransformer, VAETransformer

pytestmark = [
    # A few epochs on a few rows: neither the optimum nor the false-alarm rate can be reached, and both say so.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning"),
    # The checks give partial_fit a chunk of all-equal rows and then others.
    pytest.mark.filterwarnings("ignore:Column .* was constant in the first chunk:UserWarning"),
    # From scikit-learn's checks themselves.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

# Widths and epochs that keep one check in the milliseconds; each line below departs from them in what it is about.
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2}

SHARED = [
    {"max_iter": 3},
    {**SMALL, "contamination": 0.1},
    {**SMALL, "early_stopping": True, "max_iter": 4, "n_iter_no_change": 2},
    {**SMALL, "n_components": 30},
    {**SMALL, "batch_size": 7},
    {"hidden_layer_sizes": (), "n_components": 2, "max_iter": 3},
    {**SMALL, "n_networks": 2, "activation": "relu"},
    {**SMALL, "learning_rate_init": 0.01, "activation": "tanh"},
    {**SMALL, "standardize": False, "activation": "elu", "alpha": 0.0},
    {**SMALL, "calibration_fraction": 0.0, "likelihood": "student_t", "noise": 0.3},
]
AUTOENCODERS = [
    {**SMALL, "score_method": "residual", "activation": "identity"},
    {**SMALL, "score_method": "neighbor", "activation": "gelu"},
    {**SMALL, "score_method": "reconstruction", "activation": "logistic", "false_alarm_rate": 0.2},
]
VAES = [
    {**SMALL, "score_method": "elbo", "n_draws": 4, "kl_warmup": 0.5},
    {**SMALL, "score_method": "joint", "beta": 2.0, "contamination": 0.2, "batch_size": 7, "early_stopping": True},
    {**SMALL, "score_method": "residual", "dropout": 0.2, "n_draws": 1},
]


@parametrize_with_checks(
    [AutoencoderTransformer(**parameters) for parameters in SHARED + AUTOENCODERS]
    + [VAETransformer(**parameters) for parameters in SHARED + VAES]
)
def test_sklearn_check(estimator, check):
    check(estimator)
