"""The verbs of the estimators: a user's table in, a user's table out, parameters and fitted attributes between.

The only folder that sees an estimator: it checks what comes in, calls the folders below, and gives back the result.

Verbs, each class a child of the one before
    ``base``: `fit` and `partial_fit`; ``features``: codes, reconstructions, filled gaps, saved state; ``detection``:
    scores, labels, p-values.

A fit
    ``fitting``: what surrounds the call; ``reading``: the table, of all processes; ``progress``: what it prints and
    warns of.

What goes in, and comes out
    ``arguments``: other libraries' words for parameters; ``checks``: width and names of a table; ``conditions``: known
    values of rows that are drawn; ``explanation``: what `explain` returns.
"""
