"""`clipctl convert`: every training command of OpenCLIP's README, every flag, and what has no equivalent."""

import argparse
import json
import shlex

import pytest
import yaml

from clip_trainer.train.optimization import schedule_of, steps_of
from clipctl.cli import main
from clipctl.contract.errors import SpecError
from clipctl.contract.spec import RunSpec
from clipctl.convert.commandline import read_command
from clipctl.convert.convert import convert, to_yaml
from clipctl.convert.epoch import recorded_samples, steps_per_epoch
from clipctl.convert.flags import FLAGS, option, parse_flags
from clipctl.convert.running import run_name
from clipctl.specfields import field_paths

SINGLE = r"""
python -m open_clip_train.main \
    --save-frequency 1 \
    --zeroshot-frequency 1 \
    --report-to tensorboard \
    --train-data="/path/to/train_data.csv"  \
    --val-data="/path/to/validation_data.csv"  \
    --csv-img-key filepath \
    --csv-caption-key title \
    --imagenet-val=/path/to/imagenet/root/val/ \
    --warmup 10000 \
    --batch-size=128 \
    --lr=1e-3 \
    --wd=0.1 \
    --epochs=30 \
    --workers=8 \
    --model RN50
"""
TORCHRUN = r"""
cd open_clip/src
torchrun --nproc_per_node 4 -m open_clip_train.main \
    --train-data '/data/cc12m/cc12m-train-{0000..2175}.tar' \
    --train-num-samples 10968539 \
    --dataset-type webdataset \
    --batch-size 320 \
    --precision amp \
    --workers 4 \
    --imagenet-val /data/imagenet/validation/
"""
MULTI_NODE = TORCHRUN.replace("--nproc_per_node 4", r"--nproc_per_node=4 --nnodes=2 --rdzv_endpoint=$HOSTE_NODE_ADDR")
SLURM = r"""#!/bin/bash -x
#SBATCH --nodes=32
#SBATCH --gres=gpu:4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=6
#SBATCH --wait-all-nodes=1
#SBATCH --job-name=open_clip
#SBATCH --account=ACCOUNT_NAME
#SBATCH --partition PARTITION_NAME

eval "$(/path/to/conda/bin/conda shell.bash hook)" # init conda
conda activate open_clip
export CUDA_VISIBLE_DEVICES=0,1,2,3
export MASTER_PORT=12802

master_addr=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR=$master_addr

cd ~/open_clip
export PYTHONPATH="$PYTHONPATH:$PWD/src"
srun --cpu_bind=v --accel-bind=gn python -u src/open_clip_train/main.py \
    --save-frequency 1 \
    --report-to tensorboard \
    --train-data="/data/LAION-400M/{00000..41455}.tar" \
    --warmup 2000 \
    --batch-size=256 \
    --epochs=32 \
    --workers=8 \
    --model ViT-B-32 \
    --name "ViT-B-32-Vanilla" \
    --seed 0 \
    --local-loss \
    --gather-with-grad
"""
RESUME = r"""
python -m open_clip_train.main \
    --train-data="/path/to/train_data.csv" \
    --val-data="/path/to/validation_data.csv"  \
    --resume /path/to/checkpoints/epoch_K.pt
"""
LANGUAGE_MODEL = r"""
python -m open_clip_train.main \
    --train-data="pipe:aws s3 cp s3://s-mas/cc3m/{00000..00329}.tar -" \
    --train-num-samples 3000000 \
    --val-data="pipe:aws s3 cp s3://s-mas/cc3m/{00330..00331}.tar -" \
    --val-num-samples 10000 \
    --dataset-type webdataset \
    --batch-size 256 \
    --warmup 2000 \
    --epochs 10 \
    --lr 5e-4 \
    --precision amp \
    --workers 6 \
    --model "roberta-ViT-B-32" \
    --lock-text \
    --lock-text-unlocked-layers 10 \
    --name "10_unfrozen" \
    --report-to "tensorboard"
"""
OLD_SPELLING = "python -m training.main --train-data 'pipe:cat /d/{000..003}.tar' --model ViT-B/32"
YFCC = (
    SINGLE.replace("--lr=1e-3", "--lr=5e-4")
    .replace("--epochs=30", "--epochs=32")
    .replace("python", "torchrun --nproc_per_node 8", 1)
)
EVALUATE = r"""
python -m open_clip_train.main --val-data="/path/to/validation_data.csv" --model RN101 --pretrained /path/to/epoch_K.pt
"""
TRAINING = {
    "single process": SINGLE,
    "torchrun": TORCHRUN,
    "multi-node": MULTI_NODE,
    "slurm": SLURM,
    "resume": RESUME,
    "language model": LANGUAGE_MODEL,
    "old spelling": OLD_SPELLING,
    "YFCC": YFCC,
}


