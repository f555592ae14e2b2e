"""Values that a narrow format cannot hold: computed in float32 and counted, never silently wrong."""

import logging

import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
from engine_contract import distances
from reference_encoder import ReferenceEncoder
from tercet.errors import CheckpointError, NonFiniteError, PrecisionError
from tercet.precision.dtype import DType

FLOAT16_MAX = 65504.0
IN_FLOAT32 = 50 * DType.FLOAT32.unit_roundoff
TEXTS = list(tiny.TEXTS)


def changed(folder, changes):
    """The folder, each tensor whose name contains a key multiplied by its value."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for part, factor in changes.items():
        assert any(part in name for name in tensors), part
        tensors = {name: t * factor if part in name else t for name, t in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def stack(folder, **settings):
    settings = {"hidden": 64, "heads": 2, "intermediate": 128, "layers": 1, "hidden_act": "relu"} | settings
    modules = ("pooling", "normalize")
    return tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", modules=modules, **settings)


def exact_vectors(folder, model):
    """(texts, dim) by the plain float64 forward, and the largest value inside it of each text."""
    ids = model.tokenizer.encode(TEXTS, max_length=model.max_length).ids
    reference = ReferenceEncoder(folder)
    rows = torch.from_numpy(reference.forward(ids)).split([len(text) for text in ids])
    means = torch.stack([text.mean(dim=0) for text in rows])
    return torch.nn.functional.normalize(means, dim=1), torch.tensor(reference.largest_inside)


@pytest.fixture
def partly_too_large(subject, tmp_path):
    """A folder in which the feed-forward net of about half of the texts leaves the range of float16."""
    _, largest = exact_vectors(stack(tmp_path), subject.load(tmp_path))
    ordered = largest.sort().values
    gaps = ordered[1:] / ordered[:-1]
    place = 2 + int(gaps[2:-2].argmax())
    assert gaps[place] > 1.02
    factor = FLOAT16_MAX / float((ordered[place] * ordered[place + 1]).sqrt())
    # back to a few hundred behind it, so that nothing but the middle is too large
    return changed(tmp_path, {"intermediate.dense": factor, "output.dense.weight": 0.01})


def test_texts_that_leave_the_range_are_counted_and_right_and_the_others_as_ever(
    subject, partly_too_large, caplog
):
    model = subject.load(partly_too_large)
    exact, largest = exact_vectors(partly_too_large, model)
    too_large = largest > FLOAT16_MAX
    assert 2 <= int(too_large.sum()) <= len(TEXTS) - 2
    with caplog.at_level(logging.WARNING):
        found = model.encode(TEXTS)
    again = found.recomputed
    far = torch.tensor(distances(found.dense, exact, [1] * len(TEXTS)))
    assert bool((far[again] <= IN_FLOAT32).all())
    assert bool((far[~again] <= subject.from_exact_out).all())
    if subject.scheme.bounded_by is DType.FLOAT16:
        assert bool(again[too_large].all()) or caplog.records
    else:
        assert not bool(again.any())
    if bool(again.any()):
        assert f"{int(again.sum())} texts left the range of {subject.scheme.bounded_by}" in caplog.text
    else:
        assert caplog.records == []


def test_a_text_beside_one_that_leaves_the_range_is_computed_as_it_is_alone(subject, partly_too_large):
    model = subject.load(partly_too_large)
    together = model.encode(TEXTS)
    for place, text in enumerate(TEXTS):
        alone = model.encode([text])
        assert alone.recomputed.item() == together.recomputed[place].item()
        assert alone.allclose(together[place], atol=subject.alike_out)


def test_all_outputs_of_texts_that_leave_the_range_are_those_of_the_float32_model(subject, tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "xlm-roberta", layout="bge-m3")
    model = subject.load(changed(folder, {"intermediate.dense": 4e4}))
    found = model.encode(TEXTS, outputs=model.outputs)
    again = found.recomputed.nonzero().flatten().tolist()
    assert (again != []) == (subject.scheme.bounded_by is DType.FLOAT16)
    wanted = tercet.load(folder, precision="float32", device="cpu").encode(TEXTS, outputs=model.outputs)
    assert found[again].allclose(wanted[again], atol=1e-5)
    for values in (found.dense, found.sparse.weights, found.multivector.vectors):
        assert values.dtype == torch.float32
        assert bool(values.isfinite().all())
    torch.testing.assert_close(found.dense.norm(dim=1), torch.ones(len(TEXTS)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [1e6, 1e-7], ids=["large", "small"])
def test_weights_beyond_the_range_are_refused_by_name_or_right(subject, factor, tmp_path):
    folder = changed(stack(tmp_path), {"intermediate.dense": factor})
    try:
        model = subject.load(folder)
    except PrecisionError as error:
        assert "model.safetensors: 'encoder.layer.0.intermediate.dense" in str(error)  # noqa: PT017
        assert "Load this model in" in str(error)  # noqa: PT017
        assert factor * 2 > subject.scheme.dtype.max
        return
    exact, _ = exact_vectors(folder, model)
    found = model.encode(TEXTS)
    assert max(distances(found.dense, exact, [1] * len(TEXTS))) <= subject.from_exact_out


@pytest.mark.parametrize(
    "zeroed",
    [
        ("intermediate.dense.weight",),
        ("output.dense.weight",),
        ("layer.0.output.LayerNorm",),
        ("attention.self", "layer.0.intermediate.dense"),
        ("embeddings.LayerNorm.weight",),
    ],
    ids=" and ".join,
)
def test_zeros_and_rows_of_equal_values_are_numbers_like_others(subject, zeroed, tmp_path):
    folder = changed(stack(tmp_path, layers=2), dict.fromkeys(zeroed, 0.0))
    model = subject.load(folder)
    exact, _ = exact_vectors(folder, model)
    found = model.encode(TEXTS)
    assert max(distances(found.dense, exact, [1] * len(TEXTS))) <= subject.from_exact_out
    assert not bool(found.recomputed.any())


def test_a_channel_far_larger_than_the_others_is_right(subject, tmp_path):
    folder = stack(tmp_path, layers=2)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if name.endswith("LayerNorm.weight"):
            tensors[name][5] *= 30  # as a few channels of trained models are
    save_file(tensors, path, metadata={"format": "pt"})
    model = subject.load(folder)
    exact, _ = exact_vectors(folder, model)
    found = model.encode(TEXTS)
    assert max(distances(found.dense, exact, [1] * len(TEXTS))) <= subject.from_exact_out


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_weights_that_are_no_numbers_are_an_error_that_names_the_folder(subject, value, tmp_path):
    folder = changed(stack(tmp_path), {"output.dense.weight": value})
    with pytest.raises((NonFiniteError, PrecisionError, CheckpointError), match=tmp_path.name):
        subject.load(folder).encode(TEXTS)
