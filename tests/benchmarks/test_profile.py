import pytest
import torch
from torch.nn import functional

import parts
import profile_engine
import tercet
import tiny
from engine_contract import Subject
from limits import Sizes
from parts import (
    ATTENTION,
    END,
    ENGINE,
    HEADS,
    IN_ONE,
    NORMS,
    ORDER,
    QUANTISING,
    REST,
    TOKENISER,
    Recorder,
    recorded,
    shares,
)
from tercet.kernels.native import library
from tercet.layers.linear import FeedForward
from tercet.precision.dtype import DType
from tercet.precision.hardware import Measured
from tercet.precision.scheme import Scheme

TEXTS = ["packed texts", "a river and a bridge in the city", "one"]
SCHEMES = [
    Scheme(dtype, dtype, None, engine)
    for dtype, engine in [
        (DType.FLOAT32, "native_cpu"),
        (DType.FLOAT32, "torch_packed"),
        (DType.FLOAT64, "torch_packed"),
    ]
]


# Whichever engine measured faster here: each is profiled.
@pytest.fixture(scope="module", params=SCHEMES, ids=str)
def model(tmp_path_factory, request):
    if request.param.engine == "native_cpu" and library() is None:
        pytest.skip("the native kernels are absent")
    folder = tmp_path_factory.mktemp("profile") / "model"
    tiny.write_checkpoint(folder, "bert", layout="sentence-transformers")
    return Subject(request.param, Measured(1.0, 1e-6, True)).load(folder)


def test_time_inside_a_part_is_not_counted_for_what_is_around_it():
    clock = iter([0.0, 1.0, 3.0, 10.0])
    recorder = Recorder(lambda: next(clock))
    inner = recorder.around("inner", lambda: 5)
    outer = recorder.around("outer", lambda: inner() + 1)
    assert outer() == 6
    assert recorder.seconds == {"inner": 2.0, "outer": 8.0}
    assert recorder.calls == {"inner": 1, "outer": 1}


def test_what_fails_is_recorded_too_and_leaves_nothing_behind():
    clock = iter([0.0, 2.0, 5.0, 6.0])
    recorder = Recorder(lambda: next(clock))

    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        recorder.around("a", fail)()
    recorder.around("b", str)()
    assert recorder.seconds == {"a": 2.0, "b": 1.0}


def test_shares_are_of_everything_in_the_tables_order():
    found = shares({HEADS: 1.0, ATTENTION: 3.0, REST: 0.0})
    assert found == [(ATTENTION, 3.0, 0.75), (HEADS, 1.0, 0.25)]


def test_a_profile_has_every_part_and_changes_no_bit(model):
    before = model.encode(TEXTS).dense
    recorder = Recorder()
    with recorded(model, recorder):
        during = model.encode(TEXTS).dense
    assert (before == during).all()
    up, down = "feed-forward up, with the activation", "feed-forward down, with the residual"
    in_one = model.plan.scheme.engine == "native_cpu"
    apart = {"attention out", up, down, NORMS} if in_one else {END}
    assert set(recorder.seconds) == set(ORDER) - {QUANTISING, IN_ONE} - apart
    layers = int(model.checkpoint.config["num_hidden_layers"])
    assert recorder.calls[ATTENTION] == layers
    assert recorder.calls["q, k, v"] == recorder.calls[END if in_one else down] == layers
    # The norm of the embeddings is part of their kernel, which is of float32.
    embeds_in_one = model.plan.scheme.dtype is DType.FLOAT32 and library() is not None
    assert recorder.calls.get(NORMS, 0) == (0 if in_one else 2 * layers + (not embeds_in_one))
    assert recorder.calls[REST] == recorder.calls[TOKENISER] == recorder.calls[ENGINE] == 1


def test_afterwards_nothing_is_wrapped_any_more(model):
    attributes = {key: value for key, value in vars(model).items()}
    recorder = Recorder()
    with recorded(model, recorder):
        model.encode(TEXTS)
    counted = dict(recorder.calls)
    model.encode(TEXTS)
    assert dict(recorder.calls) == counted
    assert vars(model) == attributes
    encoder = parts.encoder_of(parts.engine_of(model))
    assert not any("forward" in vars(module) for module in encoder.modules())
    assert "embed" not in vars(encoder)
    assert torch.layer_norm.__name__ == "layer_norm"


