"""Requests for any RPC of the contract: proper ones, strange ones, and bytes that are none."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.fuzz.dice import Dice
from tidegate.v1 import admin_service_pb2, buffer_service_pb2, delivery_service_pb2

METHODS: list[MethodDescriptor] = [
    method
    for file in (buffer_service_pb2, delivery_service_pb2, admin_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]

_NAMES = {
    "instance": ("bot", "b.1", "", "no/slash"),
    "conversation": ("anna", "a/b", "{p0}:x", ""),
    "id": ("m1", "m2", ""),
    "message_id": ("m1", "m2", ""),
    "subscriber_id": ("fuzz", ""),
    "batch_id": ("0-1-1", "", "x y", "9-9-9"),
    "page_token": ("", "MTow", "e30="),
}
_BOUNDS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_ENUM: (-(2**31), 2**31 - 1),
}


def request(dice: Dice, method: MethodDescriptor) -> bytes:
    """The bytes of a request."""
    kind = dice.below(8)
    if kind == 7:
        return dice.rest()
    found = message(dice, GetMessageClass(method.input_type)())
    return dice.mutated(found) if kind == 6 else found


def message(dice: Dice, empty: Any) -> bytes:
    """A message with its fields filled in, most of them well."""
    fill(dice, empty)
    return empty.SerializeToString()


def fill(dice: Dice, empty: Any, depth: int = 4) -> None:
    """Fill in some of the fields."""
    fields: Iterable[FieldDescriptor] = empty.DESCRIPTOR.fields
    for field in fields:
        if not dice.often():
            continue
        if _is_map(field):
            entries = getattr(empty, field.name)
            for _ in range(dice.pick((1, 0, 2, 33))):
                entries[dice.text()] = dice.text()
        elif field.is_repeated:
            _fill_list(dice, getattr(empty, field.name), field, depth)
        elif field.message_type:
            getattr(empty, field.name).SetInParent()
            if depth:
                fill(dice, getattr(empty, field.name), depth - 1)
        else:
            setattr(empty, field.name, _scalar(dice, field))


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _fill_list(dice: Dice, values: Any, field: FieldDescriptor, depth: int) -> None:
    for _ in range(dice.pick((1, 1, 2, 0, 3, 101))):
        if field.message_type is None:
            values.append(_scalar(dice, field))
        elif depth:
            entry: Message = values.add()
            fill(dice, entry, depth - 1)


def _scalar(dice: Dice, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return dice.pick(_NAMES.get(field.name, ("x",))) if dice.often() else dice.text()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return dice.take()
    if field.type == FieldDescriptor.TYPE_BOOL:
        return dice.below(2) == 1
    return dice.number(*_BOUNDS[field.type])
