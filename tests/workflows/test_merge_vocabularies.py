"""Tables of tokens put in the order of one tokenizer, for the tokenizers of BERT, RoBERTa and XLM-R."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import tercet
import tiny
from tercet.checkpoint.source import Source
from tercet.errors import CheckpointError, InputError
from tercet.merging.folder import open_folder
from tercet.merging.planning import plan_merge
from tercet.merging.recipe import parse_recipes
from tercet.workflows.merge import merge
from tercet.workflows.merge_check import check_merge

TABLE = "embeddings.word_embeddings.weight"
KINDS = ("bert", "roberta", "xlm-roberta")


def vocabulary(folder: Path) -> dict[str, int]:
    return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()


def shortened(folder: Path, gone: set[str], *, added: str | None = None) -> Path:
    """The model without some tokens, those behind them moved up; with one added token of its own."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    tensors = load_file(folder / "model.safetensors")
    if isinstance(words, list):
        keep = [place for place, (token, _) in enumerate(words) if token not in gone]
        content["model"]["vocab"] = [words[place] for place in keep]
        numbers = {entry[0]: place for place, entry in enumerate(content["model"]["vocab"])}
    else:
        order = sorted(words, key=words.__getitem__)
        keep = [words[token] for token in order if token not in gone]
        numbers = {token: place for place, token in enumerate(token for token in order if token not in gone)}
        content["model"]["vocab"] = numbers
    if "merges" in content["model"]:
        pairs = [e.split(" ") if isinstance(e, str) else e for e in content["model"]["merges"]]
        content["model"]["merges"] = [p for p in pairs if not {p[0], p[1], p[0] + p[1]} & gone]
    for entry in content["added_tokens"]:
        entry["id"] = numbers[entry["content"]]
    table = tensors[TABLE][keep]
    if added is not None:
        like = {**content["added_tokens"][-1], "content": added, "id": len(keep), "special": False}
        content["added_tokens"].append(like)
        table = torch.cat([table, torch.full((1, table.shape[1]), 0.25)])
    tensors[TABLE] = table
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path.write_text(json.dumps(content))
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = len(table)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def recipe(tmp_path: Path, *folders: Path, more: str) -> Path:
    models = "".join(f"  - {{model: {one}, parameters: {{weight: 0.5}}}}\n" for one in folders)
    path = tmp_path / "merge.yml"
    path.write_text(f"merge_method: linear\nmodels:\n{models}{more}\n")
    return path


def pair(tmp_path: Path, kind: str) -> tuple[Path, Path, str, str]:
    """Two models, the first without a word, the second without another and with an added token."""
    a, b = (tiny.write_checkpoint(tmp_path / name, kind, seed=seed) for seed, name in enumerate("ab"))
    mark = {"bert": "", "roberta": "Ġ", "xlm-roberta": "▁"}[kind]
    river, paris = f"{mark}river", f"{mark}paris"
    return shortened(a, {river}), shortened(b, {paris}, added="<own>"), river, paris


@pytest.mark.parametrize("kind", KINDS)
def test_a_union_has_every_token_and_each_row_is_the_mean_of_those_of_its_token(kind, tmp_path):
    a, b, _river, _paris = pair(tmp_path, kind)
    done = merge(recipe(tmp_path, a, b, more="tokenizer_source: union"), tmp_path / "out")
    before, after, made = vocabulary(a), vocabulary(b), vocabulary(done.folder)
    assert set(made) == set(before) | set(after)
    assert {token: made[token] for token in before} == before
    table, one, two = (load_file(f / "model.safetensors")[TABLE] for f in (done.folder, a, b))
    assert len(table) == len(made) == json.loads((done.folder / "config.json").read_text())["vocab_size"]
    for token, row in made.items():
        # a row that a model lacks is that of the other
        left = one[before[token]] if token in before else two[after[token]]
        right = two[after[token]] if token in after else one[before[token]]
        torch.testing.assert_close(table[row], (left + right) / 2, rtol=1e-6, atol=1e-9)
    assert torch.equal(table[made["<own>"]], torch.full((table.shape[1],), 0.25))


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_of_the_other_vocabulary_is_used_in_the_union(kind, tmp_path):
    a, b, river, paris = pair(tmp_path, kind)
    done = merge(recipe(tmp_path, a, b, more="tokenizer_source: union"), tmp_path / "out")
    made = Tokenizer.from_file(str(done.folder / "tokenizer.json"))
    found = made.encode("to river to paris").tokens
    assert river in found
    assert paris in found
    assert river not in Tokenizer.from_file(str(a / "tokenizer.json")).encode("to river").tokens


