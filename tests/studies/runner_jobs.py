"""Jobs for the tests of the runner; workers import them by name."""

import os
import signal
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    value: float
    sleep: float = 0.0


def square(settings, place):
    time.sleep(settings.sleep)
    with (place.folder / "attempts").open("a") as attempts:
        attempts.write(f"{os.getpid()}\n")
    (place.folder / "square.txt").write_text(str(settings.value**2))
    return {"square": settings.value**2}


def total(settings, place):
    place.tell("adding up")
    parts = [float((folder / "square.txt").read_text()) for folder in place.needs.values()]
    return {"total": sum(parts), "from": sorted(place.needs)}


def fail(settings, place):
    raise ZeroDivisionError("nothing to divide by")


def die_once(settings, place):
    """Kill its own worker the first time; the second time go on from what was left."""
    mark = place.folder / "half"
    if not mark.exists():
        mark.write_text("done so far: 1")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"left behind": mark.read_text()}


def die_always(settings, place):
    with (place.folder / "attempts").open("a") as attempts:
        attempts.write("x")
    os.kill(os.getpid(), signal.SIGKILL)
