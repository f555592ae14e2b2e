"""Values and gradients of the peers' own losses, for the inputs of losses.py."""

from __future__ import annotations

__all__ = ["record"]

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from FlagEmbedding.abc.finetune.reranker import AbsRerankerModel
from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import EncoderOnlyEmbedderM3Model
from sentence_transformers.sentence_transformer import losses as st
from sentence_transformers.sparse_encoder.losses import FlopsLoss
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from recorder import losses

Arrays = dict[str, np.ndarray]


def record() -> Arrays:
    """`case/value`, and `case/gradient` by each input in turn, flattened and laid end to end."""
    arrays: Arrays = {}
    for case in losses.M3_CASES:
        _keep(arrays, f"m3/{case.name}", *_unified(case))
    _keep(arrays, "fe/own_group", *_own_group())
    for name, teacher in (("cross_entropy", None), ("distillation", losses.TEACHER)):
        logits = losses.LOGITS.clone().requires_grad_()
        found = _Reranker(logits).train()(
            teacher_scores=None if teacher is None else teacher.flatten().tolist()
        )
        _keep(arrays, f"reranker/{name}", found.loss, [logits])
    queries, passages = losses.QUERIES, losses.QUERIES * losses.GROUP
    ranked = [losses.dense(queries, 1), *losses.dense(passages, 2).view(queries, losses.GROUP, -1).unbind(1)]
    pairs = [losses.dense(queries, 3), losses.dense(queries, 4)]
    model = nn.Sequential(nn.Identity())
    mnrl, kl = st.MultipleNegativesRankingLoss(model), st.DistillKLDivLoss(model)
    cached = st.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)
    plain: dict[str, tuple[list[Tensor], Callable[[list[Tensor]], Tensor]]] = {
        "st/mnrl": (ranked, lambda found: mnrl.compute_loss_from_embeddings(found, None)),
        "st/cached_mnrl": (ranked, lambda found: cached.calculate_loss([[one] for one in found])),
        "st/margin_mse": (
            ranked,
            lambda found: st.MarginMSELoss(model).compute_loss_from_embeddings(found, losses.TEACHER),
        ),
        "st/kl_div": (ranked, lambda found: kl.compute_loss_from_embeddings(found, losses.TEACHER)),
        "st/cosent": (
            pairs,
            lambda found: st.CoSENTLoss(model).compute_loss_from_embeddings(found, losses.LABELS),
        ),
        "st/flops": (
            [losses.dense(queries, 6).relu()],
            lambda found: FlopsLoss(model, threshold=3).compute_loss_from_embeddings(found[0]),
        ),
    }
    for name, (inputs, loss) in plain.items():
        leaves = [one.clone().requires_grad_() for one in inputs]
        _keep(arrays, name, loss(leaves), leaves)
    return arrays


def _keep(arrays: Arrays, name: str, value: Tensor, leaves: list[Tensor]) -> None:
    found = torch.autograd.grad(value, leaves)
    arrays[f"{name}/value"] = value.detach().numpy()
    arrays[f"{name}/gradient"] = torch.cat([one.flatten() for one in found]).numpy()


class _Body(nn.Module):
    """An encoder whose hidden states are given."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=losses.VOCABULARY, pad_token_id=losses.SPECIAL[2])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, hidden: Tensor, return_dict: bool) -> Any:
        return SimpleNamespace(last_hidden_state=hidden)


def _features(side: losses.Side, hidden: list[Tensor]) -> dict[str, Tensor]:
    return {
        "input_ids": pad_sequence(list(side.ids), batch_first=True, padding_value=losses.SPECIAL[2]),
        "attention_mask": pad_sequence([torch.ones(len(ids)) for ids in side.ids], batch_first=True),
        "hidden": pad_sequence(hidden, batch_first=True),
    }


def _model(*, unified: bool, case: losses.M3Case) -> EncoderOnlyEmbedderM3Model:
    weights = losses.heads()
    sparse, colbert = nn.Linear(losses.WIDTH, 1), nn.Linear(losses.WIDTH, losses.WIDTH)
    sparse.load_state_dict({"weight": weights["sparse.weight"], "bias": weights["sparse.bias"]})
    colbert.load_state_dict({"weight": weights["colbert.weight"], "bias": weights["colbert.bias"]})
    cls, eos, pad, unk = losses.SPECIAL
    model = EncoderOnlyEmbedderM3Model(
        {"model": _Body(), "sparse_linear": sparse, "colbert_linear": colbert},
        tokenizer=SimpleNamespace(
            cls_token_id=cls, eos_token_id=eos, pad_token_id=pad, unk_token_id=unk, padding_side="right"
        ),
        temperature=losses.TEMPERATURE,
        kd_loss_type=case.teacher or "m3_kd_loss",
        normalize_embeddings=True,
        unified_finetuning=unified,
        use_self_distill=case.self_distill,
    )
    return model.train()


def _unified(case: losses.M3Case) -> tuple[Tensor, list[Tensor]]:
    sides = [losses.side(losses.QUERIES, 1), losses.side(losses.QUERIES * losses.GROUP, 2)]
    hidden = [[one.clone().requires_grad_() for one in side.hidden] for side in sides]
    model = _model(unified=True, case=case)
    teacher = losses.TEACHER.flatten().tolist() if case.teacher else None
    queries, passages = (_features(*pair) for pair in zip(sides, hidden, strict=True))
    loss = model(queries=queries, passages=passages, teacher_scores=teacher).loss
    heads = [*model.sparse_linear.parameters(), *model.colbert_linear.parameters()]
    return loss, [*hidden[0], *hidden[1], *heads]


def _own_group() -> tuple[Tensor, list[Tensor]]:
    sides = [losses.side(losses.QUERIES, 1), losses.side(losses.QUERIES * losses.GROUP, 2)]
    hidden = [[one.clone().requires_grad_() for one in side.hidden] for side in sides]
    model = _model(unified=False, case=losses.M3Case("own", teacher="kl_div"))
    queries, passages = (_features(*pair) for pair in zip(sides, hidden, strict=True))
    found = model(
        queries=queries,
        passages=passages,
        teacher_scores=losses.TEACHER.flatten().tolist(),
        no_in_batch_neg_flag=True,
    )
    return found.loss, [*hidden[0], *hidden[1]]


class _Reranker(AbsRerankerModel):
    """A reranker whose logits are given."""

    def __init__(self, logits: Tensor) -> None:
        # It asks its tokenizer where "Yes" is, and uses that in decoders alone.
        super().__init__(
            _Body(), tokenizer=lambda text, **_: {"input_ids": [0]}, train_batch_size=losses.QUERIES
        )
        self.logits = logits

    def encode(self, features: Any) -> Tensor:
        return self.logits.flatten()[:, None]
