"""Runs that train side by side: the same numbers, no process left behind, and what the user sees."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from PIL import Image

from commands import start_command
from factory import run, small_comparison, small_config
from jpegdl import processes
from jpegdl.comparison import arms, compare, jobs, schedule, workers
from jpegdl.data import DataConfig
from jpegdl.errors import UsageError
from jpegdl.runs import RunFolder, progress
from jpegdl.runs.progress import Line, Standing
from jpegdl.training import JointTraining, callbacks

pytestmark = pytest.mark.usefixtures("no_figures")

LONG = 180  # seconds after which what should have happened long ago has not


def _config(folder, **changes):
    return small_comparison(folder, **{"name": "jobs", "seeds": 2, "jobs": 2, **changes})


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(jobs, "count_cores", lambda: 2)


def _until(happened, what):
    end = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < end, what
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------- schedule


def _order(config, asked, at_once):
    """The runs in the order in which they begin, one list per round, where all of a round end together."""
    plan, rounds = schedule.Schedule(config, asked, at_once), []
    while not plan.over:
        rounds.append([taken for _ in range(at_once) if (taken := plan.take()) is not None])
        for taken in rounds[-1]:
            plan.done(taken)
    return rounds


def test_what_others_start_from_comes_first(tmp_path):
    arms = ["plain", "jpeg-dl", "gain", "learned-frozen"]
    config = _config(tmp_path, arms=arms)
    asked = [(seed, arm) for seed in (0, 1) for arm in arms]
    assert _order(config, asked, 1) == [[one] for one in asked[:4] + asked[4:]]
    assert _order(config, asked, 2) == [
        [(0, "plain"), (1, "plain")],
        [(0, "jpeg-dl"), (1, "jpeg-dl")],
        [(0, "gain"), (0, "learned-frozen")],
        [(1, "gain"), (1, "learned-frozen")],
    ]
    # Three seeds of two arms on two cores: nobody is idle.
    asked = [(seed, arm) for seed in range(3) for arm in ("plain", "jpeg-dl")]
    assert [len(batch) for batch in _order(_config(tmp_path), asked, 2)] == [2, 2, 2]


def test_schedule_of_failed_and_busy_runs(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(schedule.time, "monotonic", lambda: now[0])
    plan = schedule.Schedule(_config(tmp_path), [(0, "plain"), (0, "jpeg-dl"), (1, "plain"), (1, "jpeg-dl")], 2)
    assert [plan.take(), plan.take(), plan.take()] == [(0, "plain"), (1, "plain"), None]
    plan.put_off((0, "plain"))
    assert plan.take() is None
    now[0] += schedule.PATIENCE
    assert plan.take() == (0, "plain")
    plan.done((0, "plain"))
    plan.fail((1, "plain"), "the loss is nan")
    assert plan.take() == (0, "jpeg-dl")
    assert not plan.over
    plan.done((0, "jpeg-dl"))
    assert plan.take() is None
    assert plan.over
    assert plan.failures == {"plain": {1: "the loss is nan"}, "jpeg-dl": {1: "it starts from arm plain, which failed"}}


# ------------------------------------------------------------------------------------------------- how many, and of what


def test_how_many_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "count_cores", lambda: 8)
    assert jobs.count_jobs(_config(tmp_path, jobs=None, seeds=9)) == 8
    assert jobs.count_jobs(_config(tmp_path, jobs=None, seeds=3)) == 3  # jpeg-dl waits for its plain
    assert jobs.count_jobs(_config(tmp_path, jobs=None, seeds=3, arms=["plain", "jpeg-dl", "gain"])) == 6
    assert jobs.count_jobs(_config(tmp_path, jobs=4, seeds=9)) == 4
    several = replace(_config(tmp_path).training, devices=2)
    assert jobs.count_jobs(_config(tmp_path, jobs=None, training=several)) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for counted in (torch.cuda, torch.accelerator):
        monkeypatch.setattr(counted, "device_count", lambda: 2)
    assert jobs.count_jobs(_config(tmp_path, jobs=None, seeds=9)) == 8  # device cpu
    assert jobs.count_jobs(_config(tmp_path, jobs=None, seeds=9, device="auto")) == 2
    assert jobs.count_jobs(_config(tmp_path, jobs=None, seeds=9, device="cuda:1")) == 1
    assert jobs.count_jobs(_config(tmp_path, jobs=4, seeds=9, device="auto")) == 4


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_cores(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(processes, "_CGROUPS", tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert processes.count_cores() == expected


def test_workers_share_threads_and_gpus(monkeypatch):
    def gpus(count):
        return [workers.worker_environment(row, 1, "auto")["CUDA_VISIBLE_DEVICES"] for row in range(count)]

    for name in ("CUDA_VISIBLE_DEVICES", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    one = workers.worker_environment(1, 3, "auto")
    assert "CUDA_VISIBLE_DEVICES" not in one
    assert [one["OMP_NUM_THREADS"], one["OMP_WAIT_POLICY"], one["GOMP_SPINCOUNT"]] == ["3", "PASSIVE", "7"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert gpus(3) == ["0", "1", "0"]
    assert "CUDA_VISIBLE_DEVICES" not in workers.worker_environment(1, 1, "cuda:1")  # which means one of all
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert gpus(3) == ["GPU-a", "GPU-b", "GPU-a"]


def test_refused(tmp_path):
    with pytest.raises(UsageError, match="jobs must be at least 1, or null, got 0"):
        compare(_config(tmp_path, jobs=0))
    several = replace(_config(tmp_path).training, devices=2)
    with pytest.raises(UsageError, match=r"jobs must be 1 .*training.devices \(2\) times .* got 2"):
        compare(_config(tmp_path, training=several))


# -------------------------------------------------------------------------------------------------------------- numbers


def _numbers(folder):
    """All that a comparison's runs say, but for the time they took."""
    found = {}
    for result in sorted(folder.glob("*/*/result.json")):
        of_run = result.parent
        content = json.loads(result.read_text(encoding="utf-8"))
        del content["train_seconds"]
        names = ("model.safetensors", "config.yaml", "data.json", *(["tables.json"] if of_run.parent.name == "jpeg-dl" else []))
        found[str(of_run.relative_to(folder))] = [content, *((of_run / name).read_bytes() for name in names)]
    return found


