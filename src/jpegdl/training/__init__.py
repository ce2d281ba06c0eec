"""Joint training of a backbone and a layer with Lightning. :mod:`jpegdl.runs` reads what it writes."""

from jpegdl.training.evaluation import evaluate
from jpegdl.training.module import JointTraining
from jpegdl.training.trainer import train_run

__all__ = ["JointTraining", "evaluate", "train_run"]
