"""Between opening a photo and writing its file: readers choose and shape it, several photos at a time."""

import base64
import io
import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from jpegdl.codec.config import CompressConfig
from jpegdl.codec.learned import learned_tables
from jpegdl.codec.levels import Array
from jpegdl.codec.out_folder import Manifest
from jpegdl.codec.read_image import BAD, DecodedImage, Other, open_picture
from jpegdl.codec.readers import NotFinite, PhotoReader, names_in, open_reader, open_readers
from jpegdl.codec.rounds import check_gradients
from jpegdl.codec.shaping import LARGEST_BATCH, check_file_shape, tried
from jpegdl.codec.trials import LOOKS, QUALITIES, Shape, ShapedFile, Trials, decoded, make_trials, seen_bytes, together
from jpegdl.errors import UsageError
from jpegdl.opener import BadImage, open_image

SAMPLE = {"bits_per_pixel": 64, "agree": 256}  # how many photos to find mu on, by what is asked for
WORST = 5  # how many photos to name
_SIDE = 320  # pixels of a side of each photo on the page of the worst
_LOWEST_MU, _HIGHEST_MU = 1e-4, 1e3
_HALVINGS = 30
_BELOW = 0.999  # times the mu at which one more answer changes
_TRIES = 4  # with gradients, since they depend on mu too
_WITH_ROUNDS = 48  # photos of each
#: Of photos, where a share of first answers is wanted: they get a file that the answers stay on. Of the others more may
#: change, and what a sample of them says, which is off by chance, counts as much less.
_KEEP = 2 / 3
_FINE = 95  # a quality more there: some answers change on any coarser file, and some on any with subsampled chroma
_CLOSE = 0.03  # near enough to the rate that is asked for
#: A share is met on a sample where, with 99 % certainty, that of all photos is no further below what is wanted.
_CERTAIN, _SLACK = 2.326, 0.005


