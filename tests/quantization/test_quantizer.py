import errno
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as save_tensors

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError, OutputError, PrecisionError, UnknownNameError
from tercet.quantization import STORED_PRECISIONS, Quantizer, bytes_per_vector, stored_bytes


def unit(rows, dim, seed=0):
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize(
    ("precision", "size"), [("float32", 80), ("float16", 40), ("int8", 20), ("binary", 3), ("ubinary", 3)]
)
def test_a_stored_vector_takes_the_bytes_that_are_promised(precision, size):
    quantizer = Quantizer.fit(unit(50, 20), precision)
    codes = quantizer.encode(unit(7, 20)).codes
    assert bytes_per_vector(precision, 20) == quantizer.bytes_per_vector == size
    assert codes.numel() * codes.element_size() == 7 * size


@pytest.mark.parametrize(
    ("precision", "dense", "sparse", "rows"),
    [("float32", 160, 40, 96), ("float16", 80, 30, 48), ("int8", 40, 30, 24), ("ubinary", 6, 30, 3)],
)
def test_texts_take_the_bytes_of_all_their_vectors(precision, dense, sparse, rows):
    none = torch.zeros(2, dtype=torch.bool)
    weights = SparseVectors(torch.tensor([1, 4, 0, 2, 8]), torch.ones(5), torch.tensor([0, 2, 5]), 9)
    vectors = MultiVectors(unit(3, 8), torch.tensor([0, 1, 3]))
    texts = Embeddings(unit(2, 20), weights, vectors, torch.tensor([3, 4]), none, none)
    assert stored_bytes(texts, precision) == {"dense": dense, "sparse": sparse, "multivector": rows}
    alone = Embeddings(unit(2, 20), None, None, torch.tensor([3, 4]), none, none)
    assert stored_bytes(alone, precision) == {"dense": dense}


@pytest.mark.parametrize("precision", STORED_PRECISIONS)
def test_no_vectors_and_one_vector_are_stored_like_many(precision):
    vectors = unit(30, 20)
    quantizer = Quantizer.fit(vectors, precision)
    together = quantizer.encode(vectors).codes
    alone = torch.cat([quantizer.encode(vectors[i : i + 1]).codes for i in range(30)])
    assert torch.equal(together, alone)
    assert len(quantizer.encode(vectors[:0])) == 0
    assert quantizer.decode(quantizer.encode(vectors[:0]).codes).shape == (0, 20)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", STORED_PRECISIONS)
def test_vectors_of_any_floating_point_dtype_are_stored_by_their_value(precision, dtype):
    quantizer = Quantizer.fit(unit(200, 16), precision)
    vectors = unit(200, 16).to(dtype)
    expected = quantizer.encode(vectors.double() if precision == "int8" else vectors.float())
    assert torch.equal(quantizer.encode(vectors).codes, expected.codes)


def test_int8_is_calibrated_the_same_from_one_part_and_from_many():
    vectors = unit(1000, 8)
    whole = Quantizer.fit(vectors, "int8").ranges
    parts = Quantizer.fit((vectors[start : start + 37] for start in range(0, 1000, 37)), "int8").ranges
    assert torch.equal(whole.low, parts.low)
    assert torch.equal(whole.high, parts.high)
    assert whole.vectors == parts.vectors == 1000


def test_int8_brings_the_centre_of_a_bin_back_exactly():
    quantizer = Quantizer.fit(torch.tensor([[-1.0, 0.0], [1.0, 512.0]]), "int8")
    step = quantizer.ranges.step
    bins = torch.arange(256, dtype=torch.float64)
    centres = quantizer.ranges.low + (bins[:, None] + 0.5) * step
    stored = quantizer.encode(centres)
    assert stored.codes[:, 0].tolist() == list(range(-128, 128))
    assert torch.equal(quantizer.decode(stored.codes).double(), centres)


