"""What a run was made of, in a form to write down, and how two such records differ."""

import math
import platform
import unicodedata
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_type_hints

from jpegdl._version import __version__
from jpegdl.data.config import CLASS_ORDERS, OBJECT
from jpegdl.errors import how_many
from jpegdl.files import digest_of_file
from jpegdl.layer.config import DEFAULT_ALPHA, table_source
from jpegdl.runs.class_paths import module_and_class
from jpegdl.runs.config import RunConfig
from jpegdl.user_code import is_own, own_modules, source_digest

#: Settings that say where to compute, where files are and who else hears of it, not what: they may change between the two
#: halves of a run.
WHERE = ("data.path", "data.workers", "device", "training.loggers")


def settings_of(config: RunConfig, arm: str, seed: int) -> dict[str, Any]:
    """Return settings as they are written and compared: what stands for a default is spelled out."""
    settings = {"arm": arm, "seed": seed, **asdict(config)}
    if settings["data"]["class_order"] == CLASS_ORDERS[0]:  # the default, which earlier versions did not write down
        settings["data"]["class_order"] = None
    layer = settings["layer"]
    if layer["alpha"] is None and layer["hardness"] is None:
        layer["alpha"] = DEFAULT_ALPHA
    return settings


def from_dict(kind: type, content: Any) -> Any:
    """Return a dataclass from nested dictionaries; what they leave out takes its default.

    Raises:
        ValueError: an entry that it does not have.
    """
    types = get_type_hints(kind)
    if unknown := content.keys() - {field.name for field in fields(kind)}:
        raise ValueError(f"unknown setting {min(unknown)}: a newer version wrote it, or it was edited")
    return kind(
        **{name: from_dict(types[name], value) if is_dataclass(types[name]) else value for name, value in content.items()}
    )


def first_difference(there: Any, here: Any, path: str = "") -> str | None:
    """Return in words which of two records' settings differs first; None if none does."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            if found := first_difference(there.get(key), here.get(key), f"{path}.{key}" if path else str(key)):
                return found
        return None
    if path == "data.holdout" and not there and not here:  # 0 and none: the record of the data says what was held out
        return None
    return None if there == here or path in WHERE else f"{path} was {there!r}, now {here!r}"


def class_difference(there: list[str], here: list[str]) -> str | None:
    """Return, in words, how the classes of two data sets differ; None if they are the same, or but for the Unicode form of
    names."""
    there, here = ([unicodedata.normalize("NFC", name) for name in names] for names in (there, here))
    if odd := sorted(set(there) ^ set(here)):
        more = f" ({len(odd)} classes differ)" if len(odd) > 1 else ""
        return f"class {odd[0]!r} is in only one of them{more}"
    return None if there == here else "the classes are in another order"


def same_images(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Return whether two fingerprints of one part of a data set are of the same images, as far as both know.

    Earlier versions knew names and sizes only; where both know the contents, names do not count.
    """
    kind = "content" if "content" in there and "content" in here else "digest"
    return (there["images"], there.get(kind)) == (here["images"], here.get(kind))


_NO_IMAGES: dict[str, Any] = {"images": 0, "content": None}  # of a part that there is not


