"""How dates are written as text: recognised, read and written again, and left alone where they may mean two days."""

from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.date_texts import as_iso, iso_form, text_shape, written

MOMENTS = [datetime(2024, 1, 1, 9, 30) + timedelta(days=17 * step, minutes=step) for step in range(60)]
WAYS = {
    "0000-00-00": "%Y-%m-%d",
    "0000-00-00T00:00:00Z": "%Y-%m-%dT%H:%M:%SZ",
    "DD.MM.YYYY": "%d.%m.%Y",
    "MM/DD/YYYY": "%m/%d/%Y",
    "DD-MM-YYYY 00:00": "%d-%m-%Y %H:%M",
    "YYYY/MM/DD 00:00:00": "%Y/%m/%d %H:%M:%S",
    "M/D/YYYY": "{0.month}/{0.day}/{0.year}",
    "D.M.YYYY": "{0.day}.{0.month}.{0.year}",
}


def texts_of(way):
    return [way.format(one) if "{" in way else one.strftime(way) for one in MOMENTS]


@pytest.mark.parametrize("shape", WAYS)
def test_dates_are_recognised_read_and_written(shape):
    texts = texts_of(WAYS[shape])
    assert text_shape([*texts, None]) == shape
    form = iso_form(shape)
    for moment, text in zip(MOMENTS, texts, strict=True):
        assert as_iso(text, shape) == moment.isoformat()[: len(form.removesuffix("Z"))]
        iso = f"{moment:%Y-%m-%d}{text[text.index(form[10]) :]}" if len(form) > 10 else f"{moment:%Y-%m-%d}"
        assert written(iso, shape) == text


@pytest.mark.parametrize(
    "texts",
    [
        ["01/02/2024", "03/04/2024", "12/11/2024"],  # of January or of February
        ["13/01/2024", "01/13/2024"],  # both ways
        ["13.01.2024", "13/02/2024"],  # written in two ways
        ["1/13/2024", "02/14/2024"],  # with zeros in front and without
        ["2/30/2024", "2/14/2024"],  # no day
        ["2024/13/01", "2024/01/13"],  # no month
        ["13/01/2024 10:00", "13/01/2024"],
        ["13/01/24", "14/01/24"],
        ["13/01/2024 9:00", "14/01/2024 9:00"],
        ["1.2", "1.13"],
        [None],
        [],
    ],
)
def test_what_is_no_date_or_may_be_two(texts):
    assert text_shape(texts) is None


def test_first_days_of_months_tell_the_month():
    assert text_shape([f"01/{month:02d}/2024" for month in range(1, 13)]) == "DD/MM/YYYY"
    assert text_shape([f"{month}/1/2024" for month in range(1, 13)]) == "M/D/YYYY"


def test_dates_beyond_those_of_a_shape_are_none():
    assert as_iso("31.12.2024", "DD.MM.YYYY") == "2024-12-31"
    assert as_iso("2024-12-31 10:00", "DD.MM.YYYY") == "2024-12-31T10:00"  # ISO's is never another day
    assert as_iso("12/31/2024", "DD.MM.YYYY") is None
    assert as_iso("31.12.2024", None) is None


@pytest.mark.parametrize("make", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize("shape", ["MM/DD/YYYY", "D.M.YYYY"])
def test_estimators_give_texts_back(make, shape):
    X = pd.DataFrame({"day": texts_of(WAYS[shape]), "x": np.linspace(0.0, 1.0, len(MOMENTS))})
    X.loc[3, "day"] = None
    model = make(max_iter=2, tol=1e3, random_state=0).fit(X)
    for table in (model.reconstruct(X), model.impute(X)):
        assert table.day.dtype == X.day.dtype
        assert all(as_iso(text, shape) for text in table.day)
    known = X.day.notna()
    assert model.impute(X).day[known].tolist() == X.day[known].tolist()
    twice = pd.DataFrame({"day": [f"{one:%Y-%m-%d}" for one in MOMENTS[5:9]], "x": X.x[5:9].to_numpy()})
    np.testing.assert_array_equal(model.score_samples(twice), model.score_samples(X[5:9]))
