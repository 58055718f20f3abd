"""Tables to codes and back, in every library and dtype."""

import pickle
import re
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae._estimators.checks import check_rows
from skvae._tables.finding import find_table
from skvae._tables.form import Form, dtypes_of
from skvae._tables.kinds import Categorical, Numeric
from skvae._tables.table import Table, column_numbers

FRAME = pd.DataFrame(
    {
        "size": [1.5, 2.5, np.nan, 4.5],
        "colour": ["red", None, "blue", "red"],
        "flag": [True, False, True, True],
        "age": [30, 40, 50, 60],
    }
)
CODES = np.array([[1.5, 1.0, 1.0, 30.0], [2.5, np.nan, 0.0, 40.0], [np.nan, 0.0, 1.0, 50.0], [4.5, 1.0, 1.0, 60.0]])
LEVELS = (None, ("blue", "red"), (False, True), None)
OBJECTS = FRAME.astype(object).where(FRAME.notna(), None)

TABLES = {
    "text": FRAME,
    "objects": OBJECTS,
    "array": OBJECTS.to_numpy(dtype=object),
    "lists": OBJECTS.to_numpy(dtype=object).tolist(),
    "categories": FRAME.astype({"colour": "category", "flag": "category"}),
    "string": FRAME.astype({"colour": "string", "flag": "boolean", "age": "Int64", "size": "Float64"}),
    "arrow": FRAME.astype({"colour": "large_string[pyarrow]", "flag": "bool[pyarrow]", "age": "int64[pyarrow]"}),
    "polars": pl.DataFrame(OBJECTS.to_dict("list")),
    "polars-categories": pl.DataFrame(OBJECTS.to_dict("list")).with_columns(pl.col("colour").cast(pl.Categorical)),
    "polars-enum": pl.DataFrame(OBJECTS.to_dict("list")).with_columns(pl.col("colour").cast(pl.Enum(["red", "blue"]))),
}


def learned(X, **options):
    return find_table(X, **({"categorical_features": "from_dtype", "likelihood": "auto"} | options))


def levels_of(table):
    return tuple(column.levels if isinstance(column, Categorical) else None for column in table.columns)


