"""Micro-batching: requests that come within 2 ms are answered by one call. The standard library and keepdrop only.

python serving.py forecaster.onnx

A call has costs of its own, whatever its rows, so that a busy server answers more requests a second by gathering them.
That changes no number: the id of a request travels as its row id, and a row's samples depend on that, the seed and its
inputs alone, not on what it is gathered with.
"""

import queue
import sys
import threading
import time
from concurrent.futures import Future

import numpy as np

import keepdrop

WAIT = 0.002  # seconds that a request waits for others at most
MOST = 64  # rows of a call


class MicroBatcher:
    """Answers requests one by one, and calls the model for several at once; safe to use from many threads."""

    def __init__(self, model, samples, interval, seed=0):
        self.model, self.samples, self.interval, self.seed = model, samples, interval, seed
        self.sizes = []  # rows of each call, for your own monitoring
        self._requests = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def predict(self, id, x):
        """Mean and interval of one request [...]; `id` is an integer, such as the number of the sensor."""
        answer = Future()
        self._requests.put((id, x, answer))
        return answer.result()

    def close(self):
        """Answer what waits, and stop."""
        self._requests.put(None)
        self._thread.join()

    def _work(self):
        while (first := self._requests.get()) is not None:
            batch, ends, more = [first], time.monotonic() + WAIT, True
            while more and len(batch) < MOST:
                try:
                    request = self._requests.get(timeout=max(0.0, ends - time.monotonic()))
                except queue.Empty:
                    break
                more = request is not None
                batch += [request] if more else []
            self._answer(batch)
            if not more:
                break

    def _answer(self, batch):
        self.sizes.append(len(batch))
        try:
            x, rows = np.stack([x for _, x, _ in batch]), np.array([id for id, _, _ in batch])
            p = self.model.predict(x, rows=rows, samples=self.samples, seed=self.seed, quantiles=central(self.interval))
            low, high = p.interval(self.interval)
            for i, (_, _, answer) in enumerate(batch):
                answer.set_result((p.mean[i], low[i], high[i]))
        except Exception as error:
            if len(batch) == 1:
                batch[0][2].set_exception(error)
            else:  # one request must not fail the others
                for request in batch:
                    self._answer([request])


def central(interval):
    """The two quantiles of a central interval, so that samples need not be kept."""
    return (1 - interval) / 2, (1 + interval) / 2


if __name__ == "__main__":
    # One thread: a server runs several processes, and they share the processors.
    model = keepdrop.load(sys.argv[1], threads=1)
    shape = [size or 10 for size in model.metadata.inputs[0].shape[1:]]
    requests = np.random.default_rng(0).standard_normal((16, 20, *shape)).astype(np.float32)
    answers, server = {}, MicroBatcher(model, samples=100, interval=0.9, seed=7)

    def client(number):
        """Asks one question after the other, as a client of a server does."""
        for i, x in enumerate(requests[number]):
            answers[number, i] = server.predict(number, x)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    server.close()
    print(f"{len(answers)} requests of {len(clients)} clients in {len(server.sizes)} calls")

    # Each is what a call of its own would have given.
    for (number, i), (mean, low, high) in answers.items():
        p = model.predict(requests[number][i : i + 1], rows=[number], samples=100, seed=7)
        assert np.allclose(mean, p.mean[0], rtol=1e-4, atol=1e-5)
        assert np.allclose((low, high), [bound[0] for bound in p.interval(0.9)], rtol=1e-4, atol=1e-5)
    print("every answer is that of a call of its own")
