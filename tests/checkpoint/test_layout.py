"""Layouts: what a folder holds is found by its files, and what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.checkpoint.source import find
from tercet.errors import CheckpointError, InputError

ARCHITECTURES = ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"]
# What an embedding does not use of each.
UNUSED = {
    "bert": ("pooler.dense.weight", "cls.predictions.bias"),
    "distilbert": ("vocab_transform.weight", "vocab_projector.bias"),
    "electra": ("discriminator_predictions.dense.weight", "generator_lm_head.bias"),
}


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def test_the_packaged_minilm_is_read_as_its_files_say() -> None:
    found = open_checkpoint(find("minilm"))
    assert found.layout == "sentence-transformers"
    assert found.architecture == "bert"
    assert [module.kind for module in found.modules] == ["pooling", "normalize"]
    assert found.modules[0].config == {"modes": ("mean",), "include_prompt": True}
    # The tokenizer's own truncation is at 128, model_max_length is 512.
    assert found.max_length == 256
    assert len(found.tensors) == 101
    assert sorted(found.ignored) == ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]
    footprint = found.footprint()
    assert (footprint.hidden, footprint.layers, footprint.attention_heads) == (384, 6, 12)
    assert footprint.stored == {"float32": footprint.body_numbers}
    assert footprint.body_numbers == sum(info.numbers for info in found.tensors.values())
    assert footprint.largest_tensor == 30522 * 384
    assert footprint.outputs == ("dense",)
    assert footprint.fused_numbers == 6 * 3 * 384 * 385


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", ["safetensors", "bin", "legacy-bin"])
@pytest.mark.parametrize(
    "prefix",
    ["", "bert.", "roberta.", "distilbert.", "electra.", "mpnet.", "0.auto_model.", "auto_model.", "model."],
)
def test_names_are_the_encoders_own_whatever_the_file_calls_them(
    tmp_path: Path, architecture: Any, file: Any, prefix: str
) -> None:
    folder = tiny.write_checkpoint(
        tmp_path, architecture, file=file, prefix=prefix, gamma_beta=True, lm_head=True, position_ids=True
    )
    found = open_checkpoint(folder)
    plain = tiny.state_dict(architecture, tiny.tokenizer(architecture).get_vocab_size(), pooler=False)
    assert {name: info.shape for name, info in found.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in plain.items()
    }
    unused = next(note for note in found.notes if note.startswith("Not used"))
    for name in ("position_ids", *UNUSED.get(architecture, ("pooler.dense.weight", "lm_head."))):
        assert name in unused


@pytest.mark.parametrize(
    ("architecture", "positions"),
    [("bert", 66), ("roberta", 64), ("xlm-roberta", 64), ("distilbert", 66), ("electra", 66), ("mpnet", 64)],
)
def test_texts_are_never_longer_than_the_position_table(
    tmp_path: Path, architecture: Any, positions: int
) -> None:
    for number, (limits, expected) in enumerate(
        [
            ({"model_max_length": -1}, positions),
            ({"model_max_length": 10**30}, positions),
            ({"model_max_length": 20}, 20),
            ({"model_max_length": 20, "max_seq_length": 40}, 40),
            ({"model_max_length": 20, "max_seq_length": 10}, 10),
            ({"max_seq_length": 512}, positions),
            ({"model_max_length": 512}, positions),
        ]
    ):
        folder = tmp_path / str(number)
        tiny.write_checkpoint(folder, architecture, layout="sentence-transformers", **limits)
        found = open_checkpoint(folder)
        assert found.max_length == expected
        assert any("512 tokens" in note for note in found.notes) == (512 in limits.values())


def test_a_plain_folder_is_mean_pooled_with_a_note_unless_told_otherwise(tiny_bert: Path) -> None:
    found = open_checkpoint(tiny_bert)
    assert found.layout == "huggingface"
    assert [(m.kind, m.config.get("modes")) for m in found.modules] == [("pooling", ("mean",))]
    assert any("mean pooling without normalisation is assumed" in note for note in found.notes)
    told = open_checkpoint(tiny_bert, pooling="cls+mean")
    assert told.modules[0].config["modes"] == ("cls", "mean")
    assert told.dense_dim == 64
    assert not any("assumed" in note for note in told.notes)
    with pytest.raises(InputError, match=r"pooling='clss'.*Did you mean 'cls'"):
        open_checkpoint(tiny_bert, pooling="clss")


def test_a_told_pooling_takes_the_place_of_the_stacks_own(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, layout="sentence-transformers", old_keys=True)
    found = open_checkpoint(folder, pooling="lasttoken")
    assert [(m.kind, m.config.get("modes")) for m in found.modules] == [
        ("pooling", ("lasttoken",)),
        ("normalize", None),
    ]
    assert "Pooling is 'lasttoken', as asked." in found.notes


@pytest.mark.parametrize("shards", [2, 5])
@pytest.mark.parametrize("file", ["safetensors", "bin"])
def test_shards_are_read_as_one(tmp_path: Path, shards: int, file: Any) -> None:
    found = open_checkpoint(tiny.write_checkpoint(tmp_path, "bert", file=file, shards=shards))
    assert len(found.files) == shards
    assert len(found.tensors) == 37


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert", shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"index\.json names the shard 'model-00002-of-00003\.safetensors'"
    ):
        open_checkpoint(folder)


def test_a_shard_of_another_save_is_refused(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert", shards=2)
    path = folder / "model-00001-of-00002.safetensors"
    weights = load_file(path)
    lost = weights.popitem()[0]
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=f"promises '{lost}'"):
        open_checkpoint(folder)


def test_two_shards_with_one_name_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert", shards=2)
    shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="both hold"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "name", ["../up.safetensors", "/etc/passwd.bin", "a\\b.bin", "c:x.safetensors", 3, "x.py"]
)
def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path, name: Any) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert", shards=2)
    index = folder / "model.safetensors.index.json"
    edit(index, weight_map={"embeddings.LayerNorm.weight": name})
    with pytest.raises(CheckpointError, match=r"leaves the model's folder|not a file of weights"):
        open_checkpoint(folder)


def test_two_names_of_one_tensor_are_refused(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.LayerNorm.gamma"] = weights["embeddings.LayerNorm.weight"].clone()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"gamma'.*are the same tensor of the encoder"):
        open_checkpoint(folder)


def test_an_unknown_tensor_is_kept_for_the_model_to_refuse(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    weights = load_file(folder / "model.safetensors") | {"encoder.relative_bias": torch.ones(2)}
    save_file(weights, folder / "model.safetensors")
    assert "encoder.relative_bias" in open_checkpoint(folder).tensors


def test_safetensors_is_preferred_to_bin(tmp_path: Path) -> None:
    tiny.write_checkpoint(tmp_path, "bert", file="bin")
    tiny.write_checkpoint(tmp_path, "bert")
    assert open_checkpoint(tmp_path).file_format == "safetensors"


def test_mixed_dtypes_are_listed(tmp_path: Path) -> None:
    mixed = {"embeddings.LayerNorm.weight": "float32", "embeddings.LayerNorm.bias": "bfloat16"}
    found = open_checkpoint(tiny.write_checkpoint(tmp_path, "bert", dtype="float16", mixed=mixed))
    assert (
        "The stored dtypes are mixed: 35 tensors in float16, 1 tensors in float32, 1 tensors in bfloat16."
        in found.notes
    )
    assert found.footprint().stored.keys() == {"float16", "float32", "bfloat16"}


def test_the_old_format_says_what_it_costs(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert", file="legacy-bin")
    size = (folder / "pytorch_model.bin").stat().st_size
    found = open_checkpoint(folder)
    assert any(f"it is read whole, {size:,} bytes more at the peak" in note for note in found.notes)
    assert found.footprint().file_format == "torch-legacy"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "llama"}, r"type 'llama' \(BertModel\). Supported: bert, roberta, xlm-roberta"),
        (
            {"model_type": "deberta-v2", "architectures": ["DebertaV2Model"]},
            r"type 'deberta-v2' \(DebertaV2Model\). Supported: .*distilbert, electra.*\. Take a model that "
            r"was made on one of these encoders, or run this one with sentence-transformers",
        ),
        ({"model_type": None, "architectures": None}, "no architecture named"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"is_decoder": True}, "'is_decoder' is true"),
        ({"add_cross_attention": True}, "'add_cross_attention' is true"),
        ({"quantization_config": {"bits": 4}}, "weights are quantised"),
        ({"hidden_size": None}, "'hidden_size' is None, expected a positive number"),
        ({"num_hidden_layers": "2"}, "'num_hidden_layers' is '2'"),
        ({"vocab_size": True}, "'vocab_size' is True"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
    ],
)
def test_a_config_that_our_encoders_do_not_follow_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    edit(folder / "config.json", **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_checkpoint(folder)
    assert str(folder / "config.json") in str(caught.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_old_config_without_model_type_is_known_by_its_class(tmp_path: Path, architecture: Any) -> None:
    folder = tiny.write_checkpoint(tmp_path, architecture, config={"model_type": None})
    assert open_checkpoint(folder).architecture == architecture


def test_a_reranker_is_refused_as_such(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "xlm-roberta", prefix="roberta.")
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"classifier.dense.weight": torch.ones(2, 2)}, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"ends in a classifier \(classifier\.dense\.weight\).*reranker"
    ):
        open_checkpoint(folder)


@pytest.mark.parametrize("content", ["", "{", "[1]", "\udcff", '"text"', "[" * 100_000])
def test_a_damaged_config_is_named(tmp_path: Path, content: str) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    (folder / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"config\.json (is not valid JSON|holds a)"):
        open_checkpoint(folder)


def test_a_folder_without_a_model_says_where_one_may_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        open_checkpoint(tmp_path)
    tiny.write_checkpoint(tmp_path / "checkpoint-500", "bert")
    with pytest.raises(CheckpointError, match=r"Did you mean one of the folders in it: checkpoint-500"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_checkpoint(tmp_path / "none")


def test_a_folder_without_weights_lists_what_is_there(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"has no weights.*weights\.safetensors.*Fetch the model again"):
        open_checkpoint(folder)


def test_links_out_of_the_folder_are_refused_but_for_the_hubs_own(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path / "model", "bert")
    (folder / "model.safetensors").rename(tmp_path / "elsewhere")
    (folder / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"is a link to .*elsewhere, outside the model's folder"):
        open_checkpoint(folder)

    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0" * 40)
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    tiny.write_checkpoint(snapshot, "bert")
    for path in snapshot.iterdir():
        blob = path.rename(blobs / f"{path.name}-blob")
        path.symlink_to(Path("../../blobs") / blob.name)
    assert open_checkpoint(snapshot).tensors
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="outside the model's folder"):
        open_checkpoint(snapshot)


def test_a_circular_link_is_an_error(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder / "config.json")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_checkpoint(folder)


def test_the_tokenizer_is_found_or_known_to_be_missing(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert")
    assert open_checkpoint(folder).tokenizer_file == folder / "tokenizer.json"
    assert open_checkpoint(folder).tokenizer_config["cls_token"] == "[CLS]"
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    found = open_checkpoint(folder)
    assert found.tokenizer_file is None
    assert found.tokenizer_config == {}


def test_an_encoder_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    folder = tiny.write_checkpoint(tmp_path, "bert", layout="sentence-transformers", old_keys=True)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))
    found = open_checkpoint(folder)
    assert found.encoder_path == "0_Transformer"
    assert found.tokenizer_file == inner / "tokenizer.json"
    assert len(found.tensors) == 37


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm_eps": "x"}, "'layer_norm_eps' is 'x'"),
        ({"layer_norm_eps": -1}, "'layer_norm_eps' is -1"),
        ({"pad_token_id": "x"}, "'pad_token_id' is 'x'"),
        ({"pad_token_id": 10**6}, "with pad_token_id 1000000 no position is left"),
    ],
)
def test_a_configuration_that_no_encoder_can_have_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tiny.write_checkpoint(tmp_path, "roberta")
    edit(tmp_path / "config.json", **changes)
    with pytest.raises(CheckpointError, match=rf"config\.json: {message}"):
        open_checkpoint(tmp_path)
