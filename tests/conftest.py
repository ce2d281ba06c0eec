"""Fixtures shared by all tests; what lies in ../shared is skipped where it is missing."""

import gc
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import filelock
import pytest
import yaml
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared"
#: Inputs and outputs of the published layer, in ``NAME.npz``; the README.md there describes them.
ORACLE = Path(__file__).parent / "oracle"
ORACLE_CASES = ("bits11_tied", "fine_saturating", "noise_coarse", "soft", "typical", "window3")


def pytest_collectstart() -> None:
    """Not at import: the process that hands tests out to others collects none, and need not load PyTorch before they start."""
    gc.disable()
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: its kernels run on the CPU, slowly
    torch.set_num_threads(1)  # pytest-xdist runs one process per core


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What has been imported by now is no garbage, but it takes half a second each time that some is looked for."""
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 300)
    gc.enable()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of tests are kept apart from the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setattr("jpegdl.data.digests.cache_folder", lambda: folder)


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@cache  # before either is patched
def _drawers() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    from jpegdl import heatmaps

    return Figure.savefig, heatmaps.heat


def leave_blank(patch: pytest.MonkeyPatch) -> None:
    """Build figures, without the numbers in their tables, and save a single pixel: drawing takes longer than most trainings."""

    def save(self: Any, file: Any, format: str | None = None, **_: object) -> None:
        if format == "svg":
            file.write('<svg width="1pt" height="1pt"></svg>')
        else:
            Image.new("RGB", (1, 1)).save(file, format or "png")

    def heat(axes: Any, table: Any, norm: Any, title: str, text: Any, colours: str, marks: Any = None) -> Any:
        axes.set_title(title)
        return axes.imshow(table, norm=norm, cmap=colours)

    _drawers()
    patch.setattr("matplotlib.figure.Figure.savefig", save)
    patch.setattr("jpegdl.heatmaps.heat", heat)


@contextmanager
def drawing() -> Iterator[None]:
    """Draw figures, in a fixture of several tests that look at them."""
    with pytest.MonkeyPatch.context() as patch:
        savefig, heat = _drawers()
        patch.setattr("matplotlib.figure.Figure.savefig", savefig)
        patch.setattr("jpegdl.heatmaps.heat", heat)
        yield


@pytest.fixture(autouse=True, scope="session")
def _undrawn() -> Iterator[None]:
    """Blank figures in all tests but those with the mark ``drawn``, which look at them."""
    with pytest.MonkeyPatch.context() as patch:
        leave_blank(patch)
        yield


@pytest.fixture(autouse=True)
def _drawn(request: pytest.FixtureRequest) -> Iterator[None]:
    with drawing() if request.node.get_closest_marker("drawn") else nullcontext():
        yield


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparisons without figures, for tests that look at none."""
    monkeypatch.setattr("jpegdl.comparison.comparison.draw_figures", lambda *_: None)


