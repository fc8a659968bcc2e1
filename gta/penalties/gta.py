"""GTA as a term of a method: see gta.guidance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from gta.guidance import Guide
from gta.penalties.base import Batch, Penalty, Setting


class GuidedAttention(Penalty):
    """The squared distance of the [CLS] attention logits to the source's."""

    needs_source = True

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        options = setting.settings.gta.model_dump(exclude={"decay"})
        self._guide = Guide(setting.source, setting.model, run_source=False, **options)

    @contextmanager
    def attached(self) -> Iterator[None]:
        with self._guide:
            self.of_source = self._guide.of_source
            yield

    def forward(self, _: Batch) -> Tensor:
        return self._guide.penalty()
