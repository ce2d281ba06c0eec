"""The packages of the larger rooms: imported on first use, and one clear line where one of them is missing."""

import ast
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType
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
    "tune": ("optuna",),
    "bench": ("kornia",),
}  # fmt: skip


#: What pip calls a package, where that is not the name that it is imported under.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "imagecorruptions": "imagecorruptions-imaug",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}


class MissingPackageError(ModuleNotFoundError, UsageError):
    """A package that only an extra brings is not installed.

    Attributes:
        what: what needs it, with the verb; None where nothing but an import has said so.
    """

    what: str | None = None


def how_to_install(extra: str) -> str:
    """Return the words that tell how to install an extra."""
    return f"pip install '.[{extra}]' in a checkout of jpegdl"


def pip_name(package: str) -> str:
    """Return what pip calls a package that is imported as ``package``."""
    return _DISTRIBUTIONS.get(package, package.replace("_", "-") if extra_of(package) is None else package)


def extra_of(package: str) -> str | None:
    """Return the extra that brings a package; None if none does."""
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return find_spec(package) is not None


def require(what: str, *packages: str, otherwise: str = "") -> None:
    """Refuse to go on where packages are not installed.

    Args:
        what: needs them, with the verb: ``completion needs``.
        packages: by the names they are imported under; of one extra, or of none, and then all of them are to be installed.
        otherwise: another way out, that the message ends in.

    Raises:
        MissingPackageError: names those that are missing, and the extra that brings them.
    """
    if lacking := [package for package in packages if not installed(package)]:
        error = _missing(what, lacking, packages, extra_of(lacking[0]), otherwise)
        error.what = what
        raise error


def missing(error: ModuleNotFoundError, extra: str = "train") -> MissingPackageError | None:
    """Put into words that an import failed because a package of an extra is missing; None where it is another module.

    ``extra`` is the one to install where the package is one of those that all larger rooms need.
    """
    if isinstance(error, MissingPackageError) and error.what is not None:
        return error
    package = (error.name or "").partition(".")[0]
    own = extra_of(package)
    return None if own is None else _missing("this needs", [package], [], extra if own == "train" else own)


def _missing(
    what: str, lacking: Sequence[str], packages: Sequence[str], extra: str | None, otherwise: str = ""
) -> MissingPackageError:
    names, verb = ", ".join(map(pip_name, lacking)), "is" if len(lacking) == 1 else "are"
    how = how_to_install(extra) if extra is not None else f"pip install {' '.join(map(pip_name, packages))}"
    return MissingPackageError(f"{what} {names}, which {verb} not installed: {how}{otherwise}", name=lacking[0])


class _Loader(SourceFileLoader):
    """Runs a module of this package, and puts into words that a package of an extra is missing."""

    def exec_module(self, module: ModuleType) -> None:
        try:
            super().exec_module(module)
        except ModuleNotFoundError as error:
            raise missing(error) or error from None


class _Finder(MetaPathFinder):
    """Finds the modules of this package as Python does."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return where a module of this package is; None for all others."""
        if not name.startswith("jpegdl."):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def name_missing() -> None:
    """Have the import of any module of this package, however deep, say what to install where a package is missing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # Just before Python's own: hooks of others, as of typeguard and coverage tools, are asked first.
        place = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0
        sys.meta_path.insert(place, _Finder())


def on_first_use(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__``, which import what it hands on when it is first asked for.

    What it hands on, and from where, is said once: by the imports under ``if TYPE_CHECKING`` in its ``__init__.py``.

    Args:
        package: its ``__name__``.

    Returns:
        The two functions.
    """

    @cache
    def homes() -> dict[str, str]:
        spec = sys.modules[package].__spec__
        source = spec.loader.get_source(package)  # type: ignore[union-attr]  # of a module that is imported
        parts = [part for part in ast.parse(source).body if isinstance(part, ast.If)]
        for_types = [line for part in parts if ast.unparse(part.test) == "TYPE_CHECKING" for line in part.body]
        imports = [line for line in for_types if isinstance(line, ast.ImportFrom)]
        return {alias.name: str(line.module) for line in imports for alias in line.names}

    def get(name: str) -> Any:
        if name not in homes():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes()[name]
        return import_module(f"{package}.{name}") if home == package else getattr(import_module(home), name)

    return get, lambda: sorted({*vars(sys.modules[package]), *homes()})
