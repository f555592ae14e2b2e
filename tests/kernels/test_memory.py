import gc
import threading

import pytest
import torch

from tercet.kernels import memory


@pytest.fixture(autouse=True)
def nothing_kept():
    gc.collect()
    memory.forget()


def test_memory_serves_again_once_nobody_uses_it():
    first = memory.empty(1000, 100)
    place = first.data_ptr()
    del first
    assert memory.empty(1000, 100).data_ptr() == place


def test_memory_in_use_is_never_lent_twice():
    first = memory.empty(1000, 100)
    view = first[10:20]
    del first
    assert memory.empty(1000, 100).untyped_storage().data_ptr() != view.untyped_storage().data_ptr()


def test_a_slightly_smaller_result_fits_where_a_larger_one_was():
    first = memory.empty(1000, 100)
    place = first.data_ptr()
    del first
    assert memory.empty(900, 100).data_ptr() == place
    # Nothing small takes a large block away.
    assert memory.empty(300, 100).data_ptr() != place


def test_results_begin_at_a_line_of_the_cache():
    assert memory.empty(1001, 99).data_ptr() % 64 == 0


def test_what_is_kept_is_bounded():
    held = [memory.empty(4096, 1024) for _ in range(8)]
    del held
    assert sum(block.nbytes for block in memory._free.values()) <= 64 << 20
    huge = memory.empty(32768, 1024)
    del huge
    assert sum(block.nbytes for block in memory._free.values()) <= 64 << 20


def test_shape_and_dtype_are_what_was_asked_for():
    for rows in (0, 3, 5000):
        made = memory.empty(rows, 31)
        assert made.shape == (rows, 31)
        assert made.dtype is torch.float32
        assert made.is_contiguous()


def test_threads_never_write_into_each_others_results():
    wrong = []

    def work(number):
        for _ in range(200):
            made = memory.empty(200, 100)
            made.fill_(number)
            if not bool((made == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_results_are_float32_whatever_the_callers_default_is(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        assert memory.empty(3, 31).dtype is torch.float32
        assert memory.empty(5000, 31).dtype is torch.float32
    finally:
        torch.set_default_dtype(before)


def test_a_collection_may_give_memory_back_while_a_block_is_chosen():
    class Ring:
        def __init__(self, rows):
            self.me, self.result = self, memory.empty(rows, 8)

    thresholds = gc.get_threshold()
    gc.set_threshold(1)  # a collection at almost every step
    try:
        for turn in range(5_000):
            Ring(17_000 * (1 + turn % 3))
            assert memory.empty(17_000 * (1 + turn * 7 % 5), 8).shape[1] == 8
    finally:
        gc.set_threshold(*thresholds)


def test_a_forked_child_does_not_wait_for_a_lock_of_its_parent():
    held = memory._lock
    with held:
        memory.after_fork()
        done = threading.Thread(target=memory.empty, args=(1000, 100))
        done.start()
        done.join(10)
        assert not done.is_alive()
