"""Changes of parameters as an engine reads them, in place of gradients, on one device or on several ranks."""

from collections.abc import Container

from torch import Tensor

from clipwise.torch._gradients import Gradients
from clipwise.torch._sharded_gradients import ShardedGradients
from clipwise.torch.engines import AnyBatch, make_batch

__all__ = ["Differences", "ShardedDifferences"]


class Differences(Gradients):
    """Given changes in place of gradients.

    Attributes:
        given: by id of the parameter.
        kept: the old values of the parameters, by id of the parameter.
    """

    given: dict[int, Tensor]
    kept: dict[int, Tensor]

    def _take(self, only: Container[int] | None) -> tuple[list[int] | None, AnyBatch | None]:
        places = [place for place, p in enumerate(self._parameters) if id(p) in self.given]
        tensors = [self.given[id(self._parameters[place])] for place in places]
        return None if len(places) == len(self._parameters) else places, make_batch(
            tensors
        ) if tensors else None


class ShardedDifferences(ShardedGradients):
    """This rank's part of the changes of all parameters.

    Attributes:
        given: by id of the parameter.
        kept: this rank's part of the old values of the parameters, by id of the parameter.
    """

    given: dict[int, Tensor]
    kept: dict[int, Tensor]

    def collect(self, only: Container[int] | None = None) -> AnyBatch | None:
        places = tuple(i for i, own in enumerate(self._own) if only is None or id(own) in only)
        self.here = [self._own[place] is not None for place in places]
        every = self._held(self.given)
        return self._laid_out(make_batch([every[place] for place in places]), places) if places else None

    def weights(self) -> list[Tensor]:
        return self._held(self.kept)

    def _held(self, by_id: dict[int, Tensor]) -> list[Tensor]:
        return [by_id.get(id(own), none) for own, none in zip(self._own, self._nothing, strict=True)]
