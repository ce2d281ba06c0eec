"""What the CIFAR backbones share: the head, how weights are drawn, and timm's interface to both."""

from typing import ClassVar

import torch.nn.functional as torch_functional
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.classifier import create_classifier
from torch import Tensor, nn

from jpegdl.errors import UsageError

POOLS = ("avg", "max", "avgmax", "catavgmax", "")


class CifarBackbone(nn.Module):
    """A body of convolutions, then global pooling, dropout and a linear classifier.

    Takes normalised images (N, in_chans, H, W), returns logits (N, num_classes). A family builds its body, calls
    :meth:`_add_head` last and defines :meth:`forward_features`. Parameters have RepDistiller's names, so that the weights
    published for it load.

    Every family takes, after its own arguments:
        num_classes: number of logits; 0 returns pooled features.
        in_chans: channels of the images.
        drop_rate: share of the pooled features dropped in training.
        global_pool: "avg", "max", "avgmax" (their mean), "catavgmax" (both, one after the other), or "" for none, which
            needs ``num_classes=0``.

    Raises:
        UsageError: an argument is out of its range.
    """

    FIRST_CONV: ClassVar[str] = "conv1"
    CLASSIFIER: ClassVar[str] = "fc"
    global_pool: SelectAdaptivePool2d

    def _add_head(self, features: int, num_classes: int, drop_rate: float, global_pool: str) -> None:
        """Add pooling and a classifier to a body that ends with ``features`` channels, then draw the weights."""
        self.num_features = self.head_hidden_size = features
        self.drop_rate = drop_rate
        self.reset_classifier(num_classes, global_pool)
        for module in self.modules():
            if not isinstance(module, nn.Linear):  # the classifier's were drawn with it
                self._initialise(module)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        he_normal_(module)

    def get_classifier(self) -> nn.Module:
        return self.get_submodule(self.CLASSIFIER)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Draw a new classifier; ``num_classes=0`` for none, ``global_pool=None`` to keep the pooling."""
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        if pool not in POOLS:
            raise UsageError(f"global_pool must be one of {', '.join(map(repr, POOLS))}, got {pool!r}")
        if num_classes and not pool:
            raise UsageError(
                f"global_pool='' leaves nothing for a classifier to take: num_classes must be 0, got {num_classes}"
            )
        self.num_classes = num_classes
        self.global_pool, classifier = create_classifier(self.num_features, num_classes, pool_type=pool)
        self._initialise(classifier)
        self.set_submodule(self.CLASSIFIER, classifier)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to the last map of features, (N, num_features, h, w)."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, num_features, h, w) to logits (N, num_classes), or to pooled features (N, num_features)."""
        pooled: Tensor = torch_functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        if pre_logits:
            return pooled
        logits: Tensor = self.get_classifier()(pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def he_normal_(module: nn.Module) -> None:
    """Draw a convolution's weights with variance 2 / (kernel size x output channels), its bias 0; leave the rest alone."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def he_normal_small_classifier_(module: nn.Module) -> None:
    """As :func:`he_normal_`, and a classifier's weights with standard deviation 0.01, its bias 0."""
    he_normal_(module)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def blocks_per_stage(depth: int, rest: int) -> int:
    """Return how many blocks of two convolutions each of three stages has, where ``rest`` layers lie outside of them."""
    if not isinstance(depth, int) or depth <= rest or (depth - rest) % 6:
        raise UsageError(f"depth must be 6 n + {rest} with a whole n >= 1, got {depth!r}")
    return (depth - rest) // 6
