from contextlib import suppress

import pytest

import measure
import speed
from measure import Bench
from processes import TimeUpError, WorkerError
from samples import Store
from workloads import WORKLOADS

PLACES = {"A": (2, ("tercet", "st")), "query": (1, ("tercet", "tercet-int8"))}


class Process:
    """Answers at once, as long as its engine is told; writes down what it was asked."""

    def __init__(self, name, asked, fault):
        self.name, self.asked, self.fault = name, asked, fault

    def ask(self, **request):
        self.asked.append((request["workload"], self.name))
        self.fault(len(self.asked), self.name)
        return {"seconds": [0.5], "computed": 10}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A function that begins or goes on, with engines that answer; it gives back what they were asked."""

    class Quiet:
        def others(self):
            return 0.0

    monkeypatch.setattr(measure, "Watch", Quiet)
    monkeypatch.setattr(speed, "Watch", Quiet)
    monkeypatch.setattr(measure.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(speed, "vectors_of", lambda store, *key: tmp_path / "vectors" / "-".join(key))

    def go(fault=lambda number, name: None, **options):
        asked = []

        class Residents:
            def __init__(self, bench, shape, engines):
                self.bench, self.shape, self.warm = bench, shape, set()

            def __enter__(self):
                return self

            def __exit__(self, *exception):
                pass

            def of(self, engine):
                if engine.name == "tercet-int8":
                    self.bench.note(kind="absent", shape=self.shape, engine=engine.name, reason="no kernel")
                    return None
                return Process(engine.name, asked, fault)

            def request(self, engine, workload):
                return {"workload": workload}

            def forget(self, engine):
                pass

        monkeypatch.setattr(speed, "Residents", Residents)
        made = Bench(Store(tmp_path / "results.json", {"code": "one"}), **options)
        with suppress(KeyboardInterrupt):
            speed.speed(made, "minilm", PLACES)
        return asked, made.store

    return go


def test_engines_take_turns_until_each_has_its_samples_after_a_run_that_warms_up(bench):
    asked, store = bench()
    assert asked[:6] == [("A", "tercet"), ("A", "st")] * 3
    assert asked[6:] == [("query", "tercet")] * 2
    assert speed.missing(store, {"minilm": PLACES}) == 0
    assert len(store.find(kind="speed")) == 5


def test_a_run_that_was_interrupted_goes_on_where_it_was(bench):
    def interrupt(number, name):
        if number == 4:
            raise KeyboardInterrupt

    first, store = bench(interrupt)
    assert len(first) == 4
    assert len(store.find(kind="speed")) == 1
    assert speed.missing(store, {"minilm": PLACES}) == 5
    second, store = bench()
    # New processes warm up again; of tercet one sample was there, of st none.
    warm = [("A", "tercet"), ("A", "st")]
    assert second == [
        *warm,
        ("A", "tercet"),
        ("A", "st"),
        ("A", "st"),
        ("query", "tercet"),
        ("query", "tercet"),
    ]
    assert len(store.find(kind="speed", workload="A", engine="tercet")) == 2
    assert speed.missing(store, {"minilm": PLACES}) == 0
    assert bench()[0] == [], "nothing is left to measure"


def test_an_engine_that_fails_is_told_and_the_others_go_on(bench):
    def fail(number, name):
        if name == "st":
            raise WorkerError("st", "it ended")

    asked, store = bench(fail)
    assert [name for _, name in asked].count("st") == 1
    assert store.find(kind="failure", of="speed", engine="st", workload="A", error="it ended")
    assert len(store.find(kind="speed", engine="tercet")) == 3


def test_when_the_time_is_up_in_the_middle_of_a_run_nothing_more_is_begun(bench):
    def end(number, name):
        if number == 3:
            raise TimeUpError(name, "the time was up")

    asked, store = bench(end)
    assert len(asked) == 3
    assert not store.find(kind="failure")


def test_without_time_nothing_is_begun(bench):
    assert bench(seconds=0.0)[0] == []


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results.json", {})


def test_a_run_is_expected_to_take_as_long_as_it_did(store):
    key = {"shape": "m3-6", "workload": "A", "engine": "st"}
    store.add(kind="count", **key, seconds=9.0)
    store.add(kind="speed", **key, seconds=7.0)
    assert speed.expected(store, "m3-6", "A", "st") == 9.0
    assert speed.expected(store, "m3-24", "A", "st") == 36.0
    longer = sum(WORKLOADS["B"].lengths) / sum(WORKLOADS["A"].lengths)
    assert speed.expected(store, "m3-6", "B", "st") == pytest.approx(9.0 * longer)
    assert speed.expected(store, "minilm", "A", "st") == 0.0
    assert speed.expected(store, "m3-6", "A", "fe") == 0.0


def test_disturbed_samples_are_still_missing_and_absent_engines_are_not(store):
    meetings = {"minilm": {"A": (2, ("tercet", "tercet-int8", "tercet-int8-all"))}}
    store.add(kind="absent", shape="minilm", engine="tercet-int8", reason="no kernel")
    for clean in (True, False):
        store.add(kind="speed", shape="minilm", workload="A", engine="tercet", seconds=1.0, clean=clean)
    assert speed.missing(store, meetings) == 1


def test_a_plan_that_came_out_as_another_precision_is_not_measured_twice(store):
    meetings = {"minilm": {"A": (1, ("tercet-auto",))}}
    store.add(kind="load", shape="minilm", engine="tercet-auto", facts={"scheme": "float32 (torch_packed)"})
    assert speed.missing(store, meetings) == 1
    store.add(kind="load", shape="minilm", engine="tercet", facts={"scheme": "float32 (torch_packed)"})
    assert speed.missing(store, meetings) == 0
