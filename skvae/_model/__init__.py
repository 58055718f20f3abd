"""A model from its plan to a fitted record, and what is asked of it: scores, thresholds, repairs, draws.

An estimator appears here as a plan of plain values, never as itself.
"""