def _few_photos(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("jpegdl.data.sources.photos.PHOTO_TRAIN", 4)
    patch.setattr("jpegdl.data.sources.photos.PHOTO_TEST", 4)


@pytest.fixture
def few_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded photographs with four patches of each, so that an epoch takes no time."""
    _few_photos(monkeypatch)


# -------------------------------------------------------------------------------------------------- made once a session


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], Any]], Path]:
    """``once(name, make)`` gives the folder that ``make(folder)`` made, and nobody may change, of this session.

    The first process of pytest-xdist that asks for it makes it, while the others that do wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"
    folder.mkdir(exist_ok=True)

    def once(name: str, make: Callable[[Path], Any]) -> Path:
        place = folder / name
        with filelock.FileLock(folder / f"{name}.lock"):
            if not place.exists():
                unfinished = folder / f"unfinished-{os.getpid()}" / name
                make(unfinished)
                unfinished.rename(place)
        return place

    return once


@pytest.fixture(scope="session", autouse=True)
def _compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The processes of pytest-xdist share the half minute that numba compiles in a new checkout, which each would take."""
    if not hasattr(request.config, "workerinput"):
        return
    import numpy as np

    from jpegdl.codec.levels import file_of_levels
    from jpegdl.kernels import cpu

    teams = [*cpu._EXACT_TEAMS, cpu.subsampled_gradient_team, cpu.subsampled_team, cpu.image_gradient_team, cpu.image_team]
    parts = [partial(cpu._native, team) for team in teams]
    parts.append(partial(file_of_levels, [np.zeros((1, 1, 8, 8))], [[1] * 64], (8, 8), "4:4:4"))
    folder = tmp_path_factory.getbasetemp().parent
    for patience in (0, 300):  # first what no other process has begun, then what others have not ended
        for number, compiled in enumerate(parts):
            done = folder / f"compiled-{number}"
            with suppress(filelock.Timeout), filelock.FileLock(f"{done}.lock", timeout=patience):
                if not done.exists():
                    with suppress(Exception):  # the tests of what does not compile say so
                        compiled()  # which numba writes to its cache
                    done.touch()


@pytest.fixture(scope="session")
def run_once(once: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    """``run_once(config, folder, arm, seed)`` leaves what :func:`factory.run` would, on a few photographs; its result.

    For tests of what comes after training: what was trained with the same settings before is copied.
    """
    import factory  # which takes seconds, and not all tests need it

    def run_once(config: Any, folder: Path, arm: str = "jpeg-dl", seed: int = 0) -> dict[str, Any]:
        def train(path: Path) -> None:
            with pytest.MonkeyPatch.context() as patch:
                _few_photos(patch)
                factory.run(config, path, arm, seed)

        settings = yaml.safe_dump([asdict(config), arm, seed])
        made = once(f"run-{hashlib.sha256(settings.encode()).hexdigest()[:16]}", train)
        shutil.copytree(made, folder, dirs_exist_ok=True)
        return factory.RunFolder(folder).result()

    return run_once


@pytest.fixture(scope="session")
def make_once(once: Callable[..., Path]) -> Callable[..., Any]:
    """``make_once(folder, config, ...)`` leaves what :func:`factory.make_run` would; what was made before is copied."""
    import factory

    def make_once(folder: Path, config: Any = None, arm: str = "jpeg-dl", **options: int) -> Any:
        config = config or factory.made_up_config()
        settings = yaml.safe_dump([asdict(config), arm, options])
        name = f"made-{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
        shutil.copytree(once(name, lambda path: factory.make_run(path, config, arm, **options)), folder, dirs_exist_ok=True)
        return factory.RunFolder(folder)

    return make_once


@pytest.fixture(scope="session")
def trained(once: Callable[..., Path]) -> Path:
    """The folder of a comparison that the command trained, which nobody may change: plain and jpeg-dl, seeds 0 and 1.

    Two epochs each, on made-up images of 3 classes and 16 pixels; see :func:`factory.small_comparison`.
    """
    from factory import small_comparison
    from jpegdl.cli import main

    def train(output: Path) -> None:
        quietly = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
        with pytest.MonkeyPatch.context() as patch, quietly[0], quietly[1]:
            leave_blank(patch)
            output.mkdir(parents=True)
            patch.chdir(output)
            settings = asdict(small_comparison("runs", seeds=2))
            Path("mine.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
            assert main(["compare", "--config", "mine.yaml"]) == 0

    return once("trained", train) / "runs" / "mine"


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """``fresh(code, without=[...])`` runs code where PyTorch alone is imported, and what warns is an error."""
    from commands import FreshProcesses

    # What older versions of Matplotlib use of pyparsing is called something else now.
    older = [f"-Wignore::DeprecationWarning:matplotlib.{name}" for name in ("_fontconfig_pattern", "_mathtext")]
    processes = FreshProcesses(tmp_path_factory.mktemp("fresh"), "-Werror", *older)
    yield processes.run
    processes.close()


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of comparisons are forks of a process that has imported everything, which takes seconds otherwise."""
    from commands import ForkedWorker

    monkeypatch.setattr("jpegdl.comparison.workers.subprocess", ForkedWorker.module())


@pytest.fixture
def mine(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that comparison for a test that changes it: runs/mine in the current folder, ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "runs" / "mine")
    return Path("runs/mine")


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the project")
    return SHARED
