"""A tiny data set made with TensorFlow Datasets' own builder API: `python toy_text.py FOLDER FORMAT`."""

import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds


class ToyText(tfds.core.GeneratorBasedBuilder):
    """Thirty documents to train on, five held out."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="plain")]
    pkg_dir_path = pathlib.Path(__file__).parent  # where TFDS looks for citations and tags

    def _info(self):
        turns = tfds.features.Sequence(tfds.features.Text())
        label = tfds.features.ClassLabel(names=["even", "odd"])
        features = tfds.features.FeaturesDict(
            {"text": tfds.features.Text(), "id": np.int64, "turns": turns, "label": label}
        )
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, download_manager):
        return {"train": self._generate_examples(30), "validation": self._generate_examples(5)}

    def _generate_examples(self, count):
        for i in range(count):
            yield (
                i,
                {"text": f"문서 {i} of {count}", "id": i, "turns": [f"안녕 {i}", "hi", "👋"], "label": i % 2},
            )


if __name__ == "__main__":
    folder, file_format = sys.argv[1:]
    ToyText(config="plain", data_dir=folder, file_format=file_format).download_and_prepare()
    assert "tensorflow" not in sys.modules
