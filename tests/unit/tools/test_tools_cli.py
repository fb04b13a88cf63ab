"""The command as a whole: what goes wrong is one line and an exit status, and nothing is done dry."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from xenpv import __version__, errors
from xenpv.core import lib
from xenpv_tools import cli
from xenpv_tools.cli import COMMANDS, LazyGroup, main
from xenpv_tools.session import Session, verb
from xenpv_tools.versions import PAGE

Probe = Callable[..., None]


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Probe:
    """`probe(function, **what the verb can)`: `xenpv probe` runs it."""
    def make(function: Callable[[Session], None], **can: Any) -> None:
        command = click.command("probe")(verb(**can)(function))
        monkeypatch.setattr(LazyGroup, "get_command", lambda self, ctx, name: command if name == "probe" else None)
    return make


def fail(error: BaseException) -> Callable[[Session], None]:
    def function(session: Session) -> None:
        raise error
    return function


@pytest.mark.parametrize(("error", "status", "line"), [
    (errors.HypervisorError("no Xen here: start one"), 1, "xenpv: no Xen here: start one"),
    (errors.UsageError("a bad disk: mend it"), 2, "xenpv: a bad disk: mend it"),
    (errors.StoreError("two\nlines\x1b[2J"), 1, "xenpv: two lines [2J"),
    (FileNotFoundError(2, "No such file or directory", "/x"), 1, "xenpv: /x: No such file or directory"),
    (OSError(28, "No space left on device"), 1, "xenpv: No space left on device"),
    (click.UsageError("Bad thing."), 2, "xenpv: bad thing: see `xenpv probe --help`"),
    (KeyError("x"), 1, "xenpv: KeyError: 'x': this is a bug in xenpv, -vv shows the trace to report"),
])
def test_a_failure_is_one_line(probe: Probe, capsys: pytest.CaptureFixture[str], error: Exception, status: int,
                               line: str) -> None:
    probe(fail(error))
    assert main(["probe"]) == status
    out, err = capsys.readouterr()
    assert (out, err) == ("", line + "\n")


def test_ctrl_c_is_130_without_a_trace(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe(fail(KeyboardInterrupt()))
    assert main(["probe"]) == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_bug_shows_its_trace_when_asked(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe(fail(KeyError("x")))
    assert main(["probe", "-vv"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_error_on_purpose_shows_no_trace_with_v(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    probe(fail(errors.DeviceError("gone: attach it")))
    assert main(["-v", "probe"]) == 1
    assert capsys.readouterr().err == "xenpv: gone: attach it\n"


@pytest.mark.parametrize("words", [["-N", "probe"], ["--json", "probe"]])
def test_an_option_that_cannot_be_heeded_is_refused(probe: Probe, capsys: pytest.CaptureFixture[str],
                                                    words: list[str]) -> None:
    ran: list[Session] = []
    probe(ran.append)
    assert (main(words), ran) == (2, [])
    assert f"this verb has no {words[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-N", "-v", "--json", "-f", "probe"], ["probe", "-N", "-v", "--json", "-f"]])
def test_common_options_stand_before_the_verb_or_behind_it(probe: Probe, words: list[str]) -> None:
    ran: list[Session] = []
    probe(ran.append, dry_run=True, json=True, force="Even so.")
    assert main(words) == 0
    assert [(s.dry_run, s.verbose, s.json, s.force) for s in ran] == [(True, 1, True, True)]


def test_a_verb_that_only_looks_may_be_run_dry(probe: Probe) -> None:
    ran: list[Session] = []
    probe(ran.append, changes=False)
    assert (main(["-N", "probe"]), len(ran)) == (0, 1)


@pytest.mark.parametrize(("words", "text"), [
    (["nonsense"], "no such command 'nonsense'"),
    (["list", "--nonsense"], "no such option '--nonsense'"),
    (["domid"], "missing argument 'DOMAIN'"),
    (["store", "write", "/a"], "'/a' has no value"),
    (["--hypervisor", "vmware:", "list"], "unknown hypervisor 'vmware:'"),
    (["--hypervisor", "emulated:/x#5", "list"], "is one domain's place"),
    (["block-attach", "-N", "1", "foo"], "no virtual device"),
    (["disk", "cp", "a.img", "b.img"], "one of SOURCE and TARGET"),
    (["block-resize", "1", "xvda", "big"], "'big' is no size"),
])
def test_what_cannot_be_meant_is_2(capsys: pytest.CaptureFixture[str], words: list[str], text: str) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert text in err and err.startswith("xenpv: ") and err.count("\n") == 1


def test_without_a_verb_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "block-attach" in capsys.readouterr().err


@pytest.mark.skipif(not cli._NO_VERB, reason="click before 8.2 shows the help itself")
def test_a_group_without_its_verb_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emu"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("Usage: xenpv emu") and err.count("\n") > 5


@pytest.mark.parametrize("name", ["emu", "backend", "disk", "store", "grant", "event", "ring"])
def test_no_line_of_a_groups_help_is_cut_short(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines()[1:] if line.endswith("...")]


def test_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found) == ["core", "package", "page", "wire"] and found["package"] == __version__


def test_the_page_version_is_the_cores() -> None:
    assert PAGE == lib.XENPV_STATS_VERSION


def test_block_attach_dry_run_prints_json_and_needs_no_hypervisor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--hypervisor", "emulated:/nowhere", "block-attach", "-N", "1", "/a.img,raw,xvda,w"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pdev_path": "/a.img", "vdev": "xvda", "format": "raw",
                                                   "readwrite": True}


def test_every_file_of_commands_is_a_verb() -> None:
    folder = Path(cli.__file__).with_name("commands")
    files = {path.stem.replace("_", "-") for path in folder.glob("*.py") if path.stem != "__init__"}
    assert files <= {name for section in COMMANDS.values() for name in section}


@pytest.mark.parametrize("name", cli.group.list_commands(click.Context(cli.group)))
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert f"xenpv {name}" in capsys.readouterr().out


def test_verbs_of_later_issues_are_not_there() -> None:
    verbs = cli.group.list_commands(click.Context(cli.group))
    assert "demo" in verbs and "trace" not in verbs


def test_help_imports_no_verb() -> None:
    """It is fast because it does not load the core."""
    script = ("import sys; from xenpv_tools.cli import main; main(['--help']); "
              "print(*[name for name in sys.modules if name.startswith(('xenpv.core', 'xenpv_tools.commands.'))])")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_a_closed_pipe_is_quiet() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "xenpv_tools", "--help"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b"" and done.returncode == 1


def test_say_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Session().say("a\nb")
    assert tuple(capsys.readouterr()) == ("", "xenpv: a b\n")