@pytest.mark.usefixtures("two_cores")
def test_the_same_numbers_side_by_side(tmp_path, trained, capfd):
    """As one after the other; also where the last run alone is left, which trains in this process."""
    assert torch.get_num_threads() == 1
    summary = compare(_config(tmp_path, name="two", jobs=2)).summary
    err = capfd.readouterr().err.splitlines()
    one, two = _numbers(trained), _numbers(tmp_path / "two")
    assert len(one) == 4
    assert one == two
    assert summary["failed"] == []
    for arm in ("plain", "jpeg-dl"):
        for seed in (0, 1):  # no terminal: one line a finished run
            accuracy = one[f"{arm}/{seed}"][0]["accuracy"]
            assert err.count(f"{arm}, seed {seed}: test {100 * accuracy:.1f} %") == 1, err

    (tmp_path / "two/jpeg-dl/1/result.json").unlink()
    (tmp_path / "two/jpeg-dl/1/last.ckpt").unlink()
    threads = []
    before = torch.set_num_threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 2)
        patch.setattr(torch, "set_num_threads", lambda n: threads.append(n) or before(1))
        patch.setattr(workers, "_Worker", lambda *_: pytest.fail("a worker for one run"))
        compare(_config(tmp_path, name="two", jobs=2))
    assert threads == [1, 2]  # its share, then what it was
    again = _numbers(tmp_path / "two")
    again["jpeg-dl/1"][0]["machine"] = one["jpeg-dl/1"][0]["machine"]
    assert again == one


# ------------------------------------------------------------------------------------------------------------- processes


@pytest.mark.usefixtures("two_cores", "forked_workers")
def test_a_worker_that_dies_takes_one_run_with_it(tmp_path, monkeypatch):
    take_in, killed = workers._Workers._take_in, []

    def killing(self, worker, event):
        if worker.run == (1, "plain") and not killed:
            killed.append(worker.process.pid)
            os.kill(worker.process.pid, signal.SIGKILL)
        take_in(self, worker, event)

    monkeypatch.setattr(workers._Workers, "_take_in", killing)
    (tmp_path / "jobs/plain/1").mkdir(parents=True)
    config = _config(tmp_path)
    done = compare(config)
    summary, table = done.summary, done.table
    died = "the process died (signal 9; out of memory?)"
    assert {(entry["arm"], entry["seed"]): entry["why"] for entry in summary["failed"]} == {
        ("plain", 1): died,
        ("jpeg-dl", 1): "it starts from arm plain, which failed",
    }
    assert died in table
    assert set(_numbers(tmp_path / "jobs")) == {"plain/0", "jpeg-dl/0"}
    assert RunFolder(tmp_path / "jobs/plain/1").failure(arms.arm_config(config.run, "plain"), "plain", 1) == died


