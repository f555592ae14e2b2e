"""Rerankers made of language models: what is read, what is computed, and what is refused."""

import json
import pickle
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import tercet
import tiny
import tiny_decoders
from tercet.checkpoint.reranker_files import open_reranker
from tercet.errors import CheckpointError, InputError, MissingExtraError, PrecisionError

PAIRS = [(text, "the city of the river, and a bridge") for text in tiny.TEXTS]


def loaded(folder, **options):
    return tercet.load_reranker(folder, **{"precision": "float32", "device": "cpu", **options})


def changed(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def folder(tmp_path):
    return tiny_decoders.write_reranker(tmp_path / "model")


def test_a_pair_scores_the_same_alone_and_among_others_in_any_batch(folder):
    together = loaded(folder).score(PAIRS)
    small = loaded(folder, token_budget=150)
    torch.testing.assert_close(small.score(PAIRS), together, rtol=1e-5, atol=1e-5)
    alone = torch.cat([small.score([pair]) for pair in PAIRS])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_a_score_is_how_much_higher_one_logit_is_than_the_other(folder):
    model = loaded(folder)
    config = model.checkpoint.modules[-1].config
    difference = model.score(PAIRS, activation="Identity")
    path = folder / "1_LogitScore" / "config.json"
    changed(path, false_token_id=None)
    true = loaded(folder).score(PAIRS, activation="Identity")
    changed(path, true_token_id=config["false"])
    false = loaded(folder).score(PAIRS, activation="Identity")
    torch.testing.assert_close(difference, true - false, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.score(PAIRS), difference.sigmoid())


def test_of_the_head_no_more_than_two_rows_are_held(folder):
    model = loaded(folder, precision="bfloat16")
    assert model._head.rows.shape == (2, 32)
    assert model._head.rows.dtype == torch.float32
    footprint = model.checkpoint.footprint()
    assert footprint.head_numbers == 0


def test_a_head_of_its_own_is_no_part_of_the_body_and_not_ignored(tmp_path):
    folder = tiny_decoders.write_reranker(tmp_path, tied=False, lm_head=True)
    checkpoint = open_reranker(folder)
    assert not any("lm_head" in name for name in (*checkpoint.tensors, *checkpoint.ignored))
    assert not any("lm_head" in note for note in checkpoint.notes)
    before = loaded(folder).score(PAIRS)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] *= -1
    save_file(tensors, folder / "model.safetensors")
    torch.testing.assert_close(loaded(folder).score(PAIRS), 1 - before)


def test_a_language_model_ranks_pickles_and_is_planned(folder):
    model = loaded(folder)
    documents = [document for document in tiny.TEXTS]
    ranked = model.rank("the river", documents, top_k=3)
    scores = model.score([("the river", document) for document in documents])
    assert [one.index for one in ranked] == scores.argsort(descending=True, stable=True)[:3].tolist()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again.score(PAIRS), model.score(PAIRS))
    plan = tercet.plan(folder, device="cpu")
    assert plan.scheme.engine == "torch_packed"
    with pytest.raises(PrecisionError, match="encoders alone, and qwen3 is a decoder"):
        loaded(folder, precision="int8")


def test_a_text_cannot_reach_the_template(folder):
    plain, odd = "{{ 7 * 7 }}", "{% for x in [] %}"
    scores = loaded(folder).score([(plain, "a"), ("49", "a"), (odd, "a")])
    assert float((scores[0] - scores[1]).abs()) > 1e-6
    assert bool(scores.isfinite().all())


def test_a_prompt_is_a_message_of_the_system_and_changes_scores(folder):
    model = loaded(folder)
    assert float((model.score(PAIRS, prompt="of fish?") - model.score(PAIRS)).abs().max()) > 1e-3
    torch.testing.assert_close(model.score(PAIRS, prompt=""), model.score(PAIRS))


def test_another_rule_of_truncation_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"truncation='only_second'.*Leave truncation out"):
        loaded(folder).score(PAIRS, truncation="only_second")
    plain = tiny_decoders.write_reranker(tmp_path / "plain", template=None)
    cut = loaded(plain).score(PAIRS, truncation="only_second", max_length=8)
    assert float((cut - loaded(plain).score(PAIRS)).abs().max()) > 1e-3


