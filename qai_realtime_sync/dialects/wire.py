"""JSON in and out, with orjson where it is installed and the same values where it is not (the only importer of orjson).

Both readers give the same values: what orjson refuses (lone surrogates, whole numbers beyond a double) goes to the standard
library, and that reads whole numbers beyond 64 bits as floats, as orjson does. ``NaN`` and infinities are refused both ways.
"""

from __future__ import annotations

import enum
import json
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

try:
    import orjson
except ImportError:  # the extra "fast" is not installed
    orjson = None  # type: ignore[assignment]

__all__ = ["dumps", "dumps_plain", "loads", "loads_plain", "loads_usual"]

Data: TypeAlias = "str | bytes | bytearray | memoryview"


# -- reading -----------------------------------------------------------------------------------------------------------------


def _whole(text: str) -> int | float:
    """A JSON whole number; beyond 64 bits a float, beyond a float a (Python) whole number again."""
    value = int(text)
    if -(2**63) <= value < 2**64:
        return value
    try:
        return float(value)
    except OverflowError:
        return value


def _real(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number out of range: {text[:20]}")
    return value


def _constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


_read = json.JSONDecoder(parse_int=_whole, parse_float=_real, parse_constant=_constant).decode


def loads_plain(data: Data) -> Any:
    """Read JSON text with the standard library. Raises: `ValueError` for anything that is not JSON or nested too deep to read."""
    try:
        return _read(data if isinstance(data, str) else str(data, "utf-8"))
    except (RecursionError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _loads_fast(data: Data) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return loads_plain(data)


# -- writing -----------------------------------------------------------------------------------------------------------------


def _foreign(value: Any) -> Any:
    """Spell what is not JSON by itself but has one obvious form: any mapping, an enum member by its value, a UUID as text."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


_write = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_foreign).encode
_write_ascii = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_foreign).encode


def dumps_plain(value: Any) -> bytes:
    """Write compact UTF-8 JSON with the standard library. Raises: `ValueError` for what JSON cannot say."""
    try:
        try:
            return _write(value).encode()
        except UnicodeEncodeError:  # a lone surrogate: only an escape can carry it
            return _write_ascii(value).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _finite(value: Any) -> None:
    """Refuse a NaN or infinity anywhere in a value that was already written, so it has no circle. Raises: `ValueError`."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be written as JSON")
    elif isinstance(value, Mapping):
        for part in value.values():
            _finite(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _finite(part)
    elif isinstance(value, enum.Enum):
        _finite(value.value)


def _dumps_fast(value: Any) -> bytes:
    try:
        text = orjson.dumps(value, _foreign, orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)
    except TypeError:
        return dumps_plain(value)
    if b"null" in text:  # orjson writes NaN and infinities as null
        _finite(value)
    return text


loads: Callable[[Data], Any] = _loads_fast if orjson is not None else loads_plain
"""Read JSON: text, bytes or a memoryview. Raises: `ValueError` for anything that is not JSON."""

loads_usual: Callable[[Data], Any] = orjson.loads if orjson is not None else loads_plain
"""As `loads`, by its first reader alone and without the detour: refuses the little more that `loads` can read. Raises: `ValueError`."""

dumps: Callable[[Any], bytes] = _dumps_fast if orjson is not None else dumps_plain
"""Write compact UTF-8 JSON. Raises: `ValueError` for what JSON cannot say."""
