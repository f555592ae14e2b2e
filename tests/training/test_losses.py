"""Losses against the numbers of a hand calculation, and against plain formulas."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from largest_tensor import LargestTensor
from loss_samples import SCORES, TEACHER, outputs_of_scores, random_outputs
from tercet.errors import InputError, NonFiniteError, UnknownNameError
from tercet.training.logits import make_term
from tercet.training.losses import LOSSES, RERANKER_LOSSES, make_loss, make_reranker_loss
from tercet.training.losses.flops import flops
from tercet.training.objective import Objective, Term
from tercet.training.outputs import Outputs
from tercet.training.recipe import LossRecipe
from tercet.training.scores import scores
from tercet.training.targets import LossValue, Targets

HEADS = ("dense", "sparse", "multivector")
TAUGHT = ("kl_div", "m3_kd", "margin_mse")


def logged(values: Tensor) -> Tensor:
    """Teacher's scores whose softmax these are."""
    return values.log()


# -- the fixtures: B = 2, G = 2, temperature 1 -----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("info_nce", {}, 0.325594),
        ("kl_div", {}, 1.256518),
        ("kl_div", {"cross_entropy": False}, 0.930925),
        ("m3_kd", {}, 0.588796),
    ],
)
def test_dense_fixtures(name, options, expected):
    loss = make_loss(name, {"temperature": 1.0, **options})
    teacher = logged(TEACHER) if "scores" in loss.uses else None
    found = loss(*outputs_of_scores(SCORES), Targets(scores=teacher))
    assert float(found.value) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("distill", "expected"), [(False, 0.295308), (True, 0.370000)])
def test_unified_fixtures(distill, expected):
    loss = make_loss("m3", {"temperature": 1.0, "self_distill": distill})
    found = loss(*outputs_of_scores(SCORES), Targets())
    assert float(found.value) == pytest.approx(expected, abs=1e-6)


def test_self_distillation_starts_after_its_step():
    late = make_loss("m3", {"temperature": 1.0, "self_distill": True, "self_distill_start_step": 5})
    sides = outputs_of_scores(SCORES)
    assert float(late(*sides, Targets(step=5)).value) == pytest.approx(0.295308, abs=1e-6)
    assert float(late(*sides, Targets(step=6)).value) == pytest.approx(0.370000, abs=1e-6)


# -- plain formulas -----------------------------------------------------------------------------------


def plain_cross_entropy(matrix: Tensor, group: int) -> Tensor:
    return functional.cross_entropy(matrix, torch.arange(len(matrix)) * group)


def plain_soft(matrix: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher * matrix.log_softmax(-1)).sum(-1).mean()


def plain_own(matrix: Tensor, group: int) -> Tensor:
    return torch.stack([matrix[row, row * group : (row + 1) * group] for row in range(len(matrix))])


def plain_m3_kd(matrix: Tensor, teacher: Tensor) -> Tensor:
    group, labels = teacher.shape[1], torch.arange(len(matrix)) * teacher.shape[1]
    total, mask = matrix.new_zeros(()), torch.zeros_like(matrix)
    for place in range(group):
        each = functional.cross_entropy(matrix + mask, labels + place, reduction="none")
        total = total + (teacher[:, place] * each).mean()
        mask = mask.scatter(1, (labels + place)[:, None], torch.finfo(matrix.dtype).min)
    return total


def plain_unified(matrices: dict[str, Tensor], group: int) -> Tensor:
    dense, sparse, late = (matrices[head] for head in HEADS)
    together = dense + 0.3 * sparse + late
    terms = [plain_cross_entropy(matrix, group) for matrix in (dense, together, sparse, late)]
    loss = (terms[0] + terms[1] + 0.1 * terms[2] + terms[3]) / 4
    teacher = together.detach().softmax(-1)
    distilled = plain_soft(dense, teacher) + 0.1 * plain_soft(sparse, teacher) + plain_soft(late, teacher)
    return (loss + distilled / 3) / 2


def gradients(value: Tensor, sides: tuple[Outputs, Outputs]) -> list[Tensor]:
    leaves = [leaf for side in sides for leaf in side.tensors()]
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if grad is None else grad for grad, leaf in zip(found, leaves, strict=True)
    ]


