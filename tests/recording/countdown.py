"""Something goes wrong, but not at once: at the first call, then at the second, and so on until there are no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Countdown:
    """Lets *left* calls pass, to *real* if there is one, and raises *error* from then on."""

    def __init__(self, left: int, error: BaseException, real: Callable[..., Any] | None = None) -> None:
        self.left = left
        self._error = error
        self._real = real

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if not self.left:
            raise self._error
        self.left -= 1
        return self._real(*arguments, **options) if self._real else None
