"""Overrides that make a run of seconds."""

from __future__ import annotations

SMALL = [
    "data=coco",
    "data.image_size=128",
    "augment=default",
    "neck.channels=16",
    "head.num_convs=1",
    "backbone.stem_width=8",
    "backbone.widths=[8,16,24,32]",
    "backbone.depths=[1,1,1,1]",
    "trainer.epochs=3",
    "trainer.eval_every=2",
    "trainer.log_every=2",
    "trainer.pictures=1",
    "trainer.precision=fp32",
    "loader.batch_size=2",
    "loader.workers=0",
    "logger.progress=false",
]
