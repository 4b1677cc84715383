"""One process through several generations: what it keeps, what it does anew, and when it gives up."""

import json

import pytest
import torch

from clip_testkit import history
from clip_testkit.shards import write_dataset
from clip_testkit.trainhere import Alone, no_metrics, train_generations_here, train_here
from clip_testkit.training import write_config
from clip_trainer.config import load_config
from clip_trainer.elastic.membership import ClosedError
from clip_trainer.train import generations
from clip_trainer.train.events import read_events, trajectory
from clip_trainer.train.generations import train_through_generations
from clip_trainer.train.group import Group
from clip_trainer.train.preemption import PreemptionNotice
from clipctl.contract.errors import TryAgainError
from clipctl.contract.failpoints import armed
from clipctl.contract.store import open_store

STEPS = 8


class Scripted(Alone):
    """Its generations also end when the script says so.

    Args:
        changes: steps after which somebody seems to want in.
        running: whether others were training when it came.
    """

    def __init__(self, changes=(), running=False):
        super().__init__(running=running)
        self.changes, self.run = list(changes), None

    def changed(self):
        return bool(self.changes) and self.run is not None and self.run.state.step + 1 == self.changes[0]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    no_metrics(monkeypatch.setattr)
    write_dataset(tmp_path / "data", [20, 10])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Lab(tmp_path, monkeypatch)


class Lab:
    def __init__(self, folder, monkeypatch):
        self.folder, self.monkeypatch, self.builds, self.runs = folder, monkeypatch, 0, []

    def config(self, name):
        return write_config(self.folder, name, str(self.folder / "data"), scale={"nodes": {"max": 1}})

    def train(self, name, membership, on_step=lambda run: None):
        """Train through the generations of `membership`; `on_step` is called in place of each step, before it."""
        prepare = generations.prepare

        def counted(*arguments):
            self.builds += 1
            run = membership.run = prepare(*arguments)
            self.runs.append(run)
            step = run.step

            class Step:
                torn = False

                def __call__(self, batch, rate, wishes):
                    on_step(run)
                    result = step(batch, rate, wishes)
                    if membership.changes and membership.changes[0] == run.state.step + 1:
                        membership.changes.pop(0)
                    return result

            run.step = Step()
            return run

        self.monkeypatch.setattr(generations, "prepare", counted)
        try:
            train_generations_here(self.config(name), membership)
        finally:
            self.monkeypatch.setattr(generations, "prepare", prepare)

    def store(self, name):
        return open_store(load_config(self.config(name)).spec.root)

    def faults(self, name, against=None):
        spec = load_config(self.config(name)).spec
        return history.judge(self.store(name), spec, against and self.store(against))

    def events(self, name, kind):
        return [event for event in read_events(self.store(name)) if event["event"] == kind]


def lose_a_peer_at(*steps):
    """A peer dies in the middle of these steps, each once."""
    left = list(steps)

    def act(run):
        if left and run.state.step + 1 == left[0]:
            left.pop(0)
            raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")

    return act


def test_a_run_in_one_generation_is_closed_at_its_end(lab):
    membership = Scripted()
    lab.train("one", membership)
    assert (membership.number, membership.code) == (1, 0)
    assert lab.faults("one") == []


def test_a_change_between_two_steps_costs_no_step_and_no_restart(lab):
    train_here(lab.config("calm"))
    membership = Scripted(changes=[3, 6])
    lab.train("demo", membership)
    assert (membership.number, lab.builds) == (3, 1)
    assert lab.faults("demo", against="calm") == []
    assert [event["step"] for event in lab.events("demo", "step")] == list(range(1, STEPS + 1))
    assert [event["incarnation"] for event in lab.events("demo", "started")] == [1]
    assert [(event["step"], event["generation"]) for event in lab.events("demo", "regrouped")] == [(4, 2), (7, 3)]


def test_a_lost_peer_interrupts_a_step_which_is_done_again_from_memory(lab):
    train_here(lab.config("calm"))
    membership = Scripted()
    lab.train("demo", membership, lose_a_peer_at(3, 3, 7))
    assert (membership.number, lab.builds) == (4, 1)
    assert lab.faults("demo", against="calm") == []
    assert [event["rung"] for event in lab.events("demo", "regrouped")] == ["regroup", "regroup"]
    assert lab.runs[0].state.recoveries == {"regroup": 2}
    mine, calm = (trajectory(read_events(lab.store(name))) for name in ("demo", "calm"))
    assert [event["loss"] for event in mine] == [event["loss"] for event in calm], "bit for bit"


def test_a_late_peer_is_waited_for_once_the_state_is_agreed_on(lab, monkeypatch):
    """Not before: until then ranks may be in different collectives, and only the short timeout ends that."""
    told = []

    def note(device, timeout):
        told.append((lab.runs[0].whole, timeout))

    monkeypatch.setattr(generations.process_group, "set_timeout", note)
    lab.train("demo", Scripted(changes=[3]))
    assert told == [(True, generations.process_group.TRAINING_TIMEOUT)] * 2


