"""`report_to`: the same metrics, sent to a tracker too.

The run folder is the truth; a tracker is a courtesy. One that fails while a run goes on is
dropped with a note: days of training must not end because a dashboard did.
"""

from __future__ import annotations

import importlib
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from astor_rl.errors import ConfigError, DependencyError
from astor_rl.report.atomic import write_text
from astor_rl.report.run_folder import flatten

PROJECT = "astor"
_MLFLOW_VALUE = 500
"""Longest parameter value that every MLflow server takes, characters."""


class Tracker(Protocol):
    """Where metrics go besides the run folder."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step's metrics."""
        ...

    def finish(self) -> None:
        """Send what is left and let go."""
        ...


class TensorBoard:
    """Event files in `<run folder>/tensorboard`, read by `tensorboard --logdir`.

    On resume the steps after `first_step - 1` are marked as purged, so that curves don't zigzag.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, first_step: int = 0) -> None:
        _require(*_PACKAGES["tensorboard"])
        writer = _require("torch.utils.tensorboard", "local")
        self._writer = writer.SummaryWriter(
            str(folder / "tensorboard"), purge_step=first_step or None
        )
        if not first_step:
            listed = "\n".join(f"    {key} = {value!r}" for key, value in flatten(config).items())
            self._writer.add_text("config", listed, 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `astor`, named after the run folder; its id is kept in the folder.

    Steps that a resumed run does again are dropped by the service; they were the same.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, first_step: int = 0) -> None:
        wandb = _require(*_PACKAGES["wandb"])
        self._run = wandb.init(
            project=PROJECT,
            id=_run_id(folder),
            name=folder.name,
            dir=str(folder),
            config=dict(config),
            resume="allow",
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._run.finish()


class Trackio:
    """A run of the local project `astor`, shown by `trackio show`."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, first_step: int = 0) -> None:
        self._trackio = _require(*_PACKAGES["trackio"])
        self._trackio.init(
            project=PROJECT, name=folder.name, config=dict(config), resume="allow", embed=False
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._trackio.log(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._trackio.finish()


class MLflow:
    """A run of the experiment `astor` at `MLFLOW_TRACKING_URI`; its id is kept in the folder."""

    def __init__(self, folder: Path, config: Mapping[str, Any], *, first_step: int = 0) -> None:
        self._mlflow = _require(*_PACKAGES["mlflow"])
        kept = folder / "mlflow_run_id.txt"
        self._mlflow.set_experiment(PROJECT)
        if first_step and kept.exists():
            self._mlflow.start_run(run_id=kept.read_text(encoding="utf-8"))
            return
        run = self._mlflow.start_run(run_name=folder.name)
        write_text(kept, run.info.run_id)
        values = {key: str(value)[:_MLFLOW_VALUE] for key, value in flatten(config).items()}
        self._mlflow.log_params(values)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker.log`."""
        self._mlflow.log_metrics(dict(metrics), step=step)

    def finish(self) -> None:
        """See `Tracker.finish`."""
        self._mlflow.end_run()


_TRACKERS: Mapping[str, Callable[..., Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
    "mlflow": MLflow,
}


_PACKAGES: Mapping[str, tuple[str, str | None]] = {
    "tensorboard": ("tensorboard", "trackers"),
    "wandb": ("wandb", None),
    "trackio": ("trackio", None),
    "mlflow": ("mlflow", None),
}


class Trackers:
    """All trackers of a run. None of them can stop it.

    Args:
        report_to: names: `tensorboard`, `wandb`, `trackio`, `mlflow`.
        folder: the run folder.
        config: the resolved config.
        note: where a failing tracker is reported, once.
        first_step: the first step that will be logged; above 0 the run is resumed.

    Raises:
        ConfigError: an unknown name.
        DependencyError: a tracker's package is missing; says what to install.
    """

    def __init__(
        self,
        report_to: Sequence[str],
        folder: Path,
        config: Mapping[str, Any],
        *,
        note: Callable[[str], None],
        first_step: int = 0,
    ) -> None:
        for name in report_to:
            if name not in _TRACKERS:
                raise ConfigError(f"report_to {name!r} is unknown; use {', '.join(_TRACKERS)}")
        self._note = note
        self._active = {
            name: _TRACKERS[name](folder, config, first_step=first_step) for name in report_to
        }

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send the finite numbers among `metrics` to every tracker."""
        numbers = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        self._each(lambda tracker: tracker.log(step, numbers))

    def finish(self) -> None:
        """Let all trackers go. Idempotent."""
        self._each(lambda tracker: tracker.finish())
        self._active.clear()

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._active.items()):
            try:
                action(tracker)
            except Exception as error:  # noqa: BLE001 - their code and network, any error at all
                del self._active[name]
                reason = " ".join(str(error).split()) or type(error).__name__
                self._note(f"{name} failed and gets nothing more ({reason}); the run goes on")


def check_trackers(report_to: Sequence[str]) -> None:
    """Import what the trackers need, so that a missing package is known before the work begins.

    Raises:
        DependencyError: a package is missing.
    """
    for name in report_to:
        _require(*_PACKAGES[name])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _require(module: str, extra: str | None) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        what = f"'astor-rl[{extra}]'" if extra else name
        raise DependencyError(
            f"report_to needs {name}, which can't be imported ({error}); pip install {what}, or "
            "take it out of report_to"
        ) from error


def _run_id(folder: Path) -> str:
    # In the folder, because a resumed run must find itself again, wherever the folder has moved.
    kept = folder / "wandb_run_id.txt"
    if not kept.exists():
        write_text(kept, uuid.uuid4().hex)
    return kept.read_text(encoding="utf-8")
