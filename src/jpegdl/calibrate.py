"""Initial quantization tables from data: by the loss's sensitivity to each frequency, or by magnitude.

Several processes of one group, each with its share of the images, get the tables of all images together.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn

from jpegdl import functional as F
from jpegdl.data.sampling import processes
from jpegdl.errors import UsageError
from jpegdl.layer import STEP_RANGE, LayerConfig, table_source
from jpegdl.tables import read_tables, standard_tables

if TYPE_CHECKING:
    from jpegdl.data import Data

Batches = Iterable[tuple[Tensor, Tensor]]
SMALLEST_RANDOM_STEP = 0.01


def sensitivity_tables(
    model: nn.Module, loader: Batches, *, q_max: float = 5.0, images: int = 5000, train_mode: bool = False
) -> tuple[Tensor, Tensor]:
    """Compute steps inversely proportional to how much the loss feels each DCT coefficient.

    S_f = mean over images and blocks of (dLoss / dz_f)^2, the loss being each image's cross-entropy; q_Y = c / S_Y and
    q_C = 2 c / (S_Cb + S_Cr), with the scale c such that the largest luma step is ``q_max``. A loss averaged over batches of
    equal size would change all S_f by one factor, and so no step.

    Args:
        model: a trained plain model that takes images (N, 3, H, W) in [0, 1] to logits (N, classes), such as
            ``prepend(backbone, nn.Identity())``: a bare backbone would miss its normalisation. Its mode, buffers and gradients
            are left as they were.
        loader: batches of (images in [0, 1], class indices); in each of several processes, those of its share.
        q_max: largest luma step, in JPEG table units.
        images: how many images to use, at most, over all processes; in the loader's order.
        train_mode: put the model in train mode, with the statistics of each batch in BatchNorm and with dropout, which is drawn
            from a seed of its own, so that a call gives the same tables every time. Default: eval mode.

    Returns:
        (luma, chroma), each (8, 8) float32 on the CPU; chroma steps may exceed ``q_max`` and are kept within [1e-5, 255].

    Raises:
        UsageError: an argument out of range, no images, a batch of one image that BatchNorm cannot take in train mode, or a
            sensitivity that is zero or not finite.

    Source: "JPEG Inspired Deep Learning" (ICLR 2025), initialisation of the quantization tables: in eval mode as the paper has
    it, in train mode (and on augmented images) as its code has it for CNNs on CIFAR and fine-grained sets.
    """
    if not 0 < q_max <= STEP_RANGE[1]:
        raise UsageError(f"q_max must be greater than 0 and at most 255, got {q_max}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    total, blocks = torch.zeros(3, 8, 8, dtype=torch.float64), 0
    generators = [device] if device.type == "cuda" else []
    with _in_mode(model, train_mode):
        for batch, target in _first(loader, images):
            batch, target = batch.to(device), target[: len(batch)].to(device)
            with torch.enable_grad(), torch.random.fork_rng(generators, enabled=train_mode):
                if train_mode:
                    torch.manual_seed(blocks)  # of dropout: the same in every call, another for each batch
                z = F.images_to_coefficients(batch.float()).requires_grad_()
                logits = model(F.coefficients_to_images(z, (batch.shape[-2], batch.shape[-1])))
                loss = nn.functional.cross_entropy(logits.float(), target, reduction="sum")
                (grad,) = torch.autograd.grad(loss, z)
            grad = grad.cpu() if device.type == "mps" else grad  # which has no float64
            total += grad.double().square().sum(dim=(0, 2, 3)).cpu()
            blocks += grad.shape[0] * grad.shape[2] * grad.shape[3]
    total, blocks = _over_processes(total, blocks)
    if not blocks:
        raise UsageError("sensitivity_tables got no images from the loader")
    sensitivity = total / blocks
    if not bool((sensitivity.isfinite() & (sensitivity > 0)).all()):
        raise UsageError(
            "the loss's sensitivity is zero or not finite for some frequency, so no step can be computed from it: "
            "the model is not trained, has diverged, or does not see every frequency"
        )
    luma, chroma = 1 / sensitivity[0], 2 / (sensitivity[1] + sensitivity[2])
    scale = q_max / luma.max()
    return (scale * luma).clamp(*STEP_RANGE).float(), (scale * chroma).clamp(*STEP_RANGE).float()


def magnitude_tables(loader: Batches, *, bits: int = 11, images: int | None = None) -> tuple[Tensor, Tensor]:
    """Compute steps proportional to the mean magnitude of each DCT coefficient: q_f = 2 mean|z_f| / sqrt(2^(bits-1)).

    Args:
        loader: batches of (images in [0, 1], anything); in each of several processes, those of its share.
        bits: size of the alphabet, 2 to 16.
        images: how many images to use, at most, over all processes; None for all.

    Returns:
        (luma, chroma), each (8, 8) float32 on the CPU, within [1e-5, 255]; chroma from Cb and Cr together.

    Raises:
        UsageError: an argument out of range, no images, or pixels that are not finite.

    Source: "JPEG Inspired Deep Learning" (ICLR 2025), the ImageNet runs.
    """
    cap = F.largest_level(bits)
    if cap is None:
        raise UsageError("magnitude_tables needs bits, an integer from 2 to 16, got None")
    total, blocks = torch.zeros(3, 8, 8, dtype=torch.float64), 0
    for batch, _ in _first(loader, images):
        z = F.images_to_coefficients(batch.float())
        total += z.abs().double().sum(dim=(0, 2, 3)).cpu()
        blocks += z.shape[0] * z.shape[2] * z.shape[3]
    total, blocks = _over_processes(total, blocks)
    if not blocks:
        raise UsageError("magnitude_tables got no images from the loader")
    if not bool(total.isfinite().all()):
        raise UsageError("magnitude_tables got pixels that are not finite")
    steps = 2 * total / blocks / (cap + 1) ** 0.5
    return steps[0].clamp(*STEP_RANGE).float(), steps[1:].mean(0).clamp(*STEP_RANGE).float()


def model_tables(config: LayerConfig, model: nn.Module, data: "Data") -> tuple[Tensor, Tensor]:
    """Return the (luma, chroma) tables of a trained plain model, as settings ask for them: see :func:`sensitivity_tables`."""
    train_mode = config.calibration == "train"
    loader = data.calibration_dataloader(augmented=train_mode)
    return sensitivity_tables(model, loader, q_max=config.q_max, images=config.images, train_mode=train_mode)


def starting_tables(config: LayerConfig, data: "Data") -> tuple[Tensor, Tensor]:
    """Return the (luma, chroma) tables that settings ask for, where they need no other run.

    Args:
        config: settings of the layer: ``tables``, and what that kind of tables needs.
        data: the data set, with its seed.

    Returns:
        (luma, chroma), each (8, 8) float32, in JPEG table units.

    Raises:
        UsageError: sensitivity, pretrained and learned tables, which need a model; or tables that cannot be read or computed.
    """
    kind = table_source(config)
    if kind == "ones":
        return torch.ones(8, 8), torch.ones(8, 8)
    if kind == "random":
        generator = torch.Generator().manual_seed(data.seed)
        low, high = math.log(SMALLEST_RANDOM_STEP), math.log(config.q_max)
        luma, chroma = torch.exp(low + (high - low) * torch.rand(2, 8, 8, generator=generator))
        return luma, chroma
    if kind == "standard":
        return standard_tables(int(config.tables.partition(":")[2]))
    if kind == "file":
        return read_tables(config.tables)
    if kind == "magnitude":
        return magnitude_tables(data.calibration_dataloader(), bits=config.bits or 11, images=config.images)
    raise UsageError(f"{kind} tables come from a trained model: jpegdl compare and jpegdl train compute them")


@contextmanager
def _in_mode(model: nn.Module, train_mode: bool) -> Iterator[None]:
    """The model in train or in eval mode; its modes and buffers are left as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()] if train_mode else []  # running statistics
    model.train(train_mode)
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            "sensitivity_tables got a batch of one image, in which BatchNorm has a single value in each channel in train mode: "
            "give larger batches, another number of images, or train_mode=False (layer.calibration eval)"
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _first(loader: Batches, images: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's part of the first ``images`` (None for all) of the order that processes take turns in."""
    if images is not None and images < 1:
        raise UsageError(f"images must be at least 1, got {images}")
    rank, world = processes()
    left = None if images is None else len(range(rank, images, world))
    for batch, target in loader:
        batch = batch[:left]
        if len(batch):
            _check_range(batch)
            yield batch, target
        if left is not None:
            left -= len(batch)
            if not left:
                return


def _over_processes(total: Tensor, blocks: int) -> tuple[Tensor, int]:
    """Sums over all processes, on the CPU; added in the same order, and so the same to the last bit, in each."""
    own = (total.cpu(), blocks)
    shares = [own] * processes()[1]
    if len(shares) > 1:
        distributed.all_gather_object(shares, own)
    return torch.stack([sums for sums, _ in shares]).sum(0), sum(count for _, count in shares)


def _check_range(images: Tensor) -> None:
    # In places even images in [0, 1] may leave it, where random erasing has put noise; normalised ones do all over.
    if ((images < -0.01) | (images > 1.01)).float().mean().item() > 0.1:
        low, high = images.min().item(), images.max().item()
        raise UsageError(
            f"images must lie in [0, 1], got {low:.3g} to {high:.3g}: leave normalisation to prepend, and divide 0..255 by 255"
        )
