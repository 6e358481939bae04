"""What may leave this process: values go to others, also on other hosts, by pickle; what is this one's does not.

A descriptor's number is its process's: elsewhere it is another file, or the connection that the value came by.
"""

from __future__ import annotations

from typing import Any, Self, SupportsIndex

from sandbox.errors import UsageError


class KeptHere:
    """Base of immutable values that can hold something of this process. A copy within it is the value itself."""

    __slots__ = ()

    def _held(self) -> str:
        """Return what is held of this process, "" if nothing is: with that the value may be sent."""
        raise NotImplementedError

    # Also for protocol 5 and for copyreg: each of them asks this one first.
    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        if held := self._held():
            raise not_sent(type(self).__name__, held)
        return super().__reduce_ex__(protocol)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def not_sent(name: str, held: str, hint: str = "name a path, or make it where it is used") -> UsageError:
    """Return the error for a value that pickle was to take to another process."""
    return UsageError(f"pickle {name}", f"it holds {held}, which no other process has", hint)
