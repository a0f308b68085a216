"""The last values of a series, and what is usual among them."""

import math
from bisect import bisect_left, insort
from collections import deque

from clipwise.monitor.robust import SIGMA_PER_MAD, median


class Recent:
    """A window of finite values, kept in order: a new one costs two binary searches.

    >>> recent = Recent(3)
    >>> for value in (9.0, 1.0, 2.0, 4.0):
    ...     recent.add(value)
    >>> len(recent), recent.median(), recent.sigma(), recent.largest
    (3, 2.0, 1.4826, 4.0)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: deque[float] = deque()
        self._ordered: list[float] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Take a value in, and the oldest out where there are more than the window holds."""
        if len(self._values) == self._size:
            del self._ordered[bisect_left(self._ordered, self._values.popleft())]
        self._values.append(value)
        insort(self._ordered, value)

    @property
    def full(self) -> bool:
        return len(self._values) == self._size

    @property
    def largest(self) -> float:
        return self._ordered[-1]

    def median(self) -> float:
        return median(self._ordered)

    def sigma(self) -> float:
        """A standard deviation that outliers do not move: 1.4826 * median(|x - median|)."""
        middle = self.median()
        return SIGMA_PER_MAD * median(sorted(abs(value - middle) for value in self._ordered))

    def log_sigma(self) -> float:
        """The same of the logarithms; all values must be above 0."""
        middle = math.log(self.median())
        return SIGMA_PER_MAD * median(sorted(abs(math.log(value) - middle) for value in self._ordered))

    def quantile(self, q: float) -> float:
        """The smallest value that a share q of the values does not exceed."""
        return self._ordered[max(0, math.ceil(q * len(self._ordered)) - 1)]
