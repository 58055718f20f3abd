"""Numbers as text: recognised where nothing else is likelier, read, and written as they came."""

import pickle
from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.finding import find_table
from skvae._tables.kinds import NumericText
from skvae._tables.number_texts import NumberFormat, number_format, plain_numbers
from skvae._tables.table import Table
from skvae.report import synthesis_report

AMOUNTS = np.random.default_rng(0).normal(1500.0, 300.0, 60).round(2)
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2, "tol": 1e3, "random_state": 0}
WAYS = {
    "digits": ("{:.2f}", NumberFormat(2, is_padded=True)),
    "thousands": ("{:,.1f}", NumberFormat(1, is_padded=True, is_grouped=True)),
    "dollars": ("${:,.2f}", NumberFormat(2, is_padded=True, before="$", is_grouped=True)),
    "euros": ("{:.0f} €", NumberFormat(0, is_padded=True, after=" €")),
    "percent": ("{:.1f}%", NumberFormat(1, is_padded=True, after="%")),
    "rupees": ("\u20b9 {:,.2f}", NumberFormat(2, is_padded=True, before="\u20b9 ", is_grouped=True)),
    "no-break": ("{:.2f}\u00a0%", NumberFormat(2, is_padded=True, after="\u00a0%")),
    "powers": ("{:.6e}", NumberFormat(None, is_padded=True)),
}
LIBRARIES = {
    "pandas": lambda X: X,
    "objects": lambda X: X.astype({"amount": object}),
    "strings": lambda X: X.astype({"amount": "string"}),
    "arrow strings": lambda X: X.astype({"amount": pd.ArrowDtype(pa.string())}),
    "polars": pl.from_pandas,
    "arrow": lambda X: pa.Table.from_pandas(X, preserve_index=False),
}


def mass_of(texts):
    return dict.fromkeys(texts, 1.0)


def frame_of(texts):
    return pd.DataFrame({"amount": texts, "x": AMOUNTS[: len(texts)] / 100.0})


def learned(X, **parameters):
    return find_table(X, **{"categorical_features": "from_dtype", "likelihood": "auto"} | parameters)


@pytest.mark.parametrize("way", WAYS)
def test_numbers_are_recognised_read_and_written(way):
    pattern, expected = WAYS[way]
    texts = [pattern.format(amount) for amount in (*AMOUNTS, 0.0)]
    assert number_format(mass_of(texts)) == expected
    values = np.array([expected.read(text) for text in texts])
    assert np.abs(values - [*AMOUNTS, 0.0]).max() <= 0.5
    if way != "powers":
        assert expected.written(values) == texts
    assert [expected.read(text) for text in expected.written(-values)] == (-values).tolist()
    assert NumberFormat.from_state(expected.state()) == expected


COMMAS = {
    "thousands": ("{:,.2f}", NumberFormat(2, is_padded=True, is_grouped=True, has_comma=True)),
    "euros": ("{:.1f}\u00a0€", NumberFormat(1, is_padded=True, after="\u00a0€", has_comma=True)),
    "percent": ("{:.2f} %", NumberFormat(2, is_padded=True, after=" %", has_comma=True)),
    "asked": ("{:.2f}", NumberFormat(2, is_padded=True, has_comma=True)),
}


@pytest.mark.parametrize("way", COMMAS)
def test_commas_before_decimals_are_recognised_read_and_written(way):
    """Where a sign or points between thousands tell that no cell is a pair, or the user that it is a number."""
    pattern, expected = COMMAS[way]
    texts = [pattern.format(amount).translate(str.maketrans(",.", ".,")) for amount in AMOUNTS]
    assert number_format(mass_of(texts), asked=way == "asked") == expected
    values = np.array([expected.read(text) for text in texts])
    assert np.abs(values - AMOUNTS).max() <= 0.0501
    assert expected.written(values) == texts
    assert NumberFormat.from_state(expected.state()) == expected
    earlier = {k: v for k, v in expected.state().items() if k not in ("has_comma", "negative", "group")}
    assert NumberFormat.from_state(earlier) == replace(expected, has_comma=False)


