"""MedMNIST: small medical pictures of eleven kinds, each in one file of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from benchmark.datasets.listed import Entry, OnDisk
from benchmark.errors import UserError, unknown

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)

CLASSES: Mapping[str, tuple[str, ...]] = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil"),
        "platelet",
    ),
    "tissuemnist": (
        *("collecting duct, connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
        *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments"),
        "thick ascending limb",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
"""Names of the classes; ChestMNIST, whose pictures have several labels each, is none of these."""

# MD5 of the published files of 28 and of 224 pixels.
_MD5 = {
    "pathmnist": ("a8b06965200029087d5bd730944a56c1", "2c51a510bcdc9cf8ddb2af93af1eadec"),
    "dermamnist": ("0744692d530f8e62ec473284d019b0c7", "8974907d8e169bef5f5b96bc506ae45d"),
    "octmnist": ("c68d92d5b585d8d81f7112f81e2d0842", "abc493b6d529d5de7569faaef2773ba3"),
    "pneumoniamnist": ("28209eda62fecd6e6a2d98b1501bb15f", "d6a3c71de1b945ea11211b03746c1fe1"),
    "retinamnist": ("bd4c0672f1bba3e3a89f0e4e876791e4", "eae7e3b6f3fcbda4ae613ebdcbe35348"),
    "breastmnist": ("750601b1f35ba3300ea97c75c52ff8f6", "b56378a6eefa9fed602bb16d192d4c8b"),
    "bloodmnist": ("7053d0359d879ad8a5505303e11de1dc", "b718ff6835fcbdb22ba9eacccd7b2601"),
    "tissuemnist": ("ebe78ee8b05294063de985d821c1c34b", "b077128c4a949f0a4eb01517f9037b9c"),
    "organamnist": ("68e3f8846a6bd62f0c9bf841c0d9eacc", "50747347e05c87dd3aaf92c49f9f3170"),
    "organcmnist": ("b9ceb9546e10131b32923c5bbeaea2b1", "050f5e875dc056f6768abf94ec9995d1"),
    "organsmnist": ("9ab87b696fb54e2a387ebe992d6ed5f1", "b354719e553fbbb2513d5533f52a4cb1"),
}


@dataclass(frozen=True, kw_only=True)
class MedMNIST(OnDisk):
    """Slides, scans and photographs of skin, eye, blood and organs, each small and of one label.

    Source: Yang et al. 2023, doi:10.1038/s41597-022-01721-8.

    Attributes:
        kind: pathmnist, dermamnist, octmnist, pneumoniamnist, retinamnist, breastmnist, bloodmnist, tissuemnist,
            organamnist, organcmnist or organsmnist.
        size: 28 or 224 pixels a side.
        name: in tables; empty takes that of the kind.
    """

    kind: str
    size: int = 28
    split: str = "test"
    name: str = ""

    licence: ClassVar[str] = "CC BY 4.0, dermamnist CC BY-NC 4.0"
    source: ClassVar[str] = "https://medmnist.com"
    splits: ClassVar[tuple[str, ...]] = ("test", "val", "train")
    downloads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.kind not in CLASSES:
            raise UserError(unknown("datasets.kind=", self.kind, CLASSES))
        object.__setattr__(self, "name", self.name or self.kind)
        if self.size not in (28, 224):
            raise UserError(f"datasets.size={self.size} is unknown: expected 28 or 224")
        super().__post_init__()

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES[self.kind]

    @property
    def _file(self) -> str:
        return f"{self.kind}{'' if self.size == 28 else f'_{self.size}'}.npz"

    @property
    def _absent(self) -> list[str]:
        return [] if Path(self.root, self._file).is_file() else [self._file]

    def _download(self) -> None:
        from torchvision.datasets.utils import download_url

        url = f"https://zenodo.org/records/10519652/files/{self._file}?download=1"
        download_url(url, self.root, self._file, _MD5[self.kind][self.size == 224])

    @cached_property
    def _read(self) -> tuple[NDArray[np.uint8], list[int]]:
        """All pictures of the split, `(N, side, side)` or `(N, side, side, 3)`, and their labels."""
        with self._reading(), np.load(Path(self.root, self._file), allow_pickle=False) as arrays:
            pictures, labels = arrays[f"{self.split}_images"], arrays[f"{self.split}_labels"]
            if pictures.dtype != np.uint8 or labels.shape != (len(pictures), 1) or labels.max() >= len(self.classes):
                raise ValueError("its pictures are not of 8 bits with one label each")
            return pictures, [int(label) for label in labels[:, 0]]

    @property
    def _labels(self) -> list[int]:
        return self._read[1]

    def _entry(self, place: int) -> Entry:
        return Entry(f"{self.kind}-{self.split}-{place:06d}", self._read[0][place], self._read[1][place])
