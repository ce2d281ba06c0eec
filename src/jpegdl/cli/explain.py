"""``jpegdl explain``."""

from typing import Any

from jpegdl.cli.command import OnComparison, Parser
from jpegdl.cli.options import add_seeds, comparison_folder, note_command, pick
from jpegdl.cli.output import say, say_folded
from jpegdl.errors import UsageError


class Explain(OnComparison):
    about = "Draw what a trained layer does: its tables and curves, single images, and what each frequency is worth."
    example = "jpegdl explain mine"
    short = ("name", "output", "arms", "seeds", "images", "pictures", "ablation", "data.path", "device")
    resumes = "part"

    def add(self, parser: Parser) -> None:
        from jpegdl.explain import ExplainConfig

        parser.add_argument("--arms", type=list[str], default=["jpeg-dl"], help="which arms to explain")
        add_seeds(parser, "the lowest of each arm")
        parser.add_class_arguments(ExplainConfig)

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.explain import ExplainConfig, explain_comparison
        from jpegdl.runs.progress import Bar

        folder, config = comparison_folder(chosen), pick(ExplainConfig, chosen)
        with Bar() as bar:
            results = explain_comparison(
                folder,
                config,
                arms=chosen["arms"],
                seeds="lowest" if chosen["seeds"] is None else chosen["seeds"],
                progress=bar.show,
            )
        found = [(arm, seed, index) for arm, by_seed in results.items() for seed, index in by_seed.items()]
        nothing = []
        for arm, seed, index in found:
            pictures = [name for name in index["files"] if name.endswith(".png")]
            if not pictures:
                why = {entry["what"]: entry["why"] for entry in index["left_out"]}
                nothing.append(f"there is nothing to explain of {arm}, seed {seed}: {why['frequencies']}; --arms names others")
                continue
            if len(found) > 1:
                say(f"{arm}, seed {seed}:")
            if index["other_images"]:
                say_folded(f"These are not the images that the run was tested with: {index['other_images']}")
            for sentence in index["words"]:
                say_folded(sentence)
            for entry in index["left_out"]:
                say_folded(f"left out: {entry['what']}, {entry['why']}")
            place = folder / arm / str(seed) / "explain"
            say_folded(f"Written to {place}: {', '.join(pictures)}; jpegdl report adds them to its page")
        if len(nothing) == len(found):
            raise UsageError(nothing[0])
        for why_not in nothing:
            say_folded(why_not)
        note_command(folder, chosen)
