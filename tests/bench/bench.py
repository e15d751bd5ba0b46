#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Measures handoffd beside nginx and HAProxy, in a private network namespace, and prints one table.

  reload    from the request to the first answer of the new generation, and the program's own start
  stall     the longest gap between answers of an open-loop load, with and without a reload
  idle      memory and wake-ups of the masters
  flip      the cost of turning new connections to another generation
  live      10 000 connections passed to the next generation with libhandoff, while clients write on them
  drain     from the last close of a draining generation to the signal in its worker
  rollback  from the request to the first answer of the generation before, under load
  adopt     requests a second of programs whose sockets are taken over, and of the same without that
  held      processor time while 50 000 connections of a draining generation are held
  services  a reload beside 1 and beside 1000 other services
  save      from saving a file to the first answer by the new code, in development mode
  inflight  what counting connections and requests costs a program with libhandoff
  soak      memory and descriptors over 1000 reloads (not measured unless named)

Exit code: 0 every goal is reached, 1 one is missed, 77 the machine lacks a right."""

import argparse
import json
import os
import pathlib
import platform
import signal
import sys
import types

sys.dont_write_bytecode = True
from measures import MEASURES  # noqa: E402
from servers import Bench, Skip, new_network  # noqa: E402

USUAL = {
    "repeat": 10, "rate": 1000, "window": 1.2, "idle": 5, "windows": 3, "flips": 2000, "live": 10000, "drains": 200, "rollbacks": 500,
    "held": 50000, "seconds": 10, "services": 1000, "counted": 2000, "warm_up": 100, "reloads": 1000,
}  # fmt: skip
TINY = {
    "repeat": 1, "rate": 200, "window": 0.3, "idle": 0.2, "windows": 1, "flips": 100, "live": 200, "drains": 3, "rollbacks": 3,
    "held": 200, "seconds": 1, "services": 5, "counted": 8, "warm_up": 2, "reloads": 10,
}  # fmt: skip


def number(value):
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def line(measure, r):
    said = "" if r["reached"] is None else "reached" if r["reached"] else "MISSED"
    goal = "" if r["goal"] is None else f"<= {number(r['goal'])}"
    return (
        f"{measure:9}{r['what']:62}{number(r['median']):>8}{number(r['min']):>8}{number(r['max']):>8}"
        f" {r['unit']:7}{r['n']:>4} {goal:7}{said:8}{r['note']}"
    ).rstrip()


def run(bench, names, scale, say):
    rows = []
    for name in names:
        try:
            new_network()  # the sockets that the measure before has left in TIME_WAIT go with their network
            for r in MEASURES[name](bench, scale):
                rows.append({"measure": name, **r})
                say(line(name, r))
        except Skip as why:
            say(f"{name:9}left out: {why}")
        finally:
            bench.stop_servers()
    return rows


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measures", nargs="*", metavar="MEASURE", help="which of them (all but soak)")
    parser.add_argument("--build", type=pathlib.Path, default="build", help="build directory (build)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--smoke", action="store_true", help="tiny numbers: shows that it works, no more")
    for name, value in USUAL.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), help=f"({value})")
    options = parser.parse_args()
    if wrong := set(options.measures) - set(MEASURES):
        parser.error(f"no such measure: {', '.join(sorted(wrong))}")
    given = {k: v for k, v in vars(options).items() if k in USUAL and v is not None}
    scale = types.SimpleNamespace(**{**(TINY if options.smoke else USUAL), **given})
    names = options.measures or [n for n in MEASURES if options.smoke or n != "soak"]
    say = (lambda _: None) if options.json else (lambda text: print(text, flush=True))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing that was started is left behind
    try:
        new_network()  # or the reason why there is none
        bench = Bench(options.build.resolve())
    except Skip as why:
        print(f"SKIP: {why}")
        return 77
    load = os.getloadavg()[0]
    say(f"Linux {platform.release()}, {os.cpu_count()} processors, load {load:.1f} before")
    say(f"{'':9}{'':62}{'median':>8}{'min':>8}{'max':>8} {'':7}{'n':>4} goal")
    try:
        rows = run(bench, names, scale, say)
    finally:
        bench.close()
    if options.json:
        machine = {"kernel": platform.release(), "processors": os.cpu_count(), "load": load}
        print(json.dumps({"version": 1, "machine": machine, "rows": rows}, indent=1))
    missed = [r for r in rows if r["reached"] is False]
    say(f"{sum(r['reached'] is not None for r in rows)} goals, {len(missed)} missed")
    return 1 if missed and not options.smoke else 0


if __name__ == "__main__":
    sys.exit(main())
