"""Peak memory of one training step of the sparse head: Tercet's, and FlagEmbedding's own code, side by side.

    python benchmarks/sparse_loss_memory.py [--peers PYTHON] [--passages 16] [--vocabulary 250002] [--json]

Hidden states are given (random, the same on both sides), so the step is the head itself: linear layer, ReLU,
maximum over repeats, scores of all queries with all passages, cross-entropy, and the way back to the hidden
states and the head. Each side runs in a fresh process; what counts is VmHWM of the step, reset just before
it, over VmRSS just before it. FlagEmbedding's side calls its EncoderOnlyEmbedderM3Model, in the environment
of `--peers`. Both losses are printed, because a step that computes something else would prove nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HIDDEN, TEMPERATURE, QUERY_TOKENS = 1024, 0.02, 32
SPECIAL = (0, 2, 1, 3)  # cls, eos, pad, unk of XLM-RoBERTa
LIMIT = 50


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {name}; this benchmark needs Linux.")


def added(step: Callable[[], float]) -> tuple[int, float]:
    """Bytes that a step's peak lies above what was there before it, and what it gave."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = status("VmRSS")
    value = step()
    return status("VmHWM") - before, value


def sides(passages: int, tokens: int, vocabulary: int, width: int) -> tuple[Any, Any]:
    """(ids, hidden) of queries and of passages, eight each where that goes up, else all of one."""
    import torch

    generator = torch.Generator().manual_seed(0)
    queries = 1 if passages % 8 else passages // 8
    found = []
    for texts, length in ((queries, min(QUERY_TOKENS, tokens)), (passages, tokens)):
        # Half of the ids from few, so that texts repeat tokens and share them.
        rare = torch.randint(4, vocabulary, (texts, length), generator=generator)
        common = torch.randint(4, min(vocabulary, 1000), (texts, length), generator=generator)
        ids = torch.where(torch.rand(texts, length, generator=generator) < 0.5, rare, common)
        ids[:, 0], ids[:, -1] = SPECIAL[0], SPECIAL[1]
        hidden = torch.randn(texts, length, width, generator=generator)
        found.append((ids, hidden.requires_grad_()))
    return found[0], found[1]


def head(width: int) -> Any:
    import torch

    torch.manual_seed(0)
    linear = torch.nn.Linear(width, 1)
    with torch.no_grad():
        linear.weight.mul_(0.1)
    return linear


def tercet_step(passages: int, tokens: int, vocabulary: int, width: int = HIDDEN) -> Callable[[], float]:
    import torch

    from tercet.training.losses import make_loss
    from tercet.training.outputs import Outputs
    from tercet.training.sparse_scores import pool_tokens
    from tercet.training.targets import Targets

    linear, both = head(width), sides(passages, tokens, vocabulary, width)
    loss, special = make_loss("info_nce", {"temperature": TEMPERATURE}, head="sparse"), torch.tensor(SPECIAL)

    def encode(ids: Any, hidden: Any) -> Outputs:
        # Laid end to end, as the trainer has them.
        bounds = torch.arange(len(ids) + 1) * ids.shape[1]
        weights = linear(hidden.flatten(0, 1))[:, 0].relu()
        return Outputs(
            sparse=pool_tokens(ids.flatten(), weights, bounds, vocabulary=vocabulary, special_ids=special)
        )

    def step() -> float:
        found = loss(*(encode(*side) for side in both), Targets())
        found.value.backward()
        return float(found.value.detach())

    return step


def flagembedding_step(
    passages: int, tokens: int, vocabulary: int, width: int = HIDDEN
) -> Callable[[], float]:
    import torch
    from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import EncoderOnlyEmbedderM3Model

    linear, both = head(width), sides(passages, tokens, vocabulary, width)
    body = torch.nn.Identity()
    body.config = SimpleNamespace(vocab_size=vocabulary)
    cls, eos, pad, unk = SPECIAL
    names = SimpleNamespace(cls_token_id=cls, eos_token_id=eos, pad_token_id=pad, unk_token_id=unk)
    model = EncoderOnlyEmbedderM3Model(
        {"model": body, "sparse_linear": linear, "colbert_linear": torch.nn.Linear(width, 1)},
        tokenizer=names,
        temperature=TEMPERATURE,
    ).train()

    def step() -> float:
        queries, documents = (model._sparse_embedding(hidden, ids) for ids, hidden in both)
        _, loss = model._compute_in_batch_neg_loss(
            queries, documents, compute_score_func=model.compute_sparse_score
        )
        loss.backward()
        return float(loss.detach())

    return step


STEPS = {"tercet": tercet_step, "FlagEmbedding": flagembedding_step}


def child(engine: str, passages: int, tokens: int, vocabulary: int) -> dict[str, Any]:
    """One engine in this process; a tiny step first, so that no library is loaded in the one that counts."""
    import torch

    torch.set_num_threads(1)
    STEPS[engine](2, 8, 50)()
    more, value = added(STEPS[engine](passages, tokens, vocabulary))
    return {"engine": engine, "added": more, "loss": value}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", help="a Python with FlagEmbedding; that of benchmarks/run.py by default")
    parser.add_argument("--passages", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--vocabulary", type=int, default=250_002)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--child", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = (options.passages, options.tokens, options.vocabulary)
    if options.passages < 2 or options.tokens < 3 or options.vocabulary < 50:
        parser.error("give at least 2 passages, 3 tokens and a vocabulary of 50")
    if options.child:
        print(json.dumps(child(options.child, *size)))
        return
    rows = {}
    for engine in STEPS:
        python = sys.executable if engine == "tercet" else options.peers or default_peers()
        command = [python, __file__, "--child", engine]
        for name, value in zip(("--passages", "--tokens", "--vocabulary"), size, strict=True):
            command += [name, str(value)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(
                f"{engine} ended with {done.returncode}. Its step needs about "
                f"{2 * 4 * math.prod(size) / 2**30:.0f} GiB at FlagEmbedding's; fewer --passages need less."
            )
        rows[engine] = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = rows["tercet"], rows["FlagEmbedding"]
    if not math.isclose(ours["loss"], theirs["loss"], rel_tol=1e-4):
        raise SystemExit(
            f"The losses differ: {ours['loss']} and {theirs['loss']}; the memories do not compare."
        )
    ratio = theirs["added"] / max(1, ours["added"])
    if options.json:
        print(json.dumps({"size": size, "rows": list(rows.values()), "ratio": ratio}))
    else:
        print(f"{size[0]} passages of {size[1]} tokens, vocabulary {size[2]:,}; memory above that before:")
        for row in rows.values():
            print(f"  {row['engine']:14}{row['added'] / 2**20:10,.1f} MiB   loss {row['loss']:.6f}")
        print(f"  {ratio:,.0f} times less (asked: more than {LIMIT} times)")
    if ratio <= LIMIT:
        raise SystemExit(1)


def default_peers() -> str:
    from engines import PEERS, ROOT

    return str(ROOT / PEERS / "bin" / "python")


if __name__ == "__main__":
    main()
