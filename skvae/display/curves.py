"""The picture of a training."""

import numpy as np

from .._support.drawing import (
    bare,
    ink,
    last_step,
    new_axes,
    options,
)

__all__ = ["LossCurveDisplay"]


class LossCurveDisplay:
    """How training went: the loss of each epoch.

    Parameters
    ----------
    loss : array-like of shape (n_epochs,)
        Mean training loss of each epoch, in nats per row.
    validation : array-like of shape (n_epochs,), default=None
        Mean loss of the validation rows after each epoch.
    estimator_name : str, default=None
        Title of the picture.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import AutoencoderTransformer
    >>> from skvae.display import LossCurveDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = AutoencoderTransformer(2, early_stopping=True, random_state=0).fit(X)
    >>> display = LossCurveDisplay.from_estimator(model)
    >>> len(display.lines_)
    2
    """

    def __init__(self, loss, *, validation=None, estimator_name=None):
        self.loss = loss
        self.validation = validation
        self.estimator_name = estimator_name

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, line_kwargs=None):
        """Read the curves off a fitted estimator and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a pipeline that ends in one.
        ax : matplotlib Axes, default=None
        line_kwargs : dict, default=None
            Passed to ``Axes.plot``.

        Returns
        -------
        display : LossCurveDisplay
        """
        model = last_step(estimator)
        display = cls(model.loss_curve_, validation=model.validation_curve_, estimator_name=type(model).__name__)
        return display.plot(ax, line_kwargs=line_kwargs)

    def plot(self, ax=None, *, line_kwargs=None):
        """Draw the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        line_kwargs : dict, default=None
            Passed to ``Axes.plot``.

        Returns
        -------
        display : LossCurveDisplay
        """
        self.ax_ = ax = new_axes(ax, type(self).__name__)
        self.figure_ = ax.figure
        self.lines_ = []
        for label, curve in (("training", self.loss), ("validation", self.validation)):
            if curve is None:
                continue
            epochs = np.arange(1, len(curve) + 1)
            # A single epoch has no line.
            defaults = {"label": label, "marker": "o" if len(curve) == 1 else None}
            self.lines_ += ax.plot(epochs, curve, **options(defaults, line_kwargs))
        if self.validation is not None:
            best = int(np.argmin(self.validation))
            ax.axvline(best + 1, color=ink(), linestyle=":", linewidth=1, label=f"best epoch: {best + 1}")
        ax.set(xlabel="epoch", ylabel="loss, in nats per row", title=self.estimator_name or "")
        ax.legend(frameon=False)
        bare(ax, counts=ax.xaxis)
        return self
