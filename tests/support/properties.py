"""How property tests run: the same examples every time. HYPOTHESIS_PROFILE=thorough takes twenty times as many.

Read by the property tests in `tests/unit`; it changes no other test's settings.
"""

import os
from typing import Final

from hypothesis import settings

settings.register_profile("quick", derandomize=True, deadline=None, database=None, max_examples=1_000)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=20_000)

REPEATABLE: Final = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def share(part: float) -> settings:
    """The same for slower properties: this part (0 to 1) of the profile's examples."""
    return settings(REPEATABLE, max_examples=max(1, round(REPEATABLE.max_examples * part)))