@dataclass
class _Waiting:
    """A photo that waits for its readers."""

    trials: Trials
    judged: list[torch.Tensor]  # of each judge, (3, side, side): what it sees of the original
    made: dict[str, Any] | None = None
    content: bytes = b""
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class ReaderStage:
    """Makes files for readers; its :meth:`encode` is called in several threads.

    Whoever comes first when a core is free lets readers look at all photos that wait; meanwhile others make the files of the
    next ones.

    Args:
        config: with readers.

    Attributes:
        mu: nats that a bit per pixel is worth; None until :meth:`settle`.

    Raises:
        UsageError: a reader or judge cannot be opened; or settings cannot be used.
    """

    def __init__(self, config: CompressConfig) -> None:
        assert config.reader is not None
        self.config = config
        fast = config.agree is None  # bfloat16 alone changes one first answer of a hundred
        self.readers = open_readers(names_in(config.reader, "reader"), config.device, fast=fast)
        judges = [] if config.judge is None else names_in(config.judge, "judge")
        self.judges = [open_reader(name, config.device, fast=fast) for name in judges]
        for judge, reader in itertools.product(self.judges, self.readers):
            if (share := judge.shared(reader)) > 0.5:  # as a copy does in another format, or with another head
                raise UsageError(
                    f"judge {judge.name} has {100 * share:.0f} % of the weights of a reader, {reader.name}; give a network "
                    "that has no say in the files"
                )
        self.shape = Shape(
            effort=config.effort or 1,
            robust=config.robust,
            floor=config.floor,
            several=config.several,
            subsampling=config.subsampling or "4:2:0",
            rounds=config.rounds,
            qualities=QUALITIES if config.agree is None else (*QUALITIES, _FINE),
            finest=None if config.agree is None else config.subsampling or "4:4:4",
            learned=_learned(config),
            keep=0.0 if config.agree is None else _KEEP,
        )
        check_file_shape(self.shape)
        check_gradients(self.readers, self.shape)
        if config.agree is not None and self.readers[0].features:
            raise UsageError("agree counts first answers, which features do not have: give mu or bits_per_pixel")
        self.mu = config.mu if config.bits_per_pixel is None and config.agree is None else None
        if self.mu is None and config.bits_per_pixel is None and config.agree is None:
            self.mu = 1.0
        self._waiting: list[_Waiting] = []
        self._gather = threading.Lock()
        # On a CPU each thread computes on one core: a reader on several cores leaves them idle between operations.
        self._cores = torch.get_num_threads()
        self._apart = self.readers[0].device.type == "cpu"
        self._looking = threading.BoundedSemaphore(self._cores if self._apart else 1)
        self._room = _Room(LARGEST_BATCH)
        self._pool = ThreadPoolExecutor(max(1, torch.get_num_threads()))

    task = 1  # files that a thread takes at a time
    tables = None  # each file has its own

    @property
    def source(self) -> str:
        """Whose answers count."""
        return f"readers {', '.join(reader.name for reader in self.readers)}"

    @property
    def subsampling(self) -> str:
        """Of chroma."""
        return self.shape.subsampling

    @property
    def threads(self) -> int:
        """How many photos may wait for readers at a time, by default."""
        return max(4, 2 * self._cores, LOOKS // 2 if self.shape.effort > 2 else LOOKS // 8)

    def settings(self) -> dict[str, Any]:
        """Return what the files depend on, for ``compress.json``."""
        wanted = {name: getattr(self.config, name) for name in ("mu", "bits_per_pixel", "agree")}
        return {
            "readers": [reader.record() for reader in self.readers],
            "judges": [judge.record() for judge in self.judges],
            **self.shape.record(),
            **wanted,
        }

    def close(self) -> None:
        """End its threads."""
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._cores)  # for threads to come, too

    # ---------------------------------------------------------------------------------------------------------- one photo

    @contextmanager
    def room_for(self, stream: IO[bytes]) -> Iterator[None]:
        """Wait until there is memory for the photo of a file, which is to be decoded and encoded within."""
        pixels = 0
        with suppress(*BAD):  # decoding it says what is wrong
            pixels = math.prod(open_image(stream).size)
        stream.seek(0)
        with self._room.for_pixels(pixels):
            yield

    def encode(self, picture: DecodedImage) -> tuple[bytes, dict[str, Any]]:
        """Return the file of a photo, and what to record of it.

        Raises:
            BadImage: the photo cannot be put into a JPEG file.
            UsageError: a reader fails.
        """
        assert self.mu is not None
        one = self._trials(picture)
        try:
            self._answered(one)
        except NotFinite:  # one photo of the batch: each is tried alone to find out which
            one = self._trials(picture)
            with self._looking:
                self._serve([one])
            if isinstance(one.error, NotFinite):
                raise BadImage(str(one.error)) from one.error
            if one.error is not None:
                raise one.error from None
        assert one.made is not None
        return one.content, one.made

    def _trials(self, picture: DecodedImage) -> _Waiting:
        try:
            trials = make_trials(picture, self.readers, replace(self.shape, mu=self.mu or 0.0), self._pool)
        except BadImage:
            raise
        except ValueError as error:
            raise BadImage(str(error)) from error
        return _Waiting(trials, [self._judged(judge, picture) for judge in self.judges])

    @staticmethod
    def _judged(judge: PhotoReader, picture: DecodedImage) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(picture.image.convert("RGB"))).permute(2, 0, 1)
        return seen_bytes(judge, pixels, picture.note)

    def _answered(self, one: _Waiting) -> None:
        with self._gather:
            self._waiting.append(one)
        with self._looking:
            with self._gather:
                several, self._waiting = self._waiting, []
            if several:
                self._serve(several)
        one.done.wait()  # another thread answers for this photo in its batch
        if one.error is not None:
            raise one.error

    def _serve(self, several: list[_Waiting]) -> None:
        try:
            if self._apart:
                torch.set_num_threads(1)  # of this thread
            assert self.mu is not None
            found = self._shaped(several, self.mu)
            said = self._verdicts(several, [file.content for file, _ in found])
            for one, (file, left_out), judged in zip(several, found, said, strict=True):
                one.content, one.made = file.content, _as_made(file, left_out, judged)
        except Exception as error:
            for one in several:
                one.error = error
        finally:
            for one in several:
                one.done.set()

    def _shaped(self, several: Sequence[_Waiting], mu: float) -> list[tuple[ShapedFile, list[tuple[float, bool]]]]:
        shape = replace(self.shape, mu=mu)
        trials = [one.trials for one in several]
        tried(trials, self.readers, shape, self._pool)
        return [(each.chosen(each.best(shape, mu), shape), _left_out(each, shape, mu)) for each in trials]

    @torch.no_grad()
    def _verdicts(self, several: Sequence[_Waiting], contents: Sequence[bytes]) -> list[list[tuple[float, bool]]]:
        """Of each photo, what judges say of its file: the distance, and whether the first answer stays."""
        found: list[list[tuple[float, bool]]] = [[] for _ in several]
        for number, judge in enumerate(self.judges):
            own = torch.stack([one.judged[number] for one in several])
            seen = torch.stack(
                [seen_bytes(judge, decoded(content), one.trials.note) for one, content in zip(several, contents, strict=True)]
            )
            try:
                both = torch.cat([judge.answers(part.float() / 255) for part in torch.split(torch.cat((own, seen)), LOOKS)])
            except NotFinite as error:
                raise NotFinite(f"{error}; it is a judge: without it there would be a file") from error
            answers, others = both.chunk(2)
            kept = answers.argmax(1) == others.argmax(1)
            for place, distance in enumerate(judge.distance(answers, others).tolist()):
                found[place].append((distance, bool(kept[place])))
        return found

    # ------------------------------------------------------------------------------------------------------------------ mu

    def settle(self, pictures: Callable[[int], Iterator[DecodedImage]], manifest: Manifest, total: int | None = None) -> float:
        """Return the mu of all files of a folder, which is noted there before any is made: what is given, or what the folder
        has, or what is found on some photos to give what is wanted.

        Args:
            pictures: gives that many photos, from all over the folder, and all where they are not twice as many.
            manifest: of the folder.
            total: how many there are, if that is known: what a sample says of the others is the surer the fewer these are.

        Raises:
            UsageError: there is none, or no mu gives it.
        """
        manifest.note_code({reader.name: reader.code for reader in (*self.readers, *self.judges) if reader.code is not None})
        self.mu = manifest.mu if self.mu is None else self.mu
        if self.mu is None:
            self.mu = self._found(pictures, total)
        if manifest.mu != self.mu:
            manifest.note(mu=self.mu)
        return self.mu

    def _found(self, pictures: Callable[[int], Iterator[DecodedImage]], total: int | None) -> float:
        wanted = "agree" if self.config.agree is not None else "bits_per_pixel"
        still = replace(self.shape, effort=min(self.shape.effort, 2))
        sample = self._sample(pictures(SAMPLE[wanted]), still)
        if not sample:
            raise UsageError(f"{wanted} needs photos to find mu on, and none can be read; give mu")
        whole = total is not None and total < 2 * SAMPLE[wanted]
        mu = search_mu(sample, still, self.config.bits_per_pixel, self.config.agree, whole=whole)
        if self.shape.effort > 2:
            mu = self._with_rounds(mu, sample, still, pictures)
        return mu

    def _sample(self, pictures: Iterator[DecodedImage], shape: Shape) -> list[Trials]:
        found = []
        for picture in pictures:
            try:
                trials = make_trials(picture, self.readers, shape, self._pool)
            except ValueError:  # which is said when its turn comes
                continue
            try:
                tried([trials], self.readers, shape, self._pool)
            except NotFinite:
                continue
            trials.files, trials.seen, trials.own = [], [], []  # otherwise many photos would fill memory
            found.append(trials)
        return found

    def _with_rounds(
        self, mu: float, sample: Sequence[Trials], still: Shape, pictures: Callable[[int], Iterator[DecodedImage]]
    ) -> float:
        """From the mu of files that nobody moved to that of files with rounds of gradient, which depend on it themselves."""
        wanted, agree = self.config.bits_per_pixel, self.config.agree
        target, last = wanted, mu
        for _ in range(_TRIES):
            several = self._sample(pictures(_WITH_ROUNDS), replace(self.shape, mu=mu))
            if not several:
                break
            rate, kept, error = _outcome(several, self.shape, mu)
            if wanted is not None and target is not None:
                if abs(rate / wanted - 1) < _CLOSE:
                    break
                target *= wanted / rate
                mu = _reachable(sample, still, target)
            elif agree is not None:
                if not _kept_enough(kept, error, agree):
                    break
                last, mu = mu, 2 * mu
        return mu if wanted is not None else last


