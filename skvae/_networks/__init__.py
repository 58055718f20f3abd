"""Encoder and decoder with a likelihood: their parameters in one vector, their passes, where they start.

They know scaled rows only: no units, no table, no estimator.

Networks
    ``mlp``: one of them; ``modules``: an autoencoder or a VAE of two, with its loss; ``workspace``: one in buffers,
    with a backward pass by hand.

Where they start
    ``starts``: principal components and factor analysis; ``incomplete_starts``: the same of rows with missing cells;
    ``shrinkage``: how much of the correlations of few rows to believe.
"""
