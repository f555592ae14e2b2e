import pytest

from engines import ENGINES, FULL, SHAPES, SHORT, TRY, select, with_precisions
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
