"""``jpegdl attack``."""

from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Command
from jpegdl.cli.options import add_seeds, comparison_folder, finished_parser, note_command, pick
from jpegdl.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Attack(Command):
    about = "Attack trained models through the layer's gradients and in place of them; corrupt their images too."
    example = "jpegdl attack mine --eps 1,2,4,8 --images 200"
    extra = "attack"
    short = ("name", "arms", "seeds", "eps", "attacks", "images", "rounding", "corruptions", "data.path", "device")
    resumes = "batch"

    def build(self) -> "ArgumentParser":
        from jpegdl.robustness import AttackConfig

        parser = finished_parser("jpegdl attack [NAME] [--KEY VALUE ...]", self.about)
        parser.add_argument("--arms", type=list[str], default=["plain", "jpeg-dl"], help="whose models to attack")
        add_seeds(parser)
        parser.add_class_arguments(AttackConfig)
        return parser

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.robustness import AttackConfig, attack_comparison, attack_text
        from jpegdl.runs.progress import Bar

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
            say(note)
        note_command(folder, chosen)
        page = "jpegdl report adds them to its page" if config.rounding is None else "the page of jpegdl report is without them"
        say(f"Written to {folder}: {', '.join(file.name for file in found.files)}; {page}")
