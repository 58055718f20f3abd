"""Encoder and decoder with a likelihood: their parameters in one vector, their passes, where they start.

They know scaled rows only: no units, no table, no estimator.
"""
