"""Merges from the recipe to a folder that was tried out."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
import tiny_reranker
from tercet.errors import CheckpointError, InputError, OutputError, PrecisionError
from tercet.precision.memory import Memory
from tercet.workflows import merge as workflow
from tercet.workflows import merge_check, merge_plan
from tercet.workflows.merge import merge
from tercet.workflows.merge_check import check_merge

STACK = (("pooling", {"modes": ("mean",)}), ("dense", {"out_features": 16}), "normalize")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "merge.yml"
    path.write_text(text)
    return path


def linear(tmp_path: Path, *folders: Path, more: str = "") -> Path:
    models = "".join(f"  - model: {folder}\n    parameters: {{weight: 0.5}}\n" for folder in folders)
    return written(tmp_path, f"merge_method: linear\nmodels:\n{models}{more}\n")


def averaged(folder: Path, other: Path, pattern: str) -> None:
    """Weights of a folder replaced by the mean with another's, by hand."""
    for path in folder.rglob(pattern):
        theirs = other / path.relative_to(folder)
        one = torch.load(path) if path.suffix == ".pt" else load_file(path)
        two = torch.load(theirs) if path.suffix == ".pt" else load_file(theirs)
        mean = {name: ((one[name].double() + two[name].double()) / 2).to(one[name].dtype) for name in one}
        torch.save(mean, path) if path.suffix == ".pt" else save_file(mean, path, metadata={"format": "pt"})


@pytest.fixture
def stacks(tmp_path):
    return [
        tiny.write_checkpoint(
            tmp_path / name,
            layout="sentence-transformers",
            modules=STACK,
            seed=number,
            prompts={"query": "query: "},
        )
        for number, name in enumerate("ab")
    ]


def test_a_merged_stack_embeds_as_one_that_was_averaged_by_hand(stacks, tmp_path):
    done = tercet.merge(linear(tmp_path, *stacks), tmp_path / "out")
    assert done.tried == "Loaded: 10 texts give finite dense vectors of length 1."
    averaged(stacks[0], stacks[1], "*.safetensors")
    found, expected = (
        tercet.load(folder, precision="float32", device="cpu").encode(tiny.TEXTS, prompt_name="query").dense
        for folder in (done.folder, stacks[0])
    )
    assert torch.equal(found, expected)


def test_all_heads_of_bge_m3_are_merged(tmp_path):
    folders = [
        tiny.write_checkpoint(tmp_path / name, "xlm-roberta", layout="bge-m3", seed=number)
        for number, name in enumerate("ab")
    ]
    done = merge(linear(tmp_path, *folders), tmp_path / "out")
    assert "finite dense, sparse, multivector vectors of length 1" in done.tried
    averaged(folders[0], folders[1], "*.safetensors")
    averaged(folders[0], folders[1], "*.pt")
    found, expected = (
        tercet.load(folder, precision="float32", device="cpu").encode(
            tiny.TEXTS, outputs=["dense", "sparse", "multivector"]
        )
        for folder in (done.folder, folders[0])
    )
    assert torch.equal(found.dense, expected.dense)
    assert torch.equal(found.sparse.weights, expected.sparse.weights)
    assert torch.equal(found.multivector.vectors, expected.multivector.vectors)


@pytest.mark.parametrize("method", ["linear", "della", "ties"])
def test_a_reranker_of_one_label_is_merged(method, tmp_path):
    folders = [tiny_reranker.write_reranker(tmp_path / name, seed=i) for i, name in enumerate("abc")]
    text = f"merge_method: {method}\nbase_model: {folders[0]}\nparameters: {{weight: 1}}\nmodels:\n"
    if method == "della":
        text = text.replace("{weight: 1}", "{weight: 1, density: 0.5}")
    path = written(tmp_path, text + "".join(f"  - {{model: {folder}}}\n" for folder in folders[1:]))
    done = merge(path, tmp_path / "out")
    assert done.tried == "Loaded as a reranker: 10 pairs have finite scores."


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"])
def test_every_encoder_is_merged(architecture, tmp_path):
    folders = [
        tiny.write_checkpoint(tmp_path / name, architecture, seed=number) for number, name in enumerate("ab")
    ]
    done = merge(linear(tmp_path, *folders), tmp_path / "out")
    averaged(folders[0], folders[1], "*.safetensors")
    found, expected = (
        tercet.load(folder, precision="float32", device="cpu").encode(tiny.TEXTS).dense
        for folder in (done.folder, folders[0])
    )
    assert torch.equal(found, expected)