SIGNS = {
    "brackets": ("{:,.2f}", "({:,.2f})", NumberFormat(2, is_padded=True, is_grouped=True, negative="(¤#)¤")),
    "brackets around": ("${:.0f}", "(${:.0f})", NumberFormat(0, is_padded=True, before="$", negative="(¤#)¤")),
    "brackets within": ("$ {:.1f}", "$ ({:.1f})", NumberFormat(1, is_padded=True, before="$ ", negative="¤(#)¤")),
    "brackets of shares": ("{:.1f}%", "({:.1f}%)", NumberFormat(1, is_padded=True, after="%", negative="(¤#¤)")),
    "behind": ("{:.2f}", "{:.2f}-", NumberFormat(2, is_padded=True, negative="¤#-¤")),
    "behind all": ("{:.2f} €", "{:.2f} €-", NumberFormat(2, is_padded=True, after=" €", negative="¤#¤-")),
    "within": ("$ {:,.2f}", "$ -{:,.2f}", NumberFormat(2, True, "$ ", is_grouped=True, negative="¤-#¤")),
    "space": ("{:.2f}", "- {:.2f}", NumberFormat(2, is_padded=True, negative="- ¤#¤")),
    "minus sign": ("{:.2f}", "\u2212{:.2f}", NumberFormat(2, is_padded=True, negative="\u2212¤#¤")),
}


@pytest.mark.parametrize("way", SIGNS)
def test_numbers_below_zero_are_recognised_read_and_written(way):
    above, below, expected = SIGNS[way]
    amounts = 10.0 * (AMOUNTS - 1500.0)
    texts = [(above if amount >= 0.0 else below).format(abs(amount)) for amount in amounts]
    assert number_format(mass_of(texts)) == number_format(mass_of(texts[::-1])) == expected
    values = np.array([expected.read(text) for text in texts])
    assert np.abs(values - amounts).max() <= 0.5
    assert expected.written(values) == texts
    assert NumberFormat.from_state(expected.state()) == expected


@pytest.mark.parametrize("group", [" ", "\u00a0", "\u202f", "'", "\u2019"])
@pytest.mark.parametrize("has_comma", [False, True])
def test_marks_between_thousands_are_recognised_read_and_written(group, has_comma):
    amounts = (AMOUNTS - 1500.0) * 1000.0
    texts = [f"{amount:,.2f}".replace(",", group).replace(".", ",."[not has_comma]) for amount in amounts]
    format = number_format(mass_of(texts))
    assert format == NumberFormat(2, True, is_grouped=True, has_comma=has_comma, group=group)
    values = np.array([format.read(text) for text in texts])
    assert np.abs(values - amounts).max() <= 0.00501
    assert format.written(values) == texts
    assert NumberFormat.from_state(format.state()) == format
    whole = [text[:-3] for text in texts]
    assert number_format(mass_of(whole)) is None  # may be telephone numbers
    assert number_format(mass_of([f"{text} €" for text in whole])) is not None


def test_brackets_may_be_something_else():
    assert number_format(mass_of(texts := [*map(str, AMOUNTS), "(3.1)"])) is None
    assert number_format(mass_of(texts), asked=True).read("(3.1)") == -3.1
    assert number_format(mass_of([f"${amount}" for amount in AMOUNTS] + ["-$3.1", "($3.1)"])) is None
    assert np.isnan(NumberFormat(1, is_padded=True).read("(3.1)"))
    assert NumberFormat(1, is_padded=True, before="$").read("($3.1)") == -3.1


def test_nothing_beside_a_currency_sign_is_a_mark():
    texts = [f"$ {amount:,.2f}" for amount in AMOUNTS]
    dollars = NumberFormat(2, is_padded=True, before="$ ", is_grouped=True)
    assert number_format(mass_of(texts) | {" $ -   ": 60.0}) == dollars


def test_a_space_before_a_sign_makes_no_other_sign():
    texts = [f"{amount}{' ' * (place % 2)}%" for place, amount in enumerate(AMOUNTS)]
    found = number_format(mass_of(texts))
    assert found == number_format(mass_of(texts[::-1]))
    assert [found.read(text) for text in texts] == AMOUNTS.tolist()


