"""Training images alone, to choose settings by.

``--data.name split:fifth`` tests on every fifth image of each class of a tar of class folders, and trains on the others.
It takes ``studies/rate`` on the path.
"""

import tarfile
from collections import defaultdict
from pathlib import Path

from halves import Images


def fifth(path: str) -> tuple[Images, Images, list[str]]:
    """Of each class, in the order of the names: four images to train on, one to test on, and so on."""
    by_class: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(path) as tar:
        for name in sorted(member.name for member in tar.getmembers() if member.isfile()):
            by_class[Path(name).parent.name].append(name)
    classes = sorted(by_class)
    test = [name for of_class in by_class.values() for name in of_class[4::5]]
    held = set(test)
    train = [name for of_class in by_class.values() for name in of_class if name not in held]
    return Images(path, train, classes), Images(path, test, classes), classes
