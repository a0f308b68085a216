"""Models whose examples have no gradients of their own, or not here: refused before anything is computed."""

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from clipwise.errors import ArgumentError, ParameterError

__all__ = ["refuse_models", "refuse_parameters"]


def refuse_models(model: nn.Module) -> None:
    """Raise ArgumentError for a module that mixes the examples of a batch or distributes the model."""
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"{name or 'the model'!r} ({type(module).__name__})"
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ArgumentError(
                f"{where} normalises each example by the others in its batch, so an example has no gradient"
                " of its own: use torch.nn.GroupNorm, or put the layer into eval mode, which freezes its"
                " statistics (module.eval() after model.train())"
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and (
            module.scale_grad_by_freq or module.max_norm is not None
        ):
            option = "scale_grad_by_freq" if module.scale_grad_by_freq else "max_norm"
            raise ArgumentError(
                f"{where} has {option}, which makes the gradient of an example depend on the other examples:"
                f" remove {option}"
            )
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise ArgumentError(
                f"{where} splits the batch over processes or devices: pass the wrapped module,"
                " model.module, and average the gradients over the ranks before the step"
            )


def refuse_parameters(parameters: dict[str, Tensor]) -> None:
    """Raise ParameterError for parameters that are lazy, complex, sharded, or on several devices."""
    if not parameters:
        raise ParameterError("the model has no parameter that requires a gradient")
    device = next(iter(parameters.values())).device
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise ParameterError(f"{name!r} has no shape yet: run the model once before per_example")
        if isinstance(parameter, DTensor) or type(parameter).__name__ == "FlatParameter":
            raise ParameterError(
                f"{name!r} is sharded over ranks; per_example needs the whole model on each rank"
            )
        if parameter.device != device:
            raise ParameterError(
                f"{name!r} is on {parameter.device} and others on {device}; per_example needs a model on one"
                " device"
            )
        if parameter.is_complex():
            raise ParameterError(f"{name!r} is complex; per_example takes real parameters")