def test_what_is_written():
    assert NumberFormat(2, is_padded=False).written(np.array([1.5, 20.0, 0.304, np.nan])) == ["1.5", "20", "0.3", None]
    assert NumberFormat(1, is_padded=True).written(np.array([-0.04, -0.06])) == ["0.0", "-0.1"]
    dollars = NumberFormat(2, is_padded=True, before="$", is_grouped=True)
    assert dollars.written(np.array([-1234567.891])) == ["-$1,234,567.89"]
    assert NumberFormat(0, is_padded=True, after=" %").written(np.array([99.6])) == ["100 %"]
    assert NumberFormat(2, is_padded=True).written(np.array([np.inf, -np.inf])) == ["inf", "-inf"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12.0), (" 12.50 ", 12.5), (".5", 0.5), ("5.", 5.0), ("+1e3", 1000.0), ("-$1,234.5", -1234.5),
        ("$7", 7.0), (3, 3.0), (2.5, 2.5), (None, np.nan), (np.nan, np.nan), ("", np.nan), ("n/a", np.nan),
        ("1,23", np.nan), ("0,125", np.nan), ("1 000", np.nan), ("1_000", np.nan), ("nan", np.nan), ("inf", np.nan),
        ("--5", np.nan), ("(5", np.nan), ("5)", np.nan), ("(-5)", np.nan), ("-5-", np.nan), ("(5.5)", -5.5),
        ("7 €", np.nan), ("$", np.nan), (".", np.nan), ("\u0663", np.nan), (10**400, np.inf), (-(10**400), -np.inf),
    ],
)  # fmt: skip
def test_cells_are_read(text, value):
    np.testing.assert_equal(NumberFormat(2, is_padded=True, before="$").read(text), value)


PLAIN = [str(1000 + number) for number in range(60)]


@pytest.mark.parametrize(
    "texts",
    [
        PLAIN,  # whole numbers alone may be codes
        ["0" + text for text in PLAIN] + ["?"],  # which a number would lose
        ["01." + text for text in PLAIN],
        [f"{number}.5" for number in range(19)] + ["?"],  # of few kinds
        [*PLAIN, "V57", "E9"],  # codes with letters
        [*PLAIN, "98115-4820"],
        [f"{number}.5" for number in range(30)] + ["$3.5"],  # of two units
        [f"1,{number}" for number in range(100, 160)] + ["0,125"],  # decimal commas, or pairs
        [f"{number // 9},{number % 9}" for number in range(60)],  # pairs
        [f"{number},5 %" for number in range(19)],  # of few kinds
        [f"{number},5 %" for number in range(30)] + ["3.5 %"],  # of two ways
        [*PLAIN[:40], "a", "b", "c", "d", "e"],  # one in nine is a word
        ["a", "b"] * 20,
        [],
    ],
)
def test_other_texts_are_no_numbers(texts):
    assert number_format(mass_of(texts)) is None


@pytest.mark.parametrize("blank", ["?", " ", "", "n/a", ".", "Missing"])
def test_a_blank_tells_that_whole_numbers_are_no_codes(blank):
    assert number_format(mass_of([*PLAIN, blank])) == NumberFormat(0, is_padded=True)
    marked = mass_of([*PLAIN, blank]) | {blank: 100.0}  # marks may be many
    assert number_format(marked) == NumberFormat(0, is_padded=True)
    assert number_format(mass_of(PLAIN) | {blank: 0.0}) is None  # of rows that do not count


def test_words_may_be_few():
    assert number_format(mass_of([*PLAIN, "T"])) == NumberFormat(0, is_padded=True)
    assert number_format(mass_of(PLAIN) | {"T": 10.0}) is None


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_column_of_a_frame_is_numbers(library):
    texts = [f"${amount:,.2f}" for amount in AMOUNTS]
    texts[3:5], texts[7] = ["n/a", "n/a"], None
    X = LIBRARIES[library](frame_of(texts))
    told = (
        r"^Texts that cannot be read as the numbers of their column count as missing: column 'amount' \(2: 'n/a'\)\. "
    )
    with pytest.warns(UserWarning, match=told) as fitting:
        table = learned(X)
    assert (len(fitting), table.kinds, table.n_levels) == (1, ("number text", "number"), None)
    with pytest.warns(UserWarning, match=told):
        values = np.asarray(table.encode(X)["amount"], dtype=float)
    assert np.isnan(values).nonzero()[0].tolist() == [3, 4, 7]
    np.testing.assert_array_equal(np.delete(values, [3, 4, 7]), np.delete(AMOUNTS, [3, 4, 7]))


