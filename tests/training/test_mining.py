import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tercet
import tiny_reranker
from tercet.cli.main import main
from tercet.embedder import Embedder
from tercet.errors import InputError
from tercet.training.data import Source, open_source
from tercet.training.mining import Mining, mine
from tercet.training.pool import Pool
from tercet.training.prompting import prompted
from tercet.training.recipe import DataRecipe
from tercet.training.teaching import distill_scores, embedder_teacher

SUBJECTS = ("cat", "dog", "bird", "fish", "sun", "moon", "star", "water", "fire", "river")
PLACES = ("paris", "london", "berlin", "bridge")
POOL = [f"the {subject} in {place}" for subject in SUBJECTS for place in PLACES]
LINES = [
    {"query": f"which {subject}", "pos": [f"the {subject} in paris", f"the {subject} in london"]}
    for subject in SUBJECTS[:6]
]


@pytest.fixture(scope="module")
def model(tiny_m3: Path) -> Embedder:
    return tercet.load(tiny_m3, precision="float32")


def write(folder: Path, lines: list[dict[str, Any]], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def source_of(folder: Path, lines: list[dict[str, Any]]) -> Source:
    return open_source(DataRecipe(path=str(write(folder, lines)), group_size=1))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("by", ["dense", "sparse", "multivector", "hybrid"])
def test_negatives_are_those_that_the_scores_rank_there(tmp_path: Path, model: Embedder, by: str) -> None:
    how = Mining(by=by, first=2, last=7, number=5, sampling="top")  # type: ignore[arg-type]
    found = mine(model, source_of(tmp_path, LINES), tmp_path / "out.jsonl", how, pool=POOL)
    assert (found.queries, found.negatives, found.short, found.pool) == (6, 30, 0, len(POOL))
    scores = model.score([line["query"] for line in LINES], POOL)
    matrix = getattr(scores, "combined" if by == "hybrid" else by)
    for row, (line, mined) in enumerate(zip(LINES, read(tmp_path / "out.jsonl"), strict=True)):
        assert {"query": mined["query"], "pos": mined["pos"]} == line
        values = dict(zip(POOL, matrix[row].tolist(), strict=True))
        ranked = sorted((value for text, value in values.items() if text not in line["pos"]), reverse=True)
        np.testing.assert_allclose([values[text] for text in mined["neg"]], ranked[2:7], atol=1e-6)
        assert not set(mined["neg"]) & set(line["pos"])


def test_the_same_seed_draws_the_same_bytes_and_another_one_does_not(tmp_path: Path, model: Embedder) -> None:
    source = source_of(tmp_path, LINES)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        mine(
            model,
            source,
            tmp_path / f"{name}.jsonl",
            Mining(first=0, last=30, number=4, seed=seed),
            pool=POOL,
        )
    a, b, c = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_rank_fusion_ranks_too_and_knows_no_margins(tmp_path: Path, model: Embedder) -> None:
    found = mine(
        model,
        source_of(tmp_path, LINES),
        tmp_path / "out.jsonl",
        Mining(by="rrf", first=0, last=4),
        pool=POOL,
    )
    assert found.negatives == 24
    with pytest.raises(InputError, match="'rrf' has ranks alone"):
        Mining(by="rrf", margin=0.1)


@pytest.mark.parametrize(
    ("options", "bar"),
    [
        ({"margin": 0.05}, lambda lowest: lowest - 0.05),
        ({"relative_margin": 0.1}, lambda lowest: lowest - 0.1 * abs(lowest)),
        ({"max_score": 0.5}, lambda lowest: 0.5),
    ],
)
def test_what_scores_too_close_to_the_worst_positive_is_no_negative(
    tmp_path: Path, model: Embedder, options: dict[str, float], bar: Any
) -> None:
    how = Mining(first=0, last=38, number=38, **options)  # type: ignore[arg-type]
    found = mine(model, source_of(tmp_path, LINES), tmp_path / "out.jsonl", how, pool=POOL)
    mined = {line["query"]: set(line["neg"]) for line in read(tmp_path / "out.jsonl")}
    scores = model.score([line["query"] for line in LINES], POOL, outputs="dense").dense
    assert scores is not None
    kept = 0
    for row, line in enumerate(LINES):
        values = dict(zip(POOL, scores[row].tolist(), strict=True))
        limit = bar(min(values[text] for text in line["pos"]))
        wanted = {text for text, value in values.items() if value <= limit and text not in line["pos"]}
        kept += len(wanted)
        assert mined.get(str(line["query"]), set()) == wanted
    assert 0 < found.filtered == 6 * 38 - kept
    assert found.left_out == 6 - len(mined)


def test_the_passages_of_the_data_are_the_pool_where_no_other_is_given(
    tmp_path: Path, model: Embedder
) -> None:
    lines = [{**line, "neg": ["a boat"]} for line in LINES]
    found = mine(
        model, source_of(tmp_path, lines), tmp_path / "out.jsonl", Mining(first=0, last=50, number=50)
    )
    assert found.pool == 13
    assert all(len(line["neg"]) == 11 for line in read(tmp_path / "out.jsonl"))
    assert found.short == 6


def test_the_query_itself_is_not_its_negative(tmp_path: Path, model: Embedder) -> None:
    lines = [{"anchor": "the cat", "positive": "a cat"}]
    mine(
        model,
        source_of(tmp_path, lines),
        tmp_path / "out.jsonl",
        Mining(first=0, last=9),
        pool=["the cat", "a cat", "a dog"],
    )
    assert read(tmp_path / "out.jsonl") == [{"query": "the cat", "pos": ["a cat"], "neg": ["a dog"]}]


def test_what_cannot_be_mined_is_refused(tmp_path: Path, model: Embedder, tiny_bert: Path) -> None:
    source = source_of(tmp_path, LINES)
    dense = tercet.load(tiny_bert, precision="float32")
    for by in ("sparse", "hybrid"):
        with pytest.raises(InputError, match=f"makes dense; it cannot rank by '{by}'"):
            mine(dense, source, tmp_path / "out.jsonl", Mining(by=by), pool=POOL)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="pool has no texts"):
        mine(model, source, tmp_path / "out.jsonl", pool=[])
    with pytest.raises(InputError, match="ranks 5 to 5 are none"):
        Mining(first=5, last=5)
    assert not (tmp_path / "out.jsonl").exists()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_a_pool_holds_each_text_once_and_finds_it(texts: list[str]) -> None:
    pool = Pool(texts)
    distinct = list(dict.fromkeys(texts))
    assert list(pool) == distinct
    assert [pool.number(text) for text in distinct] == list(range(len(distinct)))
    assert pool.number("not \0 among them") is None


