"""Holds what the places computed against the integer reference, and prints a table of it.

The verdict rests on layers, each recomputed from the runtime's own inputs to it. End to end one step becomes many: a
value on the border between two steps may fall to either side in any runtime, and the layers behind it magnify that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from arm64_check.places import Ran
from arm64_check.subjects import Subject
from edgekit.graph.integer import LayerGap, check_layers, output_gaps, run_integer

Gaps = dict[str, LayerGap]
Say = Callable[[str], None]
_INTEGER = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", ":u8", ":i8")
_NO_KERNELS = ("Const:", "Input:", "Output:", "Reorder:", "Reshape:")  # OpenVINO's, which compute nothing


@dataclass(frozen=True)
class Comparison:
    """One place's two runs, of the model and of its traced form, against the reference.

    Attributes:
        ran, traced: the runs.
        ends: every graph output of the model's own run, end to end; for information.
        layers: every quantized tensor and graph output of the traced run, by itself; judged.
    """

    ran: Ran
    traced: Ran
    ends: Gaps
    layers: Gaps

    def beyond(self, steps: float) -> list[LayerGap]:
        """The layers above the bar."""
        return [gap for gap in self.layers.values() if not gap.within(steps)]

    @property
    def worst(self) -> LayerGap:
        """The layer that is furthest away; of several, the first."""
        return max(self.layers.values(), key=lambda gap: gap.steps)

    @property
    def disturbed(self) -> int:
        """In how many output elements the traced run differs from the model's own: 0 where tracing changed nothing."""
        return _differences(self.ran, self.traced)


def compare(subject: Subject, ran: Ran, traced: Ran) -> Comparison:
    """The largest gaps over all samples."""
    ends = _largest(
        output_gaps(subject.model, run_integer(subject.model, sample), outputs)
        for sample, outputs in zip(subject.samples, ran.outputs, strict=True)
    )
    layers = _largest(
        check_layers(subject.model, {**sample, **outputs})
        for sample, outputs in zip(subject.samples, traced.outputs, strict=True)
    )
    return Comparison(ran, traced, ends, layers)


def print_table(subject: Subject, found: Sequence[Comparison], steps: float, every_layer: bool, say: Say) -> None:
    """One row a tensor, one column a place: the largest difference in steps, and how many elements differ.

    Args:
        steps: the bar.
        every_layer: whether to print all layers, or only those beyond the bar.
    """
    say(f"{subject.name}: {len(subject.samples)} input(s), {subject.inputs}; steps from the integer reference")
    if not found:
        return
    beyond = {gap.tensor for each in found for gap in each.beyond(steps)}
    rows = [["end to end, not judged", "by", *(each.ran.title for each in found)]]
    rows += _rows([each.ends for each in found])
    rows.append(["layer by layer", "", *("" for _ in found)])
    rows += [row for row in _rows([each.layers for each in found]) if every_layer or row[0] in beyond]
    count = len(found[0].layers)
    rows.append([f"worst of {count}", "", *(f"{_cell(each.worst)} {each.worst.tensor}" for each in found)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        say("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for each in found:
        say(f"  integer kernels of {each.ran.title}: {_kernels(each.ran)}")
        if each.disturbed:
            say(f"  tracing changed {each.disturbed} output elements of {each.ran.title}: its own layers may differ")
    _print_equality(found, say)
    for each in found:
        wrong = each.beyond(steps)
        verdict = f"{len(wrong)} tensor(s) beyond {steps:g} step(s)" if wrong else f"within {steps:g} step(s)"
        say(f"  {'FAILED' if wrong else 'ok':6}  {each.ran.title}: {verdict}")


def _rows(columns: Sequence[Gaps]) -> list[list[str]]:
    return [[name, gap.operator, *(_cell(each[name]) for each in columns)] for name, gap in columns[0].items()]


def _kernels(ran: Ran) -> str:
    """What the runtime made of the plain model, as far as it computes in integers."""
    made = [
        f"{name} {count}"
        for name, count in ran.operators.items()
        if any(word in name for word in _INTEGER) and not name.startswith(_NO_KERNELS)
    ]
    return ", ".join(made) or "none: it computes in floats"


def _print_equality(found: Sequence[Comparison], say: Say) -> None:
    """Whether ONNX Runtime gives the same bits here and there."""
    same = [each.ran for each in found if each.ran.place.runtime == "onnxruntime"]
    for other in same[1:]:
        differ = _differences(same[0], other)
        count = sum(array.size for outputs in other.outputs for array in outputs.values())
        text = "equal bit for bit" if not differ else f"{differ} of {count} output elements differ"
        say(f"  {same[0].machine} and {other.machine}: {text}")


def _differences(first: Ran, second: Ran) -> int:
    """How many elements of the first's outputs are others in the second."""
    return sum(
        int((ours[name] != theirs[name]).sum())
        for ours, theirs in zip(first.outputs, second.outputs, strict=True)
        for name in ours
    )


def _largest(samples: Iterable[list[LayerGap]]) -> Gaps:
    worst: Gaps = {}
    for gap in (gap for gaps in samples for gap in gaps):
        known = worst.get(gap.tensor, LayerGap(gap.tensor, gap.operator, 0.0, 0, 0))
        apart, elements = known.apart + gap.apart, known.elements + gap.elements
        worst[gap.tensor] = LayerGap(gap.tensor, gap.operator, max(known.steps, gap.steps), apart, elements)
    return worst


def _cell(gap: LayerGap) -> str:
    shown = f"{gap.steps:.3g}"
    return f"{shown} ({gap.apart} of {gap.elements} differ)" if gap.apart else shown
