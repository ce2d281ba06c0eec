"""How a trained model holds up against attacks that know it, and against common corruptions."""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.robustness.attack_batch import Examples, attack_images
    from jpegdl.robustness.attack_figures import attack_figure, attack_left_out, attack_notes, attack_rows
    from jpegdl.robustness.attack_runs import AttackedComparison, attack_comparison
    from jpegdl.robustness.config import ATTACKS, GRADIENTS, AttackConfig, check_attack
    from jpegdl.robustness.own_model import attack_model, model_folder
    from jpegdl.robustness.results import attack_name, read_attack, with_earlier
    from jpegdl.robustness.surrogates import gradients_of, with_gradient
    from jpegdl.robustness.text import attack_text
    from jpegdl.robustness.trials import attack_run

__all__ = [
    "ATTACKS", "GRADIENTS", "AttackConfig", "AttackedComparison", "Examples", "attack_comparison", "attack_figure",
    "attack_images", "attack_left_out", "attack_model", "attack_name", "attack_notes", "attack_rows", "attack_run",
    "attack_text", "check_attack", "gradients_of", "model_folder", "read_attack", "with_earlier", "with_gradient",
]  # fmt: skip

__getattr__, __dir__ = on_first_use(__name__)
