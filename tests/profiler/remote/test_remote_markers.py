"""Requirements and their markers, for a device that is not this machine."""

from __future__ import annotations

import pytest

from edgekit.profiler.remote.markers import environment, holds, normal, parse_requirement

DEVICE = environment("3.10", "aarch64")


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("", True),
        ("python_version < '3.11'", True),
        ('python_version < "3.9"', False),
        ("python_version >= '3.10'", True),
        ("python_full_version <= '3.10'", True),
        ("python_full_version < '3.10.0'", False),
        ("python_full_version != '3.10'", False),
        ("python_version ~= '3.7'", True),
        ("python_version ~= '3.11'", False),
        ("'3.9' < python_version", True),
        ("platform_machine == 'aarch64' and sys_platform == 'linux'", True),
        ("platform_machine != 'aarch64' or sys_platform == 'win32'", False),
        ("(os_name == 'nt' or os_name == 'posix') and implementation_name == 'cpython'", True),
        ("sys_platform in 'linux darwin'", True),
        ("sys_platform not in 'linux darwin'", False),
        ("extra == 'image'", False),
    ],
)
def test_markers_are_those_of_the_device(marker: str, expected: bool) -> None:
    assert holds(marker, DEVICE) is expected


def test_extras_are_asked_for_by_any_spelling() -> None:
    assert holds("extra == 'Torch_TensorRT' and python_version < '3.11'", DEVICE, ("torch-tensorrt",))
    assert not holds("extra == 'other'", DEVICE, ("torch-tensorrt",))


@pytest.mark.parametrize("marker", ["python_version", "color == 'red'", "f('x') == 'y'", "1 < 2", "a b"])
def test_what_is_no_marker_is_refused(marker: str) -> None:
    with pytest.raises(ValueError, match="marker"):
        holds(marker, DEVICE)


@pytest.mark.parametrize(
    ("text", "expected", "marker"),
    [
        ("numpy>=1.26", "numpy>=1.26", ""),
        (
            "typing_extensions (>=4.6, <5) ; python_version < '3.11'",
            "typing-extensions>=4.6,<5",
            "python_version < '3.11'",
        ),
        ("Jinja2[i18n, Other]>=3", "jinja2[i18n,other]>=3", ""),
        ("plain", "plain", ""),
    ],
)
def test_requirements_are_taken_apart(text: str, expected: str, marker: str) -> None:
    found = parse_requirement(text)
    assert (found.text, found.marker) == (expected, marker)


def test_names_have_one_form() -> None:
    assert normal("Foo__Bar.baz") == "foo-bar-baz"