@pytest.mark.parametrize("kind", KINDS)
def test_an_added_token_keeps_its_number_when_pieces_follow_it(kind, tmp_path):
    a, b, river, _ = pair(tmp_path, kind)
    # b, which has an added token behind its pieces, stands first
    done = merge(recipe(tmp_path, b, a, more="tokenizer_source: union"), tmp_path / "out")
    before, made = vocabulary(b), vocabulary(done.folder)
    assert {token: made[token] for token in before} == before
    table, one, two = (load_file(f / "model.safetensors")[TABLE] for f in (done.folder, b, a))
    assert torch.equal(table[made["<own>"]], torch.full((table.shape[1],), 0.25))
    other = vocabulary(a)
    assert set(made) == set(before) | set(other)
    for token in ("bridge", "sun"):
        mark = river.removesuffix("river")
        rows = one[before[mark + token]], two[other[mark + token]]
        torch.testing.assert_close(table[made[mark + token]], sum(rows) / 2, rtol=1e-6, atol=1e-9)
    found = Tokenizer.from_file(str(done.folder / "tokenizer.json"))
    assert made["<own>"] in found.encode("to <own> paris").ids


def test_a_tokenizer_whose_numbers_have_gaps_has_no_union(tmp_path):
    a, b, _, _ = pair(tmp_path, "bert")
    path = a / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "content": "<far>", "id": 9999})
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"for the tokenizers library.*tokenizer_source: <model>"):
        check_merge(recipe(tmp_path, a, b, more="tokenizer_source: union"))
    more = "tokenizer: {source: base, tokens: {<new>: {source: {kind: zero}}}}"
    with pytest.raises(CheckpointError, match=r"'<far>' would be number 9999, and is \d+ for the tok"):
        check_merge(recipe(tmp_path, a, b, more=more))


def test_the_models_tokenizer_is_taken_with_its_numbers(tmp_path):
    a, b, _, paris = pair(tmp_path, "bert")
    done = merge(recipe(tmp_path, a, b, more=f"tokenizer_source: {b}"), tmp_path / "out")
    assert (done.folder / "tokenizer.json").read_bytes() == (b / "tokenizer.json").read_bytes()
    assert paris not in vocabulary(done.folder)
    one, two, table = (load_file(f / "model.safetensors")[TABLE] for f in (a, b, done.folder))
    place, old = vocabulary(b)["bridge"], vocabulary(a)["bridge"]
    torch.testing.assert_close(table[place], (one[old] + two[place]) / 2, rtol=1e-6, atol=1e-9)


def test_a_base_model_says_what_a_missing_token_is_worth(tmp_path):
    folders = [tiny.write_checkpoint(tmp_path / n, seed=s) for s, n in enumerate(("base", "a", "b", "c"))]
    base, a, b, c = folders
    shortened(a, {"river", "bridge"})
    shortened(base, {"bridge"})
    text = (
        f"merge_method: task_arithmetic\nbase_model: {base}\n"
        "tokenizer_source: union\nparameters: {weight: 1}\n"
        f"models: [{{model: {a}}}, {{model: {b}}}, {{model: {c}}}]\n"
    )
    (tmp_path / "merge.yml").write_text(text)
    done = merge(tmp_path / "merge.yml", tmp_path / "out")
    rows = {
        f: (load_file(f / "model.safetensors")[TABLE].double(), vocabulary(f))
        for f in (*folders, done.folder)
    }

    def row(folder: Path, token: str) -> torch.Tensor:
        return rows[folder][0][rows[folder][1][token]]

    # a has no river: it counts as the base's and adds nothing to it
    river = row(b, "river") + row(c, "river") - row(base, "river")
    torch.testing.assert_close(row(done.folder, "river"), river, rtol=1e-5, atol=1e-6)
    # neither base nor a has bridge: both count as the mean of the two others
    mean = (row(b, "bridge") + row(c, "bridge")) / 2
    torch.testing.assert_close(row(done.folder, "bridge"), mean, rtol=1e-5, atol=1e-6)


def test_single_tokens_have_rows_as_the_recipe_says_and_rows_beyond_are_the_mean(tmp_path):
    a, b, _river, _ = pair(tmp_path, "bert")
    more = f"""
tokenizer:
  source: union
  pad_to_multiple_of: 64
  tokens:
    river: {{source: {{kind: model_token, model: {b}, token: sun}}, force: true}}
    bridge: {{source: {b}, force: true}}
    sun: {{source: {{kind: zero}}}}
    moon: {{source: {{kind: zero}}, force: true}}
    "<new>": {{source: {{kind: model_token, model: {a}, token_id: 7}}}}
"""
    done = merge(recipe(tmp_path, a, b, more=more), tmp_path / "out")
    one, two, table = (load_file(f / "model.safetensors")[TABLE].double() for f in (a, b, done.folder))
    before, after, made = vocabulary(a), vocabulary(b), vocabulary(done.folder)
    assert torch.equal(table[made["river"]], two[after["sun"]])
    assert torch.equal(table[made["bridge"]], two[after["bridge"]])
    torch.testing.assert_close(
        table[made["sun"]], (one[before["sun"]] + two[after["sun"]]) / 2, rtol=1e-6, atol=1e-9
    )
    assert not table[made["moon"]].any()
    assert torch.equal(table[made["<new>"]], one[7])
    assert len(table) % 64 == 0
    assert len(table) > len(made)
    mean = table[: len(made)].mean(0)
    torch.testing.assert_close(
        table[len(made) :], mean.expand(len(table) - len(made), -1), rtol=1e-5, atol=1e-7
    )


