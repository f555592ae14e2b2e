from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
from tercet.errors import PrecisionError
from tercet.evaluation.spread import cosine_drift
from tercet.kernels.native import library
from tercet.precision.dtype import Wish
from tercet.precision.plan import Plan
from tercet.precision.planning import plan

present = pytest.mark.skipif(library() is None, reason="built without native kernels")
TEXTS = [text for text in tiny.TEXTS if text]


def scheme_plan(folder: Path, label: str, engine: str, layers: tuple[int, ...] = ()) -> Plan:
    from tercet.checkpoint.layout import open_checkpoint
    from tercet.checkpoint.source import find

    here = tercet.probe("cpu")
    schemes = {s: m for s, m in here.schemes.items() if s.label == label and s.engine == engine}
    footprint = open_checkpoint(find(folder)).footprint()
    return replace(
        plan(footprint, replace(here, schemes=schemes), Wish.parse(label)), float32_layers=tuple(layers)
    )


def overflowing(folder: Path, layer: int = 1) -> Path:
    """A checkpoint whose feed-forward net leaves float16's range in one layer, and comes back."""
    tiny.write_checkpoint(folder, "bert", layers=3)
    tensors = load_file(folder / "model.safetensors")
    start = f"encoder.layer.{layer}"
    for name in ("weight", "bias"):
        tensors[f"{start}.intermediate.dense.{name}"] *= 6e4
    tensors[f"{start}.output.dense.weight"] /= 6e4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_layer_in_float32_repairs_an_overflow_of_float16(tmp_path: Path) -> None:
    folder = overflowing(tmp_path)
    exact = tercet.load(folder, precision="float32").encode(TEXTS).dense
    assert exact is not None
    plain = tercet.load(folder, plan=scheme_plan(folder, "float16", "torch_packed")).encode(TEXTS)
    assert bool(plain.recomputed.all())
    mixed = tercet.load(folder, plan=scheme_plan(folder, "float16", "torch_packed", (1,))).encode(TEXTS)
    assert not bool(mixed.recomputed.any())
    assert mixed.dense is not None
    assert 0.0 < float(cosine_drift(exact, mixed.dense).max()) < 5e-5


@pytest.mark.parametrize(
    ("label", "engine"), [pytest.param("int8", "native_cpu", marks=present), ("int8", "onednn")]
)
def test_int8_with_all_layers_in_float32_is_float32(tiny_bert: Path, label: str, engine: str) -> None:
    exact = tercet.load(tiny_bert, precision="float32").encode(TEXTS).dense
    kept = [0, 0, 0]
    drifts = []
    for count, layers in enumerate(((), (0,), (0, 1))):
        model = tercet.load(tiny_bert, plan=scheme_plan(tiny_bert, label, engine, layers))
        found = model.encode(TEXTS).dense
        assert exact is not None
        assert found is not None
        drifts.append(float(cosine_drift(exact, found).mean()))
        kept[count] = len(model.provenance()["float32_layers"])
    assert drifts[0] > 1e-5
    assert drifts[1] < drifts[0]
    assert drifts[2] < 1e-11
    assert kept == [0, 4, 8]


def test_the_layers_next_to_each_other_stay_in_float32_between(tiny_bert: Path) -> None:
    exact = tercet.load(tiny_bert, precision="float32").encode(TEXTS).dense
    model = tercet.load(tiny_bert, plan=scheme_plan(tiny_bert, "bfloat16", "torch_packed", (0, 1)))
    found = model.encode(TEXTS).dense
    assert exact is not None
    assert found is not None
    # What enters the first layer and leaves the last is rounded, nothing between.
    assert 0.0 < float(cosine_drift(exact, found).max()) < 1e-4
    assert "; layers 0, 1 in float32" in str(model.plan)
    assert torch.is_floating_point(found)


def test_such_a_plan_is_saved_and_replayed(tiny_bert: Path, tmp_path: Path) -> None:
    made = scheme_plan(tiny_bert, "bfloat16", "torch_packed", (1,))
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made


@pytest.mark.parametrize("engine", ["torch_packed", pytest.param("native_cpu", marks=present)])
def test_a_layer_that_is_not_there_is_refused(tiny_bert: Path, engine: str) -> None:
    label = "float16" if engine == "torch_packed" else "int8"
    with pytest.raises(PrecisionError, match=r"keeps layer 7 in float32; the encoder has layers 0 to 1"):
        tercet.load(tiny_bert, plan=scheme_plan(tiny_bert, label, engine, (7,)))
