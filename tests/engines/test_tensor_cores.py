import logging
from dataclasses import replace

import pytest
import torch

import tercet
import tiny
from lanes import FakeLanes
from planned import capability, footprint, measured
from tercet.batch import Batch
from tercet.checkpoint.layout import open_checkpoint
from tercet.engines import ENGINES, tensor_cores
from tercet.engines.graphs import Captured, Graphs
from tercet.engines.tensor_cores import (
    FLOAT8,
    STATED_DRIFT,
    TF32,
    probe_tensor_cores,
    schemes_of_tensor_cores,
)
from tercet.engines.torch_packed import TorchPacked
from tercet.layers.attention import padded
from tercet.layers.float8 import Float8Product, multiply_by_hand
from tercet.layers.linear import Linear
from tercet.precision.dtype import DType, Precision, Wish
from tercet.precision.plan import Plan
from tercet.precision.planning import plan
from tercet.precision.scheme import Scheme

IDS = [[2, 8, 9, 3], [2, 3], [2, *([10] * 40), 3], [2, 11, 3]]


def as_if(monkeypatch, *capability):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


def planned(folder, scheme):
    """A plan for the CPU as it would be made for a GPU: there the same products run, slowly."""
    checkpoint = open_checkpoint(folder)
    made = tercet.load(folder, precision="float32", device="cpu").plan
    precision = Precision(scheme.dtype, scheme.compute)
    return checkpoint, replace(made, scheme=scheme, precision=precision, kernel=None)


def test_they_are_what_users_ask_for_by_name():
    assert Wish.parse("float8").label == FLOAT8.label == "float8"
    assert Wish.parse("tf32").label == TF32.label == "tf32"
    assert FLOAT8.compute is DType.BFLOAT16
    assert not TF32.is_plain


def test_schemes_are_offered_on_cuda_alone():
    kind = ENGINES["torch_packed"]
    assert {TF32, FLOAT8} <= set(kind.schemes("cuda:0"))
    assert schemes_of_tensor_cores("cpu") == schemes_of_tensor_cores("mps") == []
    assert len({scheme.name for scheme in kind.schemes("cuda:0")}) == len(kind.schemes("cuda:0"))


@pytest.mark.parametrize(
    ("capability", "runs"),
    [((7, 5), set()), ((8, 6), {TF32}), ((8, 9), {TF32, FLOAT8})],
)
def test_a_probe_says_which_gpus_have_the_instructions(monkeypatch, capability, runs):
    as_if(monkeypatch, *capability)
    found = probe_tensor_cores("cpu", [TF32, FLOAT8])
    assert {scheme for scheme, row in found.items() if row.runs} == runs
    assert found[FLOAT8].drift == STATED_DRIFT[FLOAT8]
    for scheme in {TF32, FLOAT8} - runs:
        needed = {TF32: "8.0", FLOAT8: "8.9"}[scheme]
        assert found[scheme].failure == (
            f"{scheme.label} products need compute capability {needed}, and this GPU has "
            f"{capability[0]}.{capability[1]}"
        )


def test_a_probe_measures_time_and_error(monkeypatch):
    as_if(monkeypatch, 9, 0)
    found = probe_tensor_cores("cpu", [TF32, FLOAT8])
    assert 0.01 < found[FLOAT8].max_error < 0.06
    assert found[TF32].max_error < 1e-5  # a CPU has no TF32
    assert all(row.relative_seconds > 0 for row in found.values())


def test_the_drift_of_tf32_is_not_known_and_so_auto_leaves_it_alone(monkeypatch):
    as_if(monkeypatch, 9, 0)
    assert probe_tensor_cores("cpu", [TF32])[TF32].drift is None


def refuses(*args):
    raise RuntimeError("_scaled_mm is not implemented here\nException raised from somewhere")


def forgets(x, *args):
    return torch.zeros(len(x), 32, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("product", "reason"), [(refuses, "_scaled_mm is not implemented here"), (forgets, "gives wrong values")]
)
def test_a_product_that_fails_does_so_with_a_reason(monkeypatch, product, reason):
    as_if(monkeypatch, 9, 0)
    monkeypatch.setitem(tensor_cores._PACKS, FLOAT8, lambda weight: product)
    [row] = probe_tensor_cores("cpu", [FLOAT8]).values()
    assert not row.runs
    assert row.failure == f"a float8 product: {reason}"


GPU = capability(
    {
        DType.FLOAT32: measured(1.0),
        TF32: measured(0.4, None),
        FLOAT8: measured(0.2, (2.8e-3, 4.5e-3)),
    },
    device="cuda:0",
    free_bytes=80 * 10**9,
)


def test_a_plan_for_tf32_says_that_its_loss_is_not_known():
    made = plan(footprint(), GPU, Wish.parse("tf32"))
    assert made.scheme == TF32
    assert made.precision == Precision(DType.FLOAT32, DType.FLOAT32)
    assert (
        "tf32 (torch_packed) runs here, 2.50 times as fast as float32; it states no drift" in made.reasons[0]
    )
    page = " ".join(plan(footprint(), GPU, Wish.parse("auto")).reasons)
    assert "auto stays with float32 (torch_packed)" in page
    assert "tf32 (torch_packed) is 2.50 times as fast as float32 here, but states no drift" in page


