"""Fits over the processes of torch.distributed: what they exchange, and how all stop when one fails.

Whatever the processes exchange, a number of each comes first that says whether it has failed. So all of them stop at
the same place, and a process that fails need not know what the others are about to exchange. The steps of a training,
which exchange vectors of one length, have that number in the vector.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .interrupts import postponed

__all__ = ["ALONE", "Team", "joined", "n_processes", "together"]

# Differences that a message names.
_TOLD = 3


class _Stopped(Exception):
    """Another process has failed."""


class _Gone(Exception):
    """Another process no longer answers."""


class Team:
    """The processes that fit one model together; every one of them makes the same exchanges in the same order.

    Attributes
    ----------
    rank, size : int
        Number of this process, and how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._all_know = False  # that one has failed
        self._all_done = False
        self._buffers: dict[tuple[int, torch.dtype], Tensor] = {}
        self._n_left = 0  # steps that are still to be exchanged
        self._vector: Tensor

    def agree(self, what: dict[str, str | None]) -> None:
        """Compare how the processes describe what they do.

        Parameters
        ----------
        what : dict of str to (str or None)
            Descriptions by subject; None agrees with any.

        Raises
        ------
        ValueError
            In every process, if two differ.
        """
        if self.size == 1:
            return
        described = self.gather(what)
        told = [_difference(subject, described) for subject in dict.fromkeys(s for facts in described for s in facts)]
        told = [difference for difference in told if difference]
        if told:
            more = f"; {len(told) - _TOLD} more differ" if len(told) > _TOLD else ""
            raise ValueError(
                f"All {self.size} processes must fit one model in the same way, but {'; '.join(told[:_TOLD])}{more}. "
                "Make them alike and fit again."
            )

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        with postponed():
            self._say(failed=False)
            return self._values(value)

    def same(self, value: Any) -> Any:
        """The value of the first process."""
        return self.gather(value)[0] if self.size > 1 else value

    def sum(self, values: Tensor) -> Tensor:
        """Add up a vector over the processes, in place."""
        if self.size == 1:
            return values
        with postponed():
            if self._n_left:
                self._vector[:-1].copy_(values)
                self._vector[-1] = 0.0
                self._n_left -= 1
                self._add_up(self._vector)
                return values.copy_(self._vector[:-1])
            self._say(failed=False)
            buffer = values.to(_device())
            _answered(lambda: dist.all_reduce(buffer))
            return values.copy_(buffer)

    def begin_steps(self, values: Tensor, n_steps: int) -> None:
        """Say that the next ``n_steps`` exchanges will add up vectors of the length of ``values``."""
        if self.size > 1:
            self._vector = self._buffer(len(values) + 1, values.dtype)
            with postponed():
                self._say(failed=False)
                self._n_left = n_steps

    def part(self, batch: Tensor, axis: int = 0) -> Tensor:
        """The part of a batch's rows that is this process's."""
        n_rows = batch.shape[axis]
        first, last = (rank * n_rows // self.size for rank in (self.rank, self.rank + 1))
        return batch.narrow(axis, first, last - first)

    def finish(self) -> None:
        """Wait until every process has done its part; what one of them fails at later is its own affair."""
        with postponed():
            self._say(failed=False)
            self._all_done = True

    def stop(self, error: BaseException | None) -> list[Any]:
        """Tell every process why it stops; the reasons by rank, None for a process that did nothing wrong."""
        if self._all_done:
            return []
        with postponed():
            if not self._all_know:
                with suppress(_Stopped):
                    self._say(failed=True)
            return self._values(None if error is None else _reason(error))

    def _buffer(self, size: int, dtype: torch.dtype) -> Tensor:
        if (size, dtype) not in self._buffers:
            self._buffers[size, dtype] = torch.zeros(size, dtype=dtype, device=_device())
        return self._buffers[size, dtype]

    def _say(self, *, failed: bool) -> None:
        """Say whether this process has failed, in a vector of the size that the others exchange."""
        buffer = self._vector if self._n_left else self._buffer(1, torch.float32)
        buffer.zero_()
        buffer[-1] = float(failed)
        self._add_up(buffer)

    def _add_up(self, buffer: Tensor) -> None:
        """Add up a vector whose last number says whether one has failed."""
        _answered(lambda: dist.all_reduce(buffer))
        if buffer[-1] > 0:
            self._all_know = True
            raise _Stopped

    def _values(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        _answered(lambda: dist.all_gather_object(values, value))
        return values


ALONE = Team()
_joined: ContextVar[Team] = ContextVar("joined", default=ALONE)


def joined() -> Team:
    """The processes of the fit that is under way here."""
    return _joined.get()


def n_processes() -> int:
    """Number of processes of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _device() -> torch.device:
    """Where tensors must be for an exchange."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def _answered(exchange: Callable[[], object]) -> None:
    try:
        exchange()
    except RuntimeError as error:
        raise _Gone(str(error)) from None


def _difference(subject: str, described: list[dict[str, str | None]]) -> str:
    """What two processes say differently of a subject; empty where all agree."""
    said = {rank: facts[subject] for rank, facts in enumerate(described) if facts.get(subject) is not None}
    first = min(said, default=0)
    for rank, words in said.items():
        if words != said[first]:
            return f"{subject} is {said[first]} in process {first} and {words} in process {rank}"
    return ""


def _reason(error: BaseException) -> str:
    return "a Ctrl-C" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"


def _lost(size: int, message: str) -> str:
    """What to say of a connection that does not answer, whose own words speak of sockets."""
    if "onnection" in message:
        how = "another one has ended, or has called fit or partial_fit fewer times than this one"
    elif "imed out" in message:
        how = "another one did not answer within the time-out of the group, or does not fit at all"
    else:
        how = f"another one does not answer: {message}"
    return (
        f"The fit over {size} processes cannot go on: {how}. Let all of them make the same calls, and start all of "
        "them again."
    )


@contextmanager
def together() -> Iterator[Team]:
    """Fit with all processes of the default process group, or alone where there is none.

    All leave the block together: none is done before every one is.

    Yields
    ------
    team : Team
        Also what `joined` returns inside the block.

    Raises
    ------
    RuntimeError
        If another process has failed, with its reason; or is gone.
    """
    size = n_processes()
    team = ALONE if size == 1 else Team(dist.get_rank(), size)
    before = _joined.set(team)
    try:
        yield team
        if size > 1:
            team.finish()
    except (_Stopped, _Gone) as stop:
        raise RuntimeError(_told(team, stop)) from None
    except BaseException as error:
        if size > 1:
            with suppress(_Gone):  # nobody is left to be told
                team.stop(error)
        raise
    finally:
        _joined.reset(before)


def _told(team: Team, stop: Exception) -> str:
    """What to say in a process that did nothing wrong."""
    try:
        reasons = team.stop(None) if isinstance(stop, _Stopped) else []
    except _Gone as gone:
        stop, reasons = gone, []
    if isinstance(stop, _Gone):
        return _lost(team.size, str(stop))
    told = "; ".join(f"process {rank} with {why}" for rank, why in enumerate(reasons) if why is not None)
    return (
        f"The fit over {team.size} processes has stopped, because one of them failed: {told}. Mend that and fit again."
    )
