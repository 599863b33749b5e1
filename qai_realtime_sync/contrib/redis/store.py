"""Redis as the other files see it: keys, calls that give text, and errors in our words (the only importer of `redis`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from qai_realtime_sync.contrib.redis.about import About
from qai_realtime_sync.errors import ConfigError, ConnectError

try:
    import redis
except ImportError as error:
    raise ConfigError(
        f"sharing conversations over Redis needs the package redis ({error}); pip install 'qai-realtime-sync[redis]'",
        code="missing_dependency",
    ) from error

__all__ = ["DAY", "KEPT", "KEPT_SHORT", "Keys", "Store", "milliseconds"]

DAY: Final = 86_400_000  # ms; what nobody cleaned up is forgotten after a day
KEPT: Final = 600_000  # ms that the outcome of a command is known, and the same one not done again
KEPT_SHORT: Final = 60_000
LIVE: Final = "qai:live"
_BLOCK: Final = 1.0  # seconds that a call waits in Redis at most, so that its thread can be stopped


class Keys:
    """The keys of one conversation; the braces put them into one slot of a cluster.

    Raises: `ConfigError` for an id that cannot be one.
    """

    def __init__(self, conversation_id: str) -> None:
        wrong = not isinstance(conversation_id, str) or not 0 < len(conversation_id) <= 200 or not conversation_id.isprintable()
        if wrong or set(conversation_id) & set("{} "):
            raise ConfigError(f"a conversation id is text of 1 to 200 characters without braces and spaces, not {conversation_id!r}")
        self._prefix = f"qai:{{{conversation_id}}}:"
        self.owner, self.about, self.events, self.commands = (self._prefix + name for name in ("owner", "about", "events", "commands"))
        self.all = (self.owner, self.about, self.events, self.commands)

    def of_command(self, name: str, command_id: str) -> str:
        """A key of one command: ``taken`` or ``outcome``."""
        return f"{self._prefix}{name}:{command_id}"


class Store:
    """A Redis server: an address (``redis://host:6379/0``, ``rediss://…``, ``unix://…``), or a client of the package `redis`.

    From an address a client is made that notices a server that does not answer, and does not repeat by itself; it is closed by `close`.
    A client that is given stays the program's; one that waits for answers shorter than two seconds is refused.

    Every call raises `ConnectError` when Redis is away, or cannot do what it is asked.
    """

    def __init__(self, server: Any) -> None:
        self._own = isinstance(server, str)
        if self._own:
            try:
                server = redis.Redis.from_url(server, socket_timeout=4.0, socket_connect_timeout=2.0, **_NO_RETRY)
            except ValueError as error:
                raise ConfigError(f"this is no address of a Redis server: {error}", code="invalid_redis_url") from None
        if not callable(getattr(server, "register_script", None)):
            raise ConfigError(f"redis must be an address like 'redis://localhost:6379/0' or a redis.Redis, not {type(server).__name__}")
        pool = getattr(server, "connection_pool", None)
        timeout = getattr(pool, "connection_kwargs", {}).get("socket_timeout")
        if isinstance(timeout, (int, float)) and timeout < 2 * _BLOCK:
            raise ConfigError(f"socket_timeout of the Redis client must be {2 * _BLOCK:g} s or more, not {timeout!r}")
        self._redis: Any = server
        self._scripts: dict[str, Any] = {}
        self._is_closed = False

    @contextlib.contextmanager
    def _told_in_our_words(self) -> Iterator[None]:
        """Raises: `ConnectError` (code ``redis_away``, ``redis_failed``, ``redis_closed``)."""
        if self._is_closed:
            raise ConnectError("the connections to Redis were closed", code="redis_closed")
        try:
            yield
        except Exception as error:
            if self._is_closed:  # by another thread, which pulls the socket away under a call that waits: that ends in many ways
                raise ConnectError("the connections to Redis were closed while this one was in use", code="redis_closed") from error
            if not isinstance(error, redis.RedisError):
                raise
            away = isinstance(error, (redis.ConnectionError, redis.TimeoutError))
            what = "does not answer" if away else "cannot do what it is asked"
            raise ConnectError(f"Redis {what}: {error}", code="redis_away" if away else "redis_failed") from error

    def close(self) -> None:
        """Close the connections, if they are ours; nothing more can be asked then."""
        if self._own:
            self._is_closed = True
            self._redis.connection_pool.disconnect()  # close() leaves it to us in the older versions

    def run(self, script: str, keys: Iterable[str], *arguments: str | int | bytes) -> Any:
        """Run one of our scripts; text comes as text."""
        with self._told_in_our_words():
            prepared = self._scripts.get(script)
            if prepared is None:
                prepared = self._scripts[script] = self._redis.register_script(script)
            return _text(prepared(keys=list(keys), args=list(arguments)))

    # -- the registry --------------------------------------------------------------------------------------------------------

    def enlist(self, conversation_id: str) -> None:
        """Enter a conversation into the registry of live ones."""
        with self._told_in_our_words():
            self._redis.sadd(LIVE, conversation_id)

    def strike(self, conversation_id: str) -> None:
        """Take a conversation out of the registry."""
        with self._told_in_our_words():
            self._redis.srem(LIVE, conversation_id)

    def live(self) -> list[str]:
        """The ids of the conversations that are registered."""
        with self._told_in_our_words():
            return sorted(_text(list(self._redis.smembers(LIVE))))

    def ownerless(self, ids: Iterable[str]) -> list[str]:
        """Which of these have no owner at the moment."""
        known = list(ids)
        return [one for one, there in zip(known, self._many("exists", (Keys(one).owner for one in known))) if not there]

    def about(self, ids: Iterable[str]) -> list[About]:
        """What is known of these; of those that are gone, nothing."""
        known = list(ids)
        found = self._many("hgetall", (Keys(one).about for one in known))
        return [About.read(one, _text(fields)) for one, fields in zip(known, found) if fields]

    def _many(self, command: str, keys: Iterable[str]) -> list[Any]:
        with self._told_in_our_words(), self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                getattr(pipeline, command)(key)
            return list(pipeline.execute())

    def exists(self, key: str) -> bool:
        """Whether there is such a key."""
        with self._told_in_our_words():
            return bool(self._redis.exists(key))

    def is_over(self, keys: Keys) -> bool | None:
        """Whether a conversation has ended; None if nothing is known of it."""
        with self._told_in_our_words(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hexists(keys.about, "ended")
            pipeline.exists(keys.about)
            pipeline.exists(keys.events)
            ended, *there = pipeline.execute()
            return bool(ended) if any(there) else None

    def alone(self, key: str, seconds: float) -> bool:
        """True for one caller of all that ask within ``seconds``."""
        with self._told_in_our_words():
            return bool(self._redis.set(key, "1", nx=True, px=milliseconds(seconds)))

    # -- streams and answers -------------------------------------------------------------------------------------------------

    def read(self, stream: str, after: str, seconds: float, most: int = 200) -> list[tuple[str, Mapping[str, str]]]:
        """What a stream has behind an id, waiting ``seconds`` (a second at most) for it."""
        with self._told_in_our_words():
            block = max(1, milliseconds(min(_BLOCK, seconds)))
            return _entries(self._redis.xread({stream: after}, count=most, block=block))

    def last(self, stream: str) -> str:
        """The id of the newest entry, ``0-0`` if there is none."""
        with self._told_in_our_words():
            found = _text(self._redis.xrevrange(stream, count=1))
            return str(found[0][0]) if found else "0-0"

    def wake(self, stream: str) -> None:
        """Let who reads this stream look up."""
        with self._told_in_our_words():
            self._redis.xadd(stream, {"id": ""}, maxlen=1000, approximate=True)

    def answer(self, key: str, value: bytes, keep: int, stream: str, entry_id: str) -> None:
        """Leave the answer to an entry for whoever waits for it, or asks again, within ``keep`` ms; the entry goes."""
        with self._told_in_our_words(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.lpush(key, value)
            pipeline.pexpire(key, keep)
            pipeline.xdel(stream, entry_id)
            pipeline.execute()

    def await_answer(self, key: str) -> str | None:
        """Wait up to a second for an answer, and leave it there for who asks again."""
        with self._told_in_our_words():
            found = _text(self._redis.brpoplpush(key, key, timeout=1))
            return None if found is None else str(found)


def milliseconds(seconds: float) -> int:
    """Seconds as Redis counts them."""
    return round(seconds * 1000)


def _no_retry() -> dict[str, Any]:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return {"retry": Retry(NoBackoff(), 0)}


_NO_RETRY: Final = _no_retry()


def _text(value: Any) -> Any:
    """Text for bytes, whatever the client was told about decoding, in lists, tuples and mappings too."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")  # what is no text is not ours
    if isinstance(value, (list, tuple, set)):
        return [_text(one) for one in value]
    if isinstance(value, Mapping):
        return {_text(key): _text(one) for key, one in value.items()}
    return value


def _entries(answer: Any) -> list[tuple[str, Mapping[str, str]]]:
    """The entries of one stream, in each of the shapes that versions and protocols of the package give them."""
    if not answer:
        return []
    found = _text(next(iter(answer.values())) if isinstance(answer, Mapping) else answer[0][1])
    if found and not isinstance(found[0][0], str):
        found = found[0]
    return [(entry[0], entry[1] or {}) for entry in found]
