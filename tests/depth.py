"""How long the tests look: the slice of every change, or the long run of `make check-deep`."""

import os

DEEP = os.environ.get("TILEWRIGHT_TEST_DEPTH") == "deep"


def count(ci: int, deep: int) -> int:
    """The number of cases to try: `ci` on every change, `deep` in `make check-deep`."""
    return deep if DEEP else ci
