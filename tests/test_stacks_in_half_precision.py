"""What half precision costs every kind of stack, for each stored dtype × each dtype that is asked for."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import static_models
import tercet
import tiny
import tiny_reranker
import tiny_routes
import tiny_sparse
from recorder import bag_cases, late_cases
from tiny_modules import (
    cnn,
    dense,
    layer_pooling,
    lstm,
    normalize,
    pooling,
    router,
    word_weights,
    write_stack,
)

TEXTS = tiny.TEXTS
PAIRS = [(text, "the city of the river, and a bridge") for text in TEXTS]
STORED = ("float32", "float16", "bfloat16")
STATES = {"config": {"output_hidden_states": True}, "layers": 3}
ROUTES = {"query": (dense("query", 16),), "document": (dense("document", 16),)}

# The largest distance of a row to the one in float64 of the same files, in lengths of that row, as stated of
# these stacks. They are tiny, random and of few layers: what a real model loses, `tercet audit` tells.
DRIFT = {
    "vectors": {"float32": 2e-6, "float16": 3e-3, "bfloat16": 3e-2},
    # Sums of weights of either sign come near zero.
    "word weights": {"float32": 4e-6, "float16": 1e-2, "bfloat16": 1e-1},
    # Behind a ReLU, a row is shorter than what it is made of; BGE-M3's has a few numbers alone.
    "lexical weights": {"float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-1},
    "splade": {"float32": 4e-6, "float16": 1e-2, "bfloat16": 5e-2},
    # Of eight numbers each, and the worst of hundreds.
    "token vectors": {"float32": 4e-6, "float16": 1e-2, "bfloat16": 8e-2},
    "scores": {"float32": 5e-6, "float16": 1e-2, "bfloat16": 8e-2},
    # Nothing but the rounding of each number to 11 bits or to 8.
    "table": {"float32": 1e-6, "float16": 5e-4, "bfloat16": 4e-3},
    # Taken in float32 whatever is asked for.
    "token weights": {"float32": 1e-6, "float16": 1e-6, "bfloat16": 1e-6},
    "bag of words": {"float32": 2e-6, "float16": 2e-6, "bfloat16": 2e-6},
}


def of_modules(*parts, **settings):
    return partial(write_stack, parts=parts, **settings)


def of_tiny(architecture, *modules, **settings):
    return partial(
        tiny.write_checkpoint,
        architecture=architecture,
        layout="sentence-transformers",
        modules=modules,
        **settings,
    )


def vectors(folder, precision):
    found = tercet.load(folder, precision=precision, device="cpu")
    return found.plan, {"dense": found.encode(TEXTS).dense}


def routed(folder, precision):
    found = tercet.load(folder, precision=precision, device="cpu")
    return found.plan, {
        "query": found.encode_query(TEXTS).dense,
        "document": found.encode_document(TEXTS).dense,
    }


def three(folder, precision):
    model = tercet.load(folder, precision=precision, device="cpu")
    found = model.encode(TEXTS, outputs=("dense", "sparse", "multivector"))
    return model.plan, {
        "dense": found.dense,
        "lexical weights": laid_out(found.sparse),
        "multivector": found.multivector.vectors,
    }


def laid_out(sparse):
    """(texts, vocabulary), with a zero for each token that has no weight."""
    rows = torch.zeros(len(sparse), sparse.vocabulary, dtype=sparse.weights.dtype)
    rows[sparse.rows, sparse.token_ids.long()] = sparse.weights
    return rows


def weights(folder, precision):
    model = tercet.load(folder, precision=precision, device="cpu")
    return model.plan, {"sparse": laid_out(model.encode(TEXTS).sparse)}


def inference_free(folder, dtype):
    write = partial(tiny_sparse.write_splade, dtype=dtype)
    query = partial(tiny_routes.write_token_weights, dtype=dtype)
    return tiny_routes.join(folder, {"query": query, "document": write}, default_route="document")


def routed_weights(folder, precision):
    model = tercet.load(folder, precision=precision, device="cpu")
    return model.plan, {
        "token weights": laid_out(model.encode_query(TEXTS).sparse),
        "sparse": laid_out(model.encode_document(TEXTS).sparse),
    }


def two_encoders(folder, dtype):
    query = partial(write_stack, parts=(pooling(),), dtype=dtype)
    document = partial(write_stack, parts=(pooling("cls"),), architecture="roberta", dtype=dtype)
    return tiny_routes.join(folder, {"query": query, "document": document})


def bag_of_words(folder, dtype):
    return bag_cases.write(folder, "dense, normalize", dtype=dtype)


def late(folder, precision):
    model = tercet.load(folder, precision=precision, device="cpu")
    both = (encode(TEXTS).multivector.vectors for encode in (model.encode_query, model.encode_document))
    return model.plan, {"token vectors": torch.cat(list(both))}


def scores(folder, precision):
    model = tercet.load_reranker(folder, precision=precision, device="cpu")
    # One row: how near each score is beside the largest.
    return model.plan, {"scores": model.score(PAIRS, activation="Identity").reshape(1, -1)}


IDENTITY = {"out_features": 16, "activation_function": "torch.nn.modules.linear.Identity"}
STACKS: dict[str, tuple[Callable, Callable]] = {
    "pooling of every kind": (
        of_modules(pooling("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")),
        vectors,
    ),
    "dense, normalize": (of_tiny("bert", "pooling", ("dense", {"out_features": 16}), "normalize"), vectors),
    "dense, layer norm": (of_tiny("bert", "pooling", ("dense", IDENTITY), "layer_norm"), vectors),
    "cnn": (of_modules(cnn(6), pooling()), vectors),
    "lstm": (of_modules(lstm(12), pooling()), vectors),
    "cnn, then lstm": (of_modules(cnn(6, (1, 3)), lstm(8), pooling(), normalize()), vectors),
    "word weights": (of_modules(word_weights(), pooling("mean", "weightedmean"), dense("d", 16)), vectors),
    "weighted layer pooling": (of_modules(layer_pooling(3, 1), pooling(), **STATES), vectors),
    "router": (of_modules(pooling(), router(ROUTES), normalize()), routed),
    "roberta": (of_tiny("roberta", "pooling"), vectors),
    "xlm-roberta": (of_tiny("xlm-roberta", "pooling"), vectors),
    "mpnet": (of_tiny("mpnet", "pooling", "normalize"), vectors),
    "distilbert": (of_tiny("distilbert", "pooling"), vectors),
    "electra": (of_tiny("electra", "pooling", embedding=16), vectors),
    "bge-m3": (partial(tiny.write_checkpoint, architecture="xlm-roberta", layout="bge-m3"), three),
    "splade": (tiny_sparse.write_splade, weights),
    "splade, sums": (partial(tiny_sparse.write_splade, architecture="distilbert", strategy="sum"), weights),
    # All features: which are the largest may turn on the last bit, and with it on the product's own order.
    "csr": (partial(tiny_sparse.write_csr, k=48), weights),
    "token weights": (tiny_routes.write_token_weights, weights),
    "splade, inference-free": (inference_free, routed_weights),
    "two encoders": (two_encoders, routed),
    "late interaction": (partial(late_cases.write, name="multi-vector"), late),
    "colbert": (partial(late_cases.write, name="colbert"), late),
    # Counts of words, and weights of JSON, in float32 whatever is asked for.
    "bag of words": (bag_of_words, vectors),
    "table": (partial(static_models.write_static, modules=()), vectors),
    "table, then dense": (partial(static_models.write_static, modules=("dense", "normalize")), vectors),
    "reranker, bert": (partial(tiny_reranker.write_reranker, architecture="bert"), scores),
    "reranker, xlm-roberta": (tiny_reranker.write_reranker, scores),
    "reranker, mpnet": (partial(tiny_reranker.write_reranker, architecture="mpnet"), scores),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(stack, stored dtype) -> its folder and its outputs in float64, each made once."""
    made = {}

    def of(name, stored):
        if (name, stored) not in made:
            folder = tmp_path_factory.mktemp("stack") / "model"
            write, run = STACKS[name]
            write(folder, dtype=stored)
            made[name, stored] = folder, run(folder, "float64")[1]
        return made[name, stored]

    return of


