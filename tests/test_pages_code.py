"""The Python of README.md and docs/migration.md runs as it stands there, hub models replaced by tiny ones."""

import inspect
import re
from pathlib import Path

import pytest

import tercet
import tiny
import tiny_reranker

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page):
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Hub id -> a tiny folder of the same kind."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "BAAI/bge-m3": tiny.write_checkpoint(folder / "m3", "xlm-roberta", layout="bge-m3"),
        "BAAI/bge-reranker-v2-m3": tiny_reranker.write_reranker(folder / "reranker"),
    }


def run(code, models, **names):
    """What the names of a block stand for once it ran."""
    for hub_id, folder in models.items():
        code = code.replace(f'"{hub_id}"', repr(str(folder)))
    assert "BAAI/" not in code
    names = {"tercet": tercet, **names}
    exec(compile(code, "page", "exec"), names)
    return names


def test_the_three_outputs_of_the_readme_are_there_in_the_shapes_that_it_says(models, capsys):
    [code] = [code for code in blocks("README.md") if "BAAI/bge-m3" in code]
    found = run(code, models, texts=["A cat sat on the mat.", "The river."])["found"]
    assert found.outputs == ("dense", "sparse", "multivector")
    assert found.dense.shape == (2, 32)
    assert "Why" in capsys.readouterr().out


def test_the_reranker_of_the_readme_scores_and_ranks(models):
    [code] = [code for code in blocks("README.md") if "load_reranker" in code]
    documents = ["Paris is a city.", "The cat.", "A river.", "A bridge."]
    reranker = run(code, models, documents=documents)["reranker"]
    ranked = reranker.rank("which city", documents, top_k=3)
    assert [documents[one.index] for one in ranked] == [one.document for one in ranked]
    assert len(ranked) == 3


def test_every_block_of_the_readme_is_run_by_a_test():
    assert len(blocks("README.md")) == 3  # the first by tests/test_readme.py


@pytest.mark.parametrize("code", blocks("docs/migration.md"))
def test_the_changed_import_lines_of_the_migration_page_give_classes(code, models):
    names = run(code, models)
    imported = {name for name in re.findall(r"\w+", code.split(" import ")[1].split("#")[0])}
    assert imported
    assert all(inspect.isclass(names[name]) for name in imported)


def test_what_the_migration_page_says_in_tercets_own_words_runs(models, minilm):
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    lines = re.findall(r"`(tercet\.load(?:_reranker)?\([^`]*)`", page)
    assert len(lines) >= 4
    for line in lines:
        line = line.replace('"all-MiniLM-L6-v2\'s folder or id"', repr(str(minilm)))
        run(line, models, texts=["A cat.", "A river."], model=model_of(line, models))


def model_of(line, models):
    """What `model` means in a line of the page."""
    if "load_reranker" in line:
        return models["BAAI/bge-reranker-v2-m3"]
    return models["BAAI/bge-m3"]
