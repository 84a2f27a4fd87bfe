"""Starting: the streams of one artifact, new ones and those that were saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Optional

from numpy.typing import ArrayLike

from keepdrop.answer.results import Answers
from keepdrop.calibration.record import Calibration
from keepdrop.run.engine import Engine
from keepdrop.run.memory import Budget
from keepdrop.run.session import AnySession
from keepdrop.table import Table

from .beginning import checked_drawn, fresh, known_window, learning_of, steps_of
from .learning import Learning
from .saved_stream import Identity, OnNewArtifact, Saved, SavedStream, StreamFile
from .steps import Drawn, Steps
from .stream import Stream


@dataclass(frozen=True)
class Starting(Generic[Answers]):
    """What the streams of an artifact are started with; `Model.stream` and `Model.resume` say what the options are."""

    session: AnySession
    engine: Engine
    budget: Budget
    calibration: Optional[Calibration]
    table: Optional[Table]
    by_output: bool

    def fresh(
        self,
        samples: Optional[int],
        seed: int,
        rows: ArrayLike,
        first_sample: int,
        window: Optional[int],
        ahead: Optional[int],
    ) -> Stream[Answers]:
        """A stream that starts with these rows."""
        drawn = checked_drawn(self.session.metadata, samples, seed, first_sample)
        if window is None and self.table is not None:
            window = self._free(self.table.window)
        steps, learning = self._parts(drawn, window, ahead)
        return self._stream(fresh(self._identity(), self.budget, drawn, steps, learning, rows), steps, learning)

    def resumed(self, data: Saved, on_new_artifact: OnNewArtifact, ahead: Optional[int]) -> Stream[Answers]:
        """The stream that was saved."""
        with StreamFile(data, self.budget) as file:
            drawn = checked_drawn(self.session.metadata, file.samples, file.seed, file.first_sample)
            steps, learning = self._parts(drawn, self._free(file.window), ahead)
            saved = file.resumed(self._identity(), steps.kept, learning, on_new_artifact)
            return self._stream(saved, steps, learning)

    def _free(self, window: Optional[int]) -> Optional[int]:
        """A window, where the artifact does not know its own."""
        return window if known_window(self.session.metadata) is None else None

    def _parts(self, drawn: Drawn, window: Optional[int], ahead: Optional[int]) -> tuple[Steps, Optional[Learning]]:
        steps = steps_of(self.session, self.engine, drawn, window)
        return steps, learning_of(self.calibration, self.session.metadata, steps, ahead, self.table)

    def _stream(self, saved: SavedStream, steps: Steps, learning: Optional[Learning]) -> Stream[Answers]:
        return Stream(self.session, self.engine, self.budget, saved, steps, learning, self.by_output)

    def _identity(self) -> Identity:
        return Identity(self.session.sha256(), self.session.numbers_digest())
