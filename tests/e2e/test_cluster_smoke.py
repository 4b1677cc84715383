"""The ground that the other e2e tests stand on: node, DNS, isolation, S3, image, admission, elastic PyTorchJob."""

import json
import re
import textwrap

import pytest

from clip_testkit.cluster.workloads import container, elastic_job, headless_service, pod
from clipctl.contract.errors import UnavailableError

ALL_REDUCE = """
import torch
import torch.distributed as dist
from clip_trainer.elastic import process_group
from clip_trainer.elastic.membership import membership_from_environment

membership = membership_from_environment()
generation = membership.next()
process_group.enter(generation, torch.device("cpu"))
total = torch.full((3,), float(generation.rank + 1))
dist.all_reduce(total)
print(f"rank {generation.rank} of {generation.world}: {total.tolist()}", flush=True)
assert total.tolist() == [generation.world * (generation.world + 1) / 2] * 3
process_group.leave_group()
membership.close(0)
"""


def run_python(kubectl, image, code, name="probe", env=None):
    """Run some Python in the project's image and return the pod's phase and log."""
    command = ["python", "-c", textwrap.dedent(code)]
    kubectl.apply(pod(name, container(image, command, env=env)))
    return kubectl.finished_pod(name)


def test_node_is_ready_and_pytorchjob_is_served(kubectl):
    nodes = kubectl.items("nodes")
    assert nodes
    for node in nodes:
        assert kubectl.condition("node", node["metadata"]["name"], "Ready")
    names = {
        resource["name"] for resource in json.loads(kubectl.run("get", "--raw", "/apis/kubeflow.org/v1"))["resources"]
    }
    assert "pytorchjobs" in names


def test_pods_resolve_names_and_reach_nothing_outside(namespace, image):
    phase, log = run_python(
        namespace,
        image,
        """
        import socket
        print("api", socket.gethostbyname("kubernetes.default.svc.cluster.local"))
        try:
            socket.create_connection(("192.0.2.1", 443), timeout=5)
        except OSError as error:
            print("outside", type(error).__name__)
        """,
    )
    assert phase == "Succeeded", log
    address = namespace.within("default").get("service", "kubernetes")["spec"]["clusterIP"]
    assert f"api {address}\n" in log
    assert "outside " in log


def test_image_holds_what_it_should_and_nothing_to_build_with(namespace, image):
    phase, log = run_python(
        namespace,
        image,
        """
        import getpass, importlib.util, json, os, shutil, subprocess, sys
        import torch
        import clip_operator, clip_trainer, clipctl
        print(json.dumps({
            "uid": os.getuid(), "user": getpass.getuser(), "safe_path": sys.flags.safe_path,
            "tools": [t for t in ("pip", "pip3", "uv", "gcc", "cc", "make") if shutil.which(t)],
            "pip": importlib.util.find_spec("pip") is not None,
            "root_writable": os.access("/", os.W_OK), "tmp_writable": os.access("/tmp", os.W_OK),
            "secure": os.environ["WDS_SECURE"],
            "bytecode": os.path.exists(importlib.util.cache_from_source(torch.__file__)),
            "help": subprocess.run(["clipctl", "--help"], capture_output=True).returncode,
        }))
        """,
    )
    assert phase == "Succeeded", log
    found = json.loads(log.strip().splitlines()[-1])
    assert found == {
        "uid": 65532,
        "user": "clipctl",
        "safe_path": True,
        "tools": [],
        "pip": False,
        "root_writable": False,
        "tmp_writable": True,
        "secure": "1",
        "bytecode": True,
        "help": 0,
    }


def test_pods_and_this_machine_share_one_s3(namespace, image, s3):
    phase, log = run_python(
        namespace,
        image,
        f"""
        import botocore.session
        client = botocore.session.get_session().create_client("s3")
        client.create_bucket(Bucket="{namespace.namespace}")
        client.put_object(Bucket="{namespace.namespace}", Key="from-pod", Body=b"hello")
        """,
        env=s3.environment(in_cluster=True),
    )
    assert phase == "Succeeded", log
    import botocore.session

    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=s3.on_host,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name=s3.region,
    )
    assert client.get_object(Bucket=namespace.namespace, Key="from-pod")["Body"].read() == b"hello"


def test_restricted_namespace_refuses_a_privileged_pod(namespace, image):
    unsafe = pod("unsafe", container(image, ["true"]))
    unsafe["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(UnavailableError, match="violates PodSecurity"):
        namespace.apply(unsafe)


def test_elastic_job_of_two_workers_succeeds_at_an_external_coordinator(namespace, image):
    store = {"app": "store"}
    serve = ["python", "-m", "clip_trainer.coordinator", "--port", "29400"]
    launch = ["python", "-m", "clip_trainer.launch", "/scripts/run.json", "--worker", "all_reduce"]
    main = container(image, launch, name="pytorch", env={"OMP_NUM_THREADS": "1", "PYTHONPATH": "/scripts"})
    main["volumeMounts"].append({"name": "scripts", "mountPath": "/scripts"})
    job = elastic_job("reduce", 2, main, "store")
    # `Running` removes the pods that have not quite ended when the job succeeds, worker 0's own among them.
    job["spec"]["runPolicy"]["cleanPodPolicy"] = "None"
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    template["volumes"].append({"name": "scripts", "configMap": {"name": "scripts"}})
    namespace.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "scripts"},
            "data": {"all_reduce.py": ALL_REDUCE, "run.json": json.dumps({"spec": {"name": "reduce"}})},
        },
        pod("store", container(image, serve), labels=store),
        headless_service("store", store, 29400),
        job,
    )
    ended = ("Succeeded", "Failed")
    namespace.wait(
        "the end of the job", lambda: any(namespace.condition("pytorchjob", "reduce", c) for c in ended), seconds=300
    )
    assert namespace.condition("pytorchjob", "reduce", "Succeeded")
    # The job has succeeded once worker 0 has; the other may still be about to end. Ranks are not pod indices.
    for index in range(2):
        _, log = namespace.finished_pod(f"reduce-worker-{index}")
        assert re.search(r"rank [01] of 2: \[3\.0, 3\.0, 3\.0\]$", log, re.MULTILINE)
