"""Registries of things that users choose by name and may add to."""

import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from keras_switcher.checks import nearest

# Under which Keras knows the classes of this package.
PACKAGE = "keras_switcher"

T = TypeVar("T")
Item = TypeVar("Item")


class Registry(Generic[T]):
    """Maps names to objects of one kind; the error for a wrong name lists the right ones.

    Args:
        kind: What the objects are, in the singular, for error messages.
        how_to_add: The code that registers another object, for error messages.

    Example:
        ```python
        from collections.abc import Callable

        from keras_switcher.registry import Registry

        GATES: Registry[Callable] = Registry("gate", "@GATES.register('name')")


        @GATES.register("step")
        def step(logits): ...


        GATES.get("step")
        ```
    """

    def __init__(self, kind: str, how_to_add: str):
        self.kind = kind
        self.how_to_add = how_to_add
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[Item], Item]:
        """Returns a decorator that registers an object and returns it unchanged.

        Args:
            name: The name to register under.

        Raises:
            ValueError: If the name has other characters than letters, digits, `.`, `_` and `-`, or
                is taken by another object. Running the same definition again (a notebook cell, a
                reloaded module) replaces it.
        """
        # Names stand in flags, where other characters separate them, and in those of files.
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(
                f"The name of a {self.kind} must be a string of letters, digits, '.', '_' and '-'. "
                f"Received: name={name!r}"
            )

        def decorate(item: Item) -> Item:
            if name in self._items and not is_same_definition(self._items[name], item):
                raise ValueError(
                    f"The {self.kind} '{name}' is registered already; choose another name. "
                    f"Received: {item!r}"
                )
            self._items[name] = cast(T, item)
            return item

        return decorate

    def get(self, name: str) -> T:
        """Returns the object registered under a name.

        Args:
            name: A registered name.

        Raises:
            ValueError: If nothing is registered under the name.
        """
        if isinstance(name, str) and name in self._items:
            return self._items[name]
        known = ", ".join(f"'{known}'" for known in self.names()) or "nothing yet"
        raise ValueError(
            f"Unknown {self.kind} {name!r}.{nearest(name, self.names())} Registered: {known}. "
            f"Add your own with {self.how_to_add}."
        )

    def names(self) -> list[str]:
        """Returns every registered name, sorted."""
        return sorted(self._items)


def is_same_definition(first: Any, second: Any) -> bool:
    """Returns whether two objects are equal, or come from the same `def` or `class` statement."""
    if first is second or first == second:
        return True

    def place(item: Any) -> tuple[Any, Any]:
        return getattr(item, "__module__", None), getattr(item, "__qualname__", None)

    return place(first) == place(second) and place(first)[1] is not None
