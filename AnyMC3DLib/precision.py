"""Holding a model's weights in 16 bits for a while, and which precision a device is good at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Names as in a plugin's recipe and in a prediction's provenance.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Their statistics are sums over many values, and their layers take inputs in 16 bits all the same.
KEPT_IN_FLOAT32 = (nn.BatchNorm1d, nn.BatchNorm2d)


def name_of(dtype: torch.dtype) -> str:
    """The precision's name, such as 'bfloat16'."""
    return str(dtype).removeprefix("torch.")


def best_precision(device: torch.device) -> torch.dtype:
    """The precision in which `device` answers fastest without moving probabilities by more than about 0.01."""
    if device.type != "cuda":
        return torch.float32
    major, _ = torch.cuda.get_device_capability(device)
    # Tensor cores take float16 from Volta on, bfloat16 from Ampere on.
    return torch.bfloat16 if major >= 8 else torch.float16 if major >= 7 else torch.float32


class LoweredWeights:
    """The float32 weights of a model, kept on the CPU while the model holds 16-bit ones.

    Tensors are exchanged once all are made: where memory does not suffice for them, the model stays as it was.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._model = model
        self._full: dict[tuple[str, str], Tensor] = {}
        lowered: dict[tuple[str, str], Tensor] = {}
        with torch.no_grad():
            for name, module in model.named_modules():
                if isinstance(module, KEPT_IN_FLOAT32):
                    continue
                for own, tensor in _own_tensors(module):
                    if tensor.dtype == torch.float32:
                        self._full[name, own] = tensor.cpu()
                        lowered[name, own] = tensor.to(dtype)
        self._put(lowered)

    def restore(self) -> None:
        """Put the float32 weights back, bit for bit, on the device where the model is now."""
        device = next(self._model.parameters()).device
        self._put({place: tensor.to(device) for place, tensor in self._full.items()})

    def _put(self, tensors: dict[tuple[str, str], Tensor]) -> None:
        for (name, own), tensor in tensors.items():
            _set(self._model.get_submodule(name), own, tensor)


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    parameters = list(module.named_parameters(recurse=False))
    return [*((name, p.data) for name, p in parameters), *module.named_buffers(recurse=False)]


def _set(module: nn.Module, name: str, tensor: Tensor) -> None:
    if name in module._parameters:
        module._parameters[name].data = tensor
    else:
        module._buffers[name] = tensor
