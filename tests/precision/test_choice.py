"""Which scheme runs the body: each rule with a capability made up for it."""

from __future__ import annotations

from typing import Any

import pytest

from planned import DRIFTED, UNSEEN, capability, footprint, measured, scheme
from tercet.errors import PrecisionError
from tercet.precision.choice import choose_scheme
from tercet.precision.dtype import DType, Wish
from tercet.precision.hardware import Capability
from tercet.precision.scheme import Scheme

AUTO = Wish("auto")
F32, F16, BF16, F64, INT8 = DType.FLOAT32, DType.FLOAT16, DType.BFLOAT16, DType.FLOAT64, DType.INT8
GROUPED, PER_ROW = measured(0.3, (3.7e-4, 1.3e-3)), measured(0.25, (1.1e-3, 8e-3))
QUANTISED = {
    F32: measured(1.0),
    F16: measured(0.5, UNSEEN),
    Scheme(INT8, F32, 64, "native_cpu", None, F32): GROUPED,
    Scheme(INT8, F32, None, "native_cpu", "int8-fast", F32): PER_ROW,
}


def explicit(dtype: DType) -> Wish:
    return Wish("explicit", dtype)


def about(reasons: tuple[str, ...], start: str) -> str:
    [found] = [reason for reason in reasons if reason.startswith(start)]
    return found


def test_auto_leaves_float32_for_a_scheme_without_visible_loss_that_is_clearly_faster() -> None:
    choice = choose_scheme(capability({F32: measured(1.0), F16: measured(1 / 1.3, UNSEEN)}), AUTO)
    assert choice.scheme == scheme(F16)
    assert "1.30 times as fast as float32 here and has no visible loss" in choice.reasons[0]
    assert "mean 1 - cosine 1.6e-06, worst 9.7e-06; a test" in choice.reasons[0]


def test_auto_stays_with_float32_below_1_3_times() -> None:
    choice = choose_scheme(capability({F32: measured(1.0), F16: measured(1 / 1.2999, UNSEEN)}), AUTO)
    assert choice.scheme == scheme(F32)
    assert "is 1.29 times as fast as float32 here" in about(choice.reasons, "float16")
    assert "below 1.3 times it is not worth leaving float32" in about(choice.reasons, "float16")


def test_auto_does_not_take_a_fast_scheme_whose_drift_is_visible() -> None:
    choice = choose_scheme(capability({F32: measured(1.0), BF16: measured(0.588, DRIFTED)}), AUTO)
    assert choice.scheme == scheme(F32)
    assert about(choice.reasons, "bfloat16") == (
        "bfloat16 (torch_packed) is 1.70 times as fast as float32 here, but its stated drift, mean 4.7e-05 "
        "and worst "
        "8.0e-05, is visible; ask for it with --precision bfloat16."
    )


@pytest.mark.parametrize(("mean", "worst"), [(5.1e-6, 1e-5), (1e-6, 5.1e-5)])
def test_mean_and_worst_must_both_be_invisible(mean: float, worst: float) -> None:
    table = {F32: measured(1.0), F16: measured(0.25, (mean, worst))}
    assert choose_scheme(capability(table), AUTO).scheme == scheme(F32)


def test_the_class_without_visible_loss_includes_its_limits() -> None:
    table = {F32: measured(1.0), F16: measured(0.25, (5e-6, 5e-5))}
    assert choose_scheme(capability(table), AUTO).scheme == scheme(F16)


def test_a_small_matmul_error_alone_decides_nothing() -> None:
    choice = choose_scheme(capability({F32: measured(1.0), F16: measured(0.25, None)}), AUTO)
    assert choice.scheme == scheme(F32)
    assert "states no drift on real texts, so its loss is not known" in about(choice.reasons, "float16")


def test_a_busy_machine_stays_with_float32_and_says_so() -> None:
    table = {F32: measured(1.0), F16: measured(0.25, UNSEEN)}
    choice = choose_scheme(capability(table, quiet=False), AUTO)
    assert choice.scheme == scheme(F32)
    assert "disturbed the measurement" in choice.reasons[0]
    assert "as far as a busy machine can tell" in about(choice.reasons, "float16")


