"""Joint training of a backbone and a layer with Lightning, and the folder that a run leaves."""

from jpegdl.training.config import LayerConfig, OptimizerConfig, RunConfig, TrainingConfig
from jpegdl.training.models import build_backbone, build_layer, check_config, initial_tables, load_model, needs_tables
from jpegdl.training.module import JointTraining
from jpegdl.training.run import check_folder, evaluate, on_gpu, read_config, read_result, train_run

__all__ = [
    "JointTraining",
    "LayerConfig",
    "OptimizerConfig",
    "RunConfig",
    "TrainingConfig",
    "build_backbone",
    "build_layer",
    "check_config",
    "check_folder",
    "evaluate",
    "initial_tables",
    "load_model",
    "needs_tables",
    "on_gpu",
    "read_config",
    "read_result",
    "train_run",
]
