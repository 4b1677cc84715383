"""Memory of batches: used again when nobody can see it any more, and never before."""

import gc
import threading

import pytest
import torch

from clip_trainer.data.loading.buffers import BatchBuffers

SIZE = (4, 5)


def buffers(keep=2, samples=3, **options):
    return BatchBuffers(samples, SIZE, keep=keep, **options)


def test_images_have_their_channels_last_in_memory():
    images = buffers().take(2)
    assert (images.shape, images.dtype) == ((2, 3, 4, 5), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images.permute(0, 2, 3, 1).is_contiguous()


def test_memory_nobody_looks_at_is_used_again():
    pool = buffers()
    images = pool.take(3)
    address = images.data_ptr()
    del images
    assert pool.take(3).data_ptr() == address


def test_smaller_batches_fit_too():
    pool = buffers()
    address = pool.take(3).data_ptr()
    assert pool.take(1).data_ptr() == address


@pytest.mark.parametrize(
    "look",
    [
        lambda images: images,
        lambda images: images[1:2],
        lambda images: images[0, 0],
        lambda images: images.permute(0, 2, 3, 1).numpy(),
        lambda images: images.permute(0, 2, 3, 1).numpy()[0],
        lambda images: images.untyped_storage(),
        lambda images: images.view(torch.int8).detach(),
        lambda images: images.split(1)[2],
    ],
)
def test_memory_in_use_is_not_handed_out_however_it_is_held(look):
    pool = buffers()
    images = pool.take(3)
    address = images.untyped_storage().data_ptr()
    held = look(images)
    del images
    gc.collect()
    others = [pool.take(3) for _ in range(4)]
    assert address not in {other.data_ptr() for other in others}
    del held
    gc.collect()
    assert pool.take(3).data_ptr() == address


def test_what_autograd_keeps_is_not_overwritten():
    pool = buffers()
    weight = torch.ones(1, requires_grad=True)
    images = pool.take(1)
    images.fill_(3)
    pixels = images[0].view(torch.int8).permute(1, 2, 0)
    product = (pixels.float() * weight).sum()
    del images, pixels
    for _ in range(3):
        pool.take(1).fill_(9)
    product.backward()
    assert weight.grad.item() == 3 * 3 * 4 * 5


def test_only_so_much_is_kept_and_all_is_accounted_for():
    bytes_held = []
    pool = buffers(keep=1, on_bytes=bytes_held.append)
    one = pool.batch_bytes
    assert one == 3 * 4 * 5 * 3
    batches = [pool.take(3) for _ in range(3)]
    assert bytes_held == [one] * 3
    del batches
    assert sum(bytes_held) == one, "one is kept, two went back"
    pool.take(2)
    assert sum(bytes_held) == one


def test_batches_may_outlive_their_pool():
    pool = buffers()
    images = pool.take(3)
    del pool
    images.fill_(7)
    assert int(images.sum()) == 7 * images.numel()


def test_more_samples_than_announced_are_a_bug():
    with pytest.raises(AssertionError):
        buffers(samples=3).take(4)


def test_threads_never_share_memory():
    pool = buffers(keep=3)
    wrong = []

    def work(number):
        for _ in range(200):
            images = pool.take(3)
            images.fill_(number)
            if not bool((images == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong


def test_page_locked_memory_comes_from_torchs_allocator_every_time(monkeypatch):
    empty, locked, bytes_held = torch.empty, [], []

    def page_locked(shape, *, dtype, pin_memory):
        assert pin_memory
        locked.append(shape)
        return empty(shape, dtype=dtype)  # there may be no GPU

    monkeypatch.setattr(torch, "empty", page_locked)
    pool = buffers(pinned=True, on_bytes=bytes_held.append)
    images = pool.take(2)
    assert images.is_contiguous(memory_format=torch.channels_last)
    part, size = images[:1], images.numel()
    del images
    assert bytes_held == [size]
    del part
    assert bytes_held == [size, -size]
    pool.take(3)
    assert locked == [(2, 4, 5, 3), (3, 4, 5, 3)]