def converted(command):
    return convert([command])


@pytest.mark.parametrize("command", TRAINING.values(), ids=TRAINING)
def test_every_training_command_of_the_readme_becomes_a_valid_run(command):
    conversion = converted(command)

    assert conversion.refused == []
    spec = RunSpec.model_validate(yaml.safe_load(to_yaml(conversion)))
    assert spec.resolved() == RunSpec.model_validate(conversion.spec).resolved()


def test_single_process():
    conversion = converted(SINGLE)

    assert conversion.spec == {
        "name": "openclip-rn50",
        "model": {"name": "RN50", "precision": "amp"},
        "data": {"train": "/path/to/train_data.csv", "columns": {"root": ".", "separator": "\t"}, "threads": 8},
        "train": {
            "global_batch": 128,
            "micro_batch": 128,
            "epochs": 30,
            "warmup_steps": 10000,
            "schedule": "cosine",
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "optimizer": "adamw",
            "seed": 0,
        },
        "checkpoint": {"path": "./logs/"},
        "eval": {
            "zero_shot": {
                "folder": "/path/to/imagenet/root/val/",
                "classes": "imagenet",
                "templates": "imagenet",
                "every": {"epochs": 1},
            },
            "retrieval": {
                "data": "/path/to/validation_data.csv",
                "columns": {"root": ".", "separator": "\t"},
                "loss_batch": 128,
                "every": {"epochs": 1},
            },
        },
        "scale": {"resources": {"gpu": 1}},
        "log": {"tensorboard": True},
    }


def test_the_batch_counts_all_ranks_and_an_epoch_is_rounded_as_openclip_does():
    spec = converted(TORCHRUN).spec

    assert (spec["train"]["global_batch"], spec["train"]["micro_batch"]) == (1280, 320)
    # 10,968,539 / 1280 = 8569.2 batches, rounded up to 8570, then to a multiple of 4 workers.
    assert spec["data"]["epoch_samples"] == 8572 * 1280
    assert spec["train"]["epochs"] == 32
    assert steps_of(RunSpec.model_validate(spec), spec["data"]["epoch_samples"]) == 8572 * 32
    assert spec["scale"] == {"devices_per_node": 4, "resources": {"gpu": 4}}
    assert spec["data"]["train"] == "/data/cc12m/cc12m-train-{0000..2175}.tar"
    assert spec["checkpoint"]["every_steps"] == 8572


def test_several_nodes():
    spec = converted(MULTI_NODE).spec

    assert spec["scale"]["nodes"] == {"min": 1, "max": 2}
    assert spec["train"]["global_batch"] == 2560


def test_a_slurm_script_says_the_number_of_ranks_above_the_command():
    conversion = converted(SLURM)

    assert conversion.spec["train"]["global_batch"] == 32768
    assert conversion.spec["scale"] == {"nodes": {"min": 1, "max": 32}, "devices_per_node": 4, "resources": {"gpu": 4}}
    assert conversion.spec["name"] == "vit-b-32-vanilla"
    assert not any("gradient" in note for note in conversion.notes)  # both flags: exact there, too


def test_resume_from_a_file_and_from_the_latest():
    assert converted(RESUME).spec["checkpoint"]["resume_from"] == "/path/to/checkpoints/epoch_K.pt"
    latest = converted("python -m open_clip_train.main --train-data d --resume latest")
    assert "resume_from" not in latest.spec["checkpoint"]
    assert any("--resume latest" in note for note in latest.notes)


