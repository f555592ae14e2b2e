import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import tiny
from tercet import embedder
from tercet.cli.main import main
from tercet.precision.plan import Plan
from tercet.storage.vectors import read_vectors, stream_vectors

ALL = "dense,sparse,multivector"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("".join(text.replace("\n", " ") + "\n" for text in tiny.TEXTS))
    return tmp_path


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is a failure of the test: the mistake must be found before."""

    def load(*_: object, **__: object) -> None:
        pytest.fail("the model was loaded before the mistake was found")

    monkeypatch.setattr(embedder, "load", load)


def run(*arguments: str | Path) -> int:
    return main(["embed", *map(str, arguments), "--precision", "float32"])


@pytest.mark.parametrize("suffix", ["parquet", "npz", "jsonl"])
def test_the_vectors_of_a_file_are_those_of_encode_in_its_order(
    here: Path, tiny_m3: Path, suffix: str
) -> None:
    out = here / f"out.{suffix}"
    assert run("in.txt", "-o", out, "--model", tiny_m3, "--outputs", ALL) == 0
    found, ids, provenance = read_vectors(str(out))
    outputs = ("dense", "sparse", "multivector")
    wanted = embedder.load(tiny_m3, precision="float32").encode(tiny.TEXTS, outputs=outputs)
    assert found.allclose(wanted, atol=0.0)
    assert ids == list(range(len(tiny.TEXTS)))
    assert provenance["model"] == str(tiny_m3)
    assert provenance["outputs"] == list(outputs)
    assert len(provenance["weights_sha256"]) == 64
    assert [path.name for path in here.iterdir() if path.name.startswith(".")] == []


def test_every_input_format_gives_the_same_vectors(here: Path, tiny_bert: Path) -> None:
    texts = [text for text in tiny.TEXTS if "\n" not in text]
    Path("in.csv").write_text("k,text\n" + "".join(f'{row},"{text}"\n' for row, text in enumerate(texts)))
    Path("in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for suffix in ("txt", "csv", "jsonl"):
        assert run(f"in.{suffix}", "-o", f"{suffix}.npz", "--model", tiny_bert) == 0
    first, *others = (read_vectors(f"{suffix}.npz")[0] for suffix in ("txt", "csv", "jsonl"))
    assert all(first.allclose(other, atol=0.0) for other in others)


def test_stdin_goes_to_stdout_as_json_lines(
    here: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert run("-", "--format", "txt", "-o", "-", "--model", tiny_bert) == 0
    out, err = capfdbinary.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["id"] for row in rows] == [0, 1]
    assert len(rows[0]["dense"]) == len(rows[1]["dense"]) > 0
    assert b"2 texts" in err


def test_columns_ids_texts_and_a_limit_are_taken_as_asked(here: Path, tiny_bert: Path) -> None:
    Path("in.csv").write_text("k,body,other\na,the cat,x\nb,the dog,y\nc,the fish,z\n")
    options = ("--column", "body", "--id-column", "k", "--keep-text", "--limit", "2")
    assert run("in.csv", "-o", "out.parquet", "--model", tiny_bert, *options) == 0
    _, parts = stream_vectors("out.parquet")
    (rows,) = parts
    assert list(rows.ids) == ["a", "b"]
    assert list(rows.texts or []) == ["the cat", "the dog"]


def test_an_empty_input_gives_a_file_of_no_text(here: Path, tiny_m3: Path) -> None:
    Path("empty.txt").touch()
    assert run("empty.txt", "-o", "out.parquet", "--model", tiny_m3, "--outputs", ALL) == 0
    found, ids, _ = read_vectors("out.parquet")
    assert (len(found), ids, found.outputs) == (0, [], ("dense", "sparse", "multivector"))


def test_options_reach_the_model(here: Path, tiny_stack: Path) -> None:
    options = ("--prompt", "query: ", "--max-length", "7", "--dimensions", "8", "--output-dtype", "half")
    assert run("in.txt", "-o", "out.npz", "--model", tiny_stack, *options) == 0
    found, _, provenance = read_vectors("out.npz")
    assert found.dense is not None
    assert (found.dense.shape[1], found.dense.dtype) == (8, torch.float16)
    assert (provenance["prompt"], provenance["max_length"], provenance["dimensions"]) == ("query: ", 7, 8)
    assert int(found.num_tokens.max()) == 7
    assert bool(found.truncated[-1])


def test_query_takes_the_prompt_for_queries_where_there_is_one(
    here: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    folder = tiny.write_checkpoint(
        tmp_path / "model", "bert", layout="sentence-transformers", prompts={"query": "query: "}
    )
    assert run("in.txt", "-o", "a.npz", "--model", folder, "--query") == 0
    assert run("in.txt", "-o", "b.npz", "--model", tiny_bert, "--query") == 0
    assert [read_vectors(name)[2]["prompt"] for name in ("a.npz", "b.npz")] == ["query: ", ""]


def test_the_summary_counts_what_was_done_and_json_prints_it_as_data(
    here: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("in.txt", "-o", "out.npz", "--model", tiny_bert, "--max-length", "6", "--json") == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    found, _, _ = read_vectors("out.npz")
    assert summary["texts"] == len(tiny.TEXTS)
    assert summary["tokens"] == int(found.num_tokens.sum())
    assert summary["truncated"] == int(found.truncated.sum()) > 0
    assert summary["recomputed"] == 0
    assert summary["written"] == "out.npz"
    assert summary["peak_bytes"] > 10**7
    assert summary["plan"]["device"] == "cpu"
    assert f"{len(tiny.TEXTS)} texts" in err
    assert "written to out.npz" in err


def test_a_plan_is_saved_and_replayed(
    here: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("in.txt", "-o", "a.npz", "--model", tiny_bert, "--save-plan", "plan.json") == 0
    arguments = ["embed", "in.txt", "-o", "b.npz", "--model", str(tiny_bert), "--plan", "plan.json"]
    assert main(arguments) == 0
    saved = Plan.load("plan.json").to_json()
    assert read_vectors("b.npz")[2]["plan"]["precision"] == saved["precision"]
    assert main([*arguments, "--overwrite", "--precision", "float16"]) == 2
    assert "--precision and --plan were both given" in capsys.readouterr().err


@pytest.mark.usefixtures("unloadable")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.txt", "-o", "out.npz"], "missing.txt: no such file"),
        (["in.txt", "-o", "missing/out.npz"], "mkdir -p"),
        (["in.txt", "-o", "."], "is a folder"),
        (["in.txt", "-o", "out.bin"], "Use one of .parquet, .npz, .jsonl"),
        (["there.jsonl", "-o", "there.jsonl", "--overwrite"], "is the input itself"),
        (["in.txt", "-o", "there.jsonl"], "pass --overwrite"),
        (["in.csv", "-o", "out.npz", "--column", "bdy"], "no column 'bdy'. Did you mean 'body'?"),
        (["in.csv", "-o", "out.npz"], "Its columns: body, other. Choose one with --column"),
        (["-", "-o", "out.npz"], "--format txt"),
        (["in.txt", "-o", "out.npz", "--outputs", "dense,sprase"], "Did you mean 'sparse'?"),
        (["in.txt", "-o", "out.npz", "--outputs", ","], "--outputs is empty"),
        (
            ["in.txt", "-o", "out.npz", "--output-dtype", "bf16"],
            "float32, which holds every bfloat16 exactly",
        ),
        (["in.txt", "-o", "out.npz", "--output-dtype", "flot16"], "Did you mean 'float16'?"),
        (["in.txt", "-o", "out.npz", "--on-truncate", "eror"], "Did you mean 'error'?"),
        (["in.txt", "-o", "-", "--json"], "both print to the standard output"),
        (["in.txt", "-o", "out.npz", "--query", "--prompt", "q"], "--query chooses a prompt"),
        (["in.txt", "-o", "out.npz", "--plan", "p.json", "--device", "cpu"], "--device and --plan"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    here: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text("body,other\na,b\n")
    Path("there.jsonl").write_text('{"text": "one"}\n')
    before = sorted(here.iterdir())
    assert main(["embed", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tercet embed: ")
    assert message in err
    assert sorted(here.iterdir()) == before
    assert Path("there.jsonl").read_text() == '{"text": "one"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "one"}\n{"text": 2}\n', "in.jsonl, line 2: 'text' is an int (2), not a string"),
        ('{"text": "one"}\nnot json\n', "in.jsonl, line 2, column 1: not JSON"),
    ],
)
def test_a_bad_row_in_the_middle_leaves_no_file(
    here: Path, tiny_bert: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.jsonl").write_text(content)
    Path("out.npz").write_bytes(b"older")
    assert run("in.jsonl", "-o", "out.npz", "--model", tiny_bert, "--overwrite") == 2
    assert message in capsys.readouterr().err
    assert Path("out.npz").read_bytes() == b"older"
    assert sorted(path.name for path in here.iterdir()) == ["in.jsonl", "in.txt", "out.npz"]


def test_a_text_that_is_too_long_is_an_error_if_that_was_asked_for(
    here: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--max-length", "8", "--on-truncate", "error")
    assert run("in.txt", "-o", "out.npz", "--model", tiny_bert, *options) == 2
    assert "is longer than 8 tokens" in capsys.readouterr().err
    assert not Path("out.npz").exists()


def test_an_output_that_the_model_lacks_is_an_error(
    here: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("in.txt", "-o", "out.npz", "--model", tiny_bert, "--outputs", "sparse") == 2
    assert "sparse" in capsys.readouterr().err
    assert not Path("out.npz").exists()


def test_gigabytes_are_fetched_only_after_a_yes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load(*_: object, confirm: Any, **__: object) -> None:
        asked.append(confirm(2_270_000_000))
        raise KeyboardInterrupt

    monkeypatch.setattr(embedder, "load", load)
    assert main(["embed", "in.txt", "-o", "out.npz"]) == 2
    assert "BAAI/bge-m3 is not here yet; fetching it takes 2.27 GB. Say --yes" in capsys.readouterr().err
    assert main(["embed", "in.txt", "-o", "out.npz", "--yes"]) == 130
    assert asked == [True]


def test_a_disk_that_fills_up_is_an_error_and_leaves_nothing(here: Path, tiny_bert: Path) -> None:
    code = (
        "import resource, sys; from tercet.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); sys.exit(main(sys.argv[1:]))"
    )
    Path("many.txt").write_text("one text of many\n" * 2000)
    arguments = ["embed", "many.txt", "-o", "out.npz", "--model", str(tiny_bert), "--precision", "float32"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "out.npz: cannot be written (File too large)" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in here.iterdir()) == ["in.txt", "many.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_device_behind_stdout_is_an_error(here: Path, tiny_bert: Path) -> None:
    arguments = ["embed", "in.txt", "-o", "-", "--model", str(tiny_bert), "--precision", "float32"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tercet", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "standard output: cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_leaves_no_file_and_no_traceback(
    here: Path, tiny_bert: Path, number: signal.Signals, code: int
) -> None:
    arguments = ["embed", "-", "--format", "txt", "-o", "out.parquet", "--model", str(tiny_bert)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tercet", *arguments, "--precision", "float32"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell's background job ignores Ctrl-C, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdin is not None
    assert process.stderr is not None
    with process.stdin, process.stderr:
        process.stdin.write(b"a line of text\n" * 3000)
        process.stdin.flush()
        assert b"loaded" in process.stderr.readline()
        # Windows of texts go through as they come; the input stays open, so the run waits in the middle.
        while not list(here.glob(".out.parquet.*")):
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=60) == code
        assert b"Traceback" not in process.stderr.read()
    assert sorted(path.name for path in here.iterdir()) == ["in.txt"]


def test_ten_times_the_input_takes_no_more_memory(here: Path, tiny_m3: Path) -> None:
    def peak(lines: int) -> int:
        Path("many.txt").write_text("one line of the river and the bridge in the city\n" * lines)
        arguments = ["embed", "many.txt", "-o", "-", "--model", str(tiny_m3), "--outputs", ALL]
        code = (
            "import sys; from tercet.cli.main import main; from tercet.cli.progress import peak_memory; "
            "main(sys.argv[1:]); print(peak_memory()[0], file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--precision", "float32"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
        return int(done.stderr.split()[-1])

    assert peak(5000) < peak(500) + 30_000_000


def test_a_written_file_opens_with_pyarrow_alone(here: Path, tiny_m3: Path) -> None:
    assert run("in.txt", "-o", "out.parquet", "--model", tiny_m3, "--outputs", ALL) == 0
    table = pq.read_table("out.parquet")
    assert table.num_rows == len(tiny.TEXTS)
    row = table.slice(2, 1).to_pylist()[0]
    assert len(row["sparse"]["indices"]) == len(row["sparse"]["values"]) > 0
    assert len(row["multivector"]) == row["num_tokens"] - 1
