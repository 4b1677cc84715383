"""`RunSpec`: defaults, strictness, every rule between fields, and the digests that identify a run."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from clipctl.contract import names
from clipctl.contract.sections import AttemptBudget
from clipctl.contract.spec import RunSpec, lane_count

MINIMAL = {
    "name": "demo",
    "model": {"name": "ViT-B-32"},
    "data": {"train": "s3://bucket/train"},
    "train": {"global_batch": 128, "steps": 100},
    "checkpoint": {"path": "s3://bucket/runs"},
}


def with_(changes, base=MINIMAL):
    """`base` with dotted paths set; a value of `...` removes the field."""
    raw = json.loads(json.dumps(base))
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = raw
        for parent in parents:
            node = node.setdefault(parent, {})
        if value is ...:
            node.pop(last)
        else:
            node[last] = value
    return raw


def spec(**changes):
    return RunSpec.model_validate(with_({key.replace("__", "."): value for key, value in changes.items()}))


def problems(raw):
    with pytest.raises(ValidationError) as caught:
        RunSpec.model_validate(raw)
    return {".".join(map(str, problem["loc"])): problem["msg"] for problem in caught.value.errors()}


class TestDefaults:
    def test_the_defaults_are_openclips(self):
        train = spec().train
        assert (train.learning_rate, train.weight_decay, train.warmup_steps) == (5e-4, 0.2, 2000)
        assert (train.beta1, train.beta2, train.eps) == (None, None, None)  # they depend on the model
        assert train.grad_clip_norm is None
        assert train.schedule == "cosine"

    def test_a_run_is_one_process_unless_it_says_otherwise(self):
        assert spec().max_world == 1
        assert spec().scale.nodes.min == spec().scale.nodes.max == 1

    def test_two_verified_checkpoints_is_the_least(self):
        assert spec().checkpoint.keep == 3
        for value in (0, 1, 10_001, True, 3.0, "3", [3], None):
            assert {p.split(".")[1] for p in problems(with_({"checkpoint.keep": value}))} == {"keep"}, value
        for value in (2, 10_000):
            assert spec(checkpoint__keep=value).checkpoint.keep == value

    def test_nothing_is_retried_for_a_user_error(self):
        budgets = set(AttemptBudget.model_fields)
        assert budgets == set(names.CAUSES) - {names.CAUSE_USER_ERROR, names.CAUSE_DATA}

    def test_metrics_port_is_the_documented_one(self):
        assert spec().metrics.port == names.METRICS_PORT

    def test_resolved_fills_in_everything_and_reads_back(self):
        resolved = spec().resolved()
        assert resolved["scale"]["resources"] == {"cpu": "4", "memory": "16Gi", "gpu": 0, "shm": "1Gi"}
        assert resolved["train"]["epochs"] is None
        assert RunSpec.model_validate_json(json.dumps(resolved)) == spec()

    def test_every_field_is_documented(self):
        def undocumented(node, path):
            for name, field in node.get("properties", {}).items():
                # pydantic leaves a description out that equals the one of the section it refers to
                if not field.get("description") and "$ref" not in field:
                    yield f"{path}.{name}"

        schema = RunSpec.model_json_schema()
        missing = list(undocumented(schema, "run"))
        for name, definition in schema["$defs"].items():
            missing += [*undocumented(definition, name), *([] if definition.get("description") else [name])]
        assert missing == []

    def test_required_fields(self):
        assert set(problems({})) == {"name", "model", "data", "train", "checkpoint"}


class TestImmutability:
    def test_a_spec_cannot_be_changed(self):
        with pytest.raises(ValidationError, match="frozen"):
            spec().name = "other"
        with pytest.raises(ValidationError, match="frozen"):
            spec().train.steps = 5


class TestStrictness:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("train.global_batch", "128"),
            ("train.global_batch", 128.0),
            ("train.global_batch", True),
            ("train.steps", "100"),
            ("train.learning_rate", "5e-4"),
            ("train.learning_rate", True),
            ("train.seed", 1.5),
            ("model.name", 32),
            ("model.name", None),
            ("name", 12),
            ("data.train", 7),
            ("scale.resources.cpu", 4),
            ("scale.resources.memory", 16),
            ("scale.node_selector", {"a": 1}),
            ("metrics.pod_monitor", "no"),
            ("metrics.pod_monitor", 1),
            ("env", {"A": 1}),
            ("version", "1"),
            ("version", 2),
            ("model", "ViT-B-32"),
            ("eval.zero_shot.classes", "abc"),
        ],
    )
    def test_no_type_is_guessed(self, path, value):
        extra = {"eval.zero_shot.data": "s3://b/e"} if path.startswith("eval") else {}
        found = problems(with_({**extra, path: value}))
        assert any(location.startswith(path) for location in found), found

    @pytest.mark.parametrize(
        "path",
        [
            "nmae",
            "train.lr",
            "data.shuffle",
            "scale.nodes.maximum",
            "retry.attempts.data",
            "eval.zeroshot",
            "checkpoint.every",
        ],
    )
    def test_unknown_fields_are_refused(self, path):
        assert problems(with_({path: 1}))[path] == "Extra inputs are not permitted"

    def test_whole_numbers_are_fine_where_a_fraction_may_stand(self):
        assert spec(train__epochs=3, train__steps=None).train.epochs == 3.0

    def test_lists_are_fine_where_a_tuple_is_kept(self):
        zero_shot = {"data": "s3://b/e", "classes": ["a", "b"], "templates": ["a {}"]}
        assert spec(eval__zero_shot=zero_shot).eval.zero_shot.classes == ("a", "b")

    def test_all_problems_are_reported_at_once(self):
        found = problems(with_({"train.global_batch": 0, "model.name": "", "checkpoint.every_steps": 0, "surprise": 1}))
        assert set(found) == {"train.global_batch", "model.name", "checkpoint.every_steps", "surprise"}


class TestLimits:
    @pytest.mark.parametrize(
        ("path", "bad", "good"),
        [
            ("train.global_batch", (0, -1, 2**53 + 1), (1, 32768)),
            ("train.micro_batch", (0,), (1,)),
            ("train.learning_rate", (0.0, -1e-3, float("nan"), float("inf")), (1e-9,)),
            ("train.weight_decay", (-0.1, float("inf")), (0.0,)),
            ("train.beta1", (1.0, -0.1), (0.0, 0.999)),
            ("train.beta2", (1.0, float("nan")), (0.95,)),
            ("train.eps", (0.0,), (1e-8,)),
            ("train.warmup_steps", (-1,), (0,)),
            ("train.grad_clip_norm", (0.0,), (1.0, None)),
            ("train.schedule", ("linear", "Cosine"), ("cosine", "constant")),
            ("train.seed", (-1,), (0, 2**53)),
            ("model.precision", ("fp64", "bfloat16"), ("fp32", "amp_bf16")),
            ("data.threads", (0,), (1,)),
            ("data.prefetch_batches", (0,), (1,)),
            ("data.shuffle_block", (0,), (1,)),
            ("data.max_replaced", (1.0, -0.1), (0.0, 0.99)),
            ("data.max_pixels", (0,), (1,)),
            ("checkpoint.every_steps", (0,), (1,)),
            ("eval.every_steps", (0,), (1, None)),
            ("scale.grace_seconds", (4, 3601), (5, 3600)),
            ("scale.devices_per_node", (0,), (1,)),
            ("scale.image_pull_policy", ("always",), ("Always", "Never")),
            ("retry.backoff_seconds", (-1,), (0,)),
            ("retry.deadline_seconds", (0,), (1, None)),
            ("retry.ttl_seconds", (-1,), (0, None)),
            ("retry.attempts.hang", (-1,), (0,)),
            ("metrics.port", (1023, 65536), (1024, 65535)),
            ("image", ("", "two words", "x" * 513), ("registry/clipctl@sha256:abc",)),
            ("scale.queue", ("Upper", "a_b", "x" * 64), ("queue-1", None)),
            ("scale.service_account", ("-a", "a-"), ("sa",)),
        ],
    )
    def test_values_outside_are_refused_and_values_inside_are_taken(self, path, bad, good):
        for value in bad:
            assert path in problems_in_python(with_({}), path, value), f"{path} = {value!r} was taken"
        for value in good:
            RunSpec.model_validate(with_({path: value}))

    @pytest.mark.parametrize("name", ["a", "demo-1", "a" * names.MAX_RUN_NAME])
    def test_good_names(self, name):
        assert spec(name=name).name == name

    @pytest.mark.parametrize(
        "name", ["", "1a", "Demo", "a_b", "a.b", "-a", "a-", "a" * (names.MAX_RUN_NAME + 1), "a\n", "ä"]
    )
    def test_bad_names(self, name):
        assert "name" in problems(with_({"name": name}))

    @pytest.mark.parametrize("quantity", ["4", "500m", "0.5", "16Gi", "1T", "100k"])
    def test_good_quantities(self, quantity):
        assert spec(scale__resources__memory=quantity).scale.resources.memory == quantity

    @pytest.mark.parametrize("quantity", ["", "4 Gi", "Gi", "-1", "1GB", "1e3", "1.", ".5", "4\n"])
    def test_bad_quantities(self, quantity):
        assert "scale.resources.memory" in problems(with_({"scale.resources.memory": quantity}))


def problems_in_python(raw, path, value):
    """Like `problems`, for values that JSON cannot carry (NaN)."""
    *parents, last = path.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return problems(raw)


class TestRulesBetweenFields:
    def test_exactly_one_of_steps_and_epochs(self):
        for changes in ({"train.steps": ...}, {"train.epochs": 2.0}):
            assert "exactly one of train.steps and train.epochs" in problems(with_(changes))["train"]

    def test_min_nodes_at_most_max_nodes(self):
        assert (
            "min (3) is greater than max (2)" in problems(with_({"scale.nodes": {"min": 3, "max": 2}}))["scale.nodes"]
        )

    def test_every_rank_needs_a_lane(self):
        raw = with_({"train.global_batch": 6, "scale.nodes.max": 4, "scale.devices_per_node": 2})
        assert "cannot be shared by 8 ranks" in problems(raw)[""]

    def test_lanes_divide_the_batch(self):
        assert "data.lanes (7) does not divide" in problems(with_({"data.lanes": 7}))[""]

    def test_gpus_match_the_ranks_of_a_pod(self):
        raw = with_({"scale.resources.gpu": 2, "scale.devices_per_node": 4})
        assert "scale.resources.gpu (2) must be 0 or equal scale.devices_per_node (4)" in problems(raw)[""]
        assert spec(scale__resources__gpu=4, scale__devices_per_node=4).max_world == 4

    @pytest.mark.parametrize("template", ["a photo", "{", "{name}"])
    def test_templates_need_a_place_for_the_class(self, template):
        zero_shot = {"data": "s3://b/e", "classes": ["a", "b"], "templates": [template]}
        assert "eval.zero_shot.templates" in problems(with_({"eval.zero_shot": zero_shot}))

    def test_one_class_is_no_classification(self):
        assert "eval.zero_shot.classes" in problems(with_({"eval.zero_shot": {"data": "d", "classes": ["a"]}}))


@pytest.mark.parametrize(
    ("augment", "word"),
    [
        ({"color_jitter_prob": 0.5}, "need each other"),
        ({"color_jitter": [0.1, 0.1, 0.1, 0.1]}, "need each other"),
        ({"color_jitter": [0, 0, 0, 0.7], "color_jitter_prob": 0.5}, "at most 0.5"),
        ({"scale": [0.9, 0.5]}, "greater than"),
    ],
)
def test_augmentations_that_cannot_be_meant(augment, word):
    with pytest.raises(ValidationError, match=word):
        spec(data__augment=augment)


class TestSecrets:
    @pytest.mark.parametrize(
        "name",
        [
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ACCESS_KEY_ID",
            "HF_TOKEN",
            "WANDB_API_KEY",
            "db_password",
            "MY_PRIVATE_KEY",
            "GCP_CREDENTIALS",
        ],
    )
    def test_plain_credentials_are_refused(self, name):
        message = problems(with_({"env": {name: "x"}}))[""]
        assert name in message
        assert "secrets" in message

    @pytest.mark.parametrize(
        "name", ["AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "OMP_NUM_THREADS", "NCCL_DEBUG", "http_proxy"]
    )
    def test_ordinary_variables_are_fine(self, name):
        assert spec(env={name: "x"}).env == {name: "x"}

    @pytest.mark.parametrize(
        "name",
        [
            "RANK",
            "WORLD_SIZE",
            "PET_NNODES",
            "CLIPCTL_ATTEMPT",
            "TORCHELASTIC_RUN_ID",
            "PATH",
            "LD_PRELOAD",
            "PYTHONPATH",
        ],
    )
    def test_what_clipctl_sets_cannot_be_overridden(self, name):
        assert f"{name} is set by clipctl" in problems(with_({"env": {name: "x"}}))[""]

    @pytest.mark.parametrize("name", ["1A", "A-B", "A B", "", "A\n"])
    def test_names_no_shell_could_use(self, name):
        assert any(location.startswith("env") for location in problems(with_({"env": {name: "x"}})))

    def test_a_variable_has_one_source(self):
        raw = with_({"env": {"REGION": "x"}, "secrets": {"REGION": {"secret": "s", "key": "k"}}})
        assert "REGION stands in env and in secrets" in problems(raw)[""]

    def test_a_secret_is_a_reference_only(self):
        assert "secrets.HF_TOKEN" in problems(with_({"secrets": {"HF_TOKEN": "hf_value"}}))
        reference = {"secret": "hub", "key": "token"}
        assert spec(secrets={"HF_TOKEN": reference}).secrets["HF_TOKEN"].key == "token"

    @pytest.mark.parametrize("name", ["RANK", "PATH", "LD_PRELOAD", "CLIPCTL_ATTEMPT"])
    def test_secrets_do_not_override_what_clipctl_sets_either(self, name):
        assert f"{name} is set by clipctl" in problems(with_({"secrets": {name: {"secret": "s", "key": "k"}}}))[""]

    @pytest.mark.parametrize("path", ["data.train", "checkpoint.path", "eval.retrieval.data", "eval.zero_shot.data"])
    @pytest.mark.parametrize("authority", ["user:pass@host", "user@host"])
    def test_urls_carry_no_credentials(self, path, authority):
        extra = {"eval.zero_shot.classes": ["a", "b"]} if "zero_shot" in path else {}
        message = problems(with_({**extra, path: f"https://{authority}/x"}))[""]
        assert f"the URL of {path} carries credentials" in message
        assert "pass" not in message

    def test_an_at_sign_elsewhere_in_a_url_is_fine(self):
        assert spec(data__train="s3://bucket/user@host/x").data.train.endswith("user@host/x")


class TestLanes:
    @pytest.mark.parametrize(
        ("batch", "world", "lanes"),
        [(128, 1, 64), (96, 1, 48), (100, 1, 50), (7, 1, 7), (67, 1, 1), (256, 128, 128), (30, 2, 30)],
    )
    def test_the_default_is_the_largest_useful_divisor(self, batch, world, lanes):
        assert lane_count(batch, world) == lanes

    @given(batch=st.integers(1, 5000), world=st.integers(1, 200))
    def test_it_divides_the_batch_and_serves_every_rank_or_refuses(self, batch, world):
        if batch < world:
            with pytest.raises(ValueError, match="too small"):
                lane_count(batch, world)
            return
        lanes = lane_count(batch, world)
        assert batch % lanes == 0
        assert lanes >= world
        if lanes > max(64, world):  # only where nothing fits between
            assert not [d for d in range(world, max(64, world) + 1) if batch % d == 0]

    def test_an_explicit_number_is_kept(self):
        assert lane_count(96, 4, 96) == 96
        with pytest.raises(ValueError, match="does not divide"):
            lane_count(96, 4, 5)
        with pytest.raises(ValueError, match="less than the number of ranks"):
            lane_count(96, 4, 3)


class TestDigests:
    def test_the_digest_is_stable_between_releases(self):
        """A changed digest makes `clipctl submit` refuse files that nobody changed: bump `version` with it."""
        assert spec().digest() == "42cfef9bb5f28ebc4357ccd2b5e5251c9a98967f8925558a32b7c264ba9c9f17"

    def test_the_training_digest_is_stable_between_releases(self):
        """A changed training digest makes every checkpoint in the world unusable."""
        assert spec().training_digest("d") == "d51e78cc471e3b36a0903d8eb5001ec80117e0e721d481690517be6d8824ecfd"

    def test_writing_a_default_out_changes_nothing(self):
        assert spec(train__learning_rate=5e-4).digest() == spec().digest()

    @pytest.mark.parametrize(
        ("changes", "same_training"),
        [
            ({"model__name": "ViT-L-14"}, False),
            ({"train__global_batch": 256}, False),
            ({"train__seed": 1}, False),
            ({"data__shuffle_block": 512}, False),
            ({"data__lanes": 32}, False),
            ({"data__lanes": 64}, True),
            ({"scale__nodes__max": 128}, False),
            ({"scale__nodes__max": 4}, True),
            ({"data__train": "s3://elsewhere/train"}, True),
            ({"train__steps": 200}, True),
            ({"train__micro_batch": 32}, True),
            ({"train__learning_rate": 1e-3}, True),
            ({"image": "clipctl:v2"}, True),
            ({"checkpoint__every_steps": 5}, True),
            ({"env": {"A": "b"}}, True),
        ],
    )
    def test_what_belongs_to_the_identity_of_a_run(self, changes, same_training):
        changed = spec(**changes)
        assert changed.digest() != spec().digest()
        assert (changed.training_digest("d") == spec().training_digest("d")) is same_training

    def test_other_data_is_another_run(self):
        assert spec().training_digest("one") != spec().training_digest("two")

    def test_the_root(self):
        assert spec().root == "s3://bucket/runs/demo"
