"""Jobs on workers: here, in processes, on a Dask cluster; lost workers, errors, warnings."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import worker_jobs
from spikefold.deploy import workers as workers_module
from spikefold.deploy.workers import Job, Workers
from spikefold.errors import BackendError, InputError, SpikefoldWarning

ONES = np.ones(50_000, dtype=np.int64)
PLACES = [1, 2, "cluster"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Dask cluster of two worker processes on this machine."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """One process, two processes, or the cluster."""
    cluster = request.getfixturevalue("address") if request.param == "cluster" else None
    with Workers(2 if cluster else request.param, cluster) as made:
        yield made


anywhere = pytest.mark.parametrize("workers", PLACES, indirect=True)
elsewhere = pytest.mark.parametrize("workers", PLACES[1:], indirect=True)


@anywhere
def test_every_job_is_done_once_and_known_by_its_number(workers: Workers) -> None:
    jobs = [Job(worker_jobs.add_up, (ONES, n)) for n in range(7)]
    assert sorted(workers.results(jobs)) == [(n, 50_000 * n) for n in range(7)]


@anywhere
def test_no_jobs_are_no_results(workers: Workers) -> None:
    assert list(workers.results([])) == []


@elsewhere
def test_there_are_as_many_processes_as_asked_for(workers: Workers) -> None:
    assert len({pid for _, pid in workers.results([Job(worker_jobs.process, (n,)) for n in range(6)])}) == 2


@elsewhere
def test_what_a_lost_worker_was_doing_is_done_again(workers: Workers, tmp_path: Path) -> None:
    jobs = [Job(worker_jobs.die_first, (tmp_path / "died", n, ONES)) for n in range(8)]
    assert sorted(workers.results(jobs)) == [(n, 50_000 + n) for n in range(8)]
    assert (tmp_path / "died").exists()


@elsewhere
def test_a_job_that_ends_every_worker_ends_the_run_with_advice(workers: Workers) -> None:
    with pytest.raises(BackendError, match="too little memory: run fewer at a time"):
        list(workers.results([Job(worker_jobs.die_always, (n,)) for n in range(4)]))


@anywhere
def test_an_error_in_a_job_is_the_callers_error(workers: Workers) -> None:
    with pytest.raises(InputError, match="job 3 is refused"):
        list(workers.results([Job(worker_jobs.refuse, (3,))]))


@anywhere
def test_a_warning_in_a_job_is_the_callers_warning(workers: Workers) -> None:
    with pytest.warns(SpikefoldWarning, match="job 5"):
        assert list(workers.results([Job(worker_jobs.warn, (5,))])) == [(0, 5)]


@elsewhere
def test_a_worker_with_other_code_is_refused(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "code_version", lambda: "of tomorrow")
    with pytest.raises(BackendError, match="another spikefold"):
        list(workers.results([Job(worker_jobs.add_up, (ONES, 1))]))


@pytest.mark.parametrize("jobs", [0, -2])
def test_a_number_of_processes_that_makes_no_sense_is_refused(jobs: int) -> None:
    with pytest.raises(InputError, match=f"jobs is {jobs}"):
        Workers(jobs)


@pytest.mark.parametrize("address", ["nonsense://x", "tcp://127.0.0.1:1"])
def test_an_address_without_a_cluster_is_said_in_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers_module, "CONNECT_S", 1)
    with pytest.raises(BackendError, match=f"cluster {address}: no Dask scheduler answers"), Workers(1, address):
        pass
