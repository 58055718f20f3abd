"""Rows that several test files draw."""

import numpy as np
import torch


def tensor(values):
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def correlated(rng, n_samples, n_features=4):
    mixing = rng.standard_normal((n_features, n_features))
    return rng.standard_normal((n_samples, n_features)) @ mixing + rng.standard_normal(n_features)