def _reachable(sample: Sequence[Trials], shape: Shape, rate: float) -> float:
    """The mu of that rate, or the largest where there are no files so small."""
    try:
        return search_mu(sample, shape, rate, None)
    except UsageError:
        return _HIGHEST_MU


def search_mu(
    several: Sequence[Trials], shape: Shape, bits_per_pixel: float | None, agree: float | None, *, whole: bool = False
) -> float:
    """Return a mu up to which a share of first answers stays, or the least that keeps files within a rate.

    Args:
        several: photos with their readers' answers.
        shape: how files are made.
        bits_per_pixel: bits of all files over pixels of all photos; or
        agree: share of first answers that are to stay, 0 to 1, of the reader that keeps fewest.
        whole: these are all photos, and no sample of them: the share is counted, and needs no margin.

    Raises:
        UsageError: the files that are tried do not go so far.
    """
    low, high = np.log(_LOWEST_MU), np.log(_HIGHEST_MU)
    most, least = _outcome(several, shape, _LOWEST_MU, whole=whole), _outcome(several, shape, _HIGHEST_MU, whole=whole)
    if bits_per_pixel is not None:
        if not least[0] <= bits_per_pixel:
            raise UsageError(f"bits_per_pixel {bits_per_pixel} cannot be reached: the smallest files take {least[0]:.3f}")
        if bits_per_pixel >= most[0]:
            return _LOWEST_MU
    elif agree is not None and most[1] < agree:
        raise UsageError(f"agree {agree} cannot be reached: in the largest files {100 * most[1]:.1f} % of the answers stay")
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rate, kept, error = _outcome(several, shape, float(np.exp(middle)), whole=whole)
        enough = rate > bits_per_pixel if bits_per_pixel is not None else _kept_enough(kept, error, agree or 0.0)
        low, high = (middle, high) if enough else (low, middle)
    if bits_per_pixel is not None:
        return float(np.exp(high))
    # At this mu two files of one photo cost the same. Later its readers answer in another batch, whose last digits differ,
    # and would choose the file that changes the answer.
    found, below = float(np.exp(low)), float(np.exp(low)) * _BELOW
    _, kept, error = _outcome(several, shape, below, whole=whole)
    return below if _kept_enough(kept, error, agree or 0.0) else found


