"""Stacks are measured as they are described: which there are, how they are made, what a page says."""

import numpy as np
import pytest

import machine
import make_stacks
import stack_outputs
import stacks
import tercet
from measure import Bench
from processes import WorkerError
from samples import Store
from stack_kinds import SCHEMES, STACKS, TEXTS, engines_of, number_of
from stacks_page import text_of

IDENTITY = {"machine": machine.machine(), "versions": {"tercet": "0.1.0"}, "code": "abc"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "stacks.json", IDENTITY)


def test_every_stack_has_a_writer_and_every_writer_a_stack():
    assert list(STACKS) == list(make_stacks.WRITERS)


@pytest.mark.parametrize("name", STACKS)
def test_every_stack_is_made_and_loaded_by_what_its_worker_calls(name, tmp_path):
    # Wider than the tests' own models are by default.
    make_stacks.WRITERS[name](tmp_path, make_stacks.SMALL | {"hidden": 48})
    call = STACKS[name].call
    options = {"precision": "float32", "device": "cpu"}
    if call == "pairs":
        pairs = stack_outputs.pairs_of(["the cat", "a dog", "a river", "the bridge"])
        assert len(tercet.load_reranker(tmp_path, **options).score(pairs)) == 2
        return
    model = tercet.load(tmp_path, **options)
    outputs = {
        "sparse": ("sparse",),
        "three": ("dense", "sparse", "multivector"),
        "late": ("multivector",),
    }.get(call, ("dense",))
    encode = {"query": model.encode_query, "late": model.encode_document}.get(call, model.encode)
    found = encode(["the cat"], outputs=outputs)
    assert all(getattr(found, output) is not None for output in outputs)


@pytest.mark.parametrize(("architecture", "kind"), [("bert", "WordPiece"), ("xlm-roberta", "Unigram")])
def test_a_larger_tokenizer_has_the_pieces_of_the_small_one_where_they_were(architecture, kind):
    small, large = (
        each(architecture)
        for each in (make_stacks.tiny.tokenizer, make_stacks._grown(make_stacks.tiny.tokenizer))
    )
    assert large.get_vocab_size() == make_stacks.VOCABULARY
    vocabulary = large.get_vocab()
    assert all(vocabulary[piece] == place for piece, place in small.get_vocab().items())
    assert len(large.encode("function").ids) < len(small.encode("function").ids)


def test_outputs_are_laid_out_when_they_are_saved_and_not_before():
    asked = []
    found = stack_outputs.Numbers(lambda: (asked.append(1), [[1.0, 2.0], np.ones((2, 2))])[1])
    assert not asked
    np.testing.assert_array_equal(np.asarray(found), [1, 2, 1, 1, 1, 1])
    rows = stack_outputs.laid_out([{1: 0.5}, {}, {"0": 2.0, 2: 1.0}], 3)
    np.testing.assert_array_equal(rows, [[0, 0.5, 0], [0, 0, 0], [2.0, 0, 1.0]])


def filled(store, stack="splade", ours=1.0, theirs=2.5):
    for engine, seconds in (("peer", theirs), ("float32", ours)):
        store.add(kind="load", stack=stack, engine=engine, peak=400e6 if engine == "peer" else 200e6)
        for change in (-0.1, 0.0, 0.1):
            store.add(kind="speed", stack=stack, engine=engine, seconds=seconds + change, clean=True)
    store.add(kind="apart", stack=stack, engine="float32", apart=3e-6, largest=1.5, of=10)
    return store


def test_the_page_says_texts_a_second_how_much_faster_and_how_far_apart(store):
    filled(store).add(kind="absent", stack="splade", engine="float16", reason="emulated here, 9 times")
    lines = text_of(store, "").splitlines()
    [peer] = [line for line in lines if line.startswith("| SPLADE")]
    [ours] = [line for line in lines if line.startswith("|  | Tercet | float32")]
    assert "`SparseEncoder`" in peer
    assert "| 400 |" in peer
    assert "**2.50×** (2.18-2.89)" in ours
    assert "| 2e-06 | 200 | 32.0 (29.1-35.6, n=3)" in ours
    assert any(line.startswith("- float16, SPLADE") for line in lines)


def test_rerankers_are_counted_in_pairs(store):
    assert number_of(STACKS["cross_encoder"]) == TEXTS // 2
    assert "16.0 (" in text_of(filled(store, "cross_encoder"), "")


def test_a_page_of_nothing_says_so(store):
    assert "Nothing was measured." in text_of(store, "The time was up.")
    assert "**The time was up.**" in text_of(store, "The time was up.")


class Process:
    """Answers as a worker does."""

    def __init__(self, answer):
        self.answer = answer

    def ask(self, **request):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_scheme_that_is_emulated_is_told_once_and_not_tried_again(store):
    bench, stack = Bench(store), STACKS["lstm"]
    [engine] = [engine for engine in engines_of(stack) if engine.name == "float16"]
    key = {"stack": "lstm", "engine": "float16"}
    slow = Process({"facts": {"slower": 9.8}})
    assert stacks.answered(bench, stack, slow, {}, key) is None
    assert stacks.absent(store, stack, engine)
    assert "9.8 times" in stacks.emulated(store, engine)
    # A table multiplies nothing, whatever products cost here.
    table = STACKS["static"]
    assert stacks.answered(bench, table, slow, {}, {"stack": "static", "engine": "float16"}) is not None
    assert not stacks.absent(store, table, engine)


def test_what_a_worker_refuses_is_absent_and_what_fails_is_a_failure(store):
    bench, stack = Bench(store), STACKS["static"]
    for name, kind, expected in (("int8", "PrecisionError", "absent"), ("bfloat16", "KeyError", "failure")):
        error = WorkerError(name, "why it is not", kind)
        assert stacks.answered(bench, stack, Process(error), {}, {"stack": "static", "engine": name}) is None
        assert store.find(kind=expected, engine=name, reason="why it is not")
    assert text_of(store, "").count("why it is not") == 2


def test_the_peer_is_first_and_schemes_may_be_chosen():
    for stack in STACKS.values():
        assert [engine.name for engine in engines_of(stack)] == ["peer", *SCHEMES]
        assert [engine.name for engine in engines_of(stack, ("int8",))] == ["peer", "int8"]


def test_a_failure_that_went_right_later_is_told_no_more(store):
    store.add(kind="failure", stack="splade", engine="float32", reason="the worker ended")
    assert "the worker ended" in text_of(store, "")
    assert "the worker ended" not in text_of(filled(store), "")


def test_a_worker_that_ends_is_a_failure_and_the_next_stack_is_measured(store, monkeypatch):
    tried = []

    def measured(bench, stack, engines, rounds, *, small):
        tried.append(stack.name)
        if stack.name == "cnn":
            raise WorkerError("peer", "the worker ended")

    monkeypatch.setattr(stacks, "measured", measured)
    monkeypatch.setattr(stacks, "_probe", lambda *given, **options: None)
    assert stacks.run(Bench(store), ("cnn", "lstm"), ("float32",), 1, small=True) == ""
    assert tried == ["cnn", "lstm"]
    assert store.find(kind="failure", stack="cnn", engine="peer")
