"""What a pickle of PyTorch's would make, looked at before anything is made.

PyTorch's own reader runs no foreign code, but a pickle of some kilobytes can let it copy a large list a thousand times.
So the operations are followed here with the sizes of things alone; weights need few of them.
"""

from __future__ import annotations

import dataclasses
import pickle
import pickletools
from collections.abc import Callable, Sequence
from typing import IO, Any

from ..errors import BackboneError

# What state dicts, and the arguments that training programs leave beside them, are made with.
NAMES = {
    *("collections OrderedDict", "argparse Namespace", "torch Size", "torch device"),
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
    *(f"torch {kind}Storage" for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char",
                                         "Byte", "Bool")),
    *(f"torch {name}" for name in ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8",
                                   "uint8", "bool")),
}  # fmt: skip
# A tensor has few axes, and nothing else is called with more.
LONGEST_ARGUMENT = 16
# What state dicts remember of their modules is kept as attributes.
MOST_ATTRIBUTES = 50_000


@dataclasses.dataclass
class _Thing:
    """What lies on the stack: how many items it has, and for a tuple which."""

    size: int = 0
    items: Sequence[_Thing] = ()
    is_dict: bool = False


class _Machine:
    """Follows the operations that PyTorch's reader knows."""

    def __init__(self, of: str) -> None:
        self.of = of
        self.stack: list[_Thing] = []
        self.marks: list[int] = []
        self.memo: dict[int, _Thing] = {}
        self.attributes = 0

    def run(self, stream: IO[bytes]) -> None:
        for operation, argument, _ in pickletools.genops(stream):
            step = STEPS.get(operation.name)
            if step is None:
                raise self.refusal(operation.name)
            step(self, argument)

    def refusal(self, what: str) -> BackboneError:
        return BackboneError(
            f"'{self.of}' holds more than weights ({what[:60]!r}): give the file of a state dict alone."
        )

    def push(self, thing: _Thing) -> None:
        self.stack.append(thing)

    def since_mark(self) -> list[_Thing]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def value(self, argument: Any) -> None:
        self.push(_Thing(len(argument) if isinstance(argument, (str, bytes)) else 0))

    def name(self, argument: str) -> None:
        if argument not in NAMES:
            raise self.refusal(argument.split(" ")[-1])
        self.push(_Thing())

    def dictionary(self, _: Any) -> None:
        self.push(_Thing(is_dict=True))

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pack(self, items: Sequence[_Thing]) -> None:
        self.push(_Thing(len(items), items))

    def pack_last(self, count: int) -> None:
        items = self.stack[-count:]
        del self.stack[-count:]
        self.pack(items)

    def extend(self, items: Sequence[_Thing]) -> None:
        self.stack[-1].size += len(items)

    def extend_by(self, count: int) -> None:
        del self.stack[-count:]
        self.stack[-1].size += count

    def call(self, _: Any) -> None:
        arguments = self.stack.pop()
        self.stack.pop()
        if max((thing.size for thing in (arguments, *arguments.items)), default=0) > LONGEST_ARGUMENT:
            raise self.refusal("a call with many values")
        # Of what weights are made with, none but a dict can be filled afterwards.
        self.push(_Thing(is_dict=True))

    def set_attributes(self, _: Any) -> None:
        state = self.stack.pop()
        self.attributes += state.size
        if not state.is_dict or self.attributes > MOST_ATTRIBUTES:
            raise self.refusal("many attributes")

    def load(self, _: Any) -> None:
        self.stack.pop()
        self.push(_Thing())

    def keep(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def recall(self, number: int) -> None:
        self.push(self.memo[number])

    def ignore(self, _: Any) -> None:
        """An operation that changes nothing."""


STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "GLOBAL": _Machine.name,
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.pack(machine.since_mark()),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    **{f"TUPLE{n}": lambda machine, _, n=n: machine.pack_last(n) for n in (1, 2, 3)},  # type: ignore[misc]
    "APPEND": lambda machine, _: machine.extend_by(1),
    "SETITEM": lambda machine, _: machine.extend_by(2),
    "EMPTY_DICT": _Machine.dictionary,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "BUILD": _Machine.set_attributes,
    "BINPERSID": _Machine.load,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.keep),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("PROTO", "STOP"), _Machine.ignore),
    **dict.fromkeys(
        ("NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_SET", "BININT", "BININT1", "BININT2",
         "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1"),
        _Machine.value,
    ),
}  # fmt: skip


def check_pickle(stream: IO[bytes], *, of: str) -> None:
    """Follow one pickle from where the stream stands to its end.

    Raises BackboneError if reading it would make other things than weights by name, or much out of little, and
    pickle.UnpicklingError if it is damaged.
    """
    try:
        _Machine(of).run(stream)
    except (LookupError, ValueError, AttributeError) as error:
        raise pickle.UnpicklingError("damaged") from error
