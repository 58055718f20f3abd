"""From columns of numbers to scaled rows and back: checks, scales, marginals, missing values, tables beyond memory.

Tensors are made here and nowhere above; nothing here knows a network, a score or an estimator.
"""
