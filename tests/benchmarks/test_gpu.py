import json

import pytest
import torch

import float8_emulated
import gpu
import tiny

# What a machine with a GPU would print; the figures are made up.
FOUND = {
    "machine": {
        "gpu": "A GPU",
        "compute_capability": "9.0",
        "memory_gib": 80.0,
        "cuda": "13.0",
        "state": "driver_version, clocks.sm [MHz]\n580.1, 1980 MHz",
        "cpu": "A CPU",
        "versions": {"tercet": "0", "torch": "2"},
    },
    "texts": 3,
    "tokens": 40,
    "tokens_per_second": {
        "float16": {"median": 12345.6, "lowest": 12000.0, "highest": 13000.0, "samples": 3}
    },
    "query_seconds": {"float16, graphs": {"median": 5e-4, "lowest": 4e-4, "highest": 6e-4, "samples": 3}},
    "drift": {"float32": {"mean": 1e-14, "worst": 2e-14}, "float16": {"mean": 7e-7, "worst": 1e-6}},
    "does_not_run": {"float8": "this GPU has 8.0"},
}


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one text\n\n  another text \n", encoding="utf-8")
    return path


def test_without_a_gpu_it_refuses_and_says_where_to_run_it(texts, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"measures an NVIDIA GPU.*none here.*machine with one"):
        gpu.main([str(texts)])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--samples", "2"], "--samples is 2"),
        (["--queries", "0"], "--queries is 0"),
        (["--limit", "0"], "--limit is 0"),
        (["--device", "cpu"], "it must be a CUDA device"),
        (["--precision", "int3"], "invalid choice: 'int3'"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(texts, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as stop:
        gpu.main([str(texts), *arguments])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_texts_that_are_not_there_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gpu.main([str(tmp_path / "nothing.txt")])
    assert "nothing.txt: there is no such file" in capsys.readouterr().err
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(SystemExit, match="no text in it"):
        gpu.main([str(tmp_path / "empty.txt")])


def test_texts_are_lines_or_documents_and_queries(texts, tmp_path):
    assert gpu.read(texts) == ["one text", "another text"]
    assert gpu.read(texts, 1) == ["one text"]
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"title": "A", "text": "text"}) + "\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"text": "why"}) + "\n")
    assert gpu.read(tmp_path) == ["A text", "why"]


def test_rounds_are_interleaved_and_warm_ups_are_not_counted():
    calls, times = [], iter(range(100))
    work = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = gpu.interleaved(work, 3, warm_ups=1, clock=lambda: float(next(times)))
    assert "".join(calls) == "abababab"
    assert {name: len(samples) for name, samples in found.items()} == {"a": 3, "b": 3}
    assert set(found["a"]) == {1.0}


def test_a_spread_is_the_middle_and_both_ends():
    assert gpu.Spread.of([3.0, 1.0, 2.0]) == gpu.Spread(2.0, 1.0, 3.0, 3)
    assert gpu.Spread(0.002, 0.001, 0.0035, 3).show(1e3, ".1f") == "2.0 (1.0..3.5)"


def test_drift_is_one_less_cosine():
    reference = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    other = reference + 1e-3 * reference.roll(1, dims=1)
    cosine = torch.nn.functional.cosine_similarity(reference, other)
    found = gpu.distance(reference, 7 * other)
    assert found["mean"] == pytest.approx(float((1 - cosine).mean()), rel=1e-6)
    assert found["worst"] == pytest.approx(float((1 - cosine).max()), rel=1e-6)


def test_the_page_has_machine_medians_spread_drift_and_what_does_not_run():
    page = gpu.page(FOUND)
    for part in (
        "**A GPU**, compute capability 9.0, 80.0 GiB, CUDA 13.0; A CPU. tercet 0, torch 2.",
        "    580.1, 1980 MHz",
        "| float16 | 12,346 (12,000..13,000) |",
        "| float16, graphs | 0.500 (0.400..0.600) |",
        "| float32 to float64 | 1.00e-14 | 2.00e-14 |",
        "| float16 to float32 | 7.00e-07 | 1.00e-06 |",
        "float8: this GPU has 8.0",
    ):
        assert part in page


def test_float8_is_emulated_without_a_gpu(texts, tmp_path, capsys):
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    float8_emulated.main([str(texts), "--model", str(folder)])
    out, err = capsys.readouterr()
    means = {line.split()[0]: float(line.split()[4].rstrip(",")) for line in out.splitlines()[1:]}
    assert 0 < means["bfloat16"] < means["float8"] < 0.05
    assert "8 linear layers, 0 stay in bfloat16" in err


def test_the_whole_program_runs_with_a_cpu_in_place_of_the_gpu(texts, tmp_path, monkeypatch, capsys):
    load = gpu.tercet.load
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "machine", lambda device: FOUND["machine"])
    monkeypatch.setattr(gpu, "load_peer", lambda model, device: {"peer": len})
    monkeypatch.setattr(
        gpu.tercet, "load", lambda model, **options: load(model, **options | {"device": "cpu"})
    )
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    path = tmp_path / "found.json"
    wish = ["--precision", "float32", "--precision", "float16", "--precision", "float8"]
    gpu.main(
        [str(texts), "--model", str(folder), *wish, "--samples", "3", "--queries", "3", "--json", str(path)]
    )
    found = json.loads(path.read_text())
    assert set(found["tokens_per_second"]) == {"float32", "float16", "peer"}
    assert set(found["query_seconds"]) == {
        *(f"{name}, {way}" for name in ("float32", "float16") for way in ("graphs", "eager")),
        "peer",
    }
    assert found["drift"]["float32"]["worst"] < 1e-12 < found["drift"]["float16"]["worst"] < 1e-4
    assert list(found["does_not_run"]) == ["float8"]
    assert gpu.page(found) in capsys.readouterr().out
