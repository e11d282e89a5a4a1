"""Each meter against files that misbehave as real ones do, and the one that a machine has."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import MissingError
from edgekit.profiler.energy.battery import Battery, infer_units, open_battery
from edgekit.profiler.energy.battery import Probed as BatteryProbe
from edgekit.profiler.energy.find import find_meter
from edgekit.profiler.energy.ina3221 import CURRENTS_A_VOLTAGE, open_ina3221
from edgekit.profiler.energy.measure import measure_energy
from edgekit.profiler.energy.meter import Meter
from edgekit.profiler.energy.nvml import open_nvml
from edgekit.profiler.energy.rapl import open_rapl
from edgekit.profiler.energy.recording import Recorder, Trace
from edgekit.profiler.report import Unknown
from edgekit.profiles.loader import get

sys.path.append(str(Path(__file__).parents[2] / "twins"))
from catalog import build_twin
from virtual import MadeFiles

JETSON = get("orin-nano")
INTEL = get("intel-n100")
PHONE = get("snapdragon-865")
INA = "/sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon5"
RAPL = "/sys/class/powercap"
BATTERY = "/sys/class/power_supply"


def ina_files(**changes: Any) -> MadeFiles:
    files: dict[str, Any] = {
        "in1_label": "VDD_SOC",  # channels are found by label
        "in2_label": "VDD_IN",
        "in3_label": "VDD_CPU_GPU_CV",
        "in7_label": "sum of shunt voltages",
        "in2_input": "5000",
        "curr2_input": "1200",
        "curr1_input": "200",
        "curr3_input": "500",
        "curr4_input": "1900",
        "samples": "16",
        "update_interval": "106",
        "shunt2_resistor": "5000",
        **changes,
    }
    return MadeFiles({f"{INA}/{name}": text for name, text in files.items()})


class TestIna3221:
    def test_the_total_is_found_by_label_and_never_summed(self) -> None:
        meter = open_ina3221(JETSON.sensors[0], ina_files())
        assert meter.probe() == pytest.approx(6.0)
        assert meter.settings["samples"] == "16"
        assert meter.settings["update_interval_ms"] == "106"
        assert meter.settings["shunt_uohm"] == "5000"
        assert meter.settings["VDD_SOC"] == "200 mA when probed; part of the total"
        assert meter.period_s == pytest.approx(0.106)

    def test_an_error_of_another_channel_is_recorded_and_harms_nothing(self) -> None:
        meter = open_ina3221(JETSON.sensors[0], ina_files(curr3_input=OSError(5, "Input/output error")))
        assert meter.probe() == pytest.approx(6.0)
        assert "Input/output error" in meter.settings["VDD_CPU_GPU_CV"]

    def test_one_voltage_for_eight_currents(self) -> None:
        asked = []

        def voltage() -> str:
            asked.append(1)
            return "5000"

        meter = open_ina3221(JETSON.sensors[0], ina_files(in2_input=voltage))
        for _ in range(3 * CURRENTS_A_VOLTAGE):
            assert meter.read(time.monotonic_ns).value == pytest.approx(6.0)
        assert len(asked) == 3

    def test_a_voltage_that_fails_leaves_the_one_before(self) -> None:
        files = ina_files()
        meter = open_ina3221(JETSON.sensors[0], files)
        meter.read(time.monotonic_ns)
        files.texts[f"{INA}/in2_input"] = OSError(5, "Input/output error")
        for _ in range(2 * CURRENTS_A_VOLTAGE):
            assert meter.read(time.monotonic_ns).value == pytest.approx(6.0)

    def test_a_dead_total_is_no_meter(self) -> None:
        meter = open_ina3221(JETSON.sensors[0], ina_files(curr2_input=OSError(5, "Input/output error")))
        with pytest.raises(MissingError, match="gives no value"):
            meter.probe()

    def test_another_shunt_scales_offset_and_step(self) -> None:
        meter = open_ina3221(JETSON.sensors[0], ina_files())
        half = open_ina3221(JETSON.sensors[0], ina_files(shunt2_resistor="2500"))
        meter.probe(), half.probe()
        assert half.accuracy.step_w == pytest.approx(2 * meter.accuracy.step_w)
        assert half.accuracy.offset_w == pytest.approx(2 * meter.accuracy.offset_w)
        assert meter.accuracy.step_w == pytest.approx(0.04)

    def test_a_text_that_is_no_number_is_no_value(self) -> None:
        meter = open_ina3221(JETSON.sensors[0], ina_files(curr2_input="n/a"))
        with pytest.raises(MissingError, match="gives no value"):
            meter.probe()

    @pytest.mark.parametrize("odd", ["0", "n/a", OSError(5, "Input/output error")])
    def test_settings_that_are_not_told_are_unknown(self, odd: Any) -> None:
        files = ina_files(samples=odd, update_interval=odd, shunt2_resistor=odd)
        meter = open_ina3221(JETSON.sensors[0], files)
        assert meter.probe() == pytest.approx(6.0)
        assert {meter.settings[name] for name in ("samples", "update_interval_ms", "shunt_uohm")} == {"unknown"}
        assert meter.period_s == pytest.approx(0.0066)
        assert meter.accuracy.step_w == pytest.approx(0.04)

    def test_other_labels_are_another_board(self) -> None:
        with pytest.raises(MissingError, match="called VDD_IN"):
            open_ina3221(JETSON.sensors[0], ina_files(in2_label="VDD_GPU"))

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        root = build_twin("orin-nano-jp6", tmp_path)
        before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
        meter = find_meter(JETSON, root)
        assert not isinstance(meter, Unknown)
        meter.read(time.monotonic_ns)
        assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before


def rapl_files(**zones: dict[str, Any]) -> MadeFiles:
    return MadeFiles(
        {
            f"{RAPL}/{zone.replace('__', '-').replace('_', ':')}/{name}": text
            for zone, files in zones.items()
            for name, text in {"max_energy_range_uj": "262143328850", **files}.items()
        }
    )


PACKAGE = {"name": "package-0", "energy_uj": "5000000"}


class TestRapl:
    def test_one_of_two_providers_and_no_part_is_read(self) -> None:
        files = rapl_files(
            intel__rapl_0=PACKAGE,
            intel__rapl__mmio_0=PACKAGE,
            intel__rapl_0_0={"name": "core", "energy_uj": "4000000"},
        )
        meter = open_rapl(INTEL.sensors[0], files)
        assert meter.settings["zone"] == f"{RAPL}/intel-rapl:0"
        assert meter.probe() == 5.0
        assert meter.wraps_at_j == pytest.approx(262143.32885)

    def test_the_provider_that_can_be_read_is_read(self) -> None:
        files = rapl_files(
            intel__rapl_0={**PACKAGE, "energy_uj": PermissionError(13, "Permission denied")},
            intel__rapl__mmio_0=PACKAGE,
        )
        assert open_rapl(INTEL.sensors[0], files).settings["zone"] == f"{RAPL}/intel-rapl-mmio:0"

    @pytest.mark.parametrize(("energy", "name"), [("77", "rapl psys"), ("0", "rapl package-0")])
    def test_psys_is_preferred_where_it_counts(self, energy: str, name: str) -> None:
        files = rapl_files(intel__rapl_0=PACKAGE, intel__rapl_1={"name": "psys", "energy_uj": energy})
        meter = open_rapl(INTEL.sensors[0], files)
        assert meter.name == name
        assert ("platform" in meter.boundary) == (energy != "0")

    def test_permission_names_the_rule(self) -> None:
        files = rapl_files(intel__rapl_0={**PACKAGE, "energy_uj": PermissionError(13, "Permission denied")})
        found = find_meter(INTEL, files)
        assert isinstance(found, Unknown)
        assert "may not read" in found.reason
        assert found.fix is not None
        assert 'SUBSYSTEM=="powercap"' in found.fix
        assert "/etc/udev/rules.d/70-edgekit-rapl.rules" in found.fix
        assert "/etc/tmpfiles.d/edgekit-rapl.conf" in found.fix
        assert "a+r" not in found.fix

    def test_two_packages_are_refused(self) -> None:
        files = rapl_files(intel__rapl_0=PACKAGE, intel__rapl_1={**PACKAGE, "name": "package-1"})
        with pytest.raises(MissingError, match="2 packages"):
            open_rapl(INTEL.sensors[0], files)

    def test_a_range_that_is_not_told_is_refused(self) -> None:
        files = rapl_files(intel__rapl_0={**PACKAGE, "max_energy_range_uj": OSError(5, "Input/output error")})
        with pytest.raises(MissingError, match="where it wraps"):
            open_rapl(INTEL.sensors[0], files)


class Phone:
    """Battery nodes on a clock of their own."""

    def __init__(
        self, unit: float = 1e6, sign: int = -1, idle_w: float = 1.0, busy_w: float = 4.0, **texts: str
    ) -> None:
        self.now_s, self.busy_until, self.period_s = 0.0, -1.0, 0.5
        self.files = MadeFiles(
            {
                f"{BATTERY}/battery/type": "Battery",
                f"{BATTERY}/battery/status": "Discharging",
                f"{BATTERY}/battery/voltage_now": "3900000",
                f"{BATTERY}/battery/current_now": self.current,
                f"{BATTERY}/bms/type": "Battery",
                f"{BATTERY}/bms/status": "Discharging",
                f"{BATTERY}/bms/voltage_now": "3900000",
                f"{BATTERY}/bms/current_now": "0",
                f"{BATTERY}/usb/type": "USB",
                **{f"{BATTERY}/battery/{name}": text for name, text in texts.items()},
            }
        )
        self.recorder: Recorder | None = None
        self._unit, self._sign, self._watts = unit, sign, (idle_w, busy_w)

    def current(self) -> str:
        at = int(self.now_s / self.period_s) * self.period_s
        watts = self._watts[at < self.busy_until] * (1 + 0.004 * (int(at / self.period_s) % 5))
        return str(round(self._sign * watts / 3.9 * self._unit))

    def clock(self) -> int:
        return round(self.now_s * 1e9)

    def sleep(self, seconds: float) -> None:
        """Whoever records reads every 50 ms in the meantime."""
        end = self.now_s + seconds
        while self.recorder is not None and self.now_s + 0.05 < end:
            self.now_s += 0.05
            self.recorder.take()
        self.now_s = end

    def record(self, meter: Meter, seconds: float) -> Phone:
        self.recorder = Recorder(meter, self.clock, seconds)
        return self

    def trace(self) -> Trace:
        assert self.recorder is not None
        return self.recorder.trace()

    def stop(self) -> None:
        pass

    def busy(self, seconds: float) -> None:
        self.busy_until = self.now_s + seconds

    def open(self) -> Battery:
        return open_battery(PHONE.sensors[0], self.files, self.clock, self.sleep, self.busy)


class TestBattery:
    @pytest.mark.parametrize("sign", [-1, 1])
    @pytest.mark.parametrize(("unit", "name"), [(1e6, "uA"), (1e3, "mA")])
    def test_unit_and_sign_are_inferred(self, unit: float, name: str, sign: int) -> None:
        phone = Phone(unit, sign)
        meter = phone.open()
        assert meter.settings["current_unit"] == name
        assert meter.settings["discharging_is"] == ("negative" if sign < 0 else "positive")
        assert meter.probe() == pytest.approx(4.0, rel=0.03) or meter.probe() == pytest.approx(1.0, rel=0.03)
        assert meter.period_s == pytest.approx(0.5, rel=0.2)
        assert meter.least_window_s >= 30

    @pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
    def test_what_does_not_discharge_is_refused(self, status: str) -> None:
        with pytest.raises(MissingError, match="not discharging"):
            Phone(status=status).open()

    def test_charging_later_is_seen_by_the_probe(self) -> None:
        phone = Phone()
        meter = phone.open()
        phone.files.texts[f"{BATTERY}/battery/status"] = "Charging"
        with pytest.raises(MissingError, match="not discharging"):
            meter.probe()

    def test_charging_that_begins_while_measuring_ends_it(self) -> None:
        phone = Phone()
        meter = phone.open()

        def call() -> None:
            phone.sleep(1.0)
            phone.files.texts[f"{BATTERY}/battery/status"] = "Charging"

        with pytest.raises(MissingError, match="not discharging"):
            measure_energy(meter, call, sync=lambda: None, clock=phone.clock, sleep=phone.sleep, record=phone.record)

    def test_a_window_is_half_a_minute_at_least(self) -> None:
        phone = Phone()
        meter = phone.open()

        def call() -> None:
            phone.busy(1.0)
            phone.sleep(1.0)

        energy = measure_energy(
            meter, call, sync=lambda: None, clock=phone.clock, sleep=phone.sleep, record=phone.record
        )
        assert energy.valid, energy.reasons
        assert energy.window_s >= 30
        assert energy.average_w == pytest.approx(4.0 * 1.008, rel=0.01)
        assert energy.effective_readings <= energy.window_s / meter.period_s

    def test_a_busy_device_that_draws_no_more_is_ambiguous(self) -> None:
        with pytest.raises(MissingError, match="does not draw more") as caught:
            Phone(idle_w=2.0, busy_w=2.02).open()
        assert "cannot be told" in caught.value.what

    def test_no_current_that_changes_is_refused(self) -> None:
        with pytest.raises(MissingError, match="0 of 2 battery nodes"):
            Phone(current_now="-250000").open()

    @pytest.mark.parametrize(
        ("idle", "busy", "voltage", "why"),
        [
            (-2e5, 3e5, 3.9e6, "changes its sign"),
            (-2.0, -8.0, 3.9e6, "neither in uA nor in mA"),
            (-2e5, -8e5, 3.9, "no battery's"),
            (-2e8, -8e8, 3.9e6, "neither in uA nor in mA"),
        ],
    )
    def test_what_cannot_be_is_refused(self, idle: float, busy: float, voltage: float, why: str) -> None:
        with pytest.raises(MissingError) as caught:
            infer_units(BatteryProbe((idle,) * 9, (busy,) * 9, voltage, 10.0), "battery")
        assert why in str(caught.value)

    def test_it_is_found(self) -> None:
        phone = Phone()
        meter = find_meter(PHONE, phone.files, clock=phone.clock, sleep=phone.sleep, busy=phone.busy)
        assert isinstance(meter, Battery)


class FakeNvml:
    def __init__(self, statuses: dict[str, int], millijoules: int = 7500) -> None:
        self._statuses, self._millijoules = statuses, millijoules

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == "nvmlDeviceGetTotalEnergyConsumption":
                ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_ulonglong))[0] = self._millijoules
            return self._statuses.get(name, 0)

        return call


class TestNvml:
    def test_energy_in_joules(self) -> None:
        meter = open_nvml(MadeFiles({}), load=lambda _: FakeNvml({}))
        assert meter.probe() == 7.5
        assert meter.read(time.monotonic_ns).value == 7.5

    @pytest.mark.parametrize(
        "files", [{"/proc/device-tree/compatible": "nvidia,p3768\0nvidia,tegra234"}, {"/etc/nv_tegra_release": "# R36"}]
    )
    def test_tegra_is_refused_before_anything_is_loaded(self, files: dict[str, str]) -> None:
        with pytest.raises(MissingError, match="Tegra"):
            open_nvml(MadeFiles(files), load=lambda _: pytest.fail("loaded"))

    def test_a_library_that_initialises_and_gives_no_value_is_no_meter(self) -> None:
        meter = open_nvml(MadeFiles({}), load=lambda _: FakeNvml({"nvmlDeviceGetTotalEnergyConsumption": 3}))
        with pytest.raises(MissingError, match="gives no energy"):
            meter.probe()

    def test_no_driver_and_no_gpu(self) -> None:
        def absent(_: str) -> Any:
            raise OSError("libnvidia-ml.so.1: cannot open shared object file")

        with pytest.raises(MissingError, match="no NVIDIA driver"):
            open_nvml(MadeFiles({}), load=absent)
        with pytest.raises(MissingError, match="no GPU 4"):
            open_nvml(MadeFiles({}), 4, load=lambda _: FakeNvml({"nvmlDeviceGetHandleByIndex_v2": 2}))
