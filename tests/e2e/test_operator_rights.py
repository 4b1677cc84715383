"""The operator may do what its code does and nothing else, asked of the API server itself."""

import itertools
from concurrent.futures import ThreadPoolExecutor

VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = (
    ("", "pods"),
    ("", "pods/log"),
    ("", "pods/exec"),
    ("", "secrets"),
    ("", "configmaps"),
    ("", "services"),
    ("", "serviceaccounts"),
    ("", "serviceaccounts/token"),
    ("", "events"),
    ("", "nodes"),
    ("", "namespaces"),
    ("", "persistentvolumeclaims"),
    ("apps", "deployments"),
    ("apps", "deployments/scale"),
    ("apps", "daemonsets"),
    ("batch", "jobs"),
    ("coordination.k8s.io", "leases"),
    ("kubeflow.org", "pytorchjobs"),
    ("kubeflow.org", "pytorchjobs/status"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("monitoring.coreos.com", "podmonitors"),
)
EXPECTED = {
    ("kubeflow.org", "pytorchjobs"): {"list", "watch", "create", "patch", "delete"},
    ("", "pods"): {"list", "watch", "delete"},
    ("apps", "deployments"): {"get", "patch", "delete"},
    ("", "services"): {"get", "delete"},
    ("", "configmaps"): {"get", "delete"},
    ("", "serviceaccounts"): {"get", "delete"},
    ("monitoring.coreos.com", "podmonitors"): {"get", "delete"},
    ("", "events"): {"create"},
    ("", "nodes"): {"get"},
    ("coordination.k8s.io", "leases"): {"create"},  # get and update on its own Lease only, see below
}


def may(lab, verb, group, resource, *, namespace=None, name=""):
    plain, _, sub = resource.partition("/")
    attributes = {"verb": verb, "group": group, "resource": plain, "subresource": sub, "name": name}
    attributes["namespace"] = namespace if namespace is not None else lab.kubectl.namespace
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{lab.kubectl.namespace}:clip-operator",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{lab.kubectl.namespace}"],
            "resourceAttributes": attributes,
        },
    }
    return lab.allowed(review)


def test_exactly_the_rights_it_needs(lab):
    questions = list(itertools.product(RESOURCES, VERBS))
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda q: may(lab, q[1], *q[0]), questions))
    granted = {}
    for ((group, resource), verb), allowed in zip(questions, answers, strict=True):
        if allowed:
            granted.setdefault((group, resource), set()).add(verb)
    assert granted == EXPECTED


def test_nothing_in_other_namespaces(lab):
    for (group, resource), verbs in EXPECTED.items():
        if resource == "nodes":  # cluster-scoped
            continue
        for verb in verbs:
            assert not may(lab, verb, group, resource, namespace="kube-system"), f"{verb} {resource}"


def test_lease_rights_cover_its_own_lease_only(lab):
    for verb in ("get", "update"):
        assert may(lab, verb, "coordination.k8s.io", "leases", name="clip-operator")
        assert not may(lab, verb, "coordination.k8s.io", "leases", name="somebody-else")


def test_workers_have_no_rights_and_no_token(lab):
    lab.clipctl("submit", str(lab.run_file("rightless")))
    lab.kubectl.wait("a worker", lambda: bool(lab.workers("rightless")))
    pod = lab.workers("rightless")[0]
    assert pod["spec"]["automountServiceAccountToken"] is False
    account = pod["spec"]["serviceAccountName"]
    mounted = [mount["mountPath"] for c in pod["spec"]["containers"] for mount in c["volumeMounts"]]
    assert not [path for path in mounted if "serviceaccount" in path]
    assert account == "rightless"
    lab.clipctl("delete", "rightless", "--yes")
