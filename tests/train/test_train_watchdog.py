"""A step that hangs is named with its rank and with what it waits for; slow beginnings and usual steps are not."""

import threading
from pathlib import Path

import pytest

from inkstone.train.watchdog import Watchdog


def waits_for_a_collective(until: threading.Event) -> bool:
    return until.wait(20)


def test_a_hanging_step_is_named_once_with_the_call_it_is_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = threading.Event()
    original = Watchdog._tell

    def tell(self: Watchdog, taken: float) -> None:
        original(self, taken)
        written.set()

    with pytest.MonkeyPatch.context() as patched, Watchdog(3, tmp_path / "hangs", 0.05, 0.01) as dog:
        patched.setattr(Watchdog, "_tell", tell)
        for step in range(5):
            dog.step(step)
        assert waits_for_a_collective(written), "nothing was said"
        dog.step(5)
    (said,) = (tmp_path / "hangs" / "rank-3.txt").read_text(encoding="utf-8").splitlines()
    assert (
        said.startswith("rank 3: step 4 has not ended for ") and "waits_for_a_collective (test_train_watchdog" in said
    )
    assert said in capsys.readouterr().err


def test_the_first_steps_may_compile_as_long_as_they_like(tmp_path: Path) -> None:
    with Watchdog(0, tmp_path / "hangs", 0.0, 0.001) as dog:
        for step in range(3):
            dog.step(step)
            threading.Event().wait(0.03)
    assert not (tmp_path / "hangs").exists()
