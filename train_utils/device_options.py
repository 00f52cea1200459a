"""The options of a plan for devices that need not be here; light to import."""

import re
from dataclasses import dataclass
from typing import ClassVar

from options import Options, option

HERE = "here"
DEVICES = re.compile(r"(\d+)x(\d+(?:\.\d+)?)GB", re.IGNORECASE)


@dataclass
class DeviceOptions(Options):
    """Devices, and what is assumed of them: an H100's figures, unless said otherwise."""

    NEEDS: ClassVar[str] = "--devices"

    devices: str | None = option(None, "With --plan_only: what a run needs of devices, COUNTxMEMORY as 8x80GB, or here")
    device_tflops: float = option(989.0, "bf16 peak of a device in TFLOP/s (H100: 989, A100: 312)", within=(1e-3, 1e6))
    peak_share: float = option(0.4, "Share of that peak which training reaches beside waits", within=(0.01, 1))
    link_gb_per_second: float = option(450.0, "GB/s it sends to others (NVLink 4: 450)", within=(1e-3, 1e6))
    device_watts: float = option(700.0, "Watts of a device that trains", within=(1e-3, 1e5))
    plan_tokens: float | None = option(None, "Tokens of the planned training; unset: 20 a parameter", within=(1, 1e18))

    def __post_init__(self) -> None:
        super().__post_init__()
        match = DEVICES.fullmatch(self.devices or "")  # none for `here`, until the devices are found
        self.count, self.memory_bytes = (int(match[1]), float(match[2]) * 1e9) if match else (0, 0.0)
        if self.devices not in (None, HERE) and not (1 <= self.count <= 1024):
            raise ValueError(
                f"--devices {self.devices}: expected is COUNTxMEMORY of 1 to 1,024 devices, as 8x80GB, or {HERE}"
            )