def test_a_feed_forward_that_an_engine_does_in_one_is_one_part(model):
    mine = tercet.load(str(model.checkpoint.folder), precision="float64", device="cpu")
    encoder = parts.encoder_of(parts.engine_of(mine))
    every = [module for module in encoder.modules() if isinstance(module, FeedForward)]

    def in_one(module):
        up, down = (
            layer.weight.to_dense() if layer.weight.is_mkldnn else layer.weight
            for layer in (module.up, module.down)
        )

        def product(x, up_bias, down_bias, residual):
            inner = module.activation(functional.linear(x, up, up_bias))
            return functional.linear(inner, down, down_bias) + residual

        return product

    for module in every:
        module.product = in_one(module)
    recorder = Recorder()
    with recorded(mine, recorder):
        during = mine.encode(TEXTS).dense
    assert torch.allclose(model.encode(TEXTS).dense, during, atol=1e-6)
    assert recorder.calls[IN_ONE] == len(every) > 0
    assert "feed-forward up, with the activation" not in recorder.calls


def test_a_part_that_does_two_products_has_the_arithmetic_of_both():
    # Of 3 tokens, 8 by 16, in 2 layers: 3,072 operations.
    found = profile_engine.Profile({IN_ONE: 1e-6}, plain=1e-6, clocked=1e-6, lengths=(3,), others=0.0)
    page = profile_engine.told(found, "x", Sizes(2, 8, 16), "int8", {"int8": 1.0})
    assert f"| {IN_ONE} | 0.001 | 100.0% | 3.07 | 307% |" in page


def test_after_an_error_nothing_is_wrapped_either(model):
    recorder = Recorder()
    with pytest.raises(KeyError), recorded(model, recorder):
        raise KeyError("x")
    model.encode(TEXTS)
    assert not recorder.calls


def test_a_scheme_that_quantises_shows_it_as_a_part(model, monkeypatch):
    from tercet.engines import torch_packed

    def quantise_rows(tokens):
        return rounded(tokens)

    rounded = torch_packed.rounded
    quantise_rows.__module__ = torch_packed.__name__
    monkeypatch.setattr(torch_packed, "quantise_rows", quantise_rows, raising=False)
    assert parts.QUANTISING not in Recorder().seconds
    recorder = Recorder()
    with recorded(model, recorder):
        torch_packed.quantise_rows(5)
    assert recorder.calls == {QUANTISING: 1}
    assert torch_packed.quantise_rows is quantise_rows


def test_the_runs_are_timed_with_and_without_clocks(model):
    found = profile_engine.profile(model, TEXTS, rounds=3)
    assert found.plain > 0
    assert found.clocked > 0
    assert 0 < sum(found.seconds.values()) <= found.clocked
    assert len(found.lengths) == len(TEXTS)


def test_the_table_tells_rates_and_shares_of_the_peak_and_what_the_clocks_cost():
    sizes, lengths = Sizes(2, 8, 16), (3, 5)
    work = sizes.parts(lengths)
    seconds = {"q, k, v": 1e-6, ATTENTION: 1e-6, REST: 2e-6}
    found = profile_engine.Profile(seconds, plain=4e-6, clocked=5e-6, lengths=lengths, others=0.3)
    peaks = {"int8": work["qkv"] * 2e-3, "float32": work["attention"] * 4e-3}
    page = profile_engine.told(found, "int8 (somewhere)", sizes, "int8", peaks)
    assert "| q, k, v | 0.001 | 25.0% | 6.14 | 50% |" in page
    assert "| attention | 0.001 | 25.0% | 2.18 | 25% |" in page
    assert "GOP/s" in page
    assert "other processes used 30% of the CPU" in page
    assert "they cost +25.0%" in page


def test_the_peak_of_a_dtype_is_the_best_of_instructions_and_products(tmp_path):
    path = tmp_path / "peaks.json"
    path.write_text(
        '{"instructions": {"int8": 5.0}, "products": {"int8": 7.0, "float32": 2.0}}', encoding="utf-8"
    )
    assert profile_engine.peaks_of(path) == {"int8": 7.0, "float32": 2.0}
