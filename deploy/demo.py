"""The main job on the shipped nets: lower, export, run, verify against Lava, price, compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from spikefold.converters.nir_file import save_nir
from spikefold.converters.onnx import save_onnx, to_onnx_clip
from spikefold.deploy.compare import compare, write_csv, write_json
from spikefold.deploy.comparison import Row
from spikefold.deploy.picture import draw_accuracy_energy
from spikefold.deploy.report.evidence import Evidence
from spikefold.deploy.report.page import check_report, write_report
from spikefold.deploy.sources import SACCADE_MNIST, find_data, find_net
from spikefold.errors import InputError
from spikefold.files import made_folder

CALIBRATION_SAMPLES = 128
_NETS = ("plain", "asa", "fsta")


def run_demo(out: Path, quick: bool, report: Callable[[str], None]) -> list[Row]:
    """Compare the shipped nets and write report, table, picture and files to the folder ``out``.

    Parameters
    ----------
    out : Path
        Made if it is not there.
    quick : bool
        100 test digits and 2 on Lava instead of 1,000 and 4.
    report : callable
        Called with a line on what happens next.
    """
    check_report()
    made_folder(out)
    report("filming the digits with three saccades")
    calibration = find_data(SACCADE_MNIST, "train", CALIBRATION_SAMPLES).clips()
    test = find_data(SACCADE_MNIST, "test", 100 if quick else None)
    if test.labels is None:
        raise InputError(f"{SACCADE_MNIST} came without labels")
    nets = [find_net(name) for name in _NETS]
    evidence = Evidence(SACCADE_MNIST, report)
    rows = compare(
        nets, calibration, test.clips(), test.labels, lava_samples=2 if quick else 4, report=report, watch=evidence.add
    )
    report("writing files")
    for row in rows:
        stem = row.name if row.mode == "none" else f"{row.name}-{row.mode}"
        save_nir(row.fixed, out / f"{stem}.nir")
        save_onnx(to_onnx_clip(row.fixed), out / f"{stem}.onnx")
    write_csv(rows, out / "table.csv")
    write_json(rows, out / "table.json")
    draw_accuracy_energy(rows, out / "accuracy-energy.png")
    write_report(evidence, out / "report.html")
    return rows
