"""The boards that edgekit ships: found by name, complete, and consistent with themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit import profiles
from edgekit.errors import UsageError
from edgekit.profiles import DeviceProfile, Fact
from edgekit.structure import decode, encode

ORINS = ["orin-nano", "orin-nano-4gb", "orin-nano-4gb-jp72", "orin-nano-jp72"]
NAMES = ["host", "intel-cpu", "intel-n100", *ORINS, "qcs6490", "snapdragon-865"]
BUILTIN = profiles.read_profiles(profiles.builtin_files())
each_profile = pytest.mark.parametrize("profile", BUILTIN, ids=lambda profile: profile.name)


def device(name: str) -> DeviceProfile:
    (found,) = (profile for profile in BUILTIN if profile.name == name)
    return found


def value(fact: Fact | None) -> float:
    assert fact is not None
    assert isinstance(fact.value, int | float)
    return fact.value


def all_facts(profile: DeviceProfile) -> Iterator[tuple[str, Fact]]:
    yield from profile.facts.items()
    yield from profile.paths.items()
    for sensor in profile.sensors:
        yield from sensor.facts.items()
    for mode in profile.power_modes:
        yield from ((name, fact) for name, fact in vars(mode).items() if isinstance(fact, Fact))


def test_every_promised_device_is_shipped() -> None:
    assert [profile.name for profile in BUILTIN] == NAMES


@pytest.mark.parametrize(("alias", "name"), [("snapdragon-cpu", "qcs6490"), ("intel", "intel-cpu")])
def test_an_alias_gives_the_profile_that_it_stands_for(alias: str, name: str) -> None:
    assert profiles.get(alias) == profiles.get(name)
    assert profiles.get(alias).name == name


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(UsageError) as caught:
        profiles.get("orin-nanno")
    assert caught.value.exit_code == 2
    assert "did you mean orin-nano" in str(caught.value)
    assert "snapdragon-cpu" in str(caught.value)


@each_profile
def test_a_profile_survives_json_unchanged(profile: DeviceProfile) -> None:
    assert decode(DeviceProfile, encode(profile), "json") == profile


values = (
    st.none() | st.text(max_size=5) | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
lists = st.lists(st.text(max_size=5) | st.integers(), max_size=3).map(tuple)


@settings(max_examples=50)
@given(values | lists, st.booleans(), st.booleans())
def test_a_fact_survives_json_with_the_type_of_its_value(content: object, verified: bool, computed: bool) -> None:
    fact = Fact(content, "a document", "MHz", verified, computed)  # type: ignore[arg-type]
    again = decode(Fact, encode(fact), "json")
    assert again == fact
    assert type(again.value) is type(content)


@each_profile
def test_what_is_unknown_never_counts_as_verified(profile: DeviceProfile) -> None:
    assert [name for name, fact in all_facts(profile) if fact.value is None and fact.verified] == []


@each_profile
def test_opset_and_ir_stay_within_what_the_oldest_runtimes_take(profile: DeviceProfile) -> None:
    assert (profile.opset, profile.ir) == (20, 10)


@pytest.mark.parametrize("name", ORINS)
def test_orin_nano_defaults_to_fp16_on_the_tensorrt_of_its_jetpack_and_never_on_11(name: str) -> None:
    profile = device(name)
    jetpack_7 = name.endswith("jp72")
    assert (profile.runtime, profile.default_precision) == ("tensorrt", "fp16")
    assert (profile.runtime_min, profile.runtime_below) == (("10.16", "10.17") if jetpack_7 else ("10.3", "10.4"))
    assert profile.python == ("3.12" if jetpack_7 else "3.10")
    assert profile.fact("cuda").value == ("13.2" if jetpack_7 else "12.6")
    assert profile.isa == ("aarch64",)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(ORINS)))
def test_every_other_target_defaults_to_fp32(name: str) -> None:
    assert device(name).default_precision == "fp32"


@each_profile
def test_int8_has_to_beat_the_default_precision(profile: DeviceProfile) -> None:
    assert profile.candidates[0] == profile.default_precision
    assert profile.candidates[-1] == "int8"
    assert ("bf16" in profile.candidates) is (profile.name == "intel-cpu")


def test_an_n100_is_raced_under_its_own_instructions_alone() -> None:
    assert device("intel-n100").race_env == {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}
    assert device("intel-n100").race_needs["int8"] == ("avx_vnni",)
    assert device("intel-cpu").race_env == {}
    assert "bf16" not in device("intel-n100").candidates


@pytest.mark.parametrize("name", ["intel-cpu", "intel-n100"])
def test_openvino_is_pinned_to_f32_and_says_why(name: str) -> None:
    profile = device(name)
    assert profile.settings == {"INFERENCE_PRECISION_HINT": "f32"}
    assert "bf16" in profile.because["settings"]
    assert (profile.runtime, profile.runtime_min, profile.runtime_below) == ("openvino", "2025.0", "2027")


@pytest.mark.parametrize("name", ORINS)
def test_orin_nano_has_neither_dla_nor_video_encoder(name: str) -> None:
    assert [device(name).fact(fact).value for fact in ("has_dla", "has_nvenc", "has_pva")] == [False] * 3


@pytest.mark.parametrize("name", ["snapdragon-865", "qcs6490"])
def test_snapdragons_have_dotprod_and_no_i8mm(name: str) -> None:
    profile = device(name)
    assert (profile.fact("has_dotprod").value, profile.fact("has_i8mm").value) == (True, False)
    assert sum(cluster.count for cluster in profile.clusters) == 8


@pytest.mark.parametrize("software", ["", "-jp72"])
def test_the_4_gb_module_has_half_the_gpu_and_memory_of_the_8_gb_one(software: str) -> None:
    whole, half = device(f"orin-nano{software}"), device(f"orin-nano-4gb{software}")
    for name in ("sm_count", "cuda_cores", "tensor_cores", "memory_bus_bits"):
        assert value(half.fact(name)) * 2 == value(whole.fact(name))
    assert whole.memory_bytes == 8 * 2**30
    assert half.memory_bytes == 4 * 2**30


def test_the_4_gb_board_on_jetpack_7_joins_the_hardware_of_one_with_the_software_of_the_other() -> None:
    both = device("orin-nano-4gb-jp72")
    hardware, software = device("orin-nano-4gb"), device("orin-nano-jp72")
    assert both.power_modes == hardware.power_modes
    assert both.memory_bytes == hardware.memory_bytes
    for name, fact in both.facts.items():
        assert fact in (hardware.facts[name], software.facts[name])
    assert both.fact("tensorrt") == software.fact("tensorrt")
    assert both.fact("sm_count") == hardware.fact("sm_count")


@pytest.mark.parametrize("name", ORINS)
def test_computed_peaks_follow_from_multiprocessors_clock_and_operations_a_clock(name: str) -> None:
    profile = device(name)
    for mode in profile.power_modes:
        clocks = value(mode.active_sms) * value(mode.gpu_mhz) * 1e6
        for peak, rate in [
            (mode.int8_tops, "int8_ops_per_clock_per_sm"),
            (mode.fp16_tflops, "fp16_flops_per_clock_per_sm"),
            (mode.fp32_tflops, "fp32_flops_per_clock_per_sm"),
        ]:
            assert peak is not None
            assert peak.computed
            assert value(peak) == pytest.approx(clocks * value(profile.fact(rate)) / 1e12, rel=0.015)
            assert value(mode.active_sms) <= value(profile.fact("sm_count"))


@pytest.mark.parametrize("name", ORINS)
def test_memory_bandwidth_follows_from_bus_and_clock(name: str) -> None:
    profile = device(name)
    stated = [mode for mode in profile.power_modes if mode.memory_mhz and mode.memory_mhz.value is not None]
    assert len(stated) >= 2
    for mode in stated:  # two transfers a clock, eight bits a byte
        expected = value(mode.memory_mhz) * 2e6 * value(profile.fact("memory_bus_bits")) / 8 / 1e9
        assert value(mode.memory_gb_s) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("name", ORINS)
def test_orin_nano_boots_into_25w(name: str) -> None:
    profile = device(name)
    assert [mode.name for mode in profile.power_modes if mode.default] == ["25W"]
    assert profile.default_power_mode is not None
    assert profile.default_power_mode.id == 1


def test_a_board_without_known_modes_has_no_default_one() -> None:
    assert device("host").default_power_mode is None


@pytest.mark.parametrize("name", ["snapdragon-865", "qcs6490"])
def test_cpu_peaks_follow_from_the_big_cores(name: str) -> None:
    profile = device(name)
    ghz = sum(each.count * (each.clock_mhz or 0.0) / 1e3 for each in profile.clusters if each.core != "Cortex-A55")
    for peak, rate in [("big_cores_fp32_gflops", "fp32_flops"), ("big_cores_int8_gops", "int8_ops")]:
        assert profile.fact(peak).computed
        expected = ghz * value(profile.fact(f"{rate}_per_clock_per_big_core"))
        assert value(profile.fact(peak)) == pytest.approx(expected, rel=0.005)


def test_n100_peaks_follow_from_its_cores() -> None:
    profile = device("intel-n100")
    (cluster,) = profile.clusters
    ghz = cluster.count * (cluster.clock_mhz or 0.0) / 1e3
    assert value(profile.fact("int8_gops")) == pytest.approx(ghz * 64, rel=0.005)
    assert value(profile.fact("fp32_gflops")) == pytest.approx(ghz * 16, rel=0.005)
    assert profile.fact("has_avx512").value is False


def test_the_sensor_of_orin_nano_names_its_total_and_its_rails() -> None:
    (sensor,) = device("orin-nano").sensors
    assert sensor.kind == "ina3221"
    assert sensor.total == "VDD_IN"
    assert [(rail.channel, rail.label, rail.shunt_uohm) for rail in sensor.rails] == [
        (1, "VDD_IN", 5000),
        (2, "VDD_CPU_GPU_CV", 5000),
        (3, "VDD_SOC", 5000),
    ]


def test_asking_for_a_fact_that_is_not_stated_lists_those_that_are() -> None:
    with pytest.raises(UsageError, match="states no fact 'has_npu'") as caught:
        device("orin-nano").fact("has_npu")
    assert "has_dla" in str(caught.value.fix)
