"""``jpegdl tune``."""

import shlex
from typing import Any

from jpegdl.cli.command import Parser, WithSettings
from jpegdl.cli.options import TRAINING, note_command, picked_comparison
from jpegdl.cli.output import say, say_folded, say_table
from jpegdl.errors import how_many


class Tune(WithSettings):
    about = "Tune plain and the layer alike, on held-out images, and write a recipe."
    more = (
        "The search varies learning rate, weight decay, batch size, schedule, crops, colours and epochs of both, and the "
        "layer's own learning rate, q_max and alpha. The test images are never read. A fifth of the training images is held "
        "out, unless data.holdout or data.folds say otherwise. With data.folds alone, each trial trains on all folds."
    )
    new = True
    example = "jpegdl tune mine --data.path FOLDER --backbone resnet18 \\\n    --trials 20 --hours 3"
    short = ("config", "name", "trials", "hours", "data.holdout", *TRAINING, "jobs")
    resumes = "epoch"
    extra = "tune"

    def add(self, parser: Parser) -> None:
        from jpegdl.settings import Count, Positive, Seed

        parser.add_argument("--trials", type=Count, default=20, help="trials for plain, and as many for the layer")
        of_hours = "start no trial after this many hours (default: no limit)"
        parser.add_argument("--hours", type=Positive | None, default=None, help=of_hours)
        parser.add_argument("--tune-seed", type=Seed, default=0, help="seed for the draws of settings, and for the runs")

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison.tuning import TUNED, tune

        config = picked_comparison(chosen)
        try:
            found = tune(config, chosen["trials"], chosen["hours"], chosen["tune_seed"])
        finally:
            note_command(config.folder, chosen)
        trials = next(iter(found.values())).trials
        say(f"\nBest of {how_many(trials, 'trial')} each, accuracy on the held-out training images:")
        rows = [["arm", "recipe, %", "tuned, %"]]
        for arm, best in found.items():
            rows.append([arm, "-" if best.recipe is None else f"{100 * best.recipe:.1f}", f"{100 * best.accuracy:.1f}"])
        say_table(rows)
        if trials < chosen["trials"]:
            say_folded(f"There was time for {trials} of {chosen['trials']} trials for each arm; run the same command to go on.")
        say("\nNext: train both with what was found, on all training images, and test:")
        say(f"  jpegdl compare --config {shlex.quote(str(config.folder / TUNED))}")
