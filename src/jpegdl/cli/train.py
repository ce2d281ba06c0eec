"""``jpegdl train``."""

from typing import Any

from jpegdl.cli.command import Parser, WithSettings
from jpegdl.cli.options import TRAINING, add_run, check_which, note_command, picked_comparison
from jpegdl.cli.output import say
from jpegdl.errors import how_many


class Train(WithSettings):
    about = "Train one arm with one seed of a comparison, or resume it."
    new = True
    example = "jpegdl train --config demo --arm plain --seed 0"
    short = ("config", "name", "arm", "seed", *TRAINING)
    resumes = "epoch"

    def add(self, parser: Parser) -> None:
        add_run(parser)

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison import train_arm

        config = picked_comparison(chosen)
        check_which(chosen, config)
        try:
            result = train_arm(config, chosen["arm"], chosen["seed"])
        finally:
            note_command(config.folder, chosen)
        say(f"{result['arm']}, seed {result['seed']}: test accuracy {100 * result['accuracy']:.2f} %")
        if (held_out := result.get("validation")) is not None:
            say(f"on the {how_many(held_out['images'], 'validation image')}: {100 * held_out['accuracy']:.2f} %")
        say(f"Run folder: {config.folder / chosen['arm'] / str(chosen['seed'])}")
