"""Quantization tables: the standard ones, quality scaling, zigzag order, reading and writing them.

A table is a float32 tensor of shape (8, 8), rows the vertical and columns the horizontal frequency, in JPEG table units.

A file of tables is JSON. ``tables`` holds them by name as nested lists, row by row, ``luma`` and ``chroma`` at least; in the
file of a run ``before`` and ``after`` stand in its place, for the tables before and after training. ``kind`` says what the
numbers are, one of :data:`KINDS`; ``bits``, ``window`` and ``subsampling`` say what they are meant for. Older files have
``luma`` and ``chroma`` at the top, and none of the rest: they hold steps.

Files that end in .txt have libjpeg's text format instead, as ``cjpeg -qtables`` reads it: whole numbers, 64 for each table row
by row, luma first, and comments from # to the end of the line. A single table is used for both.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from jpegdl.errors import UsageError
from jpegdl.files import read_text, write_json, write_text
from jpegdl.functional import BLOCK, ZIGZAG, largest_level

# ITU-T T.81, Annex K, tables K.1 and K.2.
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * BLOCK,) * 4,
)

#: What the numbers in a table can be.
KINDS = {"steps": "quantization steps", "scales": "scales of a compander", "gains": "factors of the coefficients"}

JPEG = (".jpg", ".jpeg")  # suffixes of files that are read as JPEG images
TEXT = ".txt"  # of those in libjpeg's text format
SUBSAMPLINGS = ("4:4:4", "4:2:0")
LARGEST_ENTRY = 32767  # that libjpeg writes, though the format has room for 65535
STEPS = (1e-5, 65535)  # from the smallest that a layer trains to the largest that a JPEG file holds


@overload
def standard_tables(quality: int) -> tuple[Tensor, Tensor]: ...
@overload
def standard_tables(quality: Tensor, *, rounded: bool = True) -> tuple[Tensor, Tensor]: ...
def standard_tables(quality: int | Tensor, *, rounded: bool = True) -> tuple[Tensor, Tensor]:
    """Return the standard tables at a quality factor, as libjpeg scales them; for a tensor of qualities, differentiable.

    A quality q scales the tables of Annex K by 5000 / q percent below 50, by 200 - 2 q from there on, to steps from 1 to 255.
    An entry at either end of that range has no gradient.

    Args:
        quality: 1 (coarsest) to 100 (all steps 1): an integer, or a floating-point tensor of shape () or (N,), each rounded to
            the nearest integer for the values, with the gradient of the scaling at the quality given.
        rounded: for a tensor: make steps whole numbers, as in a file, with the gradient straight through the rounding. If
            False, steps follow the scaling at the quality given, with its true gradient.

    Returns:
        (luma, chroma), each (8, 8), integers from 1 to 255 as float32; each (N, 8, 8) for N qualities, float64 where these are.

    Raises:
        UsageError: a quality is not from 1 to 100, or a number is no integer.

    Source: ITU-T T.81, Annex K; the scaling of libjpeg's jcparam.c.
    """
    if isinstance(quality, Tensor):
        steps = _scaled_by(check_qualities(quality), rounded)
        return steps[0], steps[1]
    if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
        raise UsageError(f"quality must be an integer from 1 to 100, got {quality!r}")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality

    def scaled(base: tuple[tuple[int, ...], ...]) -> Tensor:
        return torch.tensor(base).mul(percent).add(50).floor_divide(100).clamp(1, 255).float()

    return scaled(_LUMA), scaled(_CHROMA)


def check_qualities(quality: Tensor) -> Tensor:
    """Return a tensor of qualities as float32, or float64 if it is that. On a GPU this waits for the values.

    Raises:
        UsageError: its shape is not () or (N,), its dtype is complex or boolean, or a quality is not a number from 1 to 100.
    """
    if quality.ndim > 1 or quality.is_complex() or quality.dtype == torch.bool:
        raise UsageError(f"quality must hold numbers, of shape () or (N,), got {quality.dtype}, {tuple(quality.shape)}")
    check_values(quality, lambda quality: (quality >= 1) & (quality <= 100), "quality must be from 1 to 100")
    return quality if quality.dtype == torch.float64 else quality.float()


def _scaled_by(quality: Tensor, rounded: bool) -> Tensor:
    """(2, *quality.shape, 8, 8), luma and chroma."""
    # Made from lists, a table would be copied to a GPU at each call: it waits.
    base = torch.tensor((_LUMA, _CHROMA), dtype=quality.dtype, device="cpu").to(quality.device, non_blocking=True)
    base = base.reshape(2, *(1,) * quality.ndim, BLOCK, BLOCK)

    def scaled(quality: Tensor) -> Tensor:
        percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[..., None, None]
        return (base * percent / 100).clamp(1, 255)

    smooth = scaled(quality)
    if not rounded:
        return smooth
    with torch.no_grad():
        whole = quality.round()
        percent = torch.where(whole < 50, (5000 / whole).floor(), 200 - 2 * whole)[..., None, None]
        steps = ((base * percent + 50) / 100).floor().clamp(1, 255)
    return steps + (smooth - smooth.detach())


def to_zigzag(table: Tensor) -> Tensor:
    """Reorder (..., 8, 8) into zigzag order (..., 64), lowest frequencies first.

    Raises:
        UsageError: the last two dimensions are not (8, 8).

    Source: ITU-T T.81, figure A.6.
    """
    if table.shape[-2:] != (BLOCK, BLOCK):
        raise UsageError(f"to_zigzag needs a tensor of shape (..., 8, 8), got {tuple(table.shape)}")
    return table.flatten(-2)[..., ZIGZAG]


def from_zigzag(sequence: Tensor) -> Tensor:
    """Invert :func:`to_zigzag`: (..., 64) to (..., 8, 8).

    Raises:
        UsageError: the last dimension is not 64.
    """
    if sequence.ndim < 1 or sequence.shape[-1] != BLOCK * BLOCK:
        raise UsageError(f"from_zigzag needs a tensor of shape (..., 64), got {tuple(sequence.shape)}")
    table = torch.empty_like(sequence)
    table[..., ZIGZAG] = sequence
    return table.reshape(*sequence.shape[:-1], BLOCK, BLOCK)


def is_abstract(tensor: Tensor) -> bool:
    """Return whether a tensor has a shape but no values."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def check_values(tensor: Tensor, sound: Callable[[Tensor], Tensor], message: str) -> None:
    """Refuse a tensor with a value that is not sound; compiled and exported code looks when it runs. One that has no values
    passes, and so does one that is transformed (``torch.func``) within compiled code.

    Args:
        tensor: of any shape, also one that a transform of ``torch.func`` wraps.
        sound: tells it of each value; of NaN it must say no.
        message: of the error.

    Raises:
        UsageError: it says which value; RuntimeError from compiled code, on CUDA by an assertion on the device, after which
            PyTorch needs a new process.
    """
    if torch.compiler.is_compiling():
        if not torch._C._are_functorch_transforms_active():  # with which there is no such check
            torch._assert_async(sound(tensor.detach()).all(), message)
        return
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if not is_abstract(tensor):
        wrong = tensor[~sound(tensor)]
        if wrong.numel():
            raise UsageError(f"{message}, got {wrong.flatten()[0].item():g}")


