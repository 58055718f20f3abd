"""Fits over the processes of torch.distributed: what they exchange, and how all stop when one fails."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["ALONE", "Team", "n_processes", "together"]


class _Stopped(Exception):
    """Another process has failed."""


class _Gone(RuntimeError):
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
        self._announced = False
        self._buffers: dict[tuple[int, torch.dtype], Tensor] = {}

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        self.sum(torch.zeros(0, device=_device()))
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def same(self, value: Any) -> Any:
        """The value of the first process."""
        return self.gather(value)[0] if self.size > 1 else value

    def sum(self, values: Tensor) -> Tensor:
        """Add up a vector over the processes, in place, with one number beside it that says whether one has failed."""
        if self.size == 1:
            return values
        key = (len(values), values.dtype)
        if key not in self._buffers:
            self._buffers[key] = torch.zeros(len(values) + 1, dtype=values.dtype, device=_device())
        buffer = self._buffers[key]
        buffer[:-1].copy_(values)
        buffer[-1] = 0.0
        self._exchange(buffer)
        return values.copy_(buffer[:-1])

    @contextmanager
    def steps(self, values: Tensor) -> Iterator[None]:
        """If the block fails, tell the processes that wait to add up ``values`` with this one."""
        try:
            yield
        except (_Stopped, _Gone):
            raise
        except BaseException:
            if self.size > 1:
                self._fail(values.new_zeros(len(values) + 1, device=_device()))
            raise

    def share(self, batch: Tensor, axis: int = 0) -> Tensor:
        """The part of a batch's rows that is this process's."""
        n_rows = batch.shape[axis]
        first, last = (rank * n_rows // self.size for rank in (self.rank, self.rank + 1))
        return batch.narrow(axis, first, last - first)

    def _exchange(self, buffer: Tensor) -> None:
        try:
            dist.all_reduce(buffer)
        except RuntimeError as error:
            raise _Gone(
                f"The fit has lost the connection to another process of its group: {error} Start all of them again."
            ) from error
        if buffer[-1] > 0:
            self._announced = True
            raise _Stopped

    def _fail(self, buffer: Tensor) -> None:
        buffer[-1] = 1.0
        with suppress(_Stopped):
            self._exchange(buffer)

    def stop(self, error: BaseException | None) -> list[Any]:
        """Tell every process why it stops; the reasons by rank, None for a process that did nothing wrong."""
        if not self._announced:
            self._fail(torch.zeros(1, device=_device()))
        reasons: list[Any] = [None] * self.size
        dist.all_gather_object(reasons, None if error is None else f"{type(error).__name__}: {error}")
        return reasons


ALONE = Team()


def n_processes() -> int:
    """Number of processes of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _device() -> torch.device:
    """Where tensors must be for an exchange."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


@contextmanager
def together() -> Iterator[Team]:
    """Fit with all processes of the default process group, or alone where there is none.

    Yields
    ------
    team : Team

    Raises
    ------
    RuntimeError
        If another process has failed, with its reason; or is gone.
    """
    if n_processes() == 1:
        yield ALONE
        return
    team = Team(dist.get_rank(), dist.get_world_size())
    try:
        yield team
    except _Gone:
        raise
    except _Stopped:
        told = [f"process {rank} with {why}" for rank, why in enumerate(team.stop(None)) if why is not None]
        raise RuntimeError(
            f"The fit over {team.size} processes has stopped, because one of them failed: {'; '.join(told)}. Mend that "
            "and fit again."
        ) from None
    except BaseException as error:
        with suppress(_Gone):  # nobody is left to be told
            team.stop(error)
        raise
