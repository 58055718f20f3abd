"""The picture of how like real rows drawn ones are."""

import numpy as np

from .._support.drawing import MIN_NAME_SIZE, new_axes, options

__all__ = ["SynthesisDisplay"]


class SynthesisDisplay:
    """How far pairs of columns of drawn rows are from those of real ones, single columns on the diagonal.

    Parameters
    ----------
    report : SynthesisReport
        As `skvae.report.synthesis_report` gives it.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    image_ : matplotlib AxesImage

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skvae import VAETransformer
    >>> from skvae.display import SynthesisDisplay
    >>> from skvae.report import synthesis_report
    >>> wine = load_wine(as_frame=True).data.sample(frac=1.0, random_state=0)
    >>> train, fresh = wine[:100], wine[100:]
    >>> drawn = VAETransformer(random_state=0).fit(train).sample(78, random_state=0)
    >>> display = SynthesisDisplay(synthesis_report(drawn, fresh, train)).plot()
    >>> display.image_.get_array().shape
    (13, 13)
    """

    def __init__(self, report):
        self.report = report

    def plot(self, ax=None, *, image_kwargs=None):
        """Draw the distances of all pairs.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        image_kwargs : dict, default=None
            Passed to ``Axes.imshow``.

        Returns
        -------
        display : SynthesisDisplay
        """
        found = self.report
        self.ax_ = ax = new_axes(ax, type(self).__name__, (6.5, 4.5))
        self.figure_ = ax.figure
        defaults = {"vmin": 0.0, "vmax": max(0.25, float(np.nanmax(found.pair_distance))), "aspect": "auto"}
        self.image_ = ax.imshow(found.pair_distance, **options(defaults, image_kwargs))
        bar = self.figure_.colorbar(self.image_, ax=ax, shrink=0.8)
        bar.set_label("total variation of pairs, 0: alike")
        ax.set(xticks=[], yticks=[], xlabel="columns in the same order")
        room = 0.95 * 72 * ax.get_position().height * self.figure_.get_figheight() / len(found.columns)  # in points
        if room >= MIN_NAME_SIZE:
            ax.set_yticks(range(len(found.columns)), found.columns, fontsize=min(10.0, room))
        title = f"told apart with an AUROC of {found.detection_auroc:.2f} (0.5: not at all)"
        if found.distance_ratio is not None:
            title += f"\ndistance to training rows, drawn / fresh: {found.distance_ratio:.2f}"
        ax.set_title(title, fontsize="medium")
        return self
