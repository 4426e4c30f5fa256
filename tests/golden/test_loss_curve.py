"""The losses of a small training are those that were written down."""

import pytest

from tests.golden import loss_curve


def test_the_loss_curve_has_not_moved(tmp_path):
    expected = loss_curve.from_text(loss_curve.GOLDEN.read_text())
    curve = loss_curve.loss_curve(tmp_path)
    assert [step for step, _ in curve] == [step for step, _ in expected] == list(range(1, 21))
    # Processors round differently, and twenty steps with a codebook enlarge that.
    assert [loss for _, loss in curve] == pytest.approx([loss for _, loss in expected], rel=2e-3)


def test_another_seed_gives_another_curve(tmp_path, monkeypatch):
    from dataclasses import replace

    other = replace(loss_curve.config(), seed=1)
    monkeypatch.setattr(loss_curve, "config", lambda: other)
    expected = loss_curve.from_text(loss_curve.GOLDEN.read_text())
    curve = loss_curve.loss_curve(tmp_path)
    assert [loss for _, loss in curve] != pytest.approx([loss for _, loss in expected], rel=2e-3)
