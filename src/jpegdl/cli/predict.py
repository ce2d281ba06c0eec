"""``jpegdl predict``."""

import json
from pathlib import Path
from typing import Any

from jpegdl.cli.command import OnComparison, Parser
from jpegdl.cli.options import comparison_folder
from jpegdl.cli.output import one_line, print_error
from jpegdl.errors import UsageError
from jpegdl.files import as_text, printable


class Predict(OnComparison):
    about = "Print the likeliest classes of photos, by a finished run's model."
    usage = "[--name NAME] [--KEY VALUE ...] PHOTO [PHOTO ...]"
    name_first = False
    example = "jpegdl predict --name mine --top 3 PHOTO.jpg FOLDER"

    def add(self, parser: Parser) -> None:
        parser.add_argument("photos", type=str, nargs="+", metavar="PHOTO", help="image files, or folders of them")
        parser.add_argument("--arm", type=str | None, default=None, help="which arm (default: jpeg-dl)")
        parser.add_argument("--seed", type=int | None, default=None, help="which seed (default: the lowest there is)")
        parser.add_argument("--top", type=int, default=1, help="how many of the likeliest classes to print")
        parser.add_argument("--device", type=str, default="auto", help="auto, cpu, gpu, cuda, cuda:N or mps")
        parser.add_argument("--json", action="store_true", help="print JSON, a line for each photo")

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.classifier import ARM, find_photos, load
        from jpegdl.runs import finished_runs
        from jpegdl.runs.device import compute_device

        first = chosen["photos"][0]
        if not Path(first).exists() and Path(first).name == first and (Path(chosen["output"]) / first).is_dir():
            raise UsageError(f"there is no photo {first}; if it is the name of a comparison, give --name {first}")
        folder = comparison_folder(chosen)
        if chosen["arm"] is not None or chosen["seed"] is not None:
            arm, seed = chosen["arm"] or ARM, chosen["seed"]
            if not (folder / arm / ("" if seed is None else str(seed))).is_dir():
                finished_runs(folder, [arm], None if seed is None else [seed])  # which says what there is
            folder = folder / arm / ("" if seed is None else str(seed))
        model = load(folder, compute_device(chosen["device"]))
        photos = find_photos(chosen["photos"])
        shown, label_of = [printable(str(photo)) for photo in photos], {name: printable(name) for name in model.classes}
        widths = [max(map(len, names)) for names in (["photo", *shown], ["label", *label_of.values()])]
        unread, header = 0, "" if chosen["json"] else f"{'photo':{widths[0]}}  {'label':{widths[1]}}  probability"
        for photo, name, found in zip(photos, shown, model.predict_each(photos, chosen["top"]), strict=True):
            if header and not isinstance(found, UsageError):
                print(header)
                header = ""
            if isinstance(found, UsageError):
                unread += 1
                print_error(f"error: {one_line(found)}")
            elif chosen["json"]:
                print(json.dumps({"photo": as_text(str(photo)), "labels": found.labels, "probabilities": found.probabilities}))
            else:
                for rank, (label, share) in enumerate(zip(found.labels, found.probabilities, strict=True)):
                    print(f"{'' if rank else name:{widths[0]}}  {label_of[label]:{widths[1]}}  {100 * share:9.2f} %")
        if unread:
            raise UsageError(f"{unread} of {len(photos)} photos cannot be read")
