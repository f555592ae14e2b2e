"""Every test here runs once for each scheme of each engine that this machine's CPU can run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import cast

import pytest
import torch

import tercet
from engine_contract import SCHEMES, Subject
from tercet.precision.hardware import Capability


@pytest.fixture(scope="session")
def machine() -> Capability:
    """This machine's CPU, probed once."""
    return tercet.probe("cpu")


@pytest.fixture(scope="module", params=SCHEMES, ids=str)
def subject(request: pytest.FixtureRequest, machine: Capability) -> Subject:
    """A scheme that runs here."""
    measured = machine.schemes[request.param]
    if not measured.runs:
        pytest.skip(f"{request.param} does not run here: {measured.failure}")
    return Subject(request.param, measured)


@pytest.fixture(scope="session")
def spawned() -> Iterator[ProcessPoolExecutor]:
    """One other process, not forked from this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.MonkeyPatch.context() as patch:
            # Its two threads may have to share a processor: they wait asleep.
            patch.setenv("OMP_WAIT_POLICY", "passive")
            pool.submit(os.getpid).result(timeout=120)
        yield pool


@pytest.fixture
def threads() -> Iterator[int]:
    """torch's threads, which are put back afterwards."""
    before = cast(int, torch.get_num_threads())
    yield before
    torch.set_num_threads(before)
