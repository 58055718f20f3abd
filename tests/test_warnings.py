"""Every warning points at the line of the user that led to it, where it can be read, filtered and made an error."""

import ast
import contextlib
import functools
import inspect
import io
import pickle
import re
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import joblib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import torch
from marks import slow_for_vae
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import skvae
from skvae import AutoencoderTransformer, VAETransformer
from skvae._estimators import conditions
from skvae._model import persistence
from skvae._support.warnings import warn
from skvae._training import native
from skvae._training.engine import Engine, ReplayedStep
from skvae.display import AnomalyScoreDisplay, LatentSpaceDisplay
from skvae.report import report

PACKAGE = Path(skvae.__file__).parent

# What each call of `warn` says, or the class of what it gives.
EMPTY = "holds no value in any training row"
INERT = "was constant in the first chunk"
LEVEL = "Levels that no fitted row has"
UNFINISHED = "The loss still improved by more than tol="
FEW_ROWS = "rows that did not train, but there were only"
COLLAPSED = "No component of the latent space tells rows apart"
FEW_DRAWS = "posterior draws carry the estimate"
INTERRUPTED = "Training was interrupted"
NOT_RECORDED = "could not be recorded as a CUDA graph"
FEW_CODES = "codes carry the draws of"
NOT_LOADED = "The native training step in "
VERSION = "VersionWarning"
ROUNDED = "Integers beyond 2**53 are rounded"
RARE = "levels are told apart"
LEFT_OUT = "Identifiers are left out of the model"
OTHER_DRAWS = "The threshold was placed by scores of n_draws="
UNREAD = "Texts that cannot be read as the"
ALL_EQUAL = "rows of learn_anomalies are all equal"
LOOK_NORMAL = "rows of learn_anomalies scores lower than half of the"
ALL_KNOWN = "rows that placed the threshold are among the anomalies"
ALIKE = "score is the mean log-density of the rows whatever score_method is"
WARNINGS = {
    *(ROUNDED, OTHER_DRAWS, ALIKE, NOT_LOADED, FEW_CODES, ALL_EQUAL, LOOK_NORMAL, ALL_KNOWN),
    *(
        RARE,
        LEFT_OUT,
        EMPTY,
        INERT,
        LEVEL,
        UNREAD,
        UNFINISHED,
        FEW_ROWS,
        COLLAPSED,
        FEW_DRAWS,
        INTERRUPTED,
        NOT_RECORDED,
        VERSION,
    ),
}


