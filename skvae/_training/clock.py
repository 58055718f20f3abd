"""The time that a training may take, as a fraction that its schedule can follow."""

from time import perf_counter

__all__ = ["Clock"]


class Clock:
    """How much of the time for a training is spent.

    Parameters
    ----------
    seconds : float or None
        From now on; None for as many as it takes.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._started = 0.0 if seconds is None else perf_counter()

    def spent(self) -> float:
        """Fraction of the time, at most 1; 0 where there is no limit."""
        if self._seconds is None:
            return 0.0
        passed = perf_counter() - self._started
        return 1.0 if passed >= self._seconds else passed / self._seconds

    def is_over(self) -> bool:
        """Whether all of it is spent."""
        return self.spent() >= 1.0
