"""Plan: where a model runs, in what format and why; printed as a page, saved and replayed as JSON."""

from __future__ import annotations

__all__ = ["Plan"]

import json
import os
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from textwrap import wrap
from typing import Any

from tercet.errors import PrecisionError
from tercet.precision.checked import (
    checked_count,
    checked_dtype,
    checked_list,
    checked_object,
    checked_text,
)
from tercet.precision.dtype import Precision
from tercet.precision.footprint import show_bytes
from tercet.precision.hardware import find_device
from tercet.precision.scheme import Scheme

_VERSION = 3
_PAGE_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """Where and in what format a model runs, and why; prints as a page a person can argue with.

    Attributes:
        device: torch's name of the device.
        scheme: how the body runs.
        precision: which format runs where.
        token_budget: most tokens in one forward (a longer text goes alone).
        peak_bytes: predicted peak memory of loading and running, on the device (on the CPU: of the process).
        free_bytes: what was free when the plan was made.
        reasons: a sentence for every choice.
        model: what the user called it.
        machine: what people call the device.
        memory: (what, bytes) of the predicted peak; their sum is `peak_bytes`.
        kernel: which of the engine's ways to do a product measured the fastest, by the engine's name for it.
        float32_layers: numbers of encoder layers that are computed in float32, whatever the scheme.
    """

    device: str
    scheme: Scheme
    precision: Precision
    token_budget: int
    peak_bytes: int
    free_bytes: int
    reasons: tuple[str, ...]
    model: str = ""
    machine: str = ""
    memory: tuple[tuple[str, int], ...] = ()
    kernel: str | None = None
    float32_layers: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Field -> plain value, and the version of this format."""
        return {
            "plan_version": _VERSION,
            "model": self.model,
            "machine": self.machine,
            "device": self.device,
            "scheme": self.scheme.to_json(),
            "kernel": self.kernel,
            "float32_layers": list(self.float32_layers),
            "precision": self.precision.to_json(),
            "token_budget": self.token_budget,
            "peak_bytes": self.peak_bytes,
            "free_bytes": self.free_bytes,
            "memory": [list(part) for part in self.memory],
            "reasons": list(self.reasons),
        }

    @classmethod
    def from_json(cls, data: object, where: str = "the plan") -> Plan:
        """The inverse of `to_json`, every field checked.

        Raises:
            PrecisionError: naming `where`: a key is unknown or missing, or a value has the wrong type.
        """
        found = checked_object(data, {field.name for field in fields(cls)} | {"plan_version"}, where)
        if found["plan_version"] != _VERSION:
            raise PrecisionError(
                f"{where}: plan_version is {found['plan_version']!r}, this release reads {_VERSION}. "
                "Make the plan again with `tercet plan --save-plan`."
            )
        kept = [
            checked_count(number, "float32_layers", where)
            for number in checked_list(found["float32_layers"], "float32_layers", where)
        ]
        return cls(
            device=checked_text(found["device"], "device", where),
            scheme=_checked_scheme(found["scheme"], where),
            precision=_checked_precision(found["precision"], where),
            token_budget=checked_count(found["token_budget"], "token_budget", where, at_least=1),
            peak_bytes=checked_count(found["peak_bytes"], "peak_bytes", where),
            free_bytes=checked_count(found["free_bytes"], "free_bytes", where),
            reasons=tuple(
                checked_text(reason, "reasons", where)
                for reason in checked_list(found["reasons"], "reasons", where)
            ),
            model=checked_text(found["model"], "model", where),
            machine=checked_text(found["machine"], "machine", where),
            kernel=None if found["kernel"] is None else checked_text(found["kernel"], "kernel", where),
            float32_layers=tuple(sorted(set(kept))),
            memory=_checked_memory(found["memory"], where),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON, for `Plan.load`, aside first and then renamed.

        Raises:
            PrecisionError: the file cannot be written.
        """
        target = Path(path)
        if not target.name:
            raise PrecisionError(f"{target}: is a folder. Give the name of a file in it, such as plan.json.")
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            aside.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
            aside.replace(target)
        except OSError as error:
            with suppress(OSError):  # of a place that cannot be written to, there is nothing to remove
                aside.unlink(missing_ok=True)
            raise PrecisionError(
                f"{target}: the plan could not be written: {error}. Choose another place."
            ) from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, available: list[str] | None = None) -> Plan:
        """A saved plan, checked.

        Args:
            path: what `save` wrote.
            available: devices of this machine; asked of torch where None.

        Raises:
            PrecisionError: naming the file: it cannot be read, is no plan, or its device is not here.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PrecisionError(
                f"{path}: the plan cannot be read: {error}. Save one with --save-plan."
            ) from None
        except (ValueError, RecursionError) as error:
            raise PrecisionError(
                f"{path}: is not JSON: {error}. Save the plan again with --save-plan."
            ) from None
        found = cls.from_json(data, str(path))
        try:
            here = find_device(found.device, available)
        except PrecisionError as error:
            raise PrecisionError(
                f"{path}: was made for another machine: {error} Or make the plan anew here."
            ) from None
        if here != found.device:
            raise PrecisionError(
                f"{path}: device is {found.device!r}, torch's name of it is {here!r}. Write that."
            )
        return found

    def page(self) -> str:
        """The plan for people: a few lines of what, the memory, and why."""
        precision, title = self.precision, f"Plan for {self.model or 'a model'}"
        where = f"{self.device} ({self.machine})" if self.machine else self.device
        lines = [
            title,
            f"  device    {where}",
            f"  body      {self.scheme}{_kept(self.float32_layers)}",
            f"  weights   {precision.weights}, arithmetic {precision.compute}, heads {precision.heads}, "
            f"output {precision.output}",
            f"  batches   up to {self.token_budget:,} tokens; a longer text goes alone",
            f"  memory    {show_bytes(self.peak_bytes)} at the peak, {show_bytes(self.free_bytes)} free",
        ]
        lines += [f"            {show_bytes(count):>9}  {what}" for what, count in self.memory]
        lines.append("Why")
        for reason in self.reasons:
            lines += wrap(reason, _PAGE_WIDTH, initial_indent="  - ", subsequent_indent="    ")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.page()


def _checked_scheme(value: object, where: str) -> Scheme:
    data = checked_object(value, {field.name for field in fields(Scheme)}, f"{where}: scheme")
    group, variant, between = (data[key] for key in ("group", "variant", "between"))
    return Scheme(
        checked_dtype(data["dtype"], "scheme: dtype", where),
        checked_dtype(data["accumulate"], "scheme: accumulate", where),
        None if group is None else checked_count(group, "scheme: group", where),
        checked_text(data["engine"], "scheme: engine", where),
        None if variant is None else checked_text(variant, "scheme: variant", where),
        None if between is None else checked_dtype(between, "scheme: between", where),
    )


def _checked_precision(value: object, where: str) -> Precision:
    data = checked_object(value, {field.name for field in fields(Precision)}, f"{where}: precision")
    return Precision(**{key: checked_dtype(name, f"precision: {key}", where) for key, name in data.items()})


def _checked_memory(value: object, where: str) -> tuple[tuple[str, int], ...]:
    parts = checked_list(value, "memory", where)
    if not all(isinstance(part, list) and len(part) == 2 for part in parts):
        raise PrecisionError(f"{where}: memory must be a list of [what, bytes].")
    return tuple(
        (checked_text(what, "memory", where), checked_count(number, "memory", where))
        for what, number in parts
    )


def _kept(layers: tuple[int, ...]) -> str:
    return f"; layers {', '.join(map(str, layers))} in float32" if layers else ""