def places(call, what):
    """File and line of each warning of a call that says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return {(w.filename, w.lineno) for w in caught if what in f"{w.category.__name__}: {w.message}"}


def assert_told_here(call, what):
    """For a lambda of one line."""
    assert places(call, what) == {(__file__, call.__code__.co_firstlineno)}


def colours(n_samples, *levels):
    return pd.DataFrame({"x": np.linspace(0.0, 1.0, n_samples), "c": np.resize(levels, n_samples)})


def half_empty(n_samples=60):
    return np.column_stack([np.arange(float(n_samples)), np.full(n_samples, np.nan)])


def waves(rng):
    """Rows that a few epochs do not learn."""
    return np.sin(rng.uniform(0, 6, size=(400, 1)) + np.arange(6.0))


@pytest.fixture
def restless(make):
    """Constructor of estimators that have not finished when ``max_iter`` is reached."""
    return lambda **parameters: make(**({"hidden_layer_sizes": (64,), "noise": 0.0} | parameters))


# --- Completeness ---------------------------------------------------------------------------------------------------


def _said(call):
    """The constant words of the first argument of a call, or the class that it makes."""
    message = call.args[0]
    if isinstance(message, ast.Call):
        return message.func.id
    return "".join(part.value for part in ast.walk(message) if isinstance(part, ast.Constant) and part.value)


def test_every_warning_of_the_package_is_named_above():
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    trees = [ast.parse(source) for source in sources if "warn(" in source]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    said = [_said(call) for call in calls if getattr(call.func, "id", None) == "warn"]
    assert sorted(next((w for w in WARNINGS if w in words), words) for words in said) == sorted(WARNINGS)


# --- Each warning, by each verb that gives it -----------------------------------------------------------------------

FITS = ["fit", "partial_fit", "fit_predict", "fit_transform"]
NO_ROWS = ["inverse_transform"]  # takes codes


def verbs(cls):
    """The public methods that a fitted model applies to rows."""
    found = inspect.getmembers(cls, inspect.isfunction)
    takes = {name: list(inspect.signature(method).parameters)[1:2] for name, method in found if name[0] != "_"}
    return [name for name, first in takes.items() if first == ["X"] and name not in FITS + NO_ROWS]


@functools.cache
def two_colours(cls):
    """A model that no verb changes, but for `calibrate` and its threshold."""
    return cls(2, hidden_layer_sizes=(8,), max_iter=3, tol=100.0, random_state=0).fit(colours(60, "red", "blue"))


@pytest.mark.parametrize(
    ("cls", "verb"), [(cls, verb) for cls in (AutoencoderTransformer, VAETransformer) for verb in verbs(cls)]
)
def test_new_level_is_told_at_the_verb(cls, verb):
    model = two_colours(cls)
    assert_told_here(lambda: getattr(model, verb)(colours(30, "red", "green")), LEVEL)


@functools.cache
def dated(cls):
    """The same of dates as text."""
    return cls(2, hidden_layer_sizes=(8,), max_iter=3, tol=100.0, random_state=0).fit(days(60, "2026-06-01"))


def days(n_samples, last):
    texts = [f"2026-{1 + row // 20:02d}-{1 + row % 20:02d}" for row in range(n_samples - 1)]
    return pd.DataFrame({"x": np.linspace(0.0, 1.0, n_samples), "day": [*texts, last]})


@pytest.mark.parametrize(
    ("cls", "verb"), [(cls, verb) for cls in (AutoencoderTransformer, VAETransformer) for verb in [*FITS, *verbs(cls)]]
)
def test_broken_date_is_told_at_the_verb(cls, verb):
    model = clone(dated(cls)) if verb in FITS else dated(cls)
    assert_told_here(lambda: getattr(model, verb)(days(60, "n/a")), f"{UNREAD} dates of their column")


def test_new_level_is_told_at_interpolate(make):
    model, rows = make(tol=100.0).fit(colours(60, "red", "blue")), colours(3, "red")
    assert_told_here(lambda: model.interpolate(rows, colours(3, "green")), LEVEL)
    assert_told_here(lambda: model.interpolate(colours(3, "green"), rows), LEVEL)


def test_new_levels_of_both_ends_are_told_once(make):
    model = make(tol=100.0).fit(colours(60, "red", "blue").assign(d=np.resize(["in", "out"], 60)))
    start = colours(3, "green").assign(d="in")
    end = colours(3, "green", "amber").assign(d="off")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.interpolate(start, end)
    assert [str(one.message) for one in caught] == [
        "Levels that no fitted row has count as missing: column 'c' ('green', 'amber'), 'd' ('off'). Fit on rows with "
        "all levels, or replace them by NaN."
    ]


def test_no_verb_is_forgotten():
    assert set(verbs(AutoencoderTransformer)) >= {"predict", "transform", "score_samples", "calibrate"}
    assert set(verbs(VAETransformer)) - set(verbs(AutoencoderTransformer)) == {
        *("effective_sample_size", "latent_distribution", "log_likelihood"),
    }


@pytest.mark.parametrize("verb", FITS)
def test_new_level_is_told_at_a_fit_that_goes_on(make, verb):
    model = make(warm_start=True, tol=100.0).fit(colours(60, "red", "blue"))
    assert_told_here(lambda: getattr(model, verb)(colours(60, "red", "green")), LEVEL)


@pytest.mark.parametrize("verb", FITS)
def test_empty_column_is_told_at_the_fit(make, verb):
    assert_told_here(lambda: getattr(make(), verb)(half_empty()), EMPTY)


def test_column_that_was_constant_is_told_at_partial_fit(make):
    model = make().partial_fit(np.column_stack([np.arange(60.0), np.ones(60)]))
    assert_told_here(lambda: model.partial_fit(np.column_stack([np.arange(60.0)] * 2)), INERT)


def test_what_columns_lose_is_told_at_the_fit(make):
    X = pd.DataFrame({"x": np.linspace(0.0, 1.0, 600), "size": 2**60 + np.arange(600)})
    assert_told_here(lambda: make(tol=100.0).fit(X), ROUNDED)
    X = X.assign(size=np.arange(600) % 300).astype({"size": "category"})
    assert_told_here(lambda: make(tol=100.0).fit(X), RARE)
    X = X.assign(size=np.arange(600))
    assert_told_here(lambda: make(tol=100.0).fit(X), LEFT_OUT)


def test_other_draws_are_told_where_rows_are_labelled(rng):
    X = rng.normal(size=(100, 3))
    own = {"score_method": "log_likelihood", "hidden_layer_sizes": (4,), "max_iter": 1}
    model = VAETransformer(1, **own, random_state=0).fit(X).set_params(n_draws=3)
    assert_told_here(lambda: model.predict(X), OTHER_DRAWS)


@pytest.mark.parametrize("what", [ALL_EQUAL, LOOK_NORMAL, ALL_KNOWN])
def test_anomalies_that_are_no_news_are_told_at_the_call(make, rng, what):
    X = rng.normal(size=(100, 3))
    model = make(tol=100.0).fit(X)
    best = X[model.score_samples(X).argmax()]
    odd = {ALL_EQUAL: np.full((4, 3), 9.0), LOOK_NORMAL: 0.99 * best[np.newaxis], ALL_KNOWN: X}[what]
    assert_told_here(lambda: model.learn_anomalies(odd), what)


def test_draws_that_few_codes_carry_are_told_at_the_call(rng, monkeypatch):
    X = rng.normal(size=(100, 1)) + 0.3 * rng.normal(size=(100, 3))  # unrelated columns would bring another warning
    model = VAETransformer(2, hidden_layer_sizes=(8,), max_iter=2, tol=100.0).fit(X)
    monkeypatch.setattr(conditions, "_MIN_CODES", np.inf)
    assert_told_here(lambda: model.sample(5, given=np.array([[0.5, 0.5, np.nan]]), random_state=0), FEW_CODES)


def test_scores_that_a_search_finds_alike_are_told_at_the_search(make, rng):
    search = GridSearchCV(make(tol=100.0), {"score_method": ["residual", "joint"]}, cv=2)
    assert_told_here(lambda: search.fit(rng.normal(size=(80, 3))), ALIKE)


@pytest.mark.parametrize("verb", ["fit", "fit_predict", "fit_transform"])
def test_unfinished_training_is_told_at_the_fit(restless, rng, verb):
    assert_told_here(lambda: getattr(restless(), verb)(waves(rng)), UNFINISHED)


@pytest.mark.parametrize("verb", ["predict", "fit_predict"])
def test_too_few_rows_for_the_rate_are_told_where_rows_are_labelled(make, rng, verb):
    model = make(tol=100.0).fit(rng.normal(size=(20, 3)))
    assert_told_here(lambda: getattr(model, verb)(rng.normal(size=(20, 3))), FEW_ROWS)


@pytest.fixture
def linear_rows(rng):
    return rng.normal(size=(300, 2)) @ rng.normal(size=(2, 6)) + 0.5 * rng.normal(size=(300, 6))


@pytest.fixture
def linear(linear_rows):
    """A VAE of single layers, and its encoders: that which trains and that which scores."""
    vae = VAETransformer(2, hidden_layer_sizes=(), max_iter=1, n_draws=4, random_state=0, tol=100.0).fit(linear_rows)
    return vae, [module.parts()[0] for module in (vae._fitted.module, vae._fitted.members[0].module)]


@pytest.mark.parametrize("verb", FITS)
def test_collapse_is_told_at_the_fit(linear, linear_rows, verb):
    """A fit goes on, in tiny steps, from an encoder that gives every row the same posterior."""
    vae, encoders = linear
    for encoder in encoders:
        encoder.skip.data.zero_()
        encoder.biases[-1].data.zero_()
    vae.set_params(warm_start=True, learning_rate_init=1e-9)
    assert_told_here(lambda: getattr(vae, verb)(linear_rows), COLLAPSED)


def test_few_draws_are_told_at_log_likelihood(linear, linear_rows):
    vae, encoders = linear
    for encoder in encoders:
        encoder.biases[-1].data[2:] = 6.0  # a posterior that is much too wide
    assert_told_here(lambda: vae.log_likelihood(linear_rows), FEW_DRAWS)


class CtrlC(io.StringIO):
    """A terminal at which somebody stops the training when the line of its first epoch comes."""

    def write(self, text):
        if "epoch" in text:
            raise KeyboardInterrupt
        return len(text)


@pytest.mark.parametrize("verb", [verb for verb in FITS if verb != "partial_fit"])  # where it is an error
def test_interrupt_is_told_at_the_fit(make, rng, verb):
    model, X = make(verbose=True, tol=100.0), rng.normal(size=(100, 3))
    with contextlib.redirect_stdout(CtrlC()):
        assert_told_here(lambda: getattr(model, verb)(X), INTERRUPTED)


def test_step_that_cannot_be_recorded_is_told_at_the_fit(make, rng, monkeypatch):
    """A stand-in for a device that takes no recording."""
    monkeypatch.setenv("SKVAE_NATIVE", "0")

    def refuse(run):
        raise RuntimeError("operation not permitted")

    plain = Engine.step
    step = functools.cache(lambda engine, n_rows: ReplayedStep(engine.module, plain(engine, n_rows), refuse))
    monkeypatch.setattr(Engine, "step", lambda engine, n_rows: step(engine, n_rows))
    assert_told_here(lambda: make(tol=100.0).fit(rng.normal(size=(100, 3))), NOT_RECORDED)


@pytest.mark.parametrize("verb", FITS)
def test_native_object_that_does_not_load_is_told_at_the_fit(make, rng, verb, tmp_path, monkeypatch):
    monkeypatch.delenv("SKVAE_NATIVE", raising=False)
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    monkeypatch.setattr(native, "_Loaded", type("_Loaded", (), {"lock": threading.Lock(), "asked": False}))
    for name in native.OBJECTS.values():
        (tmp_path / f"_native_{name}.so").write_bytes(b"no object at all")
    model, X = make(tol=100.0), rng.normal(size=(100, 3))
    assert_told_here(lambda: getattr(model, verb)(X), NOT_LOADED)


TRUSTED = ["skvae.autoencoder.AutoencoderTransformer", "skvae.vae.VAETransformer"]


def stored_by_joblib(model):
    joblib.dump(model, buffer := io.BytesIO())
    return functools.partial(joblib.load, io.BytesIO(buffer.getvalue()))


# From a model to what loads it again. joblib and skops are written in Python; so is the second pickle.
WAYS = {
    "pickle": lambda model: functools.partial(pickle.loads, pickle.dumps(model)),
    "pickle in Python": lambda model: functools.partial(pickle._loads, pickle.dumps(model)),
    "joblib": stored_by_joblib,
    "skops": lambda model: functools.partial(skops.io.loads, skops.io.dumps(model), trusted=TRUSTED),
    "copy": lambda model: functools.partial(type(model).__setstate__, type(model)(), model.__getstate__()),
}


@pytest.mark.parametrize("way", WAYS)
def test_another_version_is_told_where_the_file_is_loaded(make, rng, monkeypatch, way):
    model = make(tol=100.0).fit(rng.normal(size=(60, 3)))
    monkeypatch.setattr(persistence, "version", lambda name: "0.0.1")
    load = WAYS[way](model)
    monkeypatch.undo()
    assert_told_here(lambda: load(), VERSION)


def test_another_version_is_told_where_a_pipeline_is_loaded(make, rng, monkeypatch):
    model = make_pipeline(StandardScaler(), make(tol=100.0)).fit(rng.normal(size=(60, 3)))
    monkeypatch.setattr(persistence, "version", lambda name: "0.0.1")
    load = WAYS["joblib"](model)
    monkeypatch.undo()
    assert_told_here(lambda: load(), VERSION)


# --- Through other code ---------------------------------------------------------------------------------------------


def test_through_a_pipeline(make, restless, rng):
    pipe, X = make_pipeline(StandardScaler(), restless()), waves(rng)
    assert_told_here(lambda: pipe.fit(X), UNFINISHED)
    pipe = make_pipeline(FunctionTransformer(), make(tol=100.0)).fit(colours(60, "red", "blue"))
    assert_told_here(lambda: pipe.score_samples(colours(3, "green")), LEVEL)


@slow_for_vae
def test_through_a_search(restless, rng):
    search, X = GridSearchCV(restless(), {"alpha": [1e-4, 1e-2]}, cv=2), waves(rng)
    assert_told_here(lambda: search.fit(X), UNFINISHED)
    assert_told_here(lambda: cross_val_score(search.estimator, X, cv=2), UNFINISHED)


def test_a_users_function_in_a_thread_of_joblib(make):
    model = make(tol=100.0).fit(colours(60, "red", "blue"))
    work = lambda: model.score_samples(colours(3, "green"))  # noqa: E731
    parallel = joblib.Parallel(n_jobs=2, backend="threading")
    found = places(lambda: parallel(joblib.delayed(work)() for _ in range(2)), LEVEL)
    assert found == {(__file__, work.__code__.co_firstlineno)}


@slow_for_vae
def test_a_thread_without_a_line_of_the_user_names_ours(make, restless, rng):
    """Not one of the standard library, which says nothing."""
    model, X = make(tol=100.0).fit(colours(60, "red", "blue")), colours(3, "green")
    parallel = joblib.Parallel(n_jobs=2, backend="threading")

    def thread():
        worker = threading.Thread(target=model.score_samples, args=(X,))
        worker.start()
        worker.join()

    def search():
        with joblib.parallel_config(backend="threading"):
            cross_val_score(restless(), waves(rng), cv=2, n_jobs=2)

    found = [
        *places(thread, LEVEL),
        *places(lambda: parallel(joblib.delayed(model.score_samples)(X) for _ in range(2)), LEVEL),
        *places(search, UNFINISHED),
    ]
    assert {Path(file).relative_to(PACKAGE).as_posix() for file, _ in found} == {
        *("_tables/table.py", "_estimators/base.py"),
    }


def test_through_the_front_doors(make):
    model, X = make(tol=100.0).fit(colours(60, "red", "blue")), colours(30, "green")
    assert_told_here(lambda: report(model, X), LEVEL)
    assert_told_here(lambda: AnomalyScoreDisplay.from_estimator(model, X), LEVEL)
    assert_told_here(lambda: LatentSpaceDisplay.from_estimator(model, X), LEVEL)
    plt.close("all")


def test_a_users_own_class_is_a_line_of_the_user(make, rng):
    class Own(type(make())):
        def fit(self, X, y=None, sample_weight=None):
            return super().fit(X, y, sample_weight)

    model = clone(make()).set_params(max_iter=3)
    own = Own(**model.get_params())
    line = Own.fit.__code__.co_firstlineno + 1
    assert places(lambda: own.fit(half_empty()), EMPTY) == {(__file__, line)}


# --- What counts as a line of the user ------------------------------------------------------------------------------


def test_warn_takes_a_category_or_a_warning():
    with pytest.warns(DeprecationWarning, match=r"\Aold\Z"):
        warn("old", DeprecationWarning)
    with pytest.warns(FutureWarning, match=r"\Asoon\Z"):
        warn(FutureWarning("soon"))


def called_from(file, module):
    """Where `warn` points from a function of such a file, called from this one."""
    names = {"__name__": module, "warn": functools.partial(warn, "here")}
    exec(compile("def call():\n    warn()", str(file), "exec"), names)
    return places(lambda: names["call"](), "here")


USERS = {
    "script": ("/home/me/fit.py", "__main__"),
    "notebook": ("<ipython-input-1-0a1b>", "__main__"),
    "string": ("<string>", "__main__"),
    "doctest of ours": ("<doctest skvae.vae.VAETransformer[3]>", "skvae.vae"),
    "torch in the name": ("/home/me/torch_utils.py", "torch_utils"),
    "joblib in the name": ("/home/me/joblib_tools/run.py", "joblib_tools.run"),
    "folder that ends with our name": ("/home/me/my_skvae/fit.py", "my_skvae.fit"),
    "folder of our name": ("/home/me/skvae/tests/test_it.py", "test_it"),
    "package of our name": ("/home/me/skvae/fit.py", "skvae.fit"),
    "beside the package": (PACKAGE.parent / "tests" / "test_it.py", "test_it"),
    "beside the package, same beginning": (PACKAGE.parent / "skvae_extra" / "fit.py", "skvae_extra.fit"),
    "beside torch, same beginning": (Path(torch.__file__).parents[1] / "torchvision" / "a.py", "torchvision.a"),
}
OTHERS = {
    "ours": (PACKAGE / "_data" / "other.py", "skvae._data.other"),
    "scikit-learn": (Path(sklearn.__file__).parent / "pipeline.py", "sklearn.pipeline"),
    "torch": (Path(torch.__file__).parent / "utils" / "data.py", "torch.utils.data"),
    "joblib": ("/lib/joblib/parallel.py", "joblib.parallel"),
    "skops": ("/lib/skops/io/_general.py", "skops.io._general"),
    "pickle": ("/lib/pickle.py", "pickle"),
    "pool": ("/lib/multiprocessing/pool.py", "multiprocessing.pool"),
}


@pytest.mark.parametrize("kind", USERS)
def test_a_file_of_the_user_is_named(kind):
    assert called_from(*USERS[kind]) == {(str(USERS[kind][0]), 2)}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_of_a_library_is_passed_over(kind):
    assert {file for file, _ in called_from(*OTHERS[kind])} == {__file__}


@pytest.mark.slow
def test_a_filter_by_the_users_module_makes_it_an_error(tmp_path):
    """``-W error::UserWarning:__main__`` means warnings of the script's own lines, however the path is spelt."""
    script = tmp_path / "fit.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(PACKAGE.parent) + '/./'!r})\n"
        "from skvae import AutoencoderTransformer\n"
        "model = AutoencoderTransformer(1, max_iter=1, tol=100.0)\n"
        "model.fit([[float(i), float('nan')] for i in range(60)])\n"
    )
    options = ["-W", "error::UserWarning:__main__"]
    done = subprocess.run([sys.executable, *options, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(r"fit\.py\", line 5", done.stderr)
    assert done.stderr.splitlines()[-1].startswith("UserWarning: Column 'x1' holds no value in any training row")