def plain(name: str, sides: tuple[Outputs, Outputs], teacher: Tensor, temperature: float) -> Tensor:
    matrices = {head: scores(*sides, head) / temperature for head in HEADS}
    group = teacher.shape[1]
    dense, target = matrices["dense"], teacher.softmax(-1)
    if name == "info_nce":
        return plain_cross_entropy(dense, group)
    if name == "kl_div":
        return plain_soft(plain_own(dense, group), target) + plain_cross_entropy(dense, group)
    if name == "m3_kd":
        return plain_m3_kd(dense, target)
    return plain_unified(matrices, group)


@pytest.mark.parametrize("score_bytes", [1, 64 << 20])
@pytest.mark.parametrize("name", ["info_nce", "kl_div", "m3_kd", "m3"])
@settings(max_examples=15)
@given(queries=st.integers(2, 4), group=st.integers(2, 3), seed=st.integers(0, 999))
def test_values_and_gradients_are_those_of_plain_formulas_some_rows_at_a_time(
    name, score_bytes, queries, group, seed
):
    sides = random_outputs(queries, group, seed)
    teacher = torch.randn(queries, group, generator=torch.Generator().manual_seed(seed))
    options = {"temperature": 0.5, "score_bytes": score_bytes}
    loss = make_loss(name, options | ({"self_distill": True} if name == "m3" else {}))
    given_teacher = teacher if name in TAUGHT else None
    found = loss(*sides, Targets(scores=given_teacher))
    expected = plain(name, sides, teacher, 0.5)
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        gradients(found.value, sides), gradients(expected, sides), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["info_nce", "kl_div", "m3_kd"])
def test_without_in_batch_negatives_a_query_meets_its_own_group_alone(name, head):
    sides, teacher = random_outputs(3, 2, 1), torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    loss = make_loss(name, {"temperature": 0.5}, head=head)
    targets = Targets(scores=teacher if name in TAUGHT else None, in_batch=False)
    found = loss(*sides, targets).value
    own = plain_own(scores(*sides, head), 2) / 0.5
    hard = functional.cross_entropy(own, torch.zeros(3, dtype=torch.int64))
    target = teacher.softmax(-1)
    # m3_kd of a group of two: the second passage is told from nothing, so the first's term is left
    ranked = (target[:, 0] * -own.log_softmax(-1)[:, 0]).mean()
    expected = {"info_nce": hard, "kl_div": plain_soft(own, target) + hard, "m3_kd": ranked}[name]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, sides), gradients(expected, sides))


def test_unified_learns_a_teacher_in_all_four_terms():
    sides, teacher = random_outputs(3, 2, 4), torch.randn(3, 2, generator=torch.Generator().manual_seed(4))
    matrices = {head: scores(*sides, head) for head in HEADS}
    matrices["ensemble"] = matrices["dense"] + 0.3 * matrices["sparse"] + matrices["multivector"]
    terms = {name: plain_m3_kd(matrix, teacher.softmax(-1)) for name, matrix in matrices.items()}
    expected = (terms["dense"] + terms["ensemble"] + 0.1 * terms["sparse"] + terms["multivector"]) / 4
    found = make_loss("m3", {"temperature": 1.0})(*sides, Targets(scores=teacher))
    torch.testing.assert_close(found.value, expected)
    for name, term in terms.items():
        torch.testing.assert_close(found.parts[name], term)


def test_mnrl_is_info_nce_on_cosines():
    sides = random_outputs(4, 2, 2)
    unit = [Outputs(dense=functional.normalize(side.dense, dim=-1)) for side in sides]
    found = make_loss("mnrl", {"scale": 20.0})(*sides, Targets()).value
    torch.testing.assert_close(found, plain_cross_entropy(20 * unit[0].dense @ unit[1].dense.T, 2))
    assert LOSSES["mnrl"] is LOSSES["cached_mnrl"]