def _kept_enough(kept: float, error: float, agree: float) -> bool:
    return kept >= agree and kept - _CERTAIN * error >= agree - _SLACK


def _outcome(several: Sequence[Trials], shape: Shape, mu: float, *, whole: bool = False) -> tuple[float, float, float]:
    """Bits of all files over pixels of all photos, and the share of first answers that stay, of the reader that keeps fewest,
    with its standard error.

    Of a sample both are as they are to be expected: each photo counts as one whose answers are to stay, and as one of the
    others. Of all photos they are what they will be.
    """
    rate, kept = 0.0, np.zeros((len(several), len(several[0].kept)))
    ways = [(shape.keep, 1.0)] if whole else [(0.0, 1 - shape.keep), (1.0, shape.keep)]
    for keep, weight in ways:
        chosen = [(trials, trials.best(replace(shape, keep=keep), mu)) for trials in several] if weight else []
        rate += weight * sum(8 * trials.sizes[index] for trials, index in chosen)
        kept += weight * np.array([trials.kept[:, index] for trials, index in chosen] or [np.zeros(kept.shape[1])])
    fewest = kept[:, kept.mean(0).argmin()]
    # One more answer that changes, or a sample in which all stay would be certain of all others.
    spread = ((fewest - fewest.mean()) ** 2).sum() + (1 - shape.keep) ** 2
    error = 0.0 if whole else float(np.sqrt(spread) / len(fewest))
    return rate / sum(trials.pixels for trials in several), float(np.round(fewest.mean(), 9)), error


def _left_out(trials: Trials, shape: Shape, mu: float) -> list[tuple[float, bool]]:
    """Of each of several readers, what it says of the file that the others choose, of those that nobody moved."""
    if len(trials.distances) < 2:
        return []
    still = np.array(trials.rounds) == 0
    judged: Array = trials.judged(shape)
    found = []
    for number in range(len(judged)):
        others = np.delete(judged, number, 0)
        cost = together(others, shape) + mu * trials.rates
        index = int(np.where(still, cost, np.inf).argmin())
        found.append((float(trials.distances[number, index]), bool(trials.kept[number, index])))
    return found


#: Of each file, what a summary needs.
NEEDED = {"quality", "kind", "rounds", "bits_per_pixel", "distance", "kept"}


def _as_made(file: ShapedFile, left_out: list[tuple[float, bool]], judged: list[tuple[float, bool]]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "quality": file.quality,
        "kind": file.kind,
        "rounds": file.rounds,
        "bytes": len(file.content),
        "bits_per_pixel": round(file.bits_per_pixel, 5),
        "distance": [round(distance, 5) for distance in file.distances],
        "kept": list(file.kept),
    }
    for name, said in (("left_out", left_out), ("judges", judged)):
        if said:
            made[name] = {"distance": [round(distance, 5) for distance, _ in said], "kept": [kept for _, kept in said]}
    return made


def _learned(config: CompressConfig) -> tuple[torch.Tensor, torch.Tensor] | None:
    if config.model is None and config.tables is None:
        return None
    found = learned_tables(config.model, config.tables)
    return found.luma, found.chroma


