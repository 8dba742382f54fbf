"""The texts that a part of a store was made for, read from the input again."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from megatron_srp.annotation.corpus_job.chunks import read_pieces
from megatron_srp.annotation.store.store import Part, PartSummary, Span, read_part
from megatron_srp.corpus.batch import text_hashes
from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

_MOST_DOCUMENTS = 20_000  # in a batch


class Document(NamedTuple):
    """Index of a document in its part, index of its first segment there, and the texts of its segments."""

    number: int
    first: int
    segments: list[str]


def read_documents(file: InputFile, key: str, summary: PartSummary, part: Part | None = None) -> Iterator[Document]:
    """The documents of a part, in order.

    Raises:
        InputError: when the file's texts are not those that the part was made for.
    """
    part = part or read_part(summary.path)
    number = 0
    for piece in read_pieces(file, 0, key, Span(summary.first, summary.end), _MOST_DOCUMENTS, skip_errors=True):
        batch = piece.batch.texts[key]
        for i, (row, text_hash) in enumerate(zip(piece.batch.rows.tolist(), text_hashes(batch).tolist(), strict=True)):
            if number == len(part.rows) or part.rows[number] != row or part.hashes[number] != text_hash:
                raise _other_text(file, row, summary)
            first, stop = int(part.offsets[number]), int(part.offsets[number + 1])
            text, edges = batch[i], [0, *part.ends[first:stop].tolist()]
            yield Document(number, first, [text[a:b] for a, b in pairwise(edges)])
            number += 1
    if number < len(part.rows):
        raise _other_text(file, int(part.rows[number]), summary)


def _other_text(file: InputFile, row: int, summary: PartSummary) -> InputError:
    return InputError(
        f"{file}, row {row + 1}: its text is not the one that {summary.path} was made for; delete that part and "
        "annotate again"
    )
