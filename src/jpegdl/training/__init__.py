"""Joint training of a backbone and a layer with Lightning; what it leaves is read by :mod:`jpegdl.runs`."""

from jpegdl.training.module import JointTraining
from jpegdl.training.trainer import evaluate, on_gpu, train_run

__all__ = ["JointTraining", "evaluate", "on_gpu", "train_run"]
