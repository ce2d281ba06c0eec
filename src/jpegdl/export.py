"""A trained model as a file for other programs: ONNX, torch.export or AOTInductor, checked before it is there."""

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from jpegdl._version import __version__
from jpegdl.data.sources.photos import PHOTOGRAPHS, photograph
from jpegdl.errors import UsageError
from jpegdl.extras import require
from jpegdl.files import replacing
from jpegdl.functional import BLOCK, MCU
from jpegdl.layer import ImageDctLayer, QuantizingLayer, RegionalJpegLayer, Rounding
from jpegdl.layer.roundings import set_rounding
from jpegdl.processes import quiet
from jpegdl.runs import open_run
from jpegdl.runs.folder import RunFolder

Format = Literal["onnx", "torch", "aotinductor"]
FORMATS: tuple[Format, ...] = get_args(Format)
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGEST_ONNX = 2**31 - 2**20  # bytes of weights: what one protobuf message can hold
TOLERANCE = 1e-4  # of logits, as a share of the largest where that is above 1
NUDGE = 0.01 / 255  # a hundredth of a grey level

Run = Callable[[Tensor], Tensor]
Size = tuple[int, int]


@dataclass(frozen=True)
class Check:
    """How an exported file's logits compare with PyTorch's.

    Attributes:
        images: how many images were compared.
        sizes: the (H, W) they had, in pixels.
        difference: the largest difference of a logit.
        allowed: the largest that passes, see :func:`export_model`.
        agreement: share of the images, 0 to 1, with the same largest logit.
    """

    images: int
    sizes: list[Size]
    difference: float
    allowed: float
    agreement: float


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    size: int | Size,
    format: Format | None = None,
    dynamic_size: bool = False,
    metadata: dict[str, Any] | None = None,
) -> Check:
    """Write a model to a file that runs without this package, for any number of images.

    The file computes in float32 what ``model`` does in eval mode: of the layer's roundings noise, ste and ste-matched are hard
    there, and sample, which draws at random, cannot be exported. ``model`` stays as it is.

    Before the file takes its place it is run on photographs, in batches of several and of one, and of another size too where
    the size is open. Its logits may differ from PyTorch's by 1e-4, or, if that is more, by as much as PyTorch's own change when
    every pixel moves by up to a hundredth of a grey level: a coefficient that lies between two levels goes either way.

    Args:
        model: from images (N, 3, H, W), RGB in [0, 1], to logits (N, classes), as :func:`jpegdl.prepend` makes one.
        path: the file. One that exists is replaced, but only by one that passes.
        size: (H, W) of the images in pixels, or one number for both; it need not be a multiple of 8.
        format: onnx; torch (a torch.export program, for ``torch.export.load``); or aotinductor (compiled for this machine's
            kind of CPU, for ``torch._inductor.aoti_load_package``). Default: by the suffix, onnx for .onnx, torch for .pt2.
        dynamic_size: take images of any size that is a multiple of 8 (of 16 with 4:2:0 chroma) as far as the backbone does;
            ``size`` is then an example of one.
        metadata: what else the file shall say of itself, by name; values are text, or anything that JSON has.

    Returns:
        What was compared.

    Raises:
        UsageError: no such format or size, a package or the C++ compiler is missing, the model cannot be exported, or the
            file's logits are not PyTorch's. No file is left then.
    """
    path, size = Path(path), _check_size(size)
    writer = _WRITERS[_check_format(path, format)]
    twin = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    unit = _unit(twin, size) if dynamic_size else None
    about = {**_about(twin, size, unit), **{name: _text(value) for name, value in (metadata or {}).items()}}
    with _quiet(), torch.no_grad(), replacing(path) as file:
        program = _program(twin, size, unit)
        run = writer(program, file, about)
        check = compare_exported(twin, run, [size] if unit is None else [size, (size[0] + unit, size[1] + 3 * unit)])
        if not check.difference <= check.allowed:  # NaN is not
            raise UsageError(
                f"{path} is not written: its logits differ from PyTorch's by {check.difference:.3g} (allowed: "
                f"{check.allowed:.3g}); try another format ({', '.join(FORMATS)})"
            )
    return check


