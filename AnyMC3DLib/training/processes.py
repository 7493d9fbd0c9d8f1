"""One process, or several that train together: each takes its share of every batch, and gradients are added up.

Accelerate finds out what the launcher has started and on which device (`accelerate launch`, `torchrun`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
import torch.distributed
from torch import Tensor, nn


class Processes:
    """This process among all that train; `device` is the one that is its own, "auto" where it is alone."""

    def __init__(self) -> None:
        self.rank, self.count, self.device = 0, 1, "auto"
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Not needed, and seconds to import, where there is one process.
            from accelerate import PartialState

            wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
            state = PartialState(cpu=wants_cpu or not torch.cuda.is_available())
            self.rank, self.count, self.device = state.process_index, state.num_processes, str(state.device)

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have made."""
        return self.rank == 0

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's part of what all have."""
        return items[self.rank :: self.count]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every gradient the sum over all processes; one that no process has stays away, as with one alone."""
        if self.count == 1:
            return
        wanted = [p for p in parameters if p.requires_grad]
        having = torch.tensor([float(p.grad is not None) for p in wanted], device=_device_of_messages())
        torch.distributed.all_reduce(having)
        wanted = [p for p, count in zip(wanted, having.tolist(), strict=True) if count]
        if not wanted:
            return
        for parameter in wanted:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1).float() for p in wanted])
        torch.distributed.all_reduce(flat)
        for parameter, part in zip(wanted, flat.split([p.numel() for p in wanted]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))

    def sum(self, value: float) -> float:
        """The sum over all processes."""
        if self.count == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=_device_of_messages())
        torch.distributed.all_reduce(total)
        return float(total)

    def whole(self, part: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """All processes' shares as one list on the CPU, in the order that `share` parted it."""
        if self.count == 1:
            return [dict(item) for item in part]
        result: dict[int, dict[str, Tensor]] = {}
        for rank, content in enumerate(self._everyones(_packed(part))):
            for key, tensor in safetensors.torch.load(content).items():
                number, name = key.split("/", 1)
                result.setdefault(int(number) * self.count + rank, {})[name] = tensor
        return [result[number] for number in sorted(result)]

    def _everyones(self, content: bytes) -> list[bytes]:
        """The bytes that each process brings."""
        device = _device_of_messages()
        size = torch.tensor([len(content)], device=device)
        sizes = [torch.zeros_like(size) for _ in range(self.count)]
        torch.distributed.all_gather(sizes, size)
        own = torch.zeros(int(max(sizes)), dtype=torch.uint8)
        own[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        found = [torch.zeros_like(own, device=device) for _ in range(self.count)]
        torch.distributed.all_gather(found, own.to(device))
        return [tensor.cpu().numpy()[: int(n)].tobytes() for tensor, n in zip(found, sizes, strict=True)]

    def agree(self, wish: bool) -> bool:
        """Whether any process wishes so: all of them do, or none."""
        return self.sum(float(wish)) > 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            torch.distributed.barrier()


def _device_of_messages() -> torch.device:
    backend = torch.distributed.get_backend()
    return torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")


def _packed(items: Sequence[Mapping[str, Tensor]]) -> bytes:
    """Not pickled, as nothing is."""
    named = {f"{number}/{name}": tensor for number, item in enumerate(items) for name, tensor in item.items()}
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()})
