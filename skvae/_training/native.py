"""The training steps of `native.c`: what they can do, where their object lies, and how they are called.

The package's build makes an object for each instruction set if it finds a C compiler. Without one, or with
``SKVAE_NATIVE=0`` in the environment, no training takes these steps.
"""

import ctypes
import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from ctypes import POINTER, Structure, addressof, byref, c_char_p, c_double, c_int64, c_void_p
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from .._networks.modules import Batch, VAEModule
from .._networks.workspace import PackedMLP
from .._support.jobs import shared
from .._support.numerics import rounded_width
from .._support.warnings import warn
from ..likelihoods import Autoregressive, Bernoulli, Categorical, ColumnGroups, Gaussian, Likelihood, Mixture, StudentT
from ..likelihoods.autoregressive import masked_network
from .engine import Engine, Step, StepEntry
from .optimiser import Adam

__all__ = ["NATIVE", "OBJECTS", "NativeStep", "NativeSteps", "digest", "native_library"]

_FOLDER = Path(__file__).parent
_SOURCE = _FOLDER / "native.c"
# torch's word for what the processor can do, and the object for it.
OBJECTS = {"AVX512": "avx512", "AVX2": "avx2", "DEFAULT": "neon"}
_MAX_HIDDEN = 8
_MAX_MEMBERS = 8  # of a mixture
_ACTIVATIONS = ("identity", "relu", "tanh", "silu")
_FAMILIES: list[tuple[type[Likelihood], str | None]] = [
    (Gaussian, "unit"),
    (Gaussian, "constant"),
    (Gaussian, "dependent"),
    (StudentT, "dependent"),
    (Bernoulli, None),
    (Categorical, None),
    (StudentT, "constant"),
]
_MIXTURE_SCALES = ("dependent", "constant")  # of mixtures of Student's t's, which come after these
# Rows that go through all layers at once, so that their values stay in the cache: a multiple of the kernel's 6.
_TILE = 96
_MAX_BOUND = 1024  # groups of batches that are remembered


# The structures of native.c, each under its name there: a `_Plan` is none of a fit, a `_Table` none of a user's.


class _Network(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("n_inputs", "n_outputs", "n_hidden", "activation")),
        ("hidden", c_int64 * _MAX_HIDDEN),
        ("units", c_int64 * _MAX_HIDDEN),
        ("matrices", c_int64 * (_MAX_HIDDEN + 1)),
    ]


class _Segment(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("family", "n_columns", "first_output", "first_free", "is_in_place")),
        ("n_members", c_int64),
        ("floor_squared", c_double),
        ("columns", POINTER(c_int64)),
        ("n_levels", POINTER(c_int64)),
    ]


class _Masked(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("n_inputs", "n_outputs", "n_values", "first_free", "n_packed")),
        ("owners", POINTER(c_int64)),
        ("levels", POINTER(c_int64)),
        ("masks", c_void_p),
        ("net", _Network),
    ]


class _Plan(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("n_networks", "n_rows", "n_components", "variational", "n_inputs")),
        *((name, c_int64) for name in ("n_free", "free_start", "tile", "n_segments", "n_gathered", "is_general")),
        *((name, c_int64) for name in ("n_draws", "drawn")),
        ("segments", POINTER(_Segment)),
        ("encoder", _Network),
        ("decoder", _Network),
        ("masked", _Masked),
    ]


class _Table(Structure):
    _fields_ = [("data", c_void_p), ("row", c_int64), ("network", c_int64)]


class _Call(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("values", "gradient", "loss", "scratch")),
        ("kl_weight", c_double),
        *((name, _Table) for name in ("x", "inputs", "noise", "weight", "mask", "shown")),
        ("factors", _Table * (2 * _MAX_HIDDEN)),
    ]


class _Optimiser(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("values", "first", "second", "gradient", "n_steps")),
        *((name, c_double) for name in ("beta1", "beta2", "eps", "decay", "max_norm")),
    ]


class _Batch(Structure):
    _fields_ = [("plan", c_void_p), ("call", c_void_p)]


class _Loaded:
    """The object of this process, once something has asked for it."""

    lock = threading.Lock()
    asked = False
    library: ctypes.CDLL | None = None


def native_library() -> ctypes.CDLL | None:
    """The object for this processor; None where there is none, it cannot be used, or the user wants none.

    What is there and cannot be used is warned of once.
    """
    if os.environ.get("SKVAE_NATIVE") == "0":
        return None
    with _Loaded.lock:
        if not _Loaded.asked:
            _Loaded.asked, _Loaded.library = True, _load(_FOLDER)
        return _Loaded.library


def digest(source: Path) -> str:
    """What tells a source text, with the headers beside it, from others.

    The same on systems that end lines in another way.
    """
    texts = [path.read_bytes().replace(b"\r\n", b"\n") for path in (source, *sorted(source.parent.glob("*.h")))]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


