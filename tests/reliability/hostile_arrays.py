"""Weights that nobody would send on purpose: changes to the arrays of an honest reply, by name."""

import io
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord

from .hostile import (
    ESCAPE,
    LONG,
    MANY,
    Mutator,
    Turn,
    extra,
    force,
    label,
    odd_names,
    rekeyed,
    without,
)

Changed = Callable[[np.ndarray[Any, Any]], Any]


def first(turn: Turn) -> str:
    return next(iter(turn.weights), "0.weight")


def each(change: Changed) -> Mutator:
    """Change every array."""

    def mutate(turn: Turn) -> None:
        for name, array in list(turn.weights.items()):
            force(turn.weights, name, Array(np.asarray(change(array.numpy()))))

    return mutate


def one(change: Changed) -> Mutator:
    """Change the first array."""

    def mutate(turn: Turn) -> None:
        for name in list(turn.weights)[:1]:
            force(turn.weights, name, Array(np.asarray(change(turn.weights[name].numpy()))))

    return mutate


def labelled(**fields: Any) -> Mutator:
    """What stands beside the bytes of the first array lies."""

    def mutate(turn: Turn) -> None:
        for name in list(turn.weights)[:1]:
            array = turn.weights[name]
            honest = {n: getattr(array, n) for n in ("dtype", "shape", "stype", "data")}
            lie = Array(**honest)
            lie.__dict__.update(fields)
            force(turn.weights, name, lie)

    return mutate


def header(text: str, body: bytes = b"\0" * 64) -> Mutator:
    """Bytes of NumPy's format with a header of our own."""
    line = text.encode() + b"\n"
    return labelled(data=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + body)


def shaped(shape: str, kind: str = "<f4") -> Mutator:
    return header(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}")


def raw(change: Callable[[bytes], bytes]) -> Mutator:
    def mutate(turn: Turn) -> None:
        for name in list(turn.weights)[:1]:
            labelled(data=change(turn.weights[name].data))(turn)

    return mutate


def many_arrays(turn: Turn) -> None:
    array = Array(np.zeros(1, np.float32))
    turn.weights.__dict__["_data"].update({f"layer {n}": array for n in range(MANY)})


def other_names(change: Callable[[int, str], str]) -> Mutator:
    def mutate(turn: Turn) -> None:
        data = turn.weights.__dict__["_data"]
        items = list(data.items())
        data.clear()
        data.update({change(number, name): array for number, (name, array) in enumerate(items)})

    return mutate


def backwards(turn: Turn) -> None:
    data = turn.weights.__dict__["_data"]
    items = list(data.items())
    data.clear()
    data.update(reversed(items))


def archive() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(2))
    return file.getvalue()


class Execute:
    """A pickle that would end the process that loads it."""

    def __reduce__(self) -> Any:
        import os

        return os._exit, (3,)


RECORDS: dict[str, Mutator] = {
    "no weights": without(ArrayRecord),
    "record of weights is empty": lambda turn: turn.weights.__dict__["_data"].clear(),
    "a second record of weights": extra("more", lambda: ArrayRecord({"w": Array(np.zeros(2))})),
    "a second record of weights, first": lambda turn: turn.reply.content.__dict__.update(
        {"_data": {"a": ArrayRecord({"w": Array(np.zeros(2))}), **dict(turn.reply.content)}}
    ),
    "weights under another key": rekeyed(ArrayRecord, "other"),
    "weights under a key of control characters": rekeyed(ArrayRecord, ESCAPE),
    "weights under a long key": rekeyed(ArrayRecord, LONG),
    "weights under several odd keys": lambda turn: turn.reply.content.__dict__["_data"].update(
        {key: ArrayRecord() for key in (ESCAPE, LONG, "\udc80")}
    ),
    "an array is missing": lambda turn: turn.weights.__dict__["_data"].pop(first(turn), None),
    "an array too many": lambda turn: force(turn.weights, "extra", Array(np.zeros(3))),
    "100,000 arrays too many": many_arrays,
    "an array is no array": lambda turn: force(turn.weights, first(turn), 7),
    "an array's name is a number": lambda turn: force(turn.weights, 7, Array(np.zeros(1))),
    **odd_names(lambda turn: turn.weights, "array has a name"),
    "arrays are numbered": other_names(lambda number, name: str(number)),
    "arrays are numbered in Arabic": other_names(lambda number, name: chr(0x660 + number)),
    "arrays have numbers of 5000 digits": other_names(lambda number, name: f"{number}" * 5000),
    "arrays have Opacus's names": other_names(lambda number, name: f"_module.{name}"),
    "arrays have names of nested wrappers": other_names(
        lambda number, name: "_orig_mod." * 1000 + name
    ),
    "arrays in another order": backwards,
    "an array under two names": lambda turn: force(
        turn.weights, f"module.{first(turn)}", turn.weights.get(first(turn), Array(np.zeros(1)))
    ),
}

