"""A file of weights for a backbone that has a name already: one that a person gives, or that of the hub's cache.

It is read as strictly as an import: nothing is resampled, and each tensor must have its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from .architecture import Architecture
from .building import build_network, difference
from .errors import BackboneError
from .foreign.checkpoint import Checkpoint
from .foreign.layout import Converted
from .foreign.timm_layout import TimmLayout

# What a config may say without making another network than the named one: sizes are compared by the tensors.
NO_TRAITS = ("num_classes", "img_size")


@dataclasses.dataclass(frozen=True)
class GivenFile:
    """The layout of a file that timm can read, for the network `built` of a backbone and for no other.

    `own` is that network with its size and its usual colours, by timm's name without a tag; `library` stands for the
    backbone's name in what is said of the file.
    """

    built: Architecture
    own: Architecture
    library: str
    family: str = "timm's network"

    def matches(self, checkpoint: Checkpoint) -> bool:
        """The user has said that it is."""
        return True

    def convert(self, checkpoint: Checkpoint) -> Converted:
        """The weights without the classifier, with the colours of the config beside them where it states any.

        Raises BackboneError if they are another network's, or were trained for slices of another size.
        """
        stated = checkpoint.config if checkpoint.config.get("architecture") == self.own.timm else {}
        described = dataclasses.replace(checkpoint, config=self._described(stated))
        try:
            converted = TimmLayout(model=self.built.timm).convert(described)
        except BackboneError as error:
            what, _, _ = str(error).partition(": ")
            raise BackboneError(
                f"These are not the weights of {self.library}: {what}; give the file that was published for it."
            ) from error
        self._check_traits(stated)
        self._check_positions(converted)
        made = dataclasses.replace(self.built, mean=converted.architecture.mean, std=converted.architecture.std)
        return Converted(made, converted.tensors, converted.dropped)

    def _described(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """timm's config for the named network, with the colours that `stated` has."""
        given = stated.get("pretrained_cfg", stated)
        given = given if isinstance(given, Mapping) else {}
        colours = {"mean": list(self.own.mean), "std": list(self.own.std)}
        colours |= {name: given[name] for name in colours if given.get(name) is not None}
        return {
            "architecture": self.own.timm,
            "model_args": dict(self.own.model_args),
            "pretrained_cfg": {**colours, "input_size": [3, *self.own.input_size]},
        }

    def _check_traits(self, stated: Mapping[str, Any]) -> None:
        """Raise BackboneError if the config beside the file asks for another network under the same name."""
        arguments = stated.get("model_args")
        arguments = arguments if isinstance(arguments, Mapping) else {}
        merged = {**self.own.model_args, **{n: v for n, v in arguments.items() if n not in NO_TRAITS}}
        found = difference(dataclasses.replace(self.own, model_args=merged), self.own)
        if found is not None:
            raise BackboneError(
                f"The config beside the file describes a network whose {found.trait} is {found.first}, but that of "
                f"{self.library} is {found.second}: install the file under a name of its own with 'anymc3d backbone "
                "import'."
            )

    def _check_positions(self, converted: Converted) -> None:
        with torch.device("meta"):
            wanted = build_network(self.built).state_dict()
        for name, tensor in converted.tensors.items():
            shapes = [tuple(tensor.shape), tuple(wanted[name].shape)] if name in wanted else []
            # Where the width differs too, they are another network's.
            if shapes and "pos_embed" in name and shapes[0] != shapes[1] and shapes[0][-1] == shapes[1][-1]:
                here, there = ("x".join(map(str, shape)) for shape in shapes)
                raise BackboneError(
                    f"The file has positions for another size of slices than {self.library} ('{name}' is {here} "
                    f"instead of {there}), and they are not resampled here: install it under a name of its own with "
                    f"'anymc3d backbone import FILE --as NAME --model {self.own.timm}'."
                )
