import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from tercet.checkpoint.layout import open_checkpoint
from tercet.errors import CheckpointError, InputError, MissingExtraError
from tercet.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def bert(tiny_bert):
    return Tokenizer.open(open_checkpoint(tiny_bert))


@pytest.fixture(scope="module")
def xlm_roberta(tmp_path_factory):
    folder = tiny.write_checkpoint(tmp_path_factory.mktemp("tokenizer") / "xlmr", "xlm-roberta")
    return Tokenizer.open(open_checkpoint(folder))


def test_the_packaged_minilm_is_neither_padded_nor_cut_at_its_files_128_tokens(minilm):
    tokenizer = Tokenizer.open(open_checkpoint(minilm))
    encoded = tokenizer.encode(["word " * 200, "short"], max_length=256)
    assert [len(ids) for ids in encoded.ids] == [202, 3]
    assert encoded.truncated == [False, False]
    encoded = tokenizer.encode(["word " * 300], max_length=256)
    assert len(encoded.ids[0]) == 256
    assert encoded.truncated == [True]


def test_a_cut_text_keeps_its_special_tokens(bert):
    [whole] = bert.encode(["the cat is on the bridge"], max_length=60).ids
    [cut] = bert.encode(["the cat is on the bridge"], max_length=5).ids
    assert cut == whole[:4] + whole[-1:]


@given(text=st.text(alphabet="the cat is é東 ", max_size=60), max_length=st.integers(3, 12))
def test_cutting_is_the_whole_text_cut(xlm_roberta, text, max_length):
    whole = xlm_roberta.encode([text], max_length=1000)
    cut = xlm_roberta.encode([text], max_length=max_length)
    [ids] = whole.ids
    assert cut.truncated == [len(ids) > max_length]
    assert cut.ids == [ids if len(ids) <= max_length else ids[: max_length - 1] + ids[-1:]]


@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta"])
def test_the_beginning_of_a_huge_text_gives_the_same_ids_as_the_whole(tmp_path, architecture):
    folder = tiny.write_checkpoint(tmp_path / "model", architecture)
    tokenizer = Tokenizer.open(open_checkpoint(folder))
    text = "".join(f"the  cat {i} is\n\non the bridge, " for i in range(3000))
    shortened = tokenizer.encode([text], max_length=20)
    [whole] = tokenizer.encode([text], max_length=1_000_000).ids
    assert shortened.truncated == [True]
    assert shortened.ids == [whole[:19] + whole[-1:]]


def test_a_huge_text_of_almost_nothing_is_not_cut(bert):
    text = " " * 100_000 + "cat" + " " * 100_000 + "dog"
    encoded = bert.encode([text], max_length=20)
    assert encoded.truncated == [False]
    assert encoded.ids == bert.encode(["cat dog"], max_length=20).ids


def test_a_prompt_goes_before_the_text_and_its_tokens_are_counted_with_the_first_special_one(bert):
    encoded = bert.encode(["the cat"], max_length=60, prompt="query: ")
    assert encoded.ids == bert.encode(["query: the cat"], max_length=60).ids
    assert encoded.prompt_tokens == len(bert.encode(["query: "], max_length=60).ids[0]) - 1
    assert bert.encode(["the cat"], max_length=60).prompt_tokens == 0


def test_no_room_for_text_is_an_error_that_says_how_much_is_needed(bert):
    with pytest.raises(InputError, match=r"max_length=2 leaves no room.*Pass at least 3"):
        bert.encode(["a"], max_length=2)


def test_a_lone_surrogate_is_an_error_that_names_the_text(bert):
    with pytest.raises(InputError, match=r"text 1 of the batch is not valid Unicode"):
        bert.encode(["fine", "broken \ud800"], max_length=20)


def test_many_threads_may_encode_at_different_lengths_at_once(bert):
    texts = ["the cat is on the bridge " * 3] * 20
    wanted = {n: bert.encode(texts, max_length=n).ids for n in range(3, 30)}
    with ThreadPoolExecutor(8) as pool:
        lengths = [3 + i % 27 for i in range(200)]
        for n, ids in zip(
            lengths, pool.map(lambda n: bert.encode(texts, max_length=n).ids, lengths), strict=True
        ):
            assert ids == wanted[n]


def test_special_ids_are_those_of_cls_sep_pad_and_unk_without_mask(bert, xlm_roberta):
    named = {bert.id_to_token(i) for i in bert.special_ids}
    assert named == {"[CLS]", "[SEP]", "[PAD]", "[UNK]"}
    assert {xlm_roberta.id_to_token(i) for i in xlm_roberta.special_ids} == {"<s>", "</s>", "<pad>", "<unk>"}


def test_a_missing_tokenizer_is_an_error_that_names_the_files_looked_for(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    for path in [*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("special*")]:
        path.unlink()
    with pytest.raises(
        CheckpointError, match=r"there is no tokenizer.*tokenizer\.json.*sentencepiece\.bpe\.model"
    ):
        Tokenizer.open(open_checkpoint(folder))


def test_an_older_vocabulary_file_asks_for_the_extra_that_converts_it(tiny_bert, tmp_path, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n", encoding="utf-8")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"vocab\.txt.*pip install 'tercet\[transformers\]'"):
        Tokenizer.open(open_checkpoint(folder))


def test_a_damaged_tokenizer_is_an_error_that_names_the_file(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    (folder / "tokenizer.json").write_text('{"version": "1.0"', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is not a tokenizer.*Fetch the file again"):
        Tokenizer.open(open_checkpoint(folder))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused_by_name(tiny_bert, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    data["added_tokens"].append(
        {"id": size, "content": "[NEW]", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": False}
    )  # fmt: skip
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"\[NEW\].*embeddings"):
        Tokenizer.open(open_checkpoint(folder))


def test_lower_casing_asked_for_by_the_checkpoint_is_done(minilm):
    checkpoint = open_checkpoint(minilm)
    inner = __import__("tokenizers").Tokenizer.from_file(str(checkpoint.tokenizer_file))
    plain = Tokenizer(inner, special_ids=frozenset())
    lowered = Tokenizer(inner, special_ids=frozenset(), lowercase=True)
    assert (
        lowered.encode(["İstanbul ẞ"], max_length=30).ids == plain.encode(["i̇stanbul ß"], max_length=30).ids
    )
