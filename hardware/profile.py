"""Names of the speed profiles. Apart from the limits that belong to them so that a command line can offer them unloaded."""

from __future__ import annotations

from typing import Literal

#: "default": a reduced speed, for arms beside people. "sim": a working speed, where nobody can be hurt.
Profile = Literal["default", "sim"]
