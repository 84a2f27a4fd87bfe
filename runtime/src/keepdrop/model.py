"""Model: what `keepdrop.load` gives."""

from __future__ import annotations

import os
from typing import Any, Optional, Union

from numpy.typing import ArrayLike, NDArray

from .artifact import Metadata
from .engine import MAX_RUN, Engine, Progress, available_threads
from .prediction import Moments, Prediction, checked_quantiles, joined, summarise
from .request import Request, check, integer
from .session import Session

# The most samples x rows held at once where samples are not kept.
MAX_BLOCK = 16 * MAX_RUN


def load(path: Union[str, os.PathLike[str]], threads: Optional[int] = None) -> Model:
    """Open an artifact, to run on at most `threads` threads (default: every CPU this process may use).

    Each thread beyond the first opens the file once more when it is first needed: memory for the weights grows with it.

    Raises
    ------
    ArtifactError
        The file is missing, is not an artifact, or bears an unknown contract version.
    InputError
        `threads` is not an integer of 1 or more.
    """
    count = available_threads() if threads is None else integer("threads", threads, least=1)
    return Model(Session(path), count)


class Model:
    """An artifact that samples; made by :func:`keepdrop.load`, safe to call from several threads.

    The calling thread works too: `threads` is the most that one call keeps busy.
    """

    def __init__(self, session: Session, threads: int) -> None:
        self._session = session
        self._engine = Engine(session, threads)

    @property
    def metadata(self) -> Metadata:
        """What the artifact says of itself: inputs, outputs, draws, versions, what was verified."""
        return self._session.metadata

    def sample(
        self,
        x: Any,
        *,
        samples: Optional[int] = None,
        seed: int = 0,
        rows: Optional[ArrayLike] = None,
        first_sample: int = 0,
    ) -> Any:
        """Stochastic forward passes: [samples, batch, ...], by output name in a dict where there are several outputs.

        The same arguments give the same numbers, whatever the threads, the machine and the rest of the batch.

        Parameters
        ----------
        x
            An array [batch, ...] for a model with one input, or a dict of such arrays by input name.
        samples
            Passes of every row, 1 or more (default: ``metadata.default_samples``).
        seed
            Any int64.
        rows
            The row ids, int64 [batch] (default: 0 ... batch - 1); rows of the same id see the same masks.
        first_sample
            The number of the first sample, to go on where an earlier call ended.

        Raises
        ------
        InputError
            An argument does not fit the artifact.
        """
        request = check(self.metadata, x, samples=samples, seed=seed, rows=rows, first_sample=first_sample)
        return self._by_output(self._engine.run(request))

    def predict(
        self,
        x: Any,
        *,
        samples: Optional[int] = None,
        seed: int = 0,
        rows: Optional[ArrayLike] = None,
        first_sample: int = 0,
        quantiles: Optional[ArrayLike] = None,
        progress: Optional[Progress] = None,
    ) -> Any:
        """The same samples summarised: a :class:`Prediction`, by output name in a dict where there are several outputs.

        Parameters
        ----------
        x, samples, seed, rows, first_sample
            As in :meth:`sample`.
        quantiles
            By default the samples are kept, and every quantile can be asked for afterwards. Given a sequence such as
            ``(0.05, 0.95)``, just these are computed, exactly, and the samples dropped block by block: memory for
            samples then does not grow with the batch. Given ``()``, for mean and standard deviation alone, it does
            not grow with the number of samples either.
        progress
            Called with the number of samples x rows that were just finished, from one thread at a time.

        Raises
        ------
        InputError
            An argument does not fit the artifact.
        """
        request = check(self.metadata, x, samples=samples, seed=seed, rows=rows, first_sample=first_sample)
        if quantiles is None:
            return self._by_output([summarise(draws) for draws in self._engine.run(request, progress)])
        numbers = checked_quantiles(quantiles).reshape(-1)
        summary = self._quantiles if numbers.size else self._moments
        blocks = [summary(block, numbers, progress) for block in request.row_blocks(MAX_BLOCK)]
        return self._by_output([joined(parts) for parts in zip(*blocks)])

    def _quantiles(self, request: Request, numbers: Any, progress: Optional[Progress]) -> list[Prediction]:
        return [summarise(draws, numbers) for draws in self._engine.run(request, progress)]

    def _moments(self, request: Request, numbers: Any, progress: Optional[Progress]) -> list[Prediction]:
        """Without quantiles, blocks of samples add up: none of them need be held with another."""
        moments: list[Moments] = []
        for block in request.sample_blocks(MAX_BLOCK):
            outputs = self._engine.run(block, progress)
            found = [Moments.of(draws) for draws in outputs]
            moments = [a.plus(b) for a, b in zip(moments, found)] if moments else found
        return [summarise(draws, numbers, total) for draws, total in zip(outputs, moments)]

    def _by_output(self, results: Union[list[NDArray[Any]], list[Prediction]]) -> Any:
        if len(results) == 1:
            return results[0]
        return {tensor.name: result for tensor, result in zip(self.metadata.outputs, results)}
