import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from tercet.errors import InputError
from tercet.training.data import Order, Source, make_batch, open_source
from tercet.training.data.batch import Prompts
from tercet.training.data.order import Chosen
from tercet.training.recipe import BatchRecipe, DataRecipe

LINE: dict[str, Any] = {"query": "which city", "pos": ["Paris"], "neg": ["a cat", "a dog"]}


def write(folder: Path, lines: list[Any], name: str = "data.jsonl") -> str:
    path = folder / name
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return str(path)


def numbered(count: int, negatives: int = 3, length: int = 1) -> list[dict[str, Any]]:
    return [
        {
            "query": f"query {row} " + "word " * ((row * 7) % length),
            "pos": [f"positive {row}", f"other {row}"],
            "neg": [f"negative {row} {number}" for number in range(negatives)],
        }
        for row in range(count)
    ]


def opened(folder: Path, lines: list[Any], **options: Any) -> Source:
    return open_source(DataRecipe(path=write(folder, lines), **options))


def everything(order: Order, epoch: int, start: int = 0) -> list[tuple[Any, ...]]:
    return [
        (chosen.sources.tolist(), chosen.rows.tolist(), chosen.seeds) for chosen in order.epoch(epoch, start)
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "column 2: not JSON"),
        ("[1]", "a list, where each line must be an object"),
        ({"text": "a"}, "the keys are text"),
        ({**LINE, "query": 3}, "'query' is an int ('3'); it must be a string"),
        ({**LINE, "query": " "}, "'query' is an empty text"),
        ({**LINE, "pos": []}, "'pos' is empty or missing"),
        ({"query": "a", "neg": ["b"]}, "'pos' is empty or missing"),
        ({**LINE, "pos": "Paris"}, "'pos' is a str ('Paris'); it must be a list"),
        ({**LINE, "neg": ["a", None]}, "neg[1] is null; it must be a string"),
        ({**LINE, "pos_scores": [1, 2]}, "'pos_scores' has 2 numbers, 'pos' has 1 texts"),
        ({**LINE, "neg_scores": [1, "x"]}, "'neg_scores' has a str ('x'); it must be a finite number"),
        ('{"query": "a", "pos": ["b"], "neg": ["c"], "neg_scores": [NaN]}', "must be a finite number"),
        ({**LINE, "type": "sts"}, "'type' is a str ('sts'); known: normal"),
        ({**LINE, "type": "only_1neg"}, "'type' is 'only_1neg', before it was None"),
        ({**LINE, "prompt": 1}, "'prompt' is an int"),
        ({**LINE, "neg": []}, "there is no negative, and group_size is 8"),
        ('{"query": "\\ud800", "pos": ["b"], "neg": ["c"]}', "half of a surrogate pair"),
        ({"sentence1": "a", "sentence2": "b", "score": 1.0}, "there is no label, and"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_learnt(tmp_path: Path, line: Any, said: str) -> None:
    path = write(tmp_path, [LINE, "", LINE, line, LINE])
    with pytest.raises(InputError) as caught:
        open_source(DataRecipe(path=path))
    assert said in str(caught.value)
    # Of two lines that do not fit together the one that was expected to be like the other is named first.
    assert f"{path}, line 4" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"anchor": "a"}, "the keys are anchor"),
        ({"anchor": "a", "positive": "b", "query": "c"}, "both 'anchor' and 'query'"),
        ({"anchor": "a", "positive": "b", "label": 1, "score": 2}, "both 'label' and 'score'"),
        (
            {"anchor": "a", "positive": "b", "negative": "c", "score": 2},
            "one number of a positive and 1 negatives",
        ),
        (
            {"anchor": "a", "positive": "b", "scores": [1, 2]},
            "'scores' has 2 numbers, and there are 1 passages",
        ),
        ({"sentence1": "a", "sentence2": "b", "score": "high"}, "must be a finite number"),
        ({"sentence1": "a", "sentence2": "b", "score": True}, "must be a finite number"),
    ],
)
def test_columns_that_cannot_be_are_named(tmp_path: Path, line: dict[str, Any], said: str) -> None:
    path = write(tmp_path, [line])
    with pytest.raises(InputError, match=r"data\.jsonl, line 1: ") as caught:
        open_source(DataRecipe(path=path))
    assert said in str(caught.value)


