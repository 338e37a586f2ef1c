# SPDX-License-Identifier: MIT
"""Further machines: the other IOMMUs, edu, two network cards on a wire, polling during DMA by messages, and servers that are killed."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.vfio_user_guest.conftest import ENVIRONMENT, ROOT, Serve, boot, last_lines, vm

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize("iommu", ["amd", "virtio"])
def test_adder_behind_other_iommus(serve: Serve, tmp_path: Path, iommu: str) -> None:
    serve("adder", "adder")
    serve("adder", "messages", "--no-shared-memory")
    assert "sum 3" in boot("adder", [tmp_path / "adder", tmp_path / "messages"], iommu=iommu)


def test_edu_by_the_driver_of_the_examples(serve: Serve, tmp_path: Path) -> None:
    serve("edu", "edu")
    boot("edu", [tmp_path / "edu"])


def test_two_cards_on_a_wire_exchange_pings(serve: Serve, tmp_path: Path) -> None:
    serve("igb", "first", "igb", "second", "--wire")
    boot("network", [tmp_path / "first", tmp_path / "second"])


def test_two_processors_poll_while_dma_goes_by_messages(serve: Serve, tmp_path: Path) -> None:
    serve("adder", "messages", "--no-shared-memory")
    boot("polling", [tmp_path / "messages"])


def test_the_guest_survives_a_server_that_is_killed(serve: Serve, tmp_path: Path) -> None:
    server = serve("adder", "adder")
    serve("adder", "second")
    # The guest can see a writable directory of the host only below the current directory.
    with tempfile.TemporaryDirectory(prefix=".results-", dir=ROOT) as folder:
        killed = Path(folder, "killed")
        command = vm("killed", [tmp_path / "adder"], str(tmp_path / "second"), str(killed.relative_to(ROOT)))
        errors = Path(tmp_path, "errors")
        with (
            errors.open("w") as file,
            subprocess.Popen(
                command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=file
            ) as machine,
        ):
            assert machine.stdout is not None
            for line in machine.stdout:
                print(line, end="")
                if line == "kill\n":
                    server.kill()
                    server.wait()
                    killed.touch()
    print(errors.read_text()[-8000:])
    assert machine.returncode == 0, last_lines(errors.read_text())
