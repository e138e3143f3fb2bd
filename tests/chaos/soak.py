"""A pipeline with faults at every boundary, in virtual time, from a seed.

python tests/chaos/soak.py --seeds 100000 --minutes 0.1      many runs, short ones
python tests/chaos/soak.py --seed 17                         one of them
"""

from __future__ import annotations

import argparse
import gc
import sys
import traceback
from collections import Counter
from pathlib import Path

from loguru import logger

from rxcompact.testing import run

sys.path.append(str(Path(__file__).parent.parent / "support"))  # where it is run as a script
from life import Life

MINUTES = 3.0
"""Of virtual time."""
SPARSE = 25
"""Turns between two checks of a run, but for one run in twenty."""


def soak(seed: int, minutes: float = MINUTES, every: int = 1) -> Life:
    """Do one run; return it, or raise what went wrong."""
    lives: list[Life] = []

    async def main() -> None:
        lives.append(Life(seed, every))
        await lives[0].live(minutes)

    logger.disable("rxcompact")
    try:
        run(main, seed=seed)
        gc.collect()
        lives[0].events_are_freed()
    except BaseException as error:
        error.add_note(f"replay: python tests/chaos/{Path(__file__).name} --seed {seed} --minutes {minutes}")
        raise
    return lives[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    gc.collect()
    gc.freeze()  # so that the collection after a run walks over what is new
    events = turns = stops = failed = 0
    injected: Counter[str] = Counter()
    for seed in seeds:
        try:
            life = soak(seed, options.minutes, SPARSE if len(seeds) > 1 and seed % 20 else 1)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            traceback.print_exception(error, limit=None if options.seed is not None else -2)
            continue
        events, turns, stops = events + len(life.feed.given), turns + life.witness.turns, stops + life.stops
        injected.update(life.dice.injected)
    print(f"{len(seeds)} lives: {events} events, {turns} turns, {stops} stops, {injected.total()} faults")
    for fault, number in sorted(injected.items()):
        print(f"  {number:8} {fault}")
    print(f"{failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
