"""From a user's table to scaled rows and back: checks, names, levels, scales, missing values, tables beyond memory.

Tensors are made here and nowhere above; nothing here knows a network, a score or an estimator.
"""
