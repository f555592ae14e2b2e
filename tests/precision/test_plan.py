"""Plans: what is decided besides the scheme, the memory, and plans saved and replayed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planned import DRIFTED, UNSEEN, capability, footprint, measured, scheme
from tercet.errors import PrecisionError
from tercet.precision.dtype import DType, Precision, Wish
from tercet.precision.footprint import predict_memory, show_bytes, weight_bytes
from tercet.precision.plan import Plan
from tercet.precision.planning import CPU_TOKEN_BUDGET, plan
from tercet.precision.scheme import Scheme

AUTO = Wish("auto")
F32, F16, BF16, F64 = DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT64
MACHINE = capability(
    {F64: measured(2.0), F32: measured(1.0), BF16: measured(0.3, DRIFTED), F16: measured(4.0, UNSEEN)}
)
GB = 10**9


def explicit(dtype: DType) -> Wish:
    return Wish("explicit", dtype)


def test_the_same_numbers_give_the_same_plan() -> None:
    assert plan(footprint(), MACHINE, AUTO) == plan(footprint(), MACHINE, AUTO)


def test_heads_stay_in_float32_whatever_the_body_does() -> None:
    assert plan(footprint(), MACHINE, explicit(F16)).precision == Precision(F16, F16, F32, F32)
    assert plan(footprint(), MACHINE, explicit(BF16)).precision.heads is F32


def test_heads_of_a_float64_body_are_float64() -> None:
    assert plan(footprint(), MACHINE, explicit(F64)).precision == Precision(F64, F64, F64, F32)


@pytest.mark.parametrize("output", [F16, BF16, F64])
def test_the_output_dtype_is_the_users(output: DType) -> None:
    assert plan(footprint(), MACHINE, AUTO, output_dtype=output).precision.output is output


def test_vectors_do_not_come_out_in_integers() -> None:
    with pytest.raises(PrecisionError, match="vectors come out in float32"):
        plan(footprint(), MACHINE, AUTO, output_dtype=DType.INT8)


def test_a_whole_precision_is_honoured_with_its_output() -> None:
    made = plan(footprint(), MACHINE, Precision(BF16, BF16, F32, F16))
    assert made.precision == Precision(BF16, BF16, F32, F16)
    assert (
        plan(footprint(), MACHINE, Precision(BF16, BF16, F32, F16), output_dtype=F32).precision.output is F32
    )


def test_weights_in_another_format_than_the_arithmetic_are_refused_with_the_mend() -> None:
    with pytest.raises(
        PrecisionError, match=r"weights in float16 with arithmetic in float32.*Ask for float32 or"
    ):
        plan(footprint(), MACHINE, Precision(F16, F32))


GROUPED = Scheme(DType.INT8, F32, 64, "native_cpu", None, F32)
PER_ROW = Scheme(DType.INT8, F32, None, "native_cpu", "int8-fast", F32)
QUANTISED = replace(
    MACHINE, schemes={**MACHINE.schemes, GROUPED: measured(0.3, None), PER_ROW: measured(0.25, None)}
)


def test_a_quantised_body_keeps_wide_numbers_between_its_layers() -> None:
    made = plan(footprint(), QUANTISED, Wish.parse("int8"))
    assert made.scheme == GROUPED
    assert made.precision == Precision(DType.INT8, F32, F32, F32)
    assert any(
        "Weights of linear layers, 301,989,888 of 566,705,152 numbers, are packed as int8 with a scale for "
        "every 64 of them; what flows between them is float32" in reason
        for reason in made.reasons
    )
    fast = plan(footprint(), QUANTISED, Wish.parse("int8-fast"))
    assert "  body      int8-fast (native_cpu)" in fast.page().splitlines()
    assert any("packed as int8 with a scale for every output;" in reason for reason in fast.reasons)


@pytest.mark.parametrize("precision", [Precision(DType.INT8, F32), Precision.parse("int8")])
def test_a_whole_precision_may_name_quantised_weights(precision: Precision) -> None:
    assert plan(footprint(), QUANTISED, precision).scheme in (GROUPED, PER_ROW)
    with pytest.raises(PrecisionError, match=r"with arithmetic in float16: with int8 weights, .* float32"):
        plan(footprint(), QUANTISED, Precision(DType.INT8, F16))


@pytest.mark.parametrize(("stored", "of_a_number"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_quantised_weights_count_with_their_scales_and_the_rest_as_stored(
    stored: str, of_a_number: int
) -> None:
    numbers = footprint(stored={stored: 10**9})
    heads = numbers.head_numbers * 4
    linear = 24 * 12 * 1024 * 1024
    rest = (numbers.body_numbers - linear) * of_a_number
    precision = Precision(DType.INT8, F32)
    assert weight_bytes(numbers, precision, 64) == linear + linear // 64 * 8 + rest + heads
    assert weight_bytes(numbers, precision) == linear + linear // 1024 * 8 + rest + heads
    assert weight_bytes(numbers, Precision(F16, F32)) == linear * 2 + rest + heads


def test_a_quantised_plan_needs_less_memory_and_room_for_what_leaves_the_range() -> None:
    made = plan(footprint(), QUANTISED, Wish.parse("int8"))
    assert made.peak_bytes < plan(footprint(), QUANTISED, AUTO).peak_bytes - 700_000_000
    assert "a layer in float32, for texts that leave the range" in dict(made.memory)


def test_only_kernels_of_our_own_compute_packed_layers_by_blocks_of_rows() -> None:
    def batch(device: str, precision: Precision, *, own: bool = True) -> int:
        parts = predict_memory(
            footprint(),
            precision,
            device=device,
            tokens=4096,
            outputs=("dense",),
            process_bytes=0,
            keeps_memory=own,
        )
        return dict(parts)["one batch of 4,096 tokens"]

    packed, plain = Precision(DType.INT8, F32), Precision(F32, F32)
    assert batch("cpu", packed) == 4096 * 7 * 1024 * 4 + 256 * 2 * 4096 * 4 < batch("cpu", plain)
    assert batch("cpu", packed, own=False) == batch("cpu", plain)
    assert batch("cuda:0", packed) == batch("cuda:0", plain) == 4096 * 10 * 1024 * 4


def test_too_small_a_memory_offers_the_variants_that_fit() -> None:
    tight = replace(QUANTISED, free_bytes=int(1.5 * GB))
    with pytest.raises(PrecisionError, match=r"--precision int8 \(1\.40 GB\) or --precision int8-fast"):
        plan(footprint(), tight, AUTO)


def test_a_tolerance_reaches_the_choice() -> None:
    found = replace(MACHINE, schemes={**MACHINE.schemes, GROUPED: measured(0.2, (3.7e-4, 1e-3))})
    assert plan(footprint(), found, AUTO).scheme == scheme(F32)
    assert plan(footprint(), found, AUTO, tolerance=5e-4).scheme == GROUPED


def test_narrow_heads_are_refused() -> None:
    with pytest.raises(PrecisionError, match=r"heads in float16: .* work in float32 whatever the body does"):
        plan(footprint(), MACHINE, Precision(F16, F16, F16))


def test_a_float16_checkpoint_on_a_cpu_is_cast_and_the_plan_says_so() -> None:
    made = plan(footprint(stored={"float16": 10**6}), MACHINE, AUTO)
    assert made.scheme == scheme(F32)
    assert made.precision.weights is F32
    assert any("stored in float16 and are cast to float32" in reason for reason in made.reasons)


def test_weights_that_fit_stay_as_stored() -> None:
    assert any(
        reason.startswith("Weights stay as stored") for reason in plan(footprint(), MACHINE, AUTO).reasons
    )


def test_the_fastest_kernel_is_part_of_the_plan() -> None:
    row = replace(measured(1.0), kernel="onednn")
    made = plan(footprint(), capability({F32: row}), AUTO)
    assert made.kernel == "onednn"
    assert "Matrix products go through onednn, the fastest way measured here." in made.reasons


def test_the_parts_of_the_memory_add_up_to_the_peak() -> None:
    made = plan(footprint(), MACHINE, AUTO, process_bytes=200_000_000)
    assert sum(count for _, count in made.memory) == made.peak_bytes
    assert made.memory[0] == ("this process before loading", 200_000_000)


def test_a_cpu_takes_2048_tokens_and_says_why() -> None:
    made = plan(footprint(), MACHINE, AUTO)
    assert made.token_budget == CPU_TOKEN_BUDGET == 2048
    assert any("Batches of up to 2,048 tokens" in reason for reason in made.reasons)


def test_short_memory_reduces_the_batches_and_says_so() -> None:
    tight = replace(MACHINE, free_bytes=int(2.72 * GB), memory_limit="the cgroup /sys/fs/cgroup/job")
    made = plan(footprint(), tight, AUTO, max_length=128)
    assert made.token_budget < 2048
    assert any("instead of 2,048: only 2.72 GB are free (by the cgroup" in reason for reason in made.reasons)


def test_a_longest_text_that_does_not_fit_is_told_with_a_length_that_does() -> None:
    tight = replace(MACHINE, free_bytes=int(2.75 * GB))
    made = plan(footprint(), tight, AUTO)
    [reason] = [reason for reason in made.reasons if reason.startswith("A text of 8,192 tokens")]
    assert "--max-length" in reason
    fits = int(reason.split("--max-length ")[1].split()[0])
    assert not any(
        "is predicted to need" in r for r in plan(footprint(), tight, AUTO, max_length=fits).reasons
    )


def test_weights_that_do_not_fit_are_refused_with_numbers_and_the_mend() -> None:
    tight = replace(MACHINE, free_bytes=int(1.9 * GB), memory_limit="the cgroup /sys/fs/cgroup/job")
    with pytest.raises(PrecisionError) as caught:
        plan(footprint(), tight, AUTO)
    message = str(caught.value)
    assert "its weights take 2.27 GB in float32, and cpu has 1.90 GB free of 24.00 GB" in message
    assert "(by the cgroup /sys/fs/cgroup/job)" in message
    assert "ask for --precision bfloat16 (1.14 GB) or --precision float16 (1.14 GB)" in message


def test_weights_that_fit_in_no_format_ask_for_another_model() -> None:
    with pytest.raises(PrecisionError, match="or choose a smaller model"):
        plan(footprint(), replace(MACHINE, free_bytes=GB // 2), AUTO)


def test_a_token_budget_is_honoured() -> None:
    made = plan(footprint(), MACHINE, AUTO, token_budget=777)
    assert made.token_budget == 777
    assert "Batches of up to 777 tokens were asked for." in made.reasons


def test_a_token_budget_that_does_not_fit_is_refused_never_reduced() -> None:
    with pytest.raises(
        PrecisionError, match=r"token_budget=1,000,000: bge-m3 would need .* 16\.00 GB are free"
    ):
        plan(footprint(), MACHINE, AUTO, token_budget=1_000_000)


@pytest.mark.parametrize("budget", [0, -1, True])
def test_a_token_budget_must_be_positive(budget: int) -> None:
    with pytest.raises(PrecisionError, match="must be a positive number of tokens"):
        plan(footprint(), MACHINE, AUTO, token_budget=budget)


@pytest.mark.parametrize(("free", "budget"), [(140 * GB, 32768), (8 * GB, 16384), (int(2.9 * GB), 2048)])
def test_a_gpu_takes_as_many_tokens_as_its_memory_gives(free: int, budget: int) -> None:
    gpu = replace(MACHINE, device="cuda:0", name="a GPU", total_bytes=140 * GB, free_bytes=free)
    made = plan(footprint(), gpu, AUTO)
    assert made.token_budget == budget
    assert made.memory[0][0] == "weights"


def test_a_legacy_file_costs_its_whole_size_and_the_plan_says_so() -> None:
    legacy = plan(footprint(file_format="torch-legacy"), MACHINE, explicit(F16))
    modern = plan(footprint(file_format="torch"), MACHINE, explicit(F16))
    assert legacy.peak_bytes > modern.peak_bytes + GB
    assert any("format from before 1.6, which can only be read whole" in reason for reason in legacy.reasons)


def test_a_cast_needs_no_second_copy_of_the_largest_tensor() -> None:
    cast = plan(footprint(stored={"float16": 10**9}), MACHINE, AUTO)
    assert cast.peak_bytes - plan(footprint(), MACHINE, AUTO).peak_bytes < 64 << 20


def test_narrow_arithmetic_keeps_room_for_a_layer_in_float32() -> None:
    names = [name for name, _ in plan(footprint(), MACHINE, explicit(F16)).memory]
    assert "a layer in float32, for texts that leave the range" in names
    assert "a layer in float32, for texts that leave the range" not in [
        n for n, _ in plan(footprint(), MACHINE, AUTO).memory
    ]


@given(
    tokens=st.integers(1, 1 << 16),
    more=st.integers(0, 1 << 16),
    dtype=st.sampled_from([F64, F32, BF16, F16]),
    outputs=st.sampled_from([("dense",), ("dense", "sparse"), ("dense", "sparse", "multivector")]),
    device=st.sampled_from(["cpu", "cuda:0"]),
)
def test_memory_grows_with_tokens_and_never_falls_below_the_weights(
    tokens: int, more: int, dtype: DType, outputs: tuple[str, ...], device: str
) -> None:
    precision = Precision.parse(dtype)

    def peak(count: int) -> int:
        parts = predict_memory(
            footprint(), precision, device=device, tokens=count, outputs=outputs, process_bytes=1000
        )
        assert all(part >= 0 for _, part in parts)
        return sum(part for _, part in parts)

    assert weight_bytes(footprint(), precision) < peak(tokens) <= peak(tokens + more)


def test_sizes_are_shown_in_decimal_units() -> None:
    assert [show_bytes(count) for count in (0, 412_300_000, 2_271_019_012)] == ["0 MB", "412 MB", "2.27 GB"]


texts = st.text(max_size=20)
counts = st.integers(0, 1 << 50)
plans = st.builds(
    Plan,
    device=st.sampled_from(["cpu", "cuda:0", "mps"]),
    scheme=st.builds(
        Scheme,
        st.sampled_from(DType),
        st.sampled_from(DType),
        st.none() | st.integers(1, 256),
        texts,
        st.none() | texts,
        st.none() | st.sampled_from(DType),
    ),
    precision=st.builds(Precision, *[st.sampled_from(DType)] * 4),
    token_budget=st.integers(1, 1 << 20),
    peak_bytes=counts,
    free_bytes=counts,
    reasons=st.lists(texts, max_size=3).map(tuple),
    model=texts,
    machine=texts,
    memory=st.lists(st.tuples(texts, counts), max_size=3).map(tuple),
    kernel=st.none() | texts,
)


@given(plans)
def test_a_plan_survives_json(made: Plan) -> None:
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


def test_a_plan_is_saved_and_replayed(tmp_path: Path) -> None:
    made = plan(footprint(), MACHINE, explicit(BF16))
    made.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == made
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "plan.json").mkdir()
    with pytest.raises(PrecisionError, match=r"plan\.json: the plan could not be written"):
        plan(footprint(), MACHINE, AUTO).save(tmp_path / "plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def changed(**changes: Any) -> dict[str, Any]:
    return {**plan(footprint(), MACHINE, AUTO).to_json(), **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "must be an object"),
        (changed(tokenbudget=1), r"unknown key 'tokenbudget'\. Did you mean 'token_budget'\?"),
        ({"plan_version": 3}, "device, float32_layers, free_bytes, kernel, machine, .* missing"),
        (changed(plan_version=9), "plan_version is 9, this release reads 3"),
        (changed(token_budget="2048"), "token_budget must be a whole number from 1 up, found '2048'"),
        (changed(token_budget=0), "token_budget must be a whole number from 1 up"),
        (changed(token_budget=True), "token_budget must be a whole number"),
        (changed(peak_bytes=-1), "peak_bytes must be a whole number from 0 up"),
        (changed(reasons="fast"), "reasons must be a list"),
        (changed(reasons=[1]), "reasons must be text"),
        (changed(memory=[["weights"]]), r"memory must be a list of \[what, bytes\]"),
        (changed(kernel=3), "kernel must be text"),
        (changed(precision={"weights": "float16"}), "precision: compute, heads, output missing"),
        (
            changed(precision={**Precision.parse("fp32").to_json(), "compute": "float61"}),
            "precision: compute: 'float61' is not a dtype",
        ),
        (changed(scheme={"dtype": "float32"}), "scheme: accumulate, between, engine, group, variant missing"),
        (changed(scheme={**scheme(F32).to_json(), "variant": 8}), "scheme: variant must be text"),
        (changed(scheme={**scheme(F32).to_json(), "between": "half8"}), "scheme: between: 'half8' is not a"),
    ],
)
def test_a_damaged_plan_is_refused_with_the_file_and_the_field(
    tmp_path: Path, data: object, message: str
) -> None:
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(data))
    with pytest.raises(PrecisionError, match=rf"edited\.json: .*{message}"):
        Plan.load(path)


def test_a_plan_of_another_machine_is_refused_with_what_is_here(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    replace(plan(footprint(), MACHINE, AUTO), device="cuda:3").save(path)
    with pytest.raises(PrecisionError, match=r"plan\.json: was made for another machine: .* There is: cpu"):
        Plan.load(path, available=["cpu"])


def test_a_device_that_is_not_spelled_as_torch_does_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(changed(device="CPU:0")))
    with pytest.raises(PrecisionError, match=r"device is 'CPU:0', torch's name of it is 'cpu'"):
        Plan.load(path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[" * 100_000, "is not JSON"), (None, "cannot be read")]
)
def test_a_plan_that_is_no_json_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PrecisionError, match=rf"plan\.json: .*{message}"):
        Plan.load(path)


def test_the_page_has_what_a_person_argues_with() -> None:
    made = plan(footprint(), MACHINE, AUTO, process_bytes=230_000_000)
    page = made.page()
    assert str(made) == page
    for line in (
        "Plan for bge-m3",
        "  device    cpu (a CPU, 2 threads)",
        "  body      float32 (torch_packed)",
        "  weights   float32, arithmetic float32, heads float32, output float32",
        "              2.27 GB  weights",
    ):
        assert line in page.splitlines(), line
    assert all(len(line) <= 100 for line in page.splitlines())
    flowed = " ".join(page.split())
    assert all(" ".join(reason.split()) in flowed for reason in made.reasons)


@pytest.mark.parametrize("place", ["text.txt/plan.json", "."])
def test_a_plan_that_has_no_place_to_go_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "text.txt").write_text("not a folder")
    target = Path(place) if place == "." else tmp_path / place
    with pytest.raises(PrecisionError, match=r"Choose another place|Give the name of a file"):
        plan(footprint(), MACHINE, AUTO).save(target)


@pytest.mark.parametrize("option", ["token_budget", "max_length"])
@pytest.mark.parametrize("number", [0, -1, 1.5, True, "8"])
def test_numbers_of_tokens_are_positive_and_whole(option: str, number: Any) -> None:
    with pytest.raises(PrecisionError, match=f"{option}=.*it must be a positive number of tokens"):
        plan(footprint(), MACHINE, AUTO, **{option: number})
