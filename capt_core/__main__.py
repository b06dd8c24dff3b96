"""``python -m capt_core`` is the command ``capt-stage``.

The library does not import the command line, so its function is looked up as the installed
console script.
"""

from importlib.metadata import distribution

if __name__ == "__main__":
    distribution("capt-stage").entry_points["capt-stage"].load()()
