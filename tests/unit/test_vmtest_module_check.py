# SPDX-License-Identifier: MIT
"""The static checks of the kernel modules, with scripts that replace make and checkpatch."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmtest.module_check import check_checkpatch, check_sparse, ignored_in, sparse_findings
from vmtest.modules import MODULES
from vmtest.problems import Problem

OUTPUT = """\
  CC [M]  fault.o
  CHECK   fault.c
fault.c:89:21: warning: restricted __le32 degrades to integer
main.c:11:1: error: bad constant expression
make[1]: Leaving directory '/tmp/x'
"""


def install_make(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    make = directory / "make"
    make.write_text(f"#!/bin/sh\n{script}\n")
    make.chmod(0o755)
    monkeypatch.setenv("PATH", str(directory), prepend=":")


def install_checkpatch(kernel: Path, script: str) -> None:
    path = kernel / "tree" / "scripts" / "checkpatch.pl"
    path.parent.mkdir(parents=True)
    path.write_text(script)


def test_sparse_findings_are_warnings_and_errors() -> None:
    assert sparse_findings(OUTPUT) == [
        "fault.c:89:21: warning: restricted __le32 degrades to integer",
        "main.c:11:1: error: bad constant expression",
    ]


def test_sparse_is_run_on_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_make(
        tmp_path,
        monkeypatch,
        'for word; do case $word in M=*) cd "${word#M=}";; esac; done\n'
        'for file in *.c; do echo "  CHECK   $file"; echo "$file:1:1: warning: $*" >&2; done',
    )
    findings = check_sparse(MODULES[0], tmp_path)
    assert len(findings) == len([name for name in MODULES[0].sources() if name.endswith(".c")])
    assert "C=2 CHECK=sparse -include " in findings[0]


def test_findings_in_the_kernels_own_headers_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_make(
        tmp_path,
        monkeypatch,
        "for word; do case $word in M=*) M=${word#M=};; esac; done\n"
        'echo "  CHECK   $M/main.c"; echo "$M/main.c:1:1: warning: a" >&2; echo "./include/x.h:1:1: warning: b" >&2',
    )
    assert check_sparse(MODULES[0], tmp_path) == ["main.c:1:1: warning: a"]


def test_make_that_ran_no_sparse_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # If make considers sparse outdated, it only warns, and continues without it.
    install_make(tmp_path, monkeypatch, "echo '  CC [M]  main.o'")
    with pytest.raises(Problem, match="make did not run sparse"):
        check_sparse(MODULES[0], tmp_path)


def test_module_that_does_not_build_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_make(tmp_path, monkeypatch, "echo '  CHECK   main.c'; exit 2")
    with pytest.raises(Problem, match="does not build"):
        check_sparse(MODULES[0], tmp_path)


def test_checkpatch_is_run_on_every_file(tmp_path: Path) -> None:
    install_checkpatch(tmp_path, 'print "$ARGV[-1]: -e $ARGV[-1]: @ARGV\\n" if -e $ARGV[-1]; exit 1;')
    findings = check_checkpatch(MODULES[0], tmp_path)
    assert [finding.partition(":")[0] for finding in findings] == sorted(MODULES[0].sources())
    assert all("--strict" in finding for finding in findings)


def test_checkpatch_that_fails_is_a_problem(tmp_path: Path) -> None:
    install_checkpatch(tmp_path, "die 'no such option';")
    with pytest.raises(Problem, match="no such option"):
        check_checkpatch(MODULES[0], tmp_path)


def test_kernel_without_checkpatch_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(Problem, match=r"checkpatch\.pl is missing"):
        check_checkpatch(MODULES[0], tmp_path)


def test_long_lines_are_ignored_in_the_table_only() -> None:
    assert "LONG_LINE_COMMENT" in ignored_in("vfio_mock_regs.h")
    assert "LONG_LINE_COMMENT" not in ignored_in("main.c")
