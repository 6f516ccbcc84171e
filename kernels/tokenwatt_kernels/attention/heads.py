"""Head dimensions as the tensor cores take them: powers of two, at most two of them for a key, one for a value."""

from __future__ import annotations

MIN_PART = 16  # tl.dot's smallest side
MIN_FLOAT8_PART = 32  # the same along the sum, for 8-bit operands


def is_power_of_two(number: int) -> bool:
    """Whether `number` is 1, 2, 4, 8, ..."""
    return number > 0 and number & (number - 1) == 0


def next_power_of_two(number: int) -> int:
    """The smallest power of two that is at least `number` >= 1."""
    return 1 << (number - 1).bit_length()


def key_parts(head_dim: int) -> tuple[int, int]:
    """A key's dimensions as a main part and a tail, both powers of two; the tail is 0 where none is needed.

    >>> key_parts(128), key_parts(96), key_parts(192), key_parts(576)
    ((128, 0), (64, 32), (128, 64), (512, 64))
    """
    if is_power_of_two(head_dim):
        return head_dim, 0
    main = 1 << (head_dim.bit_length() - 1)
    return main, head_dim - main


def is_key_dim(head_dim: int, min_part: int = MIN_PART) -> bool:
    """Whether the kernels can hold keys of this width: one or two powers of two, each at least min_part."""
    main, tail = key_parts(head_dim) if head_dim > 0 else (0, 0)
    return main >= min_part and (tail == 0 or (tail >= min_part and is_power_of_two(tail)))


def value_block(value_dim: int) -> int:
    """Columns of the answer's tile: value_dim padded to a power of two, which costs tensor-core time but no bytes."""
    return max(MIN_PART, next_power_of_two(value_dim))


def row_block(rows: int, most: int) -> int:
    """Rows of a query tile that holds `rows` rows, or part of them: a power of two from 16 to `most`."""
    return min(max(MIN_PART, next_power_of_two(rows)), most)