@pytest.mark.parametrize(("seconds", "engine"), [(2.9, "native_cpu"), (3.1, "torch_packed")])
def test_a_busy_machine_takes_the_first_engine_unless_it_is_slower_by_far(
    seconds: float, engine: str
) -> None:
    native = scheme(F32, "native_cpu")
    table = {native: measured(seconds), F32: measured(1.0)}
    assert choose_scheme(capability(table, quiet=False), AUTO).scheme.engine == engine
    assert choose_scheme(capability(table, quiet=False), explicit(F32)).scheme.engine == engine
    assert choose_scheme(capability(table), AUTO).scheme.engine == "torch_packed"


def test_what_takes_hardly_longer_is_told_with_its_hundredths() -> None:
    native = scheme(F32, "native_cpu")
    choice = choose_scheme(capability({native: measured(1.02), F32: measured(1.0)}), AUTO)
    assert (
        about(choice.reasons, "float32 (native_cpu)")
        == "float32 (native_cpu) gives the same; takes 1.02 times as long as float32 here."
    )


def test_one_disturbed_row_is_not_chosen() -> None:
    table = {F32: measured(1.0), F16: measured(0.25, UNSEEN, quiet=False)}
    assert choose_scheme(capability(table), AUTO).scheme == scheme(F32)


def test_what_does_not_run_is_quoted_and_not_chosen() -> None:
    failure = "layer_norm: \"LayerNormKernelImpl\" not implemented for 'Half'"
    choice = choose_scheme(
        capability({F32: measured(1.0), F16: measured(None, UNSEEN, failure=failure)}), AUTO
    )
    assert choice.scheme == scheme(F32)
    assert f"float16 (torch_packed) does not run on cpu: {failure}." in choice.reasons


def test_the_fastest_of_several_is_chosen_and_the_others_are_explained() -> None:
    native = scheme(F16, "native_cpu")
    found = capability({F32: measured(1.0), F16: measured(0.7, UNSEEN), native: measured(0.5, UNSEEN)})
    choice = choose_scheme(found, AUTO)
    assert choice.scheme == native
    assert "but float16 (native_cpu) is faster" in about(choice.reasons, "float16 (torch_packed)")


def test_the_fastest_float32_is_float32_too() -> None:
    native = scheme(F32, "native_cpu")
    found = capability({F32: measured(1.0), native: measured(0.8), F16: measured(0.7, UNSEEN)})
    choice = choose_scheme(found, AUTO)
    assert choice.scheme == native
    # against the float32 that would run, not against the slower one: 0.8 / 0.7
    assert "is 1.14 times as fast" in about(choice.reasons, "float16")


def test_a_wider_format_is_never_chosen_and_says_what_it_is_for() -> None:
    choice = choose_scheme(capability({F32: measured(1.0), F64: measured(2.13)}), AUTO)
    assert about(choice.reasons, "float64") == (
        "float64 (torch_packed) takes 2.1 times as long as float32 here; for reference values, ask for it "
        "with "
        "--precision float64."
    )


def test_every_scheme_gets_a_sentence() -> None:
    table = {
        F32: measured(1.0),
        F16: measured(4.2, UNSEEN),
        BF16: measured(0.25, DRIFTED),
        F64: measured(2.0),
    }
    for wish in (AUTO, explicit(F16)):
        reasons = choose_scheme(capability(table), wish).reasons
        assert len(reasons) == (4 if wish == AUTO else 1)
        assert all(reason.endswith(".") for reason in reasons)


def test_auto_without_a_float32_that_runs_is_an_error() -> None:
    with pytest.raises(
        PrecisionError, match=r"float32 does not run on cpu .*linear: broken.*Choose another device"
    ):
        choose_scheme(capability({F32: measured(None, failure="linear: broken")}), AUTO)


def test_an_explicit_dtype_is_honoured_even_where_it_is_slow() -> None:
    table = {F32: measured(1.0), F16: measured(4.2, UNSEEN)}
    choice = choose_scheme(capability(table), explicit(F16))
    assert choice.scheme == scheme(F16)
    assert choice.reasons[0].startswith(
        "float16 was asked for: float16 (torch_packed) runs here, in 4.2 times the time"
    )


