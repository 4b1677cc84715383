"""Running statistics of batch normalisation over ranks and bad steps."""

import torch
from torch import nn

from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import averaged_statistics, group_of
from clip_trainer.train.running_statistics import RunningStatistics


def test_a_spoiled_forward_pass_is_undone():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))
    statistics = RunningStatistics(model)
    before = statistics.copy()
    model(torch.full((4, 3), float("nan")))
    assert model[0].running_mean.isnan().all()
    statistics.put_back(before)
    assert model[0].running_mean.tolist() == [0.0] * 3
    assert model[0].running_var.tolist() == [1.0] * 3


def test_models_without_them_have_nothing_to_do():
    statistics = RunningStatistics(nn.Linear(2, 2))
    assert statistics.copy() == []
    statistics.put_back([])
    statistics.average(group_of(0, 3))  # would wait for other ranks


def test_ranks_end_with_the_mean(tmp_path):
    assert run_ranks(2, tmp_path, averaged_statistics, 2) == [[[1.5, 3.0], [4.5, 6.0]]] * 2