def export_run(
    folder: RunFolder,
    path: str | Path,
    *,
    size: int | Size | None = None,
    format: Format | None = None,
    dynamic_size: bool = False,
    rounding: Rounding | None = None,
) -> Check:
    """Export a finished run as :func:`export_model` does. The file records its classes and how it was trained.

    Args:
        folder: the run's.
        path, format, dynamic_size: as in :func:`export_model`.
        size: as in :func:`export_model`; default: that of the run's own images.
        rounding: quantizer to put in place of the trained one, such as hard.

    Raises:
        UsageError: as :func:`export_model`; the run is not finished, or has no quantizer to give a rounding.
    """
    run, result, settings = open_run(folder), folder.result(), folder.settings()
    set_rounding(run.model.layer, rounding, f"the layer of {folder}")
    data = run.config.data
    turned = "turned as the EXIF orientation says" if data.orientation == "follow" else "not turned"
    file = "" if data.jpeg_test is None else f"; through a JPEG file of quality {data.jpeg_test}, 4:2:0"
    height, width = _check_size(size or data.pixels)
    other = "" if (height, width) == (data.pixels, data.pixels) else f". So it was tested; the file takes {height}x{width}"
    metadata = {
        "classes": run.classes,
        "preprocessing": f"{turned}; RGB; short side to {data.side} pixels ({data.filter}, antialiased); middle "
        f"{data.pixels}x{data.pixels}{file}; / 255{other}",
        "backbone": run.config.backbone,
        "data": data.kind,
        "arm": settings["arm"],
        "seed": settings["seed"],
        "test_accuracy": result["accuracy"],
        "layer_settings": settings["layer"],
        "training_settings": settings["training"],
    }
    return export_model(run.model, path, size=size or data.pixels, format=format, dynamic_size=dynamic_size, metadata=metadata)


# ------------------------------------------------------------------------------------------------- what can be exported


def _check_size(size: Any) -> Size:
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise UsageError(f"size must be a number of pixels, or height and width, got {size!r}")
    return cast(Size, sides)


def _check_format(path: Path, format: str | None) -> Format:
    chosen = format or {".onnx": "onnx", ".pt2": "torch"}.get(path.suffix)
    if chosen not in FORMATS:
        raise UsageError(
            f"format must be one of {', '.join(FORMATS)}, got {format!r}"
            if format
            else f"the format of {path.name} is not clear: name it .onnx or .pt2, or give format, one of {', '.join(FORMATS)}"
        )
    if chosen != "onnx" and path.suffix != ".pt2":
        raise UsageError(f"PyTorch opens {chosen} files only if their names end in .pt2, got {path.name}")
    if chosen == "onnx":
        require("ONNX export needs", *ONNX_PACKAGES)
    return chosen


def _unit(model: nn.Module, size: Size) -> int:
    """Return what H and W must be a multiple of where the size is open, in pixels."""
    layers = list(model.modules())
    if any(isinstance(layer, RegionalJpegLayer) for layer in layers):
        raise UsageError("dynamic_size is not possible: the layer has a table for each region, for images of one size")
    subsampled = any(isinstance(layer, ImageDctLayer) and layer.subsampling == "4:2:0" for layer in layers)
    unit = MCU if subsampled else BLOCK
    if any(side % unit for side in size):
        raise UsageError(f"with dynamic_size, size is an example, and must be multiples of {unit}, got {size[0]}x{size[1]}")
    return unit