@pytest.mark.parametrize("head", HEADS)
def test_margin_mse_hits_the_margins_of_the_teacher(head):
    sides, teacher = random_outputs(3, 3, 5), torch.randn(3, 3, generator=torch.Generator().manual_seed(5))
    own = plain_own(scores(*sides, head), 3)
    expected = torch.stack(
        [((own[:, 0] - own[:, k]) - (teacher[:, 0] - teacher[:, k])) ** 2 for k in (1, 2)]
    ).mean()
    found = make_loss("margin_mse", head=head)(*sides, Targets(scores=teacher)).value
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, sides), gradients(expected, sides))


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6), st.integers(0, 99))
def test_cosent_orders_pairs_by_their_labels(labels, seed):
    sides = random_outputs(len(labels), 1, seed)
    cosines = functional.cosine_similarity(sides[0].dense, sides[1].dense)
    terms = [cosines.new_zeros(())]
    for a, above in enumerate(labels):
        terms += [20 * (cosines[b] - cosines[a]) for b, below in enumerate(labels) if above > below]
    expected = torch.stack(terms).logsumexp(0)
    found = make_loss("cosent")(*sides, Targets(labels=torch.tensor(labels)))
    torch.testing.assert_close(found.value, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        gradients(found.value, sides), gradients(expected + 0 * cosines.sum(), sides), rtol=1e-4, atol=1e-5
    )
    assert int(found.parts["skipped"]) == (len(set(labels)) == 1)


def test_matryoshka_is_the_mean_over_widths_each_of_unit_length():
    sides = random_outputs(3, 2, 6)
    parts = [
        plain_cross_entropy(
            functional.normalize(sides[0].dense[:, :dim], dim=-1)
            @ functional.normalize(sides[1].dense[:, :dim], dim=-1).T
            / 0.5,
            2,
        )
        for dim in (4, 2)
    ]
    inner = {"name": "info_nce", "options": {"temperature": 0.5}}
    found = make_loss("matryoshka", {"loss": inner, "dims": [4, 2]})(*sides, Targets())
    expected = (parts[0] + parts[1]) / 2
    torch.testing.assert_close(found.value, expected)
    torch.testing.assert_close(gradients(found.value, sides), gradients(expected, sides))
    weighted = make_loss("matryoshka", {"loss": inner, "dims": [4, 2], "weights": [1, 3]})
    torch.testing.assert_close(weighted(*sides, Targets()).value, parts[0] + 3 * parts[1])
    torch.testing.assert_close(found.parts["info_nce@2"], parts[1].detach())


@pytest.mark.parametrize("threshold", [None, 1])
def test_flops_is_the_dense_formula(threshold):
    vectors = random_outputs(4, 1, 7)[0].sparse
    table = torch.zeros(len(vectors), vectors.vocabulary)
    table = table.index_put((vectors.rows, vectors.token_ids), vectors.weights)
    if threshold is not None:
        table = table * ((table > 0).sum(1) > threshold)[:, None]
    expected = (table.mean(0) ** 2).sum()
    found = flops(vectors, threshold=threshold)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, vectors.weights), torch.autograd.grad(expected, vectors.weights)
    )


def test_flops_weighs_both_sides():
    sides = random_outputs(2, 2, 8)
    found = make_loss("flops", {"query_weight": 0.5, "passage_weight": 2.0})(*sides, Targets())
    expected = 0.5 * flops(sides[0].sparse) + 2 * flops(sides[1].sparse)
    torch.testing.assert_close(found.value, expected)


def test_reranker_losses_are_the_plain_formulas():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    hard = functional.cross_entropy(logits, torch.zeros(3, dtype=torch.int64))
    soft = plain_soft(logits, teacher.softmax(-1))
    found = make_reranker_loss("reranker_cross_entropy")(logits, Targets())
    torch.testing.assert_close(found.value, hard)
    taught = Targets(scores=teacher)
    torch.testing.assert_close(make_reranker_loss("reranker_distillation")(logits, taught).value, soft + hard)
    alone = make_reranker_loss("reranker_distillation", {"cross_entropy": False})
    torch.testing.assert_close(alone(logits, taught).value, soft)
    labels = torch.tensor([0.0, 1.0, 0.25])
    binary = make_reranker_loss("reranker_binary")(logits[:, :1], Targets(labels=labels)).value
    expected = functional.binary_cross_entropy(logits[:, 0].sigmoid(), labels)
    torch.testing.assert_close(binary, expected)


def test_an_objective_is_the_weighted_sum_of_its_terms():
    sides = random_outputs(3, 2, 9)
    terms = [("a", make_loss("info_nce"), 1.0), ("b", make_loss("info_nce", head="sparse"), 0.25)]
    found = Objective([Term(*term) for term in terms])(*sides, Targets())
    values = {name: loss(*sides, Targets()).value for name, loss, _ in terms}
    torch.testing.assert_close(found.value, values["a"] + 0.25 * values["b"])
    torch.testing.assert_close(found.parts["b"], values["b"].detach())
    assert {"a/info_nce", "b/zero_sparse_queries"} <= set(found.parts)
    assert Objective([Term(*term) for term in terms]).heads == ("dense", "sparse")


