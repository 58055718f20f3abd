"""The autoencoder."""

from typing import Any

from torch import Tensor

from ._estimators.detection import BaseDetector
from ._model.autoencoder_plan import AutoencoderPlan
from ._model.fitted import Fitted
from ._model.inference import averaged
from ._model.member import Member
from ._model.scores import score_names
from ._support.compat import NamesOf

__all__ = ["AutoencoderTransformer"]


class AutoencoderTransformer(BaseDetector):
    """Autoencoder with the interface of PCA and IsolationForest.

    It learns what the rows have in common. What it cannot reconstruct is an anomaly, and its code is a feature vector.
    Training starts at PCA: a linear path beside the network reproduces it exactly, and the network learns the rest.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        Size of the latent space; may exceed the number of columns. "auto" is that number, at most 64,
        for clean training rows, where noise on the input and not a narrow code keeps the network from copying, and
        15 % of it with a float ``contamination``.
    hidden_layer_sizes : "auto", int or array-like of int, default="auto"
        Widths of the encoder's hidden layers; the decoder mirrors them. A linear path runs beside them; with ``()``
        it is the whole network. "auto" is (128, 128), or (64, 64) with a float ``contamination``.
    activation : {"identity", "logistic", "tanh", "relu", "elu", "silu", "gelu"}, default="silu"
        Activation of the hidden layers.
    likelihood : str or dict, default="auto"
        p(x given z) of the columns: "gaussian", "student_t", "bernoulli", "categorical", "poisson",
        "negative_binomial" or "auto". A dict names it for some columns, by label or number, and leaves the others at
        "auto", which for numbers is "gaussian": the squared error of the scaled columns is minimised. Categorical
        columns are always "categorical".
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        Which columns are categorical: "from_dtype" takes those of text, booleans and pandas' or polars' categories,
        an array-like holds a boolean for each column, or names or numbers of columns, and None means none. Of more
        than 255 levels the 254 most frequent are told apart; the others count as one, with a warning, and are drawn in
        proportion to their frequencies. A level that no training row has brings a warning: it scores no higher than the
        rarest one, as an anomaly where new levels were not to be expected, and counts as missing elsewhere. Columns
        that only name or number the rows are left out, with a warning, unless this parameter or ``likelihood`` names
        them. In a DataFrame, numbers and dates as text are no categories.
    standardize : bool, default=True
        Whether columns are centred and scaled inside. Every score and output is in the user's units all the same.
    contamination : "auto" or float, default="auto"
        "auto": the training rows count as clean, and ``offset_`` is calibrated on rows that did not train. A float in
        (0, 0.5]: that share of the training rows is anomalous; the worst rows are kept out of the training, and
        ``offset_`` is the quantile of the scores of all training rows.
    false_alarm_rate : float, default=0.05
        With ``contamination="auto"``: the share of fresh normal rows that `predict` may flag.
    calibration_fraction : "auto", float or "cross_fit", default="auto"
        With ``contamination="auto"``: about the share of the rows that is set aside to calibrate ``offset_``; at least
        what ``false_alarm_rate`` needs, at most 1,000 rows. The threshold is steadier with more rows: placed on n of
        them, it flags a share of fresh normal rows that varies by sqrt(false_alarm_rate / n). "auto" is 0.1; on less
        than 200 rows the densities of the score, not the network, learn from those set aside, too, and the threshold
        rests on densities that lack a fold of them. 0 trains on all rows; the threshold is then that of the training
        scores, and flags more. "cross_fit" trains on all rows, too, and 5 more times without a fold of them, 10 times
        on less than 200: up to 2,000 rows place the threshold, each by the score of a network that has not seen it.
        `partial_fit`, and tables beyond 2**26 cells, take 0.1 instead.
    score_method : {"auto", "residual", "joint", "robust", "local", "neighbor", "reconstruction"}, default="auto"
        What `score_samples` returns. "auto" is "local" where the training rows are clean and a tenth of them or more
        repeat others, as rows of categories and small whole numbers do, but not as copies of a row; else "joint".
        "joint": log-density of the row together with its whitened residual, in nats, under the mean of three mixtures,
        beyond 100 columns of two, of at most 64 Gaussians each, or with a float ``contamination`` under one Gaussian,
        fitted to the central three quarters of the rows that trained, or the mean of that and such a mixture of theirs
        where they form groups, in tables of up to 200 columns.
        A row whose residual is shorter than those of clean training rows are by chance scores lower for it, with
        "robust" and "local", too: a sensor that stands still lacks the noise of all others.
        "robust": that of one such mixture, averaged with the mean of eight more in which clumps of less than 5 % of the
        rows are left out, for rows that may hold a few anomalies.
        "local": "joint", less half the joint space's dimension times the logarithm of the distance to the nearest of up
        to 2,000 stored training rows: ranks a little better, most where rows repeat, and takes longer; with a float
        ``contamination`` it is "joint".
        "residual": log-density of the residual under a Gaussian. "neighbor": minus the distance to the nearest of up to
        2,000 stored training rows in the joint space, or to the 15th of 300 with a float ``contamination``.
        "reconstruction": minus the mean squared error of the scaled columns. By "local" and "neighbor" a stored
        training row is the nearest to itself and ranks as more normal than a fresh row like it: look for anomalies
        among clean training rows by another score.
    noise : "auto" or float, default="auto"
        Standard deviation, in scaled units, of the Gaussian noise on the encoder's input while training. "auto" draws
        it between 0.1 and 1 for each row, or takes 0 with a float ``contamination``.
    alpha : "auto" or float, default="auto"
        Decoupled weight decay. "auto" is 1e-4.
    batch_size : int or "auto", default="auto"
        Rows of a batch; "auto" grows with the number of rows.
    learning_rate_init : float, default=3e-3
        Highest learning rate of the one-cycle schedule.
    max_iter : int or "auto", default="auto"
        Epochs. "auto" spends a budget of optimiser steps: 400 of 256 rows; on less than some 800 clean rows without
        gaps a hundred passes, on 800 to 2,000 of at least 200 columns fifty, if the score is "joint" or "neighbor".
        With a float ``contamination`` it is 100 steps, and on less than 400 rows that train one for every four, but at
        least 33: after more the network knows few rows by heart, anomalies among them.
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
        ``n_networks``.
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

    See Also
    --------
    VAETransformer : The variational autoencoder: a density with a continuous latent space.

    Notes
    -----
    A plain reconstruction error always prefers the widest code, and with ``noise=0`` so does `score`, the mean
    log-density of the residuals. To choose a width without labels, take the score of `VAETransformer`.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import AutoencoderTransformer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6))
    >>> autoencoder = AutoencoderTransformer(2, random_state=0).fit(X)
    >>> autoencoder.transform(X).shape
    (500, 2)
    >>> odd = np.array([[3.0, -3.0, 3.0, -3.0, 3.0, -3.0]])
    >>> autoencoder.predict(odd)
    array([-1])
    """

    _plan_type = AutoencoderPlan

    _parameter_constraints: dict = {
        **BaseDetector._parameter_constraints,
        "score_method": [NamesOf(lambda: score_names(AutoencoderPlan.model))],
    }

    def __init__(
        self,
        n_components="auto",
        *,
        hidden_layer_sizes="auto",
        activation="silu",
        likelihood="auto",
        categorical_features="from_dtype",
        standardize=True,
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
        self.standardize = standardize
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

    def _impute_values(self, fitted: Fitted, values: Tensor, n_draws: int | None, *, quick: bool = False) -> Tensor:
        if n_draws is not None:
            raise ValueError(
                f"Drawing cells needs a model of their distribution, but an autoencoder has none and n_draws={n_draws} "
                "came. Use VAETransformer, or leave 'n_draws' at None."
            )
        likelihood = fitted.module.likelihood

        def expectation(member: Member, module: Any, x: Tensor) -> Tensor:
            return likelihood.expected(module.decode(module.encode(x)), module.free())

        expected = averaged(fitted, values, expectation, sum(likelihood.widths))
        return fitted.columns.decode(likelihood.cells(expected)).unsqueeze(1)
