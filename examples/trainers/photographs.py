"""What these scripts share: images, of class folders or photographs that scikit-image ships; and how the end is told."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision import datasets
from torchvision.transforms import v2

from jpegdl.data import Data, DataConfig
from jpegdl.layer import PrependedModel

SIZE = 64  # pixels
# Images stay in [0, 1]: there is no Normalize, since the model normalises behind the layer.
TO_UNIT = v2.Compose([v2.ToImage(), v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.ToDtype(torch.float32, scale=True)])


def image_sets(folder: str | None) -> tuple[Dataset[tuple[Tensor, Tensor]], Dataset[tuple[Tensor, Tensor]], int]:
    """Return training images, test images and the number of classes; an image is (3, 64, 64) in [0, 1].

    Args:
        folder: has ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``. None for patches of the embedded photographs.
    """
    if folder is not None:
        train, test = (datasets.ImageFolder(f"{folder}/{part}", TO_UNIT) for part in ("train", "test"))
        if train.classes != test.classes:  # each numbers its own: a class more or less would shift the others
            odd = sorted(set(train.classes) ^ set(test.classes))
            raise SystemExit(f"{folder}: only one of train/ and test/ has the classes {', '.join(odd[:5])}")
        return train, test, len(train.classes)
    data = Data(DataConfig(name="photos", size=SIZE, batch_size=16))
    sets = []
    for part in (data.train, data.test):
        few = [part[i] for i in range(0, len(part), max(1, len(part) // 64))]
        sets.append(TensorDataset(torch.stack([image for image, _ in few]), torch.tensor([label for _, label in few])))
    return sets[0], sets[1], len(data.classes)


def report(model: PrependedModel, test: Dataset[tuple[Tensor, Tensor]]) -> None:
    """Print the accuracy on all test images, and the layer.

    Args:
        model: on any device; takes images (N, 3, 64, 64) in [0, 1], and gives logits or what has them as ``logits``.
        test: as of :func:`image_sets`. A folder's images come class by class: the first of them would be of few classes.
    """
    model.eval()
    right = total = 0
    with torch.no_grad():
        for images, labels in DataLoader(test, 64):
            answer = model(images.to(model.mean.device))
            right += int((getattr(answer, "logits", answer).argmax(1).cpu() == labels).sum())
            total += len(labels)
    print(f"{right / total:.1%} of {total} test images right; {model.layer}")
