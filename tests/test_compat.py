"""The border to scikit-learn: arrays in and out, weights, cells that are no numbers, callbacks."""

import re
import tomllib
from email.message import Message
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import BaseEstimator

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data.arrays import like_input, like_table, to_tensor
from skvae._data.checks import check_finite, check_weights
from skvae._estimators.checks import check_rows
from skvae._estimators.progress import FitProgress
from skvae._support import compat
from skvae._support.compat import documentation_address


def whole(message):
    """A pattern for a message and nothing around it."""
    return rf"\A{re.escape(message)}\Z"


# --- Weights --------------------------------------------------------------------------------------------------------

ROWS = np.zeros((3, 2))


@pytest.mark.parametrize(
    "weight",
    [[1, 2, 0], np.array([1, 2, 0], dtype=np.float32), torch.tensor([1, 2, 0]), pd.Series([1, 2, 0])],
    ids=lambda weight: type(weight).__name__,
)
def test_weights_become_float64(weight):
    checked = check_weights(weight, len(ROWS))
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, [1.0, 2.0, 0.0])


@pytest.mark.parametrize("weight", [None, 1.0, [1, 1, 1]], ids=repr)
def test_weights_of_one_are_none(weight):
    assert check_weights(weight, len(ROWS)) is None


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (
            [0.0, 0.0, 0.0],
            "Sample weights must contain at least one non-zero number, but all are zero. Leave 'sample_weight' out to "
            "count every row once.",
        ),
        (
            [1.0, -0.5, -2.0],
            "Sample weights must not be negative, but row 1 has -0.5. Use 0 to leave a row out.",
        ),
    ],
)
def test_weights_message(weight, message):
    with pytest.raises(ValueError, match=whole(message)):
        check_weights(weight, len(ROWS))


# --- Arrays and tensors ---------------------------------------------------------------------------------------------


def test_arrays_become_tensors_without_a_copy():
    X = np.arange(6.0).reshape(2, 3)
    tensor = to_tensor(X)
    X[0, 0] = 9.0
    assert tensor[0, 0] == 9.0
    graph = torch.ones(2, requires_grad=True) * 2
    assert not to_tensor(graph).requires_grad


@pytest.mark.parametrize("spoil", ["read-only", "reversed", "transposed"])
def test_arrays_that_torch_cannot_view(spoil):
    """It warns of read-only arrays and refuses negative strides."""
    X = np.arange(6.0).reshape(2, 3)
    if spoil == "read-only":
        X.flags.writeable = False
    X = {"reversed": X[::-1, ::-1], "transposed": X.T}.get(spoil, X)
    np.testing.assert_array_equal(to_tensor(X).numpy(), X)


@pytest.mark.parametrize("like", [np.zeros(1, np.float32), np.zeros(1), torch.zeros(1)], ids=repr)
def test_results_are_like_the_input(like):
    values = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    result = like_input(values, like)
    assert type(result) is type(like)
    assert result.dtype == like.dtype
    assert result.tolist() == [[1.0, 2.0]]
    assert str(like_input(values, like, dtype="int64").dtype).endswith("int64")


def test_like_table_keeps_kind_and_labels():
    values = np.arange(4.0).reshape(2, 2)
    frame = like_table(values, pd.DataFrame({"a": [0, 0], "b": [0, 0]}, index=["r", "s"]))
    pd.testing.assert_frame_equal(frame, pd.DataFrame({"a": [0.0, 2.0], "b": [1.0, 3.0]}, index=["r", "s"]))
    frame = like_table(values, pl.DataFrame({"a": [0, 0], "b": [0, 0]}))
    assert frame.equals(pl.DataFrame({"a": [0.0, 2.0], "b": [1.0, 3.0]}))


# --- Cells that are no numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_keep_their_precision(dtype):
    X = np.ones((2, 2), dtype)
    assert check_rows(None, X).dtype == dtype
    assert check_rows(None, X.astype(np.int32)).dtype == np.float64


@pytest.mark.parametrize(
    ("dtype", "expected"), [("float64", "float64"), ("float16", "float32"), ("bfloat16", "float32")]
)
def test_tensors_become_arrays(dtype, expected):
    """Those with a graph too; NumPy has no bfloat16."""
    X = torch.ones(2, 2, dtype=getattr(torch, dtype), requires_grad=True)
    checked = check_rows(None, X)
    assert isinstance(checked, np.ndarray)
    assert checked.dtype == expected


TEXT = (
    "Columns must hold numbers or categories, but column 'city', no category of this model, holds 'Rome' in row 1. "
    "Mark the cell as missing, or fit with the column in 'categorical_features'."
)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_text_message_names_the_cell(frame):
    with pytest.raises(ValueError, match=whole(TEXT)):
        check_rows(BaseEstimator(), frame({"age": [1.0, 2.0], "city": ["3", "Rome"]}), reset=True)


@pytest.mark.parametrize("parameters", [{}, {"categorical_features": [0]}, {"likelihood": {0: "student_t"}}], ids=repr)
def test_complex_numbers_are_refused_in_the_same_words(parameters):
    """Whether or not a column is asked for its levels first."""
    message = (
        "Complex data not supported: columns must hold real numbers, but X is complex. Pass numpy.hstack([X.real, "
        "X.imag]), or numpy.abs(X)."
    )
    with pytest.raises(ValueError, match=whole(message)):
        AutoencoderTransformer(**parameters).fit(np.ones((10, 1)) + 1j)


