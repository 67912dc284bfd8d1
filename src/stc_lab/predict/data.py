"""The streams of a run as Lightning data: one item is one stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from stc_lab.predict.tasks import StreamTask


class StreamDataset(Dataset):
    """Tasks by number."""

    def __init__(self, tasks: Sequence[StreamTask]) -> None:
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> StreamTask:
        return self.tasks[index]


class StreamDataModule(LightningDataModule):
    """Feeds the pending streams; with several devices Lightning gives each its share, none twice."""

    def __init__(self, tasks: Sequence[StreamTask]) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.tasks = list(tasks)

    def predict_dataloader(self) -> DataLoader:
        return DataLoader(StreamDataset(self.tasks), batch_size=1, shuffle=False, num_workers=0, collate_fn=_only)

    def transfer_batch_to_device(self, batch: StreamTask, device: torch.device, dataloader_idx: int) -> StreamTask:
        """A task holds no tensors."""
        return batch

    def share(self, rank: int, world_size: int) -> list[StreamTask]:
        """The tasks that process ``rank`` of ``world_size`` gets."""
        return self.tasks[rank::world_size]


def _only(batch: list[StreamTask]) -> StreamTask:
    (task,) = batch
    return task
