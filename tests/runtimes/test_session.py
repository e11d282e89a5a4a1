"""A loaded bundle: the same answers in every runtime, and a typed refusal of every input that does not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.errors import EdgekitError, InputError, UsageError
from edgekit.processing.detect import Detections
from edgekit.runtimes.session import Prediction, Session, load
from edgekit.spec import ClassificationPostprocess, ModelSpec, TensorSpec

Make = Callable[..., Path]
RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(params=[(runtime, name) for runtime in RUNTIMES for name in ("cells", "cells.edgekit")], ids="-".join)
def session(request: pytest.FixtureRequest, make: Make) -> Session:
    """The detector in each runtime, from a folder and from a zip."""
    runtime, name = request.param
    pytest.importorskip(runtime)
    return load(make(name, runtime=runtime))


@pytest.fixture
def ort(make: Make) -> Session:
    pytest.importorskip("onnxruntime")
    return load(make())


def named(prediction: Prediction) -> list[tuple[str, list[float]]]:
    assert isinstance(prediction, Detections)
    rows = zip(prediction.labels, prediction.boxes.tolist(), strict=True)
    return sorted((("red", "blue")[label], box) for label, box in rows)


def test_a_picture_becomes_the_detections_that_are_in_it(
    session: Session, cells: np.ndarray, cells_found: list
) -> None:
    with session:
        assert named(session.predict(cells)) == cells_found


def test_the_runtimes_and_containers_give_the_same_numbers(make: Make, cells: np.ndarray) -> None:
    for runtime in RUNTIMES:
        pytest.importorskip(runtime)
    feeds = {"image": np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)}
    paths = [make(f"{runtime}{suffix}", runtime=runtime) for runtime in RUNTIMES for suffix in ("", ".edgekit")]
    sessions = [load(path) for path in paths]
    first, *others = [session.run(feeds)["head"] for session in sessions]
    assert first.shape == (2, 7, 4, 4)
    assert first.dtype == np.float32
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-6, atol=1e-6)
    scores = {session.predict(cells).scores.tobytes() for session in sessions[:2]}  # type: ignore[union-attr]
    assert len(scores) == 1


def test_a_session_says_what_it_is(session: Session, detector_spec: ModelSpec) -> None:
    assert session.spec == detector_spec
    assert session.manifest.name == "cells"
    name, version = session.runtime.split(" ")
    assert name == session.manifest.target.runtime.name
    assert version == sys.modules[name].__version__.split("-")[0]


def test_pictures_of_several_sizes_are_predicted_together(
    session: Session, cells: np.ndarray, cells_found: list
) -> None:
    twice = cells.repeat(2, axis=0).repeat(2, axis=1)
    small, large = session.predict_batch([cells, twice])
    assert named(small) == cells_found
    assert [label for label, _ in named(large)] == ["blue", "red"]
    for (_, box), (_, other) in zip(named(small), named(large), strict=True):
        np.testing.assert_allclose(np.multiply(box, 2), other, atol=0.5)


def test_no_pictures_are_no_predictions(ort: Session) -> None:
    assert ort.predict_batch([]) == []


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_fixed_batch_is_filled_up_and_the_filling_is_not_returned(
    make: Make, detector_spec: ModelSpec, cells: np.ndarray, cells_found: list, size: int
) -> None:
    pytest.importorskip("onnxruntime")
    fixed = replace(detector_spec, inputs=(replace(detector_spec.inputs[0], shape=(size, 3, 32, 32)),))
    runs: list[int] = []
    with load(make(spec=fixed)) as session:
        run = session.run
        session.run = lambda feeds: runs.append(len(feeds["image"])) or run(feeds)  # type: ignore[assignment, func-returns-value]
        answers = session.predict_batch([cells, np.zeros_like(cells), cells])
    assert [named(answer) for answer in answers] == [cells_found, [], cells_found]
    assert set(runs) == {size}
    assert len(runs) == -(-3 // size)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_classifier_ranks_its_labels(make: Make, detector_spec: ModelSpec, runtime: str) -> None:
    pytest.importorskip(runtime)
    ranking = replace(
        detector_spec,
        task="classification",
        outputs=(TensorSpec("logits", "float32", ("batch", 3)),),
        postprocess=ClassificationPostprocess(("logits",), softmax=False, top_k=2),
    )
    model = (Path(__file__).parent / "data" / "classifier.onnx").read_bytes()
    sky = np.full((20, 40, 3), (51, 102, 255), np.uint8)
    with load(make(runtime=runtime, spec=ranking, files={"model.onnx": ("model", model)})) as session:
        first, second = session.predict_batch([sky, np.ascontiguousarray(sky[..., ::-1])])
    assert isinstance(first, list) and isinstance(second, list)
    assert [label for label, _ in first] == [2, 1]
    assert [label for label, _ in second] == [0, 1]
    assert [value for _, value in first] == pytest.approx([0.5, 0.2], abs=1e-3)  # half of the canvas is padding


@pytest.mark.parametrize("missing", ["preprocess", "postprocess"])
def test_without_its_processing_a_bundle_takes_no_pictures(
    make: Make, detector_spec: ModelSpec, cells: np.ndarray, missing: str
) -> None:
    pytest.importorskip("onnxruntime")
    bare: ModelSpec = replace(detector_spec, **{missing: None})  # type: ignore[arg-type]
    with load(make(spec=bare)) as session:
        with pytest.raises(UsageError, match="cells cannot take pictures") as caught:
            session.predict(cells)
        assert missing in str(caught.value.why)
        assert session.run({"image": np.zeros((1, 3, 32, 32), np.float32)})["head"].shape == (1, 7, 4, 4)


GOOD = np.zeros((1, 3, 32, 32), np.float32)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "got none"),
        ({"picture": GOOD}, "got picture"),
        ({"image": GOOD, "extra": GOOD}, "got extra, image"),
        ({1: GOOD, "image": GOOD}, "got 1, image"),
        (GOOD, "got ndarray, not a mapping"),
        (None, "got NoneType, not a mapping"),
    ],
)
def test_wrong_names_are_refused_with_both_sides_named(session: Session, feeds: Any, said: str) -> None:
    with pytest.raises(InputError, match="inputs do not match") as caught:
        session.run(feeds)
    assert caught.value.where == said
    assert caught.value.why == "the model takes image"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (GOOD.astype(np.float64), "got float64 (1, 3, 32, 32)"),
        (GOOD.astype(">f4"), "got >f4 (1, 3, 32, 32)"),
        (GOOD.astype(np.uint8), "got uint8 (1, 3, 32, 32)"),
        (GOOD[0], "got float32 (3, 32, 32)"),
        (GOOD[None], "got float32 (1, 1, 3, 32, 32)"),
        (GOOD[..., :31], "got float32 (1, 3, 32, 31)"),
        (GOOD.transpose(0, 2, 3, 1), "got float32 (1, 32, 32, 3)"),
        (GOOD.tolist(), "got list"),
        (np.float32(1), "got float32"),
        (None, "got NoneType"),
        ("image.png", "got str"),
    ],
)
def test_a_wrong_array_is_refused_with_its_name_and_what_was_given(session: Session, array: Any, said: str) -> None:
    with pytest.raises(InputError, match="input 'image' is not what the model takes") as caught:
        session.run({"image": array})
    assert str(caught.value.where).startswith(said)
    assert caught.value.why == "it takes float32 (batch, 3, 32, 32)"


@pytest.mark.parametrize(
    "feed",
    [
        np.asfortranarray(np.random.default_rng(1).random((2, 3, 32, 32), dtype=np.float32)),
        np.random.default_rng(1).random((4, 3, 32, 64), dtype=np.float32)[::2, ::-1, :, ::2],
    ],
    ids=["fortran", "strided"],
)
def test_the_memory_order_of_an_input_does_not_matter(session: Session, feed: np.ndarray) -> None:
    wanted = session.run({"image": np.ascontiguousarray(feed)})["head"]
    np.testing.assert_array_equal(session.run({"image": feed})["head"], wanted)


def test_a_read_only_input_is_taken_and_left_as_it_is(session: Session) -> None:
    feed = np.full((1, 3, 32, 32), 0.5, np.float32)
    feed.flags.writeable = False
    session.run({"image": feed})
    assert (feed == 0.5).all()


def test_outputs_belong_to_the_caller(session: Session) -> None:
    first = session.run({"image": GOOD})["head"]
    kept = first.copy()
    second = session.run({"image": GOOD + 1})["head"]
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)
    first[:] = 0  # writable
    assert not np.shares_memory(first, session.run({"image": GOOD})["head"])


def test_warming_up_runs_zeros_of_the_models_shape(session: Session) -> None:
    seen: list[tuple[int, ...]] = []
    engine = session._engine

    class Watched:
        def run(self, feeds: Any) -> Any:
            assert not feeds["image"].any()
            seen.append(feeds["image"].shape)
            return engine.run(feeds)

        def close(self) -> None:
            engine.close()

    session._engine = Watched()
    session.warmup()
    session.warmup(count=2)
    assert seen == [(1, 3, 32, 32)] * 5


def test_a_closed_session_says_so(session: Session, cells: np.ndarray) -> None:
    with session as entered:
        assert entered is session
        session.predict(cells)
    session.close()
    for use in (lambda: session.run({"image": GOOD}), lambda: session.predict(cells), session.warmup):
        with pytest.raises(UsageError, match="the session is closed"):
            use()


def test_a_session_is_closed_when_its_block_fails(ort: Session) -> None:
    with pytest.raises(ZeroDivisionError), ort:
        raise ZeroDivisionError
    with pytest.raises(UsageError, match="closed"):
        ort.run({"image": GOOD})


def test_the_package_offers_load_session_and_its_error_lazily() -> None:
    assert edgekit.load is load
    assert edgekit.Session is Session
    assert edgekit.EdgekitError is EdgekitError
    assert {"EdgekitError", "load", "Session", "export"} <= set(dir(edgekit))
    with pytest.raises(AttributeError, match="no attribute 'unload'"):
        edgekit.unload  # noqa: B018
