"""Joint training of a backbone and a layer with Lightning, and the folder that a run leaves."""

from jpegdl.runs.config import OptimizerConfig, RunConfig, TrainingConfig, check_config
from jpegdl.runs.folder import RunFolder, TrainedRun, finished_runs, load_model
from jpegdl.training.module import JointTraining
from jpegdl.training.trainer import evaluate, on_gpu, train_run

__all__ = [
    "JointTraining",
    "OptimizerConfig",
    "RunConfig",
    "RunFolder",
    "TrainedRun",
    "TrainingConfig",
    "check_config",
    "evaluate",
    "finished_runs",
    "load_model",
    "on_gpu",
    "train_run",
]
