"""Rows of Parquet files, where a few bytes may stand for any number of equal values: counted before they are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.data.file_limits import BY_LINES, CELLS, WHOLE, require_table
from finetune.errors import DataError
from finetune.memory_limit import limited_memory

if TYPE_CHECKING:
    from pyarrow import Array, RecordBatch
    from pyarrow.parquet import ParquetFile

ROWS = 256
"""Rows that are decompressed before their size is looked at."""

MEMORY = 4 * WHOLE
"""Bytes that so many rows may take while they are decompressed: pages lie about their size."""


def read_parquet(path: Path, name: str) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a file, each with its place. Raises DataError where it is damaged, or stands for more than a machine
    can hold."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        values = list(_rows(ParquetFile(path), name))
    except MemoryError:
        raise DataError(f"{name}: asks for more than {MEMORY:,} bytes to be decompressed", BY_LINES) from None
    except (ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{name}: not a readable Parquet file ({reason})", "write or fetch the file again") from None
    return [(f"row {row}", without_nulls(value)) for row, value in enumerate(values, start=1)]


def _rows(file: ParquetFile, name: str) -> Iterator[dict[str, Any]]:
    """Rows as long as they stay within bounds; what the file says of its size need not be so."""
    columns, rows, values, size = len(file.schema.names), 0, 0, 0
    require_table(name, file.metadata.num_rows, columns)
    batches = file.iter_batches(ROWS)
    while (batch := _next(batches)) is not None:
        rows += len(batch)
        require_table(name, rows, columns)
        for column in batch.columns:
            held = _held(column, name)
            values, size = values + held[0], size + held[1]
        if values > CELLS:
            raise DataError(f"{name}: more than {CELLS:,} values, those in lists counted", BY_LINES)
        if size > WHOLE:
            raise DataError(f"{name}: more than {WHOLE:,} bytes once decompressed", BY_LINES)
        yield from batch.to_pylist()


def _next(batches: Iterator[RecordBatch]) -> RecordBatch | None:
    with limited_memory(MEMORY):
        return next(batches, None)


def _held(array: Array, name: str) -> tuple[int, int]:
    """Values in an array and their bytes as they will be in rows: entries of a dictionary as often as they are named,
    lists with all that is in them. Raises DataError for types whose values cannot be counted."""
    from pyarrow import types

    kind = array.type
    if types.is_dictionary(kind) and (_is_plain(kind.value_type) or _is_text(kind.value_type)):
        return len(array), _named_bytes(array)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind) or types.is_map(kind):
        parts = [array.flatten()]
    elif types.is_struct(kind):
        parts = [array.field(index) for index in range(kind.num_fields)]
    elif _is_plain(kind) or _is_text(kind):
        return len(array), array.nbytes
    else:
        raise DataError(f"{name}: a column holds {str(kind)[:100]}", "write it as text, numbers, lists or structs")
    held = [_held(part, name) for part in parts]
    return len(array) + sum(count for count, _ in held), sum(size for _, size in held)


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    return types.is_primitive(kind) or types.is_null(kind) or types.is_decimal(kind)


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return any(
        matches(kind)
        for matches in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary,
                        types.is_fixed_size_binary, types.is_string_view, types.is_binary_view)
    )  # fmt: skip


def _named_bytes(array: Array) -> int:
    """Bytes of a dictionary's entries, each as often as it is named."""
    from pyarrow import compute

    if _is_plain(array.dictionary.type):
        return 8 * len(array)
    return compute.sum(compute.take(compute.binary_length(array.dictionary), array.indices)).as_py() or 0


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """The row without null fields below its columns: Arrow gives every struct all fields that any struct has."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return {column: clean(value) for column, value in row.items()}
