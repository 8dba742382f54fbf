"""Files that are not UTF-8 text, recognized by their first bytes: read as lines, each would be one bad row."""

from megatron_srp.errors import InputError
from megatron_srp.remote.remote_file import InputFile

# First bytes of decompressed content; those of supported formats mean that the file was compressed twice.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\x00\x00": "lzma",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
    b"\xff\x06\x00\x00sNaPpY": "snappy",
    b"\x89LZO": "lzop",
    b"LZIP": "lzip",
    b"\x1f\x9d": "compress (.Z)",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
_TABLES = {b"PAR1": "Parquet", b"ARROW1": "Arrow", b"Obj\x01": "Avro", b"ORC": "ORC"}
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")
_TAR_AT = 257


def refuse_other_kinds(path: InputFile, head: bytes) -> None:
    """Raise InputError where content that begins with `head` is not UTF-8 text; the message says what it is."""
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(f"{path}: holds {name}; decompress it, or compress it once with gzip, zstd, bzip2 or xz")
    for magic, name in _TABLES.items():
        if head.startswith(magic):
            raise InputError(f"{path}: holds {name} data; pass JSON lines, or Parquet not compressed as a whole")
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        raise InputError(f"{path}: holds a tar archive; unpack it and pass its files")
    if head.startswith(_BYTE_ORDER_MARKS) or b"\0" in head[:4]:  # JSON begins with ASCII, two or four bytes each
        raise InputError(f"{path}: is UTF-16 or UTF-32, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 FILE")
