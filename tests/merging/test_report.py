"""What a merge's report says of its tensors."""

from __future__ import annotations

from math import inf

from tercet.merging.report import MergeReport, TensorReport


def tensor(name: str, delta: float, error: float, *, copied: bool = False) -> TensorReport:
    return TensorReport(name, "float16", 4, 1.0, delta, error, copied=copied)


def test_the_worst_tensor_is_one_that_was_changed():
    tensors = (
        tensor("unchanged", 0.0, 0.01),
        tensor("unchanged and worse", 0.0, 0.25),
        tensor("exact", 1.0, 0.0),
        tensor("small", 1.0, 0.01),
        tensor("large", 0.04, 0.01),
        tensor("copied", 0.01, 1.0, copied=True),
    )
    report = MergeReport(tensors)
    assert [one.delta_error for one in tensors[:2]] == [inf, inf]
    assert [one.name for one in report.worst()] == [
        "large",
        "small",
        "exact",
        "unchanged and worse",
        "unchanged",
    ]
    assert [one.name for one in report.worst(2)] == ["large", "small"]
