"""What a finished run's layer has learned, in pictures and numbers, and what its model looks at.

:func:`explain_run` writes all of it into ``explain/`` of the run folder.
"""

from jpegdl.explain.config import ExplainConfig
from jpegdl.explain.parts import explain_run

__all__ = ["ExplainConfig", "explain_run"]