@pytest.mark.usefixtures("two_cores", "forked_workers")
def test_warnings_and_errors_come_as_if_from_this_process(tmp_path, capfd):
    images = tmp_path / "images"
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("a", "b"):
            (images / part / name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(images / part / name / f"{i}.png")
    (images / "train/a/0.png").write_bytes(b"no image")
    data = DataConfig(path=str(images), size=16, resize=20, batch_size=8, skip_corrupt=True)
    # What stands in the way of one run's folder nobody foresaw.
    (tmp_path / "jobs/jpeg-dl").mkdir(parents=True)
    (tmp_path / "jobs/jpeg-dl/0").write_text("in the way", encoding="utf-8")
    with pytest.warns(UserWarning, match="left out 1 of 16") as caught, pytest.raises(OSError, match="jpeg-dl/0") as error:
        compare(_config(tmp_path, data=data))
    assert len([one for one in caught if "left out" in str(one.message)]) == 1  # both workers met it
    assert "in train_run" in str(error.value.__cause__)
    assert (tmp_path / "jobs/plain/0/result.json").is_file()  # kept

    bad = replace(data, skip_corrupt=False)
    capfd.readouterr()
    with pytest.raises(UsageError, match="image .*0.png cannot be decoded") as refused:
        compare(_config(tmp_path, name="bad", data=bad))
    assert str(refused.value).count("cannot be decoded") == 1
    assert not (tmp_path / "bad").exists()  # found before any run begins
    assert "cannot be decoded" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("precision", "fp16", "training.precision must be one of auto, 32-true, 16-mixed, .*, got 'fp16'$"),
     ("device", "fpga", "device must be auto, cpu, .*got 'fpga'"), ("strategy", "dpp", "invalid strategy name")],
)  # fmt: skip
def test_what_no_run_could_begin_with_is_one_error_before_any_begins(tmp_path, setting, value, message):
    config = _config(tmp_path, seeds=3)
    changes = {setting: value} if setting == "device" else {"training": replace(config.training, **{setting: value})}
    with pytest.raises(UsageError, match=message) as error:
        compare(replace(config, **changes))
    assert str(error.value).count(value) == 1
    assert "\n" not in str(error.value)
    assert not (tmp_path / "jobs").exists()


def test_a_worker_whose_parent_was_killed_ends_without_a_word(fresh):
    done = fresh(
        "import os; os.setsid()\nfrom multiprocessing import Pipe\nfrom jpegdl.comparison.worker import _Reporter\n"
        "ours, theirs = Pipe()\nours.close()\n_Reporter(theirs).tell('ready')\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGKILL, "", "")


@pytest.mark.usefixtures("forked_workers")
def test_what_only_the_script_knows_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("jpegdl.comparison.config.check_config", lambda _: None)
    monkeypatch.setattr("jpegdl.comparison.comparison.check_start", lambda *_: None)
    with pytest.raises(UsageError, match="'my_own_net' .* what a script has registered .* train with jobs 1"):
        compare(_config(tmp_path, backbone="my_own_net"))


@pytest.mark.usefixtures("two_cores", "forked_workers")
def test_a_run_that_another_comparison_trains_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "PATIENCE", 0.1)
    folder = tmp_path / "jobs"
    (folder / "locks").mkdir(parents=True)
    lock = filelock.FileLock(folder / "locks" / "plain-0", thread_local=False)
    lock.acquire()

    def give_back():
        with contextlib.suppress(AssertionError):
            _until((folder / "jpeg-dl/1/result.json").is_file, "")
        seen.append((folder / "plain/0").exists())
        lock.release()

    seen = []
    other = threading.Thread(target=give_back)
    other.start()
    compare(_config(tmp_path))
    other.join(LONG)
    assert seen == [False]
    assert set(_numbers(folder)) == {"plain/0", "plain/1", "jpeg-dl/0", "jpeg-dl/1"}


