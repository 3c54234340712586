"""One training run of any objective: its steps, its history, its checkpoints.

Its whole state is `RunState`, the tensors of the module and the optimizer, and the best weights so far; the rest
follows from the recipe, the data and the seed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from isthmus.errors import IsthmusError
from isthmus.losses import compiled
from isthmus.precision import choose_precision
from isthmus.training import checkpoint
from isthmus.training.freezing import freeze, set_training, take_over
from isthmus.training.history import History, open_sink
from isthmus.training.objective import Objective
from isthmus.training.optimizers import build_optimizer, learning_rate
from isthmus.training.order import ORDERS, step_seed
from isthmus.training.processes import Processes
from isthmus.training.recipe import Recipe

RECORD_STEPS = 100  # seconds or steps between history records, besides every epoch's end
NO_BETTER = "no better validation"  # why a run ended by itself before its last epoch
LOSSES = {True: "compiled", False: "not compiled (there is no C compiler, or ISTHMUS_COMPILE=0)"}


@dataclass
class RunState:
    """The position of a run."""

    precision: str
    step: int = 0
    loss_sum: float = 0.0  # since the last history record, as is loss_steps
    loss_steps: int = 0
    loss_sums: dict[str, float] = field(default_factory=dict)  # of the losses beside the total
    judged: int = -1  # the step of the last evaluation
    waited: int = 0  # evaluations since the best one
    metrics: dict[str, float] = field(default_factory=dict)  # of the last evaluation
    best: dict[str, float] = field(default_factory=dict)  # of the best one, and its epoch
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """See the module. `fit` makes, starts and steps it.

    train, start: of a stage: patterns of the names of the parameters to train, () for all, and tensors that replace
    fresh ones of parts of the module (see `stages`).
    """

    history: History

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        *,
        out: Path | None,
        seed: int,
        device: str | None,
        train: Sequence[str] = (),
        start: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.objective, self.out, self.seed = objective, out, seed
        self.processes = Processes()
        self.writes = out is not None and self.processes.first
        self.device = self.processes.device(device)
        self.plan = objective.planned(recipe, self.processes.size)
        self.recipe, self.slices, self.steps = self.plan.recipe, self.plan.slices, self.plan.steps
        torch.manual_seed(seed)
        self.module = objective.prepare(self.plan, self.device)
        self.inherited = take_over(self.module, start or {})
        freeze(self.module, train)
        set_training(self.module)
        self.processes.as_first(self.module.state_dict().values())
        self.order, self.order_epoch = np.empty(0, dtype=np.int64), -1
        self.state = RunState(precision=choose_precision(self.recipe.optim.precision, self.device))
        self.best: dict[str, Tensor] | None = None
        self.since = time.monotonic(), 0  # for the rate: a time, and the items seen since then

    # --- going forward -------------------------------------------------------------------------------------

    def start(self, resume: bool, log: Sequence[str] = ()) -> None:
        """Continue from the checkpoint, or begin; the state before the first step is evaluated as epoch 0."""
        resumed = resume and self.restore()
        self.processes.wait()  # until all have read the checkpoint
        if self.writes and self.out is not None and not resumed:
            checkpoint.clear(self.out / "checkpoint")
        trackers = log if self.processes.first else ()
        sinks = [open_sink(tracker, self.out, self.recipe.to_dict(), self.state.step) for tracker in trackers]
        path = self.out / "history.jsonl" if self.out and self.writes else None
        self.history = History(path, self.state.history, sinks)
        if not resumed:
            self.append(self.evaluate())
        self.since = time.monotonic(), 0

    def step(self) -> int:
        """Take one step and return how many items it saw."""
        rows = self.next_rows()
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(self.state.step, self.steps, self.recipe.optim)
        torch.manual_seed(step_seed(self.seed, self.state.step, self.processes.rank))  # dropout
        batch = self.objective.batch(self.processes.own(rows))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.state.precision == "bf16"):
            losses = self.objective.losses(batch, self.processes.group)
        loss = losses.pop("loss")
        self.check_finite(loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.sum_gradients(self.module.parameters())
        if self.recipe.optim.clip:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.optim.clip)
        self.optimizer.step()
        self.count(loss, losses)
        self.since = self.since[0], self.since[1] + len(rows)
        return len(rows)

    def count(self, loss: Tensor, others: Mapping[str, Tensor]) -> None:
        """Count one more step, with its losses."""
        self.state.step += 1
        self.state.loss_sum += loss.item()
        self.state.loss_steps += 1
        for name, value in others.items():
            self.state.loss_sums[name] = self.state.loss_sums.get(name, 0.0) + value.item()

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Made on first use: torch takes over a second for it, and a closed form needs none."""
        objective = self.objective
        return build_optimizer(self.module, self.recipe.optim, factor=objective.learning_rate, decays=objective.decays)

    def next_rows(self) -> np.ndarray:
        """The items int64 [batch] of the next step."""
        epoch, position = divmod(self.state.step, len(self.slices))
        if epoch != self.order_epoch:
            order = ORDERS[self.recipe.optim.shuffle]
            self.order, self.order_epoch = order(self.plan.items, self.seed, epoch), epoch
        return self.order[self.slices[position]]

    def check_finite(self, *values: Tensor) -> None:
        if not all(bool(torch.isfinite(value).all()) for value in values):
            raise IsthmusError(
                f"Training diverged at step {self.state.step + 1:,} of {self.steps:,}: the loss or a weight "
                f"is not finite. Lower optim.lr (now {self.recipe.optim.lr:g}), set optim.clip=1 or "
                "optim.precision=float32."
            )

    def seen(self) -> int:
        """Items seen so far, epoch upon epoch."""
        return self.plan.seen(self.state.step)

    def finished(self) -> bool:
        return self.state.step >= self.plan.end or self.out_of_patience()

    def out_of_patience(self) -> bool:
        return 0 < self.recipe.stop.patience <= self.state.waited

    @property
    def epoch(self) -> float:
        """Epochs done so far."""
        return round(self.state.step / len(self.slices), 4)

    # --- evaluation and history ----------------------------------------------------------------------------

    def record(self) -> None:
        """Add to the history at every epoch's end and every so many steps; evaluate where the recipe says."""
        epoch, position = divmod(self.state.step, len(self.slices))
        if position == 0 and (epoch % self.recipe.stop.every == 0 or self.state.step == self.steps):
            self.append(self.evaluate())
        elif position == 0 or self.state.step % RECORD_STEPS == 0:
            self.append({})

    def judge_last(self) -> None:
        """Evaluate the state at which the run was stopped, unless that has been done."""
        if self.state.judged != self.state.step:
            self.append(self.evaluate())

    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out data; the best state so far is remembered."""
        self.state.judged = self.state.step
        self.check_finite(*self.module.parameters())
        self.module.eval()
        metrics = self.objective.validate()
        set_training(self.module)
        if not metrics:
            return {}
        self.state.metrics = self.processes.numbers_of_first(metrics, self.device)
        self.state.waited += 1
        if self.better():
            self.state.best, self.state.waited = {"epoch": self.epoch, **self.state.metrics}, 0
            if self.recipe.stop.restore_best:
                self.best = {name: value.clone() for name, value in self.kept().items()}
        return self.state.metrics

    def better(self) -> bool:
        """Whether the last evaluation is the best so far."""
        name = self.objective.primary
        if name not in self.state.best:
            return True
        gain = self.state.metrics[name] - self.state.best[name]
        return gain > 0 if self.objective.higher else gain < 0

    def append(self, metrics: dict[str, float]) -> None:
        """Add a record to the history: what was learned since the last one, and `metrics`."""
        state, now = self.state, time.monotonic()
        record: dict[str, Any] = {"step": state.step, "epoch": self.epoch}
        if state.loss_steps:
            record["loss"] = state.loss_sum / state.loss_steps
            record |= {name: total / state.loss_steps for name, total in state.loss_sums.items()}
            record["lr"] = self.optimizer.param_groups[0]["lr"] / self.optimizer.param_groups[0]["factor"]
            seen = self.since[1] * self.objective.items / self.plan.items
            record[f"{self.objective.unit}s_per_second"] = round(seen / max(now - self.since[0], 1e-9))
        record |= self.objective.facts() | metrics
        self.history.append(record)
        state.loss_sum, state.loss_steps, state.loss_sums, self.since = 0.0, 0, {}, (now, 0)

    def note(self) -> str:
        """Epoch, latest loss and primary metric, for the progress display."""
        note = f"{self.objective.stage}epoch {self.epoch:.1f}/{self.plan.end / len(self.slices):.4g}"
        loss = self.history.records[-1].get("loss")
        note += f", loss {loss:.3f}" if loss is not None else ""
        if not self.state.metrics:
            return note
        name, value = self.objective.primary, self.state.metrics[self.objective.primary]
        return f"{note}, {name.replace('_', ' ')} {f'{value:.3f}' if name.endswith('loss') else f'{value:.1%}'}"

    # --- checkpoints ---------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Values that must be the same in a checkpoint of this run.

        Compiled losses are among them because they round sums in another order. Whether they are used can change
        unnoticed: by an environment variable, or a compiler that was installed meanwhile.
        """
        together = {"processes": self.processes.size} if self.processes.size > 1 else {}
        on_cpu = self.device.type == "cpu" and self.steps > 0
        losses = {"losses": LOSSES[compiled.library() is not None]} if on_cpu else {}
        stage = {"start": self.inherited} if self.inherited else {}
        shared = {"training": checkpoint.TRAINING, "seed": self.seed, "recipe": self.recipe.identity()}
        return {**shared, "data": self.objective.fingerprint(), **losses, **together, **stage}

    def kept(self) -> dict[str, Tensor]:
        """The tensors that training changes: trained parameters and all buffers."""
        frozen = {name for name, parameter in self.module.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.module.state_dict().items() if name not in frozen}

    @property
    def machine(self) -> dict[str, Any]:
        """Further values that affect the last bits. A run may continue elsewhere, with a warning: other threads or
        processors round in another order."""
        processor = torch.backends.cpu.get_cpu_capability()
        ours = {"threads": torch.get_num_threads(), "processor": processor, "torch": str(torch.__version__)}
        return {"device": self.device.type, **ours}

    def save(self) -> None:
        if self.out is None or not self.writes:
            return
        self.state.history = self.history.records
        tensors = {f"model.{name}": value for name, value in self.kept().items()}
        tensors |= {f"best.{name}": value for name, value in (self.best or {}).items()}
        if self.state.step:
            tensors |= checkpoint.optimizer_tensors(self.module, self.optimizer)
        ours = {"identity": self.identity, "machine": self.machine}
        state = {"step": self.state.step, **ours, "run": asdict(self.state)}
        checkpoint.save(self.out / "checkpoint", state, tensors)

    def restore(self) -> bool:
        """Load the checkpoint in the output folder; False if there is none."""
        loaded = checkpoint.load(self.out / "checkpoint", self.identity, self.device) if self.out else None
        if loaded is None:
            return False
        state, tensors = loaded
        self.state = RunState(**state["run"])
        self.load(checkpoint.under("model.", tensors))
        self.best = checkpoint.under("best.", tensors) or None
        if self.state.step:
            checkpoint.restore_optimizer(self.module, self.optimizer, tensors)
        self.compare_machines(state.get("machine"))
        return True

    def compare_machines(self, saved: Any) -> None:
        """Warn if the run continues in another environment than that of its checkpoint."""
        what = checkpoint.differences(saved, self.machine) if saved else ""  # 0.1.0 did not record it
        if what and self.processes.first and not self.finished():
            warnings.warn(
                f"{self.out} continues where sums are rounded in another order: {what}. The model will differ in "
                "the last bits from that of an uninterrupted run; it is as good.",
                stacklevel=4,
            )

    # --- the end -------------------------------------------------------------------------------------------

    @property
    def returned(self) -> int:
        """The step whose weights `finish` gives: of the best state if the recipe says so, else the last."""
        return self.state.step if self.best is None else round(self.state.best["epoch"] * len(self.slices))

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Load tensors from `kept`; frozen parameters stay as they are."""
        self.module.load_state_dict({**self.module.state_dict(), **tensors})

    def finish(self) -> None:
        """The module in eval mode on the CPU: the best state if the recipe says so, else the last."""
        if self.best is not None:
            self.load(self.best)
        self.check_finite(*self.module.parameters())
        self.module.cpu().eval()

    def summary(self) -> dict[str, Any]:
        """What was really run, for the log, the model's config and its card."""
        state, optim = self.state, self.recipe.optim
        return {
            "epochs": self.epoch,
            "epochs_planned": optim.epochs,
            "stopped": self.stopped(),
            "best_epoch": state.best.get("epoch"),
            "returned_epoch": state.best["epoch"] if self.best is not None else self.epoch,
            "validation": state.best if self.best is not None else state.metrics,
            "chance": self.objective.chance(),
            "steps": state.step,
            **self.objective.counts(),
            "batch": self.plan.batch,
            "parameters": self.objective.parameters(),
            "precision": state.precision,
            "device": str(self.device),
            "processes": self.processes.size,
            "seed": self.seed,
            "seconds": round(state.seconds, 2),
            "ledger": self.objective.cost(self.seen(), state.seconds),
            "deviations": self.plan.deviations(),
        }

    def stopped(self) -> str | None:
        """Where and why the run ended before its last epoch; None if it did not."""
        if self.state.step >= self.steps:
            return None
        why = NO_BETTER if self.out_of_patience() else "time limit"
        return f"stopped at epoch {self.epoch:.4g} of {self.recipe.optim.epochs} ({why})"