def test_a_cut_pair_still_ends_as_the_template_does(folder, caplog):
    model = loaded(folder)
    long = ("river", "of the city " * 200)
    whole = model._pairs.encode([long], max_length=10_000).ids[0]
    cut = model._pairs.encode([long, PAIRS[0]], max_length=120)
    assert cut.truncated == [True, False]
    [ids, _] = cut.ids
    assert len(ids) == 120
    ended = next(n for n in range(1, 120) if ids[-n:] != whole[-n:]) - 1
    assert model.tokenizer.token_to_id("<|im_end|>") in ids[-ended:]
    assert ids[: 120 - ended] == whole[: 120 - ended]
    model.score([long], max_length=120)
    assert "1 of 1 pairs were longer than 120 tokens and were cut" in caplog.text


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ dict.__subclasses__() }}",
        "{% include 'config.json' %}",
        "{{ range(999999999) | list }}",
        "{{ raise_exception('no roles') }}",
        "{{ 1 / 0 }}",
        "{{ messages[9].content.nothing }}",
        "{{ 1e999 | int }}",
    ],
)
def test_a_template_that_reaches_out_or_fails_is_an_error_that_names_the_file(attack, tmp_path):
    folder = tiny_decoders.write_reranker(tmp_path, template=attack + tiny_decoders.TEMPLATE, in_file=True)
    with pytest.raises(
        CheckpointError, match=r"chat_template.jinja: this chat template .*it fails on a pair"
    ):
        loaded(folder)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% if %}", "it is no Jinja template"),
        ("{% break %}", "it is no Jinja template .SyntaxError"),
        ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "it is no Jinja template .RecursionError"),
        ("{{ " + "9" * 5000 + " }}", "it is no Jinja template .ValueError"),
        ("{{ messages[0].content }}", "role 'document' does not get through it"),
        ("always the same", "role 'query' and 'document' does not get through"),
    ],
)
def test_a_template_that_takes_no_pairs_is_refused(template, says, tmp_path):
    folder = tiny_decoders.write_reranker(tmp_path, template=template)
    with pytest.raises(CheckpointError, match=f"tokenizer_config.json: this chat template .*{says}"):
        loaded(folder)


def test_without_jinja_the_extra_is_named_before_anything_is_loaded(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'tercet\[chat\]'"):
        loaded(folder)


def test_an_old_jinja_is_refused(folder, monkeypatch):
    import jinja2

    monkeypatch.setattr(jinja2, "__version__", "3.1.4")
    with pytest.raises(
        CheckpointError, match=r"jinja2 3.1.6 or later, and 3.1.4 is installed.*pip install -U"
    ):
        loaded(folder)


@pytest.mark.parametrize(
    ("place", "changes", "says"),
    [
        ("1_LogitScore/config.json", {"true_token_id": None}, "'true_token_id' is None"),
        ("1_LogitScore/config.json", {"false_token_id": -1}, "'false_token_id' is -1"),
        ("1_LogitScore/config.json", {"true_token_id": 10_000}, "true_token_id is 10000, and the model has"),
        ("1_LogitScore/config.json", {"module_input_name": "scores"}, "'module_input_name' is 'scores'"),
        ("1_LogitScore/config.json", {"scale": 2}, "setting 'scale' is not known"),
        (
            "sentence_bert_config.json",
            {"transformer_task": "any-to-any"},
            "'transformer_task' is 'any-to-any'",
        ),
        ("sentence_bert_config.json", {"module_output_name": "logits"}, "'module_output_name' is 'logits'"),
        ("sentence_bert_config.json", {"max_length": 5}, "setting 'max_length' is not known"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "'max_seq_length' is 0"),
        ("sentence_bert_config.json", {"processing_kwargs": {"image": {}}}, "processing_kwargs has 'image'"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"logits_to_keep": 0}}},
            "'logits_to_keep' = 0",
        ),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"chat_template": {"tokenize": False}}},
            "chat_template has 'tokenize'",
        ),
        (
            "sentence_bert_config.json",
            {"modality_config": {"image": {"method": "forward", "method_output_name": "logits"}}},
            "modality_config has 'image'",
        ),
        ("tokenizer_config.json", {"chat_template": None}, "there is none: neither chat_template.jinja"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side is not 'right'"),
        ("config.json", {"tie_word_embeddings": False}, "no 'lm_head.weight'"),
        (
            "config.json",
            {"model_type": "bert", "max_position_embeddings": 64},
            "only qwen3 is known.*CrossEncoder",
        ),
        ("config.json", {"model_type": "llama"}, "'llama'.*only Qwen3"),
    ],
)
def test_a_folder_that_asks_for_something_else_is_refused_with_its_place(place, changes, says, folder):
    changed(folder / place, **changes)
    with pytest.raises(CheckpointError, match=says):
        loaded(folder)


def test_a_pair_without_any_token_is_an_error_with_its_number(tmp_path):
    model = loaded(tiny_decoders.write_reranker(tmp_path, template=None))
    with pytest.raises(InputError, match=r"pair 1 has no token.*Leave pairs of two empty texts out"):
        model.score([("a", ""), ("", ""), ("b", "c")])


def test_named_templates_are_told_apart_by_default(folder):
    before = loaded(folder).score(PAIRS)
    named = [{"name": "other", "template": "x"}, {"name": "default", "template": tiny_decoders.TEMPLATE}]
    changed(folder / "tokenizer_config.json", chat_template=named)
    assert torch.equal(loaded(folder).score(PAIRS), before)


def test_code_of_its_own_is_not_run(folder):
    path = folder / "modules.json"
    path.write_text(path.read_text().replace("sentence_transformers.cross_encoder", "mine.cross_encoder"))
    with pytest.raises(CheckpointError, match="a LogitScore stands behind one Transformer of sentence-trans"):
        loaded(folder)
