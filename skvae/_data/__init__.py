"""From columns of numbers to scaled rows and back: checks, scales, marginals, missing values, tables beyond memory.

Tensors are made here and nowhere above; nothing here knows a network, a score or an estimator.

In and out
    ``arrays``: a user's arrays as tensors and back; ``checks``: what is refused; ``sample``: the record of a fit's
    rows, and their split.

What columns are
    ``families``: the family of each one's noise; ``columns``: scales, and scaled rows as raw ones; ``marginals``: a map
    to normal scores in place of a scale, from the curves of ``monotone``; ``quantiles``: how values are distributed,
    for rows that are drawn; ``departures``: what rows hold beside the one value, or the levels, of all training rows.

What networks see
    ``inputs``: scaled rows with their missing values, as an encoder takes them; ``patterns``: which of these are
    missing together.

Many rows
    ``large``: tables beyond memory; ``shards``: those of several processes; ``stream``: chunks one after another.
"""
