"""Every precision on one NVIDIA GPU: tokens a second, time of a single query, drift; and the peer beside it.

    python benchmarks/gpu.py CRANFIELD
    python benchmarks/gpu.py texts.txt --model BAAI/bge-m3 --precision bfloat16 --precision float8 --json gpu

Texts are a file with one text a line, or a folder in BEIR's layout (corpus.jsonl, queries.jsonl). Everything
is timed end to end, from strings to vectors on the host, in one process and interleaved: each round calls
each engine once, so that what disturbs one disturbs all. sentence-transformers joins where it is installed,
in float16 and bfloat16. Drift is 1 - cosine to float32 on the same GPU, by the difference of unit vectors.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

import tercet
from tercet.checkpoint.source import find
from tercet.errors import PrecisionError
from tercet.precision.hardware import cpu_name

PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float8")
PEER = "sentence-transformers"
PEER_PRECISIONS = ("float16", "bfloat16")
PEER_BATCH = 256  # texts; large enough for the GPU, small enough for long texts
QUERY = "how do I pick a random element from a list"


@dataclass(frozen=True, slots=True)
class Spread:
    """Several samples: the middle one, the lowest and the highest."""

    median: float
    lowest: float
    highest: float
    samples: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values), len(values))

    def show(self, scale: float = 1.0, form: str = ",.0f") -> str:
        """The median, and the others in brackets."""
        middle, low, high = (
            format(value * scale, form) for value in (self.median, self.lowest, self.highest)
        )
        return f"{middle} ({low}..{high})"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    texts = read(options.texts, options.limit)
    if not torch.cuda.is_available():
        sys.exit(
            f"benchmarks/gpu.py measures an NVIDIA GPU, and torch {torch.__version__} sees none here. "
            "Run it on a machine with one, with a build of torch for CUDA; benchmarks/run.py measures CPUs."
        )
    facts = machine(options.device)
    print(f"{facts['gpu']}, {len(texts)} texts, {options.samples} samples of each", file=sys.stderr)
    models, reasons = load(options.model, options.precision, options.device)
    peers = load_peer(options.model, options.device)
    tokens = int(next(iter(models.values())).encode(texts).num_tokens.sum())
    work: dict[str, Callable[[], object]] = {
        name: lambda model=model: model.encode(texts) for name, model in models.items()
    }
    work |= {name: lambda encode=encode: encode(texts) for name, encode in peers.items()}
    found = {
        "machine": facts,
        "texts": len(texts),
        "tokens": tokens,
        "tokens_per_second": {
            name: asdict(Spread.of([tokens / seconds for seconds in samples]))
            for name, samples in interleaved(work, options.samples).items()
        },
        "query_seconds": {
            name: asdict(Spread.of(samples)) for name, samples in query_times(models, peers, options).items()
        },
        "drift": drifts(models, texts, options),
        "does_not_run": reasons,
    }
    print(page(found))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked before anything is loaded."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("texts", type=Path, help="a file with one text a line, or a folder in BEIR's layout")
    parser.add_argument("--model", default="minilm", help="a folder, a hub id, or minilm")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument(
        "--precision", action="append", choices=PRECISIONS, help=f"default: {', '.join(PRECISIONS)}"
    )
    parser.add_argument("--samples", type=int, default=9, help="of each engine's whole run over the texts")
    parser.add_argument("--queries", type=int, default=200, help="of each engine's single query")
    parser.add_argument("--limit", type=int, help="texts at most")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args(arguments)
    for name in ("samples", "queries"):
        if getattr(options, name) < 3:
            parser.error(f"--{name} is {getattr(options, name)}; a spread needs at least 3")
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; it must be at least 1")
    if not options.device.startswith("cuda"):
        parser.error(f"--device is {options.device!r}; it must be a CUDA device such as cuda:0")
    if not options.texts.exists():
        parser.error(f"{options.texts}: there is no such file or folder")
    options.precision = tuple(dict.fromkeys(options.precision or PRECISIONS))
    return options


def read(path: Path, limit: int | None = None) -> list[str]:
    """Lines of a file that are not empty; or documents as title and text, then queries."""
    if path.is_dir():
        found = [
            f"{row.get('title', '')} {row['text']}".strip()
            for name in ("corpus.jsonl", "queries.jsonl")
            if (path / name).exists()
            for row in map(json.loads, (path / name).read_text(encoding="utf-8").splitlines())
        ]
    else:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [text for text in found if text][:limit]
    if not found:
        sys.exit(
            f"{path}: there is no text in it. Give a file with one text a line, or a folder like BEIR's."
        )
    return found


def machine(device: str) -> dict[str, Any]:
    """The GPU, what drives it, and the versions in use."""
    card = torch.cuda.get_device_properties(device)
    versions = {}
    for name in ("tercet", "torch", PEER, "transformers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "gpu": card.name,
        "compute_capability": f"{card.major}.{card.minor}",
        "memory_gib": round(card.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
        "state": state(),
        "cpu": cpu_name(),
        "versions": versions,
    }


def state() -> str:
    """Driver, clocks and use of the GPUs before anything runs, where nvidia-smi tells."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not here"
    query = "driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu,utilization.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def load(
    model: str, precisions: Iterable[str], device: str
) -> tuple[dict[str, tercet.Embedder], dict[str, str]]:
    """The model in each precision that runs, and why the others do not."""
    models, reasons = {}, {}
    for precision in precisions:
        try:
            models[precision] = tercet.load(model, precision=precision, device=device)
        except PrecisionError as error:
            reasons[precision] = str(error)
    if not models:
        sys.exit("None of these precisions runs here:\n" + "\n".join(reasons.values()))
    return models, reasons