def test_pipes_become_urls():
    conversion = converted(LANGUAGE_MODEL)

    assert conversion.spec["data"]["train"] == "s3://s-mas/cc3m/{00000..00329}.tar"
    assert conversion.spec["eval"]["retrieval"]["data"] == "s3://s-mas/cc3m/{00330..00331}.tar"
    assert conversion.spec["model"]["lock_text"] == {"unlocked_layers": 10, "freeze_layer_norm": False}
    assert conversion.spec["name"] == "run-10-unfrozen"
    assert converted(OLD_SPELLING).spec["data"]["train"] == "/d/{000..003}.tar"
    assert converted(OLD_SPELLING).spec["model"]["name"] == "ViT-B-32"


def train_on(flags):
    conversion = convert(shlex.split(f"python -m open_clip_train.main {flags}"))
    assert conversion.refused == []
    RunSpec.model_validate(conversion.spec)
    return conversion


def test_tables_are_read_where_they_are():
    flags = "--train-data t.csv --csv-img-key image --csv-caption-key text --csv-separator ,"
    assert train_on(flags).spec["data"]["columns"] == {"image": "image", "caption": "text", "root": "."}
    conversion = train_on("--train-data t.tsv --train-num-samples 7")
    assert conversion.spec["data"] == {"train": "t.tsv", "columns": {"root": "."}, "threads": 4}
    assert any("every row has its turn" in note for note in conversion.notes)  # OpenCLIP ignores the number, too


def test_synthetic_samples():
    conversion = train_on("--dataset-type synthetic --train-num-samples 1000 --batch-size 64 --epochs 3")
    assert conversion.spec["data"] == {"train": "synthetic:1000", "epoch_samples": 960, "threads": 4}


def test_other_commands_are_run_if_they_stand_in_the_command():
    conversion = train_on("--train-data 'pipe:gsutil cat gs://b/{0..9}.tar'")
    assert conversion.spec["data"]["train"] == "pipe:gsutil cat gs://b/{0..9}.tar"
    assert conversion.spec["data"]["allow_pipe"] is True
    assert any("a URL needs none" in note for note in conversion.notes)


def test_several_sources_are_one_shuffled_set():
    assert train_on("--train-data 'a/{0..3}.tar::pipe:cat b.tar'").spec["data"]["train"] == "a/{0..3}.tar::b.tar"
    assert train_on("--train-data d --val-data a.tar::b.tar").spec["eval"]["retrieval"]["data"] == "a.tar::b.tar"


def test_upsampling_factors():
    flags = "--train-data a/{0..3}.tar::b.tar --dataset-resampled --train-data-upsampling-factors 1::2.5"
    conversion = train_on(f"{flags} --train-num-samples 100 --batch-size 10 --workers 4")
    assert conversion.spec["data"]["train"] == [{"url": "a/{0..3}.tar", "weight": 1.0}, {"url": "b.tar", "weight": 2.5}]
    assert conversion.spec["data"]["resample"] == {"samples_per_epoch": 120}
    assert RunSpec.model_validate(conversion.spec).data.resample.weight_by == "sample"
    assert any("the same in the long run" in note for note in conversion.notes)


def test_drawing_with_replacement():
    spec = train_on("--train-data a.tar --dataset-resampled --train-num-samples 100 --batch-size 10").spec
    assert spec["data"]["resample"] == {"samples_per_epoch": 120}
    assert "epoch_samples" not in spec["data"]
    assert train_on("--train-data a.tar --dataset-resampled").spec["data"]["resample"] == {}


@pytest.mark.parametrize("accumulate", [1, 3])
def test_epochs_of_a_part_of_the_data_have_openclips_steps(accumulate):
    """Its trainer makes `num_batches // accum_freq` steps an epoch, whatever the data really holds."""
    flags = "--train-num-samples 1001 --batch-size 16 --workers 4 --epochs 5 --warmup 1"
    flags += f" --accum-freq {accumulate} --lr-scheduler const-cooldown --epochs-cooldown 2"
    spec = RunSpec.model_validate(train_on(f"--train-data a.tar {flags}").spec)
    steps = 64 // accumulate  # 63 batches, rounded up to whole batches for each of 4 workers
    assert steps_of(spec, spec.data.epoch_samples) == 5 * steps
    assert schedule_of(spec, spec.data.epoch_samples).cooldown_steps == 2 * steps


