"""Any image data set of the Hugging Face hub, by name (extra `hub`)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from benchmark.datasets.listed import Entry, Listed
from benchmark.errors import UserError, unknown
from benchmark.pretrained import knock


@dataclass(frozen=True, kw_only=True)
class Hub(Listed):
    """Images and labels of `repo`, from the cache of the `datasets` library or, with `download=true`, from the hub.

    Nothing that a repository holds is run: that library reads Parquet, Arrow, WebDataset and folders of images, and
    refuses those that bring a script. `revision` names a commit; the fingerprint notices if images change without it.

    Raises:
        UserError: the library is missing, the data set is not within reach, or it has no such split or column.

    Attributes:
        repo: the name on the hub, such as `ylecun/mnist`, or a folder laid out like one, whose path is then a part of
            what records are of.
        config: of a data set that has several, None for the only one.
        revision: commit, branch or tag; None for the newest.
        image: the column of images.
        label: the column of labels.
    """

    repo: str
    split: str = "test"
    config: str | None = None
    revision: str | None = None
    image: str = "image"
    label: str = "label"
    download: bool = False
    name: str = "hub"

    licence: ClassVar[str] = "as the page of the data set says"
    source: ClassVar[str] = "https://huggingface.co/datasets"

    def _find(self) -> None:
        if importlib.util.find_spec("datasets") is None:
            raise UserError('data sets of the hub need the library datasets: pip install -e ".[hub]"')

    @property
    def classes(self) -> tuple[str, ...] | None:
        feature = self._rows.features[self.label]
        if hasattr(feature, "names"):
            return tuple(feature.names)
        known = [label for label in self._labels if label is not None]
        return tuple(map(str, range(max(known) + 1))) if known else None

    @cached_property
    def _labels(self) -> list[int | None]:
        labels = list(self._rows[self.label])
        if not all(isinstance(label, int) for label in labels):
            raise UserError(f"the column {self.label} of {self.repo} holds no class numbers: set datasets.label=COLUMN")
        return [label if label >= 0 else None for label in labels]  # -1 stands for unknown

    def _entry(self, place: int) -> Entry:
        found = self._rows[place][self.image]
        image = Path(found["path"]) if found["bytes"] is None else found["bytes"]
        return Entry(f"{self.split}-{place:06d}", image, self._labels[place])

    @cached_property
    def _rows(self) -> Any:
        """The split, its images still encoded."""
        from huggingface_hub import constants

        library = importlib.import_module("datasets")
        here = Path(self.repo).is_dir()
        try:
            if self.download and not here:
                knock(constants.ENDPOINT)
            with _offline(not self.download):
                rows = library.load_dataset(self.repo, self.config, split=self.split, revision=self.revision)
        except Exception as error:  # of the library, of the hub and of each format
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            remedy = "" if self.download or here else "; set datasets.download=true to fetch it"
            raise UserError(f"{self.repo} cannot be loaded ({reason}){remedy}") from error
        for column in (self.image, self.label):
            if column not in rows.column_names:
                raise UserError(unknown(f"column of {self.repo} ", column, rows.column_names))
        if not isinstance(rows.features[self.image], library.Image):
            raise UserError(f"the column {self.image} of {self.repo} holds no images: set datasets.image=COLUMN")
        return rows.cast_column(self.image, library.Image(decode=False))

    @property
    def _where(self) -> str:
        return f"in {self.repo}"


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """The hub's libraries without a request; asked in any other way they go to the network even for what they have."""
    from huggingface_hub import constants

    config = importlib.import_module("datasets").config
    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if wanted:
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
