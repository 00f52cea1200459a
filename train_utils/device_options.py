"""The options of a plan for devices that need not be here; light to import."""

import re
from dataclasses import dataclass

from options import check_range, option, refuse_useless

DEVICES = re.compile(r"(\d+)x(\d+(?:\.\d+)?)GB", re.IGNORECASE)


@dataclass
class DeviceOptions:
    """Devices, and what is assumed of them: an H100's figures, unless said otherwise."""

    devices: str | None = option(None, "With --plan_only: what a run needs of devices, COUNTxMEMORY as 8x80GB")
    device_tflops: float = option(989.0, "Peak of a device in bf16, in TFLOP/s (an H100: 989, an A100: 312)")
    peak_share: float = option(0.4, "Share of that peak which training reaches where nothing waits for a link")
    link_gb_per_second: float = option(450.0, "GB/s a device sends to others (NVLink 4: 450, 400 Gbit/s Ethernet: 50)")
    device_watts: float = option(700.0, "Watts of a device that trains")
    plan_tokens: float | None = option(None, "Tokens of the planned training; unset: 20 a parameter")

    def __post_init__(self) -> None:
        for name, high in (("device_tflops", 1e6), ("link_gb_per_second", 1e6), ("device_watts", 1e5)):
            check_range(name, getattr(self, name), 1e-3, high)
        check_range("peak_share", self.peak_share, 0.01, 1)
        if self.plan_tokens is not None:
            check_range("plan_tokens", self.plan_tokens, 1, 1e18)
        if self.devices is not None and not (1 <= self.count <= 1024):
            raise ValueError(f"--devices {self.devices}: expected is COUNTxMEMORY of 1 to 1,024 devices, as 8x80GB")

    def check_typed(self, typed: set[str]) -> None:
        """Raise InputError for an assumption about devices that no plan is made for."""
        if self.devices is None:
            refuse_useless(typed, set(self.__dataclass_fields__), "without --devices; add it, with --plan_only true")

    @property
    def count(self) -> int:
        """How many devices; 0 where the option says nothing that is understood."""
        match = DEVICES.fullmatch(self.devices or "")
        return int(match[1]) if match else 0

    @property
    def memory_bytes(self) -> float:
        """The memory of a device."""
        match = DEVICES.fullmatch(self.devices or "")
        return float(match[2]) * 1e9 if match else 0.0
