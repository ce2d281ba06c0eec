"""The packages of the larger rooms: imported on first use, and one clear line where one of them is missing."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from jpegdl.errors import UsageError

#: What each extra brings, by the name that it is imported under; the first that needs a package is the one to install.
EXTRAS = {
    "train": (
        "PIL", "filelock", "jinja2", "jsonargparse", "lightning", "matplotlib", "safetensors", "scipy", "timm", "torchmetrics",
        "torchvision", "tqdm", "yaml",
    ),
    "demo": ("skimage",),
    "codec": ("jpeglib",),
    "attack": ("pyautoattack", "imagecorruptions", "cv2"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "share": ("huggingface_hub",),
    "completion": ("shtab",),
    "loggers": ("tensorboard", "wandb", "mlflow"),
    "bench": ("kornia",),
}  # fmt: skip


class MissingPackageError(ModuleNotFoundError, UsageError):
    """A package that only an extra brings is not installed."""


def how_to_install(extra: str) -> str:
    """Return the words that tell how to install an extra."""
    return f"pip install '.[{extra}]' in a checkout of jpegdl"


def missing(error: ModuleNotFoundError) -> MissingPackageError | None:
    """Put into words that an import failed because a package of an extra is missing; None where it is another module."""
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return MissingPackageError(
                f"this needs {package}, which is not installed: {how_to_install(extra)}", name=error.name
            )
    return None


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return find_spec(package) is not None


def on_first_use(
    package: str, homes: Mapping[str, str], modules: Iterable[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__``, which import what it hands on when it is first asked for.

    Args:
        package: its ``__name__``.
        homes: the modules of its names, relative to it.
        modules: its own modules that are to be found as attributes.

    Returns:
        The two functions. The first raises MissingPackageError where a package of an extra is not installed.
    """
    modules = frozenset(modules)

    def get(name: str) -> Any:
        if name not in homes and name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(f"{package}.{homes.get(name, name)}")
        except ModuleNotFoundError as error:
            raise missing(error) or error from None
        return getattr(module, name) if name in homes else module

    return get, lambda: sorted({*vars(import_module(package)), *homes, *modules})