def _about(model: nn.Module, size: Size, unit: int | None) -> dict[str, str]:
    roundings = {layer.rounding for layer in model.modules() if isinstance(layer, QuantizingLayer)}
    if "sample" in roundings:
        raise UsageError(
            "rounding 'sample' draws levels at random, so it cannot be exported; take 'soft', which is its mean, or "
            "'hard' (jpegdl export --rounding soft)"
        )
    sides = f"{size[0]}x{size[1]}" if unit is None else f"multiples of {unit}, such as {size[0]}x{size[1]}"
    return {
        "jpegdl_version": __version__,
        "input": "images: (N, 3, height, width), float32, RGB in [0, 1], not normalised",
        "size": sides,
        "output": "logits: (N, classes), float32",
        "rounding": ", ".join(sorted(roundings)) or "no quantizer",
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _program(model: nn.Module, size: Size, unit: int | None) -> torch.export.ExportedProgram:
    """The model's single operations, for any number of images and, with ``unit``, any multiple of it as height and width."""
    logits = model(torch.zeros(2, 3, *size))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(f"the model must give one tensor of logits, (N, classes), got {found}; wrap it in one that does")
    shape: dict[int, Any] = {0: torch.export.Dim("batch")}
    if unit is not None:
        shape |= {2: unit * torch.export.Dim("rows"), 3: unit * torch.export.Dim("columns")}
        # torch.export takes a 1 for a 1 for ever: the example must be so large that no feature map has a side of 1.
        size = (max(size[0], 16 * unit), max(size[1], 16 * unit))
    try:
        return torch.export.export(model, (torch.zeros(2, 3, *size),), dynamic_shapes=(shape,), strict=False)
    except Exception as error:  # whatever a model's own code or PyTorch's symbolic shapes raise
        what = "any number of images" if unit is None else "images of any number and size"
        raise UsageError(f"torch.export cannot export this model for {what}: {_short(error)}") from error


# ------------------------------------------------------------------------------------------------------------- writing


def _write_onnx(program: torch.export.ExportedProgram, file: Path, about: dict[str, str]) -> Run:
    import onnxruntime

    weights = sum(
        tensor.numel() * tensor.element_size() for tensor in (*program.state_dict.values(), *program.constants.values())
    )
    if weights > LARGEST_ONNX:
        raise UsageError(f"an ONNX file holds at most 2 GB of weights, got {weights / 1e9:.1f} GB; take another format")
    try:
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),  # names alone; a fixed side has none
        )
        assert written is not None
        written.model.metadata_props.update(about)
        written.save(str(file), external_data=False)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UsageError(f"torch.onnx cannot export this model: {_short(error)}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _write_torch(program: torch.export.ExportedProgram, file: Path, about: dict[str, str]) -> Run:
    torch.export.save(program, file, extra_files={"jpegdl.json": json.dumps(about, indent=1)})
    return cast(Run, torch.export.load(file).module())


def _write_aotinductor(program: torch.export.ExportedProgram, file: Path, about: dict[str, str]) -> Run:
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UsageError("AOTInductor needs a C++ compiler: install g++, or set the environment variable CXX to one") from error
    try:
        aoti_compile_and_package(program, package_path=str(file), inductor_configs={"aot_inductor.metadata": about})
    except RuntimeError as error:  # all of Inductor's own
        raise UsageError(f"AOTInductor cannot compile this model: {_short(error)}") from error
    return cast(Run, aoti_load_package(str(file)))


_WRITERS: dict[Format, Callable[[torch.export.ExportedProgram, Path, dict[str, str]], Run]] = {
    "onnx": _write_onnx,
    "torch": _write_torch,
    "aotinductor": _write_aotinductor,
}


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporters and onnxscript tell much that helps their own developers alone."""
    with warnings.catch_warnings(), quiet("torch", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------------------------------------------------ checking


@torch.no_grad()
def compare_exported(model: nn.Module, exported: Run, sizes: list[Size]) -> Check:
    """Compare an exported model's logits with those of its original, on the embedded photographs and on one alone.

    Args:
        model: the original: float32, in eval mode, on the CPU.
        exported: from images to logits, as it does.
        sizes: the (H, W) to scale the photographs to, in pixels.

    Raises:
        UsageError: the exported model does not run.
    """
    generator = torch.Generator().manual_seed(0)
    differences, allowed, same = [], [TOLERANCE], []
    for size in sizes:
        # Dithered, because whole grey levels and whole steps leave many coefficients exactly between two levels.
        photographs = _photographs(size)
        photographs = photographs + (torch.rand(photographs.shape, generator=generator) - 0.5) / 255
        nudge = (2 * torch.rand(photographs.shape, generator=generator) - 1) * NUDGE
        ours, moved = model(photographs), model(photographs + nudge)
        try:
            theirs = torch.cat((exported(photographs[:1]), exported(photographs)))
        except Exception as error:  # each runtime has its own
            sides = f"{size[0]}x{size[1]}"
            raise UsageError(f"the exported file does not run on images of {sides} pixels: {_short(error)}") from error
        ours = torch.cat((ours[:1], ours))
        differences.append(float((theirs - ours).abs().max()))
        allowed += [TOLERANCE * float(ours.abs().max()), float((moved - ours[1:]).abs().max())]
        same.append(theirs.argmax(1) == ours.argmax(1))
    agreement = torch.cat(same).float()
    # numpy's max keeps NaN wherever it stands.
    return Check(len(agreement) - len(sizes), sizes, float(np.max(differences)), max(allowed), float(agreement.mean()))


def _photographs(size: Size) -> Tensor:
    """(18, 3, H, W) in [0, 1]."""
    images = [Image.fromarray(photograph(name)).convert("RGB").resize(size[::-1]) for name in PHOTOGRAPHS]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous() / 255
