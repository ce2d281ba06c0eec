"""``jpegdl explain``."""

from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Command
from jpegdl.cli.options import RUN, comparison_folder, finished_parser, note_command, pick
from jpegdl.cli.output import say
from jpegdl.errors import UsageError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Explain(Command):
    about = "Draw what a trained layer does: tables, transfer curves, single images, what each frequency is worth."
    example = "jpegdl explain mine"
    short = (*RUN, "images", "pictures", "ablation", "data.path", "device")
    resumes = "part"

    def build(self) -> "ArgumentParser":
        from jpegdl.explain import ExplainConfig

        parser = finished_parser("jpegdl explain [NAME] [--KEY VALUE ...]", self.about)
        parser.add_argument("--arm", type=str, default="jpeg-dl", help="whose model")
        parser.add_argument("--seed", type=int | None, default=None, help="which seed (default: the lowest there is)")
        parser.add_class_arguments(ExplainConfig)
        return parser

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.explain import ExplainConfig, explain_comparison
        from jpegdl.runs import finished_runs
        from jpegdl.runs.progress import Bar

        folder, arm = comparison_folder(chosen), chosen["arm"]
        seed = min(finished_runs(folder, [arm])[arm]) if chosen["seed"] is None else chosen["seed"]
        with Bar() as bar:
            found = explain_comparison(folder, pick(ExplainConfig, chosen), arms=[arm], seeds=[seed], progress=bar.show)
        index = found[arm][seed]
        pictures = [name for name in index["files"] if name.endswith(".png")]
        if not pictures:
            why = {entry["what"]: entry["why"] for entry in index["left_out"]}
            raise UsageError(f"there is nothing to explain of {arm}, seed {seed}: {why['frequencies']}; --arm names another")
        for sentence in index["words"]:
            say(sentence)
        for entry in index["left_out"]:
            say(f"left out: {entry['what']}, {entry['why']}")
        note_command(folder, chosen)
        place = folder / arm / str(seed) / "explain"
        say(f"Written to {place}: {', '.join(pictures)}; jpegdl report adds them to its page")