def test_text_message_numbers_the_columns_of_an_array():
    with pytest.raises(ValueError, match=whole(TEXT.replace("city", "x1"))):
        check_rows(None, np.array([[1.0, 2.0], [1.0, "Rome"]], dtype=object))


@pytest.mark.parametrize("n_rows", [1, 200_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_tables_pass(n_rows, dtype):
    """Also where a sum would overflow, or where a cell is missing."""
    values = torch.full((n_rows, 2), torch.finfo(dtype).max, dtype=dtype)
    values[0, 0] = torch.nan
    check_finite(values, ["a", "b"])


INFINITE = (
    "Columns must hold finite or missing values, but {}. Drop such rows, or replace the value by NaN to mark it as "
    "missing."
)


@pytest.mark.parametrize(("value", "shown"), [(torch.inf, "inf"), (-torch.inf, "-inf")])
@pytest.mark.parametrize("row", [0, 65_535, 65_536, 70_000])
def test_first_wrong_cell_of_each_column_is_named(value, shown, row):
    """65,536 rows are looked at at once; infinities of both signs do not cancel."""
    values = torch.zeros(70_001, 4)
    values[row, 1] = value
    values[70_000, 1] = value
    told = f"column 'b' holds {shown} in row {row}"
    with pytest.raises(ValueError, match=whole(INFINITE.format(told))):
        check_finite(values, "abcd")
    values[70_000, 0] = torch.inf
    values[0, 3] = torch.nan
    both = f"column 'a' holds inf in row 70000, {told}"
    with pytest.raises(ValueError, match=whole(INFINITE.format(both))):
        check_finite(values, "abcd")


def test_infinite_columns_beyond_ten_are_counted():
    told = ", ".join(f"column 'x{index}' holds -inf in row 0" for index in range(10))
    with pytest.raises(ValueError, match=whole(INFINITE.format(f"{told}; the same holds for 3 more"))):
        check_finite(torch.full((2, 13), -torch.inf), [f"x{index}" for index in range(13)])


# --- Callbacks ------------------------------------------------------------------------------------------------------


def test_progress_without_callbacks_never_stops():
    """An estimator that knows none, as before scikit-learn 1.9."""
    progress = FitProgress(object(), 3, ROWS, dict)
    assert not progress.epoch()
    progress.end()


class Context:
    """Records what scikit-learn's callback context is told."""

    def __init__(self, log, name="fit"):
        self.log, self.name = log, name

    def subcontext(self, *, task_name):
        return Context(self.log, task_name)

    def call_on_fit_task_begin(self, **arguments):
        self.log.append((self.name, "begin", arguments))

    def call_on_fit_task_end(self, **arguments):
        self.log.append((self.name, "end", arguments))
        return len(self.log) > 4  # the second epoch asks to stop


def test_progress_reports_every_epoch():
    log = []

    class Estimator:
        def _init_callback_context(self, *, max_subtasks):
            log.append(("init", max_subtasks, {}))
            return Context(log)

    estimator, attributes = Estimator(), dict
    progress = FitProgress(estimator, 7, ROWS, attributes)
    assert [progress.epoch(), progress.epoch()] == [False, True]
    progress.end()
    steps = [("init", 7), ("fit", "begin")] + [("epoch", "begin"), ("epoch", "end")] * 2 + [("fit", "end")]
    assert [entry[:2] for entry in log] == steps
    for _, _, arguments in log[1:]:
        assert arguments["estimator"] is estimator
        assert arguments["X"] is ROWS
        assert arguments["y"] is ROWS  # an autoencoder's target is its input
    for name, moment, arguments in log:
        assert (arguments.get("reconstruction_attributes") is attributes) == (moment == "end"), name


# --- The link from an estimator's HTML picture to its page ----------------------------------------------------------

ROOT = Path(__file__).resolve().parents[1]


def package_with(*urls):
    """Metadata of an installed package with these project URLs."""
    message = Message()
    for url in urls:
        message["Project-URL"] = url
    return lambda name: message


@pytest.mark.parametrize("cls", [AutoencoderTransformer, VAETransformer])
def test_picture_links_to_the_page_of_the_estimator(cls, monkeypatch):
    urls = ("Source, https://source.example", "Documentation, https://docs.example/skvae/")
    monkeypatch.setattr(compat, "metadata", package_with(*urls))
    page = f"https://docs.example/skvae/api/generated/skvae.{cls.__name__}.html"
    assert f'href="{page}"' in cls()._repr_html_()
    # The page of that name is made by the index of the interface.
    index = (ROOT / "docs" / "api" / "index.rst").read_text(encoding="utf-8")
    assert ":toctree: generated" in index
    assert f"   {cls.__name__}\n" in index.split(".. currentmodule:: skvae\n")[1].split("..")[1]


@pytest.mark.parametrize("urls", [(), ("Source, https://source.example",)], ids=["no address", "others only"])
def test_picture_has_no_link_where_no_site_is_published(urls, monkeypatch):
    monkeypatch.setattr(compat, "metadata", package_with(*urls))
    assert AutoencoderTransformer()._get_doc_link() == ""
    assert "sk-estimator-doc-link" in AutoencoderTransformer()._repr_html_()  # the style sheet names it
    assert '<a class="sk-estimator-doc-link' not in AutoencoderTransformer()._repr_html_()


def test_picture_has_no_link_where_the_package_is_not_installed(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(compat, "metadata", absent)
    assert AutoencoderTransformer()._get_doc_link() == ""


def test_address_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert documentation_address() == project["urls"]["Documentation"]
    assert project["urls"]["Documentation"] in AutoencoderTransformer()._repr_html_()
