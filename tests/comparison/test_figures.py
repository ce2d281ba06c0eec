import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from factory import fake_run, fake_summary
from jpegdl import heatmaps
from jpegdl.comparison.arms import ARMS, arm_config
from jpegdl.comparison.figures import (
    accuracy_figure,
    compared_saturation_figure,
    compared_tables_figure,
    curves_figure,
    draw_figures,
    gains_figure,
)
from jpegdl.errors import UsageError
from jpegdl.layer import STEP_RANGE
from jpegdl.runs import RunConfig

pytestmark = pytest.mark.drawn

FLOOR = float(np.float32(STEP_RANGE[0]))  # as a run writes it
ONES = np.ones((8, 8))


def _run(folder, arm, seed=0, accuracy=0.5, tested=None, tables=None, saturation=None, bits=8, **result):
    config = arm_config(RunConfig(), arm)
    config.layer.bits = config.layer.bits and bits
    return fake_run(folder, arm, seed, accuracy, config=config, tested=tested, tables=tables, saturation=saturation, **result)


def _steps(luma=ONES, chroma=ONES):
    return {"luma": luma, "chroma": chroma}


def _with(value, row, column):
    table = ONES.copy()
    table[row, column] = value
    return table


def _summary(runs, failed=None):
    return fake_summary({arm: {s: run.result() for s, run in by_seed.items()} for arm, by_seed in runs.items()}, failed)


def _texts(figure):
    """All that is written in a figure, once it is drawn."""
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text() and text.get_visible()]


def _panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title() == title)


def _bar(figure, label):
    return next(axes for axes in figure.axes if axes.get_ylabel() == label)


def _cells(axes):
    return {tuple(map(int, text.get_position()[::-1])): text.get_text() for text in axes.texts}


# ------------------------------------------------------------------------------------------------------------ accuracy


def test_curves_are_means_where_all_seeds_were_tested(tmp_path):
    runs = {
        "plain": {
            0: _run(tmp_path, "plain", 0, 0.5, {1: 0.1, 2: 0.2, 4: 0.5}),
            1: _run(tmp_path, "plain", 1, 0.7, {2: 0.4, 3: 0.5, 4: 0.7, 6: 0.7}),
        },
        "gain": {
            0: _run(tmp_path, "gain", 0, 0.8, {1: 0.8}),
            2: _run(tmp_path, "gain", 2, 0.9, {2: 0.9}),  # no epoch in common
        },
    }
    (axes,) = accuracy_figure(runs, _summary(runs)).axes
    lines = {line.get_label(): line for line in axes.lines}
    mean = lines["plain: 60.0 % (2 of 3 seeds)"]
    assert list(mean.get_xdata()) == [2, 4]
    assert list(mean.get_ydata()) == pytest.approx([30, 60])
    assert len(lines["gain: 85.0 % (2 of 3 seeds)"].get_xdata()) == 0
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert [list(line.get_xdata()) for line in thin] == [[1, 2, 4], [2, 3, 4, 6], [1], [2]]
    assert [line.get_marker() for line in thin] == ["", "", "_", "_"]  # of one point there is no line
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["gain: 85.0 % (2 of 3 seeds)", "plain: 60.0 % (2 of 3 seeds)"]  # the better one first


def test_one_epoch_is_epoch_one(tmp_path):
    runs = {"plain": {0: _run(tmp_path, "plain", 0, 0.6, {1: 0.6})}}
    (axes,) = accuracy_figure(runs, _summary(runs)).axes
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_the_legend_of_many_arms_is_beside_the_curves_and_inside_the_picture(tmp_path):
    runs = {arm: {0: _run(tmp_path, arm, accuracy=0.3 + i / 100)} for i, arm in enumerate(ARMS)}
    figure = accuracy_figure(runs, _summary(runs))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend = axes.get_legend().get_window_extent()
    assert legend.x0 >= axes.get_window_extent().x1
    assert figure.bbox.x1 >= legend.x1
    assert figure.bbox.y0 <= legend.y0
    assert legend.y1 <= figure.bbox.y1
    assert len(axes.get_legend().get_texts()) == len(ARMS)


# --------------------------------------------------------------------------------------------------------------- gains