def load_peer(model: str, device: str) -> dict[str, Callable[[Sequence[str]], object]]:
    """sentence-transformers in half precision, where it is installed."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        print(f"{PEER} is not installed; it is left out", file=sys.stderr)
        return {}

    def encoder(precision: str) -> Callable[[Sequence[str]], object]:
        kind = {"dtype": getattr(torch, precision)}
        peer = SentenceTransformer(str(find(model).folder), device=device, model_kwargs=kind)
        return lambda texts: peer.encode(list(texts), batch_size=PEER_BATCH, show_progress_bar=False)

    return {f"{PEER} {precision}": encoder(precision) for precision in PEER_PRECISIONS}


def interleaved(
    work: Mapping[str, Callable[[], object]],
    samples: int,
    *,
    warm_ups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call, round after round; results are on the host when a call returns."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for round_number in range(-warm_ups, samples):
        for name, call in work.items():
            started = clock()
            call()
            if round_number >= 0:
                found[name].append(clock() - started)
    return found


def query_times(
    models: Mapping[str, tercet.Embedder],
    peers: Mapping[str, Callable[[Sequence[str]], object]],
    options: argparse.Namespace,
) -> dict[str, list[float]]:
    """Seconds of a single short query, with captured graphs and without."""
    work: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        work[f"{name}, graphs"] = lambda model=model: model.encode([QUERY])
        eager = tercet.load(options.model, precision=name, device=options.device)
        eager._engine.graphs = None  # there is no option for it: nobody but a benchmark would want it
        work[f"{name}, eager"] = lambda model=eager: model.encode([QUERY])
    work |= {name: lambda encode=encode: encode([QUERY]) for name, encode in peers.items()}
    return interleaved(work, options.queries, warm_ups=10)


def drifts(
    models: Mapping[str, tercet.Embedder], texts: Sequence[str], options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """Mean and worst 1 - cosine of each precision to float32, and of float32 to float64."""

    def vectors(model: tercet.Embedder) -> torch.Tensor:
        found = model.encode(texts, normalize=True).dense
        assert found is not None
        return found

    def loaded(precision: str) -> tercet.Embedder:
        return tercet.load(options.model, precision=precision, device=options.device, output_dtype="float64")

    single = vectors(loaded("float32"))
    found = {"float32": distance(vectors(loaded("float64")), single)}
    for name in models:
        if name != "float32":
            found[name] = distance(single, vectors(loaded(name)))
    return found


def distance(reference: torch.Tensor, vectors: torch.Tensor) -> dict[str, float]:
    """Mean and worst 1 - cosine of rows, as half the square of the difference of unit vectors."""
    one, other = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (reference, vectors))
    far = (one - other).square().sum(1) / 2
    return {"mean": float(far.mean()), "worst": float(far.max())}


def page(found: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    facts = found["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    lines = [
        f"**{facts['gpu']}**, compute capability {facts['compute_capability']}, {facts['memory_gib']} GiB, "
        f"CUDA {facts['cuda']}; {facts['cpu']}. {versions}.",
        "",
        *(f"    {line}" for line in facts["state"].splitlines()),
        "",
        f"{found['texts']:,} texts of {found['tokens']:,} tokens. Medians, lowest and highest in brackets.",
        "",
        "| engine | tokens/s | ",
        "| --- | ---: |",
    ]
    for name, values in found["tokens_per_second"].items():
        lines.append(f"| {name} | {Spread(**values).show()} |")
    lines += ["", "| one query | ms |", "| --- | ---: |"]
    for name, values in found["query_seconds"].items():
        lines.append(f"| {name} | {Spread(**values).show(1e3, '.3f')} |")
    lines += ["", "| drift | mean 1 - cosine | worst |", "| --- | ---: | ---: |"]
    for name, far in found["drift"].items():
        against = "float64" if name == "float32" else "float32"
        lines.append(f"| {name} to {against} | {far['mean']:.2e} | {far['worst']:.2e} |")
    lines += [f"\n{name}: {reason}" for name, reason in found["does_not_run"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
