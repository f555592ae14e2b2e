"""Gradients in parts of a token budget against those of the whole batch at once."""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.embeddings import MultiVectors
from tercet.errors import InputError, NonFiniteError
from tercet.training.gradcache import RandomState, backward_in_parts
from tercet.training.losses import make_loss
from tercet.training.objective import Objective, Term
from tercet.training.outputs import Outputs
from tercet.training.sparse_scores import pool_tokens
from tercet.training.targets import LossValue, Targets

VOCABULARY, WIDTH = 30, 8


class Model(nn.Module):
    """All three heads over a body that mixes the tokens of a text."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.body = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.Tanh(), nn.Dropout(dropout))
        self.sparse = nn.Linear(WIDTH, 1)
        self.late = nn.Linear(WIDTH, 4)
        self.tokens: list[int] = []

    def forward(self, batch: Batch) -> Outputs:
        self.tokens.append(batch.num_tokens)
        offsets = batch.cu_seqlens.long()
        owner = torch.repeat_interleave(torch.arange(len(batch)), offsets.diff())
        embedded = self.table(batch.token_ids)
        hidden = self.body(torch.cat([embedded, self._mean(embedded, owner, len(batch))[owner]], dim=1))
        return Outputs(
            functional.normalize(self._mean(hidden, owner, len(batch)), dim=-1),
            pool_tokens(
                batch.token_ids,
                self.sparse(hidden)[:, 0].relu(),
                offsets,
                vocabulary=VOCABULARY,
                special_ids=torch.tensor([0]),
            ),
            MultiVectors(functional.normalize(self.late(hidden), dim=-1), offsets),
        )

    def _mean(self, rows: Tensor, owner: Tensor, texts: int) -> Tensor:
        return rows.new_zeros(texts, WIDTH).index_add(0, owner, rows) / owner.bincount()[:, None]

    def gradients(self) -> list[Tensor]:
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters()]
        self.zero_grad(set_to_none=True)
        return found


def texts(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (count,), generator=generator).tolist()
    return Batch.from_ids([torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths])


LOSSES = {
    "dense": make_loss("info_nce", {"temperature": 0.2}),
    "sparse": make_loss("info_nce", {"temperature": 0.5}, head="sparse"),
    "multivector": make_loss("info_nce", {"temperature": 0.2}, head="multivector"),
    "combined": Objective(
        [
            Term("m3", make_loss("m3", {"temperature": 0.2, "self_distill": True})),
            Term("flops", make_loss("flops", {"query_weight": 0.1, "passage_weight": 0.1})),
        ]
    ),
}


def of_sides(name: str):
    return lambda sides: LOSSES[name](*sides, Targets())


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=12)
@given(
    queries=st.integers(2, 5),
    group=st.integers(1, 3),
    token_budget=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_gradients_are_those_of_the_whole_batch(name, queries, group, token_budget, seed):
    model = Model()
    sides = texts(queries, seed), texts(queries * group, seed + 1)
    whole = of_sides(name)([model(side) for side in sides])
    whole.value.backward()
    expected = model.gradients()
    model.tokens.clear()
    found = backward_in_parts(model, sides, of_sides(name), token_budget=token_budget)
    torch.testing.assert_close(found.value, whole.value.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.gradients(), expected, rtol=1e-5, atol=1e-5)
    assert max(model.tokens) <= max(token_budget, *sides[0].lengths, *sides[1].lengths)
    assert sum(model.tokens) == 2 * sum(side.num_tokens for side in sides)


@pytest.mark.parametrize("name", LOSSES)
def test_dropout_draws_the_same_masks_in_both_passes(name):
    model, sides = Model(dropout=0.4), (texts(4, 0), texts(8, 1))
    seen: list[Batch] = []

    def encode(batch: Batch) -> Outputs:
        seen.append(batch)
        return model(batch)

    torch.manual_seed(7)
    found = backward_in_parts(encode, sides, of_sides(name), token_budget=12)
    gradients = model.gradients()
    parts = seen[: len(seen) // 2]
    assert len(parts) > 4

    # The reference draws in the same order, keeps all activations, and takes one backward pass.
    torch.manual_seed(7)
    outputs = [model(part) for part in parts]
    border = next(n for n in range(len(parts)) if sum(map(len, parts[:n])) == len(sides[0]))
    reference = of_sides(name)([Outputs.concat(outputs[:border]), Outputs.concat(outputs[border:])])
    reference.value.backward()
    torch.testing.assert_close(found.value, reference.value.detach())
    torch.testing.assert_close(gradients, model.gradients(), rtol=1e-5, atol=1e-5)


def test_generators_go_on_from_where_they_were():
    torch.manual_seed(3)
    state = RandomState(torch.device("cpu"))
    first = torch.rand(4)
    after = torch.get_rng_state()
    with state.again():
        assert torch.equal(torch.rand(4), first)
    assert torch.equal(torch.get_rng_state(), after)


def test_gradients_are_added_to_what_is_there_and_scaled_by_the_backward_given():
    model, sides = Model(), (texts(3, 0), texts(6, 1))
    backward_in_parts(model, sides, of_sides("combined"), token_budget=10)
    once = [p.clone() for p in model.gradients()]
    for _ in range(2):
        backward_in_parts(
            model, sides, of_sides("combined"), token_budget=10, backward=lambda loss: (loss * 8).backward()
        )
    torch.testing.assert_close(model.gradients(), [16 * p for p in once])


def test_all_parts_but_the_last_are_without_synchronisation():
    model, sides = Model(), (texts(3, 0), texts(6, 1))
    inside, depth = [], [0]

    @contextmanager
    def without_sync():
        depth[0] += 1
        yield
        depth[0] -= 1

    def encode(batch: Batch) -> Outputs:
        inside.append((torch.is_grad_enabled(), depth[0]))
        return model(batch)

    backward_in_parts(encode, sides, of_sides("dense"), token_budget=6, without_sync=without_sync)
    learning = [outside for enabled, outside in inside if enabled]
    assert learning == [1] * (len(learning) - 1) + [0]
    assert len(learning) > 3


def test_outputs_in_bfloat16_learn_as_in_the_whole_batch():
    model, sides = Model().bfloat16(), (texts(4, 0), texts(8, 1))
    of_sides("combined")([model(side) for side in sides]).value.backward()
    expected = [gradient.float() for gradient in model.gradients()]
    backward_in_parts(model, sides, of_sides("combined"), token_budget=10)
    for found, wanted in zip(model.gradients(), expected, strict=True):
        assert (found.float() - wanted).norm() <= 0.03 * wanted.norm()


def test_heads_learn_over_a_frozen_body_and_a_head_that_no_loss_reads_stays():
    model, sides = Model(), (texts(3, 0), texts(6, 1))
    for parameter in (*model.table.parameters(), *model.body.parameters()):
        parameter.requires_grad = False
    backward_in_parts(model, sides, of_sides("sparse"), token_budget=6)
    assert model.sparse.weight.grad.abs().sum() > 0
    assert model.table.weight.grad is None
    assert not model.late.weight.grad.any()


def test_a_frozen_model_is_an_error():
    model = Model().requires_grad_(False)
    with pytest.raises(InputError, match="all weights are frozen"):
        backward_in_parts(model, (texts(2, 0), texts(4, 1)), of_sides("dense"), token_budget=6)


def test_a_loss_that_is_not_finite_adds_no_gradient():
    model, sides = Model(), (texts(2, 0), texts(4, 1))
    with torch.no_grad():
        model.table.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="no step was taken"):
        backward_in_parts(model, sides, of_sides("dense"), token_budget=6)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("budget", "sides", "words"),
    [
        (0, (texts(2, 0), texts(2, 1)), "token_budget is 0"),
        (5, (texts(2, 0), texts(0, 1)), "no texts"),
        (5, (), "no texts"),
    ],
)
def test_batches_that_cannot_be_split_are_errors(budget, sides, words):
    with pytest.raises(InputError, match=words):
        backward_in_parts(Model(), sides, of_sides("dense"), token_budget=budget)


def test_a_loss_apart_from_the_outputs_is_an_error():
    with pytest.raises(InputError, match="no gradient in the outputs"):
        backward_in_parts(
            Model(), (texts(2, 0), texts(2, 1)), lambda sides: LossValue(torch.zeros(())), token_budget=5
        )
