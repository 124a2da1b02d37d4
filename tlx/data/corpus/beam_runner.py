"""Runs the tasks of a corpus by Apache Beam: on this machine, on Dataflow, Flink or Spark, as its own flags say."""

import importlib.util
from collections.abc import Callable, Sequence

from tlx.base.errors import ConfigError, DataError


class BeamRunner:
    """A Beam pipeline for each stage. Its workers need tlx, the files of the sources and the place of the corpus."""

    def __init__(self, flags: Sequence[str]):
        """Take the flags of Beam's pipeline options. Raises ConfigError where Beam is not installed."""
        if importlib.util.find_spec("apache_beam") is None:
            raise ConfigError("--runner=beam needs the extra 'beam': pip install 'tlx-lm[beam]'")
        self._flags = list(flags)

    def run(self, function: Callable[[int], None], numbers: Sequence[int], title: str) -> None:
        """Return when the function was called with each number.

        Args:
            function: Picklable.
            numbers: Its arguments.
            title: What is done, the name of the step.

        Raises:
            DataError: The pipeline failed.
        """
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions

        try:
            with apache_beam.Pipeline(options=PipelineOptions(self._flags)) as pipeline:
                # Without the shuffle, numbers would stay fused into one bundle on one worker.
                tasks = pipeline | "numbers" >> apache_beam.Create(list(numbers)) | apache_beam.Reshuffle()
                _ = tasks | title >> apache_beam.Map(function)
        except Exception as error:  # runners raise classes of their own
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise DataError(
                f"the Beam pipeline failed: {lines[-1].strip()}; the same command again goes on with what is not done"
            ) from error
