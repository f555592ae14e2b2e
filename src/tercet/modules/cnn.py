"""CNN: convolutions of several widths over a text's token vectors, side by side (Kim 2014)."""

from __future__ import annotations

__all__ = ["Cnn"]

import torch
from torch import Tensor, nn
from torch.nn import functional

from tercet.batch import Batch
from tercet.checkpoint.layout import ModuleSpec
from tercet.modules import MODULES, Read, Tokens, weight


class Cnn(nn.Module):
    """Each text convolved alone, with zeros before and behind it.

    What sentence-transformers gives for a text in a batch of one. Beside longer texts it convolves what the
    encoder gives for padding, so that there a text's last tokens depend on its neighbours; here they do not.

    A convolution is a product for each place of its kernel, of rows that lie so far apart: no text is padded,
    and oneDNN, which keeps what it compiled for each length, has nothing to compile.
    """

    def __init__(self, kernels: list[Tensor], biases: list[Tensor], stride: int) -> None:
        super().__init__()
        # (out, in, places) -> (places, out, in), so that each place is a matrix that lies in one piece
        self.kernels = nn.ParameterList(
            nn.Parameter(kernel.permute(2, 0, 1).contiguous(), requires_grad=False) for kernel in kernels
        )
        self.biases = nn.ParameterList(nn.Parameter(bias, requires_grad=False) for bias in biases)
        self.stride = stride
        self.out_width = sum(kernel.shape[0] for kernel in kernels)

    def forward(self, tokens: Tokens) -> Tokens:
        """(tokens, in) -> (positions, out * kernels): fewer positions with a stride, or with even kernels."""
        batch, after = tokens.batch, self._after(tokens.batch)
        rows = after.num_tokens
        starts, lengths = _of_each_row(batch, after, rows)
        first = after.position_ids * self.stride
        parts = []
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            before = (len(kernel) - 1) // 2
            out = bias.repeat(rows, 1)
            for place, matrix in enumerate(kernel):
                source = first + (place - before)
                outside = (source < 0) | (source >= lengths)
                # A row of the same text stands in for what is outside, so that no text meets another's.
                taken = tokens.vectors[starts + source.clamp(min=0).minimum(lengths - 1)]
                out += functional.linear(taken.masked_fill_(outside[:, None], 0.0), matrix)
            parts.append(out)
        vectors = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return Tokens(vectors, after, tokens.weight_sums)

    def _after(self, batch: Batch) -> Batch:
        """The batch of positions that come out."""
        places = len(self.kernels[0])
        fewer = places - 2 * ((places - 1) // 2)
        if self.stride == 1 and fewer == 1:
            return batch
        # A text shorter than the kernel, which torch refuses, is continued by zeros.
        lengths = tuple(max((n - fewer) // self.stride + 1, min(n, 1)) for n in batch.lengths)
        # They stand for no tokens any more: of this batch only lengths and places are used.
        return Batch.from_ids([[0] * length for length in lengths]).to(batch.token_ids.device)


def _of_each_row(batch: Batch, after: Batch, rows: int) -> tuple[Tensor, Tensor]:
    """(rows,) where the text of each row that comes out begins among the tokens, and how long it is."""
    starts, lengths = batch.cu_seqlens[:-1].long(), batch.cu_seqlens.diff().long()
    repeats = after.cu_seqlens.diff().long()
    return (
        torch.repeat_interleave(starts, repeats, output_size=rows),
        torch.repeat_interleave(lengths, repeats, output_size=rows),
    )


@MODULES.register("cnn")
def cnn(spec: ModuleSpec, width: int, read: Read) -> Cnn:
    """A CNN module as the checkpoint describes it."""
    out = spec.config["out_channels"]
    sizes = list(enumerate(spec.config["kernel_sizes"]))
    return Cnn(
        [weight(spec, f"convs.{number}.weight", (out, width, size), read) for number, size in sizes],
        [weight(spec, f"convs.{number}.bias", (out,), read) for number, _ in sizes],
        spec.config["stride"],
    )
