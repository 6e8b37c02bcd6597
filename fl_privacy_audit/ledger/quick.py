"""Audited records as this version writes them, decoded several times as fast as by the models in `records`.

The types are made from those models, and take a line only where every field is there and of the plain
type. All others are left to the models, which alone say what is wrong with a line. What a reader gets
has the fields and properties of the model, and the same values; it is not an instance of it.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache, reduce
from operator import or_
from types import FunctionType, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from pydantic import AfterValidator, BaseModel, TypeAdapter

from fl_privacy_audit.core.reasons import Reason

from .records import (
    AttackOutcome,
    AuditRecord,
    ControlOutcome,
    Count,
    ReplayCheck,
    Scores,
    Why,
    in_range,
)

_STRUCTS = (AuditRecord, AttackOutcome, ControlOutcome, ReplayCheck, Scores)
"""Whose fields are decoded one by one. Other models say the same on most lines, word for word."""
_REMEMBERED = 1024
"""Different values of a field that are kept at most."""
_DEEP = 100
"""Brackets from which on a value may be too deep for the models, which count them from the line's start."""
_Short = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Step = Callable[[Any], Any]


def quick_record(line: bytes) -> AuditRecord | None:
    """An audited record; None where the line has to go to the models."""
    try:
        return cast(AuditRecord, _DECODER.decode(line))
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _struct(model: type[BaseModel]) -> Any:
    """The quick form of a model; all its fields must be there."""
    fields, steps = [], []
    for name, annotation in get_type_hints(model, include_extras=True).items():
        if name in model.model_fields:
            plain, step = _plain(name, annotation)
            fields.append((name, plain))
            if step:
                steps.append((name, step))
    namespace: dict[str, Any] = {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, FunctionType | property) and not name.startswith("_")
    }
    if steps:
        namespace["__post_init__"] = _applied(steps)
    return msgspec.defstruct(
        model.__name__, fields, namespace=namespace, forbid_unknown_fields=True, gc=False
    )


def _applied(steps: list[tuple[str, Step]]) -> Callable[[Any], None]:
    def apply(decoded: Any) -> None:
        for name, step in steps:
            setattr(decoded, name, step(getattr(decoded, name)))

    return apply


def _plain(name: str, annotation: Any) -> tuple[Any, Step | None]:
    """What is decoded for a field, and what makes its value of that."""
    if name == "node_id":  # the only numbers that fill all of a `Count`
        return int, in_range
    if get_origin(annotation) is Annotated:
        plain, *checks = get_args(annotation)
        if len(checks) == 1 and isinstance(checks[0], AfterValidator) and _is_plain(plain):
            return plain, cast(Step, checks[0].func)
    found = _quick(annotation)
    return (msgspec.Raw, _remembering(annotation)) if found is None else (found, None)


def _quick(annotation: Any) -> Any:
    """The annotation with quick forms in place of models; None where there is none."""
    if annotation == Count:
        return _Short
    if annotation in (Reason | None, Why | None):
        return Reason | None
    if _is_plain(annotation):
        return annotation
    if annotation in _STRUCTS:
        return _form(annotation)
    origin, parts = get_origin(annotation), get_args(annotation)
    inner = [_quick(part) for part in parts]
    if not parts or None in inner:
        return None
    return reduce(or_, inner) if origin in (Union, UnionType) else origin[tuple(inner)]


def _is_plain(annotation: Any) -> bool:
    if annotation in (str, int, float, bool, NoneType) or get_origin(annotation) is Literal:
        return True
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType) and sum(get_origin(p) in (list, tuple) for p in parts) > 1:
        return False
    return origin in (list, dict, tuple, Union, UnionType) and all(map(_is_plain, parts))


def _remembering(annotation: Any) -> Step:
    """Validates a value of which only the text is known, and knows it when it comes again."""
    adapter = TypeAdapter(annotation)

    @lru_cache(_REMEMBERED)
    def validated(text: bytes) -> Any:
        if text.count(b"[") + text.count(b"{") > _DEEP:
            raise ValueError
        return adapter.validate_json(text)

    return lambda raw: validated(bytes(raw))


_reason = _remembering(Reason)


def _model(kind: type, value: Any) -> Any:
    """A reason, where there is one; a reason in words is left to the models."""
    if kind is not Reason or not isinstance(value, dict):
        raise ValueError
    return _reason(msgspec.json.encode(value))


@lru_cache(None)
def _form(model: Hashable) -> Any:
    return _struct(cast(type[BaseModel], model))


_DECODER = msgspec.json.Decoder(_form(AuditRecord), dec_hook=_model)
