"""What two examples showed of the uses whose shapes alone would deceive."""

from clipwise.torch.per_example.uses import NotFollowed

__all__ = ["NotSeen", "Verified"]


class NotSeen(NotFollowed):
    """The two examples that were checked did not show this; two others may."""


class Verified:
    """How axis 0 of the tensors was read when the norms of two examples were compared with each alone.

    A sequence may be as long as the batch is large. What has nothing of the examples in it, as the result of
    `expand` or a table of positions, is then read as it was for two examples, not by its length.

    Attributes:
        learning: whether two examples are looked at now.
    """

    def __init__(self) -> None:
        self.learning = False
        self._found: dict[tuple[str, ...], set[bool]] = {}

    def has_examples(self, use: tuple[str, ...], length: int, size: int) -> bool:
        """Whether axis 0 is that of the examples; ``use`` is the function and the weights.

        Raises:
            NotSeen: the two examples did not come by here.
            NotFollowed: they came by here twice, and it was so once only.
        """
        if size == 1:
            return False
        if self.learning:
            self._found.setdefault(use, set()).add(length == size)
        if self.learning or length != size:
            return length == size
        found = self._found.get(use, set())
        if len(found) == 1:
            return True in found
        error = NotFollowed if found else NotSeen
        raise error(
            f"{use[1]!r} is used in {use[0]} beside a length of {length}, which may be that of the batch or"
            " another one"
        )

    def rows(self, name: str, rows: int, size: int) -> None:
        """A weight meets so many rows of each example along axis 0.

        Raises:
            NotSeen: there are several, and the two examples did not show that those of one come in a row.
        """
        use = ("rows", name)
        if size == 1:
            return
        if self.learning:
            self._found.setdefault(use, set()).add(rows > 1)
        elif rows > 1 and True not in self._found.get(use, ()):
            raise NotSeen(
                f"{name!r} meets {rows} rows of each example, and one of each when two were checked"
            )
