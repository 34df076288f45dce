"""`python -m code_child CODE WORDS...` does what `python -c CODE WORDS...` does."""

from __future__ import annotations

import sys

code = sys.argv.pop(1)
exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