def test_curves_show_all_that_runs_measured_and_no_more(tmp_path):
    runs = {"plain": {seed: _run(tmp_path, "plain", seed) for seed in (0, 1)}, "jpeg-dl": {0: _run(tmp_path, "jpeg-dl", 0)}}
    for seed, loss in ((0, 1.0), (1, 3.0)):
        runs["plain"][seed].write_metrics([{"epoch": 1, "train_loss": loss}, {"epoch": 2, "train_loss": loss / 2}])
    runs["jpeg-dl"][0].write_metrics([{"epoch": 1, "train_loss": 2.0, "step_mean_luma": 0.5, "saturation_mean_luma": 0.25}])
    panels = {axes.get_ylabel(): axes for axes in curves_figure(runs, _summary(runs)).axes}
    lines = {line.get_label(): line for line in panels["training loss, nats"].lines}
    assert list(lines["plain"].get_ydata()) == [2, 1]
    assert list(lines["jpeg-dl"].get_ydata()) == [2]
    (saturation,) = (line for line in panels["luma coefficients at the cap, %"].lines if line.get_label() == "jpeg-dl")
    assert list(saturation.get_ydata()) == [25]
    assert not panels["training accuracy, %"].lines  # and says so
    assert [text.get_text() for text in panels["training accuracy, %"].texts] == ["not measured"]


@pytest.mark.parametrize("arms", [["gain"], ["gain", "tanh"], [arm for arm in ARMS if arm != "plain"]])
def test_every_row_is_whole_inside_the_frame(arms):
    result = {"loss": 1.0, "train_seconds": 1.0}
    results = {
        arm: {seed: {"accuracy": 0.5 + 0.01 * i + 0.001 * seed * i, **result} for seed in range(3)}
        for i, arm in enumerate(["plain", *arms])
    }
    figure = gains_figure(fake_summary(results, {}))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    frame = axes.get_window_extent()
    drawn = [line for line in axes.lines if line.get_marker() in ("o", "|") or line.get_color() == heatmaps.CURVES[0]]
    assert len(drawn) == 3 * len(arms)
    for line in drawn:
        extent = line.get_window_extent()  # of its points
        room = line.get_markersize() * figure.dpi / 72 / 2 if line.get_marker() in ("o", "|") else 0
        assert frame.y0 < extent.y0 - room
        assert extent.y1 + room < frame.y1
        assert frame.x0 < extent.x0 - room
        assert extent.x1 + room < frame.x1
    assert [label.get_text() for label in axes.get_yticklabels()] == arms


def test_gains_are_in_points_over_the_seeds_that_both_have():
    def runs(**accuracies):
        return {int(s[1:]): {"accuracy": a, "loss": 1.0, "train_seconds": 1.0} for s, a in accuracies.items()}

    results = {
        "plain": runs(s0=0.5, s1=0.6),
        "gain": runs(s0=0.52, s1=0.66, s2=0.9),
        "tanh": runs(s2=0.9),
    }
    figure = gains_figure(fake_summary(results, {"ste": {0: "no"}}))
    (axes,) = figure.axes
    each, interval, mean, _ = axes.lines
    assert list(each.get_xdata()) == pytest.approx([2, 6])
    assert np.mean(interval.get_xdata()) == pytest.approx(4)
    assert list(mean.get_xdata()) == pytest.approx([4])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gain (2 of 3 seeds)", "tanh", "ste"]
    assert {text.get_text(): text.get_position()[1] for text in axes.texts} == {"no seed in common with plain": 1, "failed": 2}
    assert gains_figure(fake_summary({"plain": results["plain"]}, {})) is None


# -------------------------------------------------------------------------------------------------------------- tables


def test_ratios_have_the_same_few_round_ticks_whatever_they_are(tmp_path):
    little = _steps(luma=_with(1.1, 2, 3)), _steps(luma=_with(1.0, 2, 3))
    much = _steps(luma=_with(200, 2, 3)), _steps(luma=_with(FLOOR, 2, 3))
    found = []
    for seed, tables in enumerate((little, much)):
        figure = compared_tables_figure("jpeg-dl", {0: _run(tmp_path, "jpeg-dl", seed, tables=tables)})
        figure.draw_without_rendering()
        bar, image = _bar(figure, "after / before"), _panel(figure, "luma, after / before").images[0]
        assert [tick.get_text() for tick in bar.get_yticklabels()] == ["×1/30", "×1/10", "×1/3", "×1", "×3", "×10", "×30"]
        found.append((image.get_clim(), image.colorbar.extend))
    (limits, inside), (same, beyond) = found
    assert limits == same == pytest.approx((1 / 30, 30))
    assert (inside, beyond) == ("neither", "min")


