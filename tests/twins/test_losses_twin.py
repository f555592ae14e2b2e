"""Losses and their gradients, against sentence-transformers' and FlagEmbedding's own training code."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from recorder import losses
from tercet.embeddings import MultiVectors, SparseVectors
from tercet.training.losses import make_loss, make_reranker_loss
from tercet.training.losses.flops import flops
from tercet.training.outputs import Outputs
from tercet.training.scores import group_scores
from tercet.training.sparse_scores import pool_tokens
from tercet.training.targets import Targets


@pytest.fixture(scope="module")
def peer(recorded):
    return recorded("losses")


def compare(peer, name: str, value: Tensor, leaves: list[Tensor], *, shift: Tensor | float = 0.0) -> None:
    """`shift`: what the peer adds to the value and has no gradient."""
    found = torch.cat([one.flatten() for one in torch.autograd.grad(value, leaves)])
    torch.testing.assert_close(
        value.detach() + shift, torch.tensor(peer[f"{name}/value"]), rtol=1e-5, atol=1e-6
    )
    expected = torch.tensor(peer[f"{name}/gradient"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def encoded(side: losses.Side, hidden: list[Tensor], heads: dict[str, Tensor]) -> Outputs:
    """All three outputs, without padding."""
    rows, ids = torch.cat(hidden), torch.cat(side.ids)
    bounds = torch.tensor([0, *map(len, side.ids)]).cumsum(0)
    first = torch.zeros(len(ids), dtype=torch.bool)
    first[bounds[:-1]] = True
    weights = functional.linear(rows, heads["sparse.weight"], heads["sparse.bias"])[:, 0].relu()
    late = functional.linear(rows[~first], heads["colbert.weight"], heads["colbert.bias"])
    return Outputs(
        functional.normalize(rows[first], dim=-1),
        pool_tokens(
            ids, weights, bounds, vocabulary=losses.VOCABULARY, special_ids=torch.tensor(losses.SPECIAL)
        ),
        MultiVectors(functional.normalize(late, dim=-1), bounds - torch.arange(len(bounds))),
    )


def sides() -> tuple[list[Outputs], list[Tensor], dict[str, Tensor]]:
    heads = {name: weight.requires_grad_() for name, weight in losses.heads().items()}
    outputs, leaves = [], []
    for texts, seed in ((losses.QUERIES, 1), (losses.QUERIES * losses.GROUP, 2)):
        side = losses.side(texts, seed)
        hidden = [one.clone().requires_grad_() for one in side.hidden]
        outputs.append(encoded(side, hidden, heads))
        leaves += hidden
    return outputs, leaves, heads


@pytest.mark.parametrize("case", losses.M3_CASES, ids=lambda case: case.name)
def test_the_unified_loss_is_flagembeddings(case, peer):
    outputs, leaves, heads = sides()
    best = outputs[0].multivector.vectors @ outputs[1].multivector.vectors.T
    owner = torch.repeat_interleave(torch.arange(len(outputs[1])), outputs[1].multivector.lengths)
    for passage in range(len(outputs[1])):
        # FlagEmbedding's padding is a vector of zeros that takes part in the maximum: here it never wins.
        assert (best[:, owner == passage].max(dim=1).values > 0).all()
    loss = make_loss(
        "m3",
        {
            "temperature": losses.TEMPERATURE,
            "self_distill": case.self_distill,
            "distillation": "kl_div" if case.teacher == "kl_div" else "m3_kd",
        },
    )
    value = loss(*outputs, Targets(scores=losses.TEACHER if case.teacher else None)).value
    compare(peer, f"m3/{case.name}", value, [*leaves, *heads.values()])


def test_dense_distillation_within_groups_is_flagembeddings(peer):
    outputs, leaves, _ = sides()
    loss = make_loss("kl_div", {"temperature": losses.TEMPERATURE})
    value = loss(*outputs, Targets(scores=losses.TEACHER, in_batch=False)).value
    compare(peer, "fe/own_group", value, leaves)


@pytest.mark.parametrize("name", ["cross_entropy", "distillation"])
def test_reranker_losses_are_flagembeddings(name, peer):
    logits = losses.LOGITS.clone().requires_grad_()
    teacher = losses.TEACHER if name == "distillation" else None
    value = make_reranker_loss(f"reranker_{name}")(logits, Targets(scores=teacher)).value
    compare(peer, f"reranker/{name}", value, [logits])


def columns() -> tuple[tuple[Outputs, Outputs], list[Tensor]]:
    """Queries and their groups; and leaves in the peer's order: queries, positives, columns of negatives."""
    passages = losses.dense(losses.QUERIES * losses.GROUP, 2).view(losses.QUERIES, losses.GROUP, -1)
    leaves = [losses.dense(losses.QUERIES, 1), *passages.unbind(1)]
    leaves = [one.clone().requires_grad_() for one in leaves]
    return (Outputs(leaves[0]), Outputs(torch.stack(leaves[1:], dim=1).flatten(0, 1))), leaves


@pytest.mark.parametrize("score_bytes", [1, 1 << 20])
@pytest.mark.parametrize("name", ["mnrl", "cached_mnrl"])
def test_multiple_negatives_ranking_is_sentence_transformers(name, score_bytes, peer):
    both, leaves = columns()
    value = make_loss(name, {"score_bytes": score_bytes})(*both, Targets()).value
    compare(peer, f"st/{name}", value, leaves)


def test_margin_mse_is_sentence_transformers(peer):
    both, leaves = columns()
    compare(
        peer, "st/margin_mse", make_loss("margin_mse")(*both, Targets(scores=losses.TEACHER)).value, leaves
    )


def test_distillation_is_sentence_transformers_but_for_the_teachers_entropy(peer):
    both, leaves = columns()
    loss = make_loss("kl_div", {"temperature": 1.0, "cross_entropy": False})
    teacher = losses.TEACHER.softmax(-1)
    entropy = (teacher * teacher.log()).sum(-1).mean()
    assert group_scores(*both, "dense").shape == teacher.shape
    compare(peer, "st/kl_div", loss(*both, Targets(scores=losses.TEACHER)).value, leaves, shift=entropy)


def test_cosent_is_sentence_transformers(peer):
    leaves = [losses.dense(losses.QUERIES, seed).requires_grad_() for seed in (3, 4)]
    value = make_loss("cosent")(*(Outputs(one) for one in leaves), Targets(labels=losses.LABELS)).value
    compare(peer, "st/cosent", value, leaves)


def test_flops_is_sentence_transformers(peer):
    table = losses.dense(losses.QUERIES, 6).relu().requires_grad_()
    texts, width = table.shape
    ids, offsets = torch.arange(width).repeat(texts), torch.arange(texts + 1) * width
    found = flops(SparseVectors(ids, table.flatten(), offsets, width), threshold=3)
    compare(peer, "st/flops", found, [table])


def test_every_recorded_loss_is_compared(peer):
    compared = {f"m3/{case.name}" for case in losses.M3_CASES} | {"fe/own_group"}
    compared |= {f"reranker/{name}" for name in ("cross_entropy", "distillation")}
    compared |= {f"st/{name}" for name in ("mnrl", "cached_mnrl", "margin_mse", "kl_div", "cosent", "flops")}
    assert {name.rsplit("/", 1)[0] for name in peer} == compared
