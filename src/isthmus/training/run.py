"""One training run: what it learns from, what it learns, and where it is.

Its whole state is `State`, the tensors of the model and the optimizer, and the best weights so far; the rest
follows from the recipe, the data and the seed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.data.feature_pairs import FeaturePairs
from isthmus.errors import IsthmusError
from isthmus.losses import compiled
from isthmus.models.ledger import training_cost
from isthmus.precision import choose_precision
from isthmus.projectors import Projector
from isthmus.projectors.ridge import Modality
from isthmus.training import checkpoint
from isthmus.training.batches import Batches, fingerprint
from isthmus.training.history import History, open_sink
from isthmus.training.joint import build_joint
from isthmus.training.optimizers import build_optimizer
from isthmus.training.order import ORDERS, step_seed
from isthmus.training.plan import Plan
from isthmus.training.processes import Processes
from isthmus.training.recipe import SECTIONS, Recipe
from isthmus.training.schedule import learning_rate
from isthmus.training.validation import validate
from isthmus.version import __version__

RECORD_STEPS = 100  # a history record at least this often, besides every epoch's end
LOSSES = {True: "compiled", False: "not compiled (there is no C compiler, or ISTHMUS_COMPILE=0)"}


@dataclass
class State:
    """Where a run is."""

    precision: str
    step: int = 0
    loss_sum: float = 0.0  # since the last history record, as is loss_steps
    loss_steps: int = 0
    judged: int = -1  # the step of the last evaluation
    waited: int = 0  # evaluations since the best one
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    best: dict[str, float] = field(default_factory=dict)  # of the best one, and its epoch
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """See the module. Made, started, then stepped by `train_projectors`."""

    history: History

    def __init__(
        self,
        train: FeaturePairs,
        val: FeaturePairs | None,
        recipe: Recipe,
        *,
        out: Path | None,
        seed: int,
        device: str | None,
        frozen: Modality | None = None,
    ) -> None:
        self.train, self.val = train, val if val is not None and len(val.image_of) else None
        self.out, self.seed = out, seed
        self.processes = Processes()
        self.writes = out is not None and self.processes.first
        self.device = self.processes.device(device)
        self.plan = Plan.of(recipe, train, frozen, self.processes.size)
        self.recipe, self.slices, self.steps = self.plan.recipe, self.plan.slices, self.plan.steps
        torch.manual_seed(seed)
        self.joint = build_joint(self.plan.recipe, self.plan.batch, train, self.val, frozen).to(self.device).train()
        self.processes.as_first(self.joint.state_dict().values())
        self.batches = Batches(train, self.recipe.loss.positives, self.device, self.recipe.optim.unit)
        self.order, self.order_epoch = np.empty(0, dtype=np.int64), -1
        self.state = State(precision=choose_precision(self.recipe.optim.precision, self.device))
        self.best: dict[str, Tensor] | None = None
        self.since = time.monotonic(), 0  # for the rate: when, and pairs seen since then

    # --- going forward -------------------------------------------------------------------------------------

    def start(self, resume: bool, log: Sequence[str] = ()) -> None:
        """Go on from the checkpoint, or begin; the state before the first step is judged as epoch 0."""
        resumed = resume and self.restore()
        self.processes.wait()  # until all have read the checkpoint
        if self.writes and self.out is not None and not resumed:
            checkpoint.clear(self.out / "checkpoint")
        told = log if self.processes.first else ()
        sinks = [open_sink(tracker, self.out, self.recipe.to_dict(), self.state.step) for tracker in told]
        path = self.out / "history.jsonl" if self.out and self.writes else None
        self.history = History(path, self.state.history, sinks)
        if not resumed:
            self.append(self.evaluate())
        self.since = time.monotonic(), 0

    def step(self) -> int:
        """Take one step and return how many pairs, or images with all of their captions, it saw."""
        units = self.next_units()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.state.step, self.steps, self.recipe.optim)
        torch.manual_seed(step_seed(self.seed, self.state.step, self.processes.rank))  # dropout
        image, text, groups = self.batches.take(self.processes.own(units))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.state.precision == "bf16"):
            x, y = self.joint(image, text)
            loss = self.joint.loss(x, y, groups, self.processes.group)
        self.check_finite(loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.sum_gradients(self.joint.parameters())
        if self.recipe.optim.clip:
            nn.utils.clip_grad_norm_(self.joint.parameters(), self.recipe.optim.clip)
        self.optimizer.step()
        self.state.step += 1
        self.state.loss_sum += loss.item()
        self.state.loss_steps += 1
        self.since = self.since[0], self.since[1] + len(units) * self.plan.pairs // self.plan.units
        return len(units)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Made when first needed: torch takes over a second for it, and a closed form needs none."""
        return build_optimizer(self.joint, self.recipe.optim)

    def next_units(self) -> np.ndarray:
        """Numbers int64 [batch] of the pairs, or of the images with captions, of the next step."""
        epoch, position = divmod(self.state.step, len(self.slices))
        if epoch != self.order_epoch:
            order = ORDERS[self.recipe.optim.shuffle]
            self.order, self.order_epoch = order(self.plan.units, self.seed, epoch), epoch
        return self.order[self.slices[position]]

    def check_finite(self, *values: Tensor) -> None:
        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise IsthmusError(
                f"Training diverged at step {self.state.step + 1:,} of {self.steps:,}: the loss or a weight "
                f"is not finite. Lower optim.lr (now {self.recipe.optim.lr:g}), set optim.clip=1 or "
                "optim.precision=float32."
            )

    def seen(self) -> int:
        """Pairs, or images, seen so far, epoch upon epoch."""
        epoch, position = divmod(self.state.step, len(self.slices))
        return epoch * self.plan.units + self.slices[position].start

    def finished(self) -> bool:
        return self.state.step >= self.steps or self.out_of_patience()

    def out_of_patience(self) -> bool:
        return 0 < self.recipe.stop.patience <= self.state.waited

    @property
    def epoch(self) -> float:
        """Epochs done so far."""
        return round(self.state.step / len(self.slices), 4)

    # --- judging and telling -------------------------------------------------------------------------------

    def record(self) -> None:
        """Add to the history at every epoch's end and every so many steps; evaluate where the recipe says."""
        epoch, position = divmod(self.state.step, len(self.slices))
        if position == 0 and (epoch % self.recipe.stop.every == 0 or self.state.step == self.steps):
            self.append(self.evaluate())
        elif position == 0 or self.state.step % RECORD_STEPS == 0:
            self.append({})

    def judge_last(self) -> None:
        """Evaluate where the run was stopped, unless that has been done; later than the last checkpoint."""
        if self.state.judged != self.state.step:
            self.append(self.evaluate())

    def evaluate(self) -> dict[str, float]:
        """Metrics on the validation split; the best state so far is remembered."""
        self.state.judged = self.state.step
        if self.val is None:
            return {}
        self.check_finite(*self.joint.parameters())
        self.state.metrics = self.processes.numbers_of_first(validate(self.joint, self.val, self.device), self.device)
        self.state.waited += 1
        if self.state.metrics["val_recall"] > self.state.best.get("val_recall", -1.0):
            self.state.best, self.state.waited = {"epoch": self.epoch, **self.state.metrics}, 0
            if self.recipe.stop.restore_best:
                self.best = {name: value.clone() for name, value in self.joint.state_dict().items()}
        return self.state.metrics

    def append(self, metrics: dict[str, float]) -> None:
        """Add a record to the history: what was learned since the last one, and `metrics`."""
        state, now = self.state, time.monotonic()
        record: dict[str, Any] = {"step": state.step, "epoch": self.epoch}
        if state.loss_steps:
            record["loss"] = state.loss_sum / state.loss_steps
            record["lr"] = self.optimizer.param_groups[0]["lr"]
            record["pairs_per_second"] = round(self.since[1] / max(now - self.since[0], 1e-9))
        record |= {"scale": self.joint.scale().item(), "bias": self.bias()} | metrics
        self.history.append(record)
        state.loss_sum, state.loss_steps, self.since = 0.0, 0, (now, 0)

    def bias(self) -> float | None:
        return None if self.joint.bias is None else self.joint.bias.item()

    def note(self) -> str:
        """Epoch, latest loss and validation recall, for the progress display."""
        note = f"epoch {self.epoch:.1f}/{self.recipe.optim.epochs}"
        loss = self.history.records[-1].get("loss")
        note += f", loss {loss:.3f}" if loss is not None else ""
        return note + (f", val recall {self.state.metrics['val_recall']:.1%}" if self.state.metrics else "")

    # --- checkpoints ---------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be of this run.

        The compiled losses round their sums in another order, and are there or not for reasons nobody looks at: an
        environment variable, a compiler that was installed meanwhile.
        """
        choices = {section: values for section, values in self.recipe.to_dict().items() if section in SECTIONS}
        data = {"train": fingerprint(self.train), "val": fingerprint(self.val) if self.val else None}
        together = {"processes": self.processes.size} if self.processes.size > 1 else {}
        on_cpu = self.device.type == "cpu" and self.steps > 0
        losses = {"losses": LOSSES[compiled.library() is not None]} if on_cpu else {}
        return {"isthmus": __version__, "seed": self.seed, "recipe": choices, "data": data, **losses, **together}

    @property
    def machine(self) -> dict[str, Any]:
        """What else decides the last bits. A run may go on elsewhere: that another thread or processor rounds in
        another order is said, and no reason to lose the work."""
        processor = torch.backends.cpu.get_cpu_capability()
        ours = {"threads": torch.get_num_threads(), "processor": processor, "torch": str(torch.__version__)}
        return {"device": self.device.type, **ours}

    def save(self) -> None:
        if self.out is None or not self.writes:
            return
        self.state.history = self.history.records
        tensors = {f"model.{name}": value for name, value in self.joint.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in (self.best or {}).items()}
        if self.state.step:
            tensors |= checkpoint.optimizer_tensors(self.joint, self.optimizer)
        ours = {"identity": self.identity, "machine": self.machine}
        state = {"step": self.state.step, **ours, "run": asdict(self.state)}
        checkpoint.save(self.out / "checkpoint", state, tensors)

    def restore(self) -> bool:
        """Take up the checkpoint in the output folder; False where there is none."""
        loaded = checkpoint.load(self.out / "checkpoint", self.identity, self.device) if self.out else None
        if loaded is None:
            return False
        state, tensors = loaded
        self.state = State(**state["run"])
        self.joint.load_state_dict(checkpoint.under("model.", tensors))
        self.best = checkpoint.under("best.", tensors) or None
        if self.state.step:
            checkpoint.restore_optimizer(self.joint, self.optimizer, tensors)
        self.compare_machines(state.get("machine"))
        return True

    def compare_machines(self, saved: Any) -> None:
        """Warn where the run goes on in other circumstances than those of its checkpoint."""
        what = checkpoint.differences(saved, self.machine)
        if what and self.processes.first and not self.finished():
            warnings.warn(
                f"{self.out} goes on where sums are rounded in another order: {what}. The model will not be bit for "
                "bit that of a run without interruption; it is as good.",
                stacklevel=4,
            )

    # --- the end -------------------------------------------------------------------------------------------

    def returned(self) -> tuple[Projector, Projector, float, float | None]:
        """Projectors in eval mode on the CPU, scale and bias: the best if restored, else the last."""
        if self.best is not None:
            self.joint.load_state_dict(self.best)
        self.check_finite(*self.joint.parameters())
        self.joint.cpu().eval()
        return self.joint.image, self.joint.text, self.joint.scale().item(), self.bias()

    def summary(self) -> dict[str, Any]:
        """What really ran, for the log, the model's config and its card."""
        state, optim = self.state, self.recipe.optim
        return {
            "epochs": self.epoch,
            "epochs_planned": optim.epochs,
            "stopped": self.stopped(),
            "best_epoch": state.best.get("epoch"),
            "returned_epoch": state.best["epoch"] if self.best is not None else self.epoch,
            "validation": state.best if self.best is not None else state.metrics,
            "steps": state.step,
            "pairs": self.plan.pairs,
            "images": len(self.train),
            "batch": self.plan.batch,
            "parameters": sum(p.numel() for head in (self.joint.image, self.joint.text) for p in head.parameters()),
            "precision": state.precision,
            "device": str(self.device),
            "processes": self.processes.size,
            "seed": self.seed,
            "seconds": round(state.seconds, 2),
            "ledger": self.cost(),
            "deviations": self.plan.deviations(),
        }

    def cost(self) -> dict[str, Any]:
        """Pairs seen, seconds and floating-point operations of the heads' training (`isthmus.models.ledger`)."""
        widths = [*self.recipe.loss.matryoshka, self.joint.image.width]
        pairs_seen = self.seen() * self.plan.pairs // self.plan.units
        chosen = {"pairs_seen": pairs_seen, "batch": self.plan.batch, "widths": widths}
        return training_cost(self.joint.image, self.joint.text, **chosen, seconds=self.state.seconds)  # type: ignore[arg-type]

    def stopped(self) -> str | None:
        """Where and why the run ended before its last epoch; None when it did not."""
        if self.state.step >= self.steps:
            return None
        why = "no better validation" if self.out_of_patience() else "time limit"
        return f"stopped at epoch {self.epoch:.4g} of {self.recipe.optim.epochs} ({why})"