def _load(folder: Path) -> ctypes.CDLL | None:
    path = folder / f"_native_{OBJECTS.get(torch.backends.cpu.get_cpu_capability())}.so"
    if not path.exists():
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.skvae_source.argtypes, library.skvae_source.restype = [], c_char_p
        made_from, source = library.skvae_source().decode(), digest(_SOURCE)
        if made_from != source:
            raise OSError(f"it was made from the source {made_from}, and this is the source {source}")
    except (OSError, AttributeError) as error:
        warn(
            f"The native training step in {str(path)!r} cannot be used ({error}). Training goes on without, only "
            "slower. Install skvae anew, or set the environment variable SKVAE_NATIVE=0.",
            RuntimeWarning,
        )
        return None
    library.skvae_scratch.argtypes, library.skvae_scratch.restype = [POINTER(_Plan)], c_int64
    library.skvae_prepare.argtypes, library.skvae_prepare.restype = [POINTER(_Plan), c_void_p], None
    library.skvae_step.argtypes, library.skvae_step.restype = [POINTER(_Plan), POINTER(_Call)], None
    library.skvae_steps.argtypes = [POINTER(_Optimiser), c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_int64]
    library.skvae_steps.restype = None
    return library


def _family(likelihood: Likelihood) -> int | None:
    """Place of a likelihood among those that the steps know."""
    if type(likelihood) is Mixture:
        scale, known = likelihood.likelihood.config().get("scale"), type(likelihood.likelihood) is StudentT
        known = known and scale in _MIXTURE_SCALES and likelihood.n_members <= _MAX_MEMBERS
        return len(_FAMILIES) + _MIXTURE_SCALES.index(scale) if known else None
    for index, (cls, scale) in enumerate(_FAMILIES):
        if type(likelihood) is cls and likelihood.config().get("scale") == scale:
            return index
    return None


def _groups(likelihood: Likelihood) -> list[tuple[Likelihood, Sequence[int]]]:
    """Likelihoods of one family each, with their columns."""
    if type(likelihood) is Autoregressive:
        return _groups(likelihood.likelihood)
    if type(likelihood) is ColumnGroups:
        return list(zip(likelihood.likelihoods, likelihood.columns, strict=True))
    return [(likelihood, range(likelihood.n_columns))]


def _fits(packed: PackedMLP) -> bool:
    network = packed.network
    return network.activation in _ACTIVATIONS and len(network.hidden) <= _MAX_HIDDEN


def _supports(engine: Engine) -> bool:
    values = engine.values
    precise = values.dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    families = [_family(likelihood) for likelihood, _ in _groups(engine.module.likelihood)]
    known = None not in families and _fits(engine.encoder) and _fits(engine.decoder)
    if isinstance(engine.module.likelihood, Autoregressive):
        known = known and len(engine.module.likelihood.hidden) <= _MAX_HIDDEN
    plain = not engine.learns_prior and (engine.n_draws == 1 or _supports_draws(engine))
    # Where torch may use several threads, the step is so wide that they pay.
    single = values.device.type == "cpu" and torch.get_num_threads() == 1
    return plain and precise and known and single and native_library() is not None


def _supports_draws(engine: Engine) -> bool:
    """Whether each row may have several draws: of columns that neither see each other nor have several peaks."""
    module = engine.module
    groups = [] if module.likelihood.sees_columns else _groups(module.likelihood)
    single = bool(groups) and not any(isinstance(likelihood, Mixture) for likelihood, _ in groups)
    return single and isinstance(module, VAEModule) and not engine.dropout