@pytest.mark.parametrize("score_bytes", [1, 64 << 20])
@pytest.mark.parametrize("name", ["info_nce", "kl_div", "m3_kd", "m3"])
def test_a_passage_that_is_not_allowed_is_not_there(name, score_bytes):
    sides, teacher = random_outputs(3, 2, 12), torch.randn(3, 2, generator=torch.Generator().manual_seed(12))
    # the first query has its own group alone, the second all but one, the last everything
    allowed = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]).bool()
    options = {"temperature": 0.5, "score_bytes": score_bytes}
    loss = make_loss(name, options | ({"self_distill": True} if name == "m3" else {}))
    given_teacher = teacher if name in TAUGHT else None
    found = loss(*sides, Targets(scores=given_teacher, allowed=allowed))
    values = []
    for query in range(3):
        columns = allowed[query].nonzero()[:, 0]
        kept = [sides[1][column : column + 1] for column in columns.tolist()]
        # as a group of its own: the own two passages first
        own = [position for position, column in enumerate(columns.tolist()) if column // 2 == query]
        order = own + [position for position in range(len(kept)) if position not in own]
        alone = sides[0][query : query + 1], Outputs.concat([kept[position] for position in order])
        matrices = {head: scores(*alone, head) / 0.5 for head in HEADS}
        target = teacher[query : query + 1].softmax(-1)
        first = torch.zeros(1, dtype=torch.int64)
        if name == "m3":
            values.append(plain_unified(matrices, 1))
        elif name == "m3_kd":
            values.append(plain_m3_kd(matrices["dense"], target))
        else:
            hard = functional.cross_entropy(matrices["dense"], first)
            soft = plain_soft(matrices["dense"][:, :2], target)
            values.append(hard + soft if name == "kl_div" else hard)
    expected = torch.stack(values).mean()
    torch.testing.assert_close(found.value, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradients(found.value, sides), gradients(expected, sides), rtol=1e-4, atol=1e-4
    )


def test_queries_without_any_negative_allowed_are_counted():
    allowed = torch.eye(3).bool()
    allowed[0, 1] = True
    found = make_loss("mnrl")(*random_outputs(3, 1, 0), Targets(allowed=allowed))
    assert int(found.parts["alone"]) == 2


@pytest.mark.parametrize(
    ("allowed", "words"),
    [
        (torch.ones(3, 5).bool(), r"here \(3, 6\), not \(3, 5\)"),
        (torch.zeros(3, 6).bool(), "own group always counts"),
    ],
)
def test_what_is_allowed_fits_the_batch(allowed, words):
    with pytest.raises(InputError, match=words):
        make_loss("info_nce")(*random_outputs(3, 2, 0), Targets(allowed=allowed))


@pytest.mark.parametrize("head", ["dense", "sparse"])
def test_no_matrix_of_scores_is_larger_than_its_budget(head):
    sides = random_outputs(64, 4, 10)
    with LargestTensor() as largest:
        make_loss("info_nce", {"score_bytes": 8192}, head=head)(*sides, Targets()).value.backward()
    inputs = max(tensor.numel() * 8 for side in sides for tensor in side.tensors())
    assert largest.bytes <= max(8192, inputs) < 64 * 256 * 4


# -- what cannot be learnt from -------------------------------------------------------------------------


def test_all_zero_sparse_vectors_are_counted():
    queries, passages = random_outputs(3, 2, 3)
    dead = queries.replace([queries.dense, queries.sparse.weights * 0, queries.multivector.vectors])
    found = make_loss("m3", {"temperature": 1.0})(dead, passages, Targets())
    assert int(found.parts["zero_sparse_queries"]) == 3
    assert bool(found.value.isfinite())


@pytest.mark.parametrize("name", ["info_nce", "mnrl", "m3"])
@pytest.mark.parametrize(("queries", "in_batch"), [(1, True), (3, False)])
def test_a_positive_with_nothing_beside_it_is_an_error(name, queries, in_batch):
    with pytest.raises(InputError, match=r"group_size is 1.*Add negatives"):
        make_loss(name)(*random_outputs(queries, 1, 0), Targets(in_batch=in_batch))


@pytest.mark.parametrize("name", TAUGHT)
def test_a_teacher_needs_a_group(name):
    with pytest.raises(InputError, match=r"group_size is 1.*at least one negative"):
        make_loss(name)(*random_outputs(3, 1, 0), Targets(scores=torch.zeros(3, 1)))


@pytest.mark.parametrize("name", TAUGHT)
def test_missing_scores_are_an_error(name):
    with pytest.raises(InputError, match=f"{name} learns from a teacher's scores.*distill-scores"):
        make_loss(name)(*random_outputs(3, 2, 0), Targets())


@pytest.mark.parametrize("name", [*TAUGHT, "m3"])
def test_scores_of_another_shape_or_not_finite_are_an_error(name):
    loss, sides = make_loss(name), random_outputs(3, 2, 0)
    with pytest.raises(InputError, match=r"here \(3, 2\), not \(2, 3\)"):
        loss(*sides, Targets(scores=torch.zeros(2, 3)))
    with pytest.raises(InputError, match="1 of the teacher's scores are not finite"):
        loss(*sides, Targets(scores=torch.tensor([[0, 1], [0, math.nan], [0, 0.0]])))


def test_missing_labels_are_an_error():
    with pytest.raises(InputError, match=r"cosent learns from labels.*Add a label"):
        make_loss("cosent")(*random_outputs(3, 1, 0), Targets())
    with pytest.raises(InputError, match=r"reranker_binary learns from labels"):
        make_reranker_loss("reranker_binary")(torch.zeros(2, 1), Targets())


def test_a_label_or_score_that_no_loss_learns_from_is_an_error():
    objective = Objective([Term("info_nce", make_loss("info_nce"))])
    sides = random_outputs(3, 2, 0)
    with pytest.raises(InputError, match=r"has labels, and none of its losses \(info_nce\)"):
        objective(*sides, Targets(labels=torch.zeros(3)))
    with pytest.raises(InputError, match=r"teacher's scores, and none of its losses \(info_nce\)"):
        objective(*sides, Targets(scores=torch.zeros(3, 2)))
    wrapped = make_loss("matryoshka", {"loss": "info_nce", "dims": [2]})
    with pytest.raises(InputError, match="has labels, and none"):
        Objective([Term("matryoshka", wrapped)])(*sides, Targets(labels=torch.zeros(3)))


def test_passages_that_do_not_make_groups_are_an_error():
    queries, passages = random_outputs(3, 2, 0)
    with pytest.raises(InputError, match=r"5 passages for 3 queries.*group_size"):
        make_loss("info_nce")(queries, passages[0:5], Targets())
    with pytest.raises(InputError, match="0 passages for 3 queries"):
        make_loss("info_nce")(queries, passages[0:0], Targets())
    with pytest.raises(InputError, match="without queries"):
        make_loss("info_nce")(queries[0:0], passages, Targets())


def test_a_loss_that_is_not_finite_is_an_error_that_names_its_terms():
    queries, passages = random_outputs(3, 2, 0)
    spoilt = Outputs(dense=queries.dense * math.nan, sparse=queries.sparse, multivector=queries.multivector)
    with pytest.raises(NonFiniteError, match=r"The loss is nan \(.*sparse \d\.\d+.*Lower the learning rate"):
        make_loss("m3", {"temperature": 1.0})(spoilt, passages, Targets())
    with pytest.raises(NonFiniteError, match="The loss is inf"):
        LossValue(torch.tensor(math.inf))


def test_a_head_that_is_not_there_is_an_error():
    queries, passages = random_outputs(3, 2, 0)
    with pytest.raises(InputError, match="The queries have no sparse output, only dense"):
        make_loss("info_nce", head="sparse")(Outputs(dense=queries.dense), passages, Targets())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_loss("infonce"), "no loss named 'infonce'. Did you mean 'info_nce'"),
        (
            lambda: make_loss("info_nce", {"temprature": 1}),
            "no option 'temprature'. Did you mean 'temperature'",
        ),
        (lambda: make_loss("info_nce", {"temperature": 0}), "loss 'info_nce': temperature is 0"),
        (lambda: make_loss("m3", head="dense"), "no choice of head"),
        (lambda: make_loss("matryoshka", {"loss": "info_nce"}), "the option 'dims' is missing"),
        (lambda: make_loss("matryoshka", {"loss": "m3", "dims": [2]}), "widths are those of dense"),
        (lambda: make_loss("matryoshka", {"loss": "info_nce", "dims": [2, 2]}), "give each width once"),
        (
            lambda: make_loss("matryoshka", {"loss": "info_nce", "dims": [2], "weights": [1, 2]}),
            "2.* for 1 dims",
        ),
        (
            lambda: make_loss("matryoshka", {"loss": {"name": "mnrl", "scale": 2}, "dims": [2]}),
            "no option 'scale'",
        ),
        (lambda: make_reranker_loss("cross_entropy"), "Did you mean 'reranker_cross_entropy'"),
        (
            lambda: make_loss("cross_entropy"),
            "loss named 'cross_entropy'. Did you mean 'cosent'. Losses of an",
        ),
        (
            lambda: make_loss("reranker_binari"),
            "no loss named 'reranker_binari'. Did you mean 'reranker_binary'",
        ),
        (lambda: make_reranker_loss("infonce"), "no loss named 'infonce'. Did you mean 'info_nce'"),
        (
            lambda: make_loss("reranker_binary"),
            "'reranker_binary' is not an embedder's, which is needed here",
        ),
        (lambda: make_reranker_loss("cosent"), "'cosent' is not a reranker's, which is needed here"),
        (lambda: Objective([]), "at least one loss"),
        (lambda: Objective([Term("a", make_loss("m3"))] * 2), "one name"),
    ],
)
def test_wrong_settings_are_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


