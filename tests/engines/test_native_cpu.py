"""The native CPU engine: near float32, the same bits in any batch, packed once, honest where it is absent."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

import tiny
from engine_contract import Subject
from planned import capability, measured, scheme
from tercet.batch import Batch
from tercet.checkpoint.layout import Checkpoint, open_checkpoint
from tercet.engines import ENGINES, Engine, native_cpu, probing
from tercet.engines.native_cpu import STATED_DRIFT
from tercet.engines.packed import LinearWeight
from tercet.errors import CheckpointError, PrecisionError
from tercet.kernels import matmul
from tercet.kernels.attention import multiplies_bfloat16
from tercet.kernels.native import library
from tercet.layers.linear import FeedForward
from tercet.precision.choice import choose_scheme
from tercet.precision.dtype import DType, Wish
from tercet.precision.hardware import Measured
from tercet.precision.plan import Plan
from tercet.precision.planning import plan

KIND = ENGINES["native_cpu"]
SCHEMES = KIND.schemes("cpu")
RUNNING = [found.label for found in SCHEMES if matmul.available(found.label)]
NARROW = [found.label for found in SCHEMES if found.label in RUNNING and not found.is_plain]
present = pytest.mark.skipif(library() is None, reason="built without native kernels")
IDS = [[2, 8, 9, 3], [2, 3], [2, *([10] * 40), 3], [2, 11, 3]]


@pytest.fixture(autouse=True)
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of packed weights, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tercet" / "weights"


def planned(folder: Path, precision: str, kernel: str | None = None) -> Plan:
    table: dict[object, Measured] = {DType.FLOAT32: measured(1.0)}
    table |= {found: Measured(0.3, 1e-3, True, None, None, True, kernel) for found in SCHEMES}
    return plan(open_checkpoint(folder).footprint(), capability(table), Wish.parse(precision))  # type: ignore[arg-type]


def opened(folder: Path, precision: str) -> Engine:
    """The native engine."""
    [found] = [found for found in SCHEMES if found.label == precision]
    return KIND.open(open_checkpoint(folder), replace(planned(folder, "int8"), scheme=found))


def subject(precision: str) -> Subject:
    """One of the engine's schemes as if it had been measured."""
    [found] = [found for found in SCHEMES if found.label == precision]
    return Subject(
        found, Measured(1.0, 1e-3, True, None, STATED_DRIFT[precision], True, matmul.available(precision))
    )


def in_torch(folder: Path) -> Engine:
    """float32 by torch."""
    single = capability({DType.FLOAT32: measured(1.0)})
    made = plan(open_checkpoint(folder).footprint(), single, Wish("explicit", DType.FLOAT32))
    return ENGINES["torch_packed"].open(open_checkpoint(folder), made)


