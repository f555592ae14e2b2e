import threading

import pytest
import torch

from tercet.engines.tf32 import exact_products, tf32_products

matmul = torch.backends.cuda.matmul


def flags():
    """Every flag that decides about float32 products, by both generations of names."""
    found = {
        "matmul": matmul.fp32_precision,
        "cudnn": torch.backends.cudnn.fp32_precision,
        "all": torch.backends.fp32_precision,
        "mkldnn": torch.backends.mkldnn.matmul.fp32_precision,
    }
    for name, read in {
        "allow_tf32": lambda: matmul.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision,
    }.items():
        try:
            found[name] = read()
        except RuntimeError:
            found[name] = "contradiction"
    return found


def nothing():
    pass


def contradict():
    torch.set_float32_matmul_precision("medium")
    matmul.fp32_precision = "ieee"


SETTINGS = {
    "as torch comes": nothing,
    "older name off": lambda: setattr(matmul, "allow_tf32", False),
    "older name on": lambda: setattr(matmul, "allow_tf32", True),
    "newer name exact": lambda: setattr(matmul, "fp32_precision", "ieee"),
    "newer name on": lambda: setattr(matmul, "fp32_precision", "tf32"),
    "everything exact": lambda: setattr(torch.backends, "fp32_precision", "ieee"),
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "contradicting": contradict,
}


@pytest.fixture(autouse=True)
def _as_torch_comes():
    """What a test sets is not left behind."""
    before = flags()
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.fp32_precision = "none"
    matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"
    assert flags() == before


@pytest.mark.parametrize("setting", SETTINGS)
def test_products_use_tf32_inside_and_every_flag_is_put_back(setting):
    SETTINGS[setting]()
    before = flags()
    with tf32_products():
        assert matmul.fp32_precision == "tf32"
        inside = flags()
        if setting not in ("contradicting", "newer name on"):
            assert inside["allow_tf32"] is True  # the older names can be read, too
            assert inside["float32_matmul_precision"] == "high"
        for name in ("cudnn", "all", "mkldnn"):
            assert inside[name] == before[name]
    assert flags() == before


def test_what_is_inherited_stays_inherited():
    torch.backends.fp32_precision = "ieee"
    with tf32_products():
        pass
    torch.backends.fp32_precision = "tf32"
    assert matmul.fp32_precision == "tf32"


def test_flags_are_put_back_after_an_error():
    before = flags()
    with pytest.raises(RuntimeError, match="in between"), tf32_products():
        raise RuntimeError("in between")
    assert flags() == before


def test_windows_may_be_nested():
    before = flags()
    with tf32_products(), tf32_products(), exact_products():
        pass
    assert flags() == before


def test_exact_products_of_other_threads_wait_until_tf32_is_over():
    seen, began = [], threading.Event()

    def exact():
        began.set()
        with exact_products():
            seen.append(matmul.fp32_precision)

    with tf32_products():
        thread = threading.Thread(target=exact)
        thread.start()
        began.wait()
        thread.join(0.05)
        assert thread.is_alive()
    thread.join()
    assert seen == ["none"]
