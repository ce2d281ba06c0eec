"""All commands. Nothing heavy is imported here: what a command needs is imported when it is built or run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jpegdl.cli import looking, other, storing, training, using

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        build: given ``about``, makes the parser of the arguments that follow the command's name.
        run: given what was chosen, by name, does it.
        about: what it does, in one line.
        example: a command line to start from.
        short: the options that most people need, which ``--help`` explains; empty for all.
        resumes: after what the same command goes on where it was interrupted, in words; None if it begins anew.
        extra: that brings all packages it may need.
    """

    build: Callable[[str], "ArgumentParser"]
    run: Callable[[dict[str, Any]], None]
    about: str
    example: str
    short: tuple[str, ...] = ()
    resumes: str | None = None
    extra: str = "train"

    def parser(self) -> "ArgumentParser":
        """The parser of its arguments, which can be looked at without running anything."""
        return self.build(self.about)


_TRAINING = ("data.path", "data.size", "backbone", "pretrained", "training.epochs", "layer.tables", "training.accelerator")
_RUN = ("name", "output", "arm", "seed")

COMMANDS = {
    "compare": Command(
        training.compare_parser,
        training.compare,
        "Train every arm with every seed and compare with plain; a killed comparison resumes.",
        "jpegdl compare --name mine --data.path FOLDER --data.size 224 \\\n    --backbone resnet18 --training.epochs 100",
        ("config", "name", "arms", "seeds", *_TRAINING, "jobs"),
        resumes="epoch",
    ),
    "train": Command(
        training.train_parser,
        training.train,
        "Train one arm with one seed of a comparison, or resume it.",
        "jpegdl train --config demo --arm plain --seed 0",
        ("config", "name", "arm", "seed", *_TRAINING),
        resumes="epoch",
    ),
    "evaluate": Command(
        training.evaluate_parser,
        training.evaluate,
        "Test a finished run's model on the test images.",
        "jpegdl evaluate --name mine --rounding hard",
        (*_RUN, "rounding", "model", "from_files", "data.path", "data.workers", "training.accelerator"),
    ),
    "predict": Command(
        using.predict_parser,
        using.predict,
        "Say what is on photos, with a finished run's model.",
        "jpegdl predict --name mine --top 3 PHOTO.jpg FOLDER",
    ),
    "calibrate": Command(
        training.calibrate_parser,
        training.calibrate,
        "Compute initial quantization tables from training images, and write them as JSON.",
        "jpegdl calibrate --name mine --save tables.json",
        (
            "name",
            "output",
            "seed",
            "method",
            "save",
            "model",
            "layer.q_max",
            "layer.images",
            "data.path",
            "training.accelerator",
        ),
    ),
    "export": Command(
        using.export_parser,
        using.export,
        "Write a finished run's model as an ONNX file, or for torch.export or AOTInductor; check it.",
        "jpegdl export --name mine model.onnx",
        ("file", *_RUN, "format", "size", "dynamic_size", "rounding"),
        extra="export",
    ),
    "compress": Command(
        storing.compress_parser,
        storing.compress,
        "Write a folder of images as JPEG files with learned tables, which any decoder opens.",
        "jpegdl compress PHOTOS SMALLER --model runs/mine/jpeg-dl/0",
        ("source", "target", "model", "tables", "subsampling", "optimize", "progressive", "exact", "threads"),
        resumes="image",
    ),
    "rate": Command(
        storing.rate_parser,
        storing.rate,
        "Set the accuracy on real JPEG files against their bits per pixel, of learned tables and of default JPEG.",
        "jpegdl rate --name mine",
        ("name", "arms", "seeds", "images", "qualities", "subsampling", "path", "device"),
        resumes="point",
    ),
    "summary": Command(
        using.summary_parser,
        using.summary,
        "Print the table of a comparison again; nothing is trained.",
        "jpegdl summary --name mine",
    ),
    "attack": Command(
        looking.attack_parser,
        looking.attack,
        "Attack trained models through the layer's gradients and in place of them; corrupt their images too.",
        "jpegdl attack --name mine --eps '[1, 2, 4, 8]' --images 200",
        ("name", "arms", "seeds", "eps", "attacks", "images", "rounding", "corruptions"),
        resumes="batch",
        extra="attack",
    ),
    "explain": Command(
        looking.explain_parser,
        looking.explain,
        "Draw what a trained layer does: tables, transfer curves, single images, what each frequency is worth.",
        "jpegdl explain --name mine",
        (*_RUN, "images", "pictures", "ablation", "path", "device"),
        resumes="part",
    ),
    "report": Command(
        looking.report_parser,
        looking.report,
        "Write one page with all that is known of a comparison: report.html in its folder. compare does it at its end.",
        "jpegdl report --name mine",
    ),
    "recipes": Command(
        other.recipes_parser,
        other.recipes,
        "List the recipes and the published protocols they follow, or print one.",
        "jpegdl recipes cifar100 > mine.yaml",
    ),
    "bench": Command(
        other.bench_parser,
        other.bench,
        "Measure the layer's speed and memory beside other differentiable JPEGs; write a table and a plot.",
        "jpegdl bench --device cpu --repeats 3",
        extra="bench",
    ),
    "completion": Command(
        other.completion_parser,
        other.completion,
        "Print a script that has the shell complete commands, options and their values.",
        "jpegdl completion bash > ~/.jpegdl.bash  # and in ~/.bashrc: . ~/.jpegdl.bash",
        extra="completion",
    ),
}
