"""sentence-transformers folders: modules, their settings in old and new words, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import CheckpointError

MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
EVERYTHING = (
    ("pooling", {"modes": ("cls", "mean"), "include_prompt": False}),
    "layer_norm",
    ("dense", {"out_features": 16, "use_residual": True, "bias": False, "dtype": "float16", "file": "bin"}),
    ("dense", {"use_residual": True, "activation_function": "torch.nn.modules.activation.GELU"}),
    "normalize",
)


def stack(folder: Path, **options: Any) -> Path:
    return tiny.write_checkpoint(folder, "bert", layout="sentence-transformers", **options)


def edit(path: Path, **changes: Any) -> None:
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


@pytest.mark.parametrize("old_keys", [True, False])
def test_every_module_is_read_in_old_and_new_words(tmp_path: Path, old_keys: bool) -> None:
    found = open_checkpoint(stack(tmp_path, modules=EVERYTHING, old_keys=old_keys))
    assert [(m.kind, m.where) for m in found.modules] == [
        ("pooling", "1_Pooling"),
        ("layer_norm", "2_LayerNorm"),
        ("dense", "3_Dense"),
        ("dense", "4_Dense"),
        ("normalize", "5_Normalize"),
    ]
    pooling, norm, first, second, normalize = found.modules
    assert pooling.config == {"modes": ("cls", "mean"), "include_prompt": False}
    assert norm.config == {"dimension": 64}
    assert {name: info.shape for name, info in norm.tensors.items()} == {
        "norm.weight": (64,),
        "norm.bias": (64,),
    }
    assert first.config == {
        "in_features": 64,
        "out_features": 16,
        "bias": False,
        "activation_function": "torch.nn.modules.activation.Tanh",
        "use_residual": True,
    }
    assert {name: (info.shape, info.dtype) for name, info in first.tensors.items()} == {
        "linear.weight": ((16, 64), "float16"),
        "residual.weight": ((16, 64), "float16"),
    }
    assert sorted(second.tensors) == ["linear.bias", "linear.weight"]
    assert normalize.config == {}
    assert found.dense_dim == found.footprint().dense_dim == 16
    assert found.footprint().head_numbers == 64 * 2 + 2 * 16 * 64 + 16 * 16 + 16


@pytest.mark.parametrize("modes", [(mode,) for mode in MODES] + [MODES, ("mean", "cls")])
def test_pooling_modes_keep_their_order(tmp_path: Path, modes: tuple[str, ...]) -> None:
    found = open_checkpoint(stack(tmp_path, modules=(("pooling", {"modes": modes}),)))
    assert found.modules[0].config["modes"] == modes


def test_old_pooling_flags_have_the_order_of_sentence_transformers(tmp_path: Path) -> None:
    modules = (("pooling", {"modes": ("lasttoken", "mean", "cls")}),)
    found = open_checkpoint(stack(tmp_path, modules=modules, old_keys=True))
    assert found.modules[0].config["modes"] == ("cls", "mean", "lasttoken")
    edit(
        tmp_path / "1_Pooling" / "config.json",
        **{f"pooling_mode_{m}": False for m in ("lasttoken", "cls_token")},
    )
    edit(tmp_path / "1_Pooling" / "config.json", pooling_mode_mean_tokens=False)
    edit(tmp_path / "1_Pooling" / "config.json", word_embedding_dimension=32)
    assert open_checkpoint(tmp_path).modules[0].config["modes"] == ("mean",)


def test_settings_beside_the_model_are_read(tmp_path: Path) -> None:
    folder = stack(
        tmp_path,
        old_keys=True,
        prompts={"query": "query: ", "document": ""},
        default_prompt_name="query",
        truncate_dim=8,
        do_lower_case=True,
        model_args={"torch_dtype": "bfloat16", "attn_implementation": "sdpa"},
    )
    found = open_checkpoint(folder)
    assert found.prompts == {"query": "query: ", "document": ""}
    assert found.default_prompt_name == "query"
    assert found.truncate_dim == 8
    assert found.lowercase
    assert any("torch_dtype 'bfloat16' in model_args; ignored" in note for note in found.notes)


@pytest.mark.parametrize("name", ["sentence_roberta_config.json", "sentence_xlm-roberta_config.json"])
def test_other_names_of_the_length_file_are_read(tmp_path: Path, name: str) -> None:
    folder = stack(tmp_path, max_seq_length=17)
    (folder / "sentence_bert_config.json").rename(folder / name)
    assert open_checkpoint(folder).max_length == 17


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_seq_lenght": 3}, r"'max_seq_lenght' is not known.*Did you mean 'max_seq_length'"),
        ({"max_seq_length": -1}, "'max_seq_length' is -1"),
        ({"transformer_task": "fill-mask"}, "'transformer_task' is 'fill-mask'"),
        ({"module_output_name": "all_layers"}, "'module_output_name' is 'all_layers'"),
        ({"modality_config": {"image": {"method": "forward"}}}, "modality_config is"),
        ({"modality_config": {"text": {"method": "get_text_features"}}}, "modality_config is"),
        ({"query_expansion": True}, "'query_expansion' is True"),
        ({"model_args": {"rope_scaling": 2}}, "model_args has 'rope_scaling'"),
        ({"tokenizer_args": ["x"]}, "'tokenizer_args' is"),
    ],
)
def test_a_setting_that_is_not_followed_is_refused(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    edit(stack(tmp_path) / "sentence_bert_config.json", **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_checkpoint(tmp_path)
    assert "sentence_bert_config.json" in str(caught.value)


@pytest.mark.parametrize("modules_json", [True, False])
@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder", "SomethingNew"])
def test_another_model_type_is_refused_by_its_name(tmp_path: Path, kind: str, modules_json: bool) -> None:
    edit(stack(tmp_path) / "config_sentence_transformers.json", model_type=kind)
    if not modules_json:
        (tmp_path / "modules.json").unlink()
    opener = (
        "tercet.load_reranker, or `tercet rerank`"
        if kind == "CrossEncoder"
        else f"sentence_transformers.{kind}"
    )
    with pytest.raises(CheckpointError, match=f"this is a {kind}.*Open it with {opener}"):
        open_checkpoint(tmp_path)


def test_a_default_prompt_that_is_not_there_is_refused(tmp_path: Path) -> None:
    stack(tmp_path, prompts={"query": "q: "}, default_prompt_name="querry")
    with pytest.raises(CheckpointError, match=r"'querry' is none of the prompts. Did you mean 'query'"):
        open_checkpoint(tmp_path)
    edit(tmp_path / "config_sentence_transformers.json", default_prompt_name=["query"])
    with pytest.raises(CheckpointError, match=r"\['query'\] is none of the prompts"):
        open_checkpoint(tmp_path)


def test_prompts_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    edit(stack(tmp_path) / "config_sentence_transformers.json", prompts={"query": 3})
    with pytest.raises(CheckpointError, match="'prompts' is"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "reference", ["sentence_transformers.models.CLIPModel", "sentence_transformers.models.Whatever"]
)
def test_a_module_that_we_do_not_know_is_named_with_its_folder(tmp_path: Path, reference: str) -> None:
    stack(tmp_path, modules=("pooling", (reference, {})))
    name = reference.rsplit(".", 1)[1]
    with pytest.raises(
        CheckpointError, match=rf"2_{name}: the module '{name}' of modules\.json is not supported"
    ):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("reference", ["torch.nn.Identity", "custom_st.Pooling", "os.system"])
def test_code_outside_sentence_transformers_is_never_run(tmp_path: Path, reference: str) -> None:
    stack(tmp_path, modules=("pooling", (reference, {})))
    with pytest.raises(CheckpointError, match=f"class '{reference}'.*No code of a checkpoint is run"):
        open_checkpoint(tmp_path)


def test_dropout_is_left_out_with_a_note(tmp_path: Path) -> None:
    stack(tmp_path, modules=("pooling", ("sentence_transformers.models.Dropout", {"dropout": 0.1})))
    found = open_checkpoint(tmp_path)
    assert [module.kind for module in found.modules] == ["pooling"]
    assert any("2_Dropout (Dropout) does nothing outside training" in note for note in found.notes)


@pytest.mark.parametrize("path", ["../other", "/tmp", "/", "a/../../b", "..\\x", "c:\\x"])
def test_a_module_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    stack(tmp_path)
    entries = json.loads((tmp_path / "modules.json").read_text())
    entries[1]["path"] = path
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=r"modules\.json refers to .*, which leaves the model's folder"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([], "is not a list of modules"),
        ({}, "is not a list of modules"),
        (["x"], "'x' is not a module"),
        ([{"type": "sentence_transformers.models.Transformer"}], "needs a 'type' and a 'path'"),
        (
            [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}],
            "first module is 'Pooling'",
        ),
        (
            [{"type": "sentence_transformers.models.Transformer", "path": "", "kwargs": ["task"]}],
            r"takes arguments at run time \(\['task'\]\)",
        ),
        (
            [{"type": "sentence_transformers.models.Transformer", "path": ""}],
            "no pooling follows the encoder",
        ),
    ],
)
def test_modules_json_that_makes_no_vector_is_refused(tmp_path: Path, entries: Any, says: str) -> None:
    stack(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("place", "changes", "says"),
    [
        ("1_Pooling", {"pooling_mode": "median"}, "pooling_mode is 'median'"),
        ("1_Pooling", {"pooling_mode": 3}, "pooling_mode is 3"),
        ("1_Pooling", {"pooling_mode": []}, r"pooling_mode is \[\]"),
        ("1_Pooling", {"pooling_mode_first": True}, "'pooling_mode_first' is not known"),
        ("1_Pooling", {"include_prompt": "no"}, "'include_prompt' is 'no'"),
        ("1_Pooling", {"embedding_dimension": None}, "'embedding_dimension' is None"),
        (
            "1_Pooling",
            {"embedding_dimension": 384},
            "embedding_dimension is 384, what comes before it is 32 wide",
        ),
        ("2_Dense", {"in_features": 384}, r"'linear\.weight' is \(16, 32\), config\.json says \(16, 384\)"),
        ("2_Dense", {"bias": False}, r"'linear\.bias' has no use"),
        ("2_Dense", {"use_residual": True}, r"no 'residual\.weight'"),
        ("2_Dense", {"use_residual": 1}, "'use_residual' is 1"),
        (
            "2_Dense",
            {"module_input_name": "token_embeddings"},
            "'module_input_name' is not 'sentence_embedding'",
        ),
        ("2_Dense", {"out_features": "16"}, "not numbers"),
        ("2_Dense", {"activation_function": 3}, "'activation_function' is 3"),
        ("2_Dense", {"scale": 2}, "'scale' is not known"),
        ("3_LayerNorm", {"dimension": 17}, r"'norm\.(weight|bias)' is \(16,\), config\.json says \(17,\)"),
        ("3_LayerNorm", {"eps": 1e-6}, "'eps' is not known"),
        ("4_Normalize", {"module_output_name": "other"}, "'module_output_name' is not 'sentence_embedding'"),
        ("4_Normalize", {"p": 1}, "'p' is not known"),
    ],
)
def test_a_module_whose_settings_do_not_fit_is_refused_with_its_file(
    tmp_path: Path, place: str, changes: dict[str, Any], says: str
) -> None:
    stack(tmp_path, modules=("pooling", ("dense", {"out_features": 16}), "layer_norm", "normalize"))
    edit(tmp_path / place / "config.json", **changes)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_checkpoint(tmp_path)
    assert place in str(caught.value)


def test_modules_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    stack(tmp_path, modules=("pooling", ("dense", {"out_features": 16}), ("dense", {"out_features": 8})))
    edit(tmp_path / "3_Dense" / "config.json", in_features=12)
    save_file(
        {"linear.weight": torch.ones(8, 12), "linear.bias": torch.ones(8)},
        tmp_path / "3_Dense/model.safetensors",
    )
    with pytest.raises(CheckpointError, match="3_Dense: in_features is 12, what comes before it is 16 wide"):
        open_checkpoint(tmp_path)


def test_a_second_pooling_is_refused(tmp_path: Path) -> None:
    stack(tmp_path, modules=("pooling", "pooling"))
    with pytest.raises(CheckpointError, match="2_Pooling is a second pooling"):
        open_checkpoint(tmp_path)


def test_a_module_without_its_files_is_refused(tmp_path: Path) -> None:
    stack(tmp_path, modules=("pooling", "dense", "normalize"))
    (tmp_path / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"2_Dense has no weights"):
        open_checkpoint(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"1_Pooling.config\.json is missing"):
        open_checkpoint(tmp_path)
