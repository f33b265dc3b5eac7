"""Frequency response of a network: the gradient of its loss for every DCT coefficient of the input (section 3.1).

An inverse DCT stands in front of the network (Fig. 3), so that the coefficients are the leaves of the
graph. Absolute gradients are averaged over blocks and frames; signed ones would cancel. Signed or not,
all networks are asked about the same undistorted frames, one frame at a time, with the loss that they
were trained with. Departures from the paper, which does not say: blocks of 8x8 as JPEG has them, in
YCbCr (BT.601, full range); the whole frame as one block is the option.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.parametrizations import _SpectralNorm

from gearnn.errors import DataError, PlanError
from gearnn.finetune_batches import Samples
from gearnn.layers import batchnorms
from gearnn.machine.compute import Compute
from gearnn.machine.randomness import own_stream
from gearnn.problems.problem import Differentiable, Problem, teaches

BLOCK = 8
"""Side of JPEG's blocks, in pixels."""

_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136286, -0.714136286), (1.0, 1.772, 0.0))
"""RGB in [0, 1] from Y in [0, 1] and Cb, Cr in [-0.5, 0.5] (BT.601, full range, as in JPEG)."""


def dct_matrix(size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """The orthonormal DCT-II, [frequency, sample]: ``matrix @ signal`` transforms, its transpose inverts.

    >>> matrix = dct_matrix(8, torch.float64)
    >>> bool(torch.allclose(matrix @ matrix.T, torch.eye(8, dtype=torch.float64)))
    True
    """
    frequency = torch.arange(size, dtype=torch.float64)[:, None]
    sample = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = torch.cos(math.pi * (sample + 0.5) * frequency / size) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix.to(dtype)


class InverseDCT(nn.Module):
    """DCT coefficients to RGB pixels; goes in front of a network.

    Args:
        block: (rows, columns) of a block.
    """

    def __init__(self, block: tuple[int, int], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.rows: Tensor
        self.columns: Tensor
        self.colours: Tensor
        self.register_buffer("rows", dct_matrix(block[0], dtype))
        self.register_buffer("columns", dct_matrix(block[1], dtype))
        self.register_buffer("colours", torch.tensor(_TO_RGB, dtype=torch.float64).to(dtype))

    def forward(self, coefficients: Tensor) -> Tensor:
        """Pixels of a frame.

        Args:
            coefficients: of Y, Cb, Cr, [3, blocks down, blocks across, rows, columns].

        Returns:
            RGB in [0, 1], [3, H, W].
        """
        blocks = self.rows.T @ coefficients @ self.columns
        return torch.einsum("rc,chw->rhw", self.colours, _unblocked(blocks))

    def coefficients(self, pixels: Tensor) -> Tensor:
        """The coefficients of a frame, the inverse of :meth:`forward`.

        Args:
            pixels: RGB in [0, 1], [3, H, W]; H and W are multiples of the block.
        """
        planes = torch.einsum("cr,rhw->chw", torch.linalg.inv(self.colours.double()).to(pixels.dtype), pixels)
        return self.rows @ _blocked(planes, len(self.rows), len(self.columns)) @ self.columns.T


def frequency_response(
    model: nn.Module,
    samples: Samples,
    problem: Problem,
    *,
    block: int | None = BLOCK,
    num_frames: int | None = None,
    compute: Compute | None = None,
    on_frame: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Mean absolute gradient of the loss for every DCT coefficient.

    Args:
        model: the network, asked in evaluation mode; where the problem has its loss in training mode only, as
            torchvision's detectors do, layers that draw numbers or move statistics are switched off. It stays as
            and where it is, and others may train or read it meanwhile; not so where it cannot be copied and runs
            itself, see :meth:`gearnn.machine.compute.Compute.reading`.
        samples: undistorted frames with truth; those without any are left out of the mean.
        problem: its loss is differentiated; it must be :class:`gearnn.problems.problem.Differentiable`.
        block: side of the blocks in pixels. What the last whole block leaves over at the right and the
            lower edge stays as it is, and is not asked about. None takes the frame as one block.
        num_frames: how many frames, spread evenly over the split; None takes all.
        compute: device and precision; None chooses.
        on_frame: called with (done, in all).

    Returns:
        float64 [3, rows, columns] for Y, Cb, Cr: loss per unit of a coefficient, whose pixels are in [0, 1].

    Raises:
        PlanError: the problem cannot be differentiated to its pixels; or the network cannot be copied and does not
            lie on the device.
        DataError: no frames, or none with truth; or frames of several sizes as one block, or smaller than a block.
    """
    if not isinstance(problem, Differentiable):
        raise PlanError(
            f"frequency response: expected a problem with the methods of gearnn.problems.problem.Differentiable, "
            f"but got {problem.describe().get('name')}"
        )
    if len(samples) == 0:
        raise DataError("frequency response: expected at least one frame, but got none")
    compute = compute or Compute.resolve()
    indices = evenly_spread(len(samples), num_frames)
    total: np.ndarray | None = None
    asked = 0
    with compute.reading(model) as network:
        quiet = _quiet(network, problem.loss_needs_training, is_own=network is not model)
        for done, index in enumerate(indices, start=1):
            batch = problem.collate([samples[index]])
            if teaches(problem, batch):
                gradients = _gradients(quiet, problem, problem.to(batch, compute), block, compute)
                total = gradients if total is None else _added(total, gradients)
                asked += 1
            if on_frame is not None:
                on_frame(done, len(indices))
    if total is None:
        raise DataError(f"frequency response: expected truth in at least one of {len(indices)} frames, but got none")
    return total / asked


def closeness(base: np.ndarray, full: np.ndarray, partial: np.ndarray) -> float:
    """How much of what full fine-tuning does to the frequency response partial fine-tuning does as well.

    ``1 - sum |partial - full| / sum |base - full|``: 1 where the maps agree, 0 where the partial one is as
    far from the full one as the base is, negative where it is farther; NaN where full fine-tuning
    changed nothing.
    """
    way = float(np.abs(base - full).sum())
    return 1.0 - float(np.abs(partial - full).sum()) / way if way > 0 else math.nan


def high_frequency_share(response: np.ndarray) -> float:
    """How much of a network's response to luma lies at high frequencies; 0 to 1.

    High is the half of the coefficients behind the diagonal from the highest vertical to the highest
    horizontal frequency. Unlike the response itself this does not scale with the loss.

    Args:
        response: [3, rows, columns].
    """
    luma: np.ndarray = response[0]
    vertical, horizontal = (np.arange(size) / size for size in luma.shape)
    high = vertical[:, None] + horizontal[None, :] >= 1.0
    return float(luma[high].sum() / luma.sum()) if luma.sum() > 0 else math.nan


def evenly_spread(length: int, number: int | None) -> list[int]:
    """Indices of so many items, from the first to the last.

    >>> evenly_spread(10, 4), evenly_spread(3, None), evenly_spread(2, 5)
    ([0, 3, 6, 9], [0, 1, 2], [0, 1])
    """
    if number is None or number >= length:
        return list(range(length))
    return [round(i * (length - 1) / max(1, number - 1)) for i in range(number)]


def _gradients(
    model: nn.Module, problem: Differentiable, batch: Any, block: int | None, compute: Compute
) -> np.ndarray:
    """Of one frame: |gradient| of every coefficient, mean over blocks, float64 [3, rows, columns]."""
    (pixels,) = problem.pixels(batch)
    height, width = pixels.shape[1:]
    size = (block, block) if block is not None else (height, width)
    rows, columns = height - height % size[0], width - width % size[1]
    if rows == 0 or columns == 0:
        raise DataError(f"frequency response: expected frames of at least {block}x{block}, but got {width}x{height}")
    inverse = InverseDCT(size, pixels.dtype).to(pixels.device)
    leaf = inverse.coefficients(pixels[:, :rows, :columns]).detach().requires_grad_()
    with torch.enable_grad(), own_stream(compute.device, "frequency response"):
        frame = pixels.clone()
        frame[:, :rows, :columns] = inverse(leaf)
        with compute.autocast():
            loss = problem.loss(model, problem.with_pixels(batch, [frame]))
        (gradient,) = torch.autograd.grad(loss, leaf)
    averaged: np.ndarray = gradient.abs().double().mean(dim=(1, 2)).cpu().numpy()
    return averaged


def _added(total: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    if total.shape != gradients.shape:
        raise DataError(
            f"frequency response: expected frames of one size where the whole frame is one block, but got "
            f"{total.shape[2]}x{total.shape[1]} and {gradients.shape[2]}x{gradients.shape[1]}; take blocks of 8"
        )
    added: np.ndarray = total + gradients
    return added


def _quiet(model: nn.Module, needs_training: bool, *, is_own: bool) -> nn.Module:
    """A network set to give losses, with statistics that stay and nothing that draws; if our own, weights fixed."""
    model.train(needs_training)
    if is_own:
        model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, _DropoutNd | _SpectralNorm) or type(module).__name__ in ("DropPath", "StochasticDepth"):
            module.eval()
    for _, module in batchnorms(model):
        module.eval()
    return model


def _blocked(planes: Tensor, rows: int, columns: int) -> Tensor:
    """[3, H, W] as [3, blocks down, blocks across, rows, columns]."""
    channels, height, width = planes.shape
    return planes.reshape(channels, height // rows, rows, width // columns, columns).transpose(2, 3)


def _unblocked(blocks: Tensor) -> Tensor:
    """The inverse of :func:`_blocked`."""
    channels, down, across, rows, columns = blocks.shape
    return blocks.transpose(2, 3).reshape(channels, down * rows, across * columns)