def test_a_lines_prompt_outranks_the_one_that_was_asked_for(tmp_path: Path, model: Embedder) -> None:
    source = source_of(tmp_path, [{**LINES[0], "prompt": "own: "}, LINES[1]])
    text = prompted(model.checkpoint, "asked: ")
    assert [text(source[row]) for row in range(2)] == ["own: which cat", "asked: which dog"]
    assert prompted(model.checkpoint, None)(source[1]) == "which dog"


def test_an_embedders_scores_are_written_beside_every_passage(tmp_path: Path, model: Embedder) -> None:
    lines = [{**line, "neg": ["a boat", "the sea"], "type": "normal"} for line in LINES]
    done = distill_scores(embedder_teacher(model), source_of(tmp_path, lines), tmp_path / "out.jsonl")
    assert (done.queries, done.pairs) == (6, 24)
    written = read(tmp_path / "out.jsonl")
    for line, scored in zip(lines, written, strict=True):
        texts = [*line["pos"], *line["neg"]]
        expected = model.score([line["query"]] * 4, texts, pairwise=True).combined
        assert {key: scored[key] for key in line} == line
        found = torch.tensor(scored["pos_scores"] + scored["neg_scores"])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    again = open_source(DataRecipe(path=str(tmp_path / "out.jsonl"), group_size=3))
    assert again.scored


def test_the_commands_do_the_same_from_a_terminal(
    tmp_path: Path, tiny_m3: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, LINES)
    Path("pool.txt").write_text("".join(text + "\n" for text in POOL))
    model = ["--model", str(tiny_m3), "--precision", "float32"]
    mined = [
        "mine",
        "data.jsonl",
        "-o",
        "mined.jsonl",
        "--pool",
        "pool.txt",
        "--ranks",
        "0-9",
        "--number",
        "3",
        *model,
    ]
    assert main([*mined, "--by", "hybrid", "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["negatives"] == 18
    assert "6 queries with 18 negatives, of 40 texts" in out.err
    assert main(mined) == 2
    assert "is there already. Say --overwrite" in capsys.readouterr().err
    reranker = tiny_reranker.write_reranker(tmp_path / "reranker", "bert")
    scored = ["distill-scores", "mined.jsonl", "-o", "scored.jsonl", "--precision", "float32"]
    assert main([*scored, "--reranker", str(reranker)]) == 0
    capsys.readouterr()
    line = read(Path("scored.jsonl"))[0]
    pairs = [(line["query"], text) for text in (*line["pos"], *line["neg"])]
    expected = tercet.load_reranker(reranker, precision="float32").score(pairs, activation="Identity")
    np.testing.assert_allclose(line["pos_scores"] + line["neg_scores"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "data.jsonl", "-o", "out.jsonl", "--ranks", "10"], "--ranks is '10'"),
        (["mine", "data.jsonl", "-o", "out.jsonl", "--ranks", "9-3"], "ranks 9 to 3 are none"),
        (["mine", "data.jsonl", "-o", "out.jsonl", "--by", "dens"], "by is 'dens'; it must be one of dense"),
        (["mine", "data.jsonl", "-o", "out.csv"], "ends in .jsonl"),
        (["mine", "data.jsonl", "-o", "data.jsonl", "--overwrite"], "is an input itself"),
        (["mine", "none.jsonl", "-o", "out.jsonl"], "no such file"),
        (["distill-scores", "data.jsonl", "-o", "out.jsonl"], "Name one teacher"),
        (["distill-scores", "data.jsonl", "-o", "out.jsonl", "--reranker", "x", "--by", "dense"], "--by and"),
        (
            ["distill-scores", "data.jsonl", "-o", "out.jsonl", "--embedder", "x", "--by", "den"],
            "Did you mean 'dense'",
        ),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_the_mend(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, LINES)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
