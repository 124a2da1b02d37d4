"""Copy of a step from one run in a bucket to another."""

from tlx.base import place as places
from tlx.base.errors import CheckpointError
from tlx.base.place import BucketPath
from tlx.checkpoint import bucket_steps
from tlx.checkpoint import manifest as manifests
from tlx.checkpoint.step_files import COMMIT


def copy_step(step_folder: BucketPath, checkpoints: BucketPath) -> None:
    """Copy a complete step, which is complete there too, or unfinished for `clean`, whenever it is killed.

    The objects pass through this machine, one after the other.

    Args:
        step_folder: The step.
        checkpoints: Folder of steps of the other run.

    Raises:
        CheckpointError: An object of the step is not what its manifest says.
    """
    manifest = manifests.read(step_folder)
    manifests.verify(step_folder, manifest, "hash")
    target = checkpoints / step_folder.name
    bucket_steps.make_free(checkpoints, manifest.step)
    bucket_steps.mark_unfinished(checkpoints, manifest.step)
    # COMMIT after the data and the manifest after COMMIT, as a save writes them.
    for name in sorted(manifest.files, key=lambda name: name == COMMIT):
        places.write(target / name, (step_folder / name).read_bytes())
    # A copy has generations of its own.
    copied = manifests.own_files(target, 0, 1, ())
    sizes = {name: stated["size"] for name, stated in copied.items()}
    if sizes != {name: stated["size"] for name, stated in manifest.files.items()}:
        raise CheckpointError(f"the copy of {step_folder} at {target} has other objects than it")
    manifests.seal(target, manifest._replace(files=copied))
    bucket_steps.mark_finished(checkpoints, manifest.step)
