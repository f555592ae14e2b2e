"""int8 by oneDNN: what the codes are, what comes out of a layer and of a whole encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import tiny
from planned import capability, measured
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.engines import ENGINES, onednn, probing
from tercet.engines.onednn import STATED_DRIFT, QuantisedLinear, quantise_rows
from tercet.precision.dtype import DType, Wish
from tercet.precision.plan import Plan
from tercet.precision.planning import plan
from tercet.precision.scheme import Scheme

F32 = DType.FLOAT32
[INT8] = ENGINES["onednn"].schemes("cpu")


def made(path: Path, precision: str = "int8") -> Plan:
    table = {DType.FLOAT32: measured(1.0), INT8: measured(0.5, (STATED_DRIFT.mean, STATED_DRIFT.worst))}
    return plan(open_checkpoint(path).footprint(), capability(table), Wish.parse(precision))


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_row_is_within_half_a_step_of_its_codes_and_zero_stays_zero() -> None:
    x = rows(9, 70) * torch.logspace(-9, 9, 9)[:, None] + torch.linspace(-1, 3, 9)[:, None]
    x[:, 3] = 0
    codes, scale, zero = quantise_rows(x)
    back = (codes[:9].float() - zero[:, None]) * scale[:, None]
    assert bool(((back - x).abs() <= scale[:, None] * 0.51).all())
    assert bool((back[:, 3] == 0).all())
    assert bool((zero == zero.round()).all())


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-30, 3e38])
def test_a_row_of_one_value_is_exact_to_a_step(value: float) -> None:
    codes, scale, zero = quantise_rows(torch.full((1, 8), value))
    back = (codes[:1].float() - zero) * scale
    torch.testing.assert_close(back, torch.full((1, 8), value), rtol=1e-6, atol=1e-35)


@given(
    tokens=st.sampled_from([1, 2, 7, 31, 129]),
    width=st.sampled_from([1, 3, 32, 97, 384]),
    out=st.sampled_from([1, 5, 64, 131]),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=25)
def test_a_layer_is_the_product_of_its_codes(tokens: int, width: int, out: int, seed: int) -> None:
    x, weight, bias = rows(tokens, width, seed=seed) + 0.5, rows(out, width, seed=seed + 1), rows(out)
    residual = rows(tokens, out, seed=seed + 2)
    codes, scale, zero = quantise_rows(x)
    steps = weight.abs().amax(1) / 127
    whole = torch.round(weight / steps[:, None]).double()
    exact = ((codes[:tokens].double() - zero.double()[:, None]) * scale.double()[:, None]) @ (
        whole * steps.double()[:, None]
    ).T
    product = QuantisedLinear(weight)
    largest = float(exact.abs().max() + (zero * scale).abs().max() * (whole.sum(1) * steps).abs().max() + 1)
    for found, wanted in (
        (product(x, weight, bias), exact + bias),
        (product(x, weight, bias, functional.gelu), functional.gelu(exact + bias)),
        (product(x, weight, bias, None, residual), exact + bias + residual),
    ):
        assert found.dtype is torch.float32
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6 * largest)


def test_a_layer_without_rows_or_with_empty_outputs_is_a_layer_still() -> None:
    weight = torch.zeros(3, 8)
    product = QuantisedLinear(weight)
    assert product(torch.empty(0, 8), weight, torch.ones(3)).shape == (0, 3)
    assert torch.equal(product(rows(2, 8), weight, torch.ones(3)), torch.ones(2, 3))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_stays_so_in_its_own_row_alone(value: float) -> None:
    x, weight = rows(4, 16), rows(8, 16)
    product = QuantisedLinear(weight)
    whole = product(x, weight, torch.zeros(8))
    x[2, 5] = value
    found = product(x, weight, torch.zeros(8))
    assert not torch.isfinite(found[2]).any()
    assert torch.equal(found[[0, 1, 3]], whole[[0, 1, 3]])


@pytest.mark.parametrize("stored", ["float32", "float16"])
@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta"])
def test_an_encoder_in_int8_is_near_the_one_in_float32(
    tmp_path: Path, architecture: str, stored: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", architecture, dtype=stored)
    batch = Batch.from_ids([[2, 8, 9, 3], [2, 3], [2, *([10] * 40), 3], [2, 11, 3]])
    checkpoint = open_checkpoint(folder)
    engine = ENGINES["onednn"].open(checkpoint, made(folder))
    wanted = ENGINES["torch_packed"].open(checkpoint, made(folder, "float32")).forward(batch)
    found = engine.forward(batch)
    assert found.dtype is torch.float32
    cosine = functional.cosine_similarity(found, wanted, dim=1)
    assert 1e-9 < float((1 - cosine).mean()) < 1e-3
    # a text's vectors are its own, whatever stands beside it
    alone = torch.cat([engine.forward(Batch.from_ids([ids])) for ids in ([2, 8, 9, 3], [2, 3])])
    torch.testing.assert_close(alone, found[:6], rtol=0, atol=2e-6)


def test_a_feed_forward_net_by_blocks_of_rows_is_the_one_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", hidden_act="relu")
    engine = ENGINES["onednn"].open(open_checkpoint(folder), made(folder))
    batch = Batch.from_ids([[2, *range(5, 60), 3], [2, *range(60, 20, -1), 3]])
    at_once = engine.forward(batch)
    monkeypatch.setattr(onednn, "_ROWS", 16)
    torch.testing.assert_close(engine.forward(batch), at_once, rtol=0, atol=2e-6)


def test_no_float32_weight_of_a_linear_layer_stays_and_tables_stay_as_stored(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", dtype="float16")
    encoder = ENGINES["onednn"].open(open_checkpoint(folder), made(folder))._encoder
    kept = {name: (p.dtype, p.is_meta) for name, p in encoder.named_parameters()}
    assert kept["word.weight"] == (torch.float16, False)
    assert kept["layers.0.attention_norm.weight"] == (torch.float32, False)
    assert kept["layers.0.qkv.fused.bias"] == (torch.float32, False)
    linear = [
        name for name in kept if name.endswith((".fused.weight", "_out.weight", "up.weight", "down.weight"))
    ]
    assert len(linear) == 4 * len(encoder.layers)
    assert all(kept[name][1] for name in linear)


def test_the_probe_measures_it_against_float32_in_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_CPU_SHAPES", ((32, 64, 96),))
    monkeypatch.setattr(probing, "_BUDGET_SECONDS", 0.02)
    [row] = ENGINES["onednn"].probe("cpu", [INT8]).values()
    assert row.failure is None
    assert row.relative_seconds is not None
    assert row.relative_seconds > 0
    assert row.drift == STATED_DRIFT
    assert row.max_error is not None
    assert 1e-4 < row.max_error < 0.05


def test_a_torch_without_the_operation_leaves_int8_out_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(codes: torch.Tensor, shape: None) -> torch.Tensor:
        raise RuntimeError("onednn::qlinear_prepack: not built\nsecond line")

    monkeypatch.setattr(torch.ops.onednn, "qlinear_prepack", absent)
    [row] = ENGINES["onednn"].probe("cpu", [INT8]).values()
    assert row.failure == "onednn.qlinear: onednn::qlinear_prepack: not built"
    assert row.relative_seconds is None


def test_an_operation_that_computes_nonsense_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn.QuantisedLinear, "__call__", lambda self, x, weight, bias: x * 0)
    [row] = ENGINES["onednn"].probe("cpu", [INT8]).values()
    assert row.failure == "onednn.qlinear: gives wrong values"


def test_it_is_offered_on_a_cpu_alone() -> None:
    assert Scheme(DType.INT8, F32, None, "onednn", None, F32) == INT8
    assert ENGINES["onednn"].schemes("cuda:0") == []