class _Room:
    """No more pixels at a time than this; a photo that is larger has it all for itself."""

    def __init__(self, most: int) -> None:
        self._most, self._taken, self._change = most, 0, threading.Condition()

    @contextmanager
    def for_pixels(self, pixels: int) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: not self._taken or self._taken + pixels <= self._most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._change:
                self._taken -= pixels
                self._change.notify_all()


@dataclass
class ReaderSummary:
    """What files for readers came to, over all that are there.

    Attributes:
        files: how many.
        qualities: how many have which quality.
        kinds: how many have which kind of tables: standard, finer chroma, learned or finest.
        rounds: how many were moved in how many rounds of gradient.
        bits_per_pixel: bits of all files over pixels of all photos; None where files were made by earlier versions.
        readers: of each its ``name``, ``agreement`` (share of first answers that stay; None of features) and ``distance``
            (mean, nats).
        left_out: of each of several readers the same, on the files that the others choose.
        judges: of each the same; they had no say.
        worst: the files furthest from their originals: ``file``, ``distance``, ``quality``.
        mu: that they were made with.
    """

    files: int
    qualities: dict[int, int]
    kinds: dict[str, int]
    rounds: dict[int, int]
    bits_per_pixel: float | None
    readers: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    judges: list[dict[str, Any]]
    worst: list[dict[str, Any]] = field(default_factory=list)
    mu: float = 0.0


def summary_of(made: dict[str, dict[str, Any]], stage: ReaderStage) -> ReaderSummary:
    """Return what the files of a folder came to; ``made`` has what is known of each, by name."""

    def of(key: str | None, several: Sequence[PhotoReader]) -> list[dict[str, Any]]:
        parts = [one if key is None else one[key] for one in made.values() if key is None or key in one]
        if not parts:
            return []
        found = []
        for number, reader in enumerate(several):
            kept = float(np.mean([part["kept"][number] for part in parts]))
            distance = float(np.mean([part["distance"][number] for part in parts]))
            found.append({"name": reader.name, "agreement": None if reader.features else kept, "distance": distance})
        return found

    qualities, kinds, rounds = ([one[key] for one in made.values()] for key in ("quality", "kind", "rounds"))
    worst = sorted(made, key=lambda name: -max(made[name]["distance"]))[:WORST]
    return ReaderSummary(
        len(made),
        {quality: qualities.count(quality) for quality in sorted(set(qualities))},
        {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        {number: rounds.count(number) for number in sorted(set(rounds))},
        _rate(list(made.values())),
        of(None, stage.readers),
        of("left_out", stage.readers),
        of("judges", stage.judges),
        [{"file": name, "distance": max(made[name]["distance"]), "quality": made[name]["quality"]} for name in worst],
        stage.mu or 0.0,
    )


def _rate(made: Sequence[dict[str, Any]]) -> float | None:
    """Bits of all files over pixels of all photos; None where the bytes of one are not known, or there is none."""
    if not made or any("bytes" not in one for one in made):
        return None
    return float(sum(one["bytes"] for one in made) / sum(one["bytes"] / one["bits_per_pixel"] for one in made))


def side_by_side(pairs: Sequence[tuple[Path, Path, dict[str, Any]]]) -> str:
    """Return a page, HTML, that shows originals beside their files, one pair below the other.

    Args:
        pairs: the original, the file, and its ``file`` (name), ``distance`` and ``quality``.
    """
    title = "The photos whose answers moved furthest"
    figures = []
    for original, file, one in pairs:
        name = escape("".join(c if c.isprintable() else "?" for c in one["file"]))
        pictures = f"{_small(original, f'{name}, the original')}{_small(file, f'{name}, the file')}"
        words = f"{name}: distance {one['distance']:.2f}, quality {one['quality']}"
        figures.append(f"<figure><figcaption>{words}</figcaption>{pictures}</figure>\n")
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: {2 * _SIDE + 8}px; margin: 1.5rem auto; padding: 0 1rem }}
figure {{ margin: 1.5rem 0 }} figcaption {{ overflow-wrap: anywhere }}
img {{ width: calc(50% - 4px); vertical-align: top }} img + img {{ margin-left: 8px }}
</style>
<h1>{title}</h1>
<p>Left: the original. Right: its file.</p>
{"".join(figures)}"""


def _small(path: Path, alt: str) -> str:
    """Return a picture of a photo, at most ``_SIDE`` pixels on a side, as part of a page."""
    stream = io.BytesIO()
    try:
        with path.open("rb") as file:
            image = open_picture(file, path.name).image.convert("RGB")
    except (*BAD, Other):  # the photo is gone by now
        return f"<p>{alt}: cannot be read</p>"
    image.thumbnail((_SIDE, _SIDE))
    image.save(stream, "png")
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
