"""Devices by every spelling, and what a CPU says of itself."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tercet.errors import PrecisionError
from tercet.precision.dtype import DType
from tercet.precision.hardware import (
    Capability,
    Measured,
    cpu_features,
    cpu_name,
    device_features,
    device_name,
    devices,
    find_device,
)
from tercet.precision.scheme import Drift, Scheme

GPUS = ["cuda:0", "cuda:1", "mps", "cpu"]

numbers = st.floats(min_value=0, max_value=1e9, allow_nan=False)
schemes = st.builds(
    Scheme,
    st.sampled_from(DType),
    st.sampled_from(DType),
    st.none() | st.integers(1, 256),
    st.sampled_from(["torch_packed", "native_cpu"]),
)
measured = st.builds(
    Measured,
    st.none() | numbers,
    st.none() | numbers,
    st.none() | st.booleans(),
    st.none() | st.text(),
    st.none() | st.builds(Drift, numbers, numbers, st.text()),
    st.booleans(),
)
capabilities = st.builds(
    Capability,
    device=st.sampled_from(GPUS),
    name=st.text(),
    total_bytes=st.integers(0, 1 << 50),
    free_bytes=st.integers(0, 1 << 50),
    threads=st.integers(1, 512),
    features=st.lists(st.text()).map(tuple),
    schemes=st.dictionaries(schemes, measured, max_size=5),
    quiet=st.booleans(),
    memory_limit=st.text(),
)


@pytest.mark.parametrize(
    ("wish", "device"),
    [
        (None, "cuda:0"),
        ("auto", "cuda:0"),
        ("cpu", "cpu"),
        ("CPU:0", "cpu"),
        ("gpu", "cuda:0"),
        ("cuda", "cuda:0"),
        ("gpu:1", "cuda:1"),
        (1, "cuda:1"),
        ("1", "cuda:1"),
        ("mps", "mps"),
        ("mps:0", "mps"),
        (torch.device("cpu"), "cpu"),
        (torch.device("cuda", 1), "cuda:1"),
    ],
)
def test_every_spelling_finds_its_device(wish: object, device: str) -> None:
    assert find_device(wish, GPUS) == device


def test_without_a_gpu_the_cpu_is_the_best() -> None:
    assert find_device(None, ["cpu"]) == "cpu"


@pytest.mark.parametrize("wish", ["cuda:2", "gpu", 0, "mps", "tpu", "", True, "cpu:1"])
def test_a_device_that_is_not_there_is_refused_with_what_is(wish: object) -> None:
    with pytest.raises(PrecisionError, match=r"no such device here\. There is: cpu"):
        find_device(wish, ["cpu"])


def test_the_cpu_is_always_there() -> None:
    assert devices()[-1] == "cpu"
    assert device_name("cpu") == cpu_name() != ""
    assert device_features("cpu") == cpu_features()


def test_only_flags_that_matter_to_number_formats_are_shown(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Some Xeon\n"
        "flags\t\t: fpu smep avx2 avx512f avx512_bf16 avx512_fp16 "
        "amx_tile amx_bf16 amx_int8 avx_vnni fma sse4_1\n"
    )
    assert cpu_name(tmp_path) == "Some Xeon (family 6, model 207)"
    assert cpu_features(tmp_path) == (
        *(
            "amx_bf16",
            "amx_int8",
            "amx_tile",
            "avx2",
            "avx512_bf16",
            "avx512_fp16",
            "avx512f",
            "avx_vnni",
            "fma",
        ),
    )


def test_an_arm_cpu_is_named_by_its_part(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nFeatures\t: fp asimd aes fphp asimdhp asimddp sve i8mm bf16\nCPU part\t: 0xd4f\n"
    )
    assert cpu_name(tmp_path).endswith("(part 0xd4f)")
    assert cpu_features(tmp_path) == ("asimd", "asimddp", "asimdhp", "bf16", "fphp", "i8mm", "sve")


def test_a_system_that_says_nothing_has_a_name_and_no_features(tmp_path: Path) -> None:
    assert cpu_name(tmp_path)
    assert cpu_features(tmp_path) == ()


@given(capabilities)
def test_a_capability_survives_json(capability: Capability) -> None:
    assert Capability.from_json(capability.to_json()) == capability