def test_blanks_are_missing_in_silence():
    table = learned(frame_of([*map(str, AMOUNTS[:-2]), " ", ""]))
    assert np.isnan(table.encode(frame_of([" ", "", "12.5"]))["amount"]).tolist() == [True, True, False]


@pytest.mark.parametrize("make", [AutoencoderTransformer, VAETransformer])
def test_estimators_write_numbers_as_they_came(make):
    X = frame_of([f"${amount:,.2f}" for amount in AMOUNTS])
    X.loc[5, "amount"] = " "
    model = make(**SMALL).fit(X)
    tables = [model.impute(X), model.reconstruct(X), model.inverse_transform(model.transform(X))]
    tables.append(model.explain(X[:4]).expected)
    if make is VAETransformer:
        tables += [model.sample(9, random_state=0), model.sample(2, random_state=0, given=X[["x"]][:3])]
    for table in tables:
        assert table.amount.dtype == X.amount.dtype
        assert table.amount.str.fullmatch(r"-?\$[\d,]+\.\d\d").all()
    assert tables[0].amount.drop(5).tolist() == X.amount.drop(5).tolist()
    as_numbers = X.assign(amount=np.where(X.index == 5, np.nan, AMOUNTS))
    scores = make(**SMALL).fit(as_numbers).score_samples(as_numbers)
    np.testing.assert_array_equal(model.score_samples(X), scores)
    np.testing.assert_array_equal(model.score_samples(as_numbers), scores)  # numbers are welcome, too
    assert model.reconstruct(as_numbers).amount.dtype == np.float64
    again = pickle.loads(pickle.dumps(model))
    pd.testing.assert_frame_equal(again.reconstruct(X), tables[1])


def test_an_array_of_the_same_cells_is_read_alike():
    X = frame_of([f"{amount}%" for amount in AMOUNTS])
    model = AutoencoderTransformer(**SMALL).fit(X)
    with pytest.warns(UserWarning, match="^X does not have valid feature names") as told:
        scores, rebuilt = model.score_samples(X.to_numpy()), model.reconstruct(X.to_numpy())
    assert len(told) == 2
    np.testing.assert_array_equal(scores, model.score_samples(X))
    np.testing.assert_array_equal(rebuilt[:, 1], model.reconstruct(X).x)


def test_given_texts_and_numbers_are_kept():
    model = VAETransformer(**SMALL).fit(frame_of([f"${amount:,.2f}" for amount in AMOUNTS]))
    drawn = model.sample(2, given={"amount": ["$1,000.125", 900, 12.25, 0.125]}, random_state=0)
    assert drawn.amount.tolist() == [
        *["$1,000.125"] * 2, *["$900.00"] * 2, *["$12.25"] * 2, *["0.125"] * 2,
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"^Column 'amount' of 'given' must hold numbers, but row 1 holds 'dear'\. "):
        model.sample(given={"amount": ["$5", "dear"]})


def test_numbers_with_a_few_texts_among_them_are_numbers():
    cells = [*AMOUNTS[:-3], "n/a", "7.5", " "]
    X = frame_of(cells)
    with pytest.warns(UserWarning, match=r"column 'amount' \(1: 'n/a'\)\."):
        model = VAETransformer(**SMALL).fit(X)
    drawn = model.sample(5, random_state=0).amount
    assert drawn.dtype == object
    assert all(isinstance(cell, float) for cell in drawn)
    assert model.sample(1, given={"amount": ["7.5"]}, random_state=0).amount.tolist() == [7.5]
    with pytest.warns(UserWarning, match=r"column 'amount' \(1: 'n/a'\)\."):
        filled = model.impute(frame_of(["n/a", "7.5", 3.0])).amount
    assert isinstance(filled[0], float)
    assert filled[1:].tolist() == ["7.5", 3.0]


