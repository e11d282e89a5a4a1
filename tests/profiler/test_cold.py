"""Cold starts in fresh processes: figures of each, and a process that dies is told, not counted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.errors import InconclusiveError, InputError
from edgekit.profiler.cold import cold
from edgekit.profiler.latency import Plan
from edgekit.profiler.worker import Task, measure_apart


def test_a_start_costs_an_import_a_load_and_a_first_run(femtodet_bundles: dict[str, Path]) -> None:
    found = cold(femtodet_bundles["snapdragon-865"], threads=1, processes=1)
    assert found.processes == 1
    assert found.import_ms > 1 and found.load_ms > 1 and found.first_ms > 0.1
    assert 20 << 20 < found.peak_rss_bytes < 4 << 30


def test_figures_are_medians_and_memory_is_the_most(monkeypatch: pytest.MonkeyPatch) -> None:
    made = iter([(9.0, 50), (1.0, 70), (2.0, 60)])

    def once(*_: object) -> dict[str, float]:
        time, memory = next(made)
        return {"import_ms": time, "load_ms": 10 * time, "first_ms": 100 * time, "peak_rss_bytes": memory}

    monkeypatch.setattr("edgekit.profiler.cold._once", once)
    found = cold(Path("b"), processes=3)
    assert (found.import_ms, found.load_ms, found.first_ms, found.peak_rss_bytes) == (2.0, 20.0, 200.0, 70)


def test_a_process_that_dies_is_inconclusive_and_says_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(InconclusiveError, match="cold start failed") as caught:
        cold(tmp_path / "missing.edgekit", processes=1)
    assert "exit status" in str(caught.value.why) and "--no-cold" in str(caught.value.fix)


def test_a_process_that_does_not_end_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 600)

    monkeypatch.setattr("edgekit.profiler.cold.subprocess.run", late)
    with pytest.raises(InconclusiveError, match="did not end within 600 s"):
        cold(Path("b"), processes=1)


def test_a_worker_gives_back_its_laps_and_passes_its_errors_on(
    femtodet_bundles: dict[str, Path], tmp_path: Path
) -> None:
    bundle = femtodet_bundles["snapdragon-865"]
    found = measure_apart(Task(str(bundle), Plan(runs=7, warmup_s=0.05), threads=1))
    assert found.laps.latency_ms.shape == (7,) and found.laps.latency_ms.min() > 0
    assert found.warmup_runs >= 1 and not found.steady.steady
    with pytest.raises(InputError):
        measure_apart(Task(str(tmp_path / "missing"), Plan(runs=7)))


def test_a_worker_that_dies_is_inconclusive(femtodet_bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.profiler.worker.sys.executable", shutil.which("false"))
    with pytest.raises(InconclusiveError, match="process died") as caught:
        measure_apart(Task(str(femtodet_bundles["snapdragon-865"]), Plan(runs=1)))
    assert "exit status 1" in str(caught.value.why)
