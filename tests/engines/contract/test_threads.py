"""Threads and processes: any number of them, the same vectors, and nothing of the process is changed."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import engine_processes
import tiny
from engine_contract import distances
from tercet.batch import Batch

TEXTS = list(tiny.TEXTS)
# Enough tokens that operations are shared between threads.
MANY = [[2 + (text + place) % 90 for place in range(40 + text % 20)] for text in range(16)]
LENGTHS = [len(ids) for ids in MANY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_checkpoint(
        tmp_path_factory.mktemp("wide"), "bert", hidden=64, heads=2, intermediate=256
    )


@pytest.fixture(scope="module")
def model(subject, tiny_m3):
    return subject.load(tiny_m3)


@pytest.mark.parametrize("loaded_with", [1, 2])
def test_one_thread_and_two_give_the_same(subject, folder, threads, loaded_with):
    torch.set_num_threads(loaded_with)
    engine = subject.open(folder)
    found = {}
    for number in (1, 2):
        torch.set_num_threads(number)
        found[number] = engine.forward(Batch.from_ids(MANY))
        assert torch.get_num_threads() == number
    assert max(distances(found[2], found[1], LENGTHS)) <= subject.alike


@pytest.mark.parametrize("number", [1, 2])
def test_several_threads_may_compute_with_one_engine_at_once(subject, folder, threads, number):
    engine = subject.open(folder)
    jobs = [MANY[i : i + 1 + i % 7] for i in range(len(MANY))]
    expected = [engine.forward(Batch.from_ids(texts)) for texts in jobs]

    def work(texts):
        torch.set_num_threads(number)  # each thread of Python has a number of its own
        return engine.forward(Batch.from_ids(texts))

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(work, jobs))
    for one, other, texts in zip(found, expected, jobs, strict=True):
        assert max(distances(one, other, [len(ids) for ids in texts])) <= subject.alike


def test_several_threads_may_call_one_model_at_once(subject, model):
    jobs = [TEXTS[i:] + TEXTS[:i] for i in range(len(TEXTS))] * 3
    expected = [model.encode(texts, outputs=model.outputs) for texts in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda texts: model.encode(texts, outputs=model.outputs), jobs))
    for one, other in zip(found, expected, strict=True):
        assert one.allclose(other, atol=subject.alike_out)


def test_the_process_is_left_as_it_was(subject, tiny_m3, caplog):
    before = engine_processes.process_state()
    model = subject.load(tiny_m3)
    assert engine_processes.process_state() == before, "loading changed it"
    model.encode(TEXTS * 20, outputs=model.outputs)
    list(model.stream(TEXTS * 20))
    assert engine_processes.process_state() == before, "computing changed it"
    del model
    assert engine_processes.process_state() == before, "letting go of the model changed it"
    assert caplog.records == []


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_an_engine_computes_in_torchs_threads_and_starts_none_of_its_own(subject, folder, spawned):
    started = spawned.submit(engine_processes.started_threads, subject, folder, MANY).result(timeout=120)
    assert started == 0


def test_a_model_works_in_a_spawned_process(subject, model, spawned):
    process, found = spawned.submit(engine_processes.encoded_here, model, TEXTS).result(timeout=120)
    assert process != os.getpid()
    assert found.allclose(model.encode(TEXTS, outputs=model.outputs), atol=subject.alike_out)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_with_one_thread_and_says_so(subject, model, spawned):
    texts = ["red bird " * 20] * 64
    call = spawned.submit(engine_processes.forked, model, texts, 10 * subject.alike_out)
    seen = call.result(timeout=120)
    assert seen["status"] == 0
    assert seen["child"]["same"] == [True, True]
    assert seen["child"]["threads"] == 1
    assert len(seen["child"]["told"]) == 1
    assert "computes with one thread from here on" in seen["child"]["told"][0]
    assert "Start workers with the 'spawn' method" in seen["child"]["told"][0]
    assert seen["same here"]
    assert seen["threads here"] == 2