def test_an_explicit_dtype_that_does_not_run_is_refused_with_the_message_and_the_mend() -> None:
    table = {
        F32: measured(1.0),
        F16: measured(None, failure="linear: \"addmm_impl_cpu_\" not implemented for 'Half'"),
    }
    with pytest.raises(PrecisionError) as caught:
        choose_scheme(capability(table), explicit(F16))
    message = str(caught.value)
    assert "precision float16 does not run on cpu (a CPU)" in message
    assert "\"addmm_impl_cpu_\" not implemented for 'Half'" in message
    assert "Ask for what runs here (float32), or for 'auto'" in message


def test_int8_without_an_engine_is_refused_with_the_engines_that_are_there() -> None:
    with pytest.raises(
        PrecisionError, match=r"no engine here computes in int8 on cpu \(engines: torch_packed\)"
    ):
        choose_scheme(capability({F32: measured(1.0)}), explicit(INT8))


def test_an_explicit_dtype_takes_its_fastest_engine_and_names_the_others() -> None:
    native = scheme(F16, "native_cpu")
    table = {F32: measured(1.0), F16: measured(4.2, UNSEEN), native: measured(0.5, UNSEEN)}
    choice = choose_scheme(capability(table), explicit(F16))
    assert choice.scheme == native
    assert "float16 (torch_packed) would do as well, in 4.2 times the time of float32." in choice.reasons


def test_an_engine_without_its_hardware_leaves_the_next_one_and_says_why() -> None:
    native = scheme(F16, "native_cpu")
    table = {native: measured(None, failure="no AVX512-FP16"), F16: measured(4.2, UNSEEN), F32: measured(1.0)}
    choice = choose_scheme(capability(table), explicit(F16))
    assert choice.scheme == scheme(F16)
    assert "float16 (native_cpu) does not run here: no AVX512-FP16." in choice.reasons


def test_a_variant_is_another_scheme_than_its_dtype() -> None:
    groups = Scheme(INT8, DType.FLOAT32, 64, "native_cpu", None, F32)
    rows = Scheme(INT8, DType.FLOAT32, None, "native_cpu", "int8-fast", F32)
    tensor = Scheme(F32, F32, None, "torch_packed", "tf32")
    found = capability({F32: measured(1.0), groups: GROUPED, rows: PER_ROW, tensor: measured(0.6, UNSEEN)})
    assert choose_scheme(found, Wish.parse("int8")).scheme == groups
    assert choose_scheme(found, Wish.parse("int8-fast")).scheme == rows
    assert choose_scheme(found, Wish.parse("tf32")).scheme == tensor
    assert choose_scheme(found, explicit(F32)).scheme == scheme(F32)


def test_auto_measures_tf32_by_its_loss_and_not_by_its_size() -> None:
    tensor = Scheme(F32, F32, None, "torch_packed", "tf32")
    assert (
        choose_scheme(capability({F32: measured(1.0), tensor: measured(0.6, UNSEEN)}), AUTO).scheme == tensor
    )
    visible = choose_scheme(capability({F32: measured(1.0), tensor: measured(0.6, DRIFTED)}), AUTO)
    assert visible.scheme == scheme(F32)
    assert about(visible.reasons, "tf32").endswith("is visible; ask for it with --precision tf32.")


def test_auto_alone_never_takes_int8_and_says_how_to_ask_for_it() -> None:
    table = {key: row for key, row in QUANTISED.items() if key is not F16}
    choice = choose_scheme(capability(table), AUTO)
    assert choice.scheme == scheme(F32)
    assert about(choice.reasons, "int8-fast").endswith("ask for it with --precision int8-fast.")


@pytest.mark.parametrize(
    ("tolerance", "label"),
    [(0.0, "float32"), (1e-6, "float32"), (1.6e-6, "float16"), (3.7e-4, "int8"), (2e-3, "int8-fast")],
)
def test_a_tolerance_lets_auto_take_the_fastest_within_it(tolerance: float, label: str) -> None:
    choice = choose_scheme(capability(QUANTISED), AUTO, tolerance=tolerance)
    assert choice.scheme.label == label
    if label != "float32":
        assert f"has a loss within the tolerance of {tolerance:g} (its stated drift" in choice.reasons[0]
    for scheme_, row in QUANTISED.items():
        if isinstance(scheme_, Scheme) and row.drift and row.drift.mean > tolerance:
            assert f"is beyond the tolerance of {tolerance:g}" in about(choice.reasons, f"{scheme_} ")


