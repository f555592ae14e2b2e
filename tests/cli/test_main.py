import inspect
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

import tiny_reranker
from tercet import embedder, reranker
from tercet.cli import main as main_module
from tercet.cli.commands import command
from tercet.cli.main import main
from tercet.errors import InputError
from tercet.registry import Registry


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Makes a function the only verb, under the name "do"."""

    def install(function: Callable[[], None]) -> None:
        registry: Registry[Callable[..., None]] = Registry("command", "tercet.cli.commands")
        registry._read = True
        registry.register("do", "other")(function)
        monkeypatch.setattr(main_module, "command", registry)

    return install


def test_the_version_is_printed_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tercet 0.")


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in command.names())
    assert {"doctor", "embed", "plan", "score"} <= set(command.names())


def test_an_unknown_verb_exits_with_2_and_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embd"]) == 2
    assert "Did you mean 'embed'" in capsys.readouterr().err


def test_an_unknown_option_exits_with_2_and_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "in.txt", "-o", "out.npz", "--precison", "float16"]) == 2
    assert "--precision" in capsys.readouterr().err


def test_a_mistake_is_one_message_without_a_traceback(
    verb: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def do() -> None:
        raise InputError("a.txt: no such file. Check the path.")

    verb(do)
    assert main(["do"]) == 2
    assert capsys.readouterr() == ("", "tercet do: a.txt: no such file. Check the path.\n")


def test_our_own_bugs_keep_their_traceback(verb: Callable[[Callable[[], None]], None]) -> None:
    def do() -> None:
        raise ZeroDivisionError

    verb(do)
    with pytest.raises(ZeroDivisionError):
        main(["do"])


def test_an_interrupt_exits_with_130(
    verb: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def do() -> None:
        raise KeyboardInterrupt

    verb(do)
    assert main(["do"]) == 130
    assert capsys.readouterr() == ("", "tercet do: stopped.\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_request_to_end_unwinds_and_exits_with_the_number_of_the_signal(
    verb: Callable[[Callable[[], None]], None], number: signal.Signals, code: int
) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    unwound = []

    def do() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            unwound.append(True)

    verb(do)
    assert main(["do"]) == code
    assert unwound == [True]
    assert signal.signal(number, before) is signal.SIG_DFL


def test_a_verb_may_choose_its_exit_code(verb: Callable[[Callable[[], None]], None]) -> None:
    def do() -> None:
        raise typer.Exit(3)

    verb(do)
    assert main(["do"]) == 3


def test_verbose_lets_the_log_through(
    verb: Callable[[Callable[[], None]], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def do() -> None:
        logging.getLogger("tercet.somewhere").info("12 texts")

    verb(do)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    level = logging.getLogger("tercet").level
    try:
        assert main(["do"]) == 0
        assert main(["--verbose", "do"]) == 0
    finally:
        logging.getLogger("tercet").setLevel(level)
    assert capsys.readouterr().err == "12 texts\n"


def test_a_closed_pipe_is_quiet() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "tercet", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    run.stdout.close()
    assert run.stderr is not None
    with run.stderr:
        assert run.stderr.read() == b""
    assert run.wait() == 1


def test_help_imports_neither_torch_nor_numpy_nor_pyarrow() -> None:
    code = (
        "import sys; from tercet.cli.main import main; main(['embed', '--help']); "
        "sys.exit(bool({'torch', 'numpy', 'pyarrow', 'tokenizers', 'huggingface_hub'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0
    )


def examples() -> list[str]:
    found = []
    for name in command.names():
        _, _, example = (inspect.getdoc(command[name]) or "").partition("\nExample:\n")
        found += [line.strip() for line in example.splitlines()]
        assert example, f"the help of {name} has no example"
    return found


def write_collection(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        '{"_id": "d1", "title": "Paris", "text": "a city"}\n{"_id": "d2", "text": "The cat."}\n'
    )
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "Which city?"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")


@pytest.mark.parametrize("line", examples())
def test_every_example_of_the_help_runs(
    line: str,
    tmp_path: Path,
    tiny_m3: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("docs.jsonl").write_text('{"text": "Paris is the city of the river."}\n{"text": "The cat."}\n')
    Path("docs.csv").write_text("title,body\na,Paris is the city of the river.\nb,The cat.\n")
    Path("queries.txt").write_text("Which city?\n")
    Path("pairs.jsonl").write_text(
        '{"query": "Which city?", "document": "Paris is the city of the river."}\n'
    )
    write_collection(Path("collection"))
    Path("pairs.tsv").write_text(
        "sentence1\tsentence2\tscore\na cat\tthe cat\t5\na cat\tthe sea\t1\na dog\ta cat\t2\n"
    )
    Path("recipe.yaml").write_text(
        f"model: {tiny_m3}\noutput: {{folder: trained}}\ndata: [{{path: learn.jsonl}}]\n"
        "losses: [{name: info_nce, head: dense}]\nbatch: {texts: 2}\nsteps: 1\n"
    )
    Path("learn.jsonl").write_text(
        '{"anchor": "a cat", "positive": "the cat"}\n{"anchor": "a dog", "positive": "the dog"}\n'
    )
    Path("run.trec").write_text("q Q0 d1 1 0.5 made\nq Q0 d2 2 0.25 made\n")
    load = embedder.load
    tiny = lambda name, **options: load(tiny_m3 if name == "BAAI/bge-m3" else name, **options)  # noqa: E731
    monkeypatch.setattr(embedder, "load", tiny)
    Path("candidates.jsonl").write_text('{"query": "Which city?", "documents": ["Paris", "The cat."]}\n')
    Path("merged").symlink_to(tiny_m3)
    Path("merge.yml").write_text("merge_method: passthrough\nmodels: [{model: merged}]\n")
    made = tiny_reranker.write_reranker(tmp_path / "reranker")
    load_reranker = reranker.load_reranker
    monkeypatch.setattr(reranker, "load_reranker", lambda name, **options: load_reranker(made, **options))
    program, *arguments = shlex.split(line)
    assert program == "tercet"
    assert main(arguments) == 0
    out = capsys.readouterr().out
    if "--json" in arguments:
        for text in [out] if out.startswith("{\n") else out.splitlines():
            json.loads(text)
    for place, argument in enumerate(arguments):
        if argument == "-o":
            assert Path(arguments[place + 1]).stat().st_size > 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_behind_the_standard_output_is_told_without_a_traceback():
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tercet", "--version"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"tercet: the standard output cannot be written (No space left on device).\n"


def test_errors_name_the_command_as_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill-scores", "pairs.jsonl", "-o", "scored.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("tercet distill-scores: Name one teacher")
