"""The user's own callbacks and loggers, by class path as in Lightning's command line: ``{class_path: ..., init_args: ...}``."""

import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger

from jpegdl.errors import UsageError
from jpegdl.extras import require
from jpegdl.runs.class_paths import GIVEN, mlflow_server, module_and_class
from jpegdl.runs.config import TrainingConfig
from jpegdl.user_code import find_object, said

_KINDS: dict[str, tuple[type, str]] = {
    "callbacks": (Callback, "lightning.pytorch.callbacks"),
    "loggers": (Logger, "lightning.pytorch.loggers"),
}


_PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow"}


def check_plugins(training: TrainingConfig) -> None:
    """Refuse callbacks or loggers that could not be made.

    Raises:
        UsageError: an entry of another form, a class that cannot be imported or is of another kind, or arguments that it does
            not take.
    """
    for name in _KINDS:
        for entry in getattr(training, name):
            _class_and_arguments(entry, name)


def make_own(entries: Sequence[Any], name: str, places: Mapping[str, Any]) -> list[Any]:
    """Make the callbacks or loggers of one run from the entries of settings.

    Args:
        entries: as settings have them.
        name: callbacks or loggers.
        places: what ``{NAME}`` stands for in texts among the arguments, by NAME; other braces stay.

    Raises:
        UsageError: as :func:`check_plugins`, or a class that fails.
    """
    made = []
    for entry in entries:
        kind, arguments = _class_and_arguments(entry, name)
        try:
            arguments = _filled_in(arguments, places)
            if kind.__name__ == "MLFlowLogger":  # which asks for the server where it is imported, and no more
                if "tracking_uri" not in arguments and (server := mlflow_server()) is not None:
                    arguments["tracking_uri"] = server
                else:
                    GIVEN.add(arguments.get("tracking_uri"))
            made.append(kind(**arguments))
        except Exception as error:  # whatever the user's code raises
            raise UsageError(f"training.{name}: {entry['class_path']} cannot be made: {said(error)}") from error
    return made


@contextmanager
def ending_wandb_runs() -> Iterator[None]:
    """End the Weights & Biases runs that begin in here: its logger takes a run that goes on for that of the next, too."""
    before, failed = _wandb_run(), True
    try:
        yield
        failed = False
    finally:
        run = _wandb_run()
        if run is not None and run is not before:  # one that a user's script has begun is theirs
            run.finish(exit_code=int(failed))


def _wandb_run() -> Any:
    """The run of this process that goes on, if wandb is in use at all."""
    return getattr(sys.modules.get("wandb"), "run", None)


@contextmanager
def naming(own: Callable[[], Mapping[str, Sequence[Any]]]) -> Iterator[None]:
    """Make an error that one of the user's callbacks or loggers raises in here one that names it.

    ``own`` gives these by name of the setting, where there is an error.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        things = [(name, thing) for name, some in own().items() for thing in some]
        for frame, _ in traceback.walk_tb(error.__traceback__):
            first = next(iter(frame.f_code.co_varnames), "")  # of a method: its object
            for name, thing in things:
                if frame.f_locals.get(first) is thing:
                    where = f"{type(thing).__name__}.{frame.f_code.co_name}"
                    raise UsageError(f"training.{name}: {where} failed: {said(error)}") from error
        raise


def _class_and_arguments(entry: Any, name: str) -> tuple[type, dict[str, Any]]:
    base, home = _KINDS[name]
    setting = f"training.{name}"
    if not isinstance(entry, dict) or not isinstance(entry.get("class_path"), str):
        raise UsageError(
            f"{setting} must be class paths, or {{class_path: my_module.MyClass, init_args: {{...}}}}, got {entry!r}"
        )
    if unknown := entry.keys() - {"class_path", "init_args"}:
        raise UsageError(f"{setting}: {entry['class_path']}: only class_path and init_args go there, got {min(unknown)} too")
    path, arguments = entry["class_path"], entry.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise UsageError(f"{setting}: {path}: init_args must be arguments by name, got {arguments!r}")
    module, attribute = module_and_class(path)
    kind = find_object(f"{module or home}:{attribute}", setting)  # a name alone is Lightning's, as in its command line
    if not isinstance(kind, type) or not issubclass(kind, base):
        article = "a" if base is Callback else "one of Lightning's loggers, a"
        raise UsageError(f"{setting}: {path} is not {article} {base.__module__.partition('.')[0]} {base.__name__}")
    if issubclass(kind, ProgressBar):
        raise UsageError(f"{setting}: {path} is a progress bar, and each run has one already")
    package = _PACKAGES.get(kind.__name__)
    if package is not None:
        require(f"{setting}: {path} needs", package)
    if missing := sorted(getattr(kind, "__abstractmethods__", ())):
        raise UsageError(f"{setting}: {path} lacks {', '.join(missing)}, which every {base.__name__} must have")
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise UsageError(f"{setting}: {path}: {error}; it takes {inspect.signature(kind)}") from error
    return kind, arguments


def _filled_in(value: Any, places: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        return {key: _filled_in(each, places) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled_in(each, places) for each in value]
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"{{{name}}}", str(place))
    return value
