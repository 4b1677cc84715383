"""A run on the cluster: undisturbed, and with every kind of pod deleted while it trains."""

import json
import time

import open_clip
import torch

from clip_testkit.history import check
from clip_testkit.lab import assert_same_training


def test_submit_trains_verifies_and_exports_for_open_clip(lab, reference, tmp_path):
    created = json.loads(lab.clipctl("submit", str(lab.run_file("plain")), "--json"))
    assert created["action"] == "created"
    again = json.loads(lab.clipctl("submit", str(lab.run_file("plain")), "--json"))
    assert again["action"] == "unchanged"

    status = lab.wait_for_end("plain")

    assert status["state"] == "Succeeded"
    assert_same_training(lab.kept_steps("plain"), reference)
    listed = json.loads(lab.clipctl("checkpoints", "ls", lab.root("plain"), "--json"))
    assert listed[0]["step"] == 60
    lab.clipctl("checkpoints", "verify", lab.root("plain"))

    results = json.loads(lab.store("plain").read("results.json"))
    assert results["retrieval"]["image_to_text_R@10"] > 0.1  # chance is 0.03
    model = load_export(lab.store("plain"), tmp_path / "export")
    assert sum(parameter.numel() for parameter in model.parameters()) > 1_000_000
    assert torch.isfinite(model.encode_image(torch.zeros(1, 3, 32, 32))).all()


def load_export(store, folder):
    folder.mkdir()
    for name in ("open_clip_model.safetensors", "open_clip_config.json"):
        (folder / name).write_bytes(store.read(f"export/{name}"))
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model


def test_any_pod_may_be_lost(lab, reference, record_property, capsys):
    lab.clipctl("submit", str(lab.run_file("chaos")))
    lab.wait_for_step("chaos", 12)
    alone = lab.steps_during("chaos", lambda: lab.delete_pod(pod_name(lab, "rendezvous")), 5)
    seconds = {}
    for lost in ("worker-1", "worker-0"):  # one right after the other: nobody may be left who has the state
        seconds[lost] = lab.recovery_seconds("chaos", lambda lost=lost: lab.delete_pod(pod_name(lab, lost)))

    status = lab.wait_for_end("chaos")

    for lost, took in seconds.items():
        record_property(f"recovery_seconds_{lost}", round(took, 1))
    with capsys.disabled():
        print("\nrecovery after deletion: " + ", ".join(f"{lost} {took:.1f} s" for lost, took in seconds.items()))
    assert len({event["incarnation"] for event in alone}) == 1, "nobody regroups because the coordinator is gone"
    assert status["state"] == "Succeeded"
    assert status["attempt"] == 1  # no help from the operator was needed
    assert_same_training(lab.kept_steps("chaos"), reference)


def test_survivors_keep_the_state_and_give_it_to_the_replacement(lab, record_property, capsys):
    lab.clipctl("submit", str(lab.run_file("survivors", train={"steps": 5000})))
    lab.wait_for_step("survivors", 12)
    seconds = {}
    for lost, lose in (("worker-1", lab.delete_pod), ("worker-0", lab.kill_pod)):  # worker 0 has rank 0
        began = time.time()
        seconds[lost] = lab.recovery_seconds(
            "survivors", lambda lost=lost, lose=lose: lose(pod_name(lab, lost, "survivors"))
        )
        lab.kubectl.wait(
            f"the replacement of {lost}",
            lambda began=began: any(event["rung"] == "grow" for event in lab.regrouped("survivors", began)),
            seconds=240,
        )
    lab.clipctl("stop", "survivors")
    lab.kubectl.wait("the pods to stop", lambda: not lab.live_workers("survivors"))

    for lost, took in seconds.items():
        record_property(f"survivor_goes_on_after_{lost}", round(took, 1))
    with capsys.disabled():
        print("\na survivor goes on after: " + ", ".join(f"{lost} {took:.1f} s" for lost, took in seconds.items()))
    events = lab.events("survivors")
    assert check(events) == []
    rungs = [event["rung"] for event in lab.regrouped("survivors")]
    assert rungs[0] in {"shrink", "regroup"}, "a deleted pod has a moment to leave in good order, if it is fast enough"
    assert rungs[1:] == ["grow", "regroup", "grow"]
    assert [event["resumed_from"] for event in events if event["event"] == "started"] == [None, None]


def test_a_sharded_run_loses_a_node_and_reads_no_checkpoint(lab, capsys):
    rarely = {"every_steps": 100_000, "memory_steps": 10}
    path = {"path": f"s3://{lab.bucket}/runs"}
    train = {"steps": 5000, "parallel": "fsdp"}
    room = {"resources": {"cpu": "500m", "memory": "3Gi", "shm": "256Mi"}}
    lab.clipctl("submit", str(lab.run_file("sharded", train=train, checkpoint={**path, **rarely}, scale=room)))
    lab.wait_for_step("sharded", 25)
    began = time.time()
    took = lab.recovery_seconds("sharded", lambda: lab.kill_pod(pod_name(lab, "worker-0", "sharded")))
    lab.kubectl.wait(
        "the replacement", lambda: any(e["rung"] == "grow" for e in lab.regrouped("sharded", began)), seconds=240
    )
    events = lab.events("sharded")
    lab.clipctl("stop", "sharded")
    lab.kubectl.wait("the pods to stop", lambda: not lab.live_workers("sharded"))

    with capsys.disabled():
        print(f"\na sharded run goes on after {took:.1f} s")
    assert check(lab.events("sharded")) == []
    lost = next(event for event in lab.regrouped("sharded", began) if event["rung"] == "regroup")
    assert lost["step"] > 10, "from a snapshot"
    assert [event["resumed_from"] for event in events if event["event"] == "started"] == [None] * 3


def pod_name(lab, which, run="chaos"):
    if which != "rendezvous":
        return f"{run}-1-{which}"
    (pod,) = lab.kubectl.items("pods", f"--selector=clipctl.dev/run={run},app.kubernetes.io/component=rendezvous")
    return pod["metadata"]["name"]
