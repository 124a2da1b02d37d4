"""Labelled records from files: jsonl, json, csv, tsv, parquet, CoNLL, CoNLL-2012, GAP, SQuAD, plain lines."""

from tlx.data.readers.files import read_files
from tlx.data.readers.record import FORMATS, Record, RecordFiles, RecordsConfig, RecordSet, valid_text

__all__ = ["FORMATS", "Record", "RecordFiles", "RecordSet", "RecordsConfig", "read_files", "valid_text"]
