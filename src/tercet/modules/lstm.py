"""LSTM: a recurrent net over a text's token vectors (Hochreiter & Schmidhuber 1997), one way or both ways."""

from __future__ import annotations

__all__ = ["Lstm"]

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.modules import MODULES, Read, Tokens, weight


class Lstm(nn.Module):
    """Each text's own tokens and nothing else, as sentence-transformers' packed sequences have it."""

    def __init__(self, net: nn.LSTM) -> None:
        super().__init__()
        self.net = net
        self.out_width = net.hidden_size * (2 if net.bidirectional else 1)

    def forward(self, tokens: Tokens) -> Tokens:
        """(tokens, in) -> (tokens, hidden * directions)."""
        hidden = tokens.vectors
        if not len(hidden):
            return Tokens(hidden.new_empty(0, self.out_width), tokens.batch, tokens.weight_sums)
        order, running = _by_time(tokens.batch)
        order = order.to(hidden.device)
        with _exact(hidden.device):
            found, _ = self.net(PackedSequence(hidden[order], running))
        vectors = torch.empty_like(found.data)
        vectors[order] = found.data
        return Tokens(vectors, tokens.batch, tokens.weight_sums)


def _by_time(batch: Batch) -> tuple[Tensor, Tensor]:
    """(tokens,) rows in the order of time, the longest text first, and how many texts are left each time.

    On the CPU, where torch wants the second; nothing is padded in between.
    """
    lengths = torch.tensor(batch.lengths)
    longest_first = torch.argsort(lengths, descending=True, stable=True)
    rank = torch.empty_like(longest_first)
    rank[longest_first] = torch.arange(len(rank))
    starts = lengths.cumsum(0) - lengths
    position = torch.arange(batch.num_tokens) - torch.repeat_interleave(starts, lengths)
    order = torch.argsort(position * len(rank) + torch.repeat_interleave(rank, lengths))
    return order, torch.bincount(position)


def _exact(device: torch.device) -> AbstractContextManager[None]:
    # cuDNN's recurrent nets take TF32 by torch's default; torch's own do not. The flag is put back.
    return torch.backends.cudnn.flags(enabled=False) if device.type == "cuda" else nullcontext()


@MODULES.register("lstm")
def lstm(spec: ModuleSpec, width: int, read: Read) -> Lstm:
    """An LSTM module as the checkpoint describes it; dropout is for training."""
    config = spec.config
    with torch.device("meta"):
        net = nn.LSTM(
            width, config["hidden_dim"], config["num_layers"], bidirectional=config["bidirectional"]
        )
    for name, parameter in list(net.named_parameters()):
        tensor = weight(spec, f"encoder.{name}", tuple(parameter.shape), read)
        setattr(net, name, nn.Parameter(tensor, requires_grad=False))
    return Lstm(net)
