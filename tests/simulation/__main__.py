"""`python -m tests.simulation`: engines, store and bots in virtual time, and what went wrong."""

import argparse
import random
import sys
import time

from tests.simulation.run import STRETCH_H, Outcome, stretches


def main() -> None:
    options = _options()
    seed = random.getrandbits(32) if options.seed is None else options.seed
    print(f"seed {seed}")
    begun_s, seen, failed = time.process_time(), list[Outcome](), False
    for outcome in stretches(seed, options.hours):
        seen.append(outcome)
        if outcome.contradictions:
            failed = True
            hours = min(STRETCH_H, options.hours - STRETCH_H * (len(seen) - 1))
            print(f"python -m tests.simulation --hours {hours:g} --seed {outcome.seed}")
            print(*(f"  {sentence}" for sentence in outcome.contradictions), sep="\n")
        elif options.every or sys.stdout.isatty():
            end = "\n" if options.every else "\r"
            print(_line(seen[-1:] if options.every else seen), end=end, flush=True)
    print(_line(seen))
    print(f"trace {'+'.join(one.trace[:12] for one in seen[:3])}")
    print(f"{time.process_time() - begun_s:.1f} s of the processor")
    sys.exit(failed)


def _line(seen: list[Outcome]) -> str:
    return (
        f"seed {seen[-1].seed}: {sum(one.hours for one in seen):,.0f} hours, "
        f"{sum(one.messages for one in seen):,} messages, "
        f"{sum(one.deliveries for one in seen):,} deliveries, "
        f"{sum(one.faults for one in seen):,} faults, "
        f"{sum(len(one.contradictions) for one in seen)} contradictions"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--hours", type=float, default=1_000.0, help="simulated; default: 1000")
    parser.add_argument("--seed", type=int, help="of the first stretch; default: a new one")
    parser.add_argument("--every", action="store_true", help="a line for every stretch")
    return parser.parse_args()


if __name__ == "__main__":
    main()
