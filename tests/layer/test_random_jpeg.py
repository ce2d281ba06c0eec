"""``RandomJpeg`` in other people's pipelines: torchvision's videos, kornia, Albumentations, compilers."""

import copy

import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from jpegdl import RandomJpeg, jpeg
from jpegdl.errors import UsageError


def drawn(*shape):
    return torch.randint(256, shape, dtype=torch.uint8)


def test_the_frames_of_a_video_share_a_draw_as_torchvision_has_it():
    video = tv_tensors.Video(drawn(1, 3, 16, 24).expand(6, -1, -1, -1))
    output = RandomJpeg((1, 100))(video)
    assert type(output) is tv_tensors.Video
    assert all(torch.equal(frame, output[0]) for frame in output)
    assert all(torch.equal(frame, theirs[0]) for theirs in [v2.JPEG((1, 100))(video)] for frame in theirs)


def test_each_video_of_a_batch_has_a_draw_of_its_own():
    videos, transform = drawn(5, 1, 3, 16, 24).expand(-1, 4, -1, -1, -1), RandomJpeg((1, 100), p=0.6)
    torch.manual_seed(4)
    output = transform(tv_tensors.Video(videos))
    torch.manual_seed(4)
    draws = transform.draw(5)
    assert 0 < draws.applied.sum() < 5
    for i, (video, given) in enumerate(zip(output, videos, strict=True)):
        expected = given
        if draws.applied[i]:
            expected = jpeg(given, int(draws.quality[i]), subsampling=transform.subsampling[int(draws.sampling[i])])
        assert torch.equal(video, expected)


def test_any_number_of_leading_dimensions_and_none_of_images():
    images, transform = drawn(2, 3, 3, 9, 11), RandomJpeg((1, 100))
    torch.manual_seed(0)
    output = transform(images)
    torch.manual_seed(0)
    assert torch.equal(output, transform(images.flatten(0, 1)).view(2, 3, 3, 9, 11))
    for empty in (images[:0], tv_tensors.Video(images[0, :0])):
        assert transform(empty).shape == empty.shape


def test_samples_as_albumentations_makes_them():
    """Plain tensors in a dict, in the order in which they were given."""
    sample = {"mask": drawn(1, 16, 24), "image": drawn(3, 16, 24), "label": 3}
    done = RandomJpeg(50, "4:2:0")(sample)
    assert list(done) == ["mask", "image", "label"]
    assert torch.equal(done["image"], jpeg(sample["image"], 50))
    assert done["mask"] is sample["mask"]
    marked = {"image": sample["image"], "other": tv_tensors.Image(sample["image"])}  # where some are marked, those count
    assert RandomJpeg(50)(marked)["image"] is sample["image"]


def test_albumentations_own():
    albumentations = pytest.importorskip("albumentations")
    from albumentations.pytorch import ToTensorV2

    pixels = drawn(40, 40, 3).numpy()
    sample = albumentations.Compose([albumentations.CenterCrop(32, 32), ToTensorV2()])(image=pixels, mask=pixels[..., 0])
    done = RandomJpeg(50, "4:2:0")(sample)
    assert torch.equal(done["image"], jpeg(torch.from_numpy(pixels[4:36, 4:36]).permute(2, 0, 1), 50))
    assert torch.equal(done["mask"], sample["mask"])


@pytest.mark.filterwarnings("ignore")
def test_kornias_containers():
    augmentation = pytest.importorskip("kornia.augmentation")
    images, masks = torch.rand(3, 3, 32, 32), torch.rand(3, 1, 32, 32)
    flip = augmentation.RandomHorizontalFlip(p=1.0)
    done, turned = augmentation.AugmentationSequential(flip, RandomJpeg(50, "4:2:0"), data_keys=["input", "mask"])(
        images, masks
    )
    assert torch.equal(done, jpeg(images.flip(-1), 50))
    assert torch.equal(turned, masks.flip(-1))
    assert torch.equal(augmentation.ImageSequential(flip, RandomJpeg(50, "4:2:0"))(images), done)


def test_compiled_it_draws_and_computes_the_same():
    transform, images = RandomJpeg((1, 100), p=0.7), torch.rand(4, 3, 16, 24, requires_grad=True)
    compiled = torch.compile(transform, backend="eager")
    torch.manual_seed(1)
    output = compiled(images)
    torch.manual_seed(1)
    expected = transform(images)
    assert torch.equal(output, expected)
    gradients = (torch.autograd.grad(y.square().sum(), images)[0] for y in (output, expected))
    torch.testing.assert_close(*gradients)


def test_a_copy_draws_what_the_original_draws():
    own = RandomJpeg((1, 100), generator=torch.Generator().manual_seed(3))
    images = drawn(4, 3, 8, 8)
    again = copy.deepcopy(own)
    assert torch.equal(own(images), again(images))


def test_images_beside_one_another_have_the_same_draws():
    frames = drawn(4, 3, 16, 16)
    image, video = RandomJpeg((1, 100))(tv_tensors.Image(frames), tv_tensors.Video(frames))
    assert image.shape == video.shape == frames.shape
    with pytest.raises(UsageError, match=r"\(2, 2, 8, 8\)"):
        RandomJpeg()(drawn(2, 2, 8, 8))
