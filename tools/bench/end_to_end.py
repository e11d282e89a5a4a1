"""From a 1080p picture to detections: `edgekit.load(...)` against OpenCV and raw ONNX Runtime written by hand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from models import export_options, femtodet_onnx
from timing import interleave, report

import edgekit
from edgekit.models.femtodet import MEAN, STD
from edgekit.pipeline import export
from edgekit.smear import draw_smear

BAR = 1.1
SIZE, STRIDE = 416, 16


def main() -> bool:
    """Measure and print; true where the bar is met."""
    import cv2

    cv2.setNumThreads(1)
    image = cv2.resize(draw_smear().image, (1920, 1080), interpolation=cv2.INTER_CUBIC)
    by_hand = _by_hand()
    results = []
    for form in ("as-is", "uint8-nhwc"):
        with tempfile.TemporaryDirectory() as folder:
            export(export_options(input=form), "snapdragon-865", Path(folder) / "bundle")
            session = edgekit.load(Path(folder) / "bundle", threads=1)
        counts = len(session.predict(image)), len(by_hand(image))
        assert abs(counts[0] - counts[1]) <= 2, f"the two do not do the same work: {counts} detections"
        pair = interleave(lambda session=session: session.predict(image), lambda: by_hand(image), rounds=300)
        met = pair.ratio <= BAR
        results.append(report(f"1080p to detections / by hand, {form}", f"<= {BAR}x", pair, pair.ratio, met))
    return results[-1]


def _by_hand() -> Callable[[np.ndarray], list[tuple[int, float]]]:
    """What a practitioner would write: OpenCV letterbox and NMS, numpy normalisation and decoding, raw ORT."""
    import cv2
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(femtodet_onnx("fuse", "rewrite"), options, providers=["CPUExecutionProvider"])
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    rows, columns = np.mgrid[: SIZE // STRIDE, : SIZE // STRIDE]

    def run(image: np.ndarray) -> list[tuple[int, float]]:
        scale = min(SIZE / image.shape[0], SIZE / image.shape[1])
        height, width = int(image.shape[0] * scale + 0.5), int(image.shape[1] * scale + 0.5)
        canvas = np.full((SIZE, SIZE, 3), 114, np.uint8)
        canvas[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        tensor = ((canvas.astype(np.float32) - mean) / std).transpose(2, 0, 1)[None]
        head = model.run(None, {"image": np.ascontiguousarray(tensor)})[0][0]
        probability = 1 / (1 + np.exp(-head[4:]))
        scores = probability[0] * probability[1:].max(0)
        labels = probability[1:].argmax(0)
        keep = scores >= 0.01
        x, y = (head[0] + columns)[keep] * STRIDE, (head[1] + rows)[keep] * STRIDE
        w, h = np.exp(head[2][keep]) * STRIDE, np.exp(head[3][keep]) * STRIDE
        boxes = np.stack([x - w / 2, y - h / 2, w, h], 1) / scale
        chosen = cv2.dnn.NMSBoxesBatched(boxes.tolist(), scores[keep].tolist(), labels[keep].tolist(), 0.01, 0.65)
        return [(int(labels[keep][i]), float(scores[keep][i])) for i in chosen]

    return run


if __name__ == "__main__":
    raise SystemExit(not main())
