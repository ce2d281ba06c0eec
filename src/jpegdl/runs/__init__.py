"""Finished and unfinished runs: settings, folder, record and model. Nothing here trains."""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.runs.checks import check_config
    from jpegdl.runs.config import DataPlace, OptimizerConfig, RateConfig, RunConfig, TrainingConfig
    from jpegdl.runs.folder import RunFolder, finished_runs
    from jpegdl.runs.model import TrainedRun, load_model, open_run

__all__ = [
    "DataPlace", "OptimizerConfig", "RateConfig", "RunConfig", "RunFolder", "TrainedRun", "TrainingConfig", "check_config",
    "finished_runs", "load_model", "open_run",
]  # fmt: skip

__getattr__, __dir__ = on_first_use(__name__)
