"""JPEG compression at random qualities, as an augmentation and as a noise layer."""

import sys
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.data import get_worker_info

from jpegdl.errors import UsageError
from jpegdl.layer.config import Rounding
from jpegdl.layer.jpeg_function import Gradient, check_choices, check_generator, jpeg


class Draws(NamedTuple):
    """What was drawn for each image or video, on the CPU: quality, index of its subsampling, whether it is compressed."""

    quality: Tensor
    sampling: Tensor
    applied: Tensor


class RandomJpeg(nn.Module):
    """Compress each image at a random quality, with a random chroma subsampling.

    All frames of a ``tv_tensors.Video`` share one draw, as in torchvision's ``v2.JPEG``. Each video has its own.

    The images are those of real files, bit for bit, and differentiable: see :func:`jpegdl.jpeg`. It does the same in training
    and evaluation, as augmentations do. It works in ``torchvision.transforms.v2.Compose``, before ``Normalize``, in
    ``nn.Sequential``, kornia's containers, or a model.

    Args:
        quality: a pair (lowest, highest), 1 to 100, both included, from which whole qualities are drawn evenly; or the only
            one.
        subsampling: those to draw from evenly: 4:4:4, 4:2:2, 4:2:0; or the only one.
        p: the share of images that is compressed; the others stay as they are.
        rounding, gradient, hardness: as in :func:`jpegdl.jpeg`.
        generator: source of randomness, on the CPU. None takes PyTorch's own, which ``torch.manual_seed`` seeds and which
            differs in each worker of a DataLoader. In a worker, your own generator is seeded again, from its seed and the
            worker's. Otherwise all workers would draw the same.

    Raises:
        UsageError: an argument is out of its range.

    Example:
        >>> import torch
        >>> from torchvision.transforms import v2
        >>> from jpegdl import RandomJpeg
        >>> transform = v2.Compose([v2.RandomCrop(64), RandomJpeg(quality=(30, 95)), v2.ToDtype(torch.float32, scale=True)])
        >>> transform(torch.randint(256, (3, 100, 150), dtype=torch.uint8)).shape
        torch.Size([3, 64, 64])
    """

    def __init__(
        self,
        quality: int | tuple[int, int] = (30, 95),
        subsampling: str | list[str] | tuple[str, ...] = ("4:2:0", "4:4:4"),
        p: float = 1.0,
        rounding: Rounding = "ste",
        *,
        gradient: Gradient | None = None,
        hardness: float = 5.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.quality = _range(quality)
        self.subsampling: tuple[str, ...] = tuple(subsampling) if isinstance(subsampling, list | tuple) else (subsampling,)
        if not self.subsampling:
            raise UsageError("subsampling must name at least one of 4:4:4, 4:2:2 and 4:2:0")
        check_generator(generator)
        for name in self.subsampling:
            check_choices(name, rounding, gradient, "rounded", hardness)
        if isinstance(p, bool) or not isinstance(p, Real) or not 0 <= p <= 1:
            raise UsageError(f"p must be a number from 0 to 1, got {p!r}")
        self.p: float = float(p)
        self.rounding: Rounding = rounding
        self.gradient: Gradient | None = gradient
        self.hardness: float = hardness
        self.generator: torch.Generator | None = generator
        self._seeded_for: int | None = None

    def forward(self, *inputs: Any) -> Any:
        """Compress images, and hand on everything else.

        Args:
            inputs: (..., 3, H, W) RGB or (..., 1, H, W) grey, uint8, or floating point in [0, 1]. Or any structure of tuples,
                lists and dicts, as torchvision's v2 transforms take it. Every ``tv_tensors.Image`` and ``Video`` in it is
                compressed. If there is none, one tensor is: a dict's ``"image"``, as in Albumentations, or the first. Tensors
                of one sample with the same number of images share their draws.

        Returns:
            The same structure, types, shapes and dtypes.

        Raises:
            TypeError, UsageError: there is no image, or :func:`jpegdl.jpeg` refuses it.
        """
        sample = inputs if len(inputs) > 1 else inputs[0] if inputs else None
        if isinstance(sample, dict) and _mark(sample.get("image")) == "none" and not _marked_among(tree_leaves(sample)):
            return {**sample, "image": self(sample["image"])}
        leaves, structure = tree_flatten(sample)
        places = _marked_among(leaves) or [i for i, leaf in enumerate(leaves) if _mark(leaf) == "none"][:1]
        if not places:
            kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
            raise UsageError(f"RandomJpeg found no image among {kinds}: for PIL images put v2.ToImage() before it")
        draws: Draws | None = None
        for place in places:
            image = leaves[place]
            frames = image.as_subclass(Tensor)
            frames = frames.flatten(0, -4) if image.ndim > 3 else frames[None]
            each = max(1, image.shape[-4]) if image.ndim > 3 and _mark(image) == "video" else 1  # frames that share a draw
            if draws is None or len(draws.applied) != len(frames) // each:
                draws = self.draw(len(frames) // each)
            leaves[place] = _like(self._compressed(frames, draws, each).reshape(image.shape), image)
        return tree_unflatten(leaves, structure)

    def __getstate__(self) -> dict[str, Any]:
        # PyTorch pickles a generator with a tensor that is gone when a worker, one that is not forked, comes to fetch it.
        kept = None if self.generator is None else self.generator.get_state().numpy().tobytes()
        return {**self.__dict__, "generator": kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state["generator"]
        if isinstance(kept, bytes):
            generator = torch.Generator()
            generator.set_state(torch.frombuffer(bytearray(kept), dtype=torch.uint8))
            state = {**state, "generator": generator}
        super().__setstate__(state)  # type: ignore[no-untyped-call]

    def draw(self, count: int) -> Draws:
        """Draw for ``count`` images or videos. :meth:`forward` calls this once for each batch."""
        generator, (low, high) = self._generator(), self.quality
        quality = torch.randint(low, high + 1, (count,), generator=generator, device="cpu")
        sampling = torch.randint(len(self.subsampling), (count,), generator=generator, device="cpu")
        return Draws(quality, sampling, torch.rand(count, generator=generator, device="cpu") < self.p)

    def _generator(self) -> torch.Generator | None:
        worker = get_worker_info()
        if self.generator is not None and worker is not None and self._seeded_for != worker.seed:
            self.generator.manual_seed((self.generator.initial_seed() ^ worker.seed) % 2**63)
            self._seeded_for = worker.seed
        return self.generator

    def _compressed(self, images: Tensor, draws: Draws, each: int) -> Tensor:
        """(N, C, H, W), of which ``each`` in a row share a draw."""
        output = images
        for number, name in enumerate(self.subsampling):
            chosen = (draws.applied & (draws.sampling == number)).nonzero()[:, 0]
            if not len(chosen):
                continue
            whole = len(chosen) == len(draws.applied)
            # A number takes less time than a tensor, which counts for single images.
            quality: int | Tensor = int(draws.quality[0])
            if len(draws.applied) > 1:
                quality = draws.quality[chosen].repeat_interleave(each).to(images.device, torch.float32)
            places = (chosen[:, None] * each + torch.arange(each, device="cpu")).flatten().to(images.device)
            part = jpeg(
                images if whole else images[places],
                quality,
                subsampling=name,
                rounding=self.rounding,
                gradient=self.gradient,
                hardness=self.hardness,
            )
            output = part if whole else output.index_copy(0, places, part)
        return output.clone() if output is images else output

    def extra_repr(self) -> str:
        low, high = self.quality
        quality = low if low == high else self.quality
        return f"quality={quality}, subsampling={self.subsampling}, p={self.p:g}, rounding={self.rounding!r}"


def _range(quality: Any) -> tuple[int, int]:
    pair = quality if isinstance(quality, tuple | list) else (quality, quality)
    whole = len(pair) == 2 and all(isinstance(end, Integral) and not isinstance(end, bool) for end in pair)
    if not whole or not 1 <= pair[0] <= pair[1] <= 100:
        raise UsageError(f"quality must be an integer from 1 to 100, or a pair of such, lowest first, got {quality!r}")
    return int(pair[0]), int(pair[1])


def _marked_among(leaves: list[Any]) -> list[int]:
    return [i for i, leaf in enumerate(leaves) if _mark(leaf) in ("image", "video")]


def _mark(leaf: Any) -> str | None:
    """What torchvision's v2 transforms take a tensor for, "none" where it is not marked; None for what is no tensor."""
    kinds = sys.modules.get("torchvision.tv_tensors")  # where it is not imported, no tensor is marked
    if kinds is None or not isinstance(leaf, kinds.TVTensor):
        return "none" if isinstance(leaf, Tensor) else None
    return "image" if isinstance(leaf, kinds.Image) else "video" if isinstance(leaf, kinds.Video) else "other"


def _like(images: Tensor, original: Tensor) -> Tensor:
    """``images`` marked as the original is."""
    if _mark(original) == "none":
        return images
    wrapped: Tensor = sys.modules["torchvision.tv_tensors"].wrap(images, like=original)
    return wrapped