def test_the_folder_says_what_it_is_and_the_same_recipe_gives_the_same(stacks, tmp_path):
    path = linear(tmp_path, *stacks, more="out_dtype: bfloat16")
    first = merge(path, tmp_path / "out").folder
    assert json.loads((first / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert (first / "merge_recipe.yml").read_text() == path.read_text()
    report = json.loads((first / "merge_report.json").read_text())
    assert report["all"]["dtype"] == "bfloat16"
    assert 1e-4 < report["all"]["relative_error"] < 2**-8
    assert len({model["sha256"] for model in report["models"].values()}) == 2
    card = (first / "README.md").read_text()
    assert "merge_method: linear" in card
    assert next(iter(report["models"].values()))["sha256"] in card
    again = merge(path, tmp_path / "again" / "out").folder
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all((first / one).read_bytes() == (again / one).read_bytes() for one in files)


def test_a_folder_is_replaced_only_when_told_and_then_wholly(stacks, tmp_path):
    path, out = linear(tmp_path, *stacks), tmp_path / "out"
    out.mkdir()
    (out / "stale.safetensors").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists and is not an empty folder"):
        merge(path, out)
    merge(path, out, overwrite=True)
    assert not (out / "stale.safetensors").exists()
    assert (out / "model.safetensors").is_file()
    merge(path, out, overwrite=True, max_shard_bytes=40_000)
    assert not (out / "model.safetensors").exists()
    assert (out / "model.safetensors.index.json").is_file()
    assert not list(tmp_path.glob(".*"))


def test_replacing_never_takes_what_is_no_earlier_result(stacks, tmp_path):
    path = linear(tmp_path, *stacks)
    with pytest.raises(OutputError, match="holds no model, so it is not replaced"):
        merge(path, tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="would go with"):
        merge(path, stacks[0], overwrite=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(OutputError, match="would go with"):
        merge(path, tmp_path, overwrite=True)


def test_what_goes_wrong_leaves_nothing(stacks, tmp_path, monkeypatch):
    path, out = linear(tmp_path, *stacks), tmp_path / "out"

    def stop(written, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(path, out, progress=stop)
    weights = stacks[0] / "2_Dense" / "model.safetensors"
    tensors = load_file(weights)
    tensors["linear.bias"][0] = float("inf")
    save_file(tensors, weights)
    with pytest.raises(PrecisionError, match=r"Dense.linear.bias: 1 numbers of .* are not finite"):
        merge(path, out)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_result_that_is_not_good_is_not_kept(stacks, tmp_path):
    text = f"merge_method: passthrough\nmodels: [{{model: {stacks[0]}, parameters: {{scale: 1e25}}}}]"
    with pytest.raises(CheckpointError, match=r"its vectors are not finite: .*out was not written"):
        merge(written(tmp_path, text), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(written(tmp_path, text), tmp_path / "out", try_out=False)


def test_documents_build_on_each_other(stacks, tmp_path):
    half = "parameters: {weight: 0.5}"
    text = f"""
name: both
merge_method: linear
models: [{{model: {stacks[0]}, {half}}}, {{model: {stacks[1]}, {half}}}]
---
merge_method: linear
models: [{{model: both, {half}}}, {{model: {stacks[1]}, {half}}}]
"""
    out = merge(written(tmp_path, text), tmp_path / "out").folder
    a, b, found = (load_file(folder / "model.safetensors") for folder in (*stacks, out))
    for name in found:
        torch.testing.assert_close(found[name], (a[name] + 3 * b[name]) / 4)
    assert not list(tmp_path.glob(".*"))
    check = check_merge(tmp_path / "merge.yml")
    assert set(check.models) == {str(folder) for folder in stacks}
    assert check.tensors == sum(1 for path in out.rglob("*.safetensors") for _ in load_file(path))
    assert check.disk_bytes > 2 * check.written_bytes


def test_layers_in_a_row_make_a_deeper_model(stacks, tmp_path):
    sources = "".join(f"  - sources: [{{model: {folder}, layer_range: [0, 2]}}]\n" for folder in stacks)
    out = merge(written(tmp_path, f"merge_method: passthrough\nslices:\n{sources}"), tmp_path / "out").folder
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 4
    assert tercet.load(out, precision="float32", device="cpu").encode(["a"]).dense.shape == (1, 16)


def test_an_unknown_architecture_is_merged_and_said_not_to_be_tried(tmp_path, monkeypatch):
    folders = []
    for number, name in enumerate("ab"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 1}))
        tensors = {
            "model.layers.0.mlp.up_proj.weight": torch.full((2, 3), float(number)),
            "model.norm.weight": torch.ones(3),
        }
        save_file(tensors, folder / "model.safetensors")
        folders.append(folder)
    monkeypatch.setattr(workflow.try_model.__globals__["importlib"].util, "find_spec", lambda name: None)
    done = merge(linear(tmp_path, *folders), tmp_path / "out")
    assert done.tried.startswith("Not tried: models of type 'llama' are run by transformers")
    found = load_file(done.folder / "model.safetensors")
    assert found["model.layers.0.mlp.up_proj.weight"].unique().tolist() == [0.5]


def test_a_check_reads_headers_alone(stacks, tmp_path):
    path = linear(tmp_path, *stacks, more="out_dtype: float16")
    check = check_merge(path)
    numbers = sum(check.dtypes.values())
    assert check.dtypes == {"float16": numbers}
    assert check.written_bytes == 2 * numbers
    assert check.donor == str(stacks[0])
    assert [model.bytes for model in check.models.values()] == [4 * numbers] * 2
    first = next(iter(check.models.values()))
    assert (first.layers, first.positions, first.dtypes) == (2, 66, {"float32": numbers})
    words = load_file(stacks[0] / "model.safetensors")["embeddings.word_embeddings.weight"]
    assert first.vocabulary == len(words)
    written = merge(path, tmp_path / "out").folder
    held = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
    assert check.written_bytes < held < check.disk_bytes < held + (1 << 20)
    assert check.trial_bytes == 4 * numbers
    json.dumps(check.to_json())
    tiny.write_checkpoint(
        tmp_path / "c", layout="sentence-transformers", modules=STACK, hidden=16, intermediate=64
    )
    with pytest.raises(CheckpointError, match=r"hidden_size is 32 in .*, 16 in"):
        check_merge(linear(tmp_path, stacks[0], tmp_path / "c"))


def test_a_check_says_that_something_is_in_the_way(stacks, tmp_path):
    path, out = linear(tmp_path, *stacks), tmp_path / "out"
    for free in (None, out, str(out)):
        assert check_merge(path, free).notes == ()
    out.mkdir()
    assert check_merge(path, out).notes == ()
    (out / "config.json").write_text("{}")
    [note] = check_merge(path, out).notes
    assert note.startswith(f"{out} exists and is not an empty folder: name a new one, or merge with --overwr")
    [note] = check_merge(path, path).notes
    assert note == f"{path} is a file, where the result needs a folder: name another place."


@pytest.mark.parametrize("settings", ["encoder", "reranker"])
@pytest.mark.parametrize("missing", ["average", "drop"])
def test_a_check_finds_a_classifier_that_does_not_fit_the_settings(settings, missing, tmp_path):
    encoder = tiny.write_checkpoint(tmp_path / "encoder", "roberta")
    reranker = tiny_reranker.write_reranker(tmp_path / "reranker", "roberta")
    text = f"missing: {missing}\nsettings_from: {tmp_path / settings}"
    path = linear(tmp_path, reranker, encoder, more=text)
    if (settings, missing) in (("encoder", "drop"), ("reranker", "average")):
        check_merge(path)
        merge(path, tmp_path / "out")
        return
    with pytest.raises(CheckpointError) as caught:
        check_merge(path)
    said = {
        "encoder": f"the classifier of the reranker {reranker} and the settings of {encoder}, which know "
        f"none, and could not be opened. Write settings_from: {reranker} for a reranker, or missing: drop",
        "reranker": f"the settings of the reranker {reranker} without its classifier, and could not be "
        f"opened. Write missing: average for a reranker, or settings_from: {encoder} for an encoder.",
    }
    assert said[settings] in str(caught.value)


def test_adapters_that_are_not_there_or_alone_are_refused_with_the_mend(stacks, tmp_path):
    with pytest.raises(InputError, match=r"no folder lora.*hf download"):
        check_merge(linear(tmp_path, Path(f"{stacks[0]}+lora"), stacks[1]))
    (stacks[1] / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"is a LoRA adapter.*'base\+"):
        check_merge(linear(tmp_path, *stacks))


def test_an_audit_compares_the_result_with_each_parent(stacks, tmp_path):
    texts = tmp_path / "texts.jsonl"
    lines = [
        {"_id": f"{n}", "text": " ".join([tiny.TEXTS[n % 7], "river boat " * (n % 5)])} for n in range(40)
    ]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = f"merge_method: slerp\nbase_model: {stacks[0]}\nparameters: {{t: 0}}\n"
    text += f"models: [{{model: {stacks[1]}}}]"
    done = merge(written(tmp_path, text), tmp_path / "out", audit=texts)
    same = next(one for one in done.audit if one.model == str(stacks[0]))
    other = next(one for one in done.audit if one.model == str(stacks[1]))
    assert same.drift.dense.cosine.worst < 1e-12
    assert same.rankings["dense"].overlap_worst == 1
    one, two = (
        tercet.load(folder, precision="float32", device="cpu")
        .encode_document([line["text"] for line in lines])
        .dense
        for folder in (done.folder, stacks[1])
    )
    assert other.drift.dense.cosine.mean == pytest.approx(
        1 - float((one.double() * two).sum(1).mean()), rel=1e-4
    )
    assert other.documents == other.queries == 40
    report = json.loads((done.folder / "merge_report.json").read_text())
    assert [entry["model"] for entry in report["audit"]] == [one.model for one in done.audit]
    assert "of the best 10 for 40 queries 100% are the same" in (done.folder / "README.md").read_text()


def test_an_audit_that_cannot_be_is_refused_before_the_merge(stacks, tmp_path):
    texts = tmp_path / "texts.txt"
    texts.write_text("one\ntwo\n")
    rerankers = [tiny_reranker.write_reranker(tmp_path / name, seed=i) for i, name in enumerate("rs")]
    with pytest.raises(InputError, match="is a reranker, which gives scores and no vectors"):
        merge(linear(tmp_path, *rerankers), tmp_path / "out", audit=texts)
    with pytest.raises(InputError, match=r"nowhere\.jsonl"):
        merge(linear(tmp_path, *stacks), tmp_path / "out", audit=tmp_path / "nowhere.jsonl")
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_is_said_before_anything_is_written(stacks, tmp_path, monkeypatch):
    path = linear(tmp_path, *stacks)
    monkeypatch.setattr(merge_plan.shutil, "disk_usage", lambda place: SimpleNamespace(free=70_000))
    with pytest.raises(OutputError, match=r"out would take 1 MB, its disk has 0 MB free\. Free some space"):
        merge(path, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()
    assert any("The disk has 0 MB free" in note for note in check_merge(path).notes)
    monkeypatch.setattr(merge_check, "host_memory", lambda: Memory(1000, 1000, "the machine"))
    assert any("of memory are free, too little" in note for note in check_merge(path).notes)