def _processes():
    """Those that there are, by id, with their parents'; without what has ended and is only not asked for yet."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
            if state != "Z":
                found[int(stat.parent.name)] = int(parent)
    return found


def _children(pid):
    """Those of this library."""
    found = set()
    for child, parent in _processes().items():
        with contextlib.suppress(OSError):
            if parent == pid and b"jpegdl" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.add(child)
    return found


@contextlib.contextmanager
def _none_left(process, others):
    """Neither a process that trains with others nor these are there afterwards, whatever happens."""
    try:
        yield
    finally:
        process.kill()
        (process.join if hasattr(process, "join") else process.wait)(LONG)
        for pid in _alive(others):
            os.kill(pid, signal.SIGKILL)


def _alive(pids):
    return {
        pid
        for pid in pids
        if Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2]
    }


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")

SCRIPT = """
from jpegdl.comparison import CompareConfig, compare
from jpegdl.data import DataConfig
from jpegdl.layer import LayerConfig
from jpegdl.runs import TrainingConfig

compare(CompareConfig(
    data=DataConfig(name="made-up", limit=24, size=16, batch_size=8), layer=LayerConfig(images=16), output={output!r},
    training=TrainingConfig(epochs=100000, test_every=100000), device="cpu", jobs=2,
))
"""


@needs_proc
def test_no_worker_outlives_a_script_that_is_killed(tmp_path):
    """A script without a main guard, in a folder with modules that are named like others."""
    (tmp_path / "script.py").write_text(SCRIPT.format(output=str(tmp_path / "runs")), encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/queue.py").write_text("raise ImportError('the wrong one')", encoding="utf-8")
    command, log, workers = [sys.executable, str(tmp_path / "script.py")], tmp_path / "log", set()
    with log.open("w", encoding="utf-8") as stderr:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stderr=stderr, env=environment, cwd=tmp_path / "elsewhere")
    with _none_left(process, workers):
        started = [tmp_path / "runs/run/plain" / seed / "last.ckpt" for seed in "01"]
        _until(lambda: all(file.is_file() for file in started) or process.poll() is not None, "no training")
        workers |= _children(process.pid)
        assert len(workers) == 2, log.read_text(encoding="utf-8")
        process.kill()
        _until(lambda: not _alive(workers), "a worker outlives its parent")


@needs_proc
@pytest.mark.parametrize(("end", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_interrupt(tmp_path, end, said):
    log, workers = tmp_path / "log", set()
    process = start_command(
        log, "compare", "--config", "demo", "--data.name", "made-up", "--data.limit", "24", "--training.epochs", "100000",
        "--training.test_every", "100000", "--device", "cpu", "--jobs", "2", "--output", str(tmp_path),
        fork_workers=True,
    )  # fmt: skip
    with _none_left(process, workers):
        started = [tmp_path / "demo/plain" / seed / "last.ckpt" for seed in "01"]
        _until(lambda: all(file.is_file() for file in started) or not process.is_alive(), "no training")
        workers |= _children(process.pid)
        assert len(workers) == 2, log.read_text(encoding="utf-8")
        os.kill(process.pid, end)
        process.join(LONG)
        assert process.exitcode == 128 + end
        assert not _alive(workers)  # at once
    assert log.read_text(encoding="utf-8").count(f"jpegdl: {said}; the same command resumes") == 1
    assert "Traceback" not in log.read_text(encoding="utf-8")


@needs_proc
@pytest.mark.parametrize(
    ("moment", "end"),
    [("children are there", signal.SIGKILL), ("they import", signal.SIGTERM), ("training", signal.SIGTERM)],
)
def test_processes_of_one_run_end_with_the_first(tmp_path, moment, end):
    """The first of two DDP processes is told to end, or killed before the second knows it."""
    log, others = tmp_path / "log", set()
    process = start_command(
        log, "train", "--config", "demo", "--data.name", "made-up", "--data.limit", "64",
        "--arm", "plain", "--training.epochs", "100000", "--training.test_every", "100000", "--device", "cpu",
        "--training.devices", "2", "--training.strategy", "ddp", "--output", str(tmp_path),
    )  # fmt: skip
    with _none_left(process, others):
        _until(lambda: _children(process.pid) or not process.is_alive(), "no second process")
        others |= _children(process.pid)
        assert len(others) == 1, log.read_text(encoding="utf-8")
        if moment == "they import":
            time.sleep(1)
        elif moment == "training":
            _until((tmp_path / "demo/plain/0/last.ckpt").is_file, "no training")
        os.kill(process.pid, end)
        process.join(LONG)
        _until(lambda: not _alive(others), "the second process outlives the first")


# -------------------------------------------------------------------------------------------------------- what is shown


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _shown(text):
    return [line for line in text.replace("\n", "\r").split("\r") if line.strip()]


@pytest.mark.parametrize("title", ["plain, seed 0", "quantization-only, seed 2"])
@pytest.mark.parametrize("resumed", [0, 12])
def test_a_line_fits_a_terminal(monkeypatch, title, resumed):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
    line = Line(title)
    for epoch in range(resumed + 1, 101):
        line.show(Standing(8 * epoch, 800, epoch, 100, 1.234, 0.555, resumed))
    line.close()
    shown = _shown(terminal.getvalue())
    assert len(shown) > 80 - resumed
    assert max(map(len, shown)) < 80
    for one in shown:
        assert one.startswith(f"{title} (resumed after epoch 12): " if resumed else f"{title}: ")
        assert "%, test 55.5 %" in one
        assert resumed or "loss 1.234 |" in one  # the bar behind it


def test_a_line_in_a_log(monkeypatch):
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    line = Line("plain, seed 0")
    for batch in range(101):
        now[0] = float(batch)
        line.show(Standing(batch, 100, 1 + batch // 51, 2, None if batch <= 50 else 0.5))
    line.close()
    assert log.getvalue().splitlines() == [
        "plain, seed 0: 30%, epoch 1/2 [00:30<01:10]",
        "plain, seed 0: 60%, epoch 2/2, loss 0.500 [01:00<00:40]",
        "plain, seed 0: 90%, epoch 2/2, loss 0.500 [01:30<00:10]",
        "plain, seed 0: 100%, epoch 2/2, loss 0.500 [01:40]",
    ]


def test_the_board(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for terminal in (_Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(progress.shutil, "get_terminal_size", lambda: os.terminal_size((80, 24)))
        lines = workers.Lines(4)
        for row, title in ((0, "plain, seed 0"), (1, "plain, seed 1")):
            lines.show(row, title, Standing(5, 10, 1, 2))
        now[0] += 40
        lines.tick()
        lines.end(0, "plain, seed 0: test 50.0 %")
        lines.close()
        shown = _shown(terminal.getvalue())
        assert max(len(line.replace("\x1b[A", "")) for line in shown) < 80
        if terminal.isatty():
            for start in (
                "0/4 runs finished |",
                "1/4 runs finished |",
                "plain, seed 0:  50%, epoch 1/2 |",
                "plain, seed 1:  50%",
            ):
                assert any(line.startswith(start) for line in shown), (start, shown)
        else:
            assert shown == ["0/4 runs finished, 2 in training [00:40, 02:00 left]", "plain, seed 0: test 50.0 %"]


@pytest.mark.usefixtures("few_photos")
def test_a_gpu_without_memory_is_one_line(tmp_path, monkeypatch):
    """It fails that run alone, as others side by side may leave it none."""

    def step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(JointTraining, "training_step", step)
    with pytest.raises(UsageError, match="cpu has no memory.*data.batch_size.*jobs.*CUDA out"):
        run(small_config(), tmp_path, arm="plain")


@pytest.mark.usefixtures("few_photos")
def test_a_resumed_run_says_so(tmp_path, monkeypatch, capsys):
    training = callbacks.Progress.on_train_batch_end

    def interrupted(self, trainer, *rest):
        training(self, trainer, *rest)
        if trainer.current_epoch == 1:
            raise UsageError("stop")

    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end", interrupted)
    with pytest.raises(UsageError, match="stop"):
        run(small_config(), tmp_path, arm="plain")
    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end", training)
    capsys.readouterr()
    result = run(small_config(), tmp_path, arm="plain")
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"plain, seed 0 (resumed after epoch 1): 100%, test {100 * result['accuracy']:.1f} %, epoch 2/2, loss "
    )


def test_a_finished_comparison_in_a_folder_that_cannot_be_written_to(tmp_path):
    config = _config(tmp_path, jobs=1, seeds=1)
    table = compare(config).table
    locks = tmp_path / "jobs/locks"
    for file in locks.iterdir():
        file.unlink()
    locks.rmdir()
    locks.write_text("no folder", encoding="utf-8")
    with pytest.warns(UserWarning, match="the summary in .* is out of date.* cannot be written"):
        assert compare(config).table == table
