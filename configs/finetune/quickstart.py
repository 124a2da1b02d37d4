"""Which of eight modules of Python's standard library a line of code is from: labels on every machine.

    tlx train --config=configs/quickstart.py:mlm
    tlx finetune --config=configs/finetune/quickstart.py --from=runs/quickstart-mlm

--scratch takes only the base's architecture and tokenizer, which shows the gain of pretraining. The base may be
of any kind: quickstart's clm, span_corruption and plm as well, or a Hugging Face directory.
Hardware: any CPU; 500 seconds of processor time. Expected: accuracy .801 (.788 to .815) on the validation lines, from
quickstart-mlm with its 2,600 steps; with adapt.method=lora .530, and .587 at a learning rate of 1e-2.
":tiny" after the name is the same in seconds, to check that everything works.
"""

import pathlib
import sysconfig

from ml_collections import ConfigDict

from tlx.recipes import words_of
from tlx.run import finetune_config

MODULES = ("argparse", "ast", "difflib", "inspect", "statistics", "subprocess", "tarfile", "typing")


def get_config(arg: str = "") -> ConfigDict:
    """Return the config; `arg` is "" or "tiny"."""
    config = finetune_config("classification")
    config.objective.label = "file"
    folder = pathlib.Path(sysconfig.get_paths()["stdlib"])
    records = config.data.records
    records.train = tuple(str(folder / f"{name}.py") for name in MODULES)
    records.format = "lines"
    records.validation_fraction = 0.2
    records.epochs = 6.0
    config.data.sequence_length = 32
    config.optimizer.learning_rate = 1e-3  # the base is a hundredth of BERT
    config.eval.every = 200
    config.log.print_every = 100
    if words_of(arg, ("tiny",)):
        records.epochs = 1.0
        records.limit = 256
        config.train.batch_size = 16
        config.data.sequence_length = 16
        config.eval.every = 8
        config.log.print_every = 4
    return config
