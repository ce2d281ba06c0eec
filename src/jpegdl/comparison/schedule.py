"""Which run of a comparison comes next."""

import time

from jpegdl.comparison.config import CompareConfig

PATIENCE = 5.0  # seconds between two tries of a run that another process, maybe on another machine, is training

Run = tuple[int, str]  # seed and arm
Failures = dict[str, dict[int, str]]  # of each arm, by seed: why there is no result


class Schedule:
    """What is left to train, what can begin now, and what failed.

    Args:
        config: the comparison.
        asked: all runs that it is to have; what is finished is left out.
        jobs: how many train at a time. One alone goes seed by seed; several begin with what others wait for, so that none of
            them is idle in the end.

    Attributes:
        failures: of each arm, by seed, why there is no result.
        waiting: what has not begun.
    """

    def __init__(self, config: CompareConfig, asked: list[Run], jobs: int) -> None:
        self.config = config
        self.failures: Failures = {}
        self.waiting = [(seed, arm) for seed, arm in asked if not config.run_folder(arm, seed).finished]
        if jobs > 1:
            self.waiting.sort(key=lambda run: -self._followers(run[1]))
        self._running: set[Run] = set()
        self._not_before: dict[Run, float] = {}

    def _followers(self, arm: str) -> int:
        """The longest chain of arms after this one that start from one another."""
        following = [other for other in self.config.arm_names if arm in self.config.needed_arms(other)]
        return max((1 + self._followers(other) for other in following), default=0)

    @property
    def over(self) -> bool:
        """Whether nothing is left."""
        return not self.waiting and not self._running

    def take(self) -> Run | None:
        """Return the next run that can begin, if one can; from now on it counts as in training."""
        for seed, arm in list(self.waiting):
            needed = self.config.needed_arms(arm)
            if lost := [other for other in needed if seed in self.failures.get(other, {})]:
                self.fail((seed, arm), f"it starts from arm {lost[0]}, which failed")
                continue
            unfinished = any((seed, other) in self.waiting or (seed, other) in self._running for other in needed)
            if not unfinished and time.monotonic() >= self._not_before.get((seed, arm), 0):
                self.waiting.remove((seed, arm))
                self._running.add((seed, arm))
                return seed, arm
        return None

    def done(self, run: Run) -> None:
        """The run is finished."""
        self._running.discard(run)

    def fail(self, run: Run, why: str) -> None:
        """The run has no result."""
        seed, arm = run
        self._running.discard(run)
        if run in self.waiting:
            self.waiting.remove(run)
        self.failures.setdefault(arm, {})[seed] = why

    def put_off(self, run: Run) -> None:
        """Another comparison is training the run: look again later whether it is finished."""
        self._running.discard(run)
        self.waiting.append(run)
        self._not_before[run] = time.monotonic() + PATIENCE
