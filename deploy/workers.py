"""Jobs in processes of this machine (joblib), or on a Dask cluster that is there already.

Not joblib's Dask backend: in joblib 1.6.0 it never returns once the scheduler has given a job up, and what it hands to
workers is lost with the worker that holds it. Dask itself runs jobs of a lost worker again, and lets go of none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import Any, NamedTuple

from spikefold.deploy.cache import code_version
from spikefold.errors import BackendError, InputError, SpikefoldWarning

TRIES = 3
"""Rounds in a row that may end with a lost worker and no result; Dask's scheduler is as patient by itself."""
CONNECT_S = 20
"""Seconds that a scheduler has to answer."""


class Job(NamedTuple):
    """A call of a function of this package."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class _Done(NamedTuple):
    number: int
    result: Any
    warnings: list[str]


class Workers:
    """Who runs jobs; a context manager.

    Parameters
    ----------
    jobs : int
        Processes on this machine; 1 runs jobs in this one, -1 is one a core. A cluster has as many as it has.
    cluster : str, optional
        Address of the scheduler of a running Dask cluster, such as ``tcp://host:8786``. Its workers need the same
        spikefold.

    Raises
    ------
    InputError
        ``jobs`` is 0 or below -1.
    BackendError
        There is no such cluster, or Dask is not installed.
    """

    def __init__(self, jobs: int = -1, cluster: str | None = None) -> None:
        if jobs == 0 or jobs < -1:
            raise InputError(f"jobs is {jobs}: give a number of processes, or -1 for one a core")
        self._jobs, self._cluster, self._client, self._open = jobs, cluster, None, ExitStack()

    def __enter__(self) -> Workers:
        if self._cluster is not None:
            self._client = self._open.enter_context(_connect(self._cluster))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def results(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Number and result of every job, in the order in which they end.

        What a lost worker was doing is done again.

        Raises
        ------
        BackendError
            A job ends its worker again and again, a worker has another spikefold, or the cluster is gone.
        Exception
            As a job raised it.
        """
        started = self._on_cluster(jobs) if self._client is not None else self._here(jobs)
        for done in started:
            for text in done.warnings:
                warnings.warn(text, SpikefoldWarning, stacklevel=2)
            yield done.number, done.result

    def _here(self, jobs: Sequence[Job]) -> Iterator[_Done]:
        import joblib

        waiting, lost = dict(enumerate(jobs)), 0
        while waiting:
            calls = [
                joblib.delayed(_call)(code_version(), n, job.function, *job.arguments) for n, job in waiting.items()
            ]
            pool = joblib.Parallel(n_jobs=self._jobs, return_as="generator_unordered", batch_size=1)
            try:
                for done in pool(calls):
                    del waiting[done.number]
                    lost = 0
                    yield done
            except BrokenProcessPool as error:
                lost += 1
                if lost == TRIES:
                    raise _gave_up(error, len(waiting)) from error

    def _on_cluster(self, jobs: Sequence[Job]) -> Iterator[_Done]:
        from distributed import CancelledError, KilledWorker, as_completed

        client: Any = self._client
        held: dict[int, Any] = {}

        def hold(argument: Any) -> Any:
            """The argument if it is small, else a task that gives it, which travels once for all jobs.

            Unlike scattered data, it is made again if its worker is lost.
            """
            if argument is None or isinstance(argument, int | float | str):
                return argument
            if id(argument) not in held:
                held[id(argument)] = client.submit(_itself, argument, pure=False)
            return held[id(argument)]

        futures = [
            client.submit(_call, code_version(), n, job.function, *map(hold, job.arguments), pure=False)
            for n, job in enumerate(jobs)
        ]
        try:
            for future in as_completed(futures, loop=client.loop):
                yield future.result()
        except (KilledWorker, CancelledError) as error:
            raise _gave_up(error, sum(not f.done() for f in futures)) from error
        finally:
            client.cancel([*futures, *held.values()])


def _call(version: str, number: int, function: Callable[..., Any], *arguments: Any) -> _Done:
    """Run a job in a worker; its warnings travel back with the result."""
    if code_version() != version:
        raise BackendError(
            "a worker has another spikefold, numpy or torch: install the same versions there, and leave the source as "
            "it is while a sweep runs"
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SpikefoldWarning)
        result = function(*arguments)
    return _Done(number, result, [str(w.message) for w in caught if issubclass(w.category, SpikefoldWarning)])


def _itself(argument: Any) -> Any:
    return argument


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise BackendError(f"cluster {address}: Dask is missing; install spikefold[cluster]") from error
    try:
        return Client(address, set_as_default=False, timeout=CONNECT_S)
    except (OSError, ValueError, TypeError) as error:
        raise BackendError(
            f"cluster {address}: no Dask scheduler answers ({error}); give its address, such as tcp://host:8786"
        ) from error


def _gave_up(error: BaseException, left: int) -> BackendError:
    return BackendError(
        f"workers were lost again and again, {left} jobs are left ({error}); often a worker has too little memory: run "
        "fewer at a time (--jobs), or give each fewer samples (--shard). The same command goes on from what is done"
    )
