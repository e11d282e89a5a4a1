"""What a step costs: its time and the peak memory of this process, not of the one that started it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgekit.progress import Progress, peak_rss_mib


def test_a_step_is_announced_and_its_time_and_memory_are_kept() -> None:
    announced: list[str] = []
    progress = Progress(announced.append)
    with progress.step("load"):
        assert announced == ["load"]
    (cost,) = progress.costs
    assert cost.step == "load" and cost.seconds >= 0 and cost.peak_rss_mib > 1


def test_a_step_that_fails_costs_nothing_and_its_error_passes() -> None:
    progress = Progress()
    with pytest.raises(KeyError), progress.step("load"):
        raise KeyError
    assert progress.costs == []


def test_the_memory_of_whoever_started_the_process_does_not_count() -> None:
    ballast = bytearray(300 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    code = "from edgekit.progress import peak_rss_mib; print(peak_rss_mib())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 200 < peak_rss_mib()
