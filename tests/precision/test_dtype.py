"""Number formats: spellings, sizes, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import PrecisionError
from tercet.precision.dtype import _SPELLINGS, DType, Precision, Wish

FLOATS = [dtype for dtype in DType if dtype.is_float]
EVERY_SPELLING = [(spelling, name) for name, spellings in _SPELLINGS.items() for spelling in spellings]


@pytest.mark.parametrize(("spelling", "name"), EVERY_SPELLING)
def test_every_spelling_means_its_dtype(spelling: str, name: str) -> None:
    assert DType.parse(spelling) is DType(name)
    assert DType.parse(f" {spelling.upper()} ") is DType(name)
    assert Wish.parse(spelling) == Wish("explicit", DType(name))


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (torch.float16, DType.FLOAT16),
        (torch.half, DType.FLOAT16),
        (torch.bfloat16, DType.BFLOAT16),
        (torch.double, DType.FLOAT64),
        (torch.int8, DType.INT8),
        (np.float32, DType.FLOAT32),
        (np.dtype("float64"), DType.FLOAT64),
        (np.int8, DType.INT8),
        (float, DType.FLOAT32),
        (16, DType.FLOAT16),
        ("bfloat-16", DType.BFLOAT16),
        (DType.FLOAT16, DType.FLOAT16),
    ],
)
def test_objects_of_torch_and_numpy_mean_their_dtype(value: object, dtype: DType) -> None:
    assert DType.parse(value) is dtype


@pytest.mark.parametrize(
    ("spelling", "wish"),
    [
        ("int8-fast", Wish("explicit", DType.INT8, "int8-fast")),
        ("INT8_fast", Wish("explicit", DType.INT8, "int8-fast")),
        (" tf32 ", Wish("explicit", DType.FLOAT32, "tf32")),
        ("TF-32", Wish("explicit", DType.FLOAT32, "tf32")),
        ("float8", Wish("explicit", DType.FLOAT8)),
    ],
)
def test_a_wish_may_be_a_way_to_compute_that_is_more_than_a_dtype(spelling: str, wish: Wish) -> None:
    assert Wish.parse(spelling) == wish
    assert Wish.parse(str(wish)) == wish


def test_a_way_to_compute_is_no_dtype_and_no_output() -> None:
    for name in ("int8-fast", "tf32"):
        with pytest.raises(PrecisionError, match="is not a dtype"):
            DType.parse(name)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("int8fst", "int8-fast"), ("tf23", "tf32"), ("flaot8", "float8"), ("chekpoint", "checkpoint")],
)
def test_an_unknown_precision_names_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(PrecisionError, match=rf"is not a precision\. Did you mean '{meant}'\?"):
        Wish.parse(typed)


def test_an_unknown_dtype_names_the_nearest() -> None:
    with pytest.raises(PrecisionError, match=r"'flot16' is not a dtype\. Did you mean 'float16'\?"):
        DType.parse("flot16")
    with pytest.raises(PrecisionError, match="is not a precision"):
        Wish.parse("fast")


@pytest.mark.parametrize("value", [torch.int64, "torch.complex64", "", None, True, 3, "auto"])
def test_what_is_no_dtype_of_ours_is_refused(value: object) -> None:
    with pytest.raises(PrecisionError):
        DType.parse(value)


@given(st.text())
def test_any_text_is_a_dtype_or_a_precision_error(text: str) -> None:
    try:
        found = DType.parse(text)
    except PrecisionError:
        return
    assert found.value in _SPELLINGS


@pytest.mark.parametrize("dtype", FLOATS)
def test_sizes_ranges_and_rounding_are_those_of_torch(dtype: DType) -> None:
    info = torch.finfo(dtype.torch)
    assert dtype.bytes * 8 == info.bits
    assert dtype.max == info.max
    assert dtype.smallest_normal == info.tiny
    assert dtype.unit_roundoff == info.eps / 2


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16])
@given(value=st.floats(min_value=1e-4, max_value=6e4))
def test_rounding_to_nearest_stays_within_the_unit_roundoff(dtype: DType, value: float) -> None:
    rounded = torch.tensor(value, dtype=torch.float64).to(dtype.torch).item()
    assert abs(rounded - value) <= dtype.unit_roundoff * value


@pytest.mark.parametrize("value", ["auto", None, "AUTO"])
def test_auto_is_the_wish_of_who_says_nothing(value: object) -> None:
    assert Wish.parse(value) == Wish("auto")


@pytest.mark.parametrize("value", ["checkpoint", "stored", "Checkpoint"])
def test_the_stored_dtype_can_be_asked_for(value: object) -> None:
    assert Wish.parse(value) == Wish("checkpoint")


def test_a_wish_prints_as_what_was_asked_for() -> None:
    assert [str(Wish.parse(value)) for value in ("auto", "checkpoint", "half")] == [
        "auto",
        "checkpoint",
        "float16",
    ]


def test_a_precision_from_one_dtype_keeps_heads_and_output_in_float32() -> None:
    precision = Precision.parse("bf16")
    assert precision == Precision(DType.BFLOAT16, DType.BFLOAT16, DType.FLOAT32, DType.FLOAT32)
    assert Precision.parse(precision) is precision
    assert str(precision) == "bfloat16 weights, bfloat16 arithmetic, float32 heads, float32 out"


@given(st.builds(Precision, *[st.sampled_from(DType)] * 4))
def test_a_precision_survives_json(precision: Precision) -> None:
    assert Precision.from_json(precision.to_json()) == precision