def test_the_sizes_that_openclip_reads(tmp_path):
    shards = f"{tmp_path}/{{00..02}}.tar"
    assert recorded_samples(shards) is None
    (tmp_path / "__len__").write_text("1_000")
    assert recorded_samples(shards) == 1000
    (tmp_path / "sizes.json").write_text('{"00.tar": 10, "01.tar": 11, "02.tar": "12", "03.tar": 1}')
    assert recorded_samples(shards) == 33
    assert recorded_samples(f"{shards}::/elsewhere/03.tar") == 34  # by name, whatever the directory
    assert train_on(f"--train-data {shards} --batch-size 8 --workers 2").spec["data"]["epoch_samples"] == 48
    assert recorded_samples(f"{shards}::other.tar") is None  # OpenCLIP fails with a KeyError
    for broken in ("{", "[]", '{"00.tar": null}'):
        (tmp_path / "sizes.json").write_text(broken)
        assert recorded_samples(shards) is None


def test_a_command_that_only_evaluates_is_refused_with_the_right_command():
    assert any("clipctl eval" in text for text in converted(EVALUATE).refused)


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        ("--lr-scheduler const", "train.schedule", "constant"),
        ("--lr-scheduler const-cooldown --epochs-cooldown 3", "train.cooldown_epochs", 3),
        (
            "--lr-scheduler const-cooldown --epochs-cooldown 3 --train-num-samples 6400 --workers 1",
            "train.cooldown_epochs",
            3,
        ),
        ("--skip-scheduler", "train.schedule", "none"),
        ("--opt timm/lamb --lr 0.01 --momentum 0.8", "train.optimizer", "timm/lamb"),
        ("--opt timm/lamb --momentum 0.8", "train.learning_rate", 5e-4),
        ("--accum-freq 4", "train.global_batch", 256),
        ("--grad-clip-norm 1", "train.grad_clip_norm", 1.0),
        ("--siglip", "train.loss.kind", "siglip"),
        ("--model coca_ViT-B-32", "train.loss.caption_weight", 2.0),
        (
            "--distill-model ViT-L-14 --distill-pretrained openai",
            "train.loss.distill",
            {"model": "ViT-L-14", "pretrained": "openai"},
        ),
        ("--lock-image --lock-image-unlocked-groups 3", "model.lock_image", {"unlocked_groups": 3}),
        ("--lock-image --lock-image-freeze-bn-stats", "model.lock_image.freeze_bn_stats", True),
        ("--force-image-size 240", "model.image_size", 240),
        ("--force-image-size 240 320", "model.image_size", [240, 320]),
        ("--image-mean 0.5 0.5 0.5", "model.preprocess.mean", [0.5, 0.5, 0.5]),
        ("--aug-cfg scale=(0.4,1.0) use_timm=True", "data.augment.scale", [0.4, 1.0]),
        (
            "--aug-cfg color_jitter=(0.32,0.32,0.32,0.08) color_jitter_prob=0.8",
            "data.augment.color_jitter",
            [0.32, 0.32, 0.32, 0.08],
        ),
        (
            "--aug-cfg use_timm=True color_jitter=(0.32,0.32,0.32,0.08)",
            "data.augment.color_jitter_prob",
            1.0,
        ),
        ("--force-patch-dropout 0.5", "model.patch_dropout", 0.5),
        ("--torchcompile", "model.compile", True),
        ("--remote-sync s3://b/runs", "checkpoint.path", "s3://b/runs"),
        ("--delete-previous-checkpoint", "checkpoint.keep", 2),
        ("--report-to wandb --wandb-notes hi", "log.wandb", {"project": "open-clip", "notes": "hi"}),
        ("--imagenet-v2 /v2", "eval.zero_shot_sets.imagenetv2.folder", "/v2"),
    ],
)
def test_single_flags(flags, path, value):
    conversion = convert(shlex.split(f"python -m open_clip_train.main --train-data s3://b/d {flags}"))

    assert conversion.refused == []
    RunSpec.model_validate(conversion.spec)
    found = conversion.spec
    for name in path.split("."):
        found = found[name]
    assert found == value


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ("--train-data d --use-bn-sync", "--use-bn-sync"),
        ("--train-data d --use-bnb-linear SwitchBackLinearGlobal", "bitsandbytes"),
        ("--dataset-type synthetic", "--train-num-samples"),
        ("--train-data pairs.txt --dataset-type csv", "rename it"),
        ("--train-data a::b --dataset-resampled --train-data-upsampling-factors 1", "each of the 2 sources"),
        ("--train-data a::b --dataset-resampled --train-data-upsampling-factors 1::x", "each of the 2 sources"),
        ("--train-data a::b --dataset-resampled --train-data-upsampling-factors 1::0", "each of the 2 sources"),
        ("--train-data a::b --train-data-upsampling-factors 1::2", "with --dataset-resampled only"),
        ("--train-data d --lr-scheduler const-cooldown", "--epochs-cooldown"),
        ("--train-data d --lr-scheduler step", "--lr-scheduler"),
        ("--train-data d --aug-cfg blur=1", "--aug-cfg blur"),
    ],
)
def test_what_has_no_equivalent_is_said_and_never_dropped(flags, word):
    conversion = convert(shlex.split(f"python -m open_clip_train.main {flags}"))

    assert any(word in text for text in conversion.refused)
    assert f"# NOT CONVERTED: {conversion.refused[0]}" in to_yaml(conversion)


