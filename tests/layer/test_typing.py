"""README's code is what a type checker is shown."""

import re
import textwrap
from pathlib import Path

HERE = Path(__file__).parents[1]


def test_type_checked_code_is_readmes():
    """``make lint`` checks tests/typing/readme.py with mypy --strict, which takes too long for a test."""
    readme, checked = (
        (HERE.parent / "README.md").read_text(encoding="utf-8"),
        (HERE / "typing" / "readme.py").read_text(encoding="utf-8"),
    )
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert textwrap.indent(block, "    ") in checked