class NativeStep(Step):
    """Loss and gradient in one call; what is computed is what the steps by hand compute."""

    def __init__(self, engine: Engine, n_rows: int, library: ctypes.CDLL) -> None:
        module, self._masks = engine.module, _masks(engine)
        self.plan = _plan(engine, n_rows, self._masks)
        self._run, self._brings = library.skvae_step, (engine.weighted, engine.masked)
        self._loss = engine.values.new_zeros(() if module.n_networks == 1 else (module.n_networks,))
        self._scratch = engine.values.new_zeros(module.n_networks, library.skvae_scratch(byref(self.plan)))
        for of_network in self._scratch:
            library.skvae_prepare(byref(self.plan), of_network.data_ptr())
        self._kept = engine.values, engine.gradient
        self._places = [t.data_ptr() for t in (engine.values, engine.gradient, self._loss, self._scratch)]

    def __call__(self, batch: Batch, kl_weight: float) -> Tensor:
        call, kept = self.bind(batch)
        call.kl_weight = kl_weight
        self._run(byref(self.plan), byref(call))
        del kept  # only now
        return self._loss

    def bind(self, batch: Batch) -> tuple[_Call, list[Tensor]]:
        """What to call for a batch, and the tensors that must live until then.

        Raises
        ------
        ValueError
            If the batch brings weights or a mask, of which the engine knows nothing: there is no room for them.
        """
        if (batch.weight is not None) > self._brings[0] or (batch.mask is not None) > self._brings[1]:
            raise ValueError(
                "A batch may bring weights and a mask where its engine says so, but its engine has weighted="
                f"{self._brings[0]}, masked={self._brings[1]}. Make the engine with those that the batches bring."
            )
        call, tables = _Call(*self._places), [(batch.x, "x"), (batch.inputs, "inputs")]
        kept = [_fill(getattr(call, name), tensor) for tensor, name in tables]
        if batch.noise is not None:
            kept.append(_fill(call.noise, batch.noise))
        if batch.weight is not None:
            kept.append(_fill(call.weight, batch.weight.unsqueeze(-1)))
        if batch.mask is not None:
            kept.append(_fill(call.mask, batch.mask))
        if batch.shown is not None:
            kept.append(_fill(call.shown, batch.shown))
        for start, factors in zip((0, _MAX_HIDDEN), batch.dropout, strict=True):
            kept += [_fill(call.factors[start + i], factor) for i, factor in enumerate(factors)]
        return call, kept


class _BoundBatches:
    """Batches as `native.c` takes them."""

    def __init__(self, engine: Engine, batches: Sequence[Batch]) -> None:
        steps = [cast(NativeStep, engine.step(batch.x.shape[-2])) for batch in batches]
        self._calls, kept = zip(*(step.bind(batch) for step, batch in zip(steps, batches, strict=True)), strict=True)
        self._steps, self.batches, self._kept = steps, batches, kept
        pairs = [_Batch(addressof(step.plan), addressof(call)) for step, call in zip(steps, self._calls, strict=True)]
        self.array = (_Batch * len(batches))(*pairs)
        # Where a tensor had to be copied, the next pass has other numbers.
        self.lasts = all(_is_read_in_place(batch) for batch in batches)


class NativeSteps:
    """Gradient and update of one batch after another, in one call for each network.

    Threads share the networks, as many as ``n_jobs`` allows.

    Parameters
    ----------
    engine : Engine
    adam : Adam
        Whose state the steps move.
    weight_decay, max_norm : float
        As `Adam.step` takes them.
    """

    def __init__(self, engine: Engine, adam: Adam, weight_decay: float, max_norm: float) -> None:
        self._engine, self._adam, self._run = engine, adam, _library().skvae_steps
        tensors = adam.flat, adam.first, adam.second, adam.gradient, adam.n_steps
        numbers = adam.beta1, adam.beta2, adam.eps, weight_decay, max_norm
        self._optimiser = _Optimiser(*(tensor.data_ptr() for tensor in tensors), *numbers)
        # The feeder brings the same batches at every pass: what a call needs to know of them is written once.
        self._bound: dict[int, _BoundBatches] = {}

    def __call__(
        self, batches: Sequence[Batch], rates: Sequence[float], kl_weights: Sequence[float], losses: Tensor
    ) -> None:
        bound, numbers = self._bind(batches), c_double * len(batches)
        course = numbers(*rates), numbers(*kl_weights)

        def run(networks: Iterable[int]) -> None:
            for network in networks:
                self._run(byref(self._optimiser), bound.array, len(batches), *course, losses.data_ptr(), network)

        shared(run, range(self._engine.module.n_networks), 0.0)
        self._adam.n_steps.add_(len(batches))

    def _bind(self, batches: Sequence[Batch]) -> _BoundBatches:
        bound = self._bound.get(id(batches))
        if bound is None:
            bound = _BoundBatches(self._engine, batches)
            if bound.lasts:
                if len(self._bound) >= _MAX_BOUND:
                    self._bound.clear()
                self._bound[id(batches)] = bound
        return bound


def _is_read_in_place(batch: Batch) -> bool:
    given = [batch.x, batch.inputs, batch.mask, batch.noise, batch.shown, *batch.dropout[0], *batch.dropout[1]]
    return all(tensor is None or tensor.stride(-1) == 1 for tensor in given)


def _fill(table: _Table, tensor: Tensor) -> Tensor:
    """Point to a tensor of shape (..., n_rows, width); return the one that has to live as long."""
    if tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    table.data, table.row = tensor.data_ptr(), tensor.stride(-2)
    table.network = tensor.stride(0) if tensor.dim() > 2 else 0
    return tensor


def _masks(engine: Engine) -> Tensor:
    """Those of the masked network, one behind the other; empty where there is none."""
    likelihood, values = engine.module.likelihood, engine.values
    if not isinstance(likelihood, Autoregressive):
        return values[:0]
    return torch.cat([mask.flatten() for mask in masked_network(likelihood, values).masks])