def test_steps_at_a_bound_are_marked_and_stretch_no_colours(tmp_path):
    def marked(title):
        boxes = [box for box in _panel(figure, title).patches if isinstance(box, Rectangle)]
        return sorted((round(box.get_y() + 0.45), round(box.get_x() + 0.45)) for box in boxes)

    luma = _with(4.0, 0, 0)
    end = luma.copy()
    end[7, 7], end[1, 2] = FLOOR, 255.0
    runs = {
        0: _run(tmp_path, "jpeg-dl", 0, tables=(_steps(luma), _steps(end))),
        1: _run(tmp_path, "jpeg-dl", 1, tables=(_steps(luma), _steps(luma))),
    }
    figure = compared_tables_figure("jpeg-dl", runs)
    assert marked("luma, before training") == []
    assert marked("luma, after training") == marked("luma, after / before") == [(1, 2), (7, 7)]
    assert marked("chroma, after training") == []
    assert "1e-5 to 255, in at least one seed" in figure.get_supxlabel()
    image = _panel(figure, "luma, after training").images[0]
    assert image.get_clim() == pytest.approx((1, 5))  # of the values 1 and 4
    assert image.colorbar.extend == "both"
    unbound = compared_tables_figure("jpeg-dl", {1: runs[1]})
    assert unbound.get_supxlabel() == ""


def test_cells_hold_the_geometric_mean_in_two_digits(tmp_path):
    one, other = _with(0.02, 0, 0), _with(0.08, 0, 0)
    runs = {s: _run(tmp_path, "jpeg-dl", s, tables=(_steps(), _steps(table))) for s, table in enumerate((one, other))}
    figure = compared_tables_figure("jpeg-dl", runs)
    assert _cells(_panel(figure, "luma, after training")) == {
        (row, column): "0.04" if row == column == 0 else "1" for row in range(8) for column in range(8)
    }
    assert figure.get_suptitle() == "jpeg-dl: quantization steps (geometric mean over 2 seeds)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(FLOOR, "1e-5"), (0.00012345, "1.2e-4"), (0.0042, "0.0042"), (0.996, "1"), (9.96, "10"), (254.6, "255"), (-0.5, "-0.5"),
     (0, "0"), (8323072, "8.3e6")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert heatmaps.short(value) == text


@pytest.mark.parametrize("extreme", [FLOOR, 0.01234, 123.4, 32385.0])
def test_no_number_reaches_into_the_next_cell(tmp_path, extreme):
    figure = compared_tables_figure("jpeg-dl", {0: _run(tmp_path, "jpeg-dl", tables=(_steps(), _steps(luma=ONES * extreme)))})
    figure.draw_without_rendering()
    axes = _panel(figure, "luma, after / before")
    cell = axes.get_window_extent().width / 8
    assert max(text.get_window_extent().width for text in axes.texts) < 0.95 * cell


@pytest.mark.parametrize(
    ("low", "high", "limits", "ticks"),
    [
        (0.021, 4.4, (0.02, 5), [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]),
        (1, 1, (0.5, 2), [0.5, 1, 2]),
        (0.0101, 99, (0.01, 100), [0.01, 0.1, 1, 10, 100]),
        (2.5, 1900, (2, 2000), [10, 100, 1000]),
    ],
)
def test_colours_of_steps_go_from_one_round_number_to_another(low, high, limits, ticks):
    *found, found_ticks = heatmaps.round_numbers(np.array([high, low]))
    assert found == pytest.approx(limits)
    assert found_ticks == pytest.approx(ticks)