def test_a_plan_for_float8_says_what_is_in_which_format():
    made = plan(footprint(), GPU, Wish.parse("float8"))
    assert made.scheme == FLOAT8
    assert made.precision == Precision(DType.FLOAT8, DType.BFLOAT16)
    page = " ".join(made.reasons)
    assert "its stated drift, mean 2.8e-03 and worst 4.5e-03, is visible" in page
    assert "what flows between them is bfloat16, and embeddings and norms are bfloat16 too." in page
    assert Plan.from_json(made.to_json()) == made


def test_float8_quantises_linear_layers_and_leaves_the_rest_in_bfloat16(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    engine = TorchPacked(*planned(folder, FLOAT8))
    linear = [part for part in engine._encoder.modules() if isinstance(part, Linear)]
    assert all(isinstance(part.product, Float8Product) for part in linear)
    assert {part.weight.numel() for part in linear} == {0}
    assert {p.dtype for p in engine._encoder.parameters()} == {torch.bfloat16}
    batch = Batch.from_ids(IDS)
    found = engine.forward(batch)
    assert found.dtype == torch.bfloat16
    bfloat16 = Scheme(DType.BFLOAT16, DType.FLOAT32, None, "torch_packed")
    wanted = TorchPacked(*planned(folder, bfloat16)).forward(batch)
    cosine = torch.nn.functional.cosine_similarity(found.double(), wanted.double())
    assert 1e-5 < float((1 - cosine).mean()) < 5e-3
    for part in linear:
        part.product.by = multiply_by_hand
    by_hand = engine.forward(batch)
    assert float((found - by_hand).double().norm() / by_hand.double().norm()) < 0.02


def test_layers_of_odd_sizes_stay_in_bfloat16_and_are_named(tmp_path, caplog):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", intermediate=40, layers=1)
    with caplog.at_level(logging.INFO):
        engine = TorchPacked(*planned(folder, FLOAT8))
    assert engine.forward(Batch.from_ids(IDS)).isfinite().all()
    assert (
        "2 of 4 linear layers stay in bfloat16, since a size of theirs is no multiple of 16: "
        "layers.0.feed_forward.up, layers.0.feed_forward.down"
    ) in caplog.text


def test_tf32_is_allowed_during_our_forward_and_only_then(tmp_path):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    engine = TorchPacked(*planned(folder, TF32))
    flags = torch.backends.cuda.matmul
    before, seen = flags.fp32_precision, []
    engine._encoder.register_forward_hook(lambda *args: seen.append(flags.fp32_precision))
    found = engine.forward(Batch.from_ids(IDS))
    assert seen == ["tf32"]
    assert flags.fp32_precision == before
    float32 = Scheme(DType.FLOAT32, DType.FLOAT32, None, "torch_packed")
    torch.testing.assert_close(found, TorchPacked(*planned(folder, float32)).forward(Batch.from_ids(IDS)))


@pytest.mark.parametrize("scheme", [FLOAT8, TF32], ids=str)
def test_small_batches_take_captured_graphs_in_every_scheme(tmp_path, monkeypatch, scheme):
    monkeypatch.setattr("tercet.encoders.bert.attention", lambda *rows, bfloat16: padded(*rows))
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    engine = TorchPacked(*planned(folder, scheme))
    batch = Batch.from_ids(IDS)
    wanted, replays = engine.forward(batch), []

    def capture(forward, lane):
        output = forward().clone()
        return Captured(lambda: replays.append(output.copy_(forward())), output, lambda: None)

    engine.graphs = Graphs(engine._compute, torch.device("cpu"), capture=capture, lanes=FakeLanes())
    for _ in range(3):
        found = engine.forward(batch)
    assert len(replays) == 3  # one to compare, then one a batch
    # Another order of sums in attention moves a few numbers to the next code.
    assert float((found - wanted).double().norm() / wanted.double().norm()) < 0.02


# Of several kinds and lengths, at last a single word.
SENTENCES = (
    "How do I pick a random element from a list?",
    "The Danube flows through ten countries before it reaches the Black Sea.",
    "Supersonic flow past a blunt body was measured in a wind tunnel at several angles of attack.",
    "read a csv file line by line",
    "She had not expected the letter, and for a while she did not open it.",
    "Vaccines train the immune system by showing it a harmless part of a virus. After that, memory cells "
    "recognise the virus itself, and the body answers within days instead of weeks.",
    "Interest rates rose by half a percent in March, the first change in three years.",
    "no",
)


@pytest.mark.minilm
def test_the_drift_of_float8_on_english_sentences_lies_within_its_stated_class(minilm):
    """By emulation: the same codes and scales, products in float32."""
    engine = TorchPacked(*planned(minilm, FLOAT8))
    for part in engine._encoder.modules():
        if isinstance(part, Linear):
            part.product.by = multiply_by_hand
    model = tercet.load(minilm, precision="float32", device="cpu")
    wanted = model.encode(SENTENCES).dense
    ids = model.tokenizer.encode(list(SENTENCES), max_length=256, prompt="").ids
    batch = Batch.from_ids(ids)
    means = [rows.float().mean(0) for rows in engine.forward(batch).split(batch.lengths)]
    found = torch.nn.functional.normalize(torch.stack(means), dim=1)
    far = (found - wanted).double().square().sum(1) / 2
    stated = STATED_DRIFT[FLOAT8]
    assert stated.mean / 4 < far.mean() <= 1.5 * stated.mean
    assert far[:-1].max() <= 1.5 * stated.worst
    assert far[-1] <= 0.015  # one word: little to average over
