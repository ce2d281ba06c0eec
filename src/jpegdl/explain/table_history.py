"""A run's tables: before and after training, and on the way there."""

from typing import Any

import numpy as np

from jpegdl.explain.subject import NotApplicable, Subject
from jpegdl.layer import STEP_RANGE, JpegLayer


def trained_tables(subject: Subject) -> dict[str, Any]:
    """Return the tables before and after training: ``kind``, ``before`` and ``after``, each by name.

    Raises:
        NotApplicable: the run has none.
    """
    folder = subject.run.folder
    kind = folder.table_kind()
    if kind is None:
        raise NotApplicable("the layer has no tables")
    if not folder.tables_file.is_file():
        raise NotApplicable(f"the run has no {folder.tables_file.name}")
    tables = folder.tables()
    return {"kind": kind, "grey": is_grey(subject), "before": tables["before"], "after": tables["after"]}


def read_history(subject: Subject) -> dict[str, Any]:
    """Return the steps by epoch.

    Returns:
        ``epoch``, 0 for before training; ``luma`` and ``chroma``, (epochs, 8, 8) steps; ``frequencies``, the chosen ones;
        ``range``, the ends that training keeps steps within; ``at_floor`` and ``at_top``, by plane the [row, column] of those
        that ended there; ``words``, the same in words, without chroma where the images are grey.

    Raises:
        NotApplicable: the layer has no table of steps for each of Y, Cb and Cr, or the run recorded none.
    """
    folder, layer = subject.run.folder, subject.layer
    if not isinstance(layer, JpegLayer) or layer.steps.ndim > 3:
        raise NotApplicable("training records the steps of layers with one table for each of luma and chroma")
    if not folder.layer_file.is_file():
        raise NotApplicable(f"the run has no {folder.layer_file.name}")
    history = folder.layer_history()
    epochs, steps = history["epoch"].astype(int).tolist(), {"luma": history["steps"][:, 0], "chroma": history["steps"][:, 2]}
    if folder.tables_file.is_file():
        before = folder.tables()["before"]
        epochs = [0, *epochs]
        steps = {plane: np.concatenate((np.array(before[plane])[None], values)) for plane, values in steps.items()}
    low, high = STEP_RANGE
    final = {"luma": layer.steps[0].detach().cpu().numpy(), "chroma": layer.steps[2].detach().cpu().numpy()}
    at_floor = {plane: np.argwhere(table <= low * (1 + 1e-6)).tolist() for plane, table in final.items()}
    at_top = {plane: np.argwhere(table >= high).tolist() for plane, table in final.items()}
    return {
        "epoch": epochs,
        **{plane: values.tolist() for plane, values in steps.items()},
        "frequencies": subject.config.frequencies,
        "range": [low, high],
        "grey": is_grey(subject),
        "at_floor": at_floor,
        "at_top": at_top,
        "words": {
            plane: _in_words(plane, at_floor[plane], at_top[plane], np.any(steps[plane] <= low * (1 + 1e-6), axis=0).sum())
            for plane in final
            if plane == "luma" or not is_grey(subject)
        },
    }


def is_grey(subject: Subject) -> bool:
    """Return whether the run's own test images were all grey, as far as its result says."""
    folder = subject.run.folder
    return folder.finished and bool(folder.result().get("grey"))


def _in_words(plane: str, at_floor: list[list[int]], at_top: list[list[int]], ever_at_floor: int) -> str:
    sentences = []
    for cells, end, bound in ((at_floor, "floor", STEP_RANGE[0]), (at_top, "top", STEP_RANGE[1])):
        names = ", ".join(f"({row}, {column})" for row, column in cells)
        if len(cells) > 1:
            sentences.append(f"{len(cells)} of the 64 {plane} steps ended at the {end}, {bound:g}: {names}.")
        elif cells:
            sentences.append(f"One {plane} step ended at the {end}, {bound:g}: {names}.")
    if not sentences:
        sentences.append(f"No {plane} step ended at the floor, {STEP_RANGE[0]:g}, or at the top, {STEP_RANGE[1]:g}.")
    if ever_at_floor > len(at_floor):
        sentences.append(f"{ever_at_floor} of 64 were at the floor after at least one epoch.")
    return " ".join(sentences)
