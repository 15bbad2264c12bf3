"""A worker that measures nothing: claims points of a space and settles them, until it may not.

    python -m tests.autotune.claimer LOCATION MOST SEED

prints each point once it is acknowledged.
"""

import sys
import time

from tilewright.autotune.ledger import Ledger
from tilewright.autotune.records import RecordKey, Records, Result, point_text
from tilewright.autotune.strategy import proposer
from tilewright.autotune.workers import SignsOfLife
from tilewright.codegen.space import OneOf, Space

KEY = RecordKey("schedule", "product", "rest", "cpu:none", "none")
SPACE = Space("none", (OneOf("a", tuple(range(30)), 0), OneOf("b", tuple(range(30)), 0)))


def main(location: str, most: int, seed: int) -> None:
    ledger = Ledger(KEY, SPACE, Records.at(location))
    propose = proposer(SPACE, "random", seed)
    with SignsOfLife(ledger.give_sign_of_life):
        ledger.reclaim()
        print("open", flush=True)
        while True:
            busy, known = ledger.claimed(), ledger.results()
            point = propose(known, busy) if len(known) + len(busy) < most else None
            if point is None:
                return
            trial = ledger.claim(point, most)
            if trial is None:
                continue
            time.sleep(0.005)
            ledger.settle(trial, point, Result(1.0 + len(known) / 100, 1.0, None, 1.0, 1.0, 64))
            print(point_text(point), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