def data_difference(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """Return in words what of two data sets' fingerprints differs first; None if they are the same."""
    if difference := class_difference(there["classes"], here["classes"]):
        return difference
    for part, name in (("train", "training"), ("test", "test"), ("validation", "validation")):
        then, now = there.get(part, _NO_IMAGES), here.get(part, _NO_IMAGES)
        if then is None:  # only the other parts are asked for
            continue
        if then["images"] != now["images"]:
            older = "content" not in then and then["images"] < now["images"]
            why = "; the version that recorded it passed over .gif, .jfif and others, and links in tars" if older else ""
            if part == "validation" and not then["images"]:
                why = "; --data.holdout 0 goes on without them"
            return f"{how_many(then['images'], f'{name} image')} then, {now['images']:,} now{why}"
        if not same_images(then, now):
            return f"as many {name} images, but other ones, or of other classes"
    return None


def share(correct: int, images: int) -> float:
    """Return the share of images that are right, 0 to 1; NaN of none."""
    return correct / images if images else math.nan


def counted(result: dict[str, Any]) -> dict[str, Any]:
    """Return a run's result with the numbers of images that its accuracy stands for, and exactly their share.

    Args:
        result: the content of a ``result.json``. Earlier versions wrote float32 shares alone, which differ from one another
            where the numbers of images do not: their ``correct`` is the nearest whole number, if there is one so near.
    """
    if "correct" not in result:
        images, accuracy = result.get("data", {}).get("test", {}).get("images"), result["accuracy"]
        if not images or not math.isfinite(accuracy) or abs(accuracy * images - round(accuracy * images)) > images * 2.0**-23:
            return result  # corrupt images were left out: of how many it is the share is not known
        result = {**result, "correct": round(accuracy * images), "images": images}
    return {**result, "accuracy": share(result["correct"], result["images"])}


def tested_images(result: dict[str, Any]) -> int | None:
    """Return how many images a run's result is of, without corrupt ones that were left out; None where it does not say."""
    images: int | None = result.get("images") or result.get("data", {}).get("test", {}).get("images")
    return images


_NOT_TESTED = {"train": None, "validation": None}


def other_test_images(there: dict[str, Any], here: dict[str, Any]) -> str | None:
    """Return in words how the test images of a result, ``here``, differ from those of another; None if not, as far as both say.

    Both are the content of a ``result.json``.
    """
    then, now = (result.get("data") or {} for result in (there, here))
    if not all({"images", "digest"} <= record.get("test", {}).keys() and "classes" in record for record in (then, now)):
        return None
    if (before := tested_images(there)) != (after := tested_images(here)):
        return f"{after} in place of {before}"
    return data_difference({**then, **_NOT_TESTED}, {**now, **_NOT_TESTED})


def digest_of_weights(config: RunConfig) -> str | None:
    """Return a digest of the file that the backbone's weights come from, where one does."""
    return None if config.weights is None else digest_of_file(Path(config.weights))


def digest_of_tables(config: RunConfig) -> str | None:
    """Return a digest of the file that initial tables come from, where one does."""
    if config.layer.kind == "none" or table_source(config.layer) != "file":
        return None
    return digest_of_file(Path(config.layer.tables))


def digests_of_networks(config: RunConfig) -> dict[str, str]:
    """Return digests of the other networks that judge the layer, by the folders of their runs."""
    return {folder: digest_of_file(Path(folder) / "model.safetensors") for folder in config.training.networks}


def versions() -> dict[str, str]:
    """Return the versions of what has a hand in a run's numbers: decoding and scaling of its images too."""
    import torch
    from PIL import features

    names = {"torch": "torch", "torchvision": "torchvision", "timm": "timm", "lightning": "lightning", "numpy": "numpy"}
    found = {"jpegdl": __version__, "python": platform.python_version()}
    for name, package in {**names, "numba": "numba", "pillow": "pillow"}.items():
        with suppress(PackageNotFoundError):
            found[name] = version(package)
    found["torch"] = torch.__version__  # with what it was built for
    turbo = features.check_feature("libjpeg_turbo")
    found["libjpeg"] = str(features.version_feature("libjpeg_turbo") if turbo else features.version_codec("jpg"))
    return found


def digests_of_code(config: RunConfig) -> dict[str, str]:
    """Return digests of the files with the user's own code that a run depends on: by the names in its settings and, where there
    are any or the data set is given as Python objects, of all other modules that are the user's own and imported, by
    ``module``, since those may have a hand in it. Without what is not imported, as callbacks are not to evaluate a run."""
    entries = [entry for entry in (*config.training.callbacks, *config.training.loggers) if isinstance(entry, dict)]
    paths = [entry["class_path"] for entry in entries]
    own = [":".join(module_and_class(path)) for path in paths if not path.startswith("lightning.")]
    names = (config.backbone, config.layer.kind, config.data.name or "", *own)
    found = {name: digest for name in names if is_own(name) and (digest := source_digest(name)) is not None}
    return found | (own_modules({name.partition(":")[0] for name in found}) if found or config.data.name == OBJECT else {})
