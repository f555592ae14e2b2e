import json
import pickle

import pytest
from safetensors.torch import load_file, save_file

import tiny
import tiny_reranker
from tercet.checkpoint.reranker_files import open_reranker
from tercet.errors import CheckpointError


def change(folder, name, **values):
    path = folder / name
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**found, **values}))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "distilbert", "electra", "mpnet"])
def test_the_head_is_found_and_all_else_is_the_encoders(architecture, tmp_path):
    checkpoint = open_reranker(tiny_reranker.write_reranker(tmp_path, architecture, labels=3))
    [spec] = checkpoint.modules
    shapes = {name: info.shape for name, info in spec.tensors.items()}
    assert shapes == {
        "dense.weight": (32, 32),
        "dense.bias": (32,),
        "out.weight": (3, 32),
        "out.bias": (3,),
    }
    assert spec.config["labels"] == 3
    assert not checkpoint.ignored
    # Two have no token types; one of them has a bias of positions in place of them.
    assert len(checkpoint.tensors) == (4 if architecture == "distilbert" else 5) + 2 * 16
    assert checkpoint.footprint().head_numbers == 32 * 32 + 32 + 3 * 32 + 3
    assert pickle.loads(pickle.dumps(checkpoint)) == checkpoint


def test_the_activation_is_found_wherever_a_version_put_it(tmp_path):
    name = "torch.nn.modules.linear.Identity"
    for keys in ("new", "old", "top"):
        folder = tiny_reranker.write_reranker(tmp_path / keys, activation=name, keys=keys)
        assert open_reranker(folder).modules[0].config["activation"] == name
    assert (
        open_reranker(tiny_reranker.write_reranker(tmp_path / "none")).modules[0].config["activation"] is None
    )


def test_settings_of_a_cross_encoder_folder_are_read(tmp_path):
    folder = tiny_reranker.write_reranker(
        tmp_path, "bert", cross_encoder=True, prompts={"query": "q: "}, default_prompt_name="query"
    )
    change(folder, "sentence_bert_config.json", max_seq_length=20, do_lower_case=True)
    checkpoint = open_reranker(folder)
    assert (checkpoint.max_length, checkpoint.lowercase) == (20, True)
    assert (checkpoint.prompts, checkpoint.default_prompt_name) == ({"query": "q: "}, "query")


def test_a_model_for_embeddings_is_no_reranker_and_says_what_is_missing(tmp_path):
    folder = tiny.write_checkpoint(tmp_path, "bert")
    with pytest.raises(CheckpointError, match=r"no 'classifier\.weight', 'classifier\.bias'.*tercet\.load"):
        open_reranker(folder)
    stack = tiny.write_checkpoint(tmp_path / "stack", "bert", layout="sentence-transformers")
    with pytest.raises(CheckpointError, match=r"modules Transformer, Pooling, Normalize;.*tercet\.load"):
        open_reranker(stack)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        (
            "config.json",
            {"architectures": ["Qwen3ForCausalLM"]},
            "Qwen3ForCausalLM, .*LogitScore.*FlagLLMReranker",
        ),
        ("config.json", {"model_type": "llama"}, "type 'llama'"),
        ("config.json", {"id2label": {"0": "a", "1": "b"}}, r"'classifier\.out_proj\.weight' is \(1, 32\)"),
        ("config.json", {"sentence_transformers": {"activation_fn": 3}}, "the activation is 3"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, r"a SparseEncoder, .*tercet"),
        ("config_sentence_transformers.json", {"prompts": ["q"]}, "'prompts' is"),
        ("config_sentence_transformers.json", {"default_prompt_name": "quer"}, "none of the prompts"),
        ("config_sentence_transformers.json", {"default_prompt_name": ["query"]}, "none of the prompts"),
        ("sentence_bert_config.json", {"transformer_task": "text-generation"}, "'text-generation'; of a"),
        ("sentence_bert_config.json", {"max_seq_lenght": 3}, "Did you mean 'max_seq_length'"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "'max_seq_length' is -1"),
    ],
)
def test_what_cannot_be_honoured_is_named_with_its_file(file, values, message, tmp_path):
    folder = tiny_reranker.write_reranker(tmp_path, prompts={"query": "q: "})
    change(folder, file, **values)
    with pytest.raises(CheckpointError, match=message) as error:
        open_reranker(folder)
    assert str(tmp_path) in str(error.value)


def test_a_head_that_is_there_twice_is_refused(tmp_path):
    folder = tiny_reranker.write_reranker(tmp_path)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "module.classifier.out_proj.bias": tensors["classifier.out_proj.bias"] + 1}, path)
    with pytest.raises(CheckpointError, match=r"'classifier\.out_proj\.bias' \(2 times\)"):
        open_reranker(folder)


def test_no_folder_is_told_from_a_folder_of_something_else(tmp_path):
    with pytest.raises(CheckpointError, match="is not a folder"):
        open_reranker(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        open_reranker(tmp_path)