def _plan(engine: Engine, n_rows: int, masks: Tensor) -> _Plan:
    module, likelihood = engine.module, engine.module.likelihood
    n_encoder, n_decoder = engine.encoder.n_parameters, engine.decoder.n_parameters
    segments = _segments(likelihood)
    gathered = [segment.n_columns for segment in segments if engine.masked or not segment.is_in_place]
    several = engine.n_draws > 1  # each has a weight, and its row's cells, of all segments, beside it
    return _Plan(
        n_networks=module.n_networks,
        n_rows=n_rows,
        n_components=module.n_components,
        variational=isinstance(module, VAEModule),
        n_inputs=module.encoder.n_inputs,
        n_free=likelihood.n_free,
        free_start=n_encoder + n_decoder,
        tile=min(n_rows, _TILE),
        n_segments=len(segments),
        n_gathered=likelihood.n_columns if several else max(gathered, default=0),
        is_general=engine.masked or engine.weighted or several,
        n_draws=engine.n_draws,
        drawn=min(n_rows, max(1, _TILE // engine.n_draws)),
        segments=segments,
        encoder=_network(engine.encoder, 0),
        decoder=_network(engine.decoder, n_encoder),
        masked=_masked(likelihood, masks) if isinstance(likelihood, Autoregressive) else _Masked(),
    )


def _segments(likelihood: Likelihood) -> ctypes.Array:
    """The groups of a likelihood one after another, as `native.c` takes them."""
    groups, first_output, first_free = _groups(likelihood), 0, 0
    segments = (_Segment * len(groups))()
    for segment, (group, columns) in zip(segments, groups, strict=True):
        segment.family, segment.n_columns = _family(group), group.n_columns
        segment.first_output, segment.first_free = first_output, first_free
        segment.is_in_place = list(columns) == list(range(columns[0], columns[0] + len(columns)))
        cell = group.likelihood if isinstance(group, Mixture) else group
        segment.n_members = group.n_members if isinstance(group, Mixture) else 0
        segment.floor_squared = cell.config().get("floor", 0.0) ** 2
        segment.columns, segment.n_levels = (_array(numbers, len(columns)) for numbers in (columns, group.widths))
        first_output, first_free = first_output + group.n_outputs, first_free + group.n_free
    return segments


def _network(packed: PackedMLP, start: int) -> _Network:
    network, n_networks = packed.network, packed.network.n_networks
    sizes = [n_networks * rows * columns for rows, columns in packed.shapes]
    starts = [start + sum(sizes[:i]) for i in range(len(sizes))]
    return _Network(
        n_inputs=packed.n_inputs,
        n_outputs=packed.n_outputs,
        n_hidden=len(packed.hidden),
        activation=_ACTIVATIONS.index(network.activation),
        hidden=_array(packed.hidden, _MAX_HIDDEN),
        units=_array(network.hidden, _MAX_HIDDEN),
        matrices=_array(starts, _MAX_HIDDEN + 1),
    )


def _masked(likelihood: Autoregressive, masks: Tensor) -> _Masked:
    network, hidden = masked_network(likelihood, masks), likelihood.hidden
    n_inputs, n_outputs = network.masks[0].shape
    widths = [rounded_width(width) for width in (n_inputs, *hidden, n_outputs)]
    # The last layer sees the inputs beside the layer before.
    rows = [*widths[:-2], (widths[-2] if hidden else 0) + widths[0]]
    sizes = [(n + 1) * columns for n, columns in zip(rows, widths[1:], strict=True)]
    net = _Network(
        n_inputs=widths[0],
        n_outputs=widths[-1],
        n_hidden=len(hidden),
        activation=_ACTIVATIONS.index("silu"),
        hidden=_array(widths[1:-1], _MAX_HIDDEN),
        units=_array(hidden, _MAX_HIDDEN),
        matrices=_array([sum(sizes[:i]) for i in range(len(sizes))], _MAX_HIDDEN + 1),
    )
    return _Masked(
        n_inputs=n_inputs,
        n_outputs=n_outputs,
        n_values=len(network.columns),
        first_free=likelihood.likelihood.n_free,
        n_packed=sum(sizes),
        owners=_array(network.columns, n_inputs),
        levels=_array(network.levels, n_inputs),
        masks=masks.data_ptr(),
        net=net,
    )


def _array(numbers: Sequence[int], size: int) -> ctypes.Array:
    return (c_int64 * size)(*numbers)


def _library() -> ctypes.CDLL:
    library = native_library()
    if library is None:
        raise RuntimeError("The native training step is asked for, but there is none. Ask `supports` first.")
    return library


def _step(engine: Engine, n_rows: int) -> NativeStep:
    return NativeStep(engine, n_rows, _library())


NATIVE = StepEntry("native", _supports, _step, chain=NativeSteps)
