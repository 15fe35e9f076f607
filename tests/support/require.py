"""What a test needs from outside: skip with the reason when it is not there, fail when it was promised.

``UNIMEM_REQUIRE=docker,mosquitto`` (set by CI, which installs them) turns a skip into a failure: a suite that
did not run must not look green.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def _mosquitto() -> str:
    # Debian puts daemons where only root's PATH leads.
    return "" if mosquitto_binary() else "no mosquitto on this machine (Debian: apt-get install mosquitto)"


def _docker() -> str:
    if not shutil.which("docker"):
        return "no docker command on this machine"
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return "the Docker engine does not answer"
    return "" if done.returncode == 0 else f"no Docker engine answers: {done.stderr.strip()[-200:]}"


def _qemu() -> str:
    binary = qemu_binary()
    if binary is None:
        return "no qemu-system-aarch64 on this machine (Debian: apt-get install qemu-system-arm)"
    try:
        done = subprocess.run(
            [binary, "-machine", "help"], capture_output=True, text=True, timeout=20, check=False
        )
    except subprocess.TimeoutExpired:
        return "qemu-system-aarch64 does not answer"
    if "xlnx-zcu102" in done.stdout:
        return ""
    return f"qemu-system-aarch64 has no xlnx-zcu102: {done.stderr[-200:]}"


_CHECKS = {"mosquitto": _mosquitto, "docker": _docker, "qemu": _qemu}


def mosquitto_binary() -> str | None:
    """Path of the broker, or None."""
    return shutil.which("mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


def qemu_binary() -> str | None:
    """Path of the emulator of 64-bit Arm machines, or None."""
    return shutil.which("qemu-system-aarch64")


def require(name: str) -> None:
    """Go on only if `name` ("mosquitto", "docker", "qemu") is here; else skip, or fail (`UNIMEM_REQUIRE`)."""
    missing = _CHECKS[name]()
    if not missing:
        return
    if name in os.environ.get("UNIMEM_REQUIRE", "").replace(" ", "").split(","):
        pytest.fail(f"UNIMEM_REQUIRE names {name}, but: {missing}")
    pytest.skip(missing)
