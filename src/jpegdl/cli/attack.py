"""``jpegdl attack``."""

from pathlib import Path
from typing import Any

from jpegdl.cli.command import OnComparison, Parser
from jpegdl.cli.options import add_seeds, comparison_folder, note_command, pick, refuse_idle
from jpegdl.cli.output import say, say_folded


class Attack(OnComparison):
    about = "Attack trained models, through the layer's gradients and around them, and corrupt their images."
    example = "jpegdl attack mine --eps 1,2,4,8 --images 200"
    extra = "attack"
    short = ("name", "model", "arms", "seeds", "eps", "attacks", "images", "corruptions", "data.path", "device")
    resumes = "batch"

    def add(self, parser: Parser) -> None:
        from jpegdl.robustness import AttackConfig
        from jpegdl.settings import Count

        parser.add_argument("--arms", type=list[str], default=["plain", "jpeg-dl"], help="which arms to attack")
        add_seeds(parser)
        parser.add_class_arguments(AttackConfig)
        parser.add_argument("--model", type=str | None, default=None, help="instead of runs: any model, as my_module:make")
        parser.add_argument("--set", type=str | None, default=None, help="data set for --model, as in --data.name")
        parser.add_argument("--size", type=Count | None, default=None, help="side of the images for --model, in pixels")
        parser.add_argument("--resize", type=Count | None, default=None, help="short side before the crop (default: size)")

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.robustness import AttackConfig, attack_comparison, attack_text
        from jpegdl.runs.progress import Bar

        if chosen["model"] is not None:
            refuse_idle(self, chosen, [name for name in chosen if name not in ("arms", "seeds")], "with --model")
            _attack_model(chosen)
            return
        refuse_idle(self, chosen, [name for name in chosen if name not in ("set", "size", "resize")], "without --model")
        folder, config = comparison_folder(chosen), pick(AttackConfig, chosen)
        with Bar(unit="pieces") as bar:
            found = attack_comparison(
                folder,
                config,
                arms=chosen["arms"],
                seeds=chosen["seeds"],
                progress=bar.show,
                each=lambda result: bar.say(f"{attack_text(result)}\n"),
            )
        for note in found.notes:
            say_folded(note)
        note_command(folder, chosen)
        page = "jpegdl report adds them to its page" if config.rounding is None else "the page of jpegdl report is without them"
        say_folded(f"Written to {folder}: {', '.join(file.name for file in found.files)}; {page}")


def _attack_model(chosen: dict[str, Any]) -> None:
    """Attack what --model makes."""
    from jpegdl.data import DataConfig
    from jpegdl.robustness import AttackConfig, attack_model, attack_text, model_folder
    from jpegdl.runs.progress import Bar

    config = pick(AttackConfig, chosen)
    place = config.data
    data = DataConfig(name=chosen["set"], path=place.path, workers=place.workers, size=chosen["size"], resize=chosen["resize"])
    folder = Path(chosen["output"]).expanduser() / chosen["name"]
    with Bar(unit="pieces") as bar:
        found = attack_model(chosen["model"], data, config, folder=folder, progress=bar.show)
    say(attack_text(found))
    note_command(folder, chosen)
    say(f"\nWritten to {model_folder(folder, chosen['model']).path}: attack.json, attack.csv")
