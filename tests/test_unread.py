"""Texts that are none of what their column holds: the one warning that names them."""

import numpy as np
import pytest

from skvae._tables.unread import is_blank, warn_of_unread


def test_a_warning_names_columns_and_quotes_a_few_texts():
    told = (
        r"^Texts that cannot be read as the dates of their column count as missing: column 'a' \(5: 'u', 'v', 'w' and "
        r"1 more\), 'b' \(1: 'n/a'\)\. Correct them, mark the cells as missing, or name the column in "
        r"'categorical_features' when fitting\.$"
    )
    with pytest.warns(UserWarning, match=told):
        warn_of_unread({"a": ["u", "v", "v", "w", "z"], "b": ["n/a"]}, "dates")


def test_nothing_is_told_of_nothing():
    warn_of_unread({}, "numbers")


def test_what_is_blank():
    assert list(map(is_blank, [None, np.nan, " \t", "", "0", 0])) == [True, True, True, True, False, False]
