import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tercet.embeddings import Embeddings, MultiVectors, SparseVectors
from tercet.errors import InputError, NonFiniteError
from tercet.evaluation.drift import DriftMeter
from tercet.evaluation.spread import cosine_drift

VOCABULARY = 50


def embeddings(texts, seed=0, noise=0.0):
    """Random embeddings with all outputs; `noise` moves every number, and some tokens come and go."""
    generator = np.random.default_rng(seed)
    dense = generator.standard_normal((texts, 12))
    lengths = generator.integers(0, 9, texts)
    tokens = [np.sort(generator.choice(VOCABULARY, length, replace=False)) for length in lengths]
    weights = [generator.uniform(0.1, 1.0, length) for length in lengths]
    rows = generator.standard_normal((int(lengths.sum()), 6))
    if noise:
        other = np.random.default_rng(seed + 1)
        dense = dense + noise * other.standard_normal(dense.shape)
        rows = rows + noise * other.standard_normal(rows.shape)
        weights = [weight * (1 + noise * other.uniform(-1, 1, len(weight))) for weight in weights]
        keep = [other.random(len(token)) > noise for token in tokens]
        tokens = [token[kept] for token, kept in zip(tokens, keep, strict=True)]
        weights = [weight[kept] for weight, kept in zip(weights, keep, strict=True)]
    sparse = SparseVectors(
        torch.from_numpy(np.concatenate([*tokens, np.zeros(0, int)])),
        torch.from_numpy(np.concatenate([*weights, np.zeros(0)])).float(),
        torch.tensor([0, *map(len, tokens)]).cumsum(0),
        VOCABULARY,
    )
    multivector = MultiVectors(torch.from_numpy(rows).float(), torch.tensor([0, *lengths]).cumsum(0))
    flags = torch.zeros(texts, dtype=torch.bool)
    return Embeddings(
        torch.from_numpy(dense).float(), sparse, multivector, torch.tensor(lengths), flags, flags
    )


def drift_of(reference, found, *cuts, most=10):
    meter = DriftMeter(most_texts=most)
    ends = [0, *cuts, len(reference)]
    for start, end in pairwise(ends):
        meter.add(reference[start:end], found[start:end])
    return meter.drift()


