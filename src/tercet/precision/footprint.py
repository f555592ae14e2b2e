"""The numbers of a checkpoint that a plan needs, and the memory that they lead to."""

from __future__ import annotations

__all__ = [
    "CSR_ROWS",
    "SPLADE_COLUMNS",
    "SPLADE_ROWS",
    "Footprint",
    "predict_memory",
    "show_bytes",
    "weight_bytes",
]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from tercet.precision.dtype import DType, Precision

FileFormat = Literal["safetensors", "torch", "torch-legacy"]

# Measured with benchmarks/peak_memory.py: what a process keeps besides weights and activations.
_RUNTIME_BYTES = 10 << 20  # compiled kernels and scratch of the maths library after its first forward
# Results of one layer leave holes that those of the next do not fit, about as much as is in use; glibc gives
# back what is free beyond twice its largest threshold for blocks of their own (mallopt(3)).
_MOST_HOLES_BYTES = 64 << 20
_CAST_CHUNK_BYTES = 32 << 20  # of a file that are mapped at once while a tensor is cast
_TOKENIZER_BYTES = 600  # of each entry of the vocabulary
_BLOCK_ROWS = 256  # of a feed-forward net with packed weights
_SCALE_BYTES = 8  # a float32 scale of a group of weights, and their sum
# Of the numbers (tokens, vocabulary) of a masked-language head, so many rows and columns exist at a time.
SPLADE_ROWS, SPLADE_COLUMNS = 1024, 4096
CSR_ROWS = 256  # texts whose features a SparseAutoEncoder has all at a time
_SPLADE_ENTRIES = 8  # that a token leaves in its text's vector, a few at most as a rule
_SPLADE_ENTRY_BYTES = 64  # while they are put in order
_GPU_WORKSPACE_BYTES = 96 << 20  # cuBLAS's workspace and the allocator's rounding
_BIAS_BLOCK_BYTES = 64 << 20  # of an attention bias that is written out at once (layers/attention.py)


@dataclass(frozen=True, slots=True)
class Footprint:
    """The numbers of a checkpoint that a plan needs; read from headers, without one weight.

    Attributes:
        name: what the user called the model.
        architecture: config.json's model_type: "bert", "xlm-roberta"; "static" of a table alone.
        file_format: how the body's weights are stored; "torch-legacy" must be read whole.
        stored: stored dtype name -> numbers of the whole checkpoint in that dtype.
        body_numbers: floating-point numbers of the encoder that are read in the planned format.
        head_numbers: floating-point numbers of heads and other modules.
        largest_tensor: numbers of the largest single tensor.
        hidden, layers, attention_heads, intermediate, vocabulary: the encoder's sizes.
        max_tokens: longest text in tokens that the model takes, special tokens included; 0 of any length.
        outputs: what the checkpoint can make, of "dense", "sparse", "multivector".
        dense_dim, multivector_dim: widths of the vectors; multivector_dim None without that head.
        fused_numbers: numbers of the encoder that are copied on load even when nothing is cast (fused q/k/v).
        token_numbers: most numbers of one token that a module over token vectors holds at once.
        layer_numbers: weights of the linear layers of one layer; 0 of BERT's form.
        layer_width: most numbers of one token that exist at a time within a layer; 0 of BERT's form.
        mixes_layers: whether the sum of several layers is held beside the one that is being computed.
        biased: whether attention adds a bias to the score of each pair of tokens.
        table_bytes: of a table without layers, which is used as it is stored.
        word_matrix_bytes: of a masked-language head's matrix, which stays as stored; 0 without such a head.
        word_matrix_tied: whether that is the encoder's table of word embeddings.
        features: of a SparseAutoEncoder, or words that a BoW counts; 0 without them.
        others: of a model whose routes have encoders of their own, those of the others, by their routes.
    """

    name: str
    architecture: str
    file_format: FileFormat
    stored: Mapping[str, int]
    body_numbers: int
    head_numbers: int
    largest_tensor: int
    hidden: int
    layers: int
    attention_heads: int
    intermediate: int
    vocabulary: int
    max_tokens: int
    outputs: tuple[str, ...]
    dense_dim: int
    multivector_dim: int | None
    fused_numbers: int
    token_numbers: int = 0
    layer_numbers: int = 0
    layer_width: int = 0
    mixes_layers: bool = False
    biased: bool = False
    table_bytes: int = 0
    word_matrix_bytes: int = 0
    word_matrix_tied: bool = False
    features: int = 0
    others: Mapping[str, Footprint] = field(default_factory=dict)

    @property
    def stored_dtype(self) -> str:
        """Torch's name of the floating-point format of most numbers; "float32" where there are none."""
        floats = {name: count for name, count in self.stored.items() if "float" in name}
        return max(floats, key=lambda name: floats[name], default="float32")

    @property
    def linear_numbers(self) -> int:
        """Weights of the layers' linear layers, which are what is packed or quantised."""
        return min(self.body_numbers, self.layers * self.linear_numbers_of_a_layer)

    @property
    def linear_numbers_of_a_layer(self) -> int:
        """The same of one layer."""
        return self.layer_numbers or 4 * self.hidden * self.hidden + 2 * self.hidden * self.intermediate


