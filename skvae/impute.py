"""Imputation as a step of a pipeline: missing values in, filled values out."""

from numbers import Integral

from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin, clone

from ._support.compat import HasMethods, Interval, check_is_fitted, fit_context
from ._tables.averages import average_tables
from .vae import VAETransformer

__all__ = ["AutoencoderImputer"]


class AutoencoderImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fill missing values with what an autoencoder expects of them, as a step before another estimator.

    It takes the place of scikit-learn's ``IterativeImputer`` in a pipeline. `VAETransformer` itself as a step hands on
    codes, not the filled columns.

    Parameters
    ----------
    estimator : AutoencoderTransformer, VAETransformer or None, default=None
        What learns how the columns depend on each other; a clone of it is fitted. None takes
        ``VAETransformer(random_state=0)``, so that the same table is filled alike every time.
    n_draws : int or None, default=None
        None fills each value with its expectation given the row's other values. A number averages so many draws from
        its distribution, numbers by their mean and categories by the commonest; 1 keeps the spread of the columns.
        Only a `VAETransformer` can draw.

    Attributes
    ----------
    estimator_ : AutoencoderTransformer or VAETransformer
        The fitted model.
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, where they are all strings.

    See Also
    --------
    skvae.VAETransformer.impute : The same of a fitted model; several draws come as several tables.

    References
    ----------
    Mattei & Frellsen (2019), https://arxiv.org/abs/1812.02633, section 3.3.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from skvae.impute import AutoencoderImputer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 5))
    >>> y = X.sum(axis=1)
    >>> X[rng.random(X.shape) < 0.2] = np.nan
    >>> pipe = make_pipeline(AutoencoderImputer(), LinearRegression()).fit(X, y)
    >>> bool(pipe.score(X, y) > 0.9)
    True
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit", "impute"]), None],
        "n_draws": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, estimator=None, *, n_draws=None):
        self.estimator = estimator
        self.n_draws = n_draws

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None, sample_weight=None):
        """Learn how the columns depend on each other.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            NaN, None or pandas.NA where a value is missing; categories as the estimator takes them.
        y : Ignored
            Not used, present by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If ``estimator`` or ``n_draws`` cannot be, or the estimator has no distribution to draw from.
        """
        model = VAETransformer(random_state=0) if self.estimator is None else clone(self.estimator)
        if self.n_draws is not None and not hasattr(model, "sample"):
            raise ValueError(
                f"n_draws={self.n_draws} draws values from their distribution, which {type(model).__name__} does not "
                "have. Give a VAETransformer as 'estimator', or leave 'n_draws' at None."
            )
        model.fit(X, sample_weight=sample_weight)
        self.__dict__.pop("feature_names_in_", None)
        if hasattr(model, "feature_names_in_"):
            self.feature_names_in_ = model.feature_names_in_
        self.n_features_in_ = model.n_features_in_
        self.estimator_ = model
        return self

    def transform(self, X):
        """Fill the missing values of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        X_filled : array or table of shape (n_samples, n_features)
            As ``X``, dtypes and observed values untouched. A column without any value in `fit` stays missing.
        """
        check_is_fitted(self)
        if self.n_draws is None:
            return self.estimator_.impute(X)
        return average_tables(self.estimator_.impute(X, n_draws=self.n_draws))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