def test_parameters_overrule():
    X = frame_of([str(amount) for amount in AMOUNTS])
    assert learned(X, categorical_features=["amount"]).n_levels == (len(set(AMOUNTS)), 0)
    assert learned(X.astype({"amount": "category"})).n_levels == (len(set(AMOUNTS)), 0)
    codes = frame_of(PLAIN)
    assert learned(codes).n_levels == (60, 0)
    for parameters in ({"likelihood": {"amount": "gaussian"}}, {"categorical_features": ["x"]}):
        assert isinstance(learned(codes, **parameters).columns[0], NumericText)


def test_keys_are_no_numbers():
    X = frame_of([*PLAIN[:-1], "?"]).rename(columns={"amount": "customer_id"})
    with pytest.warns(UserWarning, match="^Identifiers are left out of the model: column 'customer_id' "):
        assert learned(X).left_out == (0,)


def test_new_texts_have_no_new_level():
    model = AutoencoderTransformer(**SMALL).fit(frame_of([str(amount) for amount in AMOUNTS]))
    known = frame_of(["1499.99", "oops"])
    with pytest.warns(UserWarning, match=r"column 'amount' \(1: 'oops'\)") as told:
        scores = model.score_samples(known)
    assert len(told) == 1
    np.testing.assert_array_equal(scores, model.score_samples(frame_of([1499.99, np.nan])))


def test_a_report_compares_them_as_numbers():
    X = frame_of([f"{amount:.1f}%" for amount in AMOUNTS])
    others = frame_of([f"{amount:.1f}%" for amount in AMOUNTS[::-1] + 0.3])
    assert synthesis_report(X, others).marginal_distance[0] < 0.1


BLANK = {
    "polars": lambda X: X.with_columns(amount=None),
    "arrow": lambda X: X.set_column(0, "amount", pa.nulls(len(X))),
}


@pytest.mark.parametrize("library", BLANK)
def test_a_blank_column_without_a_dtype_is_filled_with_text(library):
    X = LIBRARIES[library](frame_of([f"${amount:,.2f}" for amount in AMOUNTS]))
    blank, values = BLANK[library](X)[:2], np.array([[1234.5, 0.0], [2000.0, 1.0]])
    filled = learned(X).filled(blank, values, np.array([[True, False], [True, False]]))
    assert list(map(str, filled["amount"])) == ["$1,234.50", "$2,000.00"]


def test_categories_of_numbers_as_text_are_filled_with_text():
    """Where the fit had texts; what they hold themselves stays as it is."""
    X = frame_of([f"${amount:,.2f}" for amount in AMOUNTS])
    holed = pd.DataFrame({"amount": pd.Categorical(["1500", None]), "x": [0.0, 1.0]})
    values, missing = np.array([[1500.0, 0.0], [1234.5, 1.0]]), np.array([[False, False], [True, False]])
    filled = learned(X).filled(holed, values, missing)
    assert filled.dtypes.equals(X.dtypes)
    assert filled["amount"].tolist() == ["1500", "$1,234.50"]


def test_plain_numbers():
    np.testing.assert_array_equal(plain_numbers([*PLAIN, "?", None, 5]), [*map(float, PLAIN), np.nan, np.nan, 5.0])
    assert plain_numbers([*PLAIN, b"?"]) is None
    assert plain_numbers(PLAIN) is None
    assert plain_numbers([None, np.nan]) is None


@pytest.mark.parametrize("place", [0, 7])
def test_levels_are_no_numbers_as_text(place):
    state = learned(frame_of([f"{amount}%" for amount in AMOUNTS]).assign(x=["a", "b"] * 30)[["x", "amount"]]).state()
    assert Table.from_state(state).columns[1] == NumericText(NumberFormat(2, is_padded=False, after="%"))
    state["form"]["number_texts"][0][0] = place
    with pytest.raises(ValueError, match="a column of numbers as text has levels"):
        Table.from_state(state)


def test_a_state_that_is_none_is_refused():
    with pytest.raises(ValueError, match="written with 99 digits behind the point"):
        NumberFormat.from_state(NumberFormat(2, is_padded=True).state() | {"digits": 99})
    for wrong in ({"negative": "-#"}, {"negative": "(¤#¤"}, {"negative": "-¤{}¤"}, {"group": "x"}):
        with pytest.raises(ValueError, match="numbers below zero are written as "):
            NumberFormat.from_state(NumberFormat(2, is_padded=True).state() | wrong)