@pytest.mark.parametrize("asked", ["float32", "float16", "bfloat16", "checkpoint", "auto"])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_stays_within_its_drift_whatever_is_stored_and_asked_for(name, stored, asked, written):
    folder, exact = written(name, stored)
    plan, found = STACKS[name][1](folder, asked)
    computed = str(plan.precision.compute)
    expected = {"checkpoint": stored, "auto": computed}.get(asked, asked)
    assert computed == expected
    assert str(plan.precision.heads) == "float32"
    for output, values in found.items():
        assert values.dtype == torch.float32
        stated = DRIFT.get(output) or DRIFT.get(name.partition(",")[0]) or DRIFT["vectors"]
        drift = distance(values, exact[output])
        assert drift <= stated[computed], output
        exactly = name.startswith("table") or {"token weights", "bag of words"} & {name, output}
        if computed != "float32" and not exactly:
            assert drift > 10 * stated["float32"], "this was not computed in 16 bits"


def distance(found, exact):
    """The largest distance of a row, in lengths of the exact one; a row of zeros must be one."""
    found, exact = (np.asarray(rows.detach().numpy(), dtype=np.float64) for rows in (found, exact))
    assert found.shape == exact.shape
    lengths = np.linalg.norm(exact, axis=1)
    apart = np.linalg.norm(found - exact, axis=1)
    return float((apart / np.where(lengths > 0, lengths, 1.0)).max())
