"""Densities that are fitted to rows, residuals or codes in closed form or by expectation maximisation.

They are frozen, take and return tensors, and know no network, no column and no estimator.
"""