@pytest.mark.parametrize("make", [make_loss, make_reranker_loss])
def test_unknown_names_are_their_own_error_with_the_losses_of_both_kinds(make):
    with pytest.raises(UnknownNameError) as caught:
        make("xyz")
    of_embedders, of_rerankers = ", ".join(LOSSES.names()), ", ".join(RERANKER_LOSSES.names())
    assert str(caught.value) == (
        f"There is no loss named 'xyz'. Losses of an embedder: {of_embedders}; of a reranker: {of_rerankers}."
    )
    assert "info_nce" not in RERANKER_LOSSES


@pytest.mark.parametrize("name", ["reranker_cross_entropy", "reranker_distillation"])
def test_a_reranker_needs_a_group(name):
    with pytest.raises(InputError, match="group_size is 1"):
        make_reranker_loss(name)(torch.zeros(3, 1), Targets(scores=torch.zeros(3, 1)))


def test_a_width_above_the_vectors_is_an_error():
    loss = make_loss("matryoshka", {"loss": "mnrl", "dims": [9]})
    with pytest.raises(InputError, match="dims has 9, the dense vectors' width is 4"):
        loss(*random_outputs(3, 2, 0), Targets())


def test_cosent_compares_pairs_alone():
    with pytest.raises(InputError, match="3 queries with 6 passages"):
        make_loss("cosent")(*random_outputs(3, 2, 0), Targets(labels=torch.zeros(3)))