def test_a_new_group_is_in_the_ledger_even_if_its_first_step_is_its_last(lab, monkeypatch):
    """The note of the group goes in with the step: a collective in between could lose a peer, and the note with it."""
    signs = ("Connection closed", "says so")
    monkeypatch.setattr(generations, "is_peer_loss", lambda error: any(sign in str(error) for sign in signs))
    with armed("train.recorded=raise@3"):  # right after the first step of the second group
        lab.train("demo", Scripted(), lose_a_peer_at(3))
    assert lab.faults("demo") == []
    assert [(event["step"], event["generation"]) for event in lab.events("demo", "regrouped")] == [(3, 2), (4, 3)]


def test_a_state_that_broke_in_an_update_comes_from_storage(lab):
    train_here(lab.config("calm"))

    def break_once(run):
        if run.state.step == 6 and not run.state.recoveries:
            run.step.torn = True
            next(run.model.parameters()).data.zero_()
            raise RuntimeError("Connection closed by peer")

    lab.train("demo", Scripted(), break_once)
    assert lab.faults("demo", against="calm") == []
    started = lab.events("demo", "started")
    assert [(event["incarnation"], event["step"]) for event in started] == [(1, 0), (2, 4)]
    assert lab.runs[0].state.recoveries == {"restart": 1}


def test_a_broken_state_without_any_checkpoint_is_not_taken_for_the_beginning(lab):
    def break_it(run):
        if run.state.step == 2:
            run.step.torn = True
            raise RuntimeError("Connection closed by peer")

    with pytest.raises(TryAgainError, match="no checkpoint yet"):
        lab.train("demo", Scripted(), break_it)
    assert [event["step"] for event in lab.events("demo", "started")] == [0]
    lab.train("demo", Scripted())  # a new process
    train_here(lab.config("calm"))
    assert lab.faults("demo", against="calm") == []


def test_after_a_divergence_the_state_comes_from_storage(lab, monkeypatch):
    from clip_trainer.train.divergence import DivergenceError
    from clip_trainer.train.health import Health

    train_here(lab.config("calm"))
    real, found = Health.after_step, []

    def after_step(health, *arguments):
        if health._run.state.step == 6 and not found:
            found.append(True)
            raise DivergenceError("after step 6 rank 1 has other weights than the majority.", (1,))
        real(health, *arguments)

    monkeypatch.setattr(Health, "after_step", after_step)
    lab.train("demo", Scripted())
    assert lab.faults("demo", against="calm") == []
    started = lab.events("demo", "started")
    assert [(event["incarnation"], event["step"]) for event in started] == [(1, 0), (2, 4)]


def test_who_comes_to_a_running_group_builds_before_it_joins(lab):
    membership = Scripted(running=True)
    numbers = []
    following = membership.next
    membership.next = lambda: (numbers.append(lab.builds), following())[1]
    lab.train("demo", membership)
    assert numbers == [1]


def test_a_peer_lost_while_all_build_leaves_each_to_build_alone(lab, monkeypatch):
    real, tries = generations.prepare, []

    def failing(config, group):
        tries.append(group.world)
        if len(tries) == 1:
            raise RuntimeError("Connection reset by peer")
        return real(config, group)

    monkeypatch.setattr(generations, "prepare", failing)
    membership = Scripted()
    lab.train("demo", membership)
    assert (len(tries), membership.number) == (2, 2)
    assert lab.faults("demo") == []


def test_a_bug_is_not_mistaken_for_a_lost_peer(lab):
    def bug(run):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    membership = Scripted()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        lab.train("demo", membership, bug)
    assert (membership.number, membership.code) == (1, None)


def test_what_others_have_ended_is_over(lab):
    membership = Scripted()

    def closed():
        raise ClosedError(65)

    membership.next = closed
    with pytest.raises(ClosedError) as caught:
        lab.train("demo", membership)
    assert caught.value.code == 65


def test_a_stop_while_waiting_for_a_group_ends_the_process_at_once(lab):
    notice = PreemptionNotice()
    notice.received = True
    group = Group(0, 1, 0, torch.device("cpu"))
    with pytest.raises(TryAgainError, match="between two groups"):
        train_through_generations(load_config(lab.config("demo")), group, Scripted(), notice)
    assert lab.store("demo").list("") == []


def test_an_evaluation_that_a_lost_peer_interrupts_is_made_up_for(lab, monkeypatch):
    from clip_trainer.eval.in_training import Evaluation

    asked, lost = [], []

    def after_step(evaluation, samples_before):
        asked.append(evaluation._run.state.step)
        if asked == [1, 2, 3] and not lost:
            lost.append(True)
            raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(Evaluation, "after_step", after_step)
    lab.train("demo", Scripted())
    assert asked == [1, 2, 3, 3, 4, 5, 6, 7]
    assert lab.faults("demo") == []


def test_a_checkpoint_of_the_end_that_a_lost_peer_prevented_is_made_up_for(lab, monkeypatch):
    from clip_trainer.train.saving import Saving

    real, lost = Saving.at_the_end, []

    def at_the_end(saving):
        if not lost:
            lost.append(True)
            raise RuntimeError("Connection closed by peer")
        real(saving)

    monkeypatch.setattr(Saving, "at_the_end", at_the_end)
    lab.train("demo", Scripted())
    assert lab.faults("demo") == []
    assert json.loads(lab.store("demo").read("results.json"))["checkpoint"] == "step-00000008.inc-000001"