VALUES: dict[str, Mutator] = {
    "weights are not numbers": each(lambda a: a * np.nan),
    "one weight is not a number": one(lambda a: np.where(np.arange(a.size) == 0, np.nan, a.flat)),
    "weights are infinite": each(lambda a: np.full_like(a, np.inf)),
    "weights are huge": each(lambda a: np.full_like(a, 3e38)),
    "weights are huge in float64": each(lambda a: np.full(a.shape, 1e308)),
    "weights are tiny": each(lambda a: np.full_like(a, 1e-45)),
    "weights are zero": each(np.zeros_like),
    **{
        f"weights are {kind}": each(lambda a, kind=kind: a.astype(kind))  # type: ignore[misc]
        for kind in (
            "float16",
            "float64",
            "longdouble",
            "int8",
            "int64",
            "uint64",
            "bool",
            "complex64",
            ">f4",
            "S8",
            "U8",
        )
    },
    "weights are dates": each(lambda a: a.astype("int64").astype("datetime64[s]")),
    "weights are spans of time": each(lambda a: a.astype("int64").astype("timedelta64[s]")),
    "weights have fields": each(lambda a: np.zeros(a.shape, [("a", "f4"), ("b", "i8")])),
    "weights are bytes": each(lambda a: np.zeros(a.shape, "V4")),
    "weights have no numbers": each(lambda a: a[:0]),
    "weights are single numbers": each(lambda a: a.sum()),
    "weights have an axis more": each(lambda a: a[None]),
    "weights have 32 axes more": each(lambda a: a.reshape((1,) * 30 + a.shape)),
    "weights are turned": each(lambda a: a.T),
    "weights are in Fortran's order": each(np.asfortranarray),
    "weights are flat": each(np.ravel),
    "weights are twice as many": each(lambda a: np.concatenate([a, a])),
}

BYTES: dict[str, Mutator] = {
    "no bytes": labelled(data=b""),
    "other bytes": labelled(data=b"\xff\xfe" * 100),
    "bytes are cut off": raw(lambda data: data[: len(data) // 2]),
    "bytes are cut off in the header": raw(lambda data: data[:9]),
    "more bytes": raw(lambda data: data + b"\0" * 10_000),
    "bytes of the next version": raw(lambda data: data[:6] + b"\x09" + data[7:]),
    "bytes of an archive": labelled(data=archive()),
    "bytes of a pickle": labelled(data=pickle.dumps(Execute())),
    "bytes of pickled objects": header(
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", pickle.dumps(Execute())
    ),
    "bytes are text": labelled(data=ESCAPE.encode()),
    "bytes are no bytes": labelled(data=ESCAPE),
    "bytes are nothing": labelled(data=None),
    "header says a negative shape": shaped("(-1,)"),
    "header says a huge shape": shaped(f"({2**40},)"),
    "header says a shape beyond 64 bit": shaped(f"({2**70}, {2**70})"),
    "header says no numbers": shaped("(0, 5)"),
    "header says no tuple": shaped("'x'"),
    "header says true": shaped("(True, True)"),
    "header says an odd type": shaped("(2,)", "<f3"),
    "header is code": header("__import__('os')._exit(3)"),
    "header is deeply nested": header("[" * 5000),
    "header is long": header("{'a': '" + "x" * 60000 + "'}"),
    **{
        f"is said to be {label(kind)}": labelled(dtype=kind)
        for kind in ("float8_e4m3fn", "bfloat16", "int4", "object", "", ESCAPE, LONG, "\udc80")
    },
    "type is a number": labelled(dtype=7),
    "type is nothing": labelled(dtype=None),
    **{
        f"is said to have shape {label(shape)}": labelled(shape=shape)
        for shape in ((-1,), (0,), (2**70,), (1,) * 1000, ("a",), None, 7)
    },
    **{
        f"is said to be stored as {label(stype)}": labelled(stype=stype)
        for stype in ("", "pickle", ESCAPE, LONG, None, 7)
    },
}

ARRAYS: dict[str, Mutator] = {**RECORDS, **VALUES, **BYTES}
