"""A checkpoint of another kind: one error that says what it is, what was expected, and what may help."""

import json

import pytest

import tercet
import tiny
from tercet.errors import CheckpointError

CLASSES = "sentence_transformers.models"
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": f"{CLASSES}.Transformer"}


@pytest.mark.parametrize("opener", [tercet.load, tercet.load_reranker])
@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "llama", "architectures": ["LlamaModel"]}, "'llama'"),
        ({"model_type": "clip", "architectures": ["CLIPModel"]}, r"sentence-transformers\[image\]"),
        ({"model_type": "x", "vision_config": {}}, r"takes images.*sentence-transformers\[image\]"),
        ({"model_type": "whisper"}, r"takes sound.*sentence-transformers\[audio\]"),
        (
            {"model_type": "new", "auto_map": {"AutoModel": "modeling.NewModel"}},
            r"\(modeling\.NewModel\), and no code of a checkpoint is run.*trust_remote_code=True",
        ),
        ({"model_type": "t5", "architectures": ["T5EncoderModel"]}, r"'t5' \(T5EncoderModel\)"),
    ],
)
def test_a_model_of_another_kind_is_named_with_what_is_supported_and_what_helps(
    tmp_path, opener, config, says
):
    path = tiny.write_checkpoint(tmp_path) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    with pytest.raises(CheckpointError, match=says) as caught:
        opener(tmp_path)
    message = str(caught.value)
    assert str(path) in message
    assert "Supported: bert, roberta" in message
    assert "sentence-transformers" in message


@pytest.mark.parametrize(
    ("opener", "says"),
    [(tercet.load, "is a language model.*FlagLLMModel"), (tercet.load_reranker, "FlagLLMReranker")],
)
def test_a_language_model_is_named_with_what_runs_it(tmp_path, opener, says):
    path = tiny.write_checkpoint(tmp_path) / "config.json"
    changes = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=f"Qwen2ForCausalLM.*{says}"):
        opener(tmp_path)


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([{**TRANSFORMER, "type": f"{CLASSES}.CLIPModel"}], r"'CLIPModel'.*Transformer.*\[image\]"),
        ([{**TRANSFORMER, "type": f"{CLASSES}.Novel"}], "'Novel'.*Transformer.*Use sentence-transformers"),
        (
            [TRANSFORMER, {"idx": 1, "name": "1", "path": "1_Pooler", "type": f"{CLASSES}.Pooler"}],
            "1_Pooler: the module 'Pooler'.*Did you mean 'Pooling'.*sentence-transformers",
        ),
        (
            [TRANSFORMER, {"idx": 1, "name": "1", "path": "1_Own", "type": "custom_st.Own"}],
            "1_Own is of class 'custom_st.Own'.*No code of a checkpoint is run.*trust_remote_code=True",
        ),
    ],
)
@pytest.mark.parametrize("opener", [tercet.load, tercet.load_reranker])
def test_a_module_of_another_kind_is_named_with_its_place(tmp_path, opener, entries, says):
    tiny.write_checkpoint(tmp_path, layout="sentence-transformers")
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(CheckpointError, match=says):
        opener(tmp_path)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("adapter_config.json", "a PEFT adapter without its base model.*merge_and_unload"),
        ("model-q4.gguf", "model-q4.gguf: weights in GGUF.*safetensors"),
        ("model.onnx", "an ONNX graph.*safetensors"),
        ("openvino_model.xml", "an OpenVINO graph"),
        ("tf_model.h5", "TensorFlow"),
        ("readme.txt", "Give the folder that save_pretrained or sentence-transformers wrote"),
    ],
)
def test_a_folder_without_a_configuration_says_what_it_holds_instead(tmp_path, name, says):
    (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=rf"config\.json is missing.*{says}"):
        tercet.load(tmp_path)


@pytest.mark.parametrize("opener", [tercet.load, tercet.load_reranker])
@pytest.mark.parametrize(
    ("file", "found", "says"),
    [
        ("modules.json", 5, "modules.json is not a list of modules"),
        ("config.json", {"architectures": 5}, "'architectures' is 5, expected a list"),
    ],
)
def test_a_number_where_a_list_belongs_is_refused_with_its_file(tmp_path, opener, file, found, says):
    path = tiny.write_checkpoint(tmp_path, layout="sentence-transformers") / file
    if isinstance(found, dict):
        found = {**json.loads(path.read_text()), **found}
        (tmp_path / "modules.json").unlink()
    path.write_text(json.dumps(found))
    with pytest.raises(CheckpointError, match=says):
        opener(tmp_path)


def test_a_folder_whose_weights_are_another_programs_says_so(tmp_path):
    tiny.write_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"has no weights.*an ONNX graph"):
        tercet.load(tmp_path)


def test_code_that_a_plain_encoder_brings_is_told_of(tmp_path):
    tiny.write_checkpoint(tmp_path, config={"auto_map": {"AutoModel": "modeling.Other"}})
    notes = tercet.load(tmp_path, precision="float32", device="cpu").checkpoint.notes
    assert any("modeling.Other" in note and "not run" in note for note in notes)
