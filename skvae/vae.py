"""The variational autoencoder."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._data.arrays import like_input, to_tensor
from ._densities.bounds import effective_sample_size, importance_weighted_bound
from ._estimators.conditions import read_conditions, warn_of_few_codes
from ._estimators.detection import BaseDetector
from ._model.codes import summarise_codes
from ._model.fitted import Fitted
from ._model.imputation import conditional_mean
from ._model.inference import apply, averaged
from ._model.member import Member
from ._model.row_scores import in_units
from ._model.sampling import blanked, drawn_rows, rows_given
from ._model.scores import DENSITY_DRAWS, SCORE_DRAWS, checked_draws, log_weights, score_names
from ._model.vae_plan import VAEPlan
from ._support.compat import Interval, NamesOf, StrOptions, check_is_fitted
from ._support.device import make_generator, make_random_state, seed_from
from ._support.warnings import warn

__all__ = ["CollapseWarning", "VAETransformer"]

# Where no component exceeds it the code says nothing about the row; among fewer rows none may be expected to.
_COLLAPSE_KL = 0.01
_COLLAPSE_ROWS = 50
# Below two effective draws, one draw alone makes the estimate.
_MIN_EFFECTIVE = 2.0
_EFFECTIVE_ROWS = 256
# Draws of the code behind a filled cell, fewer where many rows have taught the posterior; the time of `impute` grows
# with them.
_IMPUTATION_DRAWS = (100, 400)
_IMPUTATION_WORK = 2_000_000


class CollapseWarning(UserWarning):
    """The latent code says nothing about the rows: every row decodes to the same distribution."""


class VAETransformer(BaseDetector):
    r"""Variational autoencoder with the interface of PCA and GaussianMixture.

    It encodes a row into a distribution N(mean, scale²) that a KL term pulls towards N(0, I), so that its latent space
    is continuous: one can interpolate in it and sample from it.

    .. math:: \log p(x) \ge E_{q(z \mid x)} \log p(x \mid z) - \beta \, \mathrm{KL}(q(z \mid x) \,\|\, N(0, I))

    Training starts at factor analysis, which a linear path beside the network reproduces exactly.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the latent space; may exceed the number of columns. "auto" is 80 % of the columns, or, where there are
        100 rows for each column and ``score_method`` is "log_likelihood" or "elbo", all of them; from 2 to 16.
    hidden_layer_sizes : "auto", int or array-like of int, default="auto"
        Widths of the encoder's hidden layers; the decoder mirrors them. A linear path runs beside them; with ``()``
        it is the whole network. "auto" is (128, 128).
    activation : {"identity", "logistic", "tanh", "relu", "elu", "silu", "gelu"}, default="silu"
        Activation of the hidden layers.
    likelihood : str or dict, default="auto"
        p(x given z) of the columns: "gaussian", "student_t", "bernoulli", "categorical", "poisson",
        "negative_binomial" or "auto". A dict names it for some columns, by label or number, and leaves the others at
        "auto", which for numbers is "student_t", a Gaussian where the data have no heavy tails; where more
        than 1 % of the cells are missing, with one noise scale per column unless ``scale`` says otherwise.
        Gaussian and Student-t columns have learned noise scales, see ``scale``. Categorical columns are always
        "categorical".
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns are categorical: "from_dtype" takes those of text, booleans and pandas' or polars' categories,
        an array-like holds a boolean for each column, or names or numbers of columns, and None means none. Of more
        than 255 levels the 254 most frequent are told apart; the others count as one, with a warning, and are drawn in
        proportion to their frequencies. A level that no training row has brings a warning: it scores no higher than the
        rarest one, as an anomaly where new levels were not to be expected, and counts as missing elsewhere. Columns
        that only name or number the rows are left out, with a warning, unless this parameter or ``likelihood`` names
        them. In a DataFrame, numbers and dates as text are no categories.
    decoder : {"independent", "autoregressive"}, default="independent"
        Whether the columns of a row are independent given the code, or each depends on those before it as well, through
        one more network: more nats, and drawn rows more like real ones, for more time. Refuses ``standardize=False``
        without ``marginals``. "auto" means at most 6 ``n_components``, 3,000 steps, a ``min_scale`` of 0.005, a
        ``latent_density`` "mixture", an ``alpha`` of 0.1, and five Student-t's a number.
    beta : float, default=1.0
        Weight of the KL divergence. 1 is the evidence lower bound; more makes the latent space smoother and the
        reconstruction coarser.
    kl_warmup : float, default=0.0
        Share of the optimiser steps over which the weight of the KL grows from 0 to ``beta``.
    dropout : float or "auto", default="auto"
        Share of the hidden units that is dropped in each training step, so that noise scales that differ from cell to
        cell do not fit single rows. "auto" is 100 / (training rows), at most 0.3, and 0 below 0.02 or where more than
        1 % of the cells are missing.
    scale : {"dependent", "constant", "shared"}, default="dependent"
        Whether the noise scale of Gaussian and Student-t columns follows the latent code, is one number for each
        column, or one for all of them, which suits columns of one unit such as pixels, with ``standardize=False``.
    min_scale : float or "auto", default="auto"
        Least noise scale of Gaussian and Student-t columns, in units of the column's standard deviation. "auto" is
        0.01, 0.02 where p(z) is learned, and 0.03 where more than 1 % of the cells are missing.
    n_draws : int or "auto", default="auto"
        Posterior draws of the importance-weighted log p(x), of `log_likelihood`, `effective_sample_size` and `score`;
        the same random numbers for every row. "auto" is 32. `score_samples` and what follows from it draw with
        ``score_method="log_likelihood"`` or "elbo" alone, and then 8: they need an order of the rows rather than a
        density, and on 22 sets of anomalies the two rank alike (AUROC 87.2 and 87.1). A number holds for all of them.
    n_training_draws : int or "auto", default="auto"
        Posterior draws of each row in a training step. Above 1 the importance-weighted bound is maximised, without
        dropout: a tighter bound and a broader posterior, at as many passes of the decoder. It pays to fit with 1
        first and to go on with more by ``warm_start``. "auto" is 1, and 5 where more than 5 % of the cells are missing,
        unless ``decoder``, ``beta``, ``kl_warmup``, ``dropout`` or ``latent_density="learned"`` make it one.
    binarize : bool, default=False
        With ``likelihood="bernoulli"``: whether the cells of X are shares of ones, as the grey values of images are,
        from which every epoch draws rows of 0 and 1 anew. The fitted model then describes such rows.
    latent_density : {"auto", "learned", "mixture", "normal"} or int, default="auto"
        p(z), of which p(x) is made and from which it samples. "normal" is N(0, I), as in training. "mixture"
        chooses after training among N(0, I) and mixtures of up to 64 Gaussians of the training rows' codes, by the
        likelihood of codes left out; of few rows several codes each. A number is the size of such a mixture. "learned"
        makes the mixture p(z) of the training itself: half of the steps, at a tenth of ``beta``, part the modes, the
        mixture is fitted, and the weight returns to ``beta`` while the mixture follows the codes; ``kl_warmup`` is not
        used. It keeps every mode of tables of few columns, and costs likelihood on wider ones; chunks of `partial_fit`
        part no modes, and have a "mixture" instead until a `fit`. "auto" is "learned" for at least 800 training rows of
        at most 3 continuous columns with at most 1 % missing cells, unless ``beta`` or ``kl_warmup`` is set; else
        "mixture".
    standardize : bool, default=True
        Whether columns are centred and scaled inside. Every score and output is in the user's units all the same.
    marginals : "auto" or None, default=None
        How columns of real numbers are scaled. None: as ``standardize`` says. "auto": instead, each is mapped to normal
        scores by what its values are. Whole numbers, indicators and other grids of up to 512 values, and values among a
        continuum that 1 % of the rows share, such as zeros, get masses of their own; a continuum gets a smooth
        monotone map that straightens skewed and heavy tails. Rows that are drawn, decoded or filled in then hold
        values of such grids, and log-densities count the mass of a value that has one, the density of others. Beyond
        the training rows the map goes on in straight lines.
    contamination : "auto" or float, default="auto"
        "auto": the training rows count as clean, and ``offset_`` is calibrated on rows that did not train. A float in
        (0, 0.5]: that share of the training rows is anomalous; the worst rows are kept out of the training, and
        ``offset_`` is the quantile of the scores of all training rows.
    false_alarm_rate : float, default=0.05
        With ``contamination="auto"``: the share of fresh normal rows that `predict` may flag.
    calibration_fraction : "auto", float or "cross_fit", default="auto"
        With ``contamination="auto"``: about the share of the rows that is set aside to calibrate ``offset_`` and the
        noise scales, by their likelihood; at least what ``false_alarm_rate`` needs, at most 1,000 rows. The
        threshold is steadier with more rows: placed on n of them, it flags a share of fresh normal rows that varies by
        sqrt(false_alarm_rate / n). "auto" is 0.1; on less than 200 rows the densities of the score, not the network,
        learn from those set aside, too, and the threshold rests on densities that lack a fold of them. 0 trains on all
        rows; the threshold is then that of the training scores, and flags more. "cross_fit" trains on all rows, too,
        and 5 more times without a fold of them, 10 times on less than 200: up to 2,000 rows place the threshold, each
        by the score of a network that has not seen it. `partial_fit`, and tables beyond 2**26 cells, take 0.1 instead.
    score_method : {"auto", any of the autoencoder's, "log_likelihood", "elbo"}, default="auto"
        What `score_samples` returns. "auto" and "joint", "residual", "robust", "local", "neighbor", "reconstruction":
        as for the autoencoder, with the residual of the decoded posterior mean. "log_likelihood": importance-weighted
        log p(x), in nats, which takes longer and ranks anomalies no better. "elbo": its lower bound, cheaper. By
        "local" and "neighbor" a stored training row is the nearest to itself and ranks as more normal than a fresh row
        like it: look for anomalies among clean training rows by another score.
    noise : "auto" or float, default="auto"
        Standard deviation, in scaled units, of the Gaussian noise on the encoder's input while training. "auto" is 0.
    alpha : "auto" or float, default="auto"
        Decoupled weight decay. "auto" is 1e-4, and 0.1 for an autoregressive ``decoder``.
    batch_size : int or "auto", default="auto"
        Rows of a batch; "auto" grows with the number of rows.
    learning_rate_init : float, default=3e-3
        Highest learning rate of the one-cycle schedule.
    max_iter : int or "auto", default="auto"
        Epochs. "auto" spends up to 6,000 optimiser steps, fewer over more than 100 columns, and 3,000 where more than
        5 % of the cells are missing, in up to 200 passes over the rows, 100 over fewer than 1,000.
    max_time : float or None, default=None
        Seconds that `fit` may take; `partial_fit` has no limit. The learning rate then falls with the time instead of
        the steps where these would take longer, and the best weights are kept. Some of it is set aside for the
        densities of the score and the threshold, which come last and may take longer where it is very short. What is
        fitted depends on how fast the machine is.
    tol : float, default=1e-4
        Improvement of the validation loss, in nats per row, that counts.
    n_iter_no_change : int, default=10
        With ``early_stopping``: epochs without improvement after which training stops.
    early_stopping : bool, default=False
        Whether a share of the training rows is set aside to choose the best epoch and to stop.
    validation_fraction : float, default=0.1
        That share.
    warm_start : bool, default=False
        Whether `fit` goes on from the earlier fit, optimiser included. Then, as in `partial_fit`, parameters of the
        training, of the score and of the threshold may be new, and sizes that are "auto" stay. Those that say what the
        columns are or make the network may not be, and an error names them: ``n_components``,
        ``hidden_layer_sizes``, ``activation``, ``likelihood``, ``categorical_features``, ``standardize``,
        ``n_networks``, and ``decoder``, ``scale``, ``marginals``, ``latent_density``.
    verbose : bool or int, default=False
        Whether each epoch prints a line, and what comes before and after them: start, densities, threshold.
    random_state : int, RandomState instance or None, default=None
        Seeds the split, the initial weights, the order of the rows and all noise. None takes fresh entropy; NumPy's
        global state is neither read nor changed.
    n_networks : int, default=1
        Networks that are trained side by side and averaged in the score; features come from the first.
    n_jobs : int or None, default=None
        Threads that share the chunks of rows of a call that scores, encodes or decodes many, and the ``n_networks`` of
        a fit; results stay the same. None is 1 unless a ``joblib.parallel_config`` says otherwise, -1 is one for each
        core; inside a worker of joblib, as of a search, it is always 1. Networks so wide that torch itself uses several
        threads are left to those.
    device : str or torch.device, default="auto"
        "auto" takes CUDA where there is one, else the CPU.
    matmul_precision : {"highest", "high", "medium"} or None, default=None
        How exact the float32 matrix products of the training are, as in ``torch.set_float32_matmul_precision``: "high"
        may round their factors to TF32 and "medium" to bfloat16, on devices that are faster for it. None leaves torch's
        setting as it is. Scores are never computed under it.

    Attributes
    ----------
    n_components_ : int
        Size of the latent space.
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where they are all strings.
    mean_, scale_ : ndarray of shape (n_features_in_,)
        What the columns were centred and scaled with, in the units of X.
    score_method_ : str
        The score that the fit chose, if ``score_method`` is "auto".
    offset_ : float
        Threshold: `decision_function` is the score minus it. `calibrate` and `learn_anomalies` move it.
    false_alarm_rate_, contamination_ : float or None
        Share of fresh normal rows, or of the training rows, that the last fit or `calibrate` placed ``offset_`` for;
        None for the one that did not place it.
    n_iter_ : int
        Epochs run.
    loss_curve_ : list of float
        Mean training loss of each epoch, in nats per row of the scaled columns.
    validation_curve_ : list of float or None
        Mean loss of the validation rows after each epoch.
    best_loss_ : float
        Loss of the weights that were kept.
    module_ : torch.nn.Module
        The trained module, in scaled units.
    device_ : str
        Where it was trained.
    n_samples_seen_ : int
        Rows seen by `fit` or by all calls of `partial_fit`.
    kl_per_component_ : list of float of length n_components_
        Mean KL divergence of each component over the training rows, by their weights, in nats.
    active_components_ : list of int
        Components that carry more than noise does. An inactive one carries no more nats than a surplus component
        fitted to n rows of d columns may, :math:`3 \log(1 + \sqrt{d / n})`: whether it stands for anything in the rows
        cannot be told from so few of them. That is three times the edge of the noise in principal component analysis,
        since a network finds more in noise; for non-integer weights n is their effective number. Where the code is
        about as wide as the rows, components copy single columns, and are active by what they carry.
    noise_scale_ : ndarray of shape (n_features_in_,)
        Standard deviation of the noise of each column, in the units of X; 0 for constant columns. Where it depends on
        the code, the root mean square over the training rows, each at its posterior mean. NaN for columns whose
        likelihood has no scale, that ``marginals`` maps or of which nothing is learned, and absent if none has one.

    See Also
    --------
    AutoencoderTransformer : The plain autoencoder: about as good a detector of anomalies, in a fraction of the time.

    References
    ----------
    Kingma & Welling (2014), "Auto-encoding variational Bayes", https://arxiv.org/abs/1312.6114. Burda, Grosse &
    Salakhutdinov (2016), "Importance weighted autoencoders", https://arxiv.org/abs/1509.00519. Johnstone (2001), "On
    the distribution of the largest eigenvalue in principal components analysis", Annals of Statistics 29(2).

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(
    ...     size=(500, 6)
    ... )
    >>> vae = VAETransformer(2, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (500, 2)
    >>> vae.sample(3, random_state=0).shape
    (3, 6)
    """

    _plan_type = VAEPlan

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "score_method": [NamesOf(lambda: score_names(VAEPlan.model))],
        "beta": [Interval(Real, 0, None, closed="left")],
        "kl_warmup": [Interval(Real, 0, 1, closed="left")],
        "dropout": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "decoder": [StrOptions({"independent", "autoregressive"})],
        "scale": [StrOptions({"dependent", "constant", "shared"})],
        "min_scale": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "n_draws": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "n_training_draws": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "binarize": ["boolean"],
        "marginals": [StrOptions({"auto"}), None],
        "latent_density": [
            StrOptions({"auto", "learned", "mixture", "normal"}),
            Interval(Integral, 1, None, closed="left"),
        ],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        hidden_layer_sizes="auto",
        activation="silu",
        likelihood="auto",
        categorical_features="from_dtype",
        decoder="independent",
        beta=1.0,
        kl_warmup=0.0,
        dropout="auto",
        scale="dependent",
        min_scale="auto",
        n_draws="auto",
        n_training_draws="auto",
        binarize=False,
        latent_density="auto",
        standardize=True,
        marginals=None,
        contamination="auto",
        false_alarm_rate=0.05,
        calibration_fraction="auto",
        score_method="auto",
        noise="auto",
        alpha="auto",
        batch_size="auto",
        learning_rate_init=3e-3,
        max_iter="auto",
        max_time=None,
        tol=1e-4,
        n_iter_no_change=10,
        early_stopping=False,
        validation_fraction=0.1,
        warm_start=False,
        verbose=False,
        random_state=None,
        n_networks=1,
        n_jobs=None,
        device="auto",
        matmul_precision=None,
    ):
        self.n_components = n_components
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.likelihood = likelihood
        self.categorical_features = categorical_features
        self.decoder = decoder
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.dropout = dropout
        self.scale = scale
        self.min_scale = min_scale
        self.n_draws = n_draws
        self.n_training_draws = n_training_draws
        self.binarize = binarize
        self.latent_density = latent_density
        self.standardize = standardize
        self.marginals = marginals
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.calibration_fraction = calibration_fraction
        self.score_method = score_method
        self.noise = noise
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.max_time = max_time
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.verbose = verbose
        self.random_state = random_state
        self.n_networks = n_networks
        self.n_jobs = n_jobs
        self.device = device
        self.matmul_precision = matmul_precision

    @property
    def _n_draws(self) -> int:
        return checked_draws(self.n_draws, DENSITY_DRAWS)

    @property
    def _n_score_draws(self) -> int:
        return checked_draws(self.n_draws, SCORE_DRAWS)

    def _fit(self, given, plan, earlier, team, deadline=None) -> None:
        told = plan.one_pass and hasattr(self, "_collapsed")
        super()._fit(given, plan, earlier, team, deadline)
        if hasattr(self, "_collapsed") and not told:
            _warn_collapse(self, max(self.kl_per_component_))

    def _publish(self, X, fitted, data, history, earlier) -> None:
        super()._publish(X, fitted, data, history, earlier)
        summary = summarise_codes(fitted, data.training)
        self.kl_per_component_, self.active_components_ = summary.kl, summary.active
        for name in ("noise_scale_", "_collapsed"):
            self.__dict__.pop(name, None)
        if summary.noise_scale is not None:
            self.noise_scale_ = like_input(fitted.by_column(summary.noise_scale, 2.0, in_days=True), X)
        collapsed = max(summary.kl) <= _COLLAPSE_KL and summary.n_rows >= _COLLAPSE_ROWS
        varies = ~fitted.columns.constant & np.not_equal(fitted.columns.n_levels or 0, 1)
        if collapsed and varies.any():  # else no parameter helps
            self._collapsed = True

    def latent_distribution(self, X):
        """Posterior of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        mean : array of shape (n_samples, n_components_)
        scale : array of shape (n_samples, n_components_)
            Standard deviation.
        """
        X = self._checked(X, "latent_distribution")

        def both(x: Tensor, module: Any) -> Tensor:
            mean, log_variance = module.posterior(x)
            return torch.cat([mean, torch.exp(0.5 * log_variance)], dim=1)

        mean, scale = apply(self._fitted, to_tensor(X), both, 2 * self.n_components_).chunk(2, dim=1)
        return like_input(mean, X), like_input(scale, X)

    def log_likelihood(self, X):
        """Importance-weighted estimate of log p(x).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_likelihood : array of shape (n_samples,)
            In nats, in the units of ``X``: a lower bound on average, that grows with ``n_draws``; `score` is its mean.
            `score_samples` is another number, unless ``score_method`` is "log_likelihood", which takes fewer draws
            there where ``n_draws="auto"``, and is a little lower on average.

        References
        ----------
        Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519.
        """
        X = self._checked(X, "log_likelihood", scored=True)
        values = to_tensor(X)
        density, size = averaged(self._fitted, values, self._density_and_size, 2).unbind(dim=1)
        effective = float(size[:_EFFECTIVE_ROWS].median())
        if effective < min(_MIN_EFFECTIVE, self._n_draws):
            warn(
                f"Fewer than {_MIN_EFFECTIVE:g} of the n_draws={self._n_draws} posterior draws carry the estimate for "
                f"half of the rows (median effective sample size {effective:.2f}), so that log p(x) comes out too "
                "low. Raise 'n_draws', for example to 500.",
                UserWarning,
            )
        return self._float64(in_units(self._fitted, density, values).numpy(), X)

    def effective_sample_size(self, X):
        """How many of the ``n_draws`` posterior draws carry each row's `log_likelihood`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        size : array of shape (n_samples,)
            From 1, where one draw decides and the estimate is too low, to ``n_draws``, where it is exact.

        References
        ----------
        Kong (1992), "A note on importance sampling using standardized weights", technical report 348, Chicago.
        """
        X = self._checked(X, "effective_sample_size")
        size = averaged(self._fitted, to_tensor(X), self._density_and_size, 2)[:, 1]
        return self._float64(size.numpy(), X)

    def _density_and_size(self, member: Member, module: Any, x: Tensor) -> Tensor:
        weights = log_weights(self._fitted.scoring(member, module, x, self._n_draws))
        return torch.stack([importance_weighted_bound(weights), effective_sample_size(weights)], dim=-1)

    def _imputation_draws(self) -> int:
        return int(np.clip(_IMPUTATION_WORK // self.n_samples_seen_, *_IMPUTATION_DRAWS))

    def _impute_values(self, fitted: Fitted, values: Tensor, n_draws: int | None, *, quick: bool = False) -> Tensor:
        n_proposals = _IMPUTATION_DRAWS[0] if quick else self._imputation_draws()
        if n_draws is None:

            def expected(member: Member, module: Any, x: Tensor) -> Tensor:
                scoring = fitted.scoring(member, module, x, n_proposals)
                return conditional_mean(scoring.module, x, scoring.noise)

            likelihood = fitted.module.likelihood
            means = averaged(fitted, fitted.within_reach(values), expected, sum(likelihood.widths))
            return fitted.columns.decode(likelihood.cells(means)).unsqueeze(1)
        generator, rows = make_generator(fitted.noise_seed), values.double().cpu()
        return rows_given(fitted, rows, n_draws, generator, bounded=False, matched=False)[0].to(values)

    def sample(self, n_samples=1, random_state=None, *, given=None, match_marginals=True, bounded=False, missing=None):
        r"""Draw rows from the model, any or such that agree with given values.

        Parameters
        ----------
        n_samples : int, default=1
            Rows; with ``given`` for each of its rows.
        random_state : int, RandomState instance or None, default=None
        given : DataFrame or dict of some columns, array-like of shape (n_given, n_features) or None, default=None
            Known values of rows, from whose conditional distribution the other values are drawn. The columns of a
            DataFrame count by their names, as do the keys of a dict, which holds a value for each or lists of them; a
            column that is left out, and every missing value, is unknown. An array needs all columns, NaN where a value
            is unknown.
        match_marginals : bool, default=True
            Whether each column of real numbers is moved, the order of its values kept, to the distribution that it has
            in the training rows: by quantile mapping, Q(G(x)) with the distribution function G of the model's draws
            and the quantiles Q of the training rows [1]_. Grids, zeros, bounds and tails come back, which a density
            of real numbers does not know; how columns depend on each other is left to the model. False: rows of p(x)
            as `log_likelihood` has it. Given values and columns of other likelihoods stay as they are. Where given
            values determine others closely, False keeps the spread of those, and intervals of draws their coverage.
        bounded : bool, default=False
            Whether numbers beyond the range of the training rows are moved to its ends, as in `impute`, but for given
            ones. A likelihood of real numbers knows no bounds: it also draws ages below zero, unless
            ``match_marginals`` moves them.
        missing : {"as_trained", None}, default=None
            "as_trained" leaves values out as the training rows did: whole patterns of missing values are drawn by their
            shares, up to 1,000, whatever the other values; with ``given`` among those that have the given values. None
            draws complete rows.

        Returns
        -------
        X : ndarray or DataFrame of shape (n_samples, n_features)
            In the units of the training data, noise of the columns included. After a fit on a table with categories
            a table of its kind, with its columns and dtypes; levels are drawn with their probabilities. With ``given``
            n_samples times n_given rows, all of its first row before those of the second, which hold the given values
            exactly: a column of integers is of floats where a fraction is given. Rows of pandas carry the label of
            their given row.

        Raises
        ------
        ValueError
            If ``n_samples`` is not a positive int, or ``given`` has other columns than the fit, too few for an array,
            or levels that no fitted row has.

        Warns
        -----
        UserWarning
            If fewer than 5 codes carry the draws of a given row, by their effective sample size. Values that contradict
            each other need not do that: `log_likelihood` says how unlikely they are.

        Notes
        -----
        Codes are proposed by p(z), by the posterior of the given values, and by Gaussians around peaks of p(x_o, z);
        they are drawn anew by their importance weights, and decoded:

        .. math:: x_m \sim \sum_k \tilde w_k \, p(x_m \mid z_k), \qquad
            \tilde w_k \propto \frac{p(x_o \mid z_k) \, p(z_k)}{q(z_k)}

        References
        ----------
        Rubin (1988), "Using the SIR algorithm to simulate posterior distributions", Bayesian Statistics 3; Rezende,
        Mohamed & Wierstra (2014), https://arxiv.org/abs/1401.4082, on unknown values of rows; Mattei &
        Frellsen (2019), https://arxiv.org/abs/1812.02633, section 3.3.

        .. [1] Panofsky & Brier (1958), "Some Applications of Statistics to Meteorology".
        """
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 1:
            raise ValueError(f"The 'n_samples' parameter must be an int of at least 1. Got {n_samples!r} instead.")
        if missing not in ("as_trained", None):
            raise ValueError(f"The 'missing' parameter must be 'as_trained' or None. Got {missing!r} instead.")
        fitted, n_samples = self._fitted, int(n_samples)
        conditions = None if given is None else read_conditions(self, given)
        generator = make_generator(seed_from(make_random_state(random_state)))
        how = {"bounded": bounded, "matched": match_marginals}
        if conditions is None:
            there = np.zeros((1, fitted.columns.n_features), dtype=bool)
            drawn = drawn_rows(fitted, n_samples, generator, **how).unsqueeze(0)
        else:
            there = ~conditions.values.isnan().numpy()
            drawn, size = rows_given(fitted, conditions.values, n_samples, generator, **how)
            warn_of_few_codes(size)
        if missing == "as_trained":
            drawn = blanked(fitted, drawn, there, generator)
        if fitted.table is not None:
            drawn = fitted.table.spread(drawn, generator)
        if conditions is not None:
            return conditions.in_form(fitted.table, drawn)
        rows = drawn.squeeze(0).numpy()
        return rows if fitted.table is None else fitted.table.decode(rows)


def _warn_collapse(estimator: VAETransformer, largest: float) -> None:
    warn(
        f"No component of the latent space tells rows apart: the largest mean KL divergence is {largest:.2g} nats, and "
        f"{_COLLAPSE_KL} would count. Every row decodes to the same distribution. If the columns are related, lower "
        f"'beta' (now {estimator.beta}), raise 'kl_warmup' (now {estimator.kl_warmup}) to 0.5, or give "
        "'hidden_layer_sizes' fewer layers; if they are not, there is nothing to encode.",
        CollapseWarning,
    )
