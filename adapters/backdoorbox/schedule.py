"""BackdoorBox's schedules: one dictionary that says how to train or test, on which device, and where to write."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from ...core.context import resolve_device
from ...core.settings import Settings
from ...errors import SettingsError
from ...io.files import write_torch

TRAINING = ("epochs", "batch_size", "lr", "momentum", "weight_decay")


class Schedule(Settings):
    """What a schedule may hold; the names are BackdoorBox's own."""

    device: Literal["CPU", "GPU"] = "CPU"
    CUDA_VISIBLE_DEVICES: str | None = None
    CUDA_SELECTED_DEVICES: str | None = None
    GPU_num: int | None = Field(None, ge=0)
    epochs: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    num_workers: int | None = Field(None, ge=0)
    lr: float | None = Field(None, gt=0)
    momentum: float | None = Field(None, ge=0, lt=1)
    weight_decay: float | None = Field(None, ge=0)
    gamma: float | None = Field(None, gt=0, le=1)
    schedule: tuple[int, ...] | None = Field(None, description="epochs after which lr is multiplied by gamma")
    warmup_epoch: int | None = Field(None, ge=0)
    log_iteration_interval: int | None = Field(None, ge=1)
    test_epoch_interval: int | None = Field(None, ge=1)
    save_epoch_interval: int | None = Field(None, ge=1)
    save_dir: str | None = None
    experiment_name: str = "elixir_plugin"
    benign_training: bool | None = None
    pretrain: str | None = None
    test_model: str | None = None
    metric: Literal["BA", "ASR", "ASR_NoTarget"] = "BA"
    y_target: int | None = Field(None, ge=0)

    @classmethod
    def of(cls, schedule: Mapping[str, Any] | Schedule | None) -> Schedule:
        """Return a checked schedule.

        :raises SettingsError: naming every key that BackdoorBox does not know, and values out of range.
        """
        return schedule if isinstance(schedule, Schedule) else cls.build(schedule or {}, where="schedule")

    def torch_device(self) -> torch.device:
        """Return the device; of several GPUs the first. The environment is read, never written.

        :raises SettingsError: when it is not there.
        """
        if self.device == "CPU":
            return torch.device("cpu")
        selected = (self.CUDA_SELECTED_DEVICES or "").split(",")[0].strip()
        visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
        if selected and selected not in visible and not selected.isdecimal():
            raise SettingsError(
                "no such GPU",
                where="schedule: CUDA_SELECTED_DEVICES",
                found=selected,
                allowed="a number, or one of the environment's CUDA_VISIBLE_DEVICES",
            )
        number = visible.index(selected) if selected in visible else int(selected or 0)
        return resolve_device(f"cuda:{number}")

    def training(self) -> dict[str, Any]:
        """Return what it says about training."""
        return {name: getattr(self, name) for name in TRAINING if getattr(self, name) is not None}

    def milestones(self) -> dict[str, Any]:
        """Return the stepwise schedule of the learning rate, if it has one."""
        if not self.schedule:
            return {}
        return {"schedule": "step", "milestones": self.schedule, **({"gamma": self.gamma} if self.gamma else {})}


class WorkDir:
    """Where a run's ``log.txt`` and checkpoints go: nowhere unless the schedule names ``save_dir``."""

    def __init__(self, schedule: Schedule) -> None:
        self.folder: Path | None = None
        if schedule.save_dir is not None:
            stamp = time.strftime("%Y-%m-%d_%H-%M-%S")  # BackdoorBox writes colons, which not every file system takes
            self.folder = Path(schedule.save_dir) / f"{schedule.experiment_name}_{stamp}"
            self.folder.mkdir(parents=True, exist_ok=True)

    def log(self, text: str) -> None:
        """Add a line to ``log.txt`` and to the log of this process."""
        logging.getLogger(__name__).info(text)
        if self.folder is not None:
            with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
                file.write(f"[{time.strftime('%Y-%m-%d_%H:%M:%S')}] {text}\n")

    def checkpoint(self, module: nn.Module, epochs: int) -> None:
        """Write ``ckpt_epoch_<n>.pth``: a plain state dict on the CPU."""
        if self.folder is not None:
            state = {name: value.detach().cpu() for name, value in module.state_dict().items()}
            write_torch(self.folder / f"ckpt_epoch_{epochs}.pth", state)
