import pytest

from engines import ENGINES, FULL, SCHEMES, SHAPES, SHORT, TRY, ours, select, with_precisions
from exported import batches
from limits import Sizes
from workloads import WORKLOADS


@pytest.mark.parametrize("meetings", [FULL, SHORT, TRY])
def test_every_meeting_is_of_known_shapes_workloads_and_engines(meetings):
    for shape, places in meetings.items():
        assert shape in SHAPES
        for workload, (number, engines) in places.items():
            assert workload in WORKLOADS
            assert number > 0
            assert set(engines) <= set(ENGINES)


def test_names_of_a_kind_choose_among_that_kind():
    found = select(FULL, ("minilm", "A", "tercet", "st"))
    assert found == {"minilm": {"A": (FULL["minilm"]["A"][0], ("tercet", "st"))}}


def test_without_names_everything_is_measured():
    assert select(FULL, ()) == FULL


def test_other_precisions_join_wherever_tercet_stands():
    found = with_precisions({"minilm": {"A": (3, ("tercet", "st"))}}, ("float32", "bfloat16"))
    assert found == {"minilm": {"A": (3, ("tercet", "st", "tercet-bfloat16"))}}


def test_other_precisions_make_all_three_outputs_where_float32_does_and_a_plan_dense_alone():
    found = with_precisions({"m3-6": {"A": (1, ("tercet", "tercet-all", "fe"))}}, ("int8-fast", "auto"))
    expected = ("tercet", "tercet-all", "fe", "tercet-int8-fast", "tercet-int8-fast-all", "tercet-auto")
    assert found == {"m3-6": {"A": (1, expected)}}


def test_every_precision_with_goals_has_engines_of_its_dtype():
    for scheme in SCHEMES:
        dense, three = ENGINES[ours(scheme)], ENGINES[ours(scheme, three=True)]
        assert dense.options == three.options == {"precision": scheme}
        assert (dense.outputs, three.outputs, three.shares) == ("dense", "all", dense.name)
        assert dense.dtype == scheme.removesuffix("-fast")
        assert dense.exact == (scheme == "float32")


def test_an_engine_that_shares_a_process_shares_what_is_loaded():
    for engine in ENGINES.values():
        if engine.shares:
            owner = ENGINES[engine.shares]
            assert (engine.worker, engine.environment) == (owner.worker, owner.environment)


def test_batches_hold_every_text_once_within_the_budget():
    lengths = [30, 500, 7, 7, 200, 90, 1500]
    found = list(batches(lengths, 600))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 600


def test_flops_are_those_of_the_published_shape():
    # BGE-M3 without embeddings: 302 million weights, two operations each, and attention.
    sizes = Sizes(24, 1024, 4096)
    assert sizes.flops([1]) == pytest.approx(2 * 302e6, rel=0.01)
    assert sizes.flops([512]) - 512 * sizes.flops([1]) == pytest.approx(4 * 512 * 511 * 1024 * 24)


def test_at_one_rate_the_least_time_is_the_operations_over_the_rate():
    sizes, lengths = Sizes(2, 8, 16), [3, 5]
    assert sizes.least_seconds(lengths, 10.0, 10.0) == pytest.approx(sizes.flops(lengths) * 1e-10)


def test_attention_is_counted_at_its_own_rate():
    sizes, lengths = Sizes(2, 8, 16), [3, 5]
    attention = sizes.parts(lengths)["attention"]
    assert attention == 4 * 2 * 8 * (9 + 25)
    slower = sizes.least_seconds(lengths, 10.0, 5.0) - sizes.least_seconds(lengths, 10.0, 10.0)
    assert slower == pytest.approx(attention * 1e-10)
