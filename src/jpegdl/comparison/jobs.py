"""Training the runs of a comparison, one by one in this process or side by side."""

import time
from contextlib import suppress

import torch

from jpegdl.comparison.config import CompareConfig
from jpegdl.comparison.schedule import Failures, Run, Schedule
from jpegdl.comparison.steps import train_arm
from jpegdl.comparison.workers import train_side_by_side
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.files import BusyError
from jpegdl.processes import count_cores
from jpegdl.runs.device import compute_device

_TICK = 0.05  # seconds between two looks at whether a run can begin


def train_runs(config: CompareConfig, asked: list[Run], data: Data | None) -> Failures:
    """Train the runs that are not finished; returns which of them failed, and why.

    The number of threads per run depends on the settings and on what is asked for, not on how much of it is left, so that a
    resumed comparison ends with the same numbers. ``data`` may be None where all runs are finished.

    Raises:
        UsageError: with several processes per run, one that fails or that others train; a worker process that cannot start.
        Exception: any unforeseen error, raised in this process or in a worker.
    """
    jobs = count_jobs(config)
    schedule = Schedule(config, asked, jobs)
    threads, share = torch.get_num_threads(), threads_each(config)
    if jobs > 1 and len(schedule.waiting) > 1:
        train_side_by_side(config, schedule, jobs, share)
        return schedule.failures
    torch.set_num_threads(share)
    try:
        _train_one_by_one(config, schedule, data)
    finally:
        torch.set_num_threads(threads)
    return schedule.failures


def threads_each(config: CompareConfig) -> int:
    """Return how many threads of PyTorch each run has, however many are left to train."""
    threads, jobs = torch.get_num_threads(), count_jobs(config)
    return threads if jobs == 1 else max(1, min(threads, count_cores() // jobs))


def count_jobs(config: CompareConfig) -> int:
    """Return how many runs train at a time: :func:`wanted_jobs`, but never more than there is work for."""
    if config.together:
        return 1
    arms = set(config.arm_names)
    started_from = {needed for arm in arms for needed in config.needed_arms(arm)}
    most = len(config.seed_list) * len(arms - started_from)  # a run and what it starts from never train at a time
    return min(wanted_jobs(config), most)


def wanted_jobs(config: CompareConfig) -> int:
    """Return how many runs or trials are to train at a time, where there are enough: what the settings say, else one per GPU or
    CPU core."""
    if config.jobs is not None:
        return config.jobs
    with suppress(UsageError):  # no such device here, and no use for one where all is trained
        if (device := compute_device(config.device)).type != "cpu":
            return 1 if device.index is not None else torch.accelerator.device_count()
    return count_cores()


def _train_one_by_one(config: CompareConfig, schedule: Schedule, data: Data | None) -> None:
    while not schedule.over:
        run = schedule.take()
        if run is None:
            time.sleep(_TICK)
            continue
        seed, arm = run
        try:
            train_arm(config, arm, seed, data)
        except UsageError as error:
            if config.together:
                raise  # the processes must agree on what to train next, and only the first knows
            if isinstance(error, BusyError):
                schedule.put_off(run)
            else:
                schedule.fail(run, str(error))
        else:
            schedule.done(run)