def check_table(
    table: Any, name: str, leading: tuple[int, ...] = (), dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Tensor:
    """Return ``table`` (a tensor, array or nested list) as a table of usable steps.

    Args:
        table: (8, 8), or ``(*leading, 8, 8)``.
        name: what the message of an error starts with.
        leading: how many tables there should be, along each dimension; a single one is repeated.
        dtype: float32 or float64.
        device: of the result. None for the device of a tensor, or else PyTorch's default device.

    Returns:
        ``(*leading, 8, 8)``, a copy. A tensor on the meta device has no values: only its shape is checked.

    Raises:
        UsageError: another shape; or an entry that is not finite, not positive, or beyond what float32 can compute with (1e-12
            to 1e12).
    """
    try:
        if device is None:
            device = table.device if isinstance(table, Tensor) else torch.get_default_device()
        if not isinstance(table, Tensor):  # by way of NumPy, which knows neither default dtypes nor default devices
            array = np.asarray(table)
            if array.dtype.kind not in "iuf":
                raise TypeError(f"{array.dtype} does not hold numbers")
            table = torch.from_numpy(array.astype(str(dtype).removeprefix("torch.")))
        if table.is_complex() or table.dtype == torch.bool:
            raise TypeError(f"{table.dtype} does not hold numbers")
        tensor: Tensor = table.detach().to(dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} must be a number or an (8, 8) table of numbers, got {table!r}") from error
    shapes = dict.fromkeys(((BLOCK, BLOCK), (*leading, BLOCK, BLOCK)))
    if tensor.shape not in shapes:
        raise UsageError(
            f"{name} must be a number or of shape {' or '.join(map(str, shapes))}, got shape {tuple(tensor.shape)}"
        )
    if not is_abstract(tensor):
        for sound, message in (
            ((tensor > 0) & tensor.isfinite(), "be finite and greater than 0 everywhere"),
            ((tensor >= 1e-12) & (tensor <= 1e12), "lie between 1e-12 and 1e12"),
        ):
            if not bool(sound.all()):
                raise UsageError(f"{name} must {message}, got {tensor[~sound][0].item():g}")
    return tensor.to(device).expand(*leading, BLOCK, BLOCK).clone()


def write_tables(
    path: str | os.PathLike[str],
    tables: Mapping[str, Tensor],
    *,
    kind: str = "steps",
    bits: int | None = None,
    window: int | None = None,
    subsampling: str = "4:4:4",
) -> None:
    """Write named (8, 8) tables as JSON, exact to the last bit, or to a .txt file in libjpeg's text format. A file is never
    left half-written.

    Args:
        path: the file, replaced if there.
        tables: at least ``luma`` and ``chroma``.
        kind: what the numbers are, one of :data:`KINDS`.
        bits, window: of the layer that they are meant for, as in :class:`jpegdl.JpegLayer`; None if for no layer.
        subsampling: of chroma in the images they are meant for, 4:4:4 or 4:2:0.

    Raises:
        UsageError: there is no such kind, bits or subsampling. An entry is not finite or, except for gains, not greater than 0.
            :func:`read_tables` would not read the steps back: the file is named as JPEG images are, luma or chroma is missing,
            a shape is another, or a step is not from 1e-5 to 65535. Or the text format, which holds whole numbers from 1 to
            32767, cannot hold them.
    """
    if kind not in KINDS:
        raise UsageError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    check_name(path)
    largest_level(bits)  # says so where it is none
    if subsampling not in SUBSAMPLINGS:
        raise UsageError(f"subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {subsampling!r}")
    if kind == "steps" and (lacking := sorted({"luma", "chroma"} - tables.keys())):
        raise UsageError(f"{path} is not written: tables must hold luma and chroma, but {lacking[0]} is missing")
    of_steps = [(name, tables[name]) for name in ("luma", "chroma")] if kind == "steps" else []
    for name, table in of_steps:
        if table.shape != (BLOCK, BLOCK):
            raise UsageError(f"{path} is not written: {name} must be of shape (8, 8), got {tuple(table.shape)}")
    if Path(path).suffix.lower() == TEXT:
        text = _as_text(path, tables, kind)
        write_text(path, text)
        return
    for name, table in tables.items():
        wrong = table[~table.isfinite() | ((table <= 0) if kind != "gains" else False)]
        if len(wrong):
            what = "be finite" if kind == "gains" else "be finite and greater than 0 everywhere"
            raise UsageError(f"{path} is not written: {name} must {what}, got {wrong[0].item():g}")
    for name, table in of_steps:
        steps = table.float()  # in which they are trained, and the smallest is a little less than it is in float64
        if len(wrong := table[(steps < STEPS[0]) | (steps > STEPS[1])]):
            raise UsageError(
                f"{path} is not written: {name} has a step of {wrong[0].item():g}; steps must be from {STEPS[0]:g} (which a "
                f"JPEG file rounds to 1) to {STEPS[1]} (the largest that it holds)"
            )
    content = {
        "kind": kind,
        "bits": bits,
        "window": window,
        "subsampling": subsampling,
        "tables": {name: table.tolist() for name, table in tables.items()},
    }
    write_json(path, content)


def check_name(path: str | os.PathLike[str]) -> None:
    """Refuse a file to write tables to that would be read as a JPEG image.

    Raises:
        UsageError: says how to name it.
    """
    if Path(path).suffix.lower() in JPEG:
        raise UsageError(f"{path} would be read as a JPEG image: name a file of tables .json, or {TEXT} for libjpeg's format")


def before_and_after(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a run's ``tables.json``: its layer after training, with the tables before and after.

    Both arguments come from :func:`jpegdl.layer.describe_tables`.
    """
    return {
        **{name: value for name, value in after.items() if name != "tables"},
        "before": before["tables"],
        "after": after["tables"],
    }


def read_tables(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor]:
    """Read the luma and chroma table of steps from JSON or a .txt file (:func:`write_tables`), or from a JPEG file.

    From a run's ``tables.json`` it reads the tables after training. From a JPEG file it reads the tables that luma and chroma
    name. The table of a grey image is used for both.

    Raises:
        UsageError: there is no such file, it has no tables, or they are not of steps; a JPEG file has two tables for chroma, or
            neither luma nor chroma.

    Example:
        >>> from jpegdl.tables import read_tables, standard_tables, write_tables
        >>> luma, chroma = standard_tables(50)
        >>> write_tables("tables.json", {"luma": luma, "chroma": chroma})
        >>> read_tables("tables.json")[0][0].tolist()
        [16.0, 11.0, 10.0, 16.0, 24.0, 40.0, 51.0, 61.0]
    """
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"no table file {file}")
    suffix = file.suffix.lower()
    luma, chroma = _of_jpeg(file)[0] if suffix in JPEG else _of_text(file) if suffix == TEXT else _of_json(file)
    return check_table(luma, f"luma in {file}"), check_table(chroma, f"chroma in {file}")


def meant_for(path: str | os.PathLike[str]) -> tuple[int | None, str | None]:
    """Return what the tables in a file are meant for.

    Returns:
        (bits, subsampling). Bits of the level cap: None for no cap, or if the file does not say. Chroma subsampling, 4:4:4 or
        4:2:0: None if the file does not say, or has another one.
    """
    file = Path(path)
    read_tables(file)  # says what is wrong with it
    if file.suffix.lower() in JPEG:
        return None, _of_jpeg(file)[1]
    if file.suffix.lower() == TEXT:
        return None, None
    content = json.loads(read_text(file))
    bits, subsampling = content.get("bits"), content.get("subsampling")
    try:
        largest_level(bits)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    return bits, subsampling if subsampling in SUBSAMPLINGS else None


def _of_jpeg(file: Path) -> tuple[tuple[Any, Any], str | None]:
    """The tables, and the subsampling of chroma where it is one of ours."""
    from PIL import JpegImagePlugin  # here, because the layer needs this module and not Pillow

    from jpegdl.opener import open_image

    try:
        with open_image(file) as image:
            luma, *chroma = (torch.tensor(table).view(BLOCK, BLOCK) for table in tables_by_component(image))
            sampling = {0: "4:4:4", 2: "4:2:0"}.get(JpegImagePlugin.get_sampling(image))
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error
    except (OSError, SyntaxError, ValueError, AttributeError) as error:
        raise UsageError(f"{file} cannot be read as a JPEG file: {error}") from error
    if not chroma:
        return (luma, luma), None
    if not torch.equal(chroma[0], chroma[1]):
        raise UsageError(f"{file} has different tables for Cb and Cr, and the layer has one for both")
    return (luma, chroma[0]), sampling


def tables_by_component(image: Any) -> list[list[int]]:
    """Return the tables of an open JPEG file, each of 64 entries row by row: of Y, Cb and Cr, or of a grey image's Y alone.

    A file names the table of each component (ITU-T T.81, B.2.2), which need not be in the order in which they are stored.

    Args:
        image: a ``PIL.JpegImagePlugin.JpegImageFile``.

    Raises:
        UsageError: its components are not luma and chroma, or they name a table that is not there.
    """
    ids, names = [component[0] for component in image.layer], [component[3] for component in image.layer]
    transform = image.info.get("adobe_transform")
    if len(ids) == 3:  # how libjpeg tells (jdapimin.c)
        coloured = "jfif" not in image.info and (transform == 0 if transform is not None else bytes(ids) == b"RGB")
    else:
        coloured = len(ids) == 4 and transform != 2
    if coloured:
        raise UsageError(f"it holds {'RGB' if len(ids) == 3 else 'CMYK'} as it is, and tables are for luma and chroma")
    if len(ids) not in (1, 3, 4):
        raise UsageError(f"it has {len(ids)} components, and tables are for one (grey images) or three")
    if missing := sorted({name for name in names if name not in image.quantization}):
        raise UsageError(f"it uses table {missing[0]}, but does not define it before the image begins")
    return [list(image.quantization[name]) for name in names[:3]]


def _as_text(path: str | os.PathLike[str], tables: Mapping[str, Tensor], kind: str) -> str:
    if kind != "steps":
        raise UsageError(f"{path}: libjpeg's text format holds steps, not {KINDS[kind]}; name the file .json")
    parts = []
    for name in ("luma", "chroma"):
        table = tables[name]
        wrong = table[(table != table.round()) | (table < 1) | (table > LARGEST_ENTRY)]
        if len(wrong):
            raise UsageError(
                f"{path}: libjpeg's text format holds integers from 1 to {LARGEST_ENTRY}, and {name} has {wrong[0].item():g}: "
                "round it (jpegdl.codec.file_tables), or name the file .json"
            )
        rows = "\n".join(" ".join(f"{int(entry):4d}" for entry in row) for row in table.tolist())
        parts.append(f"# {name}\n{rows}\n")
    return "\n".join(parts)


def _of_text(file: Path) -> tuple[Any, Any]:
    try:
        numbers = [int(word) for line in read_text(file).splitlines() for word in line.partition("#")[0].split()]
    except ValueError as error:
        raise UsageError(f"{file} is not in libjpeg's text format, integers and comments that begin with #: {error}") from error
    size = BLOCK * BLOCK
    if not numbers or len(numbers) % size or len(numbers) > 4 * size:
        raise UsageError(f"{file} holds {len(numbers)} numbers; libjpeg's text format has 64 for each of one to four tables")
    if wrong := [number for number in numbers if not 1 <= number <= LARGEST_ENTRY]:
        raise UsageError(f"{file} holds {wrong[0]}; steps in libjpeg's text format are integers from 1 to {LARGEST_ENTRY}")
    found = torch.tensor(numbers).view(-1, BLOCK, BLOCK)
    return found[0], found[min(1, len(found) - 1)]


def _of_json(file: Path) -> tuple[Any, Any]:
    expected = "it should be JSON with 'luma' and 'chroma', each 8x8"
    try:
        content = json.loads(read_text(file))
        kind = content.get("kind", "steps")
        tables = dict(next((content[name] for name in ("after", "tables") if name in content), content))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} holds no tables: {expected}") from error
    if kind not in ("steps", None):
        meaning = f" ({KINDS[kind]})" if kind in KINDS else ""
        raise UsageError(f"{file} holds tables of kind {kind!r}{meaning}; only tables of kind 'steps' can be read")
    if not {"luma", "chroma"} <= tables.keys():
        found = f", but {', '.join(map(str, tables))}" if tables else ""
        raise UsageError(f"{file} holds no tables for luma and chroma{found}: {expected}")
    return tables["luma"], tables["chroma"]
