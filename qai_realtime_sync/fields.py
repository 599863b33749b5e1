"""How the small classes of the vocabulary compare and show themselves: by their fields, in one place for all of them.

attrs would write and compile the same methods once for each of about a hundred classes, which was a third of the time in which a program
that uses this package starts. What is on the hot path, the constructors, attrs still generates.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ByFields", "FrozenByFields"]


class ByFields:
    """The base of a class made by ``attrs.define(eq=False, repr=False)`` that compares and shows itself as attrs would do it.

    Two objects are equal if they are of the same class and their fields are, but for those with ``eq=False``; they have no hash. The text
    form names every field, but for those with ``repr=False``.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return all(getattr(self, field.name) == getattr(other, field.name) for field in _fields(self) if field.eq)

    @reprlib.recursive_repr("...")
    def __repr__(self) -> str:
        shown = (f"{f.name}={_show(f.repr, getattr(self, f.name))}" for f in _fields(self) if f.repr)
        return f"{type(self).__qualname__.rsplit('>.', 1)[-1]}({', '.join(shown)})"


class FrozenByFields(ByFields):
    """As `ByFields`, for ``attrs.frozen(eq=False, repr=False)``: equal objects have the same hash, if all their fields have one."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:  # defined again, because a class that defines neither of both loses the hash
        return ByFields.__eq__(self, other)

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(self, field.name) for field in _fields(self) if field.eq)))


def _fields(value: ByFields) -> tuple[attrs.Attribute[Any], ...]:
    return attrs.fields(type(value))  # type: ignore[arg-type, no-any-return]


def _show(wanted: bool | Callable[[Any], str], value: Any) -> str:
    return repr(value) if wanted is True else wanted(value)  # type: ignore[operator]
