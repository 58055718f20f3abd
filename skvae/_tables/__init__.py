"""A user's table and back: its library, labels and dtypes, what its columns hold, categories as codes, dates as days.

Nothing here knows what a column of numbers means to a model: that is `_data`'s.

In and out
    ``table``: the record of a fit, that encodes a table as numbers and decodes numbers into one; ``finding``: how `fit`
    learns it; ``quick``: encoding a few rows cell by cell; ``known``: rows of which some values are given.

How a table looks
    ``form``: library, labels, dtypes; ``dtypes``: what a column of one can hold; ``averages``: several tables as one.

What a column is
    ``kinds``: a record for each kind of column, by which it is encoded and decoded; ``cells``: what cells hold, and
    what no model learns from; ``levels``: categories, rare ones as one; ``identifiers``: what tells rows apart and
    nothing else; ``bins``: intervals.

Text that is something else
    ``number_texts``: numbers; ``date_texts``: dates; ``unread``: what is neither among them.

Dates
    ``dates``: to days since 1970 and back; ``cycles``: weekdays, hours and other cycles that they show;
    ``expansion``: the columns that follow these, behind the others.
"""
