"""Swin transformers: windows, shifts and merging equal their slow definitions."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from edgekit.errors import UsageError  # noqa: E402
from edgekit.models.swin import (  # noqa: E402
    MASKED,
    PatchMerging,
    SwinBlock,
    SwinConfig,
    SwinTransformer,
    relative_index,
    shift_mask,
)

SMALL = SwinConfig(size=32, patch=2, window=4, width=16, depths=(2, 2), heads=(2, 4), classes=5)


def test_merged_patches_stand_in_the_papers_order() -> None:
    merging = PatchMerging(3, 1e-5).double()
    x = torch.randn(2, 4, 6, 3, dtype=torch.float64)[:, :, :4]
    quarters = [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]]
    assert torch.equal(merging(x), merging.reduction(merging.norm(torch.cat(quarters, dim=-1))))


def test_the_index_of_a_pair_depends_on_its_offset_alone() -> None:
    index = relative_index(3).reshape(3, 3, 3, 3)
    assert index.min() == 0 and index.max() == 24
    offsets: dict[tuple[int, int], set[int]] = {}
    for row in range(3):
        for column in range(3):
            for other in range(3):
                for across in range(3):
                    found = int(index[row, column, other, across])
                    offsets.setdefault((row - other, column - across), set()).add(found)
    assert len(offsets) == 25 and all(len(found) == 1 for found in offsets.values())


def test_tokens_that_the_roll_brought_together_do_not_see_each_other() -> None:
    side, window, shift = 8, 4, 2
    mask = shift_mask(side, window, shift)
    rows = torch.roll(torch.arange(side * side).reshape(side, side), (-shift, -shift), (0, 1))
    for index in range(4):
        top, left = 4 * (index // 2), 4 * (index % 2)
        tokens = rows[top : top + 4, left : left + 4].flatten().tolist()
        for i, first in enumerate(tokens):
            for j, second in enumerate(tokens):
                far = abs(first // side - second // side) >= window or abs(first % side - second % side) >= window
                assert mask[index, 0, i, j] == (MASKED if far else 0.0)


def test_the_first_block_attends_inside_windows_and_the_second_across_them() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 16, 16, 16, requires_grad=True)
    for index, reach in ((0, 4), (1, 8)):
        block = SwinBlock(SMALL, 0, index).eval()
        (gradient,) = torch.autograd.grad(block(x)[0, 3, 3].sum(), x)
        seen = gradient[0].abs().sum(dim=-1) > 0
        rows = torch.nonzero(seen.any(dim=1)).flatten().tolist()
        assert rows == list(range(4)) if index == 0 else max(rows) < reach and max(rows) > 3


def test_a_swin_transformer_classifies_and_trains() -> None:
    module = SwinTransformer(SMALL)
    out = module(torch.randn(2, 3, 32, 32))
    assert out.shape == (2, 5)
    out.square().mean().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_ratios_a_block_are_spread_over_the_stages() -> None:
    config = SwinConfig(
        size=32, patch=2, window=4, width=16, depths=(2, 2), heads=(2, 4), theta=(0.5, 0.75, None, 1.0), multiple=1
    )
    assert config.layers() == ((32, 16), (128, 0))


@pytest.mark.parametrize(
    "changes", [{"size": 40}, {"heads": (2,)}, {"theta": (0.5, 0.5)}, {"active": (1, 2, 3)}, {"depths": (2, 2, 2)}]
)
def test_configurations_that_fit_no_swin_are_refused(changes: dict[str, object]) -> None:
    fields = {"size": 32, "patch": 2, "window": 4, "width": 16, "depths": (2, 2), "heads": (2, 4), **changes}
    with pytest.raises(UsageError):
        SwinConfig(**fields)  # type: ignore[arg-type]