def exactly(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("kind", TABLES)
def test_every_library_and_dtype_has_the_same_levels_and_codes(kind):
    """Sorted, whatever the order of the rows or of the dtype's own categories."""
    table = learned(TABLES[kind])
    assert levels_of(table) == LEVELS
    assert table.n_levels == (0, 2, 2, 0)
    np.testing.assert_array_equal(check_rows(None, table.encode(TABLES[kind])), CODES)


@pytest.mark.parametrize("kind", TABLES)
def test_codes_turn_back_into_the_table(kind):
    X = TABLES[kind]
    table = learned(X)
    complete = np.where(np.isnan(CODES), 0.0, CODES)
    again = table.decode(complete)
    if isinstance(X, pd.DataFrame):
        assert (again.dtypes == X.dtypes).all()
        assert list(again.columns) == list(X.columns)
        seen = X.notna()
        assert (again[seen].dropna() == X[seen].dropna()).all(axis=None)
        assert again["colour"].tolist() == ["red", "blue", "blue", "red"]
    elif isinstance(X, pl.DataFrame):
        assert again.schema == X.schema
        assert again["colour"].to_list() == ["red", "blue", "blue", "red"]
    else:
        assert again.dtype == object
        assert again[:, 1].tolist() == ["red", "blue", "blue", "red"]


@pytest.mark.parametrize("kind", TABLES)
def test_state_of_plain_values_rebuilds_the_table(kind):
    table = learned(TABLES[kind])
    again = Table.from_state(pickle.loads(pickle.dumps(table.state())))
    assert again == table


def test_tables_of_numbers_have_no_levels():
    """Of an array nothing is kept, of a frame its form."""
    numbers = FRAME[["size", "age"]]
    for X in (numbers.to_numpy(), numbers.to_numpy().astype(object), [[1.0], [2]]):
        assert learned(X) is None
    for X in (numbers, pl.from_pandas(numbers), pa.Table.from_pandas(numbers)):
        table = learned(X)
        assert (table.columns, table.n_levels, table.kinds) == ((Numeric(), Numeric()), None, ("number", "number"))
    assert learned(np.array([["1", "2.5"], ["3", "nan"]])) is None
    assert levels_of(learned(np.array([["1", "a"], ["3", "b"]]))) == (None, ("a", "b"))


def test_listed_columns_are_categorical_and_no_others():
    numbers = FRAME[["size", "flag", "age"]]
    for listed in ([2], ["age"], [False, False, True], np.array([2])):
        table = learned(numbers, categorical_features=listed)
        assert levels_of(table) == (None, None, (30.0, 40.0, 50.0, 60.0))
    assert learned(FRAME[["size", "age"]].to_numpy(), categorical_features=[1]).n_levels == (0, 4)
    assert learned(numbers, categorical_features=None).n_levels is None
    assert learned(FRAME[["size", "age"]], likelihood="categorical").n_levels == (3, 4)


def test_likelihood_of_a_column_overrules_its_dtype():
    table = learned(FRAME, likelihood={"flag": "bernoulli", 3: "categorical"})
    assert table.n_levels == (0, 2, 0, 4)
    assert table.decode(np.array([[1.5, 1.0, 0.7, 2.0]])).iloc[0].tolist() == [1.5, "red", True, 50]


def test_rows_that_do_not_count_bring_no_level():
    assert learned(FRAME, weight=np.array([1.0, 2.0, 0.0, 0.5])).columns[1].levels == ("red",)


def test_new_levels_are_missing_and_said_once():
    table = learned(FRAME)
    later = FRAME.assign(colour=["red", "pink", "grey", "blue"])
    message = (
        "Levels that no fitted row has count as missing: column 'colour' ('pink', 'grey'). Fit on rows with all "
        "levels, or replace them by NaN."
    )
    with pytest.warns(UserWarning, match=exactly(message)) as told:
        coded = table.encode(later)
    assert len(told) == 1
    np.testing.assert_array_equal(coded["colour"], [1.0, np.nan, np.nan, 0.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.encode(later, quiet=True)
    assert table.missing(later)[:, 1].tolist() == [False] * 4
    assert table.missing(FRAME)[:, 1].tolist() == [False, True, False, False]


def test_single_precision_stays_where_all_numbers_have_it():
    single = FRAME.astype({"size": "float32"})
    assert (learned(single[["size", "colour"]]).encode(single[["size", "colour"]]).dtypes == "float32").all()
    assert learned(single).encode(single)["colour"].dtype == "float64"


def test_integers_are_rounded_into_the_range_of_their_dtype():
    frame = pd.DataFrame({"n": np.array([1, 2], dtype="uint8"), "k": ["a", "b"]})
    decoded = learned(frame).decode(np.array([[-3.2, 0.0], [2.6, 1.0], [300.0, 1.0]]))
    assert decoded["n"].tolist() == [0, 3, 255]
    assert decoded["n"].dtype == "uint8"


WHOLE = [3, 250, 3]
# Beside the dtype of a column with these values: what 1.6, -7.2 and 1e30 become in it.
NUMBERS = {
    "uint8": (pd.DataFrame({"n": np.array(WHOLE, "uint8")}), [2, 0, 255]),
    "int64": (pd.DataFrame({"n": WHOLE}), [2, -7, 2**63 - 1024]),
    "UInt16": (pd.DataFrame({"n": pd.array(WHOLE, "UInt16")}), [2, 0, 65535]),
    "float32": (pd.DataFrame({"n": np.array(WHOLE, "float32")}), [1.6, -7.2, 1e30]),
    "float16": (pd.DataFrame({"n": np.array(WHOLE, "float16")}), [1.6, -7.2, 65504.0]),
    "bool": (pd.DataFrame({"n": [True, False, True]}), [True, False, True]),
    "objects of integers": (pd.DataFrame({"n": pd.Series(WHOLE, dtype=object)}), [2, -7, int(1e30)]),
    "objects of decimals": (
        pd.DataFrame({"n": [Decimal(3), Decimal(250), Decimal(3)]}),
        [Decimal("1.6"), Decimal("-7.2"), Decimal("1e30")],
    ),
    "categories": (pd.DataFrame({"n": pd.Categorical(WHOLE)}), [3, 3, 250]),
    "int8[arrow]": (pd.DataFrame({"n": pd.Series([3, 25, 3], dtype="int8[pyarrow]")}), [2, -7, 127]),
    "decimal[arrow]": (
        pd.DataFrame({"n": pd.Series(WHOLE, dtype=pd.ArrowDtype(pa.decimal128(5, 1)))}),
        [Decimal("1.6"), Decimal("-7.2"), Decimal("9999.9")],
    ),
    "dictionary[arrow]": (
        pd.DataFrame({"n": pd.Series(WHOLE, dtype=pd.ArrowDtype(pa.dictionary(pa.int8(), pa.int64())))}),
        [3, 3, 250],
    ),
    "polars UInt8": (pl.DataFrame({"n": pl.Series(WHOLE, dtype=pl.UInt8)}), [2, 0, 255]),
    "polars Int128": (pl.DataFrame({"n": pl.Series(WHOLE, dtype=pl.Int128)}), [2, -7, int(1e30)]),
    "polars Boolean": (pl.DataFrame({"n": [True, False, True]}), [True, False, True]),
    "polars Decimal": (
        pl.DataFrame({"n": pl.Series(WHOLE, dtype=pl.Decimal(5, 1))}),
        [Decimal("1.6"), Decimal("-7.2"), Decimal("9999.9")],
    ),
    "Arrow uint8": (pa.table({"n": pa.array(WHOLE, pa.uint8())}), [2, 0, 255]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_come_back_in_their_dtype(kind):
    """Rounded, and within the range of the dtype, from the training table's form and from that of later rows."""
    X, expected = NUMBERS[kind]
    table = learned(X, categorical_features=None)
    for form in (table, Table.from_state(pickle.loads(pickle.dumps(table.state())))):
        for again in (
            form.decode(np.array([[1.6], [-7.2], [1e30]])),
            form.decode(np.array([[1.6], [-7.2], [1e30]]), X),
        ):
            assert dtypes_of(again) == dtypes_of(X)
            cells = again["n"].to_pylist() if isinstance(X, pa.Table) else again["n"].to_list()
            assert cells == (pytest.approx(expected, rel=1e-3) if "float" in kind else expected)


def test_row_labels_are_those_of_the_table_that_lends_its_form():
    frame = FRAME.set_index(pd.Index([7, 8, 9, 10]))
    assert learned(FRAME).decode(CODES, frame).index.tolist() == [7, 8, 9, 10]


def test_text_without_any_value_has_no_levels_and_stays_missing():
    frame = FRAME.assign(colour=pd.Series([None] * 4, dtype="str"))
    table = learned(frame)
    assert table.columns[1] == Categorical(())
    assert np.isnan(table.encode(FRAME)["colour"]).all()
    assert table.decode(np.full((2, 4), 0.0) * [1, np.nan, 1, 1])["colour"].isna().all()


MIXED = (
    "Column 'k' must hold one kind of value, but row 0 holds 'a' and row 2 holds 3. Make them one kind, for example "
    "with astype(str), or mark one of them as missing."
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None, 3], MIXED),
        (
            pd.Categorical([pd.Timestamp("2026-01-02")]),
            "Column 'k' must hold text, booleans or numbers to be categorical, but row 0 holds "
            "Timestamp('2026-01-02 00:00:00'), a Timestamp. Turn it into text or numbers first.",
        ),
    ],
    ids=["mixed", "times"],
)
def test_columns_that_are_no_categories_are_refused_by_name(values, message):
    with pytest.raises(ValueError, match=exactly(message)):
        learned(pd.DataFrame({"k": values}))


def test_255_levels_are_allowed():
    assert learned(pd.DataFrame({"k": [f"id{i}" for i in range(255)]})).n_levels == (255,)


def test_names_that_repeat_are_refused():
    frame = pd.DataFrame([[1.0, 2.0]], columns=["a", "a"])
    message = "Columns must have names of their own, but 2 are called 'a'. Rename or drop some of them."
    with pytest.raises(ValueError, match=exactly(message)):
        learned(frame)


def test_category_that_became_a_number_is_refused():
    message = (
        "Column 'colour' must hold text, as in the rows that were fitted, but row 0 holds 1.0. Pass the column as it "
        "was fitted."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        learned(FRAME).encode(FRAME.assign(colour=[1.0, 2.0, 3.0, 4.0]))
    with pytest.raises(ValueError, match="^Column 'age' must hold numbers, as in the rows"):
        learned(FRAME[["age"]], categorical_features=["age"]).encode(FRAME[["age"]].assign(age=["x"] * 4))


def test_truth_values_may_come_as_zeros_and_ones():
    assert learned(FRAME).encode(FRAME.assign(flag=[1, 0, 1.0, 0]))["flag"].tolist() == [1.0, 0.0, 1.0, 0.0]


def test_width_and_kind_of_later_tables_are_checked():
    table = learned(FRAME)
    message = (
        "X has 3 columns, but the model was fitted on 4. Pass the columns that it was fitted on, in the same order."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        table.encode(FRAME[["size", "colour", "flag"]])
    message = (
        "The model has columns of other than numbers, so that X must be a NumPy array or a DataFrame of pandas or "
        "polars, but a int came. Convert it first."
    )
    with pytest.raises(TypeError, match=exactly(message)):
        table.encode(3)


def test_parameters_that_name_no_column_are_refused():
    message = (
        "The 'likelihood' parameter must name columns of X, by label or by number from 0 to 1, but 'c' came. X has the "
        "columns 'a', 'b'."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        column_numbers(["c"], ("a", "b"), "likelihood")
    assert column_numbers(["b", 0, np.int64(1)], ("a", "b"), "likelihood") == [1, 0, 1]
    message = (
        "The 'categorical_features' parameter must hold a boolean for each of the 4 columns, but its shape is "
        "(2,). Give names or numbers of columns to list only some."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        learned(FRAME, categorical_features=[True, False])
    with pytest.raises(TypeError, match="^The 'categorical_features' parameter needs a NumPy array or a DataFrame"):
        learned(3, categorical_features=[0])


def test_arrays_of_truth_values_come_back_as_such():
    X = np.array([[True, False], [False, False], [True, True]])
    table = learned(X)
    assert levels_of(table) == ((False, True), (False, True))
    again = table.decode(np.asarray(table.encode(X), dtype=float))
    assert again.dtype == bool
    assert (again == X).all()


def test_form_of_an_array_of_numbers_builds_one():
    X = np.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(Form.of(X).build(list(X.T)), X)


@pytest.mark.parametrize("options", [{"likelihood": {0: "student_t"}}, {"categorical_features": [0]}])
def test_no_column_is_left_to_the_check_of_the_table(options):
    assert learned(np.empty((12, 0)), **options) is None