def read_names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The tensors that are read from here on."""
    names: set[str] = set()
    read = Checkpoint.read

    def noted(self: Checkpoint, info: object, dtype: DType) -> torch.Tensor:
        names.add(info.name)  # type: ignore[attr-defined]
        return read(self, info, dtype)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoint, "read", noted)
    return names


@present
@pytest.mark.parametrize("precision", RUNNING)
@pytest.mark.parametrize(
    ("architecture", "stored", "activation"),
    [("bert", "float32", "gelu"), ("xlm-roberta", "float16", "gelu"), ("bert", "bfloat16", "relu")],
)
def test_an_encoder_is_near_the_one_in_float32(
    tmp_path: Path, precision: str, architecture: str, stored: str, activation: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", architecture, dtype=stored, hidden_act=activation)
    batch = Batch.from_ids(IDS)
    found = opened(folder, precision).forward(batch)
    assert found.dtype is torch.float32
    wanted = in_torch(folder).forward(batch)
    if precision == "float32":
        torch.testing.assert_close(found, wanted, rtol=0, atol=5e-6)
    else:
        assert 0 < float((1 - functional.cosine_similarity(found, wanted, dim=1)).mean()) < 1e-3


@present
@pytest.mark.parametrize("precision", RUNNING)
def test_a_text_has_the_same_bits_alone_and_in_a_batch(tmp_path: Path, precision: str) -> None:
    engine = opened(tiny.write_checkpoint(tmp_path / "model", "bert"), precision)
    together = engine.forward(Batch.from_ids(IDS)).split([len(ids) for ids in IDS])
    for ids, rows in zip(IDS, together, strict=True):
        assert torch.equal(engine.forward(Batch.from_ids([ids])), rows)


@present
def test_a_feed_forward_net_with_gelu_is_computed_at_once_and_any_other_layer_by_layer(
    tmp_path: Path,
) -> None:
    for activation in ("gelu", "relu", "gelu_new"):
        folder = tiny.write_checkpoint(tmp_path / activation, "bert", hidden_act=activation)
        nets = [part for part in opened(folder, "int8")._encoder.modules() if isinstance(part, FeedForward)]
        assert nets
        assert all((net.product is not None) == (activation == "gelu") for net in nets)


@present
@pytest.mark.parametrize("precision", NARROW)
def test_a_second_start_maps_the_packed_weights_and_reads_none_of_the_layers(
    tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    batch = Batch.from_ids(IDS)
    names = read_names(monkeypatch)
    first = opened(folder, precision).forward(batch)
    assert any(name.endswith("query.weight") for name in names)
    [file] = cached.iterdir()
    before = file.read_bytes()
    names.clear()
    second = opened(folder, precision)
    assert torch.equal(second.forward(batch), first)
    assert {name for name in names if ".layer." in name and name.endswith("weight")} == {
        name for name in names if "LayerNorm.weight" in name and ".layer." in name
    }
    assert file.read_bytes() == before


@present
def test_each_scheme_and_each_model_has_a_file_of_its_own(tmp_path: Path, cached: Path) -> None:
    batch = Batch.from_ids(IDS)
    one = tiny.write_checkpoint(tmp_path / "one", "bert")
    two = tiny.write_checkpoint(tmp_path / "two", "bert", seed=7)
    for folder in (one, two):
        for precision in NARROW:
            opened(folder, precision)
    assert len(list(cached.iterdir())) == 2 * len(NARROW)
    assert not torch.equal(opened(one, "int8").forward(batch), opened(two, "int8").forward(batch))


@present
@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[: len(data) // 2], lambda data: b""]
)
def test_a_damaged_file_is_packed_anew(
    tmp_path: Path, cached: Path, damage: Callable[[bytes], bytes]
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    batch = Batch.from_ids(IDS)
    wanted = opened(folder, "int8").forward(batch)
    [file] = cached.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(opened(folder, "int8").forward(batch), wanted)
    assert file.read_bytes() == whole


@present
def test_a_file_with_the_layers_of_another_model_is_packed_anew(
    tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Checkpoint, "weights_hash", lambda self: "0" * 64)
    batch = Batch.from_ids(IDS)
    opened(tiny.write_checkpoint(tmp_path / "wide", "bert", hidden=64, heads=2), "int8")
    opened(tiny.write_checkpoint(tmp_path / "long", "bert", layers=3), "int8")
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    found = opened(folder, "int8").forward(batch)
    [file] = cached.iterdir()
    file.unlink()
    assert torch.equal(opened(folder, "int8").forward(batch), found)


@present
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    batch = Batch.from_ids(IDS)
    wanted = opened(folder, "int8").forward(batch)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert torch.equal(opened(folder, "int8").forward(batch), wanted)


@present
def test_no_more_than_one_unpacked_layer_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", layers=3)
    read, held, alive = LinearWeight.read, [], []

    def watched(self: LinearWeight) -> torch.Tensor:
        alive.append(sum(1 for reference in held if reference() is not None))
        whole = read(self)
        held.append(weakref.ref(whole))
        return whole

    monkeypatch.setattr(LinearWeight, "read", watched)
    opened(folder, "int8")
    assert alive == [0] * 12


@pytest.fixture
def imitated(monkeypatch: pytest.MonkeyPatch) -> None:
    """float16 runs here, by the scalar kernels that imitate it."""
    monkeypatch.setenv("TERCET_KERNELS", "scalar")
    monkeypatch.setattr(matmul, "_IMITATED", frozenset())


@present
@pytest.mark.usefixtures("imitated")
@pytest.mark.parametrize("changed", ["1.intermediate.dense", "1.attention.self.key"])
def test_a_layer_whose_weights_leave_the_range_of_float16_runs_in_float32_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    tensors = load_file(folder / "model.safetensors")
    [name] = [name for name in tensors if f"{changed}.weight" in name]
    tensors[name][3, 4] = 7e4
    for norm in (name for name in tensors if "1.attention.output.LayerNorm" in name):
        tensors[norm][4] *= 0.01  # what the layer gives stays in the range
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    batch = Batch.from_ids(IDS)
    wanted = in_torch(folder).forward(batch)
    path = "layers.1.feed_forward.up" if "dense" in changed else "layers.1.qkv.fused"
    for _ in range(2):  # packed, and mapped
        caplog.clear()
        engine = opened(folder, "float16")
        assert engine.float32_layers == (path,)
        assert "the weights of 1 of 8 linear layers leave the range of float16" in caplog.text
        assert caplog.text.rstrip().endswith(path)
        torch.testing.assert_close(engine.forward(batch), wanted, rtol=0, atol=2e-2)


@present
@pytest.mark.usefixtures("imitated")
def test_weights_at_the_edge_of_float16_stay_in_it(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    tensors = load_file(folder / "model.safetensors")
    next(tensor for name, tensor in tensors.items() if name.endswith("0.output.dense.weight"))[0, 0] = 65504.0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert opened(folder, "float16").float32_layers == ()


@present
@pytest.mark.usefixtures("imitated")
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_float16_is_near_float32_whatever_it_is_stored_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", dtype=stored)
    batch = Batch.from_ids(IDS)
    read, asked = Checkpoint.read, {}

    def noted(self: Checkpoint, info: object, dtype: DType) -> torch.Tensor:
        asked[info.name] = dtype  # type: ignore[attr-defined]
        return read(self, info, dtype)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "read", noted)
        engine = opened(folder, "float16")
    # What is stored in float16 is packed from there, without float32 between.
    wide = {dtype for name, dtype in asked.items() if name.endswith("query.weight")}
    assert wide == {DType.parse(stored)}
    found, wanted = engine.forward(batch), in_torch(folder).forward(batch)
    assert found.dtype is torch.float32
    assert 0 < float((found - wanted).norm() / wanted.norm()) < 5e-3
    for ids, rows in zip(IDS, found.split([len(ids) for ids in IDS]), strict=True):
        assert torch.equal(engine.forward(Batch.from_ids([ids])), rows)
    names = read_names(monkeypatch)
    assert torch.equal(opened(folder, "float16").forward(batch), found)
    assert not [name for name in names if name.endswith("query.weight")]


@present
@pytest.mark.usefixtures("imitated")
def test_texts_that_leave_the_range_of_float16_are_computed_in_float32_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    modules = ("pooling", "normalize")
    folder = tiny.write_checkpoint(tmp_path / "m", "bert", layout="sentence-transformers", modules=modules)
    tensors = load_file(folder / "model.safetensors")
    words = next(name for name in tensors if name.endswith("word_embeddings.weight"))
    [norm] = [name for name in tensors if name.endswith("embeddings.LayerNorm.weight")]
    # One word is all in one direction, which the norm makes large; no other word is.
    tensors[norm] = torch.ones_like(tensors[norm])
    tensors[norm][0] = 1e5
    tensors[words][:, 0] = tensors[words].mean(dim=1)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = subject("float16").load(folder)
    texts = list(tiny.TEXTS)
    given = model.encode(texts)
    assert given.recomputed.any()
    assert (
        f"{int(given.recomputed.sum())} texts left the range of float16 (largest number 65504)" in caplog.text
    )
    exact = subject("float32").load(folder).encode(texts)
    assert given[given.recomputed].allclose(exact[given.recomputed], atol=1e-5)
    assert bool(given.dense.isfinite().all())


@present
@pytest.mark.minilm
@pytest.mark.usefixtures("imitated")
def test_float16_drifts_no_further_than_it_states(minilm: Path) -> None:
    texts = ["What is a boundary layer?", "heat transfer in hypersonic flow", "The cat sat on the mat."]
    half, single = (
        subject(label).load(minilm, output_dtype=DType.FLOAT64).encode(texts, normalize=True).dense
        for label in ("float16", "float32")
    )
    drift = (half - single).square().sum(1) / 2
    stated = STATED_DRIFT["float16"]
    assert stated.invisible
    assert 1e-8 < drift.mean() <= 2 * stated.mean
    assert drift.max() <= 2 * stated.worst


@present
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, cached: Path, value: float) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    tensors = load_file(folder / "model.safetensors")
    [name] = [name for name in tensors if name.endswith("1.attention.self.key.weight")]
    tensors[name][3, 4] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model: .*key\.weight.* holds a value that is not finite"):
        opened(folder, "int8")
    assert list(cached.iterdir()) == []


@present
def test_what_is_not_finite_is_in_its_own_text_alone(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    engine = opened(folder, "int8")
    batch = Batch.from_ids(IDS)
    wanted = engine.forward(batch)
    engine._encoder.word.weight.data[11] = float("inf")
    found = engine.forward(batch)
    assert torch.equal(found[:48], wanted[:48])
    assert not torch.isfinite(found[48:]).any()


@present
def test_the_probe_tells_the_level_that_runs_and_the_stated_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_CPU_SHAPES", ((32, 64, 96),))
    monkeypatch.setattr(probing, "_BUDGET_SECONDS", 0.02)
    running = [found for found in SCHEMES if found.label in RUNNING]
    for found, row in KIND.probe("cpu", running).items():
        assert row.failure is None
        level, narrow = matmul.available(found.label), found.label == "int8-fast" and multiplies_bfloat16()
        assert row.kernel == (f"{level} (attention in bfloat16)" if narrow else level)
        assert row.native is (level != "scalar")
        assert row.drift == STATED_DRIFT[found.label]
        assert row.relative_seconds is not None
        assert row.relative_seconds > 0
        assert row.max_error is not None
        assert (0 if found.is_plain else 1e-4) < row.max_error < (1e-5 if found.is_plain else 0.05)


@present
def test_masked_instructions_leave_the_scalar_kernels_near_the_best_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    batch = Batch.from_ids(IDS)
    best = opened(folder, "int8").forward(batch)
    saved = planned(folder, "int8", matmul.available("int8"))
    monkeypatch.setenv("TERCET_KERNELS", "scalar")
    assert matmul.available("int8") == "scalar"
    # Not the same bits: where a number is rounded, the last bit of the one before it may tip a whole code.
    found = opened(folder, "int8").forward(batch)
    assert float((1 - functional.cosine_similarity(found, best, dim=1)).max()) < 1e-3
    if saved.kernel != "scalar":
        with pytest.raises(
            PrecisionError, match=rf"by kernels for {saved.kernel}; here they are for scalar\."
        ):
            KIND.open(open_checkpoint(folder), saved)


def test_without_kernels_int8_takes_the_next_engine_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    saved = planned(folder, "int8")
    monkeypatch.setenv("TERCET_KERNELS", "none")
    rows = KIND.probe("cpu", SCHEMES)
    assert {row.failure for row in rows.values()} == {"no native kernels: TERCET_KERNELS=none asks for none"}
    [other] = ENGINES["onednn"].schemes("cpu")
    found = capability({scheme(DType.FLOAT32): measured(1.0), **rows, other: measured(0.6, (1e-3, 7e-3))})
    choice = choose_scheme(found, Wish.parse("int8"))
    assert choice.scheme == other
    assert (
        "int8 (native_cpu) does not run here: no native kernels: TERCET_KERNELS=none asks for none."
        in choice.reasons
    )
    with pytest.raises(
        PrecisionError, match=r"int8-fast does not run on cpu .*Ask for what runs here \(float32, int8\)"
    ):
        choose_scheme(found, Wish.parse("int8-fast"))
    with pytest.raises(
        PrecisionError, match=r"runs int8 \(native_cpu\), which does not run here: no native kernels"
    ):
        KIND.open(open_checkpoint(folder), saved)


def test_a_processor_without_a_kernel_for_the_scheme_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        monkeypatch.setattr(native_cpu, "library", lambda: type("Here", (), {"level": "scalar"}))
    monkeypatch.setattr(matmul, "available", lambda label: None)
    for found, row in KIND.probe("cpu", SCHEMES).items():
        assert row.failure is not None
        lacks = "no AVX512-FP16 (or Arm FP16) on" if found.label == "float16" else "no kernel for"
        assert row.failure.startswith(f"{lacks} this processor (the best instructions that it has: ")


def test_it_is_offered_on_a_cpu_alone_in_stable_names() -> None:
    assert KIND.schemes("cuda:0") == []
    assert {"float16 (native_cpu)", "int8 (native_cpu)", "int8-fast (native_cpu)"} <= {
        str(found) for found in SCHEMES
    }
    assert all(found.compute is DType.FLOAT32 for found in SCHEMES)