def test_gradients_that_differ_from_openclips_are_said():
    plain = convert(shlex.split("torchrun --nproc_per_node 4 -m open_clip_train.main --train-data d"))
    assert any("1/4" in note for note in plain.notes)
    wrong = convert(shlex.split("torchrun --nproc_per_node 4 -m open_clip_train.main --train-data d --local-loss"))
    assert any("--local-loss without" in note for note in wrong.notes)


@pytest.mark.parametrize(
    "command",
    ["python train.py", "", "python -m open_clip_train.main --no-such-flag 1", "python -m open_clip_train.main --lr x"],
)
def test_other_commands_are_refused(command):
    with pytest.raises(SpecError):
        convert([command])


def test_flags_after_a_separator_and_variables_before():
    command = read_command(shlex.split("A=1 B=2 torchrun --nproc-per-node=2 -m open_clip_train.main -- --logs /l"))

    assert command.given == {"logs": "/l"}
    assert command.world == 2


@pytest.mark.parametrize(
    ("text", "name"), [("ViT-B-32-Vanilla", "vit-b-32-vanilla"), ("10_unfrozen", "run-10-unfrozen"), ("--", "run")]
)
def test_run_names(text, name):
    assert run_name(text) == name


@pytest.mark.parametrize(
    ("samples", "batch", "workers", "accumulate", "steps"),
    [
        *[
            (1000, 100, 1, 1, 10),
            (1001, 100, 1, 1, 11),
            (1001, 100, 4, 1, 12),
            (1000, 100, 1, 3, 3),
            (10, 100, 0, 1, 1),
        ],
        # As OpenCLIP was seen to count.
        *[(96, 8, 2, 1, 12), (100, 8, 2, 1, 14), (100, 8, 4, 1, 16), (97, 8, 1, 1, 13), (10, 8, 4, 1, 4)],
    ],
)
def test_rounding_of_an_epoch(samples, batch, workers, accumulate, steps):
    command = read_command(
        shlex.split(
            f"python -m open_clip_train.main --train-data x.tar --train-num-samples {samples} --batch-size {batch} "
            f"--workers {workers} --accum-freq {accumulate}"
        )
    )
    assert steps_per_epoch(command) == steps


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("workers", [0, 1, 3, 4])
@pytest.mark.parametrize(("samples", "batch", "world"), [(1000, 100, 1), (1001, 100, 1), (10968539, 320, 4), (7, 8, 2)])
def test_an_epoch_has_as_many_batches_as_openclips_loader(workers, samples, batch, world):
    from open_clip_train.data import get_wds_dataset

    args = argparse.Namespace(
        train_data="/d/{000..099}.tar",
        train_num_samples=samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=batch,
        workers=workers,
        world_size=world,
    )
    theirs = get_wds_dataset(args, lambda image: image, is_train=True, tokenizer=lambda text: [text]).dataloader
    command = read_command(
        shlex.split(
            f"torchrun --nproc_per_node {world} -m open_clip_train.main --train-data /d/{{000..099}}.tar "
            f"--train-num-samples {samples} --batch-size {batch} --workers {workers}"
        )
    )
    assert steps_per_epoch(command) == theirs.num_batches


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")  # of open files
@pytest.mark.parametrize("urls", ["{p}/{{00..02}}.tar", "{p}/01.tar", "{p}/00.tar::{p}/02.tar", "{p}/{{00,02}}.tar"])
def test_sizes_are_read_as_openclip_reads_them(urls, tmp_path):
    from open_clip_train.data import get_dataset_size

    shards = urls.format(p=tmp_path)
    assert recorded_samples(shards) == get_dataset_size(shards)[0] is None
    (tmp_path / "__len__").write_text("77")
    assert recorded_samples(shards) == get_dataset_size(shards)[0] == 77
    (tmp_path / "sizes.json").write_text('{"00.tar": 10, "01.tar": 11, "02.tar": "12"}')
    assert recorded_samples(shards) == get_dataset_size(shards)[0]


