"""Files that networks shape: the rounding of coefficients moved by the gradient of what readers lose.

Each round decodes a photo's file as any decoder does, takes the gradient of the readers' distances to its coefficients,
straight through the rounding, moves these a small part of a step against it, and rounds again by what levels cost. All
rounds stand for choice beside the files that nobody moved: one counts where distance + mu x bits is less.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as v2

from jpegdl import functional as F
from jpegdl.codec.levels import Array, cheap_levels, file_of_levels
from jpegdl.codec.readers import PhotoReader
from jpegdl.codec.trials import FINEST, LOOKS, Shape, Tables, Trials, decoded, levels_of, seen_bytes, together
from jpegdl.errors import UsageError
from jpegdl.functional import ZIGZAG
from jpegdl.tables import standard_tables
from jpegdl.user_code import said

RHO = 0.05  # squared steps that a bit is worth in rounding
STEP = 0.05  # of the mean step of the low frequencies: how far a round moves coefficients, root mean square
CLIP = 3.0  # times that, a coefficient moves at most
_LOW = 15  # frequencies whose steps say how far
#: What rounds are expected to leave of a distance: files to guide are chosen by it.
_LEFT = 0.3
_SHIFT = 3  # pixels


def check_gradients(readers: Sequence[PhotoReader], shape: Shape) -> None:
    """Refuse readers whose gradients move nothing, where files are to be guided by them.

    Raises:
        UsageError: names the reader.
    """
    for reader in readers if shape.effort > 2 else ():
        noise = torch.rand((2, 3, reader.size, reader.size), generator=torch.Generator().manual_seed(1))
        smooth = torch.linspace(0, 1, reader.size).expand(1, 3, reader.size, reader.size)
        views = torch.cat((noise, smooth, 0.5 + (noise - 0.5) / 8)).requires_grad_()
        with torch.enable_grad():
            answers = reader.answers(views)
            try:
                moves = answers.requires_grad and bool(torch.autograd.grad(answers.square().sum(), views)[0].any())
            except Exception as error:  # whatever the user's code raises
                raise UsageError(f"effort 3 follows gradients, and that of {reader.name} fails: {said(error)[:300]}") from error
        if not moves:
            raise UsageError(
                f"effort 3 follows gradients, and {reader.name} passes none on to photos, as with layer.rounding hard: take "
                "effort 1 or 2"
            )


def guide_trials(several: list[Trials], readers: Sequence[PhotoReader], shape: Shape, pool: ThreadPoolExecutor) -> None:
    """Add files made in rounds of gradient to the trials of several photos.

    Args:
        several: with the readers' answers on the files that nobody moved.
        readers: that the files are made for.
        shape: how; ``rounds`` and ``mu`` count.
        pool: of threads that make files.
    """
    starts = [_start(trials, shape) for trials in several]
    moved = list(pool.map(_Moved, several, starts, [shape] * len(several)))
    for number in range(shape.rounds + 1):
        list(pool.map(_Moved.write, moved))
        last = number == shape.rounds
        group = max(1, LOOKS // 2)
        for start in range(0, len(moved), group):
            _look(moved[start : start + group], readers, shape, number, last=last)
        if not last:
            list(pool.map(_Moved.move, moved))
    for each in moved:
        each.finish()


def _start(trials: Trials, shape: Shape) -> Tables:
    """The tables whose file is best once rounds have done their work."""
    gained = (1 - _LEFT) * together(trials.distances, shape)
    cost = together(trials.judged(shape), shape) - gained + shape.mu * trials.rates
    finest = [tables.kind == FINEST for tables in trials.tables]  # whose chroma has another size
    return trials.tables[int(np.where(finest, np.inf, cost).argmin())]


class _Moved:
    """A photo on its way through the rounds."""

    def __init__(self, trials: Trials, tables: Tables, shape: Shape) -> None:
        self.trials, self.tables, self.shape = trials, tables, shape
        planes = len(trials.coefficients)
        self.steps = tables.steps(planes)
        floor = Tables("", shape.unseen, *standard_tables(shape.unseen)).steps(planes)
        self.still = levels_of(trials.coefficients, trials.seen, tables, floor)  # of what nobody sees
        self.at = [z / step for z, step in zip(trials.coefficients, self.steps, strict=True)]
        low = tables.luma.numpy().ravel()[list(ZIGZAG[:_LOW])]
        self.far = STEP * float(np.exp(np.log(low).mean()))
        self.files: list[bytes] = []
        self.distances: list[list[float]] = []
        self.kept: list[list[bool]] = []
        self.levels: list[Array] = []
        self.gradient: Tensor | None = None
        self.pixels = torch.empty(0)

    def write(self) -> None:
        levels = cheap_levels(self.at, RHO)
        self.levels = [
            np.where(there[..., None, None], moved, still)
            for there, moved, still in zip(self.trials.seen, levels, self.still, strict=True)
        ]
        for plane in self.levels:
            plane[..., 0, 0] = plane[..., 0, 0].clip(-1023, 1023)
        trials = self.trials
        tables = self.tables.of(len(self.levels))
        content = file_of_levels(self.levels, tables, trials.size, self.shape.subsampling, trials.segments)
        self.files.append(content)
        self.pixels = decoded(content).float() / 255

    def move(self) -> None:
        """A round: coefficients a little against the gradient."""
        assert self.gradient is not None
        found = _to_coefficients(self.gradient, self.trials.coefficients, self.shape.subsampling)
        size = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in found) / sum(g.size for g in found))
        if not size > 0:
            return
        self.at = [
            z - self.far * (g / size).clip(-CLIP, CLIP) / step for z, g, step in zip(self.at, found, self.steps, strict=True)
        ]

    def finish(self) -> None:
        """Hand the files over."""
        trials = self.trials
        trials.files += self.files
        trials.sizes += [len(content) for content in self.files]
        trials.tables += [self.tables] * len(self.files)
        trials.rounds += list(range(1, len(self.files) + 1))
        trials.distances = np.concatenate((trials.distances, np.array(self.distances).T), 1)
        trials.kept = np.concatenate((trials.kept, np.array(self.kept, dtype=np.bool_).T), 1)
        trials.coefficients = []


def _look(moved: list[_Moved], readers: Sequence[PhotoReader], shape: Shape, number: int, *, last: bool) -> None:
    """Let readers answer on the files of a round, and, but for the last, take the gradient to pixels."""
    pixels = [each.pixels.requires_grad_(not last) for each in moved]
    total: Tensor | None = None
    each_distance = []
    for reader, own in zip(readers, zip(*(each.trials.own for each in moved), strict=True), strict=True):
        with torch.set_grad_enabled(not last):
            views = torch.stack([_seen(reader, each.pixels, each.trials.note) for each in moved])
            wanted = torch.stack(own)
            if not shape.robust or last:
                answers = reader.answers(views)
                distance = reader.distance(wanted, answers)
            else:
                # One forward pass for both: the file as it is says how good it is, another view of it where to go.
                answers = reader.answers(torch.cat((views, _other_view(views, number))))
                answers, others = answers.chunk(2)
                distance = reader.distance(wanted, answers)
                total = _add(total, reader.distance(wanted, others))
            total = _add(total, distance)
        each_distance.append(distance.detach().double().numpy())
        kept = (answers.argmax(1) == wanted.argmax(1)).tolist()
        for place, each in enumerate(moved):
            if len(each.distances) <= number:
                each.distances.append([])
                each.kept.append([])
            each.distances[number].append(float(each_distance[-1][place]))
            each.kept[number].append(bool(kept[place]) and not reader.features)
    if not last:
        assert total is not None
        for each, gradient in zip(moved, torch.autograd.grad(total.sum(), pixels), strict=True):
            each.gradient = gradient


def _seen(reader: PhotoReader, pixels: Tensor, note: int) -> Tensor:
    """What a reader sees of a file, as of files that nobody moved: in 256 levels; the gradient goes straight through them."""
    view = reader.view(pixels, note)
    with torch.no_grad():
        exact = seen_bytes(reader, (pixels * 255).round().to(torch.uint8), note).float() / 255
    return view + (exact - view).detach()


def _add(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total + more


def _other_view(views: Tensor, number: int) -> Tensor:
    """Mirrored, shifted or scaled, another way in each round."""
    side = views.shape[-1]
    kind = number % 3
    if kind == 0:
        return views.flip(-1)
    if kind == 1:
        shift = min(_SHIFT, side - 1)
        return torch.roll(views, (shift, -shift), (2, 3))
    smaller = v2.resize(views, [max(8, side * 6 // 7)] * 2, antialias=True)
    scaled: Tensor = v2.resize(smaller, [side, side], antialias=True)
    return scaled


def _to_coefficients(gradient: Tensor, planes: Sequence[Array], subsampling: str) -> list[Array]:
    """The gradient to pixels in [0, 1], (3, H, W), as that to coefficients of each plane."""
    size = gradient.shape[-2], gradient.shape[-1]
    luma = torch.zeros(1, 1, *planes[0].shape, requires_grad=True)
    chroma = torch.zeros(1, 2, *planes[1].shape, requires_grad=True) if len(planes) > 1 else None
    image = F.planes_to_images(luma, chroma, size, subsampling)
    gradient = gradient if chroma is not None else gradient.sum(0, keepdim=True)
    inputs = (luma,) if chroma is None else (luma, chroma)
    found = torch.autograd.grad(image, inputs, gradient[None])
    return [found[0][0, 0].numpy(), *(() if chroma is None else (found[1][0, 0].numpy(), found[1][0, 1].numpy()))]
