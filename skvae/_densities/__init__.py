"""Densities that are fitted to rows, residuals or codes in closed form or by expectation maximisation.

They are frozen, take and return tensors, and know no network, no column and no estimator.

What they share
    ``density``: to plain values and back; ``mixture``: Gaussians with diagonal covariances, and their fit.

Of what
    ``gaussian``: residuals; ``residuals``: rows beside their residuals; ``modes``: the same where some are anomalies;
    ``neighbors``: distances to stored rows; ``latent``: codes, as p(z).

Rows that are no example
    ``trimming``: those that look anomalous; ``clumps``: components of few rows; ``strays``: those far from all others;
    ``lengths``: those that hold less noise than others.

Formulas
    ``bounds``: divergences of a posterior, and bounds on log p(x).
"""
