"""What the base class gives to a family that states a density and nothing more: two such families, by closed forms."""

import math
import re
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from skvae.likelihoods.likelihood import Buffers, Likelihood


class Laplace(Likelihood):
    """One output, the mode, and one free parameter, the log-width, for each column."""

    name = "laplace"
    domain = "be finite"
    remedy = "Drop the row."

    def __init__(self, n_columns):
        super().__init__(n_columns, n_columns, n_columns)

    def config(self):
        return {"name": self.name, "n_columns": self.n_columns}

    def _in_domain(self, column, index):
        return column.isfinite()

    def _log_prob(self, x, outputs, free):
        width = free.unsqueeze(-2).exp()
        return -(x - outputs).abs() / width - (2 * width).log()

    def mean(self, outputs, free):
        return outputs

    def sample(self, outputs, free, generator):
        raise NotImplementedError


class Exponential(Likelihood):
    """Two outputs for each column, of which the second is not read; no free parameter. The first column is below 10."""

    name = "exponential"
    domain = "be at least 0"
    remedy = "Use 'gaussian'."

    def __init__(self, n_columns, *, unit="s"):
        super().__init__(n_columns, 2 * n_columns, 0)
        self.unit = unit

    def config(self):
        return {"name": self.name, "n_columns": self.n_columns, "unit": self.unit}

    def _in_domain(self, column, index):
        return (column >= 0) & ((column < 10) | (index > 0))

    def _log_prob(self, x, outputs, free):
        log_mean = outputs[..., : self.n_columns]
        return -x * (-log_mean).exp() - log_mean

    def mean(self, outputs, free):
        return outputs[..., : self.n_columns].exp()

    def sample(self, outputs, free, generator):
        raise NotImplementedError


FAMILIES = {"laplace": Laplace(3), "exponential": Exponential(3)}
LEADS = {"one": (), "networks": (3,), "draws-networks": (2, 3)}
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
each_lead = pytest.mark.parametrize("lead", LEADS.values(), ids=LEADS)


def case(family, rng, lead=(), n_samples=5):
    """Rows, outputs and free parameters."""
    x = torch.tensor(rng.exponential(size=(n_samples, 3)))
    outputs = torch.tensor(rng.normal(size=(*lead, n_samples, family.n_outputs)))
    return x, outputs, torch.tensor(0.5 * rng.normal(size=(*lead[-1:], family.n_free)))


def exact(family, x, outputs, free):
    """Log-density of each cell and its derivatives by the outputs and, cell by cell, by the free parameters."""
    x, outputs, free = x.numpy(), outputs.numpy(), free.numpy()[..., None, :]
    if isinstance(family, Laplace):
        width = np.exp(free)
        log_prob = stats.laplace(outputs, width).logpdf(x)
        return log_prob, np.sign(x - outputs) / width, np.abs(x - outputs) / width - 1.0
    log_mean = outputs[..., :3]
    d_outputs = np.concatenate([x * np.exp(-log_mean) - 1.0, np.zeros_like(log_mean)], axis=-1)
    return stats.expon(scale=np.exp(log_mean)).logpdf(x), d_outputs, np.zeros((*log_mean.shape[:-1], 0))


def exact_loss(family, x, outputs, free, row_weight=None, mask=None):
    """Loss and gradient as the closed forms give them."""
    log_prob, d_outputs, d_free = exact(family, x, outputs, free)
    weight = np.ones(log_prob.shape) if row_weight is None else np.ones(log_prob.shape) * row_weight.numpy()[..., None]
    weight = weight if mask is None else np.where(mask.numpy(), weight, 0.0)
    twice = np.tile(weight, family.n_outputs // 3)
    return (
        -(weight * log_prob).sum((-2, -1)),
        -twice * d_outputs,
        -(weight[..., : d_free.shape[-1]] * d_free).sum(-2),
    )


def assert_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), other, rtol=1e-12, atol=1e-12)


# --- The density ----------------------------------------------------------------------------------------------------


@each_lead
@each_family
def test_log_prob_is_that_of_the_family(family, lead, rng):
    x, outputs, free = case(family, rng, lead)
    np.testing.assert_allclose(family.log_prob(x, outputs, free), exact(family, x, outputs, free)[0], rtol=1e-12)


@each_family
def test_masked_cells_count_zero_and_may_hold_anything(family, rng):
    x, outputs, free = case(family, rng)
    mask = torch.tensor(rng.random(x.shape) < 0.6)
    expected = np.where(mask, exact(family, x, outputs, free)[0], 0.0)
    for rubbish in (math.nan, math.inf, -1e30):
        actual = family.log_prob(torch.where(mask, x, rubbish), outputs, free, mask)
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
    every, none = torch.ones_like(mask), torch.zeros_like(mask)
    assert torch.equal(family.log_prob(x, outputs, free, every), family.log_prob(x, outputs, free))
    assert not family.log_prob(x, outputs, free, none).any()


