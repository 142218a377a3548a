"""Every command can be quiet and strict, and ends with one line where it fails."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from typing import Annotated

import pytest
import typer

from spikefold.deploy import cli
from spikefold.deploy.cautions import Caution, tell
from spikefold.deploy.cli_options import JsonOption
from spikefold.deploy.command_line import App, run
from spikefold.deploy.progress import progress
from spikefold.errors import InputError

app = App()


@app.command()
def work(fail: Annotated[bool, typer.Option("--fail")] = False, as_json: JsonOption = False) -> None:
    with progress(as_json) as report:
        report("working")
    tell([Caution("one", "a", 1.0, "first"), Caution("two", "b", 2.0, "second")])
    if fail:
        raise InputError("what\n  went wrong")
    typer.echo("done")


@app.command()
def other() -> None:
    typer.echo("other")


@pytest.fixture(autouse=True)
def own_filters() -> object:
    """As a user has them."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        yield


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["program", *words])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # put back afterwards
    with pytest.raises(SystemExit) as ended:
        run(app)
    return int(ended.value.code or 0)


def test_warnings_are_lines_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(monkeypatch, "work") == 0
    assert capsys.readouterr() == ("done\n", "working\nwarning: layer a: first\nwarning: layer b: second\n")


def test_quiet_leaves_results_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(monkeypatch, "work", "--quiet") == 0
    assert capsys.readouterr() == ("done\n", "")


@pytest.mark.parametrize("more", [[], ["-q"], ["--json"]])
def test_strict_ends_with_one_error_that_names_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert called(monkeypatch, "work", "--strict", *more) == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = "error: layer a: first; layer b: second (a warning, which --strict takes for an error)"
    assert err.splitlines() == ([] if more else ["working"]) + [last]


def test_an_error_is_one_line_also_where_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "work", "--fail", "--quiet") == 2
    assert capsys.readouterr() == ("", "error: what went wrong\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wrok"], r"error: No such command 'wrok'.*; see program --help\n"),
        (["work", "--fial"], r"error: No such option.* --fial.*; see program work --help\n"),
        (["work", "left", "over"], r"error: Got unexpected extra argument.*; see program work --help\n"),
    ],
)
def test_a_command_given_amiss_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert called(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(said, err)


def test_one_strict_command_leaves_the_next_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called(monkeypatch, "work", "--strict", "--quiet")
    assert called(monkeypatch, "work") == 0
    assert "warning: layer a: first" in capsys.readouterr().err


def commands(typer_app: typer.Typer) -> list[typer.models.CommandInfo]:
    groups = [g.typer_instance for g in typer_app.registered_groups if g.typer_instance is not None]
    return [*typer_app.registered_commands, *(c for g in groups for c in commands(g))]


def test_every_command_of_ours_takes_both() -> None:
    found = commands(cli.app)
    assert len(found) > 15
    for command in found:
        assert command.callback is not None
        assert {"quiet", "strict"} <= inspect.signature(command.callback).parameters.keys(), command.name
