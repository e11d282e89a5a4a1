"""Which meter a machine has, and how one is read in a thread."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from edgekit.errors import MissingError
from edgekit.profiler.energy.find import find_meter
from edgekit.profiler.energy.ina3221 import open_ina3221
from edgekit.profiler.energy.meter import Meter
from edgekit.profiler.energy.rapl import Rapl
from edgekit.profiler.energy.recording import MOST_FAILURES, Recorder, ThreadRecording
from edgekit.profiler.report import Unknown
from edgekit.profiles.loader import get

sys.path.append(str(Path(__file__).parents[2] / "twins"))
from catalog import build_twin
from virtual import MadeFiles

JETSON, INTEL, PHONE = get("orin-nano"), get("intel-n100"), get("snapdragon-865")
INA = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon5"


def ina_files(interval_ms: str = "7") -> MadeFiles:
    files = {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1200", "update_interval": interval_ms}
    return MadeFiles({f"{INA}/{name}": text for name, text in files.items()})


class TestFinding:
    @pytest.mark.parametrize("twin", ["orin-nano-jp5", "orin-nano-jp6", "orin-nano-jp7", "orin-nano-jp6-soc-fails"])
    def test_jetsons(self, twin: str, tmp_path: Path) -> None:
        meter = find_meter(JETSON, build_twin(twin, tmp_path))
        assert not isinstance(meter, Unknown)
        assert meter.name == "ina3221 VDD_IN"
        assert "carrier board is not in it" in meter.boundary

    def test_the_root_may_come_from_the_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGEKIT_SYSFS_ROOT", str(build_twin("intel-n100", tmp_path)))
        meter = find_meter(INTEL)
        assert isinstance(meter, Rapl)

    def test_counters_that_cannot_be_read(self, tmp_path: Path) -> None:
        found = find_meter(INTEL, build_twin("intel-n100-roots-alone", tmp_path))
        assert isinstance(found, Unknown)
        assert "RAPL" in found.reason

    def test_nothing_there(self, tmp_path: Path) -> None:
        for profile, word in ((JETSON, "INA3221"), (INTEL, "RAPL"), (PHONE, "battery"), (get("qcs6490"), "no sensor")):
            found = find_meter(profile, tmp_path)
            assert isinstance(found, Unknown)
            assert word in found.reason
            assert found.fix

    def test_a_charging_phone(self, tmp_path: Path) -> None:
        found = find_meter(PHONE, build_twin("snapdragon-charging", tmp_path))
        assert isinstance(found, Unknown)
        assert "not discharging" in found.reason


class TestRecording:
    def meter(self, files: MadeFiles) -> Meter:
        return open_ina3221(JETSON.sensors[0], files)

    def test_a_thread_reads_in_order_until_it_is_stopped(self) -> None:
        recording = ThreadRecording(self.meter(ina_files("4")), time.monotonic_ns, time.sleep, 10)
        time.sleep(0.1)
        recording.stop()
        trace = recording.trace()
        assert len(trace.values) > 5
        assert (trace.before_ns <= trace.after_ns).all()
        assert (trace.before_ns[1:] >= trace.after_ns[:-1]).all()
        time.sleep(0.02)
        assert len(recording.trace().values) == len(trace.values)

    def test_single_failures_are_counted_and_a_dead_meter_raises(self) -> None:
        files = ina_files()
        recorder = Recorder(self.meter(files), time.monotonic_ns, 10)
        recorder.take()
        files.texts[f"{INA}/curr1_input"] = OSError(5, "Input/output error")
        for _ in range(MOST_FAILURES - 1):
            recorder.take()
        assert recorder.trace().failures == MOST_FAILURES - 1
        recorder.take()
        with pytest.raises(MissingError, match="stopped giving values"):
            recorder.trace()

    def test_full_arrays_raise(self) -> None:
        recorder = Recorder(self.meter(ina_files()), time.monotonic_ns, 0.1)
        while not recorder.gone:
            recorder.take()
        with pytest.raises(MissingError, match="more than it said"):
            recorder.trace()

    def test_an_error_of_ours_reaches_the_caller(self) -> None:
        files = ina_files()
        recording = ThreadRecording(self.meter(files), lambda: 1 // 0, time.sleep, 10)
        recording.stop()
        with pytest.raises(ZeroDivisionError):
            recording.trace()