def weight_bytes(footprint: Footprint, precision: Precision, group: int | None = None) -> int:
    """Bytes of the weights once they are loaded, the heads' and other encoders' included.

    A table alone counts as it is stored.

    Where the weights are in another format than the arithmetic, only linear layers are; the rest stays as
    stored, or in the format of the arithmetic where that is the smaller.

    Args:
        footprint: the checkpoint's numbers.
        precision: which format runs where.
        group: so many quantised weights share one scale; None where a whole row does.
    """
    heads = footprint.head_numbers * precision.heads.bytes + footprint.table_bytes
    heads += sum(weight_bytes(other, precision, group) for other in footprint.others.values())
    if precision.weights is precision.compute:
        return footprint.body_numbers * precision.weights.bytes + heads
    linear = footprint.linear_numbers
    rest = (footprint.body_numbers - linear) * min(_bytes_of(footprint.stored_dtype), precision.compute.bytes)
    scales = 0 if precision.weights.bytes > 1 else linear // (group or footprint.hidden) * _SCALE_BYTES
    return linear * precision.weights.bytes + scales + rest + heads


def predict_memory(
    footprint: Footprint,
    precision: Precision,
    *,
    device: str,
    tokens: int,
    outputs: tuple[str, ...],
    process_bytes: int,
    group: int | None = None,
    keeps_memory: bool = False,
) -> tuple[tuple[str, int], ...]:
    """(what, bytes) of everything that is held at the peak of loading a model and running one batch.

    On the CPU this is the whole process, pages of mapped files counted, as VmHWM counts them; on a GPU the
    device alone. What only loading holds (a part of a tensor being cast, or a legacy file read whole) counts
    where that peak is the higher one. The embedding table counts whole; a short run touches little of it.

    Args:
        footprint: the checkpoint's numbers.
        precision: which format runs where.
        device: torch's name.
        tokens: of the largest batch, or of the longest text where that is longer.
        outputs: which outputs are made.
        process_bytes: what the process held before loading, torch's libraries included.
        group: so many quantised weights share one scale; None where a whole row does.
        keeps_memory: whether the engine uses the memory of results again, and leaves no holes in the heap.
    """
    others, footprint = footprint.others, replace(footprint, others={})
    weights = weight_bytes(footprint, precision, group)
    # Kernels of our own compute a feed-forward net with narrower weights by blocks of rows.
    blocked = device == "cpu" and keeps_memory and precision.weights is not precision.compute
    running = max(
        _activation_bytes(one, precision, tokens, outputs, blocked=blocked)
        for one in (footprint, *others.values())
    )
    holes, recomputing = 0 if keeps_memory else min(running, _MOST_HOLES_BYTES), 0
    if footprint.layers and min(precision.compute.bytes, precision.weights.bytes) < 4:
        layer = 4 * footprint.linear_numbers_of_a_layer
        # Decoders have no table of positions.
        positions = 0 if footprint.layer_numbers else 4 * footprint.max_tokens * footprint.hidden
        wide = Precision(DType.FLOAT32, DType.FLOAT32, precision.heads, precision.output)
        again = _activation_bytes(footprint, wide, tokens, outputs)
        recomputing = layer + positions
        if again > running:  # results of another size do not fit the holes that there are
            recomputing += again - running + min(again, _MOST_HOLES_BYTES)
    loading = _loading_bytes(footprint, precision, weights)
    after = running + holes + recomputing
    matrix = footprint.word_matrix_bytes
    beside = [
        (f"{name}: weights", weight_bytes(other, precision, group) + other.word_matrix_bytes)
        for name, other in others.items()
    ]
    if device != "cpu":
        bias = _bias_bytes(footprint, precision, tokens)
        return (
            ("weights", weights),
            *([("the masked-language head's matrix", matrix)] if matrix else []),
            *beside,
            (f"one batch of {tokens:,} tokens", running),
            *([("attention with a bias, in padded blocks", bias)] if bias else []),
            ("workspace of the maths library", _GPU_WORKSPACE_BYTES),
        )
    parts = [
        ("this process before loading", process_bytes),
        ("tokenizer", _TOKENIZER_BYTES * footprint.vocabulary),
        ("weights", weights),
    ]
    # Both are one mapping of the file where the encoder's table is not cast.
    if matrix and not (footprint.word_matrix_tied and footprint.stored_dtype == str(precision.weights)):
        parts.append(("the masked-language head's matrix", matrix))
    parts += beside
    parts += [(f"{name}: tokenizer", _TOKENIZER_BYTES * other.vocabulary) for name, other in others.items()]
    if loading > after + _RUNTIME_BYTES:
        what = (
            "the legacy file, read whole"
            if footprint.file_format == "torch-legacy"
            else "the part of a tensor being cast"
        )
        return (*parts, (what, loading))
    parts += [
        ("the maths library at work", _RUNTIME_BYTES),
        (f"one batch of {tokens:,} tokens", running),
    ]
    if holes > 0:
        parts.append(("holes that its results leave in the heap", holes))
    if footprint.biased and keeps_memory:
        # Kernels of our own know no bias: queries turned round, what they are mixed to, and that turned back.
        by_torch = 3 * tokens * footprint.hidden * precision.compute.bytes
        parts.append(("attention with a bias, which is torch's", by_torch))
    if recomputing > 0:
        parts.append(("a layer in float32, for texts that leave the range", recomputing))
    return tuple(parts)