def test_labels_of_a_binary_reranker_lie_between_0_and_1():
    with pytest.raises(InputError, match=r"from 0 to 5.*Divide"):
        make_reranker_loss("reranker_binary")(torch.zeros(2, 1), Targets(labels=torch.tensor([0.0, 5.0])))


def test_negatives_across_devices_need_processes():
    with pytest.raises(InputError, match="accelerate launch"):
        make_loss("info_nce")(*random_outputs(3, 2, 0), Targets(across_devices=True))


def test_the_page_of_losses_names_them_all():
    page = (Path(__file__).parents[2] / "docs" / "losses.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"`(\w+)`", "\n".join(row.split("|")[1] for row in page.splitlines() if row[:3] == "| `"))
    )
    assert named == {*LOSSES.names(), *RERANKER_LOSSES.names()}


@pytest.mark.parametrize(
    ("name", "of_labels", "of_scores"),
    [
        ("info_nce", "cosent", "kl_div or margin_mse"),
        ("reranker_cross_entropy", "reranker_binary", "reranker_distillation"),
    ],
)
def test_what_no_loss_learns_from_is_answered_with_one_of_its_kind(name, of_labels, of_scores):
    objective = Objective([Term("a", make_term(LossRecipe(name=name)))])
    queries, passages = random_outputs(2, 1, 0)
    for known, kind in (("labels", of_labels), ("scores", of_scores)):
        with pytest.raises(
            InputError, match=rf"\(a\) learns from them\. Add one that does, such as {kind}, or"
        ):
            objective(queries, passages, Targets(**{known: torch.zeros(2, 1)}))