@pytest.mark.parity
@pytest.mark.parametrize(("samples", "batch"), [(100, 8), (96, 8), (7, 8)])
def test_an_epoch_of_synthetic_samples_has_as_many_batches_as_openclips_loader(samples, batch):
    from open_clip_train.data import get_synthetic_dataset

    args = argparse.Namespace(train_num_samples=samples, batch_size=batch, workers=0, distributed=False)
    transform = argparse.Namespace(transforms=[argparse.Namespace(size=(4, 4))])
    theirs = get_synthetic_dataset(args, transform, is_train=True).dataloader
    flags = f"--dataset-type synthetic --train-num-samples {samples} --batch-size {batch}"
    command = read_command(shlex.split(f"python -m open_clip_train.main {flags}"))
    assert steps_per_epoch(command) == max(1, theirs.num_batches)


@pytest.mark.parity
def test_every_flag_of_openclip_is_known_with_its_default():
    from open_clip_train import params

    theirs = {}
    original = argparse.ArgumentParser.add_argument

    def record(parser, *names, **settings):
        if names[0] != "-h":
            theirs[names[0]] = settings.get("default")
        return original(parser, *names, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "add_argument", record)
        params.parse_args([])
    ours = {flag.name: flag.default for flag in FLAGS}
    assert theirs.keys() <= ours.keys()
    assert {name: ours[name] or None for name in theirs} == {name: default or None for name, default in theirs.items()}
    assert len(theirs) == 90


def test_the_fields_that_the_table_names_exist():
    known = set(field_paths())
    for flag in FLAGS:
        if flag.becomes.startswith("`") and not flag.becomes.startswith("`clipctl"):
            path = flag.becomes[1:].partition("`")[0].partition(":")[0].replace(".imagenetv2", "")
            assert any(name == path or name.startswith(path + ".") or path.startswith(name) for name in known), path


def test_options_are_only_those_given():
    assert parse_flags(["--lr", "1", "--siglip"]) == {"lr": 1.0, "siglip": True}
    assert option("--train-data") == "train_data"


class TestCommand:
    def test_prints_a_run_file_with_notes_on_top(self, capsys):
        assert main(["convert", "--", *shlex.split(OLD_SPELLING)]) == 0
        out = capsys.readouterr().out
        assert out.startswith("# --train-data: /d/{000..003}.tar is read directly")
        assert yaml.safe_load(out)["model"]["name"] == "ViT-B-32"

    def test_reads_a_script_and_writes_a_file_once(self, tmp_path, capsys):
        script, out = tmp_path / "train.sh", tmp_path / "run.yaml"
        script.write_text(SLURM)
        assert main(["convert", "-o", str(out), "--", str(script)]) == 0
        assert yaml.safe_load(out.read_text())["train"]["global_batch"] == 32768
        assert main(["convert", "-o", str(out), "--", str(script)]) == 73
        assert "exists already" in capsys.readouterr().err

    def test_json(self, capsys):
        assert main(["convert", "--json", "--", *shlex.split(OLD_SPELLING)]) == 0
        assert json.loads(capsys.readouterr().out)["spec"]["name"] == "openclip-vit-b-32"

    def test_an_incomplete_conversion_still_prints_and_fails(self, capsys):
        assert main(["convert", "--", *shlex.split(EVALUATE)]) == 64
        printed = capsys.readouterr()
        assert "NOT CONVERTED" in printed.out
        assert "not converted wholly" in printed.err
