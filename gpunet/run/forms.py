"""What the JSON of a run holds: names and kinds of values, no fewer and no others.

A run's files may have been made or changed by anyone: what does not fit its form is not read on.
"""

from typing import Any

RUN = "gpunet.run/1"
NUMBER = (int, float)
FINGERPRINTS = {"data": str, "config": str}
ENVIRONMENT = {str: str}
LINE = {
    "step": int,
    "epoch": int,
    "loss": (*NUMBER, None),
    "validation": {str: (*NUMBER, None)},
    "lr": NUMBER,
    "best": bool,
    "chain": str,
}
"""A line of `metrics.jsonl`."""
TIMING = {"step": int, "rows_per_second": NUMBER, "seconds": NUMBER}
"""A line of `timing.jsonl`."""
PLACE = {
    "done": int,
    "reported": int,
    "lowest": (*NUMBER, None),
    "members": [(*NUMBER, None)],
    "stale": int,
    "chain": str,
    "first_loss": (*NUMBER, None),
    "ended": ("", "done", "patience", "enough", "stopped"),
}
"""Where a loop stands."""
STATE = {
    "id": str,
    "fingerprints": FINGERPRINTS,
    "environment": ENVIRONMENT,
    "last": (LINE, None),
    "best": (LINE, None),
    "loop": PLACE,
}
"""The state of a checkpoint."""
IDENTITY = {
    "schema": (RUN,),
    "id": str,
    "name": str,
    "data": (str, None),
    "folder": str,
    "task_reason": str,
    "fingerprints": FINGERPRINTS,
    "environment": ENVIRONMENT,
    "legs": [[int]],
}
"""`run.json`."""


def fits(value: Any, form: Any) -> bool:
    """Whether a value has a form: a type, a constant, a tuple of forms of which one is enough, a
    list of one form for every item, a dict of names, or of `str` for every name."""
    if isinstance(form, type):
        return type(value) is form
    if isinstance(form, tuple):
        return any(fits(value, each) for each in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(each, form[0]) for each in value)
    if not isinstance(form, dict):
        return type(value) is type(form) and value == form
    if not isinstance(value, dict):
        return False
    names = dict.fromkeys(value, form[str]) if str in form else form
    return set(names) == set(value) and all(fits(value[n], names[n]) for n in names)