def _loading_bytes(footprint: Footprint, precision: Precision, weights: int) -> int:
    """Bytes held only while loading, beyond the weights in their final format."""
    stored, planned = _bytes_of(footprint.stored_dtype), precision.weights.bytes
    casts = footprint.stored_dtype != str(precision.weights)
    if footprint.file_format == "torch-legacy":
        # Read whole; each tensor leaves it as it is cast, so the first one stands beside all that is to come.
        whole = sum(_bytes_of(name) * count for name, count in footprint.stored.items())
        first = footprint.largest_tensor * planned if casts else 0
        return max(0, whole + first - weights)
    hidden, inner = footprint.hidden, footprint.intermediate
    if precision.weights is not precision.compute:
        return 4 * hidden * max(3 * hidden, inner)  # a linear layer before it is packed
    chunk = min(footprint.largest_tensor * stored, _CAST_CHUNK_BYTES) if casts else 0
    # a third of q/k/v before it is fused
    return chunk + (hidden * hidden * planned if footprint.fused_numbers else 0)


def _activation_bytes(
    footprint: Footprint,
    precision: Precision,
    tokens: int,
    outputs: tuple[str, ...],
    *,
    blocked: bool = False,
) -> int:
    """Bytes that one batch needs at its widest point: a feed-forward net, attention, or a head."""
    hidden, inner = footprint.hidden, footprint.intermediate
    width = footprint.layer_width or max(2 * hidden + 2 * inner, 7 * hidden)
    body, blocks = width * precision.compute.bytes, 0
    if blocked:
        body, blocks = 7 * hidden * precision.compute.bytes, 8 * inner * min(tokens, _BLOCK_ROWS)
    if not footprint.layers:
        # Rows as they are picked, widened and weighted; in float32 or wider, whatever comes after.
        body = 3 * hidden * max(4, precision.compute.bytes)
    # The heads see the last hidden state, and work on a copy of it in their own format.
    head = hidden * precision.compute.bytes
    if precision.heads is not precision.compute:
        head += hidden * precision.heads.bytes
    if footprint.mixes_layers:
        body += hidden * max(4, precision.compute.bytes)  # the sum, in float32 or wider
    head += footprint.token_numbers * precision.heads.bytes
    if "multivector" in outputs and footprint.multivector_dim:
        head += 3 * footprint.multivector_dim * precision.heads.bytes
    if "sparse" in outputs:
        head += 64  # ids and weights of each token, sorted
    if "sparse" in outputs and footprint.word_matrix_bytes:
        head = hidden * (precision.compute.bytes + precision.heads.bytes)
        head += _SPLADE_ENTRIES * _SPLADE_ENTRY_BYTES
        rows, columns = min(tokens, SPLADE_ROWS), min(footprint.vocabulary, SPLADE_COLUMNS)
        # A block of numbers, the part of the matrix that makes it, and three results of the layer before.
        numbers = rows * columns + columns * hidden + 3 * rows * hidden
        return max(tokens * body + blocks, tokens * head + numbers * precision.heads.bytes)
    # A text has a token at least.
    features = min(tokens, CSR_ROWS) * footprint.features * precision.heads.bytes
    return tokens * max(body, head) + max(blocks, features)


def _bias_bytes(footprint: Footprint, precision: Precision, tokens: int) -> int:
    """Bytes that attention with a bias takes on a GPU besides; on a CPU the bias is read through a view."""
    if not footprint.biased:
        return 0
    longest, number = footprint.max_tokens, precision.compute.bytes
    pairs = footprint.attention_heads * longest * max(tokens, longest)
    block = max(min(_BIAS_BLOCK_BYTES, pairs * number), longest * longest * number)
    # Queries, keys, values, what they are mixed to, and that without padding; a block, its mask and a copy.
    return 5 * tokens * footprint.hidden * number + 3 * block


def _bytes_of(name: str) -> int:
    """Bytes of one number of a stored dtype: "float16" 2, "int64" 8, "float8_e4m3fn" 1, "bool" 1."""
    digits = "".join(c for c in name.split("_")[0] if c.isdigit())
    return max(1, int(digits) // 8) if digits else 1


def show_bytes(count: int) -> str:
    """A size for people, in decimal units: "412 MB", "2.27 GB"."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