@each_family
def test_expected_log_prob_is_that_of_the_mean_less_one_half(family, rng):
    _, outputs, free = case(family, rng)
    height = -np.log(2.0) - free.numpy() if isinstance(family, Laplace) else -1.0 - outputs.numpy()[:, :3]
    expected = np.broadcast_to(height - 0.5, (5, 3))
    np.testing.assert_allclose(family.expected_log_prob(outputs, free), expected, rtol=1e-12)


# --- The gradient ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@each_lead
@each_family
def test_loss_gradient_is_the_derivative(family, lead, masked, weighted, rng):
    """Without one line about it in the family; a missing cell may hold NaN."""
    x, outputs, free = case(family, rng, lead)
    mask = torch.tensor(rng.random(x.shape) < 0.6) if masked else None
    weight = torch.tensor(rng.exponential(size=(*lead, 5))) if weighted else None
    expected = exact_loss(family, x, outputs, free, weight, mask)
    with torch.no_grad():
        actual = family.loss_gradient(
            x if mask is None else torch.where(mask, x, math.nan), outputs, free, weight, mask
        )
    assert [part.shape for part in actual] == [lead, outputs.shape, free.shape]
    if len(lead) > 1:  # the draws of a network share its free parameters
        expected = (*expected[:2], expected[2].sum(0))
    assert_close(actual, expected)


@each_family
def test_loss_gradient_writes_where_it_is_told(family, rng):
    """Into columns of something wider, and nowhere else."""
    x, outputs, free = case(family, rng, (2,))
    wide = torch.full((2, 5, family.n_outputs + 3), 7.0, dtype=torch.float64)
    out = wide[..., 1:-2]
    with torch.no_grad():
        _, d_outputs, _ = family.loss_gradient(x, outputs, free, out=out)
    assert d_outputs is out
    np.testing.assert_allclose(out, exact_loss(family, x, outputs, free)[1], rtol=1e-12, atol=1e-12)
    assert bool((wide[..., [0, -2, -1]] == 7.0).all())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@each_family
def test_loss_gradient_carries_no_graph_and_changes_nothing(family, mode, rng):
    with mode():
        x, outputs, free = case(family, rng)
        weight, mask = torch.tensor(rng.exponential(size=5)), torch.tensor(rng.random((5, 3)) < 0.6)
        given = (x, outputs, free, weight, mask)
        before = [tensor.clone() for tensor in given]
        actual = family.loss_gradient(*given)
        assert not any(part.requires_grad for part in actual)
        assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))
        assert_close(actual, exact_loss(family, *before))


def test_rows_without_weight_or_cells_have_no_part_in_it(rng):
    family = Laplace(3)
    x, outputs, free = case(family, rng)
    weight, mask = torch.ones(5, dtype=torch.float64), torch.ones(5, 3, dtype=torch.bool)
    weight[1], mask[2] = 0.0, False
    with torch.no_grad():
        loss, d_outputs, d_free = family.loss_gradient(x, outputs, free, weight, mask)
        kept = [0, 3, 4]
        alone = family.loss_gradient(x[kept], outputs[kept], free)
    assert not d_outputs[[1, 2]].any()
    assert_close((loss, d_outputs[kept], d_free), [part.numpy() for part in alone])


class Recorded(Laplace):
    """A family with a gradient of its own, which notes the weights of the cells that it is given."""

    def _loss_gradient(self, x, outputs, free, weight, mask, out):
        self.weight = weight
        return super()._loss_gradient(x, outputs, free, weight, mask, out)


def test_a_gradient_by_hand_is_given_one_weight_for_each_cell(rng):
    """Weights of rows and what is missing are one factor; None, which costs nothing, where all cells count once."""
    family, (x, outputs, free) = Recorded(3), case(FAMILIES["laplace"], rng, n_samples=2)
    weight = torch.tensor([2.0, 3.0], dtype=torch.float64)
    mask = torch.tensor([[True, False, True], [False, True, True]])
    found = []
    for given in ((None, None), (weight, None), (None, mask), (weight, mask)):
        with torch.no_grad():
            family.loss_gradient(x, outputs, free, *given)
        found.append(family.weight if family.weight is None else family.weight.tolist())
    assert found == [None, [[2.0], [3.0]], [[1, 0, 1], [0, 1, 1]], [[2, 0, 2], [0, 3, 3]]]
    assert family.weight.dtype == torch.float64


@each_family
def test_no_shorter_way_is_claimed(family):
    zeros = torch.zeros(5, family.n_outputs)
    free = torch.zeros(family.n_free)
    assert family.gradient_in(Buffers(zeros, free, zeros.clone(), free.clone(), torch.zeros(()))) is None


