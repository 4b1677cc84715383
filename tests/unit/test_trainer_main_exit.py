"""Exit codes and messages of one trainer process: bad input is one paragraph, never a traceback."""

import os
import signal

import pytest
import torch

from clip_testkit.shards import write_dataset
from clip_testkit.training import write_config
from clip_trainer.config import load_config
from clip_trainer.main import main
from clip_trainer.train import generations
from clip_trainer.train.peer_loss import is_peer_loss, words
from clipctl.contract import commits, layout
from clipctl.contract.errors import UnavailableError
from clipctl.contract.store import open_store


@pytest.fixture(autouse=True)
def _process(monkeypatch):
    """`main` owns its process: give back what it takes, and be a single rank."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def config(tmp_path):
    write_dataset(tmp_path / "data", [20, 10])
    return lambda **changes: str(
        write_config(
            tmp_path,
            "demo",
            str(tmp_path / "data"),
            **{"train": {"steps": 2}, "scale": {"nodes": {"max": 1}}, **changes},
        )
    )


@pytest.fixture
def error(capsys):
    """Run `main`; returns the code and the one line it printed about the error."""

    def run(path):
        code = main([path])
        output = capsys.readouterr().err
        assert "Traceback" not in output
        (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
        return code, line

    return run


@pytest.mark.parametrize("arguments", [[], ["a", "b"]])
def test_usage(arguments, capsys):
    assert main(arguments) == 64
    assert capsys.readouterr().err == "usage: python -m clip_trainer.main CONFIG.json\n"


def test_success(config, tmp_path):
    assert main([config()]) == 0
    assert (tmp_path / "runs" / "demo" / "results.json").exists()


class TestBadInput:
    def test_no_configuration(self, error):
        code, line = error("/nowhere/run.json")
        assert code == 66
        assert "/nowhere/run.json does not exist" in line

    def test_a_configuration_that_is_none(self, error, tmp_path):
        (tmp_path / "run.json").write_text("{}")
        assert error(str(tmp_path / "run.json"))[0] == 64

    def test_an_unknown_model(self, error, config):
        code, line = error(config(model={"name": "ViT-tiny-8-33", "config": None}))
        assert code == 64
        assert "Did you mean ViT-tiny-8-32?" in line

    def test_no_data(self, error, config):
        code, line = error(config(data={"train": "/nowhere/data"}))
        assert code == 66
        assert "/nowhere/data" in line

    def test_an_empty_data_set(self, error, config, tmp_path):
        (tmp_path / "empty").mkdir()
        code, line = error(config(data={"train": str(tmp_path / "empty")}))
        assert code == 66
        assert "clipctl data pack" in line

    def test_a_missing_shard(self, error, config, tmp_path):
        assert main([config()]) == 0
        (tmp_path / "data" / "shard-000001.tar").unlink()
        code, line = error(config())
        assert code == 66
        assert "shard-000001.tar" in line

    def test_a_shard_that_changed(self, error, config, tmp_path):
        assert main([config()]) == 0
        with (tmp_path / "data" / "shard-000001.tar").open("ab") as file:
            file.write(bytes(512))
        code, line = error(config())
        assert code == 65
        assert "shard-000001.tar" in line

    def test_shards_without_images(self, error, config, tmp_path):
        from clip_testkit.shards import tar_bytes

        (tmp_path / "texts").mkdir()
        (tmp_path / "texts" / "shard-000000.tar").write_bytes(tar_bytes([("a.txt", b"a"), ("b.txt", b"b")]))
        code, line = error(config(data={"train": str(tmp_path / "texts")}))
        assert code == 65
        assert "image" in line

    def test_a_data_set_of_nothing_but_broken_images(self, error, config, tmp_path):
        from clip_testkit.shards import tar_bytes

        (tmp_path / "broken").mkdir()
        members = [m for i in range(30) for m in ((f"{i:03d}.png", b"no image"), (f"{i:03d}.txt", b"text"))]
        (tmp_path / "broken" / "shard-000000.tar").write_bytes(tar_bytes(members))
        assert error(config(data={"train": str(tmp_path / "broken")}))[0] == 65

    def test_a_run_that_belongs_to_another_batch_size(self, error, config):
        assert main([config()]) == 0
        code, line = error(config(train={"steps": 2, "global_batch": 24}))
        assert code == 64
        assert "another model, data, global batch or seed" in line

    def test_corrupt_checkpoints(self, error, config):
        path = config(checkpoint={"every_steps": 1})
        assert main([path]) == 0
        store = open_store(load_config(path).spec.root)
        checkpoints = commits.list_checkpoints(store)
        assert len(checkpoints) == 2
        for checkpoint in checkpoints:
            store.write(layout.commit_key(checkpoint), b"{}")
        code, line = error(path)
        assert code == 65
        assert "all 2 committed checkpoints" in line

    def test_a_place_for_checkpoints_that_is_a_file(self, error, config, tmp_path):
        (tmp_path / "file").write_text("")
        assert error(config(checkpoint={"path": str(tmp_path / "file")}))[0] == 73


class TestStorage:
    @pytest.fixture
    def s3(self, monkeypatch):
        import s3fs

        from clipctl.contract import store_s3
        from clipctl.contract.retrying import Retrying

        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # The server answers, or refuses, at once, as soon as the machine has time for it.
        options = {"connect_timeout": 120, "read_timeout": 120, "retries": {"total_max_attempts": 1}}
        monkeypatch.setattr(store_s3, "_TIMEOUTS", options)
        monkeypatch.setattr(store_s3, "_RETRYING", Retrying(attempts=1))
        s3fs.S3FileSystem.clear_instance_cache()
        yield monkeypatch
        s3fs.S3FileSystem.clear_instance_cache()

    def test_unreachable(self, error, config, s3):
        import socket

        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
            code, line = error(config(checkpoint={"path": "s3://bucket/runs"}))
        assert code == 69
        assert "AWS_ENDPOINT_URL" in line

    def test_wrong_credentials(self, error, config, s3):
        import http.server
        import threading

        body = b"<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>"

        class Refuse(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.send_response(403)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_GET

            def log_message(self, *arguments):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        s3.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        try:
            code, line = error(config(checkpoint={"path": "s3://bucket/runs"}))
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
        assert code == 77
        assert "wrong-secret" not in line

    def test_an_outage_while_saving_is_survived_if_it_ends(self, config, monkeypatch, capsys):
        """One checkpoint fails; the run goes on and the next one is stored."""
        path = config(train={"steps": 4}, checkpoint={"every_steps": 1})
        self.break_saves(monkeypatch, {2})
        assert main([path]) == 0
        assert "was not stored" in capsys.readouterr().err
        store = open_store(load_config(path).spec.root)
        assert [c.step for c in commits.list_checkpoints(store)] == [3, 4]

    def test_three_failed_checkpoints_in_a_row_stop_the_run(self, error, config, monkeypatch):
        path = config(train={"steps": 9}, checkpoint={"every_steps": 1})
        self.break_saves(monkeypatch, {3, 4, 5})
        code, line = error(path)
        assert code == 73
        assert "the last 3 checkpoints could not be stored" in line
        store = open_store(load_config(path).spec.root)
        assert [c.step for c in commits.list_checkpoints(store)] == [1, 2]

    def break_saves(self, monkeypatch, steps):
        from clipctl.contract.store_local import LocalStore

        write = LocalStore.write

        def failing(self, key, data):
            if any(key.startswith(f"checkpoints/step-{step:08d}") for step in steps):
                raise UnavailableError("down.")
            write(self, key, data)

        monkeypatch.setattr(LocalStore, "write", failing)


class TestStopping:
    def stop_after(self, monkeypatch, step):
        from clip_trainer.train import loop

        record = loop.record

        def record_and_stop(run, *arguments):
            record(run, *arguments)
            if run.state.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(loop, "record", record_and_stop)

    def test_a_stop_whose_checkpoint_cannot_be_stored_does_not_claim_otherwise(self, config, monkeypatch, error):
        path = config(train={"steps": 50}, checkpoint={"every_steps": 2})
        TestStorage().break_saves(monkeypatch, {3})
        self.stop_after(monkeypatch, 2)
        code, line = error(path)
        assert code == 75
        assert "its checkpoint could not be stored" in line
        store = open_store(load_config(path).spec.root)
        assert [c.step for c in commits.list_checkpoints(store)] == [2]

    def test_sigterm_saves_and_says_try_again(self, config, monkeypatch, error):
        path = config(train={"steps": 50}, checkpoint={"every_steps": 50})
        self.stop_after(monkeypatch, 2)
        code, line = error(path)
        assert code == 75
        assert "stopped at step 3 on request; the state is saved" in line
        newest = commits.newest_verified(open_store(load_config(path).spec.root), lambda r: pytest.fail(str(r)))
        assert newest.step == 3

    def test_a_diverging_run_stops_with_its_last_good_checkpoint(self, config, error, monkeypatch):
        from clip_trainer.train import loop

        record = loop.record

        def record_and_poison(run, *arguments):
            record(run, *arguments)
            if run.state.step == 2:
                with torch.no_grad():
                    run.model.logit_scale.fill_(float("nan"))

        monkeypatch.setattr(loop, "record", record_and_poison)
        guard = {"max_skipped": 1, "max_rollbacks": 0}
        code, line = error(config(train={"steps": 5, "guard": guard}, checkpoint={"every_steps": 1}))
        assert code == 64
        assert "could not be used" in line
        assert "Lower train.learning_rate" in line


class TestUnexpected:
    def test_a_bug_shows_its_traceback_and_asks_for_a_report(self, config, monkeypatch, capsys):
        monkeypatch.setattr(generations, "prepare", lambda *a: 1 / 0)
        assert main([config()]) == 70
        output = capsys.readouterr().err
        assert "ZeroDivisionError" in output
        assert "please report it" in output

    def test_out_of_memory_names_the_remedy(self, config, monkeypatch, capsys):
        def exhaust(*arguments):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(generations, "prepare", exhaust)
        assert main([config()]) == 70
        assert "Lower train.micro_batch" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "text",
        [
            "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234",
            "Connection reset by peer",
            "Gloo connectFullMesh failed with timeout",
            "Timed out waiting 30000ms for recv operation to complete",
            "writev [::1]:2: Broken pipe",
            "NCCL communicator was aborted on rank 0",
        ],
    )
    def test_a_lost_peer_is_worth_another_try(self, config, monkeypatch, capsys, text):
        def lose(*arguments):
            raise RuntimeError(f"{text}\nmore lines")

        monkeypatch.setattr(generations, "prepare", lose)
        assert main([config()]) == 75
        output = capsys.readouterr().err
        assert "lost a peer: " in output
        assert "more lines" not in output

    @pytest.mark.parametrize("error", [ValueError("connection reset by peer"), RuntimeError("shape mismatch")])
    def test_other_failures_are_not_called_a_lost_peer(self, error):
        assert not is_peer_loss(error)

    def test_distributed_errors_are_known_by_their_class(self):
        assert is_peer_loss(torch.distributed.DistNetworkError("whatever"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "[/a/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:2: Connection reset by peer. This is typically "
            "caused by a remote worker hanging. Check the logs.",
            "Read error [127.0.0.1]:2: Connection reset by peer",
        ),
        ("NCCL communicator was aborted on rank 0.\nmore", "NCCL communicator was aborted on rank 0"),
        ("", "RuntimeError"),
    ],
)
def test_a_lost_peer_is_told_in_few_words(text, line):
    assert words(RuntimeError(text)) == line
