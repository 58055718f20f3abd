"""A user's table and back: its library, labels and dtypes, what its columns hold, categories as codes, dates as days.

Nothing here knows what a column of numbers means to a model: that is `_data`'s.
"""
