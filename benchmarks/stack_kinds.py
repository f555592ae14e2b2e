"""The kinds of stack that stacks.py measures: whose they are, by which class, and in which schemes."""

from __future__ import annotations

from dataclasses import dataclass

from engines import PEERS, Engine

# Short, so that all stacks fit into the time: the same for everybody.
TEXTS, LONGEST = 32, 96
SCHEMES = ("float32", "float16", "bfloat16", "int8", "int8-fast")
_ST, _FE = "sentence-transformers", "FlagEmbedding"


@dataclass(frozen=True, slots=True)
class Stack:
    """One kind of model.

    Attributes:
        name: as in results, on the command line and in make_stacks.
        title: as on the page.
        library: whose it is.
        kind: the library's class.
        call: what workers are asked for.
        multiplies: whether it is more than a table.
    """

    name: str
    title: str
    library: str
    kind: str = "SentenceTransformer"
    call: str = "encode"
    multiplies: bool = True


STACKS = {
    stack.name: stack
    for stack in (
        Stack("normalize", "mean pooling, Normalize", _ST),
        Stack("dense", "Dense, Normalize", _ST),
        Stack("layer_norm", "LayerNorm", _ST),
        Stack("cnn", "CNN", _ST),
        Stack("lstm", "LSTM", _ST),
        Stack("word_weights", "WordWeights", _ST),
        Stack("layer_pooling", "WeightedLayerPooling", _ST),
        Stack("router", "Router, the query's Dense", _ST, call="query"),
        Stack("mpnet", "MPNet", _ST),
        Stack("distilbert", "DistilBERT", _ST),
        Stack("electra", "ELECTRA", _ST),
        Stack("static", "StaticEmbedding, 256 wide", _ST, multiplies=False),
        Stack("bow", "BoW, Dense, Normalize", _ST, multiplies=False),
        Stack("qwen3", "Qwen3, the last token", _ST),
        Stack("splade", "SPLADE on DistilBERT", _ST, "SparseEncoder", "sparse"),
        Stack("csr", "SparseAutoEncoder, 1,536 wide, 32 kept", _ST, "SparseEncoder", "sparse"),
        Stack("late", "token vectors, 128 wide", _ST, "MultiVectorEncoder", "late"),
        Stack("cross_encoder", "reranker on BERT", _ST, "CrossEncoder", "pairs"),
        Stack("logit_score", "LogitScore on Qwen3", _ST, "CrossEncoder", "pairs"),
        Stack("flag_model", "first token of BERT", _FE, "FlagModel"),
        Stack("bge_m3", "BGE-M3's three outputs", _FE, "BGEM3FlagModel", "three"),
        Stack("flag_reranker", "reranker on XLM-RoBERTa", _FE, "FlagReranker", "pairs"),
    )
}


def number_of(stack: Stack) -> int:
    """Texts that a run embeds, or pairs that it scores."""
    return TEXTS // 2 if stack.call == "pairs" else TEXTS


def engines_of(stack: Stack, schemes: tuple[str, ...] = SCHEMES) -> list[Engine]:
    """The peer first, then Tercet in each scheme."""
    worker = {_ST: "stack_sentence_transformers", _FE: "stack_flag_embedding"}[stack.library]
    ours = [
        Engine(scheme, f"Tercet {scheme}", "stack_tercet", None, {"precision": scheme}) for scheme in schemes
    ]
    return [Engine("peer", stack.library, worker, PEERS), *ours]
