"""scikit-learn's own checks of an estimator, over both classes and the configurations that change the path of a fit.

No check may fail and none is expected to: there is no list of expected failures. The only skips are scikit-learn's own,
for hardware and array libraries that are not on the machine. ``warm_start=True`` is nowhere here: some checks fit one
instance twice and compare, which asks for a cold start. test_base.py holds its laws.

Five configurations of ``COVERING`` a class, which hold its values, run with every change: the first all checks, the
others those that a parameter can break. The slow tests take the other configurations, for the pairs of values, and some
drawn at random from ``SPACE``.
"""

from itertools import combinations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from skvae import AutoencoderTransformer, VAETransformer

pytestmark = [
    # A few epochs on a few rows reach neither the optimum nor the false-alarm rate, perhaps no code, and say so.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore::skvae.vae.CollapseWarning"),
    pytest.mark.filterwarnings("ignore:false_alarm_rate=:UserWarning"),
    # The checks give partial_fit a chunk of all-equal rows and then others.
    pytest.mark.filterwarnings("ignore:Column .* was constant in the first chunk:UserWarning"),
    # From scikit-learn's checks themselves.
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning"),
]

# --- Configurations -------------------------------------------------------------------------------------------------

# Each column is a configuration. An annealed search chose them for the most pairs of values of two parameters, at a
# small price for each value that takes time. The first is the estimator as it comes, but for its epochs.
_TABLES = {
    AutoencoderTransformer: {
        "n_components": ["auto", 2, 30, "auto", 30, "auto", 30, 2, "auto"],
        "hidden_layer_sizes": ["auto", (), (), (8,), (8,), (8,), (8,), (8,), (8,)],
        "activation": ["silu", "silu", "logistic", "logistic", "relu", "gelu", "tanh", "identity", "elu"],
        "likelihood": ["auto", "student_t", "auto", "student_t", "student_t", "auto", "student_t", "auto", "auto"],
        "standardize": [True, False, True, False, True, True, False, True, False],
        "contamination": ["auto", 0.1, "auto", 0.1, 0.1, 0.1, "auto", "auto", "auto"],
        "false_alarm_rate": [0.05, 0.2, 0.2, 0.05, 0.05, 0.2, 0.2, 0.05, 0.05],
        "calibration_fraction": ["auto", 0.0, 0.0, "auto", 0.0, "auto", "auto", "auto", 0.0],
        "score_method": "auto residual reconstruction reconstruction auto neighbor auto residual neighbor".split(),
        "noise": ["auto", 0.3, 0.3, "auto", "auto", "auto", 0.3, "auto", 0.3],
        "alpha": ["auto", 0.0, "auto", 0.0, 0.0, "auto", "auto", "auto", 0.0],
        "batch_size": ["auto", 7, 7, "auto", "auto", 7, "auto", "auto", "auto"],
        "learning_rate_init": [3e-3, 0.01, 3e-3, 0.01, 3e-3, 3e-3, 0.01, 3e-3, 0.01],
        "max_iter": [3, 3, 2, 4, 2, 2, 2, 2, 2],
        "n_iter_no_change": [10, 2, 10, 2, 10, 2, 2, 10, 10],
        "early_stopping": [False, True, False, True, True, False, False, False, True],
        "n_networks": [1, 2, 1, 1, 2, 2, 1, 1, 1],
    },
    VAETransformer: {
        "n_components": ["auto", 30, 2, 30, 2, 30, 2, "auto"],
        "hidden_layer_sizes": ["auto", (), (8,), (), (), (8,), (8,), "auto"],
        "activation": ["silu", "relu", "relu", "tanh", "elu", "tanh", "elu", "silu"],
        "likelihood": ["auto", "student_t", "auto", "auto", "student_t", "student_t", "auto", "student_t"],
        "beta": [1.0, 1.0, 2.0, 1.0, 2.0, 2.0, 1.0, 2.0],
        "kl_warmup": [0.0, 0.0, 0.5, 0.0, 0.5, 0.5, 0.0, 0.5],
        "dropout": ["auto", "auto", 0.2, 0.2, "auto", "auto", 0.2, 0.2],
        "n_draws": ["auto", 4, 4, "auto", 1, "auto", 1, 4],
        "standardize": [True, True, False, False, False, True, True, False],
        "marginals": [None, "auto", None, None, None, "auto", "auto", "auto"],
        "latent_density": ["auto", 1, 1, "auto", 1, "auto", 1, 1],
        "contamination": ["auto", "auto", "auto", 0.2, 0.1, 0.2, 0.1, 0.2],
        "calibration_fraction": ["auto", 0.0, "auto", "auto", "auto", 0.0, 0.0, 0.0],
        "score_method": ["auto", "elbo", "elbo", "log_likelihood", "auto", "log_likelihood", "residual", "residual"],
        "noise": ["auto", 0.3, "auto", "auto", 0.3, 0.3, "auto", 0.3],
        "alpha": ["auto", 0.0, "auto", 0.0, "auto", "auto", 0.0, 0.0],
        "batch_size": ["auto", "auto", "auto", "auto", "auto", 7, 7, 7],
        "learning_rate_init": [3e-3, 3e-3, 0.01, 0.01, 3e-3, 3e-3, 0.01, 0.01],
        "max_iter": [3, 2, 4, 2, 3, 4, 2, 2],
        "n_iter_no_change": [10, 10, 2, 2, 2, 10, 10, 2],
        "early_stopping": [False, False, True, True, True, False, False, True],
        "n_networks": [1, 1, 2, 1, 1, 2, 2, 1],
    },
}
COVERING = {
    kind: [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    for kind, table in _TABLES.items()
}
# Share of all pairs of values that COVERING holds, rounded down. So many rows could hold 0.86 and 0.94 at most.
PAIRS = {AutoencoderTransformer: 0.79, VAETransformer: 0.88}

# Which of them run with every change: of any five with the first, these hold the most pairs.
FAST = {AutoencoderTransformer: (0, 1, 3, 4, 5), VAETransformer: (0, 2, 4, 5, 6)}
SLOW = {kind: [row for index, row in enumerate(rows) if index not in FAST[kind]] for kind, rows in COVERING.items()}

# What a random configuration draws each parameter from. Not here:
# - likelihoods of values that are not real numbers, and ``binarize``, which needs one: they refuse the checks' tables;
# - ``likelihood={0: "student_t"}``: for a table without columns it names the missing column, not the missing columns;
# - ``false_alarm_rate=0.01``: scikit-learn asks for a flagged row among fewer rows than that rate flags one of;
# - a ``latent_density`` of several components: it refuses the few rows that a check and the other parameters leave;
# - ``max_time``, under which a fit follows the clock: see test_clock.py;
# - ``warm_start=True``, see above, and ``random_state``, which the checks set.
SPACE = {
    "n_components": ["auto", 1, 2, 30],
    "hidden_layer_sizes": [(), 8, (8,), (6, 4)],
    "activation": ["identity", "logistic", "tanh", "relu", "elu", "silu", "gelu"],
    "likelihood": ["auto", "gaussian", "student_t"],
    "categorical_features": ["from_dtype", None],
    "standardize": [True, False],
    "contamination": ["auto", "auto", 0.1, 0.2, 0.5],
    "false_alarm_rate": [0.05, 0.2, 0.5],
    "calibration_fraction": ["auto", 0.0, 0.1, 0.5, "cross_fit"],
    "score_method": ["auto", "residual", "joint", "neighbor", "reconstruction"],
    "noise": ["auto", 0.0, 0.3],
    "alpha": ["auto", 0.0, 0.1],
    "batch_size": ["auto", 1, 7, 1000],
    "learning_rate_init": [1e-4, 3e-3, 0.01],
    "max_iter": [1, 2, 3],
    "tol": [0.0, 1e-4, 10.0],
    "n_iter_no_change": [1, 2, 10],
    "early_stopping": [False, True],
    "validation_fraction": [0.1, 0.5],
    "n_networks": [1, 1, 2],
    "n_jobs": [None, 1, 2],
    "device": ["auto", "cpu"],
    "matmul_precision": [None, "highest"],
}
OWN_SPACE = {
    AutoencoderTransformer: {},
    VAETransformer: {
        "score_method": [*SPACE["score_method"], "log_likelihood", "elbo"],
        "beta": [0.0, 1.0, 1.0, 2.0],
        "kl_warmup": [0.0, 0.0, 0.5],
        "dropout": ["auto", 0.0, 0.2],
        "scale": ["dependent", "constant", "shared"],
        "decoder": ["independent", "independent", "autoregressive"],
        "marginals": [None, None, "auto"],
        "min_scale": ["auto", 0.0, 0.1],
        "n_draws": ["auto", 1, 4, 32],
        "n_training_draws": ["auto", 1, 3],
        "latent_density": ["auto", "learned", "mixture", "normal", 1],
    },
}


def is_valid(parameters):
    """Several training draws maximise a bound that leaves no room for other weights of the divergence, nor dropout.

    Columns that see each other have to be scaled.
    """
    scaled = parameters["standardize"] or parameters.get("marginals") == "auto"
    if parameters.get("decoder") == "autoregressive" and not scaled:
        return False
    one_draw = parameters.get("n_training_draws") in (None, "auto", 1)
    plain = parameters.get("beta") == 1.0 and parameters.get("kl_warmup") == 0.0
    return one_draw or (plain and parameters["dropout"] in ("auto", 0.0))


def draw(kind, n_configurations):
    """The same configurations on every run; a shorter list is the beginning of a longer one."""
    rng, drawn = np.random.default_rng(0), []
    while len(drawn) < n_configurations:
        parameters = {name: values[rng.integers(len(values))] for name, values in (SPACE | OWN_SPACE[kind]).items()}
        if is_valid(parameters):
            drawn.append(parameters)
    return drawn


def estimators(configurations):
    return [kind(**parameters) for kind, rows in configurations.items() for parameters in rows]


RANDOM = [
    pytest.param(estimator, id=f"{kind.__name__}-{index}")
    for kind in OWN_SPACE
    for index, estimator in enumerate(estimators({kind: draw(kind, 100)}))
]
# All checks take a second or two; these are quick, and about what a parameter can break.
QUICK = {
    "check_dict_unchanged",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
}
# These too; the others are about what X is and holds, which is read before a parameter matters.
ABOUT_PARAMETERS = QUICK | {
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_non_transformer_estimators_n_iter",
    "check_outliers_fit_predict",
    "check_outliers_train",
    "check_sample_weight_equivalence_on_dense_data",
    "check_transformer_general",
    "check_transformer_n_iter",
}


# --- The checks -----------------------------------------------------------------------------------------------------


def fast_checks():
    for kind, rows in FAST.items():
        for row in rows:
            for estimator, check in estimator_checks_generator(kind(**COVERING[kind][row])):
                name = check.func.__name__
                # These take longest: of VAEs two rows' with every change.
                late = kind is VAETransformer and row not in rows[:2] and name.startswith("check_outliers")
                if row == 0 or name in ABOUT_PARAMETERS:
                    marks = [pytest.mark.slow] * late
                    yield pytest.param(estimator, check, id=f"{kind.__name__}-{row}-{name}", marks=marks)


@pytest.mark.parametrize(("estimator", "check"), list(fast_checks()))
def test_sklearn_check(estimator, check):
    check(estimator)


def failures(results):
    return [f"{result['check_name']}: {result['exception']!r}" for result in results if result["status"] == "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("estimator", estimators(SLOW), ids=repr)
def test_sklearn_checks_hold_for_the_other_covering_configurations(estimator):
    assert failures(check_estimator(estimator, on_skip=None, on_fail=None)) == []


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [*RANDOM[:3], *RANDOM[100:103]], ids=repr)
def test_sklearn_checks_hold_for_random_parameters(estimator):
    assert failures(check_estimator(estimator, on_skip=None, on_fail=None)) == []


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [*RANDOM[3:100], *RANDOM[103:]], ids=repr)
def test_quick_sklearn_checks_hold_for_random_parameters(estimator):
    checks = {check.func.__name__: check for _, check in estimator_checks_generator(estimator)}
    for name in sorted(QUICK):
        checks[name](estimator)