def test_int8_errs_by_at_most_half_a_bin_and_by_nothing_on_average():
    calibration = torch.rand(20_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quantizer = Quantizer.fit(calibration, "int8")
    low, high, step = quantizer.ranges.low, quantizer.ranges.high, quantizer.ranges.step
    uniform = torch.rand(40_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    vectors = low + uniform * (high - low)
    stored = quantizer.encode(vectors)
    error = (quantizer.decode(stored.codes).double() - vectors) / step
    assert stored.clipped == 0
    assert float(error.abs().max()) <= 0.5 + 1e-4
    # Errors are spread evenly over a bin: a deviation of 1 / sqrt(12), over the root of n for the mean.
    assert float(error.mean(dim=0).abs().max()) < 4.5 / (12 * len(vectors)) ** 0.5


@given(st.floats(-1e4, 1e4, width=32), st.floats(-1e4, 1e4, width=32), st.lists(st.floats(0, 1), min_size=1))
def test_int8_stays_within_half_a_bin_of_any_value_in_its_range(one, other, places):
    quantizer = Quantizer.fit(torch.tensor([[one], [other]]), "int8")
    low, high = min(one, other), max(one, other)
    values = torch.tensor([[low + (high - low) * place] for place in places], dtype=torch.float64).clamp(
        low, high
    )
    stored = quantizer.encode(values)
    error = (quantizer.decode(stored.codes).double() - values).abs().max()
    assert stored.clipped == 0
    assert float(error) <= (high - low) / 512 + 1e-6 * max(abs(low), abs(high), 1e-30)


def test_int8_clips_what_lies_outside_its_ranges_and_counts_it():
    quantizer = Quantizer.fit(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), "int8")
    stored = quantizer.encode(torch.tensor([[-5.0, 1.0], [1.5, 2.0], [0.5, 2.1]]))
    assert stored.clipped == 3
    assert stored.codes.tolist() == [[-128, 0], [127, 127], [0, 127]]


def test_int8_keeps_a_dimension_that_never_varies():
    quantizer = Quantizer.fit(torch.tensor([[0.25, 0.0], [0.25, 1.0]]), "int8")
    stored = quantizer.encode(torch.tensor([[0.25, 0.3]]))
    assert quantizer.decode(stored.codes)[0, 0] == 0.25
    assert stored.clipped == 0


def test_int8_without_calibration_does_nothing(tmp_path):
    quantizer = Quantizer("int8", 4)
    for act in (
        lambda: quantizer.encode(unit(3, 4)),
        lambda: quantizer.decode(torch.zeros(3, 4, dtype=torch.int8)),
        lambda: quantizer.save(tmp_path / "q.safetensors"),
    ):
        with pytest.raises(PrecisionError, match=r"Calibrate it once: Quantizer\.fit"):
            act()
    assert not list(tmp_path.iterdir())


def test_float16_refuses_what_would_be_infinite_and_names_it():
    quantizer = Quantizer.fit(unit(3, 4), "float16")
    vectors = unit(3, 4)
    vectors[2, 1] = 65_519.0
    assert torch.isfinite(quantizer.encode(vectors).codes).all()
    vectors[2, 1] = 65_520.0
    with pytest.raises(PrecisionError, match=r"vector 2 holds 65520 in dimension 1.*largest 65504.*float32"):
        quantizer.encode(vectors)


@pytest.mark.parametrize("dim", [1, 7, 8, 9, 24])
def test_bits_are_the_signs_with_0_among_the_negative(dim):
    vectors = torch.randn(40, dim, generator=torch.Generator().manual_seed(dim))
    vectors[0], vectors[1] = 0.0, -0.0
    expected = np.packbits(vectors.numpy() > 0, axis=1)
    for precision, shift in (("ubinary", 0), ("binary", -128)):
        quantizer = Quantizer.fit(vectors, precision)
        codes = quantizer.encode(vectors).codes
        assert np.array_equal(codes.numpy().astype(int), expected.astype(int) + shift)
        decoded = quantizer.decode(codes)
        assert torch.equal(decoded > 0, vectors > 0)
        torch.testing.assert_close(decoded.norm(dim=1), torch.ones(40))


@pytest.mark.parametrize("precision", STORED_PRECISIONS)
def test_a_quantizer_is_the_same_after_it_was_saved_and_loaded(precision, tmp_path):
    vectors = unit(300, 12)
    quantizer = Quantizer.fit(vectors, precision)
    path = quantizer.save(tmp_path / "q.safetensors")
    loaded = Quantizer.load(path)
    assert repr(loaded) == repr(quantizer)
    assert torch.equal(loaded.encode(vectors).codes, quantizer.encode(vectors).codes)
    assert [file.name for file in tmp_path.iterdir()] == ["q.safetensors"]


def test_a_saved_quantizer_replaces_the_older_one(tmp_path):
    path = Quantizer.fit(unit(300, 12), "int8").save(tmp_path / "q.safetensors")
    before = path.read_bytes()
    # Another name of the older file: it keeps its content, since nothing is written into it.
    other = tmp_path / "other.safetensors"
    other.hardlink_to(path)
    Quantizer.fit(unit(300, 5), "binary").save(path)
    assert other.read_bytes() == before
    assert repr(Quantizer.load(path)) == "Quantizer(binary, 5 dimensions, 1 bytes)"


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = Quantizer.fit(unit(300, 12), "int8").save(tmp_path / "q.safetensors")
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tercet.quantization.files.os.fsync", full)
    with pytest.raises(OutputError, match=r"q\.safetensors cannot be written: No space left"):
        Quantizer.fit(unit(300, 5), "binary").save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["q.safetensors"]


def settings(**changes):
    found = {"format": 1, "precision": "int8", "dim": 2, "vectors": 9, **changes}
    return {"tercet.quantizer": json.dumps(found)}


RANGES = {"low": torch.zeros(2, dtype=torch.float64), "high": torch.ones(2, dtype=torch.float64)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no safetensors at all",
        save_tensors(RANGES),
        save_tensors(RANGES, metadata=settings(format=2)),
        save_tensors(RANGES, metadata=settings(precision="int4")),
        save_tensors(RANGES, metadata=settings(precision=["int8"])),
        save_tensors(RANGES, metadata=settings(dim=3)),
        save_tensors(RANGES, metadata=settings(dim=10**12)),
        save_tensors(RANGES, metadata=settings(dim=True)),
        save_tensors({}, metadata=settings(precision="binary", dim=10**12)),
        save_tensors({}, metadata=settings(precision="binary", dim=0)),
        save_tensors(RANGES, metadata=settings(vectors=1)),
        save_tensors(RANGES, metadata={"tercet.quantizer": "[1"}),
        save_tensors(RANGES, metadata={"tercet.quantizer": "[1]"}),
        save_tensors({"low": RANGES["low"]}, metadata=settings()),
        save_tensors({"low": RANGES["high"], "high": RANGES["low"]}, metadata=settings()),
        save_tensors({"low": RANGES["low"], "high": RANGES["high"] * torch.nan}, metadata=settings()),
        save_tensors({"low": RANGES["low"].float(), "high": RANGES["high"].float()}, metadata=settings()),
        save_tensors(RANGES, metadata=settings())[:-1],
    ],
)
def test_a_file_that_is_no_quantizer_is_refused_by_its_name(content, tmp_path):
    path = tmp_path / "q.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"q\.safetensors is not a quantizer that Tercet wrote.*Fit one anew"
    ):
        Quantizer.load(path)