@given(arrays(np.float32, (4, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_equal_rows_drift_by_exactly_nothing(rows):
    drift = cosine_drift(torch.from_numpy(rows), torch.from_numpy(rows.copy()))
    assert drift.tolist() == [0.0] * 4


@given(st.integers(0, 10_000))
def test_drift_is_1_minus_cosine_and_keeps_to_its_bounds(seed):
    one, other = torch.randn(2, 20, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = 1 - torch.nn.functional.cosine_similarity(one, other)
    found = cosine_drift(one, other)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(cosine_drift(3.0 * one, other), found, rtol=1e-9, atol=1e-14)
    assert bool(((found >= 0) & (found <= 2 + 1e-12)).all())


def test_small_drift_is_precise_where_a_subtraction_would_leave_rounding():
    angle = 1e-9
    one = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    other = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    assert float(cosine_drift(one, other)) == pytest.approx(angle**2 / 2, rel=1e-6)


def test_a_row_of_zeros_drifts_by_1_from_any_other_and_not_from_itself():
    zero, other = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert cosine_drift(zero, other).tolist() == [0.0, 1.0]
    assert cosine_drift(other, zero).tolist() == [0.0, 1.0]


def test_embeddings_against_themselves_have_no_drift_at_all():
    drift = drift_of(embeddings(40), embeddings(40))
    for head in (drift.dense, drift.sparse, drift.multivector):
        assert head.cosine.worst == head.cosine.mean == head.cosine.p99 == 0.0
        assert head.cosine.texts == 40
    assert drift.dense.norm_error_worst == drift.multivector.norm_error_worst == 0.0
    assert drift.sparse.weight_error_worst == 0.0
    assert drift.sparse.gained == drift.sparse.lost == 0
    assert drift.multivector.token_worst == drift.multivector.token_mean == 0.0


def test_dense_drift_is_that_of_a_computation_by_hand():
    reference, found = embeddings(101), embeddings(101, noise=0.1)
    a, b = reference.dense.double().numpy(), found.dense.double().numpy()
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    drift = 1 - (a * b).sum(axis=1) / (lengths[0] * lengths[1])
    dense = drift_of(reference, found, most=3).dense
    assert dense.cosine.mean == pytest.approx(drift.mean(), rel=1e-9)
    assert dense.cosine.worst == pytest.approx(drift.max(), rel=1e-9)
    assert dense.cosine.p50 == pytest.approx(np.median(drift), rel=1e-9)
    assert dense.cosine.p99 == pytest.approx(np.quantile(drift, 0.99), rel=1e-9)
    assert [text for text, _ in dense.cosine.worst_texts] == np.argsort(-drift)[:3].tolist()
    errors = np.abs(lengths[1] / lengths[0] - 1)
    assert dense.norm_error_mean == pytest.approx(errors.mean(), rel=1e-9)
    assert dense.norm_error_worst == pytest.approx(errors.max(), rel=1e-9)


def test_sparse_drift_is_that_of_whole_rows():
    reference, found = embeddings(60), embeddings(60, noise=0.2)
    a, b = torch.zeros(2, 60, VOCABULARY, dtype=torch.float64)
    for matrix, side in ((a, reference.sparse), (b, found.sparse)):
        matrix[side.rows, side.token_ids] = side.weights.double()
    sparse = drift_of(reference, found).sparse
    assert sparse.cosine.mean == pytest.approx(float(cosine_drift(a, b).mean()), rel=1e-9)
    assert sparse.cosine.worst == pytest.approx(float(cosine_drift(a, b).max()), rel=1e-9)
    either = (a > 0) | (b > 0)
    errors = (a - b).abs()[either]
    assert sparse.weight_error_mean == pytest.approx(float(errors.mean()), rel=1e-9)
    assert sparse.weight_error_worst == pytest.approx(float(errors.max()), rel=1e-9)
    assert sparse.tokens == int((a > 0).sum())
    assert sparse.lost == int(((a > 0) & (b == 0)).sum()) > 0
    back = drift_of(found, reference).sparse
    assert (back.gained, back.lost) == (sparse.lost, sparse.gained)


def test_multivector_drift_is_that_of_its_rows_text_by_text():
    reference, found = embeddings(60), embeddings(60, noise=0.1)
    rows = cosine_drift(reference.multivector.vectors, found.multivector.vectors)
    parts = torch.split(rows, reference.multivector.lengths.tolist())
    means = [float(part.mean()) if len(part) else 0.0 for part in parts]
    multivector = drift_of(reference, found, 7, 30).multivector
    assert multivector.cosine.mean == pytest.approx(np.mean(means), rel=1e-9)
    assert multivector.cosine.worst == pytest.approx(max(means), rel=1e-9)
    assert multivector.token_mean == pytest.approx(float(rows.mean()), rel=1e-9)
    text, token = multivector.worst_token
    assert float(parts[text][token]) == multivector.token_worst == float(rows.max())


@given(st.lists(st.integers(0, 30), max_size=5))
def test_parts_add_up_to_the_whole(cuts):
    reference, found = embeddings(30), embeddings(30, noise=0.3)
    whole, parts = drift_of(reference, found), drift_of(reference, found, *sorted(cuts))
    for name in ("dense", "sparse", "multivector"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert one.cosine == other.cosine
        for field in one.__dataclass_fields__:
            if field not in ("cosine", "worst_token"):
                assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-12)
    assert whole.multivector.worst_token == parts.multivector.worst_token


def test_of_equal_drifts_the_first_is_named_in_any_parts():
    reference, found = embeddings(6), embeddings(6)
    for side, sign in ((reference, 1.0), (found, -1.0)):
        side.multivector.vectors.zero_()[:, 0] = sign
    first = next(text for text, length in enumerate(reference.multivector.lengths.tolist()) if length)
    for cuts in ((), (1, 2, 4), (5,)):
        multivector = drift_of(reference, found, *cuts).multivector
        assert (multivector.token_worst, multivector.worst_token) == (2.0, (first, 0))


def test_a_drift_becomes_json_and_outputs_that_were_not_compared_are_none():
    reference = embeddings(5)
    alone = Embeddings(reference.dense, None, None, *(getattr(reference, name) for name in _FLAGS))
    found = drift_of(alone, alone).to_json()
    assert found["sparse"] is found["multivector"] is None
    assert found["dense"]["cosine"]["worst_texts"][0] == (0, 0.0)


_FLAGS = ("num_tokens", "truncated", "recomputed")


def test_what_cannot_be_compared_is_refused_by_name():
    five, six = embeddings(5), embeddings(6)
    with pytest.raises(InputError, match="The reference has 5 texts, the other embeddings 6"):
        DriftMeter().add(five, six)
    with pytest.raises(InputError, match="There is no drift of no text"):
        DriftMeter().drift()
    meter = DriftMeter()
    meter.add(five, five)
    shuffled = five[[1, 0, 2, 3, 4]]
    assert five.num_tokens[0] != five.num_tokens[1]
    with pytest.raises(InputError, match=r"text 5 has .* tokens in the reference"):
        meter.add(five, shuffled)
    alone = Embeddings(five.dense, None, None, *(getattr(five, name) for name in _FLAGS))
    with pytest.raises(
        InputError, match="The reference has the outputs dense, sparse, multivector, the other"
    ):
        meter.add(five, alone)
    with pytest.raises(InputError, match="These texts have the outputs dense, those before dense, sparse"):
        meter.add(alone, alone)
    narrow = Embeddings(five.dense[:, :4], None, None, *(getattr(five, name) for name in _FLAGS))
    with pytest.raises(InputError, match=r"dense vectors are \(5, 12\) and \(5, 4\)"):
        DriftMeter().add(alone, narrow)


@pytest.mark.parametrize("head", ["dense", "sparse", "multivector"])
def test_a_value_that_is_not_finite_names_its_text_and_side(head):
    reference, found = embeddings(8), embeddings(8)
    meter = DriftMeter()
    meter.add(reference, found)
    values = {"dense": found.dense, "sparse": found.sparse.weights, "multivector": found.multivector.vectors}[
        head
    ]
    values[-1] = torch.nan
    with pytest.raises(NonFiniteError, match=rf"text 15 .*{head} output of the other embeddings"):
        meter.add(reference, found)