@each_family
def test_single_precision_stays(family, rng):
    x, outputs, free = (tensor.float() for tensor in case(family, rng))
    mask = torch.tensor(rng.random(x.shape) < 0.6)
    with torch.no_grad():
        results = [
            family.log_prob(x, outputs, free, mask),
            family.expected_log_prob(outputs, free),
            *family.loss_gradient(x, outputs, free, torch.ones(5), mask),
            *family.linear_outputs(x[0], x[:2]),
            family.linear_free(x[0]),
        ]
    assert {result.dtype for result in results} == {torch.float32}


# --- Where a model starts, and what it gives back -------------------------------------------------------------------


@each_family
def test_free_parameters_start_at_zero(family):
    assert family.initial_free() == [0.0] * family.n_free
    start = family.linear_free(torch.ones(3, dtype=torch.float64))
    assert (start.tolist(), start.dtype) == ([0.0] * family.n_free, torch.float64)


def test_linear_outputs_leave_surplus_outputs_at_zero():
    mean, loadings = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[4.0, 5.0, 6.0]])
    assert [part.tolist() for part in Laplace(3).linear_outputs(mean, loadings)] == [[1, 2, 3], [[4, 5, 6]]]
    bias, weight = Exponential(3).linear_outputs(mean, loadings)
    assert (bias.tolist(), weight.tolist()) == ([1, 2, 3, 0, 0, 0], [[4, 5, 6, 0, 0, 0]])


@each_family
def test_a_cell_is_expected_at_its_mean(family, rng):
    _, outputs, free = case(family, rng)
    assert family.widths == (1, 1, 1)
    expected = family.expected(outputs, free)
    assert torch.equal(expected, family.mean(outputs, free))
    assert family.cells(expected) is expected


@each_family
def test_scale_is_refused_where_there_is_none(family, rng):
    _, outputs, free = case(family, rng)
    assert not family.has_scale
    message = f"scale needs a likelihood with a scale of its own, but '{family.name}' has none. Ask has_scale first."
    with pytest.raises(NotImplementedError, match=rf"\A{re.escape(message)}\Z"):
        family.scale(outputs, free)


# --- Identity -------------------------------------------------------------------------------------------------------


def test_equal_where_name_and_arguments_are():
    assert Laplace(3) == Laplace(3)
    assert len({Laplace(3), Laplace(3), Laplace(2), Exponential(3)}) == 3
    assert Laplace(3) != Laplace(2)
    assert Laplace(3) != Exponential(3)
    assert Exponential(3) != Exponential(3, unit="h")
    assert Laplace(3) != {"name": "laplace", "n_columns": 3}


def test_repr_is_the_call_that_makes_it():
    assert repr(Laplace(3)) == "Laplace(n_columns=3)"
    assert repr(Exponential(1, unit="h")) == "Exponential(n_columns=1, unit='h')"
    assert eval(repr(Exponential(1, unit="h"))) == Exponential(1, unit="h")


def test_sizes_are_plain_ints():
    family = Laplace(np.int64(2))
    assert [type(size) for size in (family.n_columns, family.n_outputs, family.n_free)] == [int, int, int]


@pytest.mark.parametrize("n_columns", [0, -2])
def test_group_without_columns_is_refused(n_columns):
    message = f"n_columns must be at least 1, but {n_columns} came. Leave an empty group out."
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        Laplace(n_columns)


@pytest.mark.parametrize("missing", ["config", "_log_prob", "_in_domain", "mean", "sample"])
def test_family_that_leaves_out_a_part_cannot_be_made(missing):
    parts = {name: part for name, part in vars(Laplace).items() if name not in (missing, "__init__", "__classcell__")}
    with pytest.raises(TypeError, match=missing):
        type("Half", (Likelihood,), parts)(1, 1, 1)


# --- The domain -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["array", "tensor"])
def test_check_names_the_first_bad_row(kind):
    message = "Column 'wait' must be at least 0 for likelihood 'exponential', but row 2 holds -1.5. Use 'gaussian'."
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        Exponential(3).check(kind([0.0, math.nan, -1.5, -3.0]), "wait", index=1)


def test_check_asks_for_the_column_of_the_group():
    column = np.array([0.0, 12.0])
    Exponential(3).check(column, "wait", index=2)
    with pytest.raises(
        ValueError, match=r"\AColumn 'wait' must be at least 0 .* row 1 holds 12\.0\. Use 'gaussian'\.\Z"
    ):
        Exponential(3).check(column, "wait")


@each_family
@pytest.mark.parametrize("column", [[], [math.nan], [math.nan, 1.0]], ids=str)
def test_check_passes_missing_cells(family, column):
    family.check(np.array(column, dtype=float), "a")


def test_check_reads_what_must_not_be_written():
    """As the columns of a mapped file are; torch warns where it takes such memory without a copy."""
    column = np.array([1.0, 2.0])
    column.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Laplace(1).check(column, "a")
    assert column.tolist() == [1.0, 2.0]