def test_a_huge_file_is_refused_before_it_is_read_whole(tmp_path):
    path = tmp_path / "q.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="larger than"):
        Quantizer.load(path)


def test_a_missing_file_and_a_missing_folder_are_told(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Quantizer.load(tmp_path / "none.safetensors")
    with pytest.raises(OutputError, match="cannot be written"):
        Quantizer.fit(unit(3, 4), "float16").save(tmp_path / "none" / "q.safetensors")


def test_unknown_precisions_are_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'ubinary'"):
        Quantizer.fit(unit(3, 4), "ubinry")
    with pytest.raises(UnknownNameError, match="Did you mean 'int8'"):
        bytes_per_vector("int4", 8)


def test_vectors_that_cannot_be_stored_are_refused_with_the_mend():
    with pytest.raises(InputError, match="no vectors to fit"):
        Quantizer.fit([], "int8")
    with pytest.raises(InputError, match="1 vectors were given to calibrate int8"):
        Quantizer.fit(unit(1, 4), "int8")
    bad = unit(5, 4)
    bad[3, 0] = torch.nan
    with pytest.raises(InputError, match="vector 3 has a value that is not finite"):
        Quantizer.fit(bad, "int8")
    with pytest.raises(InputError, match="vector 8 has a value that is not finite"):
        Quantizer.fit([unit(5, 4), bad], "int8")
    quantizer = Quantizer.fit(unit(200, 4), "int8")
    with pytest.raises(InputError, match="have 5 dimensions, the quantizer 4"):
        quantizer.encode(unit(2, 5))
    with pytest.raises(InputError, match=r"must be \(vectors, dim\)"):
        quantizer.encode(torch.zeros(4))
    with pytest.raises(InputError, match="Decode with the quantizer that encoded them"):
        quantizer.decode(torch.zeros(2, 4, dtype=torch.uint8))
    with pytest.raises(InputError, match="only int8 takes them"):
        Quantizer("float16", 4, quantizer.ranges)


def test_a_calibration_from_few_vectors_is_warned_of(caplog):
    Quantizer.fit(unit(99, 4), "int8")
    assert "calibrated with 99 vectors" in caplog.text
    caplog.clear()
    Quantizer.fit(unit(100, 4), "int8")
    assert not caplog.text
