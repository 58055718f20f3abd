"""A model from its plan to a fitted record, and what is asked of it: scores, thresholds, repairs, draws.

An estimator appears here as a plan of plain values, never as itself.

Before training
    ``plan``: the parameters; ``autoencoder_plan``, ``vae_plan``: what "auto" means, with the numbers of ``sizes``;
    ``design``: all resolved; ``preparing``: rows split and scaled, a module at its start; ``passes``: which rows of a
    large table train.

After training
    ``finishing``: densities; ``noise_scales``: those of a VAE, by rows that did not train; ``folds``: the same without
    some of the rows; ``calibration``: the threshold, by the formulas of ``thresholds``.

What is left
    ``fitted``: a record of one ``member`` for each network, with the densities that score by it.

Scores
    ``comparison``: a scaled row against its reconstruction; ``scores``: a class for each; ``masses``: likelihoods of
    values that have a mass; ``inference``: networks over chunks of raw rows; ``row_scores``: scores of these, in the
    user's units; ``known_anomalies``: what scores learn of them, and ``labelled``, what they then know.

Other verbs
    ``attribution``: which cells are to blame; ``imputation``: what missing ones are expected to be; ``conditional``,
    ``sampling``: rows that are drawn; ``paths``: ways between codes; ``codes``: what those of the training rows say.

Files
    ``persistence``: plain values of a fitted model and back; ``saved_checks``: whether these are what a fit leaves.
"""
