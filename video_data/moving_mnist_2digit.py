"""Moving MNIST (Srivastava et al. 2015): two handwritten digits that bounce off the borders."""

from video_data.mp4_archive import Mp4Archive


class MovingMnist2digit(Mp4Archive):
    """Videos of 100 frames to train on and of 1,000 to test on, in grey."""

    name = "moving_mnist_2digit"  # TFDS would leave out the second underscore.
    URL = "https://archive.org/download/moving_mnist/moving_mnist_2digit.zip"
    CHANNELS = 1
    FOLDERS = {"train": "train-seq100", "test": "test-seq1000"}
