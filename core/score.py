"""How the arms of an evaluation are called: the trained model's own, the best that could be, and all others."""

from __future__ import annotations

MODEL = "model"
"""scores that are the trained model's own"""
CEILING = "ceiling"
"""scores of whoever knows how the data were made"""


def is_model(arm: str) -> bool:
    """Whether an arm is the model, or the model read out in another way (`model, one sample`)."""
    return arm == MODEL or arm.startswith(f"{MODEL},")
