"""``jpegdl train``."""

from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Command
from jpegdl.cli.options import SETTINGS, TRAINING, add_run, comparison_parser, note_command, picked_comparison
from jpegdl.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Train(Command):
    about = "Train one arm with one seed of a comparison, or resume it."
    example = "jpegdl train --config demo --arm plain --seed 0"
    short = ("config", "name", "arm", "seed", *TRAINING)
    resumes = "epoch"

    def build(self) -> "ArgumentParser":
        parser = comparison_parser(f"jpegdl train [NAME] {SETTINGS}", self.about, new=True)
        add_run(parser)
        return parser

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison import train_arm

        config = picked_comparison(chosen)
        try:
            result = train_arm(config, chosen["arm"], chosen["seed"])
        finally:
            note_command(config.folder, chosen)
        say(f"{result['arm']}, seed {result['seed']}: test accuracy {100 * result['accuracy']:.2f} %")
        if (held_out := result.get("validation")) is not None:
            say(f"on the {held_out['images']} images held out of training: {100 * held_out['accuracy']:.2f} %")
        say(f"Run folder: {config.folder / chosen['arm'] / str(chosen['seed'])}")