def test_what_is_no_step_is_not_called_one(tmp_path):
    scales = compared_tables_figure("tanh", {0: _run(tmp_path, "tanh", tables=(_steps(ONES * 127), _steps(ONES * 300)))})
    assert scales.get_suptitle() == "tanh: compander scales (one seed)"
    assert _bar(scales, "scale, JPEG table units")
    assert scales.get_supxlabel() == ""  # 255 is no bound of theirs
    gains = compared_tables_figure(
        "gain",
        {
            0: _run(tmp_path, "gain", 0, tables=(_steps(), _steps(luma=_with(-0.4, 1, 2)))),
            1: _run(tmp_path, "gain", 1, tables=(_steps(), _steps(luma=_with(0.2, 1, 2)))),
        },
    )
    assert gains.get_suptitle() == "gain: gains (mean over 2 seeds)"
    assert _bar(gains, "gain")
    assert _cells(_panel(gains, "luma, after training"))[1, 2] == "-0.1"
    change = _panel(gains, "luma, after − before")
    assert _cells(change)[1, 2] == "-1.1"
    assert change.images[0].get_clim() == (-1, 1)
    assert change.images[0].colorbar.extend == "min"


def test_a_cascade_is_drawn_by_layer_and_regions_are_not(tmp_path):
    tables = {f"{layer}.{plane}": ONES for layer in (0, 1) for plane in ("luma", "chroma")} | {"0.alpha_luma": ONES}
    figure = compared_tables_figure("cascade", {0: _run(tmp_path, "cascade", tables=(tables, tables))})
    panels = [axes.get_title() for axes in figure.axes if axes.get_title().endswith("after training")]
    assert panels == [f"layer {layer}, {plane}, after training" for layer in (1, 2) for plane in ("luma", "chroma")]
    many = _steps(np.ones((2, 2, 8, 8)), np.ones((2, 2, 8, 8)))
    assert compared_tables_figure("regions", {0: _run(tmp_path, "regions", tables=(many, many))}) is None
    assert compared_tables_figure("plain", {0: _run(tmp_path, "plain")}) is None
    assert compared_tables_figure("jpeg-dl", {}) is None


def test_grey_images_have_no_chroma_to_show(tmp_path):
    noise = _steps(), _steps(chroma=_with(0.01, 0, 0))
    shares = np.zeros((3, 8, 8)).tolist()
    grey = {s: _run(tmp_path, "jpeg-dl", s, tables=noise, saturation=shares, grey=True) for s in (0, 1)}
    colour = {0: grey[0], 2: _run(tmp_path, "jpeg-dl", 2, tables=noise, saturation=shares)}
    panels = ("before training", "after training", "after / before")
    for draw, masked, shown in (
        (compared_tables_figure, [f"chroma, {panel}" for panel in panels], [f"luma, {panel}" for panel in panels]),
        (compared_saturation_figure, ["Cb", "Cr"], ["Y"]),
    ):
        figure = draw("jpeg-dl", grey)
        for title in masked:
            axes = _panel(figure, title)
            assert not axes.images
            assert [text.get_text() for text in axes.texts] == ["grey images: no chroma to learn from"]
            assert axes.patches[0].get_hatch()
        assert [axes.get_title() for axes in figure.axes if axes.images] == shown
        assert not any("grey" in text for text in _texts(draw("jpeg-dl", colour)))


# ---------------------------------------------------------------------------------------------------------- saturation


@pytest.mark.parametrize("share", [0.001, 0.9])
def test_saturation_has_one_range_and_says_what_it_is(tmp_path, share):
    shares = np.zeros((3, 8, 8))
    shares[1, 2, 3] = share
    runs = {s: _run(tmp_path, "jpeg-dl", s, saturation=(shares * s).tolist(), bits=4) for s in (0, 1)}
    figure = compared_saturation_figure("jpeg-dl", runs)
    assert {axes.images[0].get_clim() for axes in figure.axes if axes.images} == {(0, 100)}
    assert _panel(figure, "Cb").images[0].get_array()[2, 3] == pytest.approx(50 * share)
    assert _cells(_panel(figure, "Cb"))[2, 3] == f"{50 * share:.0f}"
    assert figure.get_suptitle() == (
        "jpeg-dl: share of coefficients at the level cap ±7 after training, in %, test images (mean over 2 seeds)"
    )


def test_the_cap_is_that_of_the_layer_itself(tmp_path):
    """One of the user's own need not take the cap from the settings."""
    run = _run(tmp_path, "jpeg-dl", saturation=np.zeros((3, 8, 8)).tolist(), bits=8)
    run.write_tables({"kind": "steps", "bits": 4, "before": {}, "after": {}})
    assert "level cap ±7 " in compared_saturation_figure("jpeg-dl", {0: run}).get_suptitle()


