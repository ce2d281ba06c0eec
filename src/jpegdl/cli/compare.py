"""``jpegdl compare``."""

from typing import Any

from jpegdl.cli.command import WithSettings
from jpegdl.cli.options import TRAINING, note_command, picked_comparison
from jpegdl.cli.output import one_line, print_error, say, say_aside, shown_table
from jpegdl.errors import UsageError


class Compare(WithSettings):
    about = "Train every arm with every seed, and compare with plain; if killed, resume."
    new = True
    example = "jpegdl compare mine --data.path FOLDER --data.size 224 \\\n    --backbone resnet18 --training.epochs 100"
    short = ("config", "name", "arms", "seeds", *(key for key in TRAINING if key != "layer.tables"), "data.holdout", "jobs")
    resumes = "epoch"

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison import compare
        from jpegdl.comparison.summary import closing
        from jpegdl.report import write_report

        config = picked_comparison(chosen)
        try:
            done = compare(config, announce=say_aside)
        finally:
            note_command(config.folder, chosen)
        try:
            write_report(done.folder)
        except (UsageError, OSError) as error:
            print_error(f"warning: there is no report: {one_line(error)}")
        say(f"\n{shown_table(done.summary)}\n{closing(done.folder, done.summary)}")
        asked = [
            entry for entry in done.summary["failed"] if entry["arm"] in config.arm_names and entry["seed"] in config.seed_list
        ]
        if asked:
            one = f"{len(asked)} of the runs have" if len(asked) > 1 else "one of the runs has"
            raise UsageError(f"{one} no result: the reason is below the table; all others are in {config.folder}")
