"""The builder of datasets that are published as a zip archive of 64x64 mp4 files."""

import contextlib
import math
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile
import zlib

import numpy as np
import requests
import tensorflow_datasets as tfds
from tqdm import tqdm

from tools import UserError
from video_data import store, videos


class Mp4Archive(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """TFDS builder: `video` uint8 [T, 64, 64, CHANNELS], in the splits train and test.

    TFDS downloads the archive once, unless the user has put it into data_root. A file of it that does
    not decode is named, skipped and counted.
    """

    data_root = None  # None: the folder of the records.

    VERSION = tfds.core.Version("1.0.0")
    URL = CHANNELS = None
    EXPANSION = 0  # How many times the archive's size the records take; 0: unknown.
    FOLDERS = {"train": "train", "test": "test"}  # The folder in the archive that holds a split.

    def _features(self):
        shape = videos.Form(channels=self.CHANNELS).shape
        return {"video": tfds.features.Video(shape=(None, *shape))}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, description=type(self).__doc__, homepage=os.path.dirname(self.URL),
            features=tfds.features.FeaturesDict(self._features()))

    url_infos = None  # Nobody has published the archives' checksums.

    @property
    def _checksums_path(self):
        """Where TFDS records the size and the SHA-256 of what it downloads."""
        folder = pathlib.Path(self._data_dir_root, "downloads")
        folder.mkdir(exist_ok=True)
        return folder / f"{self.name}.checksums.tsv"

    def _split_generators(self, dl_manager):
        name = os.path.basename(self.URL)
        archive = os.path.join(self.data_root or self._data_dir_root, name)
        if not os.path.exists(archive):
            archive = os.path.join(self._data_dir_root, name)
        if not os.path.exists(archive):
            self._download(dl_manager, archive)
        print(f"Reading {archive}.", file=sys.stderr)
        with _readable(archive), zipfile.ZipFile(archive) as opened:
            members = {split: self._list_members(opened, split) for split in self.FOLDERS}
            frames = sum(len(names) * self._first_length(opened, names) for names in members.values())
        raw = frames * math.prod(videos.Form(channels=self.CHANNELS).shape)
        # The store holds them raw, and the records as PNGs, which are no larger.
        store.check_space(self._data_dir_root, 2 * raw, f"Preparing {self.name}")
        return {split: self._generate_examples(archive, names) for split, names in members.items()}

    def _download(self, dl_manager, archive):
        """Downloads the archive. Raises UserError where its host cannot be reached."""
        try:
            # TFDS would try for minutes, and does not tell the size of the file.
            answer = requests.head(self.URL, allow_redirects=True, timeout=60)
            size = int(answer.headers.get("content-length", 0))
            what = "Downloading and preparing" if self.EXPANSION else "Downloading"
            store.check_space(
                self._data_dir_root, size * (1 + self.EXPANSION), f"{what} {self.URL}")
            os.rename(dl_manager.download(self.URL), archive)
        except (requests.RequestException, tfds.download.DownloadError) as error:
            raise UserError(f"cannot download {self.URL} ({error}); try again, or put the file at "
                            f"{archive} by other means") from None

    def _list_members(self, archive, split):
        """Returns the names of a split's mp4 files, sorted. Raises UserError where there are none."""
        paths = [pathlib.PurePosixPath(name) for name in archive.namelist()]
        names = sorted(
            str(path) for path in paths
            if path.parent.name == self.FOLDERS[split] and path.suffix == ".mp4"
            and not path.name.startswith("."))
        if not names:
            raise UserError(f"{archive.filename} is not {self.name}: it has no folder "
                            f"{self.FOLDERS[split]} of mp4 files")
        return names

    def _first_length(self, archive, names):
        """The number of frames of the first video that decodes."""
        with videos.Readers() as readers:
            for name in names:
                with contextlib.suppress(videos.Broken):
                    return len(self._decode(readers, archive, name))
        raise UserError(f"none of the {len(names)} videos of {archive.filename} decodes")

    def _generate_examples(self, archive, names):
        skipped = 0
        with (_readable(archive), zipfile.ZipFile(archive) as opened,
              videos.Readers() as readers):
            def decode(name):
                try:
                    return self._decode(readers, opened, name)
                except videos.Broken as error:
                    return error

            for name, video in videos.in_parallel(decode, names):
                if isinstance(video, videos.Broken):
                    tqdm.write(f"Skipped {name}: {video}.", file=sys.stderr)
                    skipped += 1
                else:
                    yield name, {"video": video, **self._metadata(opened, name)}
        if skipped:
            print(f"{skipped} of {len(names)} videos of {self.name} do not decode and are left "
                  "out.", file=sys.stderr)

    def _metadata(self, archive, name):
        """The features of a video beside `video`, a dict."""
        return {}

    def _decode(self, readers, archive, name):
        """Decodes a file of the archive: uint8 [T, 64, 64, CHANNELS]. Raises videos.Broken."""
        form = videos.Form(channels=self.CHANNELS)
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            with archive.open(name) as member:  # zipfile checks the checksum.
                shutil.copyfileobj(member, file)
            file.flush()
            frames, _ = videos.read(file.name, form, readers=readers)
            return np.array(frames)


@contextlib.contextmanager
def _readable(path):
    """A context in which a damaged archive is a UserError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"the archive {path} is damaged ({error}); delete it and start again") from None
