import threading

import quiet


def test_our_own_work_is_not_taken_for_others(monkeypatch):
    ticks = iter([(1000, 400), (1200, 590)])
    state = {}

    def busy():
        state["now"] = next(ticks)
        return state["now"][0]

    monkeypatch.setattr(quiet, "_busy", busy)
    monkeypatch.setattr(quiet, "_own", lambda: state["now"][1])
    watch = quiet.Watch()
    # 200 ticks were used, 190 of them by us: 10 are others', less one for rounding, on every CPU in 1 s.
    watch.supported, watch.started = True, watch.started - 1.0
    monkeypatch.setattr(quiet.os, "cpu_count", lambda: 2)
    assert abs(watch.others() - 9 / quiet.TICK / 2) < 1e-3


def test_threads_of_this_process_count_as_ours():
    before = quiet._own()
    worker = threading.Thread(target=lambda: sum(range(3_000_000)))
    worker.start()
    worker.join()
    assert quiet._own() >= before