# --- The configurations themselves ----------------------------------------------------------------------------------


def pairs(parameters):
    return {frozenset(pair) for pair in combinations(parameters.items(), 2)}


@pytest.mark.parametrize("kind", COVERING)
def test_covering_configurations_hold_the_defaults_and_most_pairs(kind):
    covered, defaults = COVERING[kind], kind().get_params()
    values = {name: {parameters[name] for parameters in covered} for name in covered[0]}
    for name in values.keys() - {"max_iter"}:  # its default is a budget of steps, far too many for a check
        assert defaults[name] in values[name]
        assert len(values[name]) > 1
    held = set().union(*map(pairs, covered))
    n_pairs = sum(len(values[one]) * len(values[other]) for one, other in combinations(values, 2))
    assert len(held) / n_pairs >= PAIRS[kind]


@pytest.mark.parametrize("kind", COVERING)
def test_fast_configurations_hold_every_value_but_of_activations(kind):
    """Of these there are too many, and what differs between them are two lines, which test_mlp.py holds."""
    covered, fast = ({name: set() for name in _TABLES[kind]} for _ in range(2))
    for row, parameters in enumerate(COVERING[kind]):
        for name, value in parameters.items():
            covered[name].add(value)
            if row in FAST[kind]:
                fast[name].add(value)
    assert {name for name in covered if covered[name] != fast[name]} <= {"activation"}


@pytest.mark.parametrize("kind", COVERING)
def test_first_covering_configuration_is_the_estimator_as_it_comes(kind):
    assert kind(**COVERING[kind][0]).get_params() == kind(max_iter=3).get_params()


@pytest.mark.parametrize("kind", OWN_SPACE)
def test_random_configurations_hold_every_value(kind):
    """And name every parameter but those that the comment on SPACE leaves out, and ``verbose``, which prints."""
    space, drawn = SPACE | OWN_SPACE[kind], draw(kind, 100)
    left_out = {"max_time", "warm_start", "random_state", "verbose", "binarize"}
    assert set(space) == set(kind().get_params()) - left_out
    for name, values in space.items():
        assert {repr(parameters[name]) for parameters in drawn} == set(map(repr, values))
