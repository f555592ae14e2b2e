"""The drop-in classes give what FlagEmbedding's give, call by call, at float32 to 1e-5."""

import numpy as np
import pytest

from recorder import cases, flag_calls, rerankers
from tercet import compat
from tercet.compat import BGEM3FlagModel, FlagModel, FlagReranker

OPTIONS = {"use_fp16": False, "devices": "cpu"}
CALLS = ("encode", "encode_queries", "encode_corpus")
SCORES = ("colbert", "sparse", "dense", "sparse+dense", "colbert+sparse+dense")


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("flag_calls")


@pytest.fixture(scope="module")
def m3(tmp_path_factory):
    folder = flag_calls.write(tmp_path_factory.mktemp("m3"), "m3")
    return BGEM3FlagModel(str(folder), **OPTIONS, **flag_calls.M3_OPTIONS)


def close(found, expected):
    """Within 1e-5 of the size of the numbers, and of the same shape."""
    assert np.shape(found) == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("name", flag_calls.FLAG_MODELS)
def test_a_flag_model_gives_what_flagembedding_gives(name, peer, tmp_path):
    _, options = flag_calls.FLAG_MODELS[name]
    path = str(flag_calls.write(tmp_path, name))
    model = FlagModel(path, **OPTIONS, **flag_calls.LENGTHS, **options)
    for call in CALLS:
        found = getattr(model, call)(list(flag_calls.TEXTS))
        assert found.dtype == peer[f"{name}/{call}"].dtype == np.float32
        close(found, peer[f"{name}/{call}"])
    close(model.encode_queries(flag_calls.TEXTS[2]), peer[f"{name}/one"])


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name, methods in flag_calls.SIGNATURES.items() for method in methods],
)
def test_names_their_order_and_defaults_are_those_of_flagembedding(name, method, peer):
    expected = peer[f"signature/{name}.{method}"].tolist()
    assert flag_calls.signature(getattr(compat, name), method) == expected


def test_instructions_are_really_seen(peer):
    told = [peer[f"bert with instructions/{call}"] for call in CALLS]
    assert min(np.abs(told[0] - told[1]).max(), np.abs(told[0] - told[2]).max()) > 1e-2


def test_by_default_flagembedding_rounds_weights_on_a_cpu_and_we_do_not(peer, tmp_path):
    exact, rounded = peer["bert/encode"], peer["bert/rounded"]
    path = str(flag_calls.write(tmp_path, "bert"))
    ours = FlagModel(path, devices="cpu", **flag_calls.LENGTHS).encode(list(flag_calls.TEXTS))
    assert np.abs(rounded - exact).max() > 1e-5
    # Whatever the plan took here has no visible loss; in float32 nothing is lost at all.
    assert (1 - (ours * exact).sum(axis=1)).max() <= 1e-5


@pytest.mark.parametrize("call", ["encode_queries", "encode_corpus"])
def test_the_three_outputs_are_those_of_flagembedding(call, m3, peer):
    close_to_m3(getattr(m3, call)(list(flag_calls.TEXTS)), peer, f"m3/{call}")


def test_the_three_outputs_of_one_text_are_those_of_flagembedding(m3, peer):
    one = m3.encode_queries(flag_calls.TEXTS[2])
    close_to_m3({name: [value] for name, value in one.items()}, peer, "m3/one")


def close_to_m3(found, peer, name):
    assert list(found) == ["dense_vecs", "lexical_weights", "colbert_vecs"]
    close(np.stack(list(found["dense_vecs"])), peer[f"{name}/dense"])
    assert [len(rows) for rows in found["colbert_vecs"]] == peer[f"{name}/rows"].tolist()
    close(np.concatenate(found["colbert_vecs"]), peer[f"{name}/vectors"])
    theirs = iter(peer[f"{name}/weights"])
    for text, entries in zip(found["lexical_weights"], peer[f"{name}/entries"], strict=True):
        expected = {str(int(key)): weight for key, weight in (next(theirs) for _ in range(entries))}
        # a weight that rounding alone keeps above 0 may be there on one side
        for key in {*text, *expected}:
            assert text.get(key, 0.0) == pytest.approx(expected.get(key, 0.0), abs=1e-5)
    assert peer[f"{name}/entries"].sum() > 0


def test_scores_made_of_results_are_those_of_flagembedding(m3, peer):
    queries, passages = (
        getattr(m3, call)(list(flag_calls.TEXTS)) for call in ("encode_queries", "encode_corpus")
    )
    lexical = queries["lexical_weights"], passages["lexical_weights"]
    close(m3.compute_lexical_matching_score(*lexical), peer["m3/lexical"])
    one_by_one = [m3.compute_lexical_matching_score(*pair) for pair in zip(*lexical, strict=True)]
    close(one_by_one, peer["m3/lexical of one"])
    late = [
        [m3.colbert_score(query, passage).item() for passage in passages["colbert_vecs"]]
        for query in queries["colbert_vecs"]
    ]
    close(late, peer["m3/late"])


def test_scores_of_pairs_are_those_of_flagembedding(m3, peer):
    found = m3.compute_score(list(cases.PAIRS))
    assert tuple(found) == SCORES
    for name in SCORES:
        close(found[name], peer[f"m3/score/{name}"])
    close(list(m3.compute_score(cases.PAIRS[1]).values()), peer["m3/score of one"])


def test_tokens_read_as_with_flagembedding(m3, peer):
    ids = [m3.tokenizer.token_to_id(piece) for piece in flag_calls.PIECES]
    assert (
        list(m3.convert_id_to_token({str(token_id): 1.0 for token_id in ids})) == peer["m3/pieces"].tolist()
    )


@pytest.mark.parametrize("name", rerankers.FLAG)
def test_a_flag_reranker_scores_as_flagembedding_does(name, recorded, tmp_path):
    model = FlagReranker(str(rerankers.write(tmp_path, name)), devices="cpu")
    for length in (64, 25):
        for normalize in (False, True):
            found = model.compute_score(list(rerankers.FILLED), max_length=length, normalize=normalize)
            close(found, recorded("rerankers")[f"{name}/{length}/{normalize}"])
