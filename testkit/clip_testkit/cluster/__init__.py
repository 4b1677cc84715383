"""A real one-node Kubernetes for tests, in a network namespace that no packet can leave.

`python -m clip_testkit.cluster up` starts etcd, the API server, controller-manager, scheduler, containerd, kubelet,
kube-proxy, CoreDNS, training-operator and an S3 server, all built from Go modules and Debian packages. Modules:

- `settings`: versions, addresses, directories; `binaries`, `gomod`: building; `packages`: Debian packages.
- `certificates`, `kubeconfig`, `controlplane`, `node`, `addons`, `s3`: what each part is given (pure) and its start.
- `processes`, `netns`, `cleanup`, `shell`: the rim: processes by id, the network namespace, leftovers, commands.
- `containerd`, `buildah`, `ociarchive`, `scratchimage`, `baseimage`, `projectimage`, `installconfig`: images;
  `elfsymbols`, `cudastubs`, `stubwheels`: stubs for CUDA's libraries, so that an image has 1.6 GB and not 5.
- `lifecycle`: up, down and status, made of the parts above.
- `kubectl`, `workloads`: what tests use.
"""