def test_a_file_that_has_no_examples_or_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no example in it"):
        opened(tmp_path, [""])
    with pytest.raises(InputError, match="no such file"):
        open_source(DataRecipe(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(InputError, match="suffix does not say"):
        open_source(DataRecipe(path=write(tmp_path, [LINE], "data.xyz")))
    for name in ("data.txt", "data", "data.gz"):  # as a recipe is asked: there is no option --format
        with pytest.raises(InputError, match=r"Files of examples are \.jsonl, .*rename it"):
            open_source(DataRecipe(path=write(tmp_path, [LINE], name)))
    with pytest.raises(InputError, match="name a file, not '-'"):
        open_source(DataRecipe(path="-"))


def test_lines_are_found_again_whatever_stands_between_them(tmp_path: Path) -> None:
    lines = [{**LINE, "query": text} for text in ("naïve café", "東京 🚀", "plain")]
    text = "\ufeff" + "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    path = tmp_path / "data.jsonl"
    path.write_text(text, encoding="utf-8", newline="\r\n")
    source = open_source(DataRecipe(path=str(path)))
    assert [source[row].query for row in (2, 0, 1)] == ["plain", "naïve café", "東京 🚀"]


def test_one_table_reads_the_same_from_every_format(tmp_path: Path) -> None:
    rows = [
        {"anchor": f"a,{n}\n", "positive": f"p{n}", "negative_1": f"n{n}", "negative_2": f"m{n}"}
        for n in range(5)
    ]
    plain = write(tmp_path, rows)
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    header = "anchor,positive,negative_1,negative_2\n"
    body = "".join(f'"a,{n}\n",p{n},n{n},m{n}\n' for n in range(5))
    (tmp_path / "data.csv").write_text(header + body)
    parquet.write_table(
        pa.Table.from_pylist([{**row, "stamp": b"x"} for row in rows]), tmp_path / "data.parquet"
    )
    names = ("data.jsonl", "data.jsonl.gz", "data.csv", "data.parquet")
    sources = [open_source(DataRecipe(path=str(tmp_path / name), group_size=3)) for name in names]
    for source in sources:
        assert [source[row] for row in range(5)] == [sources[0][row] for row in range(5)]
        assert source.sizes.tolist() == sources[0].sizes.tolist()
    assert sources[0][3].negatives == ("n3", "m3")
    assert sources[3].notes == (f"{tmp_path / 'data.parquet'}: keys that nothing is learnt from: stamp.",)


def test_a_bad_row_of_a_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("sentence1,sentence2,score\na,b,0.5\na,b,often\n")
    with pytest.raises(InputError, match=r"data\.csv, line 3: 'score' has"):
        open_source(DataRecipe(path=str(tmp_path / "data.csv")))
    parquet.write_table(pa.table({"anchor": ["a", "b"], "positive": ["c", None]}), tmp_path / "data.parquet")
    with pytest.raises(InputError, match=r"data\.parquet, row 1 .*: 'positive' is null"):
        open_source(DataRecipe(path=str(tmp_path / "data.parquet")))


def test_pairs_with_a_label_and_lists_with_scores_are_understood(tmp_path: Path) -> None:
    source = opened(tmp_path, [{"sentence1": "a", "sentence2": "b", "score": 0.5}])
    assert (source.labelled, source.group_size, source[0].label) == (True, 1, 0.5)
    source = opened(tmp_path, [{"query": "a", "answer": "b", "negatives": ["c", "d"], "label": [3, 2, 1.5]}])
    assert (source.labelled, source.scored) == (False, True)
    assert (source[0].positive_scores, source[0].negative_scores) == ((3.0,), (2.0, 1.5))


def test_losses_that_need_what_a_line_has_not_are_told_which_line(tmp_path: Path) -> None:
    scored = {**LINE, "pos_scores": [1], "neg_scores": [0.5, 0.25]}
    source = opened(tmp_path, [scored, LINE, scored])
    with pytest.raises(
        InputError, match=r"data\.jsonl, line 2: there are no pos_scores.*kl_div.*distill-scores"
    ):
        source.require_scores("kl_div")
    opened(tmp_path, [scored]).require_scores("kl_div")
    with pytest.raises(InputError, match="no label or score, and cosent learns from it"):
        source.require_labels("cosent")


def test_a_negative_that_equals_a_positive_is_dropped_with_its_score_and_counted(tmp_path: Path) -> None:
    line = {**LINE, "neg": ["a cat", "Paris", "a dog"], "pos_scores": [9], "neg_scores": [1, 2, 3]}
    source = opened(tmp_path, [line])
    assert source[0].negatives == ("a cat", "a dog")
    assert source[0].negative_scores == (1.0, 3.0)
    assert any("1 negatives equal a positive" in note for note in source.notes)


@pytest.mark.parametrize(
    ("kind", "group", "expected"),
    [("only_1neg", None, 2), ("symmetric_class", 8, 3), ("symmetric_class", 2, 2), ("normal", 4, 4)],
)
def test_a_type_decides_how_many_passages_a_query_has(
    tmp_path: Path, kind: str, group: int | None, expected: int
) -> None:
    lines = [{**LINE, "type": kind}, {**LINE, "neg": ["a", "b", "c"], "type": kind}]
    assert opened(tmp_path, lines, group_size=group).group_size == expected


def test_a_file_that_changes_after_the_check_is_refused(tmp_path: Path) -> None:
    source = opened(tmp_path, numbered(4), group_size=2)
    [chosen] = Order([source], BatchRecipe(texts=4)).epoch(0)
    write(tmp_path, numbered(5))
    with pytest.raises(InputError, match="the file changed after it was checked"):
        make_batch([source], chosen)


@pytest.mark.parametrize("same_source", [True, False])
@pytest.mark.parametrize("by_length", [True, False])
def test_an_epoch_holds_every_example_once_and_a_run_goes_on_where_it_stopped(
    tmp_path: Path, same_source: bool, by_length: bool
) -> None:
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    sources = [
        opened(folder, numbered(count, length=40), group_size=2)
        for folder, count in zip(folders, (37, 50), strict=True)
    ]
    order = Order(sources, BatchRecipe(texts=8, same_source=same_source, by_length=by_length), seed=3)
    whole = everything(order, 0)
    seen = sorted(pair for one in whole for pair in zip(one[0], one[1], strict=True))
    assert seen == [(0, row) for row in range(37)] + [(1, row) for row in range(50)]
    assert any(len(set(one[0])) > 1 for one in whole) is not same_source
    again = Order(sources, order.batch, seed=3)
    assert everything(again, 0, start=4) == whole[4:]
    assert everything(again, 1) != whole
    assert everything(Order(sources, order.batch, seed=4), 0) != whole


def test_batches_of_all_processes_together_are_those_of_one(tmp_path: Path) -> None:
    source = opened(tmp_path, numbered(64), group_size=2)
    batch = BatchRecipe(texts=8)
    alone = everything(Order([source], batch), 2)
    shares = [everything(Order([source], batch, rank=rank, processes=2), 2) for rank in (0, 1)]
    assert [one for pair in zip(*shares, strict=True) for one in pair] == alone
    with pytest.raises(InputError, match="8 batches for 9 processes"):
        next(Order([source], batch, processes=9).epoch(0))


@given(st.integers(0, 5), st.integers(40, 400), st.integers(1, 20) | st.none())
def test_token_budgets_hold_and_only_one_that_is_too_long_goes_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, tokens: int, texts: int | None
) -> None:
    source = opened(tmp_path_factory.mktemp("d"), numbered(60, length=30), group_size=3)
    sizes = source.group_sizes()
    for chosen in Order([source], BatchRecipe(tokens=tokens, texts=texts), seed=seed).epoch(0):
        assert len(chosen) == 1 or sizes[chosen.rows].sum() <= tokens
        assert len(chosen) <= (texts or 60)


def test_examples_of_about_one_length_stand_together(tmp_path: Path) -> None:
    source = opened(tmp_path, numbered(200, length=100), group_size=2)
    sizes = source.group_sizes()

    def spread(by_length: bool) -> float:
        order = Order([source], BatchRecipe(texts=10, by_length=by_length))
        return float(np.mean([np.ptp(sizes[chosen.rows]) for chosen in order.epoch(0)]))

    assert spread(True) < spread(False) / 4


def test_a_weight_says_how_often_examples_come(tmp_path: Path) -> None:
    source = opened(tmp_path, numbered(40), group_size=2, weight=2.5)
    rows = np.concatenate([chosen.rows for chosen in Order([source], BatchRecipe(texts=7)).epoch(0)])
    assert sorted(np.bincount(rows)) == [2] * 20 + [3] * 20


def test_symmetric_kinds_have_half_the_texts_and_the_query_prompt_on_both_sides(tmp_path: Path) -> None:
    lines = [{**line, "type": "symmetric_sts"} for line in numbered(16)]
    source = opened(tmp_path, lines, group_size=2, query_prompt="alike: ", document_prompt="never: ")
    chosen = list(Order([source], BatchRecipe(texts=8)).epoch(0))
    assert [len(one) for one in chosen] == [4] * 4
    batch = make_batch([source], chosen[0], Prompts("model: ", "model: "))
    assert set(batch.query_prompts) == set(batch.document_prompts) == {"alike: "}


def test_a_lines_own_prompt_outranks_the_recipes_and_that_the_models(tmp_path: Path) -> None:
    lines = [{**LINE, "prompt": "line: "}, LINE]
    prompts = Prompts("model: ", "doc: ")
    for options, query in (
        ({}, "model: "),
        ({"query_prompt": "recipe: "}, "recipe: "),
        ({"query_prompt": ""}, ""),
    ):
        source = opened(tmp_path, lines, group_size=2, **options)
        [chosen] = Order([source], BatchRecipe(texts=2)).epoch(0)
        assert sorted(make_batch([source], chosen, prompts).query_prompts) == sorted(["line: ", query])
        assert set(make_batch([source], chosen, prompts).document_prompts) == {"doc: "}
    assert "None" not in "".join(make_batch([source], chosen).query_prompts)


def whole_batch(source: Source) -> Chosen:
    count = len(source)
    return Chosen(np.zeros(count, dtype=np.int64), np.arange(count), (0, 0, 0))


def test_a_batch_has_the_positive_first_and_draws_the_same_every_time(tmp_path: Path) -> None:
    source = opened(tmp_path, numbered(6, negatives=5), group_size=4)
    batch = make_batch([source], whole_batch(source))
    assert batch.targets.tolist() == [0, 4, 8, 12, 16, 20]
    for query in range(6):
        group = batch.documents[4 * query : 4 * query + 4]
        assert group[0] in (f"positive {query}", f"other {query}")
        assert len(set(group)) == 4
        assert all(text.startswith(f"negative {query} ") for text in group[1:])
    assert make_batch([source], whole_batch(source)).documents == batch.documents
    drawn = {
        make_batch([source], Chosen(np.zeros(6, dtype=np.int64), np.arange(6), (0, epoch, 0))).documents
        for epoch in range(4)
    }
    assert len(drawn) == 4


def test_where_negatives_are_few_all_come_and_some_again(tmp_path: Path) -> None:
    source = opened(tmp_path, numbered(2, negatives=2), group_size=6)
    assert any("come more than once" in note for note in source.notes)
    batch = make_batch([source], whole_batch(source))
    for query in range(2):
        own = slice(6 * query, 6 * query + 6)
        assert set(batch.documents[own][1:]) == {f"negative {query} 0", f"negative {query} 1"}
        assert bool(batch.allowed[query, own].all())


def test_no_positive_of_a_query_is_its_negative_and_no_text_counts_twice(tmp_path: Path) -> None:
    lines = [
        {"query": "one", "pos": ["A", "B"], "neg": ["x"]},
        {"query": "two", "pos": ["B"], "neg": ["A"]},
        {"query": "three", "pos": ["C"], "neg": ["x"]},
    ]
    source = opened(tmp_path, lines, group_size=2)
    batch = make_batch([source], whole_batch(source))
    texts = batch.documents
    assert texts[2:] == ("B", "A", "C", "x")
    allowed = [{texts[column] for column in range(6) if batch.allowed[row, column]} for row in range(3)]
    assert allowed[0] - {"A", "B"} == {"x", "C"}
    assert len(allowed[0] & {"A", "B"}) == 1  # its own, drawn of the two
    assert allowed[1] == {"A", "B", "C", "x"}
    assert allowed[2] == {"A", "B", "C", "x"}
    for row in range(3):
        columns = [column for column in range(6) if batch.allowed[row, column]]
        assert len({texts[column] for column in columns}) == len(columns)
        assert 2 * row in columns


def test_without_in_batch_negatives_a_query_sees_its_own_passages_alone(tmp_path: Path) -> None:
    source = opened(tmp_path, numbered(3), group_size=2, in_batch_negatives=False)
    batch = make_batch([source], whole_batch(source))
    assert batch.allowed.nonzero().tolist() == [[0, 0], [0, 1], [1, 2], [1, 3], [2, 4], [2, 5]]


def test_a_teachers_scores_follow_the_passages_that_were_drawn(tmp_path: Path) -> None:
    lines = [
        {**line, "pos_scores": [10 + row, 20 + row], "neg_scores": [row, row + 0.25, row + 0.5]}
        for row, line in enumerate(numbered(4))
    ]
    source = opened(tmp_path, lines, group_size=3)
    batch = make_batch([source], whole_batch(source))
    assert batch.teacher is not None
    for row, line in enumerate(lines):
        known = dict(zip(line["pos"] + line["neg"], line["pos_scores"] + line["neg_scores"], strict=True))
        own = batch.documents[3 * row : 3 * row + 3]
        assert batch.teacher[row].tolist() == [known[text] for text in own]


def test_a_single_query_with_a_single_passage_makes_no_batch(tmp_path: Path) -> None:
    lines = [{"anchor": f"a{n}", "positive": f"p{n}"} for n in range(9)]
    source = opened(tmp_path, lines)
    assert source.group_size == 1
    order = Order([source], BatchRecipe(texts=4))
    assert [len(chosen) for chosen in order.epoch(0)] == [4, 4]
    assert order.alone(0) == 1
    assert Order([source], BatchRecipe(texts=3)).alone(0) == 0


def test_where_every_query_would_be_alone_the_message_says_so(tmp_path: Path) -> None:
    source = opened(tmp_path, [{"anchor": f"a{n}", "positive": f"p{n}"} for n in range(3)])
    with pytest.raises(InputError, match=r"each of the 3 queries would be alone .* raise batch\.texts"):
        next(Order([source], BatchRecipe(tokens=1)).epoch(0))


def test_nothing_to_be_told_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is nothing to tell it from"):
        opened(tmp_path, [{"anchor": "a", "positive": "b"}], in_batch_negatives=False)