def test_a_tolerance_is_held_against_what_was_asked_for_too() -> None:
    with pytest.raises(
        PrecisionError,
        match=r"int8 drifts further than tolerance=0\.0001 allows: int8 \(native_cpu\): mean 1 - cosine "
        r"3\.7e-04 \(a test\)\. Raise the tolerance, leave it out, or ask for 'auto'",
    ):
        choose_scheme(capability(QUANTISED), explicit(INT8), tolerance=1e-4)
    unknown = capability({F32: measured(1.0), INT8: measured(0.2, None)})
    with pytest.raises(PrecisionError, match=r"int8 \(torch_packed\): states no drift on real texts"):
        choose_scheme(unknown, explicit(INT8), tolerance=1.0)
    assert choose_scheme(unknown, explicit(INT8)).scheme == scheme(INT8)


def test_of_two_engines_a_tolerance_takes_the_slower_one_that_stays_within_it() -> None:
    native = Scheme(INT8, F32, 64, "native_cpu", None, F32)
    table = {F32: measured(1.0), native: measured(0.3, (3.7e-4, 1e-3)), INT8: measured(0.2, (2e-3, 1e-2))}
    assert choose_scheme(capability(table), explicit(INT8)).scheme == scheme(INT8)
    choice = choose_scheme(capability(table), explicit(INT8), tolerance=5e-4)
    assert choice.scheme == native
    assert "int8 (torch_packed) would do as well" in choice.reasons[1]
    assert choice.reasons[1].endswith("but drifts further than the tolerance.")


@pytest.mark.parametrize("tolerance", [-1e-9, 2.1, float("nan"), float("inf"), True, "0.1"])
def test_a_tolerance_is_a_distance_of_cosines(tolerance: Any) -> None:
    with pytest.raises(PrecisionError, match=r"tolerance=.*: it is the largest mean 1 - cosine"):
        choose_scheme(capability(QUANTISED), AUTO, tolerance=tolerance)


def test_checkpoint_takes_the_stored_dtype() -> None:
    table = {F32: measured(1.0), F16: measured(4.2, UNSEEN)}
    choice = choose_scheme(
        capability(table), Wish("checkpoint"), footprint(stored={"float16": 100, "int64": 900})
    )
    assert choice.scheme == scheme(F16)
    assert choice.reasons[0].startswith(
        "The checkpoint is stored in float16: float16 (torch_packed) runs here"
    )


def test_checkpoint_of_mixed_dtypes_takes_the_most_and_lists_all() -> None:
    table = {F32: measured(1.0), F16: measured(4.2, UNSEEN)}
    stored = {"float16": 1200, "float32": 30}
    choice = choose_scheme(capability(table), Wish("checkpoint"), footprint(stored=stored))
    assert choice.scheme == scheme(F16)
    assert "(1,200 numbers in float16, 30 numbers in float32), and most of it is float16" in choice.reasons[0]


def test_a_stored_dtype_that_does_not_run_is_refused_never_replaced() -> None:
    table = {F32: measured(1.0), F16: measured(None, failure="linear: not implemented for 'Half'")}
    with pytest.raises(
        PrecisionError, match=r"the checkpoint is stored in float16.*not implemented for 'Half'"
    ):
        choose_scheme(capability(table), Wish("checkpoint"), footprint(stored={"float16": 100}))


def test_a_stored_dtype_that_nothing_here_knows_is_refused() -> None:
    with pytest.raises(PrecisionError, match=r"stored in float8_e5m2.*'float8_e5m2' is not a dtype"):
        choose_scheme(
            capability({F32: measured(1.0)}), Wish("checkpoint"), footprint(stored={"float8_e5m2": 9})
        )


def test_a_float16_checkpoint_on_a_cpu_runs_in_float32_unless_float16_was_asked_for() -> None:
    slow: Capability = capability({F32: measured(1.0), F16: measured(4.2, UNSEEN)})
    assert choose_scheme(slow, AUTO, footprint(stored={"float16": 100})).scheme == scheme(F32)
    fast = capability({F32: measured(1.0), F16: measured(0.4, UNSEEN)})
    assert choose_scheme(fast, AUTO, footprint(stored={"float32": 100})).scheme == scheme(F16)
