import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tercet.storage.vectors import read_vectors

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def stdlib_docs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("stdlib_docs")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("demo")


def test_the_documentation_of_the_standard_library_is_collected_in_order_and_once(
    stdlib_docs: ModuleType,
) -> None:
    docs = stdlib_docs.collect()
    names = [doc.id for doc in docs]
    assert 2000 < len(docs) < 10_000
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert {"random.choice", "csv.reader", "asyncio.gather", "asyncio.wait"} <= set(names)
    assert not {name.partition(".")[0] for name in names} & stdlib_docs.LEFT_OUT
    assert " at 0x" not in "".join(doc.text for doc in docs)
    assert next(doc.text for doc in docs if doc.id == "random.choice").startswith(
        "random.choice(seq)\n\nChoose"
    )


def test_what_imports_print_is_kept_apart_from_the_documentation() -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import stdlib_docs; "
        "stdlib_docs.modules = lambda: (os.system('echo noise'), print('noise', flush=True), [sys])[2]; "
        "stdlib_docs.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLES)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()
    assert all(line.startswith('{"id": "sys.') for line in done.stdout.splitlines())


def test_the_demo_embeds_asks_and_answers(
    demo: ModuleType,
    tiny_m3: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    docs = [
        demo.Doc("random.choice", "random.choice(seq)\n\nChoose a random [element]."),
        demo.Doc("csv.reader", "csv.reader\n\nRead a csv file."),
        demo.Doc("asyncio.gather", "asyncio.gather(*coroutines)\n\nWait for several coroutines."),
    ]
    monkeypatch.setattr(demo, "collect", lambda: docs)
    output = tmp_path / "build" / "docs.parquet"
    assert demo.main(["--model", str(tiny_m3), "--precision", "float32", "-o", str(output)]) == 0
    out = capsys.readouterr().out
    for question in demo.QUESTIONS:
        assert f"{question}?" in out
    assert "Choose a random [element]." in out
    assert "Plan for" in out
    assert "texts/s" in out
    assert "Peak memory" in out
    found, ids, _ = read_vectors(str(output))
    assert found.outputs == ("dense", "sparse", "multivector")
    assert ids == [doc.id for doc in docs]


def test_a_model_that_is_not_there_is_one_message(
    demo: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "collect", lambda: [])
    assert demo.main(["--model", "/no/such/folder"]) == 2
    assert capsys.readouterr().err.startswith("demo: ")
