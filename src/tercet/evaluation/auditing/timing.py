"""Speed as a ratio: two workers embed the same texts in turns."""

from __future__ import annotations

__all__ = ["Timing", "time_in_turns"]

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tercet.evaluation.auditing.process import Worker

_ROUNDS, _FEWEST_ROUNDS = 7, 3
_ENOUGH_SECONDS = 20.0
# Beyond these the machine was not ours: share of time that threads waited for a processor; largest ratio over
# the median.
_MOST_WAITING, _MOST_SPREAD = 0.05, 1.25


@dataclass(frozen=True, slots=True)
class Timing:
    """What was timed.

    Attributes:
        relative_speed: median over the rounds of baseline's seconds over the other's.
        quiet: False where others disturbed it.
    """

    relative_speed: float
    quiet: bool


def time_in_turns(baseline: Worker, other: Worker, texts: Sequence[str], *, threads: int) -> Timing:
    """Both workers on the same texts, one after the other, the order changing from round to round.

    Whatever slows the machine down for longer than a round slows both; what does not shows in the spread.
    """
    ratios: list[float] = []
    waited = spent = 0.0
    for number in range(_ROUNDS):
        pair = (baseline, other) if number % 2 == 0 else (other, baseline)
        answers = [worker.ask("time", texts=list(texts)) for worker in pair]
        seconds = [float(answer["seconds"]) for answer in answers]
        waited += sum(float(answer["waited"]) for answer in answers)
        spent += sum(seconds)
        first, second = seconds if number % 2 == 0 else reversed(seconds)
        ratios.append(first / second)
        if spent > _ENOUGH_SECONDS and len(ratios) >= _FEWEST_ROUNDS:
            break
    usual = median(ratios)
    spread = max(max(ratios) / usual, usual / min(ratios))
    quiet = waited <= _MOST_WAITING * spent * threads and spread <= _MOST_SPREAD
    return Timing(usual, quiet)