def test_no_saturation_without_a_cap(tmp_path):
    assert compared_saturation_figure("plain", {0: _run(tmp_path, "plain")}) is None
    shares = np.zeros((3, 8, 8)).tolist()
    assert compared_saturation_figure("quantization-only", {0: _run(tmp_path, "quantization-only", saturation=shares)}) is None
    assert compared_saturation_figure("jpeg-dl", {}) is None


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def quick(monkeypatch):
    """Figures whose drawing is left out: a file for each."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: Path(file).write_text("drawn", encoding="utf-8"))


def _names(folder):
    return {file.name for file in folder.glob("*.png")}


def test_figures_show_what_the_summary_contains(tmp_path, quick):
    shares = np.zeros((3, 8, 8)).tolist()
    layer = {"tables": (_steps(), _steps()), "saturation": shares}
    plain = {seed: _run(tmp_path, "plain", seed, 0.5 + 0.1 * seed) for seed in range(2)}
    jpeg = {
        0: _run(tmp_path, "jpeg-dl", 0, 0.9, **layer),
        1: _run(tmp_path, "jpeg-dl", 1, 0.9, **layer, loss=float("nan")),
    }
    jpeg[1].tables_file.write_text("broken", encoding="utf-8")  # of a run that is no part of the summary, and no matter
    own = tmp_path / "tables-of-mine.png"
    own.write_text("not ours", encoding="utf-8")
    runs = {"plain": plain, "jpeg-dl": jpeg, "gain": {0: _run(tmp_path, "gain", tables=(_steps(), _steps()))}}
    draw_figures(tmp_path, runs, _summary(runs))
    always = {"accuracy.png", "curves.png", "tables-of-mine.png"}
    both = {"gains.png", "tables-jpeg-dl.png", "saturation-jpeg-dl.png"}
    assert _names(tmp_path) == always | both | {"tables-gain.png"}

    del runs["gain"]
    draw_figures(tmp_path, runs, _summary(runs))
    assert _names(tmp_path) == always | both

    del runs["jpeg-dl"]
    draw_figures(tmp_path, runs, _summary(runs, {"jpeg-dl": {0: "it diverged"}}))
    assert _names(tmp_path) == always | {"gains.png"}

    draw_figures(tmp_path, runs, _summary(runs))
    assert _names(tmp_path) == always
    assert own.read_text(encoding="utf-8") == "not ours"


@pytest.mark.parametrize("file", ["metrics.csv", "tables.json"])
@pytest.mark.parametrize("damage", ["damaged", "missing"])
def test_a_damaged_file_is_named_and_nothing_is_drawn(tmp_path, quick, file, damage):
    runs = {arm: {0: _run(tmp_path, arm, tables=(_steps(), _steps()))} for arm in ("plain", "jpeg-dl")}
    path = tmp_path / "jpeg-dl" / "0" / file
    path.write_text("broken", encoding="utf-8") if damage == "damaged" else path.unlink()
    with pytest.raises(UsageError, match=f"jpeg-dl/0/{file} is {damage}"):
        draw_figures(tmp_path, runs, _summary(runs))
    assert _names(tmp_path) == set()


def test_figures_are_pictures(tmp_path):
    runs = {arm: {0: _run(tmp_path, arm, tables=(_steps(), _steps()))} for arm in ("plain", "jpeg-dl")}
    draw_figures(tmp_path, runs, _summary(runs))
    with Image.open(tmp_path / "tables-jpeg-dl.png") as picture:
        picture.load()
        assert picture.size == (1080, 684)


@pytest.mark.parametrize("name", ["US$ and A$", "$a_$", "_mine", r"\\$", "lat\udcff", "a\nb"])
def test_the_users_names_are_drawn_as_they_are(name):
    """Between dollars matplotlib would see a formula, of what is no text it draws nothing, and "_" hides a label."""
    figure, drawn = Figure(), heatmaps.as_drawn(name)
    figure.text(0.1, 0.5, drawn)
    figure.savefig(io.BytesIO())
    assert not matplotlib.cbook.is_math_text(drawn)
    assert drawn.replace(r"\$", "$").strip().startswith(name[:3])
    figure.subplots().plot([0, 1], label=drawn)
    figure.axes[0].legend()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [drawn]
