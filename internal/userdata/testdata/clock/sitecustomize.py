# Lets minutes of waiting pass at once: a sleep only moves the clock.
import os
import signal
import time

_clock = time.clock_gettime
_slept = [0]


def _sleep(seconds):
    _slept[0] += seconds


time.sleep = _sleep
time.clock_gettime = lambda clock: _clock(clock) + _slept[0]
if os.environ.get("SHORT_ALARM"):
    _alarm = signal.alarm
    signal.alarm = lambda seconds: _alarm(min(seconds, 1))
