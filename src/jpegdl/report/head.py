"""The head of the page: on what, with what and when the runs were trained."""

import datetime
from contextlib import suppress
from typing import Any

from jpegdl.errors import UsageError, how_many
from jpegdl.report.section import Runs

Rows = list[tuple[str, str]]


def page_head(runs: Runs, summary: dict[str, Any]) -> Rows:
    """Return what stands below the title: data, images, chance, network, training, date; what is not known is left out."""
    folders = [folder for by_seed in runs.values() for folder in by_seed.values()]
    if not folders:
        return []
    first, rows = folders[0], list[tuple[str, str]]()
    with suppress(UsageError):  # said elsewhere
        data = first.data()
        parts = {"training": "train", "validation": "validation", "test": "test"}
        counts = {part: data.get(name, {}).get("images") for part, name in parts.items()}
        images = ", ".join(f"{count:,} {part}" for part, count in counts.items() if count)
        if images and (corrupt := len(summary.get("left_out") or ())):
            images += f"; {corrupt} of these cannot be decoded, and {'is' if corrupt == 1 else 'are'} left out"
        classes = len(data["classes"])
        rows.append(("Data", f"{summary['data']}: {classes} classes (chance {100 / classes:.3g} %)"))
        rows += [("Images", images)] if images else []
    with suppress(UsageError):
        config = first.config()
        pixels, side = config.data.pixels, config.data.side
        rows.append(("Size", f"{pixels} x {pixels} pixels" + (f", cut from {side}" if side != pixels else "")))
        unknown = config.trained and not config.given_weights  # the user's own code may load some
        start = "" if unknown else ", from trained weights" if config.trained else ", from random weights"
        parameters = summary["arms"]["plain"].get("parameters")
        rows.append(("Network", summary["backbone"] + (f", {parameters:,} parameters" if parameters else "") + start))
        optimizer = config.training.optimizer
        epochs = how_many(config.training.epochs, "epoch")
        how = f"{epochs}, batches of {config.batch}, {optimizer.name}, rate {optimizer.lr:g}"
        rows.append(("Training of plain", f"{how} ({optimizer.schedule}), {config.training.precision}"))
    with suppress(OSError):
        last = max(folder.result_file.stat().st_mtime for folder in folders)
        rows.append(("Finished", f"{datetime.datetime.fromtimestamp(last):%Y-%m-%d}"))
    return rows