def test_heads_over_the_vocabulary_are_put_in_order_too(tmp_path):
    a, b = (tiny.write_checkpoint(tmp_path / n, seed=s, lm_head=True) for s, n in enumerate("ab"))
    for folder, gone in ((a, "river"), (b, "paris")):
        tensors = load_file(folder / "model.safetensors")
        place = vocabulary(folder)[gone]
        bias = tensors["cls.predictions.bias"]
        tensors["cls.predictions.bias"] = torch.cat([bias[:place], bias[place + 1 :]])
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        shortened(folder, {gone})
    done = merge(recipe(tmp_path, a, b, more="tokenizer_source: union"), tmp_path / "out", try_out=False)
    one, two, made = (load_file(f / "model.safetensors")["cls.predictions.bias"] for f in (a, b, done.folder))
    place = vocabulary(done.folder)["paris"]
    assert made[place] == one[vocabulary(a)["paris"]]
    place = vocabulary(done.folder)["river"]
    assert made[place] == two[vocabulary(b)["river"]]


def test_one_vocabulary_leaves_tables_and_files_as_they_are(tmp_path):
    a, b = (tiny.write_checkpoint(tmp_path / n, seed=s) for s, n in enumerate("ab"))
    [found] = parse_recipes(recipe(tmp_path, a, b, more="tokenizer_source: base").read_text())
    plan = plan_merge(found, {m: open_folder(Source(Path(m.source), str(m), None)) for m in found.models()})
    assert plan.vocabulary is not None
    assert plan.vocabulary.rows is None
    plain = merge(recipe(tmp_path, a, b, more=""), tmp_path / "plain")
    based = merge(recipe(tmp_path, a, b, more="tokenizer_source: base"), tmp_path / "based")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (plain.folder / name).read_bytes() == (based.folder / name).read_bytes()


def test_a_merge_across_vocabularies_embeds(tmp_path):
    a, b, _, _ = pair(tmp_path, "xlm-roberta")
    done = tercet.merge(recipe(tmp_path, a, b, more="tokenizer_source: union"), tmp_path / "out")
    found = tercet.load(done.folder, pooling="mean", precision="float32", device="cpu").encode(
        ["river <own> paris"]
    )
    assert found.dense.isfinite().all()


def test_what_cannot_be_put_in_order_is_said_with_the_mend(tmp_path):
    a, b, _, _ = pair(tmp_path, "bert")
    with pytest.raises(CheckpointError, match="tokenizer_source: base, union, or one of the models"):
        check_merge(recipe(tmp_path, a, b, more=""))
    other = tiny.write_checkpoint(tmp_path / "c", "roberta")
    more = f"settings_from: {a}\ntokenizer_source: union"
    with pytest.raises(CheckpointError, match=r"WordPiece.*is BPE.*tokenizer_source: <model>"):
        check_merge(recipe(tmp_path, a, other, more=more))
    source = f"{{kind: model_token, model: {a}, token: nowhere}}"
    with pytest.raises(InputError, match=r"tokens\['bridge'\].*has no row for 'nowhere'"):
        check_merge(recipe(tmp_path, a, b, more=f"tokenizer: {{tokens: {{bridge: {{source: {source}}}}}}}"))
    (b / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing.*save_pretrained"):
        check_merge(recipe(tmp_path, a, b, more="tokenizer_source: union"))
    with pytest.raises(InputError, match=r"source is \./elsewhere, none of union, base, .*Name one of these"):
        check_merge(recipe(tmp_path, a, b, more="tokenizer_source: ./elsewhere"))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{sorce: base}", "Did you mean 'source'"),
        ("{tokens: {a: {source: {kind: zer}}}}", "Did you mean 'zero'"),
        ("{tokens: {a: {force: true}}}", "force without a source"),
        ("{tokens: {a: {source: {kind: model_token, model: x}}}}", "give one of token"),
        ("{tokens: {a: {source: x, force: 3}}}", "expected true or false"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_said_with_its_place(said, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_recipes(f"merge_method: linear\nmodels: [{{model: a}}]\ntokenizer: {said}\n")
    assert "tokenizer" in str(caught.value)
