"""Counting the work of a comparison, so that it ends in time and tests can prove that it does."""

from __future__ import annotations

STEPS_PER_LINE = 12
"""Steps allowed for each line compared; ordinary source files take two to five."""

STEPS_FREE = 100_000
"""Steps allowed on top of that, so that small files always get a good answer; under 50 ms."""


class Meter:
    """Elementary steps taken, and how many may be before only coarse answers are given.

    Once it is spent a comparison still takes the steps that end it, at most a few for each line.
    Not shared between threads.
    """

    __slots__ = ("limit", "steps")

    def __init__(self, lines: int) -> None:
        """An allowance for comparing so many lines, those of both sides."""
        self.steps = 0
        self.limit = STEPS_FREE + STEPS_PER_LINE * lines

    @property
    def spent(self) -> bool:
        """Whether only work that ends the comparison is still allowed."""
        return self.steps >= self.limit
