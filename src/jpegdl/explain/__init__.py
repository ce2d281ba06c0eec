"""What the layer of a finished run has learned, in pictures and numbers, and what its model looks at.

:func:`explain_run` writes all of it into ``explain/`` of a run's folder, and :func:`explain_comparison` does so for several
runs.
"""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.explain.config import ExplainConfig
    from jpegdl.explain.explain_runs import explain_comparison
    from jpegdl.explain.parts import explain_run

__all__ = ["ExplainConfig", "explain_comparison", "explain_run"]

__getattr__, __dir__ = on_first_use(__name__)
