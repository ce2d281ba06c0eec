"""Callbacks and loggers as settings have them, ``{class_path: ..., init_args: ...}``: nothing of Lightning is imported."""

import os
from typing import Any

#: Loggers by a short name, with what they need to keep the runs of a comparison apart and together.
SHORT = {
    "csv": ("CSVLogger", {"save_dir": "{folder}", "name": "csv"}),
    "wandb": ("WandbLogger", {"project": "{name}", "group": "{arm}", "name": "{arm}-{seed}", "save_dir": "{folder}"}),
    "mlflow": ("MLFlowLogger", {"experiment_name": "{name}", "run_name": "{arm}-{seed}"}),
}
TENSORBOARD = "tensorboard"  # a short name too, of what each run has already
#: Of MLflow, where no server is named: its newer versions write to no plain files any more.
_MLFLOW_HERE = {"tracking_uri": "sqlite:///{comparison}/mlflow.db", "artifact_location": "{comparison}/mlflow"}
_SERVER = "MLFLOW_TRACKING_URI"  # which mlflow itself sets too, to what its loggers were given
GIVEN: set[str | None] = set()  # tracking URIs that were given to MLflow's loggers here


def spelled_out(entry: Any) -> Any:
    """Return an entry with both its parts, where it is a class path or a short name alone, or without arguments."""
    if isinstance(entry, str) and entry in SHORT:
        kind, arguments = SHORT[entry]
        here = _MLFLOW_HERE if entry == "mlflow" and mlflow_server() is None else {}
        return {"class_path": f"lightning.pytorch.loggers.{kind}", "init_args": {**arguments, **here}}
    if isinstance(entry, str):
        return {"class_path": entry, "init_args": {}}
    return {**entry, "init_args": entry.get("init_args") or {}} if isinstance(entry, dict) else entry


def mlflow_server() -> str | None:
    """Return where the user has MLflow keep runs; None where nothing says."""
    server = os.environ.get(_SERVER)
    return None if not server or server in GIVEN else server


def module_and_class(path: str) -> tuple[str, str]:
    """Return the module and the class that a class path names, ``my_module.MyClass`` or ``my_module:MyClass``."""
    module, _, attribute = path.rpartition("." if ":" not in path else ":")
    return module, attribute
