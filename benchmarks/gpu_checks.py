"""Checks that need a GPU: a training step without a host sync, bf16 against fp32, torch.compile, and throughput.

    python benchmarks/gpu_checks.py --out benchmarks/gpu_checks.md

Prints one line a check and exits non-zero if one fails. Not yet run by us: no GPU was at hand (2026-11-23).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from step_time import make_batch

from fusion_det.build import build_detector
from fusion_det.config.cli import load_settings
from fusion_det.config.tools import default_config_dir, get_tool
from fusion_det.detector import Detector
from fusion_det.engine.trainer import Trainer

DEVICE = torch.device("cuda")


HEADS = ("fcos", "retinanet", "gfl", "ssd_small")


def make_trainer(
    backbone: str, batch: int, size: int, *, precision: str, compile: bool = False, head: str = "fcos"
) -> tuple[Trainer, list]:
    """A trainer on random pictures, and the one group of batches that it is fed again and again."""
    words = ["data=coco", "data.root=.", "experiment=null", f"backbone={backbone}", "backbone.pretrained=false", f"head={head}"]
    settings = load_settings(get_tool("train"), words, default_config_dir())
    model: Detector = build_detector(settings.plain(), 80, seed=0, load_pretrained=False).to(DEVICE).channels_last()
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-4, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = Trainer(
        model, optimizer, schedule, lambda epoch, start: [], num_batches=10**6, epochs=1, device=DEVICE, precision=precision,
        accumulate=1, clip_grad_norm=10.0, ema_decay=0.999, log_every=10**6, compile=compile,
    )  # fmt: skip
    images, targets = make_batch(batch, size, size, 7, torch.device("cpu"))
    return trainer, [(images.pin_memory(), targets.pin_memory())]


def steps_per_second(trainer: Trainer, group: list, *, warmup: int, steps: int) -> float:
    for _ in range(warmup):
        trainer.train_step(group)
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(steps):
        trainer.train_step(group)
    torch.cuda.synchronize()
    return steps / (time.perf_counter() - begin)


def check_no_sync() -> str:
    """A steady step of any head must not make the host wait for the device."""
    for head in HEADS:
        trainer, group = make_trainer("resnet18", 8, 320, precision="bf16", head=head)
        for _ in range(3):
            trainer.train_step(group)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(3):
                trainer.train_step(group)
        except RuntimeError as error:
            raise AssertionError(f"head {head}: {error}") from error
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return f"no host sync in a steady step of {', '.join(HEADS)}"


def check_losses_agree() -> str:
    """bf16 and fp32 give the same losses within 3 %."""
    found = {}
    for precision in ("fp32", "bf16"):
        trainer, group = make_trainer("resnet18", 8, 320, precision=precision)
        trainer.train_step(group)
        found[precision] = trainer.window.drain()["loss"]
    difference = abs(found["bf16"] / found["fp32"] - 1)
    if difference > 0.03:
        raise AssertionError(f"losses differ by {difference:.1%}: {found}")
    return f"bf16 loss within {difference:.2%} of fp32"


def check_throughput() -> str:
    """Images per second, median of three windows, eager and compiled."""
    lines = []
    for backbone, batch, size in (("resnet50", 16, 320), ("resnet50", 16, 640), ("efficientnet_lite0", 32, 320)):
        for compile in (False, True):
            trainer, group = make_trainer(backbone, batch, size, precision="bf16", compile=compile)
            rates = [steps_per_second(trainer, group, warmup=5, steps=20) * batch for _ in range(3)]
            mode = "compiled" if compile else "eager"
            memory = torch.cuda.max_memory_allocated() / 2**30
            lines.append(f"{backbone} {size} px, batch {batch}, {mode}: {statistics.median(rates):.0f} images/s, peak {memory:.1f} GiB")
            torch.cuda.reset_peak_memory_stats()
    return "; ".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU here; nothing was checked")
        return 1
    lines = [f"{date.today()}, {torch.cuda.get_device_name()}, torch {torch.__version__}"]
    failed = False
    checks: list[Callable[[], str]] = [check_no_sync, check_losses_agree, check_throughput]
    for check in checks:
        try:
            lines.append(f"ok: {check()}")
        except Exception as error:
            failed = True
            lines.append(f"FAILED {check.__name__}: {type(error).__name__}: {error}")
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("# GPU checks\n\n" + "\n".join(f"- {line}" for line in lines) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
